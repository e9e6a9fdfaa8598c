//! Rotary embeddings (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): pairs of channels of the queries and the keys
//! are rotated by angles that are proportional to the position t.
//!
//! ```text
//! a = t · f[i]      i = 0 .. RC/2 - 1
//! out[i]        = x[i] cos a - x[i + RC/2] sin a
//! out[i + RC/2] = x[i + RC/2] cos a + x[i] sin a
//! ```
//!
//! The first RC channels of each head are rotated, and the others stay as they are; values are not rotated. It is done in
//! place. A rotation's gradient is rotated back, by the angle -a.
//!
//! The frequencies f are data, in turns per position, as binary fractions of 64 bits. So the product with a position is
//! exact, whole turns vanish by themselves, and the angle of position 100,000 is as exact as that of position 1.
//!
//! In training t counts from the start of the row's document, which is 0 unless the host writes it; in generation it is
//! in the table of rows ([`crate::kernel::rows`]).

use std::f64::consts::TAU;

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder};
use crate::kernel::rows::ROW_WORDS;
use crate::kernel::{
    Dims, FLOATS, Format, Io, Kernel, Needs, Real, Step, changes, grid, reads_u32, twin,
};
use crate::math::simd::MulAdd;
use crate::math::simd::{self, vector_fn};
use crate::ops::attention::{Heads, Qkv, four_head_channels};
use crate::ops::variants::portable;
use crate::plan::{Plan, View};

/// Rotates queries and keys by SCALE, 1 or -1, times their angles.
pub const FORWARD: Kernel = Kernel {
    name: "rotary_forward",
    args: &[reads_u32("frequencies"), reads_u32("places"), changes("qkv").takes(FLOATS)],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 40 * u64::from(pairs(d)),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "rotary_forward", [HEADS, ROTARY], |d, _| grid::fold(pairs(d).div_ceil(256)),
        "vectors": [HEADS, ROTARY], Needs::NOTHING, four_pairs,
        |d, _| grid::fold(pairs(d).div_ceil(1024))
    ),
};

/// Returns the number of pairs that are rotated.
fn pairs(d: &Dims) -> u32 {
    d.B * d.T * (d.NH + d.KVH) * (d.RC / 2)
}

/// Whether four neighbours of a head lie side by side on either side of their pairs.
fn four_pairs(d: &Dims, formats: &[Format]) -> bool {
    d.RC.is_multiple_of(8) && four_head_channels(d, formats)
}

/// Rotates the queries and the keys of a buffer, in place.
pub struct Rotary {
    /// B, T, RC, and the places of the heads.
    pub dims: Dims,
    /// (RC/2,2): turns per position, the high word first.
    pub frequencies: View,
    /// (B,T): where the document of each row begins; in generation the table of rows.
    pub places: View,
    /// Queries and keys, and their gradients.
    pub qkv: Qkv,
}

impl Graph {
    /// Rotates the queries and keys of `qkv` in place, before attention reads them: the first channels of each head, two for
    /// each of the `frequencies`, which are in radians per position.
    ///
    /// # Panics
    ///
    /// If there is no frequency, or more than half as many as channels of a head.
    pub fn rotary(&mut self, qkv: Qkv, frequencies: &[f64]) {
        let rotated = 2 * frequencies.len();
        let fits = (1..=qkv.head_size).contains(&rotated);
        assert!(fits, "{rotated} rotated channels of {}", qkv.head_size);
        let dims = qkv.dims(Dims { RC: rotated as u32, SCALE: 1.0, ..self.dims() });
        let words = frequencies.iter().flat_map(|radians| words_of(radians / TAU)).collect();
        let frequencies = self.plan.constant("rotary.frequencies", words);
        let places = match self.extends() {
            true => self.rows_table(),
            false => self.document_starts(),
        };
        self.push(Rotary { dims, frequencies, places, qkv });
    }
}

impl Op for Rotary {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&FORWARD, self.dims, &[self.frequencies, self.places, self.qkv.var.value]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let Rotary { dims, frequencies, places, qkv } = *self;
        if qkv.var.has_grad() {
            let back = Dims { SCALE: -dims.SCALE, ..dims };
            recorder.plan.push(&FORWARD, back, &[frequencies, places, qkv.var.grad]);
        }
    }
}

/// Returns the fraction of a number of turns as a binary fraction of 64 bits, the high word first.
fn words_of(turns: f64) -> [u32; 2] {
    let fraction = (turns.rem_euclid(1.0) * 2f64.powi(64)) as u64;
    [(fraction >> 32) as u32, fraction as u32]
}

/// Returns the angle at a position, in turns, as a signed binary fraction of 64 bits.
#[inline(always)]
fn phase([high, low]: [u32; 2], position: u32) -> i64 {
    (u64::from(high) << 32 | u64::from(low)).wrapping_mul(u64::from(position)) as i64
}

/// Returns the position of a row in its document.
fn position_of(dims: &Dims, places: &[u32], row: usize) -> u32 {
    if dims.SLOTS > 0 {
        return places[ROW_WORDS * row + 1];
    }
    let t = row as u32 % dims.T;
    t - places[row].min(t)
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([], [qkv]), [frequencies, places], []) = io.split();
    let (frequencies, _) = frequencies.as_chunks::<2>();
    let half = frequencies.len();
    let [queries, keys, _] = Heads::of(dims);
    for row in 0..dims.rows() {
        let position = position_of(dims, places, row);
        for part in [queries, keys] {
            for head in 0..part.heads {
                let x = &mut qkv[part.at(row, head)..][..2 * half];
                for (i, words) in frequencies.iter().enumerate() {
                    let turns = phase(*words, position) as f64 * 2f64.powi(-64);
                    let angle = turns * TAU * f64::from(dims.SCALE);
                    let [cos, sin] = [angle.cos(), angle.sin()].map(F::of);
                    let [a, b] = [x[i], x[i + half]];
                    x[i] = a * cos - b * sin;
                    x[i + half] = b * cos + a * sin;
                }
            }
        }
    }
}

vector_fn! {
    /// Rotates the heads of one row, which begin `stride` apart; `table` is memory for cosines and sines.
    fn rotate_row<'a>(
        frequencies: &'a [[u32; 2]],
        position: u32,
        sign: f32,
        heads: usize,
        stride: usize,
        table: &'a mut [[f32; 2]],
        row: &'a mut [f32],
    ) -> () {
        let half = frequencies.len();
        for (table, words) in table.iter_mut().zip(frequencies) {
            let [cos, sin] = simd::cos_sin(phase(*words, position));
            *table = [cos, sign * sin];
        }
        for head in 0..heads {
            let (first, second) = row[head * stride..][..2 * half].split_at_mut(half);
            for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(&*table) {
                (*a, *b) = (a.fma(*cos, -*b * sin), b.fma(*cos, *a * sin));
            }
        }
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let (([], [qkv]), [frequencies, places], []) = io.split();
    let (frequencies, _) = frequencies.as_chunks::<2>();
    let [queries, keys, _] = Heads::of(dims);
    for part in [queries, keys] {
        let rows = qkv[part.start..].par_chunks_mut(part.row_stride).take(dims.rows());
        let rows = rows.with_min_len(simd::rows_per_task(part.row_stride));
        let new_table = || vec![[0.0; 2]; frequencies.len()];
        rows.enumerate().for_each_init(new_table, |table, (row, data)| {
            let position = position_of(dims, places, row);
            let (sign, stride) = (dims.SCALE, part.head_stride);
            rotate_row(frequencies, position, sign, part.heads, stride, table, data);
        });
    }
}
