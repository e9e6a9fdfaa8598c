//! Kernels that are wrong on purpose: how the tests see that the checks can fail.

use crate::kernel::{Dims, Io, Kernel, Real, Step, Twin};
use crate::ops::ALL;
use crate::plan::Plan;

/// Makes the twin of every dispatch of `kernel` wrong, and returns how many there are.
///
/// Only the twin changes: a plan for the subject of a comparison is left as it is, and the sabotaged
/// one goes to the reference.
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
        variants: right.variants,
    }));
    let dispatches = plan.dispatches.iter_mut().filter(|dispatch| dispatch.kernel.name == kernel);
    dispatches.map(|dispatch| dispatch.kernel = wrong).count()
}

/// Does what the twin of kernel `I` of [`ALL`] does, and then spoils its first output.
fn spoiled<const I: usize, F: Real>(dims: &Dims, step: &Step, mut io: Io<'_, F>) {
    let right = Io {
        inputs: io.inputs.clone(),
        outputs: io.outputs.iter_mut().map(|out| &mut **out).collect(),
        words: io.words.clone(),
        words_out: io.words_out.iter_mut().map(|out| &mut **out).collect(),
    };
    F::twin(&ALL[I].twin)(dims, step, right);
    match io.outputs.first_mut() {
        Some(out) => out.iter_mut().for_each(|x| *x = *x * F::of(1.25) + F::of(0.25)),
        None => io.words_out.iter_mut().take(1).for_each(|out| out[0] ^= 1),
    }
}

/// The spoiled twins of these indices.
macro_rules! spoiled {
    ($($index:literal)*) => {
        [$(Twin { f32: spoiled::<$index, f32>, f64: spoiled::<$index, f64> }),*]
    };
}

/// A spoiled twin for every kernel; its length is checked against [`ALL`]'s by the compiler.
const SPOILED: [Twin; ALL.len()] = spoiled!(
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41
);
