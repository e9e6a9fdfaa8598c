//! A residual sum and the root mean square normalisation after it, in one pass over the rows.
//!
//! ```text
//! sum = stream + branch      out = rmsnorm(sum)
//! ```
//!
//! The stream before and after the sum and the branch share one gradient buffer, so the backward pass is only that of
//! [`rmsnorm`], as with [`residual_layernorm`](super::residual_layernorm).

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var, any_grad};
use crate::kernel::{
    Dims, FLOATS, Io, Kernel, Real, Step, four_channels, grid, reads, twin, writes,
};
use crate::math::simd::{self, vector_fn};
use crate::ops::rmsnorm::{self, RmsNorm};
use crate::ops::variants::rows;
use crate::plan::Plan;

/// Computes `sum`, `out` and `rstd` from `stream` and `branch`.
pub const FORWARD: Kernel = Kernel {
    name: "residual_rmsnorm_forward",
    args: &[
        reads("stream"),
        reads("branch").takes(FLOATS),
        reads("weight"),
        writes("sum"),
        writes("out").takes(FLOATS),
        writes("rstd"),
    ],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 5 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("residual_rmsnorm_forward", [], grid::row_count, four_channels),
};

/// Computes `norm.x` and `norm.out` (B,T,C) from `stream` and `branch` (B,T,C).
pub struct ResidualRmsNorm {
    /// (B,T,C)
    pub stream: Var,
    /// (B,T,C)
    pub branch: Var,
    /// The normalisation; its input is the sum.
    pub norm: RmsNorm,
}

impl Graph {
    /// Adds `branch` to the stream; returns the sum and its normalisation.
    pub fn residual_rmsnorm(&mut self, name: &str, stream: Var, branch: Var) -> (Var, Var) {
        let c = stream.value.len / self.rows();
        let has_grad = any_grad(&[stream, branch]);
        let sum = self.stream_of(&format!("{name}.sum"), c, Sharing::InBlocks, has_grad);
        let norm = self.rms(name, sum);
        let out = norm.out;
        self.push(ResidualRmsNorm { stream, branch, norm });
        (sum, out)
    }
}

impl Op for ResidualRmsNorm {
    fn forward(&self, plan: &mut Plan) {
        let RmsNorm { dims, x, weight, out, rstd, .. } = self.norm;
        let (stream, branch) = (self.stream.value, self.branch.value);
        plan.push(&FORWARD, dims, &[stream, branch, weight.value, x.value, out.value, rstd]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        self.norm.backward(recorder);
    }
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([stream, branch, weight], [sum, out, rstd]) = io.reals();
    let c = dims.C as usize;
    for (row, rstd) in rstd.iter_mut().enumerate() {
        let at = row * c..(row + 1) * c;
        for i in at.clone() {
            sum[i] = stream[i] + branch[i];
        }
        *rstd = rmsnorm::normalize(&sum[at.clone()], weight, &mut out[at], dims.EPS);
    }
}

vector_fn! {
    /// Computes some rows; `outputs` are their `sum` and `out`.
    fn forward_rows<'a>(
        inputs: [&'a [f32]; 2],
        weight: &'a [f32],
        eps: f32,
        outputs: [&'a mut [f32]; 2],
        rstd: &'a mut [f32],
    ) -> () {
        let c = weight.len();
        let ([stream, branch], [sum, out]) = (inputs, outputs);
        let inputs = stream.chunks_exact(c).zip(branch.chunks_exact(c));
        let outputs = sum.chunks_exact_mut(c).zip(out.chunks_exact_mut(c));
        for (((stream, branch), (sum, out)), rstd) in inputs.zip(outputs).zip(rstd) {
            for ((sum, stream), branch) in sum.iter_mut().zip(stream).zip(branch) {
                *sum = stream + branch;
            }
            *rstd = rmsnorm::fast_normalize(sum, weight, out, eps);
        }
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([stream, branch, weight], [sum, out, rstd]) = io.reals();
    let c = dims.C as usize;
    let rows = simd::rows_per_task(c);
    let outputs = sum.par_chunks_mut(rows * c).zip(out.par_chunks_mut(rows * c));
    let inputs = stream.par_chunks(rows * c).zip(branch.par_chunks(rows * c));
    let tasks = outputs.zip(inputs).zip(rstd.par_chunks_mut(rows));
    tasks.for_each(|(((sum, out), (stream, branch)), rstd)| {
        forward_rows([stream, branch], weight, dims.EPS, [sum, out], rstd);
    });
}
