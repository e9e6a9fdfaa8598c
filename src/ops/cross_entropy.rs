//! Cross-entropy of logits against targets.
//!
//! ```text
//! row_loss = log Σ_v exp(logits[v]) - logits[target], 0 where the target is IGNORE
//! loss = loss_scale · Σ_rows row_loss
//! dlogits[v] = loss_scale · S · (exp(logits[v]) / Σ exp(logits) - [v = target]), 0 where ignored
//! ```
//!
//! S is the loss scale, by which [`crate::ops::global_norm`] divides the gradients again; the loss does not include it.
//! The gradient overwrites the logits, which are not needed again. Rows of logits are LD apart
//! ([`crate::ops::head::row_stride`]); the padding of the logits is not read, and the padding of the gradients is 0.
//!
//! A target is below V, or [`IGNORE`]. Any other value is an error of the caller ([`crate::engine::Engine`] checks its
//! inputs): on a CPU it panics; on a GPU its row counts as ignored, and no shader reads beyond the row because of it.

use rayon::prelude::*;

use crate::kernel::state;
use crate::kernel::{
    Dims, FLOATS, Format, Io, Kernel, Needs, Real, Step, accumulate, adds, changes, grid, reads,
    reads_u32, twin, writes,
};
use crate::math::simd::{self, vector_fn};
use crate::ops::variants::portable;

/// The target of a row without one: PyTorch's -100.
pub const IGNORE: u32 = u32::MAX;

/// Counts the targets that are not [`IGNORE`].
pub fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|target| **target != IGNORE).count()
}

/// Whether every row begins at a multiple of four elements.
fn padded(d: &Dims, _: &[Format]) -> bool {
    d.LD.is_multiple_of(4)
}

/// Whether one subgroup per row is enough: for wider rows, there are too few rows to hide the time that each takes.
fn narrow(d: &Dims, formats: &[Format]) -> bool {
    padded(d, formats) && d.V <= 8192
}

/// Returns one workgroup per row.
fn groups(d: &Dims, _: &[usize]) -> [u32; 3] {
    grid::fold(d.M)
}

/// Returns one subgroup per row.
fn subgroups(d: &Dims, _: &[usize]) -> [u32; 3] {
    grid::eight_rows(d.M)
}

fn flops(d: &Dims) -> u64 {
    4 * u64::from(d.M) * u64::from(d.V)
}

/// Computes `row_loss` from `logits` (M,LD).
pub const FORWARD: Kernel = Kernel {
    name: "cross_entropy_forward",
    args: &[reads_u32("targets"), reads("logits").takes(FLOATS), writes("row_loss")],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "cross_entropy_forward", [REDUCE], groups,
        "vectors": [REDUCE, LOGITS], Needs::NOTHING, padded, groups,
        "subgroup": [SUBGROUP_ROWS, INVOCATIONS_256, LOGITS],
        Needs::SUBGROUPS, narrow, subgroups,
        "subgroup" + "_8": [SUBGROUP_ROWS, INVOCATIONS_64, LOGITS],
        Needs::SUBGROUPS_OF_8, narrow, subgroups
    ),
};

/// Computes `row_loss`, and overwrites the logits (M,LD) with their gradient.
pub const BACKWARD: Kernel = Kernel {
    name: "cross_entropy_backward",
    args: &[
        reads_u32("targets"),
        reads_u32("state"),
        changes("logits").takes(FLOATS),
        writes("row_loss"),
    ],
    twin: twin!(backward),
    cpu: Some(fast_backward),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "cross_entropy_backward", [REDUCE], groups,
        "vectors": [REDUCE, LOGITS, LOGITS_GRADIENT], Needs::NOTHING, padded, groups,
        "subgroup": [SUBGROUP_ROWS, INVOCATIONS_256, LOGITS, LOGITS_GRADIENT],
        Needs::SUBGROUPS, narrow, subgroups,
        "subgroup" + "_8": [SUBGROUP_ROWS, INVOCATIONS_64, LOGITS, LOGITS_GRADIENT],
        Needs::SUBGROUPS_OF_8, narrow, subgroups
    ),
};

/// Computes `loss += loss_scale · Σ row_loss`.
pub const SUM: Kernel = Kernel {
    name: "cross_entropy_sum",
    args: &[reads("row_loss"), adds("loss")],
    twin: twin!(sum),
    cpu: None,
    flops: |d| u64::from(d.M),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("cross_entropy_sum", [REDUCE], |_, _| [1, 1, 1]),
};

/// Returns the largest logit and the sum of the exponentials relative to it.
fn statistics<F: Real>(logits: &[F]) -> (F, F) {
    let max = logits.iter().copied().fold(F::neg_infinity(), F::max);
    (max, logits.iter().map(|&x| (x - max).exp()).sum())
}

/// Returns the loss of one row.
fn row<F: Real>(logits: &[F], target: u32) -> F {
    if target == IGNORE {
        return F::zero();
    }
    let (max, sum) = statistics(logits);
    sum.ln() - (logits[target as usize] - max)
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([logits], [row_loss]), [targets], []) = io.split();
    for (i, logits) in logits.chunks(dims.LD as usize).enumerate() {
        row_loss[i] = row(&logits[..dims.V as usize], targets[i]);
    }
}

fn backward<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let (([], [logits, row_loss]), [targets, state], []) = io.split();
    let scale = F::of(step.loss_scale) * state::loss_scale(state);
    for (i, logits) in logits.chunks_mut(dims.LD as usize).enumerate() {
        let (logits, pad) = logits.split_at_mut(dims.V as usize);
        pad.fill(F::zero());
        row_loss[i] = row(logits, targets[i]);
        if targets[i] == IGNORE {
            logits.fill(F::zero());
            continue;
        }
        let (max, sum) = statistics(logits);
        for (v, x) in logits.iter_mut().enumerate() {
            let hit = if v == targets[i] as usize { F::one() } else { F::zero() };
            *x = scale * ((*x - max).exp() / sum - hit);
        }
    }
}

fn sum<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([row_loss], [loss]) = io.reals();
    let sum = F::of(step.loss_scale) * row_loss.iter().copied().sum();
    accumulate(&mut loss[0], sum, step.overwrites(dims));
}

vector_fn! {
    /// Returns the loss of one row.
    fn fast_row<'a>(logits: &'a [f32], target: u32) -> f32 {
        let max = simd::max(logits);
        let sum = simd::sum_by(logits, |sum, x| sum + simd::exp(x - max));
        sum.ln() - (logits[target as usize] - max)
    }
}

vector_fn! {
    /// Returns the loss of one row and overwrites its logits with their gradients.
    fn backward_row<'a>(logits: &'a mut [f32], target: u32, scale: f32) -> f32 {
        let max = simd::max(logits);
        let hit = logits[target as usize] - max;
        let sum = simd::exp_sum(logits, max);
        let factor = scale / sum;
        logits.iter_mut().for_each(|x| *x *= factor);
        logits[target as usize] -= scale;
        sum.ln() - hit
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let (([logits], [row_loss]), [targets], []) = io.split();
    let rows = logits.par_chunks_exact(dims.LD as usize).zip(targets);
    row_loss.par_iter_mut().zip(rows).for_each(|(loss, (logits, &target))| {
        let logits = &logits[..dims.V as usize];
        *loss = if target == IGNORE { 0.0 } else { fast_row(logits, target) };
    });
}

fn fast_backward(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let (([], [logits, row_loss]), [targets, state], []) = io.split();
    let scale = step.loss_scale as f32 * state::loss_scale::<f32>(state);
    let rows = logits.par_chunks_exact_mut(dims.LD as usize).zip(targets);
    row_loss.par_iter_mut().zip(rows).for_each(|(loss, (logits, &target))| {
        let (logits, pad) = logits.split_at_mut(dims.V as usize);
        pad.fill(0.0);
        if target == IGNORE {
            *loss = 0.0;
            logits.fill(0.0);
        } else {
            *loss = backward_row(logits, target, scale);
        }
    });
}
