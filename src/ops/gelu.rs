//! GELU in GPT-2's tanh form (Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
//!
//! ```text
//! t = tanh(√(2/π) (x + 0.044715 x³))      out = x (1 + t) / 2
//! dx = dout ((1 + t) / 2 + x (1 - t²) √(2/π) (1 + 3 · 0.044715 x²) / 2)
//! ```

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var};
use crate::kernel::constants::{GELU_CUBIC, GELU_SCALE};
use crate::kernel::{
    Dims, FLOATS, Io, Kernel, Needs, Real, Step, four_channels, grid, reads, twin, writes,
};
use crate::math::simd::{self, CHUNK, vector_fn};
use crate::ops::variants::portable;
use crate::plan::Plan;

/// Computes `out` from `x`.
pub const FORWARD: Kernel = Kernel {
    name: "gelu_forward",
    args: &[reads("x").takes(FLOATS), writes("out").takes(FLOATS)],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 8 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "gelu_forward", [GELU], grid::elements,
        "vectors": [GELU], Needs::NOTHING, four_channels, grid::vectors
    ),
};

/// Computes `dx` from `x` and `dout`.
pub const BACKWARD: Kernel = Kernel {
    name: "gelu_backward",
    args: &[reads("x").takes(FLOATS), reads("dout").takes(FLOATS), writes("dx").takes(FLOATS)],
    twin: twin!(backward),
    cpu: Some(fast_backward),
    flops: |d| 16 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "gelu_backward", [GELU], grid::elements,
        "vectors": [GELU], Needs::NOTHING, four_channels, grid::vectors
    ),
};

/// Computes `out` (B,T,C) from `x` (B,T,C).
pub struct Gelu {
    /// B, T, C.
    pub dims: Dims,
    /// (B,T,C)
    pub x: Var,
    /// (B,T,C)
    pub out: Var,
}

impl Graph {
    /// Adds GELU of `x`.
    pub fn gelu(&mut self, name: &str, x: Var) -> Var {
        let c = x.value.len / self.rows();
        let out = self.activation_of(name, c, Sharing::InBlocks, x.has_grad());
        let dims = Dims { C: c as u32, ..self.dims() };
        self.push(Gelu { dims, x, out });
        out
    }
}

impl Op for Gelu {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&FORWARD, self.dims, &[self.x.value, self.out.value]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        if self.x.has_grad() {
            let args = [self.x.value, self.out.grad, self.x.grad];
            recorder.plan.push(&BACKWARD, self.dims, &args);
        }
    }
}

fn tanh<F: Real>(x: F) -> F {
    (F::of(GELU_SCALE) * (x + F::of(GELU_CUBIC) * x * x * x)).tanh()
}

/// Computes GELU of one number.
pub(crate) fn gelu<F: Real>(x: F) -> F {
    F::of(0.5) * x * (F::one() + tanh(x))
}

fn forward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x], [out]) = io.reals();
    for (x, out) in x.iter().zip(out) {
        *out = gelu(*x);
    }
}

fn backward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x, dout], [dx]) = io.reals();
    for ((&x, &dout), dx) in x.iter().zip(dout).zip(dx) {
        let (t, half) = (tanh(x), F::of(0.5));
        let inner = F::of(GELU_SCALE) * (F::one() + F::of(3.0 * GELU_CUBIC) * x * x);
        *dx = dout * (half * (F::one() + t) + half * x * (F::one() - t * t) * inner);
    }
}

vector_fn! {
    fn gelu_chunk<'a>(x: &'a [f32], out: &'a mut [f32]) -> () {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = simd::gelu(x);
        }
    }
}

vector_fn! {
    fn backward_chunk<'a>(x: &'a [f32], dout: &'a [f32], dx: &'a mut [f32]) -> () {
        for ((dx, &x), dout) in dx.iter_mut().zip(x).zip(dout) {
            *dx = dout * simd::gelu_slope(x);
        }
    }
}

/// Computes `out = gelu(x)` on all threads.
pub(crate) fn fast_gelu(x: &[f32], out: &mut [f32]) {
    let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(out, x)| gelu_chunk(x, out));
}

fn fast_forward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([x], [out]) = io.reals();
    fast_gelu(x, out);
}

fn fast_backward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([x, dout], [dx]) = io.reals();
    let inputs = x.par_chunks(CHUNK).zip(dout.par_chunks(CHUNK));
    let chunks = dx.par_chunks_mut(CHUNK).zip(inputs);
    chunks.for_each(|(dx, (x, dout))| backward_chunk(x, dout, dx));
}
