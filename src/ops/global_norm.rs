//! The Euclidean norm of all gradients, without overflow or underflow, and the clipping factor and loss scale.
//!
//! ```text
//! per block of BLOCK gradients: max = max |g|      sum = Σ (g / max)²
//! norm = M / scale · √(Σ_blocks sum · (max / M)²), M the largest max
//! coef = min(1, grad_clip / (norm + 1e-6)) / scale, 1 / scale without clipping
//! ```
//!
//! If the norm or the loss is not finite, the update is skipped: the norm reads -1 and `coef` 0,
//! `state` counts it, and the optimiser's kernels leave everything unchanged.
//!
//! The loss scale (Micikevicius et al. 2017, <https://arxiv.org/abs/1710.03740>) multiplies every gradient,
//! so that small ones are not lost in half precision. A dynamic scale is kept as large as possible: an update
//! whose gradient overflows is skipped and halves it; [`GROWTH_INTERVAL`] good updates in a row double it.

use rayon::prelude::*;

use crate::kernel::constants::{NORM_BLOCK, NORM_PARTIAL_LEN};
use crate::kernel::state::{self, GROWTH_INTERVAL, LARGEST_SCALE_LOG2};
use crate::kernel::{Dims, Io, Kernel, LossScale, Real, Step, changes_u32, reads, twin, writes};
use crate::math::simd::MulAdd;
use crate::math::simd::{self, vector_fn};
use crate::ops::variants::portable;
use crate::plan::{Plan, View};

/// The number of gradients that a workgroup reduces.
const BLOCK: usize = NORM_BLOCK as usize;
/// The numbers that a block writes: max, sum, and 1 if some number was not finite.
const PARTIAL_LEN: usize = NORM_PARTIAL_LEN as usize;
/// The alignment of a slice's partials: whole blocks, at an offset that every device can bind.
const ALIGNMENT: usize = 64 * PARTIAL_LEN;

/// Computes `partials` (blocks,3) from a slice of the gradients.
pub const PARTIAL: Kernel = Kernel {
    name: "global_norm_partial",
    args: &[reads("grads"), writes("partials")],
    twin: twin!(partial),
    cpu: Some(fast_partial),
    flops: |d| 3 * u64::from(d.N),
    // The twin adds 16,384 squares sequentially.
    tolerance: 5e-5,
    variants: portable!("global_norm_partial", [REDUCE], |d, _| {
        crate::kernel::grid::fold(d.N.div_ceil(NORM_BLOCK))
    }),
};

/// Computes `norm` (2: norm, coef) from all partials (N blocks) and the loss; updates `state`.
pub const FINISH: Kernel = Kernel {
    name: "global_norm_finish",
    args: &[reads("partials"), reads("loss"), writes("norm"), changes_u32("state")],
    twin: twin!(finish),
    cpu: None,
    flops: |d| 4 * u64::from(d.N),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("global_norm_finish", [REDUCE], |_, _| [1, 1, 1]),
};

/// The views that computing the norm reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct NormViews {
    /// [`partials_len`]
    pub partials: View,
    /// (1)
    pub loss: View,
    /// (2): norm and coefficient.
    pub norm: View,
    /// ([`state::LEN`])
    pub state: View,
}

/// Records the norm over `grads`, each a slice that fits one binding.
pub fn record(plan: &mut Plan, grads: &[View], views: NormViews, scale: LossScale) {
    for (&view, start) in grads.iter().zip(partials_starts(grads)) {
        let len = view.len.div_ceil(BLOCK) * PARTIAL_LEN;
        record_partials(plan, view, views.partials.slice(start, len));
    }
    record_finish(plan, views, scale);
}

/// Records the partials of a slice of the gradients.
pub fn record_partials(plan: &mut Plan, grads: View, partials: View) {
    let dims = Dims { N: grads.len as u32, ..Dims::default() };
    plan.push(&PARTIAL, dims, &[grads, partials]);
}

/// Records the norm from the partials of all gradients.
pub fn record_finish(plan: &mut Plan, views: NormViews, scale: LossScale) {
    let NormViews { partials, loss, norm, state } = views;
    let blocks = (partials.len / PARTIAL_LEN) as u32;
    let dims = Dims { N: blocks, ID: scale as u32, ..Dims::default() };
    plan.push(&FINISH, dims, &[partials, loss, norm, state]);
}

/// Returns where the partials of each of these slices begin: where a device can bind them.
pub fn partials_starts(grads: &[View]) -> Vec<usize> {
    let next = |start: &mut usize, view: &View| {
        let own = *start;
        *start = next_partials(own + view.len.div_ceil(BLOCK) * PARTIAL_LEN);
        Some(own)
    };
    grads.iter().scan(0, next).collect()
}

/// Returns where partials can begin after others that end at `end`.
pub fn next_partials(end: usize) -> usize {
    end.next_multiple_of(ALIGNMENT)
}

/// Returns the number of elements of the partials of these slices.
pub fn partials_len(grads: &[View]) -> usize {
    let lens = grads.iter().map(|view| view.len.div_ceil(BLOCK) * PARTIAL_LEN);
    lens.map(next_partials).sum()
}

fn partial<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([grads], [partials]) = io.reals();
    for (grads, out) in grads.chunks(BLOCK).zip(partials.chunks_mut(PARTIAL_LEN)) {
        let finite = grads.iter().all(|g| g.is_finite());
        let max =
            if finite { grads.iter().map(|g| g.abs()).fold(F::zero(), F::max) } else { F::zero() };
        let ratio = |g: &F| if max > F::zero() { *g / max } else { F::zero() };
        let sum = if finite { grads.iter().map(|g| ratio(g) * ratio(g)).sum() } else { F::zero() };
        out.copy_from_slice(&[max, sum, if finite { F::zero() } else { F::one() }]);
    }
}

fn finish<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let (([partials, loss], [norm]), [], [state]) = io.split();
    let blocks = || partials.chunks_exact(PARTIAL_LEN);
    let scale = state::loss_scale::<F>(state);
    let max = blocks().map(|b| b[0]).fold(F::zero(), F::max);
    let scaled =
        |b: &[F]| if max > F::zero() { b[1] * (b[0] / max) * (b[0] / max) } else { F::zero() };
    let total = max / scale * blocks().map(scaled).sum::<F>().sqrt();
    let broken = blocks().any(|b| b[2] > F::zero()) || !total.is_finite();
    let skip = broken || !loss[0].is_finite();
    let clip = F::of(step.grad_clip);
    let clipped = clip > F::zero() && clip < total + F::of(1e-6);
    let coef = if clipped { clip / (total + F::of(1e-6)) } else { F::one() };
    norm.copy_from_slice(&if skip { [-F::one(), F::zero()] } else { [total, coef / scale] });
    state[state::SKIP] = u32::from(skip);
    let overflow = broken && loss[0].is_finite() && state[state::SCALE_LOG2] > 0;
    match (skip, overflow) {
        (false, _) => count_good(dims, state),
        (true, true) => {
            state[state::OVERFLOWED] += 1;
            state[state::SCALE_LOG2] -= 1;
            state[state::SCALE_AGE] = 0;
        }
        (true, false) => {
            state[state::SKIPPED] += 1;
            state[state::SKIPPED_IN_A_ROW] += 1;
            state[state::SCALE_AGE] = 0;
        }
    }
}

/// Counts an update that is applied; after enough of them a dynamic loss scale grows.
fn count_good(dims: &Dims, state: &mut [u32]) {
    state[state::APPLIED] += 1;
    state[state::SKIPPED_IN_A_ROW] = 0;
    if dims.ID != LossScale::Dynamic as u32 {
        return;
    }
    state[state::SCALE_AGE] += 1;
    if state[state::SCALE_AGE] >= GROWTH_INTERVAL {
        state[state::SCALE_AGE] = 0;
        state[state::SCALE_LOG2] = LARGEST_SCALE_LOG2.min(state[state::SCALE_LOG2] + 1);
    }
}

vector_fn! {
    /// Returns the partial of one block.
    fn block<'a>(grads: &'a [f32]) -> [f32; PARTIAL_LEN] {
        let max = simd::fold(0.0, grads, |max, g| simd::larger(max, g.abs()), simd::larger);
        // 0 · g is 0 for every finite number, and NaN for infinity and NaN.
        if simd::sum_by(grads, |sum, g| g.fma(0.0, sum)).is_nan() {
            return [0.0, 0.0, 1.0];
        }
        if max == 0.0 {
            return [0.0; PARTIAL_LEN];
        }
        // The reciprocal of a subnormal number may be infinite.
        let sum = if max >= f32::MIN_POSITIVE {
            let scale = 1.0 / max;
            simd::sum_by(grads, |sum, g| (g * scale).fma(g * scale, sum))
        } else {
            simd::sum_by(grads, |sum, g| (g / max).fma(g / max, sum))
        };
        [max, sum, 0.0]
    }
}

fn fast_partial(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([grads], [partials]) = io.reals();
    let blocks = grads.par_chunks(BLOCK).with_min_len(8);
    blocks
        .zip(partials.par_chunks_mut(PARTIAL_LEN))
        .for_each(|(grads, out)| out.copy_from_slice(&block(grads)));
}
