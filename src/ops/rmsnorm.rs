//! Root mean square normalisation (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>), over the channels of a row
//! or over those of each head.
//!
//! ```text
//! rstd = 1 / √(Σ x² / C + ε)      n = x · rstd      out = n · weight
//!
//! g    = weight · dout
//! dx      += rstd · (g - n · Σ (g · n) / C)
//! dweight += Σ_rows n · dout
//! ```
//!
//! A *row* has C channels. Where heads are normalised, it is one head of one position: all heads share the weight (C).

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var, Wanted, any_grad};
use crate::kernel::{
    Accumulate, Dims, FLOATS, Format, Io, Kernel, Real, Step, accumulate, adds, four_channels,
    grid, reads, twin, writes,
};
use crate::math::simd::MulAdd;
use crate::math::simd::{self, vector_fn};
use crate::ops::variants::{portable, rows};
use crate::params::{Init, ParamRole};
use crate::plan::{Plan, View};

/// Computes `out` and `rstd` from `x`.
pub const FORWARD: Kernel = Kernel {
    name: "rmsnorm_forward",
    args: &[reads("x").takes(FLOATS), reads("weight"), writes("out").takes(FLOATS), writes("rstd")],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 4 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("rmsnorm_forward", [], grid::row_count, four_channels),
};

/// Computes `dx` from `dout`.
pub const BACKWARD_INPUT: Kernel = Kernel {
    name: "rmsnorm_backward_input",
    args: &[
        reads("x").takes(FLOATS),
        reads("weight"),
        reads("rstd"),
        reads("dout").takes(FLOATS),
        adds("dx").takes(FLOATS),
    ],
    twin: twin!(backward_input),
    cpu: Some(fast_backward_input),
    flops: |d| 8 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("rmsnorm_backward_input", [], grid::row_count, four_channels),
};

/// Computes `dweight` from `dout`.
pub const BACKWARD_PARAMS: Kernel = Kernel {
    name: "rmsnorm_backward_params",
    args: &[reads("x").takes(FLOATS), reads("rstd"), reads("dout").takes(FLOATS), adds("dweight")],
    twin: twin!(backward_params),
    cpu: Some(fast_backward_params),
    flops: |d| 3 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("rmsnorm_backward_params", [], |d, _| grid::fold(d.C.div_ceil(16))),
};

/// Computes `out` from `x`, both (B,T,C) rows; `rstd` (B,T) is kept for the backward pass.
pub struct RmsNorm {
    /// B, T, C, EPS; for heads, T counts the heads of all positions.
    pub dims: Dims,
    /// (B,T,C)
    pub x: Var,
    /// (C)
    pub weight: Var,
    /// (B,T,C)
    pub out: Var,
    /// (B,T)
    pub rstd: View,
    /// Whether nothing else contributes to the gradient of `x`.
    pub is_only_reader: bool,
}

impl Graph {
    /// Creates a normalisation of `x` in rows of `c` channels, without adding it to the list; `out` creates its output,
    /// given whether it has a gradient. `sharing` is that of what the backward pass reads.
    fn rms_into(
        &mut self,
        name: &str,
        (x, c): (Var, usize),
        sharing: Sharing,
        out: impl FnOnce(&mut Graph, bool) -> Var,
    ) -> RmsNorm {
        let weight = self.rms_weight(name, c);
        let rows = x.value.len / c;
        let rstd = self.activations(&format!("{name}.rstd"), rows, Format::F32, sharing);
        let out = out(self, any_grad(&[x, weight]));
        let dims = self.dims();
        let dims = Dims { T: rows as u32 / dims.B, C: c as u32, ..dims };
        RmsNorm { dims, x, weight, out, rstd, is_only_reader: false }
    }

    /// Returns the weight of a normalisation of `c` channels.
    pub(crate) fn rms_weight(&mut self, name: &str, c: usize) -> Var {
        let (role, init) = (ParamRole::NormWeight, Init::Constant(1.0));
        let name = format!("{name}.weight");
        self.whole(Wanted { name: &name, shape: &[c], role, init })
    }

    /// Creates a normalisation of `x` (B,T,C), a value of the residual stream, without adding it to the list.
    pub(crate) fn rms(&mut self, name: &str, x: Var) -> RmsNorm {
        let c = x.value.len / self.rows();
        self.rms_into(name, (x, c), Sharing::WithBlocks, |g, has_grad| {
            g.activation_of(name, c, Sharing::WithBlocks, has_grad)
        })
    }

    /// Adds the normalisation of `x` (B,T,C), a value of the residual stream.
    pub fn rmsnorm(&mut self, name: &str, x: Var) -> Var {
        let norm = self.rms(name, x);
        let out = norm.out;
        self.push(norm);
        out
    }

    /// Adds the normalisation of every head of `x`, with `head_size` channels each, into `out`; nothing else may read `x`.
    pub fn rmsnorm_heads(&mut self, name: &str, x: Var, head_size: usize, out: Var) {
        let norm = self.rms_into(name, (x, head_size), Sharing::InBlocks, |_, _| out);
        self.push(RmsNorm { is_only_reader: true, ..norm });
    }
}

impl Op for RmsNorm {
    fn forward(&self, plan: &mut Plan) {
        let RmsNorm { dims, x, weight, out, rstd, .. } = *self;
        plan.push(&FORWARD, dims, &[x.value, weight.value, out.value, rstd]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let RmsNorm { dims, x, weight, out, rstd, is_only_reader } = *self;
        if let Some(acc) = recorder.parameters(&[weight]) {
            let args = [x.value, rstd, out.grad, weight.grad];
            recorder.plan.push(&BACKWARD_PARAMS, Dims { ACC: acc, ..dims }, &args);
        }
        if x.has_grad() {
            let acc = match is_only_reader {
                true => Accumulate::Set as u32,
                false => recorder.contribution(x.grad),
            };
            let args = [x.value, weight.value, rstd, out.grad, x.grad];
            recorder.plan.push(&BACKWARD_INPUT, Dims { ACC: acc, ..dims }, &args);
        }
    }
}

/// Normalises one row; returns the reciprocal of its root mean square.
pub(crate) fn normalize<F: Real>(x: &[F], weight: &[F], out: &mut [F], eps: f32) -> F {
    let mean_square = x.iter().map(|&x| x * x).sum::<F>() / F::of(x.len() as f64);
    let rstd = (mean_square + F::of(f64::from(eps))).sqrt().recip();
    for i in 0..x.len() {
        out[i] = x[i] * rstd * weight[i];
    }
    rstd
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x, weight], [out, rstd]) = io.reals();
    let c = dims.C as usize;
    for (row, rstd) in rstd.iter_mut().enumerate() {
        let at = row * c..(row + 1) * c;
        *rstd = normalize(&x[at.clone()], weight, &mut out[at], dims.EPS);
    }
}

fn backward_input<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x, weight, rstd, dout], [dx]) = io.reals();
    let c = dims.C as usize;
    for (row, &rstd) in rstd.iter().enumerate() {
        let at = row * c;
        let n = |i: usize| x[at + i] * rstd;
        let g = |i: usize| weight[i] * dout[at + i];
        let gn_mean = (0..c).map(|i| g(i) * n(i)).sum::<F>() / F::of(c as f64);
        for i in 0..c {
            let new = rstd * (g(i) - n(i) * gn_mean);
            accumulate(&mut dx[at + i], new, step.overwrites(dims));
        }
    }
}

fn backward_params<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x, rstd, dout], [dweight]) = io.reals();
    let c = dims.C as usize;
    for (i, dweight) in dweight.iter_mut().enumerate() {
        let product = |row: usize| x[row * c + i] * rstd[row] * dout[row * c + i];
        accumulate(dweight, (0..dims.rows()).map(product).sum(), step.overwrites(dims));
    }
}

/// Does the same as [`normalize`] with SIMD vectors.
#[inline(always)]
pub(crate) fn fast_normalize(x: &[f32], weight: &[f32], out: &mut [f32], eps: f32) -> f32 {
    let rstd = 1.0 / (simd::dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * rstd * weight;
    }
    rstd
}

vector_fn! {
    /// Computes some rows of the forward pass, and their `rstd`.
    fn forward_rows<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        eps: f32,
        out: &'a mut [f32],
        rstd: &'a mut [f32],
    ) -> () {
        let c = weight.len();
        let rows = out.chunks_exact_mut(c).zip(x.chunks_exact(c));
        for ((out, x), rstd) in rows.zip(rstd) {
            *rstd = fast_normalize(x, weight, out, eps);
        }
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([x, weight], [out, rstd]) = io.reals();
    let c = dims.C as usize;
    let rows = simd::rows_per_task(c);
    let tasks = out.par_chunks_mut(rows * c).zip(x.par_chunks(rows * c));
    let tasks = tasks.zip(rstd.par_chunks_mut(rows));
    tasks.for_each(|((out, x), rstd)| forward_rows(x, weight, dims.EPS, out, rstd));
}

vector_fn! {
    /// Computes some rows of `dx`; `x`, `dout` and `rstd` are those of the same rows.
    fn input_rows<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        rstd: &'a [f32],
        dout: &'a [f32],
        dx: &'a mut [f32],
        overwrite: bool,
    ) -> () {
        let c = weight.len();
        let rows = x.chunks_exact(c).zip(dout.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
        for (((x, dout), dx), &rstd) in rows.zip(rstd) {
            let inner = |sum: f32, x: f32, w: f32, d: f32| x.fma(w * d, sum);
            let gn = simd::sum_by_3([x, weight, dout], inner) * rstd / c as f32;
            for (((dx, x), weight), dout) in dx.iter_mut().zip(x).zip(weight).zip(dout) {
                let new = rstd * (x * rstd).fma(-gn, weight * dout);
                *dx = if overwrite { new } else { *dx + new };
            }
        }
    }
}

fn fast_backward_input(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let ([x, weight, rstd, dout], [dx]) = io.reals();
    let c = dims.C as usize;
    let overwrite = step.overwrites(dims);
    let rows = simd::rows_per_task(c);
    let inputs = x.par_chunks(rows * c).zip(dout.par_chunks(rows * c)).zip(rstd.par_chunks(rows));
    dx.par_chunks_mut(rows * c).zip(inputs).for_each(|(dx, ((x, dout), rstd))| {
        input_rows(x, weight, rstd, dout, dx, overwrite);
    });
}

/// The number of elements per partial sum of the weight's gradient, in whole rows.
const PARAM_ELEMENTS: usize = 1 << 14;

vector_fn! {
    /// Adds the contribution of some rows to the gradient of the weight.
    fn add_params<'a>(x: &'a [f32], rstd: &'a [f32], dout: &'a [f32], weight: &'a mut [f32]) -> () {
        let c = weight.len();
        for ((x, dout), &rstd) in x.chunks_exact(c).zip(dout.chunks_exact(c)).zip(rstd) {
            for ((weight, x), dout) in weight.iter_mut().zip(x).zip(dout) {
                *weight = (x * rstd).fma(*dout, *weight);
            }
        }
    }
}

fn fast_backward_params(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let ([x, rstd, dout], [dweight]) = io.reals();
    let c = dims.C as usize;
    let rows = (PARAM_ELEMENTS / c).max(1);
    let mut sums = vec![0.0; dims.rows().div_ceil(rows) * c];
    let inputs = x.par_chunks(rows * c).zip(dout.par_chunks(rows * c)).zip(rstd.par_chunks(rows));
    sums.par_chunks_mut(c).zip(inputs).for_each(|(sums, ((x, dout), rstd))| {
        add_params(x, rstd, dout, sums);
    });
    if step.overwrites(dims) {
        dweight.fill(0.0);
    }
    for sums in sums.chunks_exact(c) {
        dweight.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
}
