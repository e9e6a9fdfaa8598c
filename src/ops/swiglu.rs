//! A gated linear unit with SiLU, SwiGLU (Shazeer 2020, <https://arxiv.org/abs/2002.05202>): `out = silu(gate) · up`.
//!
//! ```text
//! σ = 1 / (1 + exp(-gate))      silu(gate) = gate · σ
//! dgate = dout · up · σ (1 + gate (1 - σ))      dup = dout · silu(gate)
//! ```

use rayon::prelude::*;

use crate::config::Recompute;
use crate::graph::{Graph, Op, Recorder, Sharing, Var, any_grad};
use crate::kernel::{
    Dims, FLOATS, Io, Kernel, Needs, Real, Step, four_channels, grid, reads, twin, writes,
};
use crate::math::simd::MulAdd;
use crate::math::simd::{self, CHUNK, vector_fn};
use crate::ops::variants::portable;
use crate::plan::Plan;

/// Computes `out` from `gate` and `up`.
pub const FORWARD: Kernel = Kernel {
    name: "swiglu_forward",
    args: &[reads("gate").takes(FLOATS), reads("up").takes(FLOATS), writes("out").takes(FLOATS)],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 5 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "swiglu_forward", [SILU], grid::elements,
        "vectors": [SILU], Needs::NOTHING, four_channels, grid::vectors
    ),
};

/// Computes `dgate` and `dup` from `dout`.
pub const BACKWARD: Kernel = Kernel {
    name: "swiglu_backward",
    args: &[
        reads("gate").takes(FLOATS),
        reads("up").takes(FLOATS),
        reads("dout").takes(FLOATS),
        writes("dgate").takes(FLOATS),
        writes("dup").takes(FLOATS),
    ],
    twin: twin!(backward),
    cpu: Some(fast_backward),
    flops: |d| 10 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "swiglu_backward", [SILU], grid::elements,
        "vectors": [SILU], Needs::NOTHING, four_channels, grid::vectors
    ),
};

/// Computes `out` (B,T,C) from `gate` and `up` (B,T,C).
#[derive(Clone, Copy)]
pub struct SwiGlu {
    /// B, T, C.
    pub dims: Dims,
    /// (B,T,C)
    pub gate: Var,
    /// (B,T,C)
    pub up: Var,
    /// (B,T,C)
    pub out: Var,
}

impl Graph {
    /// Adds `silu(gate) · up`; the two have gradients together or not at all.
    ///
    /// Where the backward pass recomputes it, all layers share its output.
    pub fn swiglu(&mut self, name: &str, gate: Var, up: Var) -> Var {
        let c = gate.value.len / self.rows();
        let again = self.recompute() == Recompute::Gelu && self.is_in_block();
        let sharing = if again { Sharing::Always } else { Sharing::InBlocks };
        let out = self.activation_of(name, c, sharing, any_grad(&[gate, up]));
        let node = SwiGlu { dims: Dims { C: c as u32, ..self.dims() }, gate, up, out };
        self.push(node);
        if again {
            self.compute_again(node);
        }
        out
    }
}

impl Op for SwiGlu {
    fn forward(&self, plan: &mut Plan) {
        let SwiGlu { dims, gate, up, out } = *self;
        plan.push(&FORWARD, dims, &[gate.value, up.value, out.value]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let SwiGlu { dims, gate, up, out } = *self;
        if out.has_grad() {
            let args = [gate.value, up.value, out.grad, gate.grad, up.grad];
            recorder.plan.push(&BACKWARD, dims, &args);
        }
    }
}

fn sigmoid<F: Real>(x: F) -> F {
    (F::one() + (-x).exp()).recip()
}

fn forward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([gate, up], [out]) = io.reals();
    for ((&gate, &up), out) in gate.iter().zip(up).zip(out) {
        *out = gate * sigmoid(gate) * up;
    }
}

fn backward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([gate, up, dout], [dgate, dup]) = io.reals();
    for i in 0..dout.len() {
        let (z, s) = (gate[i], sigmoid(gate[i]));
        dgate[i] = dout[i] * up[i] * s * (F::one() + z * (F::one() - s));
        dup[i] = dout[i] * z * s;
    }
}

vector_fn! {
    fn forward_chunk<'a>(gate: &'a [f32], up: &'a [f32], out: &'a mut [f32]) -> () {
        for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * simd::sigmoid(gate) * up;
        }
    }
}

vector_fn! {
    fn backward_chunk<'a>(
        inputs: [&'a [f32]; 3],
        dgate: &'a mut [f32],
        dup: &'a mut [f32],
    ) -> () {
        let [gate, up, dout] = inputs;
        let outputs = dgate.iter_mut().zip(dup);
        for ((((dgate, dup), &z), up), dout) in outputs.zip(gate).zip(up).zip(dout) {
            let s = simd::sigmoid(z);
            *dgate = dout * up * s * z.fma(1.0 - s, 1.0);
            *dup = dout * z * s;
        }
    }
}

fn fast_forward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([gate, up], [out]) = io.reals();
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
    let chunks = out.par_chunks_mut(CHUNK).zip(inputs);
    chunks.for_each(|(out, (gate, up))| forward_chunk(gate, up, out));
}

fn fast_backward(_: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([gate, up, dout], [dgate, dup]) = io.reals();
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dout.par_chunks(CHUNK));
    let chunks = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK)).zip(inputs);
    chunks.for_each(|((dgate, dup), ((gate, up), dout))| {
        backward_chunk([gate, up, dout], dgate, dup);
    });
}
