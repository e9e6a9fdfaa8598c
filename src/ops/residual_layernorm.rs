//! A residual sum and the layer normalisation after it, in one pass over the rows.
//!
//! ```text
//! sum = stream + branch      out = layernorm(sum)
//! ```
//!
//! The stream before and after the sum and the branch share one gradient buffer (the gradient of a sum
//! flows unchanged into both terms), so the backward pass is only that of [`layernorm`].

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var, any_grad};
use crate::kernel::{
    Dims, FLOATS, Io, Kernel, Real, Step, four_channels, grid, reads, twin, writes,
};
use crate::math::simd::{self, vector_fn};
use crate::ops::layernorm::{self, LayerNorm};
use crate::ops::variants::rows;
use crate::plan::Plan;

/// Computes `sum`, `out`, `mean` and `rstd` from `stream` and `branch`.
pub const FORWARD: Kernel = Kernel {
    name: "residual_layernorm_forward",
    args: &[
        reads("stream"),
        reads("branch").takes(FLOATS),
        reads("weight"),
        reads("bias"),
        writes("sum"),
        writes("out").takes(FLOATS),
        writes("mean"),
        writes("rstd"),
    ],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 9 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("residual_layernorm_forward", [NORM], grid::row_count, four_channels),
};

/// Computes `norm.x` and `norm.out` (B,T,C) from `stream` and `branch` (B,T,C).
pub struct ResidualLayerNorm {
    /// (B,T,C)
    pub stream: Var,
    /// (B,T,C)
    pub branch: Var,
    /// The normalisation; its input is the sum.
    pub norm: LayerNorm,
}

impl Graph {
    /// Adds `branch` to the stream; returns the sum and its normalisation.
    pub fn residual_layernorm(&mut self, name: &str, stream: Var, branch: Var) -> (Var, Var) {
        let c = stream.value.len / self.rows();
        let sum = self.stream_of(
            &format!("{name}.sum"),
            c,
            Sharing::InBlocks,
            any_grad(&[stream, branch]),
        );
        let norm = self.norm(name, sum);
        let out = norm.out;
        self.push(ResidualLayerNorm { stream, branch, norm });
        (sum, out)
    }
}

impl Op for ResidualLayerNorm {
    fn forward(&self, plan: &mut Plan) {
        let LayerNorm { dims, x, weight, bias, out, mean, rstd, .. } = self.norm;
        let (stream, branch) = (self.stream.value, self.branch.value);
        let args = [stream, branch, weight.value, bias.value, x.value, out.value, mean, rstd];
        plan.push(&FORWARD, dims, &args);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        self.norm.backward(recorder);
    }
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([stream, branch, weight, bias], [sum, out, mean, rstd]) = io.reals();
    let c = dims.C as usize;
    let (mean, _) = mean.as_chunks_mut::<2>();
    for row in 0..dims.rows() {
        let at = row * c..(row + 1) * c;
        for i in at.clone() {
            sum[i] = stream[i] + branch[i];
        }
        let x = &sum[at.clone()];
        (mean[row], rstd[row]) = layernorm::normalize(x, weight, bias, &mut out[at], dims.EPS);
    }
}

vector_fn! {
    /// Computes some rows; `outputs` are their `sum` and `out`, `statistics` their `mean` and `rstd`.
    fn forward_rows<'a>(
        inputs: [&'a [f32]; 2],
        weight: &'a [f32],
        bias: &'a [f32],
        eps: f32,
        outputs: [&'a mut [f32]; 2],
        statistics: [&'a mut [f32]; 2],
    ) -> () {
        let c = weight.len();
        let ([stream, branch], [sum, out], [mean, rstd]) = (inputs, outputs, statistics);
        let inputs = stream.chunks_exact(c).zip(branch.chunks_exact(c));
        let outputs = sum.chunks_exact_mut(c).zip(out.chunks_exact_mut(c));
        let (mean, _) = mean.as_chunks_mut::<2>();
        let statistics = mean.iter_mut().zip(rstd);
        for (((stream, branch), (sum, out)), (mean, rstd)) in inputs.zip(outputs).zip(statistics) {
            for ((sum, stream), branch) in sum.iter_mut().zip(stream).zip(branch) {
                *sum = stream + branch;
            }
            (*mean, *rstd) = layernorm::fast_normalize(sum, weight, bias, out, eps);
        }
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([stream, branch, weight, bias], [sum, out, mean, rstd]) = io.reals();
    let c = dims.C as usize;
    let rows = simd::rows_per_task(c);
    let statistics = mean.par_chunks_mut(2 * rows).zip(rstd.par_chunks_mut(rows));
    let outputs = sum.par_chunks_mut(rows * c).zip(out.par_chunks_mut(rows * c)).zip(statistics);
    let inputs = stream.par_chunks(rows * c).zip(branch.par_chunks(rows * c));
    outputs.zip(inputs).for_each(|(((sum, out), (mean, rstd)), (stream, branch))| {
        forward_rows([stream, branch], weight, bias, dims.EPS, [sum, out], [mean, rstd]);
    });
}
