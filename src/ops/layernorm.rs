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
//!
//! A mean is kept in two parts, m + rest: `m` is the computed mean, and `rest = Σ (x - m) / C` is the rounding error of
//! its sum. With a mean of 1e4 and a spread of 0.25, a single m alone would be wrong by a 500th of the spread, and n as
//! well; x - m is exact for such rows, so that (x - m) - rest loses nothing. The variance is corrected by the same
//! sum: Σ (x - mean)² = Σ (x - m)² - rest · Σ (x - m).

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var, Wanted, any_grad};
use crate::kernel::{
    Dims, FLOATS, Format, Io, Kernel, Real, Step, accumulate, adds, four_channels, grid, reads,
    twin, writes,
};
use crate::math::simd::MulAdd;
use crate::math::simd::{self, vector_fn};
use crate::ops::variants::{portable, rows};
use crate::params::{Init, ParamRole};
use crate::plan::{Plan, Role, View};

/// Computes `out`, `mean` and `rstd` from `x`.
pub const FORWARD: Kernel = Kernel {
    name: "layernorm_forward",
    args: &[
        reads("x"),
        reads("weight"),
        reads("bias"),
        writes("out").takes(FLOATS),
        writes("mean"),
        writes("rstd"),
    ],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 8 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("layernorm_forward", [NORM], grid::row_count, four_channels),
};

/// Computes `dx` from `dout`.
pub const BACKWARD_INPUT: Kernel = Kernel {
    name: "layernorm_backward_input",
    args: &[
        reads("x"),
        reads("weight"),
        reads("mean"),
        reads("rstd"),
        reads("dout").takes(FLOATS),
        adds("dx"),
    ],
    twin: twin!(backward_input),
    cpu: Some(fast_backward_input),
    flops: |d| 12 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("layernorm_backward_input", [NORM], grid::row_count, four_channels),
};

/// Computes `dweight` and `dbias` from `dout`.
pub const BACKWARD_PARAMS: Kernel = Kernel {
    name: "layernorm_backward_params",
    args: &[
        reads("x"),
        reads("mean"),
        reads("rstd"),
        reads("dout").takes(FLOATS),
        adds("dweight"),
        adds("dbias"),
    ],
    twin: twin!(backward_params),
    cpu: Some(fast_backward_params),
    flops: |d| 5 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("layernorm_backward_params", [NORM], |d, _| grid::fold(d.C.div_ceil(16))),
};

/// Computes `out` (B,T,C) from `x` (B,T,C); `mean` (B,T,2) and `rstd` (B,T) are kept for the backward pass.
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
    /// (B,T,2): each mean in two parts.
    pub mean: View,
    /// (B,T)
    pub rstd: View,
    /// (C): receives the gradient of the untrained one of weight and bias, if only the other is trained.
    pub unused: Option<View>,
}

impl Graph {
    /// Creates a layer normalisation of `x`, without adding it to the list.
    pub(crate) fn norm(&mut self, name: &str, x: Var) -> LayerNorm {
        let c = x.value.len / self.rows();
        let mut part = |part: &str, role, init| {
            let name = format!("{name}.{part}");
            self.whole(Wanted { name: &name, shape: &[c], role, init: Init::Constant(init) })
        };
        let weight = part("weight", ParamRole::NormWeight, 1.0);
        let bias = part("bias", ParamRole::NormBias, 0.0);
        let rows = self.rows();
        // A mean has two parts.
        let [mean, rstd] = [("mean", 2 * rows), ("rstd", rows)].map(|(part, len)| {
            let name = format!("{name}.{part}");
            self.activations(&name, len, Format::F32, Sharing::WithBlocks)
        });
        let has_grad = any_grad(&[x, weight, bias]);
        let out = self.activation_of(name, c, Sharing::WithBlocks, has_grad);
        let unused = (weight.has_grad() != bias.has_grad())
            .then(|| self.buffer(Role::Activations, "unused.grad", c, Format::F32));
        let dims = Dims { C: c as u32, ..self.dims() };
        LayerNorm { dims, x, weight, bias, out, mean, rstd, unused }
    }

    /// Adds the normalisation of `x` (B,T,C).
    pub fn layernorm(&mut self, name: &str, x: Var) -> Var {
        let norm = self.norm(name, x);
        let out = norm.out;
        self.push(norm);
        out
    }
}

impl Op for LayerNorm {
    fn forward(&self, plan: &mut Plan) {
        let LayerNorm { dims, x, weight, bias, out, mean, rstd, .. } = *self;
        plan.push(&FORWARD, dims, &[x.value, weight.value, bias.value, out.value, mean, rstd]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let LayerNorm { dims, x, weight, bias, out, mean, rstd, unused } = *self;
        if let Some(acc) = recorder.parameters(&[weight, bias]) {
            let grad = |var: Var| unused.filter(|_| !var.has_grad()).unwrap_or(var.grad);
            let args = [x.value, mean, rstd, out.grad, grad(weight), grad(bias)];
            recorder.plan.push(&BACKWARD_PARAMS, Dims { ACC: acc, ..dims }, &args);
        }
        if x.has_grad() {
            let acc = recorder.contribution(x.grad);
            let args = [x.value, weight.value, mean, rstd, out.grad, x.grad];
            recorder.plan.push(&BACKWARD_INPUT, Dims { ACC: acc, ..dims }, &args);
        }
    }
}

/// Normalises one row; returns its mean in two parts and its reciprocal standard deviation.
pub(crate) fn normalize<F: Real>(
    x: &[F],
    weight: &[F],
    bias: &[F],
    out: &mut [F],
    eps: f32,
) -> ([F; 2], F) {
    let c = F::of(x.len() as f64);
    let m = x.iter().copied().sum::<F>() / c;
    let rest = x.iter().map(|&x| x - m).sum::<F>() / c;
    let centred = |x: F| (x - m) - rest;
    let variance = x.iter().map(|&x| centred(x) * centred(x)).sum::<F>() / c;
    let rstd = (variance + F::of(f64::from(eps))).sqrt().recip();
    for i in 0..x.len() {
        out[i] = centred(x[i]) * rstd * weight[i] + bias[i];
    }
    ([m, rest], rstd)
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x, weight, bias], [out, mean, rstd]) = io.reals();
    let c = dims.C as usize;
    let (mean, _) = mean.as_chunks_mut::<2>();
    for row in 0..dims.rows() {
        let at = row * c..(row + 1) * c;
        (mean[row], rstd[row]) = normalize(&x[at.clone()], weight, bias, &mut out[at], dims.EPS);
    }
}

fn backward_input<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x, weight, mean, rstd, dout], [dx]) = io.reals();
    let c = dims.C as usize;
    let (mean, _) = mean.as_chunks::<2>();
    for row in 0..dims.rows() {
        let at = row * c;
        let [m, rest] = mean[row];
        let n = |i: usize| ((x[at + i] - m) - rest) * rstd[row];
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
    let (mean, _) = mean.as_chunks::<2>();
    for i in 0..c {
        let n = |row: usize| ((x[row * c + i] - mean[row][0]) - mean[row][1]) * rstd[row];
        let weight = (0..dims.rows()).map(|row| n(row) * dout[row * c + i]).sum();
        let bias = (0..dims.rows()).map(|row| dout[row * c + i]).sum();
        accumulate(&mut dweight[i], weight, step.overwrites(dims));
        accumulate(&mut dbias[i], bias, step.overwrites(dims));
    }
}

/// Does the same as [`normalize`] with SIMD vectors; the variance comes from the sums of one pass.
#[inline(always)]
pub(crate) fn fast_normalize(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
    eps: f32,
) -> ([f32; 2], f32) {
    let c = x.len() as f32;
    let m = simd::sum(x) / c;
    let [sum, squares] = simd::sums_around(x, m);
    let rest = sum / c;
    // For equal numbers, both terms are the same up to their rounding.
    let variance = rest.fma(-sum, squares).max(0.0) / c;
    let rstd = 1.0 / (variance + eps).sqrt();
    let shift = -rest * rstd;
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - m).fma(rstd, shift).fma(*weight, *bias);
    }
    ([m, rest], rstd)
}

vector_fn! {
    /// Computes some rows of the forward pass; `statistics` are their `mean` and `rstd`.
    fn forward_rows<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        bias: &'a [f32],
        eps: f32,
        out: &'a mut [f32],
        statistics: [&'a mut [f32]; 2],
    ) -> () {
        let c = weight.len();
        let [mean, rstd] = statistics;
        let (mean, _) = mean.as_chunks_mut::<2>();
        let rows = out.chunks_exact_mut(c).zip(x.chunks_exact(c));
        for ((out, x), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
            (*mean, *rstd) = fast_normalize(x, weight, bias, out, eps);
        }
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([x, weight, bias], [out, mean, rstd]) = io.reals();
    let c = dims.C as usize;
    let rows = simd::rows_per_task(c);
    let statistics = mean.par_chunks_mut(2 * rows).zip(rstd.par_chunks_mut(rows));
    let tasks = out.par_chunks_mut(rows * c).zip(x.par_chunks(rows * c)).zip(statistics);
    tasks.for_each(|((out, x), (mean, rstd))| {
        forward_rows(x, weight, bias, dims.EPS, out, [mean, rstd]);
    });
}

vector_fn! {
    /// Computes some rows of `dx`; `x`, `dout` and `statistics` (`mean`, `rstd`) are those of the same rows.
    fn input_rows<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        dout: &'a [f32],
        statistics: [&'a [f32]; 2],
        dx: &'a mut [f32],
        overwrite: bool,
    ) -> () {
        let c = weight.len();
        let rows = x.chunks_exact(c).zip(dout.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
        let [mean, rstd] = statistics;
        let (mean, _) = mean.as_chunks::<2>();
        for (((x, dout), dx), (&[m, rest], &rstd)) in rows.zip(mean.iter().zip(rstd)) {
            let shift = -rest * rstd;
            let g = simd::dot(weight, dout) / c as f32;
            let inner =
                |sum: f32, x: f32, w: f32, d: f32| (x - m).fma(rstd, shift).fma(w * d, sum);
            let gn = simd::sum_by_3([x, weight, dout], inner) / c as f32;
            for (((dx, x), weight), dout) in dx.iter_mut().zip(x).zip(weight).zip(dout) {
                let n = (x - m).fma(rstd, shift);
                // Not fused: with one channel, the difference must be zero and not a rounding error.
                let new = rstd * n.fma(-gn, weight * dout - g);
                *dx = if overwrite { new } else { *dx + new };
            }
        }
    }
}

fn fast_backward_input(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let ([x, weight, mean, rstd, dout], [dx]) = io.reals();
    let c = dims.C as usize;
    let overwrite = step.overwrites(dims);
    let rows = simd::rows_per_task(c);
    let statistics = mean.par_chunks(2 * rows).zip(rstd.par_chunks(rows));
    let inputs = x.par_chunks(rows * c).zip(dout.par_chunks(rows * c)).zip(statistics);
    dx.par_chunks_mut(rows * c).zip(inputs).for_each(|(dx, ((x, dout), (mean, rstd)))| {
        input_rows(x, weight, dout, [mean, rstd], dx, overwrite);
    });
}

/// The number of rows per partial sum of the parameters' gradients.
const PARAM_ROWS: usize = 64;

vector_fn! {
    /// Adds the contribution of some rows to the gradients of the parameters.
    fn add_params<'a>(
        x: &'a [f32],
        statistics: [&'a [f32]; 2],
        dout: &'a [f32],
        weight: &'a mut [f32],
        bias: &'a mut [f32],
    ) -> () {
        let c = weight.len();
        let [mean, rstd] = statistics;
        let (mean, _) = mean.as_chunks::<2>();
        let rows = x.chunks_exact(c).zip(dout.chunks_exact(c));
        for ((x, dout), (&[m, rest], &rstd)) in rows.zip(mean.iter().zip(rstd)) {
            let shift = -rest * rstd;
            let sums = weight.iter_mut().zip(bias.iter_mut());
            for (((weight, bias), x), dout) in sums.zip(x).zip(dout) {
                *weight = (x - m).fma(rstd, shift).fma(*dout, *weight);
                *bias += dout;
            }
        }
    }
}

fn fast_backward_params(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let ([x, mean, rstd, dout], [dweight, dbias]) = io.reals();
    let c = dims.C as usize;
    let rows = PARAM_ROWS;
    let mut sums = vec![0.0; dims.rows().div_ceil(rows) * 2 * c];
    let statistics = mean.par_chunks(2 * rows).zip(rstd.par_chunks(rows));
    let inputs = x.par_chunks(rows * c).zip(dout.par_chunks(rows * c)).zip(statistics);
    sums.par_chunks_mut(2 * c).zip(inputs).for_each(|(sums, ((x, dout), (mean, rstd)))| {
        let (weight, bias) = sums.split_at_mut(c);
        add_params(x, [mean, rstd], dout, weight, bias);
    });
    if step.overwrites(dims) {
        dweight.fill(0.0);
        dbias.fill(0.0);
    }
    for sums in sums.chunks_exact(2 * c) {
        let (weight, bias) = sums.split_at(c);
        dweight.iter_mut().zip(weight).for_each(|(total, sum)| *total += sum);
        dbias.iter_mut().zip(bias).for_each(|(total, sum)| *total += sum);
    }
}
