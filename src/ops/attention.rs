//! Causal self-attention (Vaswani et al. 2017) with the signature of flash attention (Dao et al. 2022).
//!
//! ```text
//! s[i, j] = q[i] · k[j] / √HS for j <= i      lse[i] = log Σ_j exp(s[i, j])      p = exp(s - lse)
//! out[i]  = Σ_j p[i, j] v[j]
//!
//! delta[i] = dout[i] · out[i]      ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i])
//! dq[i] = Σ_j ds[i, j] k[j] / √HS      dk[j] = Σ_i ds[i, j] q[i] / √HS      dv[j] = Σ_i p[i, j] dout[i]
//! ```
//!
//! `qkv` is GPT-2's (B,T,3C): q | k | v, head h at columns h·HS.. of each. No (T,T) matrix is kept:
//! the backward pass finds p again from the row log-sum-exp.
//!
//! In generation a cache (2,S,C) holds the keys and the values of all positions so far: rows are
//! stored at `step.position`, and each new row sees the positions up to its own.

use crate::graph::{Recorder, Var};
use crate::kernel::{Dims, Io, Kernel, Real, Step, grid, reads, twin, writes, writes_part};
use crate::ops::{Op, portable};
use crate::plan::{Plan, View};

/// B·NH·T²/2 pairs of a query and a key, times `work` a channel.
fn pair_flops(d: &Dims, work: u64) -> u64 {
    work * u64::from(d.B) * u64::from(d.T) * u64::from(d.T) * u64::from(d.C) / 2
}

/// `out` and `lse` from `qkv`.
pub const FORWARD: Kernel = Kernel {
    name: "attention_forward",
    args: &[reads("qkv"), writes("out"), writes("lse")],
    twin: twin!(forward),
    cpu: None,
    flops: |d| pair_flops(d, 4),
    variants: portable!("attention_forward", [REDUCE], |d, _| grid::fold(d.B * d.NH * d.T)),
};

/// `dqkv` from `dout`.
pub const BACKWARD: Kernel = Kernel {
    name: "attention_backward",
    args: &[reads("qkv"), reads("out"), reads("lse"), reads("dout"), writes("dqkv")],
    twin: twin!(backward),
    cpu: None,
    flops: |d| pair_flops(d, 10),
    variants: portable!("attention_backward", [REDUCE], |d, _| grid::fold(d.B * d.NH * d.T)),
};

/// Keys and values of new rows into the cache.
pub const EXTEND_STORE: Kernel = Kernel {
    name: "attention_extend_store",
    args: &[reads("qkv"), writes_part("cache")],
    twin: twin!(extend_store),
    cpu: None,
    flops: |_| 0,
    variants: portable!("attention_extend_store", [], |d, _| grid::fold(d.T * d.C.div_ceil(128))),
};

/// `out` of new rows from their queries and the cache.
pub const EXTEND_FORWARD: Kernel = Kernel {
    name: "attention_extend_forward",
    args: &[reads("qkv"), reads("cache"), writes("out")],
    twin: twin!(extend_forward),
    cpu: None,
    flops: |d| 4 * u64::from(d.T) * u64::from(d.S) * u64::from(d.C),
    variants: portable!("attention_extend_forward", [REDUCE], |d, _| grid::fold(d.NH * d.T)),
};

/// `out` (B,T,C) from `qkv` (B,T,3C); `lse` (B,NH,T) is kept.
pub struct Attention {
    /// B, T, C, NH.
    pub dims: Dims,
    /// (B,T,3C)
    pub qkv: Var,
    /// (B,T,C)
    pub out: Var,
    /// (B,NH,T)
    pub lse: View,
}

impl Op for Attention {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&FORWARD, self.dims, &[self.qkv.value, self.out.value, self.lse]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let args = [self.qkv.value, self.out.value, self.lse, self.out.grad, self.qkv.grad];
        recorder.plan.push(&BACKWARD, self.dims, &args);
    }
}

/// `out` (T,C) of T new positions from `qkv` (T,3C) and a cache (2,S,C); one sequence.
pub struct AttentionExtend {
    /// B (1), T, C, NH, S.
    pub dims: Dims,
    /// (T,3C)
    pub qkv: View,
    /// (2,S,C)
    pub cache: View,
    /// (T,C)
    pub out: View,
}

impl Op for AttentionExtend {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&EXTEND_STORE, self.dims, &[self.qkv, self.cache]);
        plan.push(&EXTEND_FORWARD, self.dims, &[self.qkv, self.cache, self.out]);
    }

    fn backward(&self, _: &mut Recorder<'_>) {
        unreachable!("generation has no backward pass");
    }
}

/// The q (0), k (1) or v (2) of one position of one head.
fn part<'a, F>(dims: &Dims, qkv: &'a [F], which: usize, row: usize, head: usize) -> &'a [F] {
    let (c, hs) = (dims.C as usize, (dims.C / dims.NH) as usize);
    let at = row * 3 * c + which * c + head * hs;
    &qkv[at..at + hs]
}

fn dot<F: Real>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// √HS, which scores are divided by.
fn root<F: Real>(dims: &Dims) -> F {
    F::of(f64::from(dims.C / dims.NH)).sqrt()
}

/// All (b, head) pairs.
fn heads(dims: &Dims) -> impl Iterator<Item = (usize, usize)> {
    let heads = dims.NH as usize;
    (0..dims.B as usize * heads).map(move |i| (i / heads, i % heads))
}

/// log Σ exp, without overflow.
fn log_sum_exp<F: Real>(scores: &[F]) -> F {
    let max = scores.iter().copied().fold(F::neg_infinity(), F::max);
    max + scores.iter().map(|&s| (s - max).exp()).sum::<F>().ln()
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([qkv], [out, lse]) = io.reals();
    let (t, c, hs) = (dims.T as usize, dims.C as usize, (dims.C / dims.NH) as usize);
    for (b, h) in heads(dims) {
        for i in 0..t {
            let q = part(dims, qkv, 0, b * t + i, h);
            let scores: Vec<F> =
                (0..=i).map(|j| dot(q, part(dims, qkv, 1, b * t + j, h)) / root(dims)).collect();
            let total = log_sum_exp(&scores);
            lse[(b * dims.NH as usize + h) * t + i] = total;
            let out = &mut out[(b * t + i) * c + h * hs..][..hs];
            out.fill(F::zero());
            for (j, s) in scores.into_iter().enumerate() {
                let p = (s - total).exp();
                let v = part(dims, qkv, 2, b * t + j, h);
                out.iter_mut().zip(v).for_each(|(out, &v)| *out = *out + p * v);
            }
        }
    }
}

fn backward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([qkv, out, lse, dout], [dqkv]) = io.reals();
    let (t, c, hs) = (dims.T as usize, dims.C as usize, (dims.C / dims.NH) as usize);
    dqkv.fill(F::zero());
    for (b, h) in heads(dims) {
        for i in 0..t {
            let row = b * t + i;
            let (out, dout) = (&out[row * c + h * hs..][..hs], &dout[row * c + h * hs..][..hs]);
            let q = part(dims, qkv, 0, row, h);
            let total = lse[(b * dims.NH as usize + h) * t + i];
            let delta = dot(dout, out);
            for j in 0..=i {
                let other = b * t + j;
                let (k, v) = (part(dims, qkv, 1, other, h), part(dims, qkv, 2, other, h));
                let p = (dot(q, k) / root(dims) - total).exp();
                let ds = p * (dot(dout, v) - delta) / root(dims);
                for d in 0..hs {
                    let [dq, dk, dv] = [(row, 0), (other, 1), (other, 2)]
                        .map(|(r, w)| r * 3 * c + w * c + h * hs + d);
                    dqkv[dq] = dqkv[dq] + ds * k[d];
                    dqkv[dk] = dqkv[dk] + ds * q[d];
                    dqkv[dv] = dqkv[dv] + p * dout[d];
                }
            }
        }
    }
}

fn extend_store<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([qkv], [cache]) = io.reals();
    let (c, s) = (dims.C as usize, dims.S as usize);
    for t in 0..dims.T.min(step.count) as usize {
        for (which, side) in cache.chunks_mut(s * c).enumerate() {
            let row = &qkv[t * 3 * c + (which + 1) * c..][..c];
            side[(step.position as usize + t) * c..][..c].copy_from_slice(row);
        }
    }
}

fn extend_forward<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([qkv, cache], [out]) = io.reals();
    let (c, hs) = (dims.C as usize, (dims.C / dims.NH) as usize);
    let (keys, values) = cache.split_at(dims.S as usize * c);
    out.fill(F::zero());
    for t in 0..dims.T.min(step.count) as usize {
        for h in 0..dims.NH as usize {
            let q = part(dims, qkv, 0, t, h);
            let scores: Vec<F> = (0..=step.position as usize + t)
                .map(|j| dot(q, &keys[j * c + h * hs..][..hs]) / root(dims))
                .collect();
            let total = log_sum_exp(&scores);
            let out = &mut out[t * c + h * hs..][..hs];
            for (j, s) in scores.into_iter().enumerate() {
                let p = (s - total).exp();
                let v = &values[j * c + h * hs..][..hs];
                out.iter_mut().zip(v).for_each(|(out, &v)| *out = *out + p * v);
            }
        }
    }
}
