//! Attention of new positions over all positions so far.
//!
//! In generation a cache (2,S,C) holds the keys and the values of all positions so far: rows are
//! stored at `step.position`, and each new row sees the positions up to its own.

use rayon::prelude::*;

use super::cpu::{Scratch, TILE, attend, column_groups, rows_of};
use super::four_head_channels;
use super::heads::{Heads, Seen};
use super::twins::{dot, log_sum_exp, query, root};
use crate::graph::{Op, Recorder};
use crate::kernel::{Dims, Io, Kernel, Needs, Real, Step, grid, reads, twin, writes, writes_part};
use crate::math::gemm::Matrix;
use crate::ops::variants::portable;
use crate::plan::{Plan, View};

/// One workgroup a head of a new row; z counts parts of its channels.
fn row_heads(d: &Dims, channels: u32) -> [u32; 3] {
    let [x, y, _] = grid::fold(d.NH * d.T);
    [x, y, (d.C / d.NH).div_ceil(channels)]
}

/// Keys and values of new rows into the cache.
pub const EXTEND_STORE: Kernel = Kernel {
    name: "attention_extend_store",
    args: &[reads("qkv").or_half(), writes_part("cache").or_half()],
    twin: twin!(extend_store),
    cpu: None,
    flops: |_| 0,
    variants: portable!("attention_extend_store", [], |d, _| grid::fold((d.T * d.C).div_ceil(256))),
};

/// `out` of new rows from their queries and the cache.
pub const EXTEND_FORWARD: Kernel = Kernel {
    name: "attention_extend_forward",
    args: &[reads("qkv").or_half(), reads("cache").or_half(), writes("out").or_half()],
    twin: twin!(extend_forward),
    cpu: Some(fast_extend_forward),
    flops: |d| 4 * u64::from(d.T) * u64::from(d.S) * u64::from(d.C),
    variants: portable!(
        "attention_extend_forward",
        [REDUCE],
        |d, _| row_heads(d, 256),
        "vectors": [REDUCE],
        Needs::NOTHING,
        four_head_channels,
        |d, _| row_heads(d, 1024)
    ),
};

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
            let q = query(dims, qkv, t, h);
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

fn fast_extend_forward(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let ([qkv, cache], [out]) = io.reals();
    let [queries, _, _] = Heads::of(dims);
    let (t, c, hs) = (dims.T as usize, dims.C as usize, (dims.C / dims.NH) as usize);
    let (keys, values) = cache.split_at(dims.S as usize * c);
    let n = t.min(step.count as usize);
    let (first, end) = (step.position as usize, step.position as usize + n);
    let (out, masked) = out.split_at_mut(n * c);
    masked.fill(0.0);
    let tasks = column_groups(out, n, c, hs).into_par_iter().enumerate();
    tasks.for_each_init(Scratch::default, |scratch, (h, mut out)| {
        let [k, v] = [keys, values].map(|side| Matrix::new(&side[h * hs..], end, hs, c));
        for (i, out) in out.chunks_mut(TILE).enumerate() {
            let q = rows_of(dims, qkv, queries, h, i * TILE, out.len());
            attend([q, k, v], Seen::all(first + i * TILE), out, None, scratch);
        }
    });
}
