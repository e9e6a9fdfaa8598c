//! Causal softmax of attention scores: row i of (T,T) sees columns 0..=i.
//!
//! ```text
//! p[i, j] = exp(s[i, j] - max) / Σ_{j' <= i} exp(s[i, j'] - max), 0 for j > i
//! ds[i, j] = p[i, j] · (dp[i, j] - Σ_j' p[i, j'] · dp[i, j'])
//! ```

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var};
use crate::kernel::{Dims, Io, Kernel, Real, Step, always, reads, twin, writes};
use crate::math::simd::{self, vector_fn};
use crate::ops::variants::rows;
use crate::plan::Plan;

fn row_count(d: &Dims) -> u32 {
    d.B * d.NH * d.T
}

/// Computes `p` from `s`.
pub const FORWARD: Kernel = Kernel {
    name: "softmax_forward",
    args: &[reads("s"), writes("p")],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 4 * u64::from(d.B * d.NH) * u64::from(d.T) * u64::from(d.T),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("softmax_forward", [], row_count, always),
};

/// Computes `ds` from `dp`.
pub const BACKWARD: Kernel = Kernel {
    name: "softmax_backward",
    args: &[reads("p"), reads("dp"), writes("ds")],
    twin: twin!(backward),
    cpu: Some(fast_backward),
    flops: |d| 4 * u64::from(d.B * d.NH) * u64::from(d.T) * u64::from(d.T),
    tolerance: Kernel::TOLERANCE,
    variants: rows!("softmax_backward", [], row_count, always),
};

/// Computes `p` (B,NH,T,T) from `s` (B,NH,T,T).
pub struct CausalSoftmax {
    /// B, NH, T.
    pub dims: Dims,
    /// (B,NH,T,T)
    pub s: Var,
    /// (B,NH,T,T)
    pub p: Var,
}

impl Graph {
    /// Adds the causal softmax of scores (B,`nh`,T,T).
    pub fn softmax(&mut self, name: &str, s: Var, nh: usize) -> Var {
        let c = s.value.len / self.rows();
        let p = self.activation_of(name, c, Sharing::InBlocks, s.has_grad());
        let dims = Dims { NH: nh as u32, ..self.dims() };
        self.push(CausalSoftmax { dims, s, p });
        p
    }
}

impl Op for CausalSoftmax {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&FORWARD, self.dims, &[self.s.value, self.p.value]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        if self.s.has_grad() {
            let args = [self.p.value, self.p.grad, self.s.grad];
            recorder.plan.push(&BACKWARD, self.dims, &args);
        }
    }
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([s], [p]) = io.reals();
    let t = dims.T as usize;
    for (row, (s, p)) in s.chunks(t).zip(p.chunks_mut(t)).enumerate() {
        let seen = row % t + 1;
        let max = s[..seen].iter().copied().fold(F::neg_infinity(), F::max);
        let sum: F = s[..seen].iter().map(|&s| (s - max).exp()).sum();
        for j in 0..t {
            p[j] = if j < seen { (s[j] - max).exp() / sum } else { F::zero() };
        }
    }
}

fn backward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([p, dp], [ds]) = io.reals();
    let t = dims.T as usize;
    for (row, ds) in ds.chunks_mut(t).enumerate() {
        let (p, dp) = (&p[row * t..(row + 1) * t], &dp[row * t..(row + 1) * t]);
        let seen = row % t + 1;
        let dot: F = (0..seen).map(|j| p[j] * dp[j]).sum();
        for j in 0..t {
            ds[j] = if j < seen { p[j] * (dp[j] - dot) } else { F::zero() };
        }
    }
}

vector_fn! {
    /// Computes the softmax of the columns that a row sees.
    fn forward_row<'a>(s: &'a [f32], p: &'a mut [f32]) -> () {
        p.copy_from_slice(s);
        let scale = 1.0 / simd::exp_sum(p, simd::max(s));
        p.iter_mut().for_each(|p| *p *= scale);
    }
}

vector_fn! {
    fn backward_row<'a>(p: &'a [f32], dp: &'a [f32], ds: &'a mut [f32]) -> () {
        let dot = simd::dot(p, dp);
        for ((ds, p), dp) in ds.iter_mut().zip(p).zip(dp) {
            *ds = p * (dp - dot);
        }
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([s], [p]) = io.reals();
    let t = dims.T as usize;
    let task = simd::rows_per_task(t);
    p.par_chunks_mut(task * t).enumerate().for_each(|(first, p)| {
        for (i, p) in p.chunks_exact_mut(t).enumerate() {
            let row = first * task + i;
            let (p, hidden) = p.split_at_mut(row % t + 1);
            hidden.fill(0.0);
            forward_row(&s[row * t..][..p.len()], p);
        }
    });
}

fn fast_backward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([p, dp], [ds]) = io.reals();
    let t = dims.T as usize;
    let task = simd::rows_per_task(t);
    ds.par_chunks_mut(task * t).enumerate().for_each(|(first, ds)| {
        for (i, ds) in ds.chunks_exact_mut(t).enumerate() {
            let row = first * task + i;
            let (ds, hidden) = ds.split_at_mut(row % t + 1);
            hidden.fill(0.0);
            backward_row(&p[row * t..][..ds.len()], &dp[row * t..][..ds.len()], ds);
        }
    });
}
