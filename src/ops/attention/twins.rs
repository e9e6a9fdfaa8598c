//! The twins of attention in training, and the helpers that they share with those of generation.

use std::ops::Range;

use super::heads::{Heads, kv_head};
use crate::kernel::{Dims, Io, Real, Step};

/// Returns the query of a head of a row.
pub(super) fn query<'a, F>(dims: &Dims, qkv: &'a [F], row: usize, head: usize) -> &'a [F] {
    let [q, _, _] = Heads::of(dims);
    &qkv[q.at(row, head)..][..dims.HS as usize]
}

/// Returns the key and the value of a row that a query head reads.
fn key_and_value<'a, F>(dims: &Dims, qkv: &'a [F], row: usize, head: usize) -> [&'a [F]; 2] {
    let [_, k, v] = Heads::of(dims);
    [k, v].map(|part| &qkv[part.at(row, kv_head(dims, head))..][..dims.HS as usize])
}

pub(super) fn dot<F: Real>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// Returns √HS, the divisor of the scores.
pub(super) fn root<F: Real>(dims: &Dims) -> F {
    F::of(f64::from(dims.HS)).sqrt()
}

/// Computes log Σ exp without overflow.
pub(super) fn log_sum_exp<F: Real>(scores: &[F]) -> F {
    let max = scores.iter().copied().fold(F::neg_infinity(), F::max);
    max + scores.iter().map(|&s| (s - max).exp()).sum::<F>().ln()
}

/// Returns all (b, head) pairs.
fn heads(dims: &Dims) -> impl Iterator<Item = (usize, usize)> {
    let heads = dims.NH as usize;
    (0..dims.B as usize * heads).map(move |i| (i / heads, i % heads))
}

/// Returns the rows of B · T that a row sees: from its first key, which is at most the row itself and in its window, up
/// to itself.
fn seen(dims: &Dims, first_key: &[u32], row: usize) -> Range<usize> {
    let position = row % dims.T as usize;
    let first = position.min(first_key[row] as usize).max(dims.window_start(position));
    row - position + first..row + 1
}

pub(super) fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([qkv], [out, lse]), [first_key], []) = io.split();
    let (t, c, hs) = (dims.T as usize, dims.C as usize, dims.HS as usize);
    for (b, h) in heads(dims) {
        for i in 0..t {
            let row = b * t + i;
            let seen = seen(dims, first_key, row);
            let q = query(dims, qkv, row, h);
            let score = |j| dot(q, key_and_value(dims, qkv, j, h)[0]) / root(dims);
            let scores: Vec<F> = seen.clone().map(score).collect();
            let total = log_sum_exp(&scores);
            lse[(b * dims.NH as usize + h) * t + i] = total;
            let out = &mut out[row * c + h * hs..][..hs];
            out.fill(F::zero());
            for (j, s) in seen.zip(scores) {
                let p = (s - total).exp();
                let [_, v] = key_and_value(dims, qkv, j, h);
                out.iter_mut().zip(v).for_each(|(out, &v)| *out = *out + p * v);
            }
        }
    }
}

pub(super) fn backward_delta<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([out, dout], [delta]) = io.reals();
    let (t, c, hs) = (dims.T as usize, dims.C as usize, dims.HS as usize);
    for (b, h) in heads(dims) {
        for i in 0..t {
            let at = (b * t + i) * c + h * hs;
            delta[(b * dims.NH as usize + h) * t + i] = dot(&out[at..at + hs], &dout[at..at + hs]);
        }
    }
}

/// Zeroes the gradients of queries, keys and values, and leaves the elements between them unchanged.
fn clear<F: Real>(dims: &Dims, dqkv: &mut [F]) {
    for part in Heads::of(dims) {
        for row in 0..dims.rows() {
            for head in 0..part.heads {
                dqkv[part.at(row, head)..][..dims.HS as usize].fill(F::zero());
            }
        }
    }
}

pub(super) fn backward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([qkv, lse, delta, dout], [dqkv]), [first_key], []) = io.split();
    let (t, c, hs) = (dims.T as usize, dims.C as usize, dims.HS as usize);
    let [queries, keys, values] = Heads::of(dims);
    clear(dims, dqkv);
    for (b, h) in heads(dims) {
        let kv = kv_head(dims, h);
        for i in 0..t {
            let row = b * t + i;
            let dout = &dout[row * c + h * hs..][..hs];
            let q = query(dims, qkv, row, h);
            let at = (b * dims.NH as usize + h) * t + i;
            let (total, delta) = (lse[at], delta[at]);
            for other in seen(dims, first_key, row) {
                let [k, v] = key_and_value(dims, qkv, other, h);
                let p = (dot(q, k) / root(dims) - total).exp();
                let ds = p * (dot(dout, v) - delta) / root(dims);
                let [dq, dk, dv] = [queries.at(row, h), keys.at(other, kv), values.at(other, kv)];
                for d in 0..hs {
                    dqkv[dq + d] = dqkv[dq + d] + ds * k[d];
                    dqkv[dk + d] = dqkv[dk + d] + ds * q[d];
                    dqkv[dv + d] = dqkv[dv + d] + p * dout[d];
                }
            }
        }
    }
}
