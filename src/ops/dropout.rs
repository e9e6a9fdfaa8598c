//! Dropout (Srivastava et al. 2014): zeroes a share p of the activations and scales the rest by 1 / (1 - p).
//!
//! The mask is not stored: in both passes, element i of the layer ID is kept if the random word of
//! ([`crate::kernel::Step::seed`], (i, ID)) is at least p · 2³².

use rayon::prelude::*;

use crate::graph::{Graph, Joins, Op, Recorder, Sharing, Var};
use crate::kernel::{Dims, FLOATS, Format, Io, Kernel, Real, Step, grid, reads, twin, writes};
use crate::math::simd::{CHUNK, vector_fn};
use crate::ops::random;
use crate::ops::variants::portable;
use crate::plan::Plan;

/// Computes `out` from `x`.
pub const FORWARD: Kernel = Kernel {
    name: "dropout_forward",
    args: &[reads("x").takes(FLOATS), writes("out")],
    twin: twin!(mask),
    cpu: Some(fast_mask),
    flops: |d| d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("dropout_forward", [THREEFRY], grid::elements),
};

/// Computes `dx` from `dout`.
pub const BACKWARD: Kernel = Kernel {
    name: "dropout_backward",
    args: &[reads("dout"), writes("dx").takes(FLOATS)],
    twin: twin!(mask),
    cpu: Some(fast_mask),
    flops: |d| d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("dropout_backward", [THREEFRY], grid::elements),
};

/// Computes `out` (B,T,C) from `x` (B,T,C).
pub struct Dropout {
    /// B, T, C, ID.
    pub dims: Dims,
    /// (B,T,C)
    pub x: Var,
    /// (B,T,C)
    pub out: Var,
}

impl Graph {
    /// Drops a share of the elements of `x`; `joins` says how the output belongs to the residual stream.
    pub fn dropout(&mut self, name: &str, x: Var, joins: Joins) -> Var {
        let c = x.value.len / self.rows();
        let out = match joins {
            Joins::Begins => self.stream_of(name, c, Sharing::InBlocks, x.has_grad()),
            Joins::Stream => self.branch(name, c, Format::F32, x.has_grad()),
            Joins::Dropout | Joins::Nothing => {
                self.activation_of(name, c, Sharing::InBlocks, x.has_grad())
            }
        };
        let dims = Dims { C: c as u32, ID: self.next_dropout(), ..self.dims() };
        self.push(Dropout { dims, x, out });
        out
    }
}

impl Op for Dropout {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&FORWARD, self.dims, &[self.x.value, self.out.value]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        if self.x.has_grad() {
            recorder.plan.push(&BACKWARD, self.dims, &[self.out.grad, self.x.grad]);
        }
    }
}

/// Returns the value of [`Step::dropout`] for a share `p` in [0, 1).
pub fn threshold(p: f64) -> u32 {
    (p * 4_294_967_296.0) as u32
}

/// Returns 1 / (1 - p), in the precision of a GPU.
pub(crate) fn scale(threshold: u32) -> f32 {
    1.0 / (1.0 - threshold as f32 / 4_294_967_296.0)
}

fn mask<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x], [out]) = io.reals();
    let scale = F::of(f64::from(scale(step.dropout)));
    for (i, (&x, out)) in x.iter().zip(out).enumerate() {
        let kept = random::threefry(step.seed, [i as u32, dims.ID])[0] >= step.dropout;
        *out = if kept { x * scale } else { F::zero() };
    }
}

vector_fn! {
    /// Applies the mask to the elements from `first` on of the layer `id`.
    fn mask_chunk<'a>(
        x: &'a [f32],
        out: &'a mut [f32],
        first: u32,
        seed: [u32; 2],
        id: u32,
        threshold: u32,
    ) -> () {
        let scale = scale(threshold);
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            let word = random::threefry(seed, [first.wrapping_add(i as u32), id])[0];
            *out = if word >= threshold { x * scale } else { 0.0 };
        }
    }
}

fn fast_mask(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let ([x], [out]) = io.reals();
    let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate();
    chunks.for_each(|(chunk, (out, x))| {
        mask_chunk(x, out, (chunk * CHUNK) as u32, step.seed, dims.ID, step.dropout);
    });
}
