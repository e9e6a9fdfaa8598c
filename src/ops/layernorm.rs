//! Layer normalisation over the channels (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>).
//!
//! ```text
//! mean = Σ x / C      rstd = 1 / √(Σ (x - mean)² / C + ε)      n = (x - mean) · rstd
//! out  = n · weight + bias
//!
//! g    = weight · dout
//! dx      += rstd · (g - Σ g / C - n · Σ (g · n) / C)
//! dweight += Σ_rows n · dout      dbias += Σ_rows dout
//! ```

use crate::graph::{Recorder, Var};
use crate::kernel::{Dims, Io, Kernel, Real, Step, accumulate, adds, grid, reads, twin, writes};
use crate::ops::{Op, portable};
use crate::plan::{Plan, View};

/// `out`, `mean` and `rstd` from `x`.
pub const FORWARD: Kernel = Kernel {
    name: "layernorm_forward",
    args: &[
        reads("x"),
        reads("weight"),
        reads("bias"),
        writes("out"),
        writes("mean"),
        writes("rstd"),
    ],
    twin: twin!(forward),
    cpu: None,
    flops: |d| 8 * d.rows() as u64 * u64::from(d.C),
    variants: portable!("layernorm_forward", [REDUCE], grid::rows),
};

/// `dx` from `dout`.
pub const BACKWARD_INPUT: Kernel = Kernel {
    name: "layernorm_backward_input",
    args: &[reads("x"), reads("weight"), reads("mean"), reads("rstd"), reads("dout"), adds("dx")],
    twin: twin!(backward_input),
    cpu: None,
    flops: |d| 12 * d.rows() as u64 * u64::from(d.C),
    variants: portable!("layernorm_backward_input", [REDUCE], grid::rows),
};

/// `dweight` and `dbias` from `dout`.
pub const BACKWARD_PARAMS: Kernel = Kernel {
    name: "layernorm_backward_params",
    args: &[
        reads("x"),
        reads("mean"),
        reads("rstd"),
        reads("dout"),
        adds("dweight"),
        adds("dbias"),
    ],
    twin: twin!(backward_params),
    cpu: None,
    flops: |d| 5 * d.rows() as u64 * u64::from(d.C),
    variants: portable!("layernorm_backward_params", [REDUCE], |d, _| grid::fold(d.C)),
};

/// `out` (B,T,C) from `x` (B,T,C); `mean` and `rstd` (B,T) are kept for the backward pass.
pub struct LayerNorm {
    /// B, T, C, EPS.
    pub dims: Dims,
    /// (B,T,C)
    pub x: Var,
    /// (C)
    pub weight: Var,
    /// (C)
    pub bias: Var,
    /// (B,T,C)
    pub out: Var,
    /// (B,T)
    pub mean: View,
    /// (B,T)
    pub rstd: View,
}

impl Op for LayerNorm {
    fn forward(&self, plan: &mut Plan) {
        let LayerNorm { dims, x, weight, bias, out, mean, rstd } = *self;
        plan.push(&FORWARD, dims, &[x.value, weight.value, bias.value, out.value, mean, rstd]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let LayerNorm { dims, x, weight, bias, out, mean, rstd } = *self;
        let acc = recorder.parameter(&[weight.grad, bias.grad]);
        let args = [x.value, mean, rstd, out.grad, weight.grad, bias.grad];
        recorder.plan.push(&BACKWARD_PARAMS, Dims { ACC: acc, ..dims }, &args);
        let acc = recorder.contribution(x.grad);
        let args = [x.value, weight.value, mean, rstd, out.grad, x.grad];
        recorder.plan.push(&BACKWARD_INPUT, Dims { ACC: acc, ..dims }, &args);
    }
}

/// One row of the forward pass; returns its mean and reciprocal standard deviation.
pub(crate) fn normalize<F: Real>(
    x: &[F],
    weight: &[F],
    bias: &[F],
    out: &mut [F],
    eps: f32,
) -> (F, F) {
    let c = F::of(x.len() as f64);
    let mean = x.iter().copied().sum::<F>() / c;
    let variance = x.iter().map(|&x| (x - mean) * (x - mean)).sum::<F>() / c;
    let rstd = (variance + F::of(f64::from(eps))).sqrt().recip();
    for i in 0..x.len() {
        out[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
    }
    (mean, rstd)
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x, weight, bias], [out, mean, rstd]) = io.reals();
    let c = dims.C as usize;
    for row in 0..dims.rows() {
        let at = row * c..(row + 1) * c;
        (mean[row], rstd[row]) = normalize(&x[at.clone()], weight, bias, &mut out[at], dims.EPS);
    }
}

fn backward_input<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x, weight, mean, rstd, dout], [dx]) = io.reals();
    let c = dims.C as usize;
    for row in 0..dims.rows() {
        let at = row * c;
        let n = |i: usize| (x[at + i] - mean[row]) * rstd[row];
        let g = |i: usize| weight[i] * dout[at + i];
        let g_mean = (0..c).map(g).sum::<F>() / F::of(c as f64);
        let gn_mean = (0..c).map(|i| g(i) * n(i)).sum::<F>() / F::of(c as f64);
        for i in 0..c {
            let new = rstd[row] * (g(i) - g_mean - n(i) * gn_mean);
            accumulate(&mut dx[at + i], new, step.overwrites(dims));
        }
    }
}

fn backward_params<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x, mean, rstd, dout], [dweight, dbias]) = io.reals();
    let c = dims.C as usize;
    for i in 0..c {
        let n = |row: usize| (x[row * c + i] - mean[row]) * rstd[row];
        let weight = (0..dims.rows()).map(|row| n(row) * dout[row * c + i]).sum();
        let bias = (0..dims.rows()).map(|row| dout[row * c + i]).sum();
        accumulate(&mut dweight[i], weight, step.overwrites(dims));
        accumulate(&mut dbias[i], bias, step.overwrites(dims));
    }
}
