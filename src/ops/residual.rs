//! The sum of the residual stream and a branch: `out = stream + branch`.
//!
//! The stream before and after share one gradient buffer, so `dstream += dout` needs no work and
//! only the branch's gradient must be written, unless the branch has that buffer, too.

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var, any_grad};
use crate::kernel::{
    Dims, FLOATS, Io, Kernel, Needs, Real, Step, four_channels, grid, reads, twin, writes,
};
use crate::math::simd::{CHUNK, vector_fn};
use crate::ops::variants::portable;
use crate::plan::Plan;

/// Computes `out = stream + branch`.
pub const FORWARD: Kernel = Kernel {
    name: "residual_forward",
    args: &[reads("stream"), reads("branch").takes(FLOATS), writes("out")],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "residual_forward", [], grid::elements,
        "vectors": [], Needs::NOTHING, four_channels, grid::vectors
    ),
};

/// Computes `dbranch = dout`.
pub const BACKWARD: Kernel = Kernel {
    name: "residual_backward",
    args: &[reads("dout"), writes("dbranch")],
    twin: twin!(backward),
    cpu: Some(fast_backward),
    flops: |_| 0,
    tolerance: Kernel::TOLERANCE,
    variants: portable!("residual_backward", [], grid::elements),
};

/// Computes `out` (B,T,C) from `stream` and `branch` (B,T,C).
pub struct Residual {
    /// B, T, C.
    pub dims: Dims,
    /// (B,T,C)
    pub stream: Var,
    /// (B,T,C)
    pub branch: Var,
    /// (B,T,C)
    pub out: Var,
}

impl Graph {
    /// Adds a branch to the stream and returns the sum.
    pub fn residual(&mut self, name: &str, stream: Var, branch: Var) -> Var {
        self.residual_of(name, stream, branch, Sharing::InBlocks)
    }

    /// Does the same where the list ends, so that no backward pass reads the sum.
    pub fn last_residual(&mut self, name: &str, stream: Var, branch: Var) -> Var {
        self.residual_of(name, stream, branch, Sharing::OfFlights)
    }

    /// Does the same where only the next sum reads this one.
    pub fn passing_residual(&mut self, name: &str, stream: Var, branch: Var) -> Var {
        self.residual_of(name, stream, branch, Sharing::Always)
    }

    fn residual_of(&mut self, name: &str, stream: Var, branch: Var, sharing: Sharing) -> Var {
        let c = stream.value.len / self.rows();
        let out = self.stream_of(name, c, sharing, any_grad(&[stream, branch]));
        let dims = Dims { C: c as u32, ..self.dims() };
        self.push(Residual { dims, stream, branch, out });
        out
    }
}

impl Op for Residual {
    fn forward(&self, plan: &mut Plan) {
        let Residual { dims, stream, branch, out } = *self;
        plan.push(&FORWARD, dims, &[stream.value, branch.value, out.value]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let Residual { dims, branch, out, .. } = *self;
        if branch.has_grad() && branch.grad != out.grad {
            recorder.plan.push(&BACKWARD, dims, &[out.grad, branch.grad]);
        }
    }
}

fn forward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([stream, branch], [out]) = io.reals();
    for (i, out) in out.iter_mut().enumerate() {
        *out = stream[i] + branch[i];
    }
}

fn backward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([dout], [dbranch]) = io.reals();
    dbranch.copy_from_slice(dout);
}

vector_fn! {
    fn sum_chunk<'a>(stream: &'a [f32], branch: &'a [f32], out: &'a mut [f32]) -> () {
        for ((out, stream), branch) in out.iter_mut().zip(stream).zip(branch) {
            *out = stream + branch;
        }
    }
}

fn fast_forward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([stream, branch], [out]) = io.reals();
    let inputs = stream.par_chunks(CHUNK).zip(branch.par_chunks(CHUNK));
    let chunks = out.par_chunks_mut(CHUNK).zip(inputs);
    chunks.for_each(|(out, (stream, branch))| sum_chunk(stream, branch, out));
}

fn fast_backward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([dout], [dbranch]) = io.reals();
    let chunks = dbranch.par_chunks_mut(CHUNK).zip(dout.par_chunks(CHUNK));
    chunks.for_each(|(dbranch, dout)| dbranch.copy_from_slice(dout));
}
