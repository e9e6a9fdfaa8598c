//! Attention of new positions over all positions so far.
//!
//! In generation a cache (SLOTS,2,S,KVH·HS) holds the keys and the values of all positions of every slot so far. The
//! keys and values of a row ([`crate::kernel::rows`]) are stored at its position in its slot, and the row sees the
//! positions of that slot from its first key up to its own. Each row is computed by itself, so that its bits do not
//! depend on the other rows. The places of queries, keys and values are described as in training
//! ([`Qkv`](super::Qkv)).

use rayon::prelude::*;

use super::cpu::column_groups;
use super::four_head_channels;
use super::heads::{Heads, kv_head};
use super::twins::{dot, log_sum_exp, query, root};
use crate::graph::{Op, Recorder};
use crate::kernel::rows::Place;
use crate::kernel::{
    Dims, FLOATS, Io, Kernel, Needs, Real, Step, grid, reads, reads_u32, twin, writes, writes_part,
};
use crate::math::simd::MulAdd;
use crate::math::simd::{self, vector_fn};
use crate::ops::variants::portable;
use crate::plan::{Plan, View};

/// One workgroup per head of a row; z counts parts of its channels.
fn row_heads(d: &Dims, channels: u32) -> [u32; 3] {
    let [x, y, _] = grid::fold(d.NH * d.T);
    [x, y, d.HS.div_ceil(channels)]
}

/// Stores the keys and values of rows in the cache.
pub const EXTEND_STORE: Kernel = Kernel {
    name: "attention_extend_store",
    args: &[reads_u32("rows"), reads("qkv").takes(FLOATS), writes_part("cache").takes(FLOATS)],
    twin: twin!(extend_store),
    cpu: None,
    flops: |_| 0,
    tolerance: Kernel::TOLERANCE,
    variants: portable!("attention_extend_store", [HEADS, ROWS], |d, _| {
        grid::fold((d.T * d.KVH * d.HS).div_ceil(256))
    }),
};

/// Computes `out` of rows from their queries and the cache.
pub const EXTEND_FORWARD: Kernel = Kernel {
    name: "attention_extend_forward",
    args: &[
        reads_u32("rows"),
        reads("qkv").takes(FLOATS),
        reads("cache").takes(FLOATS),
        writes("out").takes(FLOATS),
    ],
    twin: twin!(extend_forward),
    cpu: Some(fast_extend_forward),
    flops: |d| 4 * u64::from(d.T) * u64::from(d.S) * u64::from(d.C),
    // The exponential of a sum of about 20 magnifies its rounding error by the same factor.
    tolerance: 5e-5,
    variants: portable!(
        "attention_extend_forward",
        [HEADS, REDUCE, ROWS],
        |d, _| row_heads(d, 256),
        "vectors": [HEADS, REDUCE, ROWS],
        Needs::NOTHING,
        four_head_channels,
        |d, _| row_heads(d, 1024)
    ),
};

/// Computes `out` (T,NH·HS) of T rows from `qkv` and a cache (SLOTS,2,S,KVH·HS).
pub struct AttentionExtend {
    /// T, S, SLOTS, C (NH·HS), NH, and the places of the heads.
    pub dims: Dims,
    /// (T,[`ROW_WORDS`](crate::kernel::rows::ROW_WORDS))
    pub rows: View,
    /// The layout that `dims` describes.
    pub qkv: View,
    /// (SLOTS,2,S,KVH·HS)
    pub cache: View,
    /// (T,NH·HS)
    pub out: View,
}

impl Op for AttentionExtend {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&EXTEND_STORE, self.dims, &[self.rows, self.qkv, self.cache]);
        let args = [self.rows, self.qkv, self.cache, self.out];
        plan.push(&EXTEND_FORWARD, self.dims, &args);
    }

    fn backward(&self, _: &mut Recorder<'_>) {
        unreachable!("generation has no backward pass");
    }
}

/// Returns the number of channels per position in the keys, or the values, of a cache.
fn cached_width(dims: &Dims) -> usize {
    (dims.KVH * dims.HS) as usize
}

/// Returns the keys and the values that a head of a row may see, starting at the first channel of the first one;
/// consecutive positions are [`cached_width`] apart.
fn cached<'a, F>(dims: &Dims, cache: &'a [F], place: Place, head: usize) -> [&'a [F]; 2] {
    let (width, hs) = (cached_width(dims), dims.HS as usize);
    let side = dims.S as usize * width;
    let slot = &cache[place.slot * 2 * side..][..2 * side];
    let first = place.first_key * width + kv_head(dims, head) * hs;
    [&slot[first..side], &slot[side + first..]]
}

fn extend_store<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([qkv], [cache]), [rows], []) = io.split();
    let (width, hs, s) = (cached_width(dims), dims.HS as usize, dims.S as usize);
    let [_, keys, values] = Heads::of(dims);
    for t in 0..dims.T as usize {
        let Some(place) = Place::of_row(dims, rows, t) else { continue };
        for (side, part) in [keys, values].into_iter().enumerate() {
            let stored = &mut cache[((2 * place.slot + side) * s + place.position) * width..];
            for (head, stored) in stored[..width].chunks_exact_mut(hs).enumerate() {
                stored.copy_from_slice(&qkv[part.at(t, head)..][..hs]);
            }
        }
    }
}

fn extend_forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([qkv, cache], [out]), [rows], []) = io.split();
    let (c, hs, width) = (dims.C as usize, dims.HS as usize, cached_width(dims));
    out.fill(F::zero());
    for t in 0..dims.T as usize {
        let Some(place) = Place::of_row(dims, rows, t) else { continue };
        for h in 0..dims.NH as usize {
            let [keys, values] = cached(dims, cache, place, h);
            let q = query(dims, qkv, t, h);
            let score = |j: usize| dot(q, &keys[j * width..][..hs]) / root(dims);
            let scores: Vec<F> = (0..place.keys()).map(score).collect();
            let total = log_sum_exp(&scores);
            let out = &mut out[t * c + h * hs..][..hs];
            for (j, s) in scores.into_iter().enumerate() {
                let p = (s - total).exp();
                let v = &values[j * width..][..hs];
                out.iter_mut().zip(v).for_each(|(out, &v)| *out = *out + p * v);
            }
        }
    }
}

vector_fn! {
    /// Computes the output of one query over as many keys and values as there are scores; they are `stride` apart.
    fn attend_row<'a>(
        q: &'a [f32],
        keys: &'a [f32],
        values: &'a [f32],
        stride: usize,
        scores: &'a mut [f32],
        out: &'a mut [f32],
    ) -> () {
        let hs = q.len();
        let scale = 1.0 / (hs as f32).sqrt();
        for (j, score) in scores.iter_mut().enumerate() {
            *score = simd::dot(q, &keys[j * stride..][..hs]) * scale;
        }
        let max = simd::max(scores);
        let scale = 1.0 / simd::exp_sum(scores, max);
        out.fill(0.0);
        let (fours, rest) = scores.as_chunks::<4>();
        for (i, p) in fours.iter().enumerate() {
            let row = |j: usize| &values[(4 * i + j) * stride..][..hs];
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let cd = p[2].fma(*c, p[3].fma(*d, *out));
                *out = p[0].fma(*a, p[1].fma(*b, cd));
            }
        }
        for (j, &p) in rest.iter().enumerate() {
            simd::add_scaled(out, p, &values[(4 * fours.len() + j) * stride..][..hs]);
        }
        out.iter_mut().for_each(|out| *out *= scale);
    }
}

fn fast_extend_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let (([qkv, cache], [out]), [rows], []) = io.split();
    let (t, c, hs, width) =
        (dims.T as usize, dims.C as usize, dims.HS as usize, cached_width(dims));
    let tasks = column_groups(out, t, c, hs).into_par_iter().enumerate();
    tasks.for_each_init(Vec::new, |scores: &mut Vec<f32>, (h, out)| {
        for (t, out) in out.into_iter().enumerate() {
            let Some(place) = Place::of_row(dims, rows, t) else {
                out.fill(0.0);
                continue;
            };
            scores.resize(place.keys(), 0.0);
            let [keys, values] = cached(dims, cache, place, h);
            attend_row(query(dims, qkv, t, h), keys, values, width, scores, out);
        }
    });
}
