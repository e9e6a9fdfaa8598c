//! Kernels that are wrong on purpose, to test that the checks can fail.

use crate::kernel::{Dims, Io, Kernel, Real, Run, Step, Twin};
use crate::ops::{self, ALL};
use crate::plan::Plan;

/// Makes the twin of every dispatch of `kernel` wrong, and returns the number of such dispatches.
///
/// Only the twin changes: in a comparison the subject's plan stays as it is, and the reference gets the sabotaged one.
pub fn sabotage(plan: &mut Plan, kernel: &str) -> usize {
    let Some(index) = ALL.iter().position(|known| known.name == kernel) else {
        return 0;
    };
    let right = ALL[index];
    let wrong: &'static Kernel = Box::leak(Box::new(Kernel {
        name: right.name,
        args: right.args,
        twin: SPOILED[index],
        cpu: right.cpu,
        flops: right.flops,
        tolerance: right.tolerance,
        variants: right.variants,
    }));
    let dispatches = plan.dispatches.iter_mut().filter(|dispatch| dispatch.kernel.name == kernel);
    dispatches.map(|dispatch| dispatch.kernel = wrong).count()
}

/// Runs a twin, and then spoils its first output.
fn spoil<F: Real>(twin: Run<F>, dims: &Dims, step: &Step, mut io: Io<'_, F>) {
    let right = Io {
        inputs: io.inputs.clone(),
        outputs: io.outputs.iter_mut().map(|out| &mut **out).collect(),
        stored: io.stored,
        words: io.words.clone(),
        words_out: io.words_out.iter_mut().map(|out| &mut **out).collect(),
    };
    twin(dims, step, right);
    match io.outputs.first_mut() {
        Some(out) => out.iter_mut().for_each(|x| *x = *x * F::of(1.25) + F::of(0.25)),
        None => io.words_out.iter_mut().take(1).for_each(|out| out[0] ^= 1),
    }
}

macro_rules! spoiled {
    ($($op:ident :: $kernel:ident)*) => {
        &[$(Twin {
            f32: |dims, step, io| spoil(ops::$op::$kernel.twin.f32, dims, step, io),
            f64: |dims, step, io| spoil(ops::$op::$kernel.twin.f64, dims, step, io),
        }),*]
    };
}

/// A spoiled twin for each kernel of [`ALL`], in its order.
const SPOILED: &[Twin] = ops::every_kernel!(spoiled);
