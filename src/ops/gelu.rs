//! GELU (Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>): x times the share of the normal distribution below x,
//! exactly or in GPT-2's tanh form.
//!
//! ```text
//! tanh:   t = tanh(√(2/π) (x + 0.044715 x³))      out = x (1 + t) / 2
//!         dx = dout ((1 + t) / 2 + x (1 - t²) √(2/π) (1 + 3 · 0.044715 x²) / 2)
//! exact:  Φ = (1 + erf(x / √2)) / 2               out = x Φ
//!         dx = dout (Φ + x exp(-x²/2) / √(2π))
//! ```
//!
//! In single precision the tail of the normal distribution is `1 - Φ(a) = r P(r) exp(-a²/2) / 2` for `a ≥ 0`, with
//! `r = 1 / (1 + 0.4 a / √2)`; the polynomial P interpolates between the zeros of a Chebyshev polynomial, and misses by a
//! share of at most 2e-7.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use rayon::prelude::*;

use crate::config::GeluForm;
use crate::graph::{Graph, Op, Recorder, Sharing, Var};
use crate::kernel::constants::{GELU_CUBIC, GELU_SCALE, NORMAL_TAIL};
use crate::kernel::{
    Dims, FLOATS, Io, Kernel, Needs, Real, Step, four_channels, grid, reads, twin, writes,
};
use crate::math::simd::MulAdd;
use crate::math::simd::{self, CHUNK, vector_fn};
use crate::ops::variants::portable;
use crate::plan::Plan;

/// Computes `out` from `x`, in the tanh form.
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

/// Computes `dx` from `x` and `dout`, in the tanh form.
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

/// Computes `out` from `x`, exactly.
pub const EXACT_FORWARD: Kernel = Kernel {
    name: "gelu_exact_forward",
    args: FORWARD.args,
    twin: twin!(exact_forward),
    cpu: Some(fast_exact_forward),
    flops: |d| 20 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "gelu_exact_forward", [GELU_EXACT], grid::elements,
        "vectors": [GELU_EXACT], Needs::NOTHING, four_channels, grid::vectors
    ),
};

/// Computes `dx` from `x` and `dout`, exactly.
pub const EXACT_BACKWARD: Kernel = Kernel {
    name: "gelu_exact_backward",
    args: BACKWARD.args,
    twin: twin!(exact_backward),
    cpu: Some(fast_exact_backward),
    flops: |d| 24 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "gelu_exact_backward", [GELU_EXACT], grid::elements,
        "vectors": [GELU_EXACT], Needs::NOTHING, four_channels, grid::vectors
    ),
};

/// Computes `out` (B,T,C) from `x` (B,T,C).
#[derive(Clone, Copy)]
pub struct Gelu {
    /// B, T, C.
    pub dims: Dims,
    /// The form.
    pub form: GeluForm,
    /// (B,T,C)
    pub x: Var,
    /// (B,T,C)
    pub out: Var,
}

impl Graph {
    /// Adds GELU of `x`.
    pub fn gelu(&mut self, name: &str, x: Var, form: GeluForm) -> Var {
        let c = x.value.len / self.rows();
        let out = self.activation_of(name, c, Sharing::InBlocks, x.has_grad());
        let dims = Dims { C: c as u32, ..self.dims() };
        self.push(Gelu { dims, form, x, out });
        out
    }
}

impl Op for Gelu {
    fn forward(&self, plan: &mut Plan) {
        let kernel = match self.form {
            GeluForm::Tanh => &FORWARD,
            GeluForm::Exact => &EXACT_FORWARD,
        };
        plan.push(kernel, self.dims, &[self.x.value, self.out.value]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let kernel = match self.form {
            GeluForm::Tanh => &BACKWARD,
            GeluForm::Exact => &EXACT_BACKWARD,
        };
        if self.x.has_grad() {
            let args = [self.x.value, self.out.grad, self.x.grad];
            recorder.plan.push(kernel, self.dims, &args);
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

/// Returns the share of the normal distribution below `x`.
fn normal_below<F: Real>(x: F) -> F {
    F::of(libm::erfc(-x.f64() * FRAC_1_SQRT_2) / 2.0)
}

fn exact_forward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x], [out]) = io.reals();
    for (x, out) in x.iter().zip(out) {
        *out = *x * normal_below(*x);
    }
}

fn exact_backward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x, dout], [dx]) = io.reals();
    for ((&x, &dout), dx) in x.iter().zip(dout).zip(dx) {
        let density = (F::of(-0.5) * x * x).exp() * F::of(1.0 / TAU.sqrt());
        *dx = dout * (normal_below(x) + x * density);
    }
}

/// Returns the share of the normal distribution below `x`, and e^(-x²/2).
#[inline(always)]
fn fast_normal(x: f32) -> [f32; 2] {
    const SLOPE: f32 = (0.4 * FRAC_1_SQRT_2) as f32;
    let ratio = 1.0 / SLOPE.fma(x.abs(), 1.0);
    let power = simd::exp(-0.5 * x * x);
    let mut sum = 0.0;
    for c in NORMAL_TAIL.iter().rev() {
        sum = ratio.fma(sum, *c as f32);
    }
    let tail = 0.5 * ratio * sum * power;
    [if x < 0.0 { tail } else { 1.0 - tail }, power]
}

vector_fn! {
    fn exact_chunk<'a>(x: &'a [f32], out: &'a mut [f32]) -> () {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * fast_normal(x)[0];
        }
    }
}

vector_fn! {
    fn exact_backward_chunk<'a>(x: &'a [f32], dout: &'a [f32], dx: &'a mut [f32]) -> () {
        /// 1 / √(2π)
        const SCALE: f32 = 0.398_942_3;
        for ((dx, &x), dout) in dx.iter_mut().zip(x).zip(dout) {
            let [below, power] = fast_normal(x);
            *dx = dout * (x * SCALE).fma(power, below);
        }
    }
}

fn fast_exact_forward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([x], [out]) = io.reals();
    let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(out, x)| exact_chunk(x, out));
}

fn fast_exact_backward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([x, dout], [dx]) = io.reals();
    let inputs = x.par_chunks(CHUNK).zip(dout.par_chunks(CHUNK));
    let chunks = dx.par_chunks_mut(CHUNK).zip(inputs);
    chunks.for_each(|(dx, (x, dout))| exact_backward_chunk(x, dout, dx));
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
