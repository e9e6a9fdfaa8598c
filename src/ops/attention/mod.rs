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

pub(crate) mod extend;

use rayon::prelude::*;

use crate::graph::{Graph, Op, Recorder, Sharing, Var};
use crate::kernel::{
    Dims, Elem, Io, Kernel, Needs, Real, Step, Variant, always, grid, reads, shared, twin, writes,
};
use crate::math::gemm::{Into, Matrix, serial};
use crate::math::simd::{self, vector_fn};
use crate::ops::variants::{coop_needs, portable};
use crate::plan::{Plan, Role, View};
use extend::AttentionExtend;
pub use extend::{EXTEND_FORWARD, EXTEND_STORE};

/// B·NH·T²/2 pairs of a query and a key, times `work` a channel.
fn pair_flops(d: &Dims, work: u64) -> u64 {
    work * u64::from(d.B) * u64::from(d.T) * u64::from(d.T) * u64::from(d.C) / 2
}

/// One workgroup some positions of a head; z counts parts of the head's channels.
fn blocks_of(d: &Dims, positions: u32, channels: u32) -> [u32; 3] {
    let [x, y, _] = grid::fold(d.B * d.NH * d.T.div_ceil(positions));
    [x, y, (d.C / d.NH).div_ceil(channels)]
}

/// The same for positions as queries and then for positions as keys.
fn blocks_twice(d: &Dims, positions: u32, channels: u32) -> [u32; 3] {
    let [x, y, z] = blocks_of(d, positions, channels);
    [x, y, 2 * z]
}

/// Whether each head can be read four channels at a time.
pub(super) fn four_head_channels(d: &Dims, _: &[Elem]) -> bool {
    (d.C / d.NH).is_multiple_of(4)
}

/// Whether matrix units compute it: heads of 16 to 128 channels, by fours, in half precision.
fn fits_matrix_units(d: &Dims, elems: &[Elem]) -> bool {
    elems[0] == Elem::F16 && four_head_channels(d, elems) && (16..=128).contains(&(d.C / d.NH))
}

/// The variants of the kernel whose file is `$file` and whose workgroups are `$blocks` of so many positions
/// and channels: `tiles` of `$tile` positions, matrix units with so many KiB of workgroup memory.
macro_rules! variants {
    ($file:literal, $blocks:expr, $tile:literal, [$kib_8x8:literal, $kib_16x16:literal]) => {{
        const PORTABLE: Variant = Variant {
            name: "",
            wgsl: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file, ".wgsl")),
            shared: &[],
            needs: Needs::NOTHING,
            fits: always,
            grid: |d, _| $blocks(d, 16, 256),
        };
        const COOP_8X8: Variant = Variant {
            name: "coop_8x8",
            wgsl: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/shaders/",
                $file,
                "_coop.wgsl"
            )),
            shared: &[shared::ATTENTION_COOP, shared::COOP_8X8, "const SUBGROUP = 32u;"],
            needs: Needs { workgroup_bytes: $kib_8x8 << 10, ..coop_needs(8, 32) },
            fits: fits_matrix_units,
            grid: |d, _| $blocks(d, 32, 64),
        };
        &[
            PORTABLE,
            Variant {
                name: "tiles",
                wgsl: include_str!(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/shaders/",
                    $file,
                    "_tiles.wgsl"
                )),
                fits: four_head_channels,
                grid: |d, _| $blocks(d, $tile, 64),
                ..PORTABLE
            },
            Variant {
                name: "broadcast",
                wgsl: include_str!(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/shaders/",
                    $file,
                    "_broadcast.wgsl"
                )),
                shared: &[shared::BROADCAST],
                needs: Needs::SUBGROUPS_OF_8,
                fits: four_head_channels,
                grid: |d, _| $blocks(d, 8, 32),
            },
            COOP_8X8,
            Variant {
                name: "coop_8x8_narrow",
                shared: &[shared::ATTENTION_COOP, shared::COOP_8X8, "const SUBGROUP = 8u;"],
                needs: Needs { workgroup_bytes: $kib_8x8 << 10, ..coop_needs(8, 8) },
                ..COOP_8X8
            },
            Variant {
                name: "coop_16x16",
                shared: &[shared::ATTENTION_COOP, shared::COOP_16X16, "const SUBGROUP = 32u;"],
                needs: Needs { workgroup_bytes: $kib_16x16 << 10, ..coop_needs(16, 32) },
                grid: |d, _| $blocks(d, 64, 64),
                ..COOP_8X8
            },
        ]
    }};
}

/// `out` and `lse` from `qkv`.
pub const FORWARD: Kernel = Kernel {
    name: "attention_forward",
    args: &[reads("qkv").or_half(), writes("out").or_half(), writes("lse")],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| pair_flops(d, 4),
    variants: variants!("attention_forward", blocks_of, 64, [16, 23]),
};

/// `delta` from `out` and `dout`.
pub const BACKWARD_DELTA: Kernel = Kernel {
    name: "attention_backward_delta",
    args: &[reads("out").or_half(), reads("dout").or_half(), writes("delta")],
    twin: twin!(backward_delta),
    cpu: Some(fast_backward_delta),
    flops: |d| 2 * d.rows() as u64 * u64::from(d.C),
    variants: portable!(
        "attention_backward_delta",
        [],
        |d, _| grid::fold((d.B * d.T * d.NH).div_ceil(256)),
        "vectors": [],
        Needs::NOTHING,
        four_head_channels,
        |d, _| grid::fold((d.B * d.T * d.NH).div_ceil(256))
    ),
};

/// `dqkv` from `dout`.
pub const BACKWARD: Kernel = Kernel {
    name: "attention_backward",
    args: &[
        reads("qkv").or_half(),
        reads("lse"),
        reads("delta"),
        reads("dout").or_half(),
        writes("dqkv").or_half(),
    ],
    twin: twin!(backward),
    cpu: Some(fast_backward),
    flops: |d| pair_flops(d, 10),
    variants: variants!("attention_backward", blocks_twice, 32, [23, 37]),
};

/// `out` (B,T,C) from `qkv` (B,T,3C); `lse` (B,NH,T) is kept for the backward pass.
pub struct Attention {
    /// B, T, C, NH.
    pub dims: Dims,
    /// (B,T,3C)
    pub qkv: Var,
    /// (B,T,C)
    pub out: Var,
    /// (B,NH,T)
    pub lse: View,
    /// (B,NH,T), of the backward pass.
    pub delta: View,
}

impl Graph {
    /// Causal attention of `nh` heads over `qkv` (B,T,3C); `s` positions fit the cache of generation.
    pub fn attention(&mut self, name: &str, qkv: Var, nh: usize, s: usize) -> Var {
        let c = qkv.value.len / self.rows() / 3;
        let dims = Dims { C: c as u32, NH: nh as u32, S: s as u32, ..self.dims() };
        let out = self.activation_of(name, c, Sharing::InBlocks, qkv.has_grad());
        if self.extends() {
            let cache = self.cache(name, 2 * s * c);
            let (qkv, out) = (qkv.value, out.value);
            self.push(AttentionExtend { dims, qkv, cache, out });
        } else {
            let rows = self.rows() * nh;
            let lse = format!("{name}.lse");
            let lse = self.activations(&lse, rows, Elem::Real, Sharing::InBlocks);
            let delta = match qkv.has_grad() {
                true => self.buffer(Role::Activations, &format!("{name}.delta"), rows, Elem::Real),
                false => lse,
            };
            self.push(Attention { dims, qkv, out, lse, delta });
        }
        out
    }
}

impl Op for Attention {
    fn forward(&self, plan: &mut Plan) {
        plan.push(&FORWARD, self.dims, &[self.qkv.value, self.out.value, self.lse]);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let Attention { dims, qkv, out, lse, delta } = *self;
        if !qkv.has_grad() {
            return;
        }
        recorder.plan.push(&BACKWARD_DELTA, dims, &[out.value, out.grad, delta]);
        recorder.plan.push(&BACKWARD, dims, &[qkv.value, lse, delta, out.grad, qkv.grad]);
    }
}

/// The q (0), k (1) or v (2) of one position of one head.
pub(super) fn part<'a, F>(
    dims: &Dims,
    qkv: &'a [F],
    which: usize,
    row: usize,
    head: usize,
) -> &'a [F] {
    let (c, hs) = (dims.C as usize, (dims.C / dims.NH) as usize);
    let at = row * 3 * c + which * c + head * hs;
    &qkv[at..at + hs]
}

pub(super) fn dot<F: Real>(a: &[F], b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// √HS, which scores are divided by.
pub(super) fn root<F: Real>(dims: &Dims) -> F {
    F::of(f64::from(dims.C / dims.NH)).sqrt()
}

/// All (b, head) pairs.
fn heads(dims: &Dims) -> impl Iterator<Item = (usize, usize)> {
    let heads = dims.NH as usize;
    (0..dims.B as usize * heads).map(move |i| (i / heads, i % heads))
}

/// log Σ exp, without overflow.
pub(super) fn log_sum_exp<F: Real>(scores: &[F]) -> F {
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

fn backward_delta<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([out, dout], [delta]) = io.reals();
    let (t, c, hs) = (dims.T as usize, dims.C as usize, (dims.C / dims.NH) as usize);
    for (b, h) in heads(dims) {
        for i in 0..t {
            let at = (b * t + i) * c + h * hs;
            delta[(b * dims.NH as usize + h) * t + i] = dot(&out[at..at + hs], &dout[at..at + hs]);
        }
    }
}

fn backward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([qkv, lse, delta, dout], [dqkv]) = io.reals();
    let (t, c, hs) = (dims.T as usize, dims.C as usize, (dims.C / dims.NH) as usize);
    dqkv.fill(F::zero());
    for (b, h) in heads(dims) {
        for i in 0..t {
            let row = b * t + i;
            let dout = &dout[row * c + h * hs..][..hs];
            let q = part(dims, qkv, 0, row, h);
            let at = (b * dims.NH as usize + h) * t + i;
            let (total, delta) = (lse[at], delta[at]);
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

/// Queries that a CPU kernel works on at a time.
pub(super) const TILE: usize = 64;

/// The rows of every group of `width` columns of (B,T,columns), as B · columns / width lists of T.
pub(super) fn column_groups(
    data: &mut [f32],
    t: usize,
    columns: usize,
    width: usize,
) -> Vec<Vec<&mut [f32]>> {
    let per_row = columns / width;
    let groups = data.len() / t / width;
    let mut lists: Vec<_> = (0..groups).map(|_| Vec::with_capacity(t)).collect();
    for (b, rows) in data.chunks_exact_mut(t * columns).enumerate() {
        for row in rows.chunks_exact_mut(columns) {
            for (group, part) in row.chunks_exact_mut(width).enumerate() {
                lists[b * per_row + group].push(part);
            }
        }
    }
    lists
}

/// Rows `first..first + n` of the q (0), k (1) or v (2) of one head of a sequence's (T,3C).
pub(super) fn rows_of<'a>(
    dims: &Dims,
    qkv: &'a [f32],
    which: usize,
    head: usize,
    first: usize,
    n: usize,
) -> Matrix<'a> {
    let (c, hs) = (dims.C as usize, (dims.C / dims.NH) as usize);
    Matrix::new(&qkv[first * 3 * c + which * c + head * hs..], n, hs, 3 * c)
}

vector_fn! {
    /// Turns scores into exponentials, 0 where a row does not see, and gives each row's sum.
    ///
    /// Row r sees the first `seen + r` columns of `m`; `lse`, if wanted, gets log Σ exp.
    fn exponentials<'a>(
        scores: &'a mut [f32],
        m: usize,
        seen: usize,
        sums: &'a mut [f32],
        lse: Option<&'a mut [f32]>,
    ) -> () {
        let mut lse = lse;
        for (r, (row, total)) in scores.chunks_exact_mut(m).zip(sums).enumerate() {
            let (row, hidden) = row.split_at_mut(seen + r);
            hidden.fill(0.0);
            let max = simd::max(row);
            *total = simd::exp_sum(row, max);
            if let Some(lse) = &mut lse {
                lse[r] = max + total.ln();
            }
        }
    }
}

/// The outputs of `q` (n,HS), whose row r sees the first `seen + r` of the keys and values (m,HS),
/// and log Σ exp of each row, if wanted.
pub(super) fn attend(
    [q, k, v]: [Matrix<'_>; 3],
    seen: usize,
    out: &mut [&mut [f32]],
    lse: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (n, m, hs) = (out.len(), k.rows(), q.cols());
    let [scores, tile, sums] = scratch.parts([n * m, n * hs, n]);
    serial(scores, m, Into::Set, q, k.t(), 1.0 / (hs as f32).sqrt());
    exponentials(scores, m, seen, sums, lse);
    serial(tile, hs, Into::Set, Matrix::new(scores, n, m, m), v, 1.0);
    for ((out, tile), sum) in out.iter_mut().zip(tile.chunks_exact(hs)).zip(sums) {
        let scale = 1.0 / *sum;
        out.iter_mut().zip(tile).for_each(|(out, x)| *out = x * scale);
    }
}

/// Memory that a thread uses again for every tile.
#[derive(Default)]
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// Parts of these lengths, with whatever was there.
    fn parts<const N: usize>(&mut self, lens: [usize; N]) -> [&mut [f32]; N] {
        let len = lens.iter().sum();
        if self.0.len() < len {
            self.0.resize(len, 0.0);
        }
        let mut rest = &mut self.0[..];
        lens.map(|len| rest.split_off_mut(..len).expect("the scratch is as long as its parts"))
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([qkv], [out, lse]) = io.reals();
    let (t, c, heads) = (dims.T as usize, dims.C as usize, dims.NH as usize);
    let outputs = column_groups(out, t, c, c / heads);
    let tasks = outputs.into_par_iter().zip(lse.par_chunks_exact_mut(t)).enumerate();
    tasks.for_each_init(Scratch::default, |scratch, (task, (mut out, lse))| {
        let (qkv, h) = (&qkv[task / heads * t * 3 * c..], task % heads);
        let tiles = out.chunks_mut(TILE).zip(lse.chunks_mut(TILE)).enumerate();
        for (i, (out, lse)) in tiles {
            let (first, end) = (i * TILE, i * TILE + out.len());
            let q = rows_of(dims, qkv, 0, h, first, out.len());
            let [k, v] = [1, 2].map(|which| rows_of(dims, qkv, which, h, 0, end));
            attend([q, k, v], first + 1, out, Some(lse), scratch);
        }
    });
}

vector_fn! {
    /// `delta` of the rows of one head, whose outputs and their gradients begin in rows of `c` each.
    fn delta_rows<'a>(out: &'a [f32], dout: &'a [f32], sizes: [usize; 2], delta: &'a mut [f32]) -> () {
        let [c, hs] = sizes;
        for (i, delta) in delta.iter_mut().enumerate() {
            *delta = simd::dot(&out[i * c..][..hs], &dout[i * c..][..hs]);
        }
    }
}

fn fast_backward_delta(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([out, dout], [delta]) = io.reals();
    let (t, c, heads) = (dims.T as usize, dims.C as usize, dims.NH as usize);
    let hs = c / heads;
    delta.par_chunks_exact_mut(t).enumerate().for_each(|(task, delta)| {
        let at = task / heads * t * c + task % heads * hs;
        delta_rows(&out[at..], &dout[at..], [c, hs], delta);
    });
}

fn fast_backward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([qkv, lse, delta, dout], [dqkv]) = io.reals();
    let (t, c, heads) = (dims.T as usize, dims.C as usize, dims.NH as usize);
    let mut lists = column_groups(dqkv, t, 3 * c, c / heads).into_iter();
    let mut tasks = vec![];
    for b in 0..dims.B as usize {
        let mut next = || lists.by_ref().take(heads).collect::<Vec<_>>();
        let (dq, dk, dv) = (next(), next(), next());
        for (h, grads) in dq.into_iter().zip(dk).zip(dv).enumerate() {
            tasks.push((b, h, grads));
        }
    }
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (b, h, ((dq, dk), dv))| {
        let saved = Saved {
            dims,
            h,
            qkv: &qkv[b * t * 3 * c..],
            lse: &lse[(b * heads + h) * t..][..t],
            delta: &delta[(b * heads + h) * t..][..t],
            dout: &dout[b * t * c..],
        };
        backward_head(&saved, [dq, dk, dv], scratch);
    });
}

/// What the gradients of one head of one sequence are made of.
struct Saved<'a> {
    dims: &'a Dims,
    h: usize,
    qkv: &'a [f32],
    lse: &'a [f32],
    delta: &'a [f32],
    dout: &'a [f32],
}

vector_fn! {
    /// Turns scores into probabilities and what comes back to them (dout · v) into their gradients.
    ///
    /// `sizes`: the columns, and what the first row sees of them.
    fn score_gradients<'a>(
        p: &'a mut [f32],
        ds: &'a mut [f32],
        sizes: [usize; 2],
        lse: &'a [f32],
        delta: &'a [f32],
        scale: f32,
    ) -> () {
        let [m, seen] = sizes;
        for (r, (p, ds)) in p.chunks_exact_mut(m).zip(ds.chunks_exact_mut(m)).enumerate() {
            let (total, delta) = (lse[r], delta[r]);
            p[seen + r..].fill(0.0);
            ds[seen + r..].fill(0.0);
            for (p, ds) in p[..seen + r].iter_mut().zip(ds) {
                *p = simd::exp(*p - total);
                *ds = *p * (*ds - delta) * scale;
            }
        }
    }
}

fn backward_head(
    saved: &Saved<'_>,
    [mut dq, mut dk, mut dv]: [Vec<&mut [f32]>; 3],
    scratch: &mut Scratch,
) {
    let Saved { dims, h, qkv, lse, delta, dout } = *saved;
    let (t, c, hs) = (dims.T as usize, dims.C as usize, (dims.C / dims.NH) as usize);
    let n = TILE.min(t);
    let [p, ds, sums, tile] = scratch.parts([n * t, n * t, 2 * t * hs, n * hs]);
    let (dk_sum, dv_sum) = sums.split_at_mut(t * hs);
    let scale = 1.0 / (hs as f32).sqrt();
    // The last tile comes first: it reaches all rows of the sums and so overwrites what was there.
    for (i, dq) in dq.chunks_mut(TILE).enumerate().rev() {
        let (first, n) = (i * TILE, dq.len());
        let m = first + n;
        let (p, ds, tile) = (&mut p[..n * m], &mut ds[..n * m], &mut tile[..n * hs]);
        let q = rows_of(dims, qkv, 0, h, first, n);
        let [k, v] = [1, 2].map(|which| rows_of(dims, qkv, which, h, 0, m));
        let d = Matrix::new(&dout[first * c + h * hs..], n, hs, c);
        serial(p, m, Into::Set, q, k.t(), scale);
        serial(ds, m, Into::Set, d, v.t(), 1.0);
        score_gradients(p, ds, [m, first + 1], &lse[first..], &delta[first..], scale);
        let (p, ds) = (Matrix::new(p, n, m, m), Matrix::new(ds, n, m, m));
        let into = Into::set_if(m == t);
        serial(dv_sum, hs, into, p.t(), d, 1.0);
        serial(dk_sum, hs, into, ds.t(), q, 1.0);
        serial(tile, hs, Into::Set, ds, k, 1.0);
        dq.iter_mut().zip(tile.chunks_exact(hs)).for_each(|(dq, tile)| dq.copy_from_slice(tile));
    }
    for (grads, sums) in [(&mut dk, dk_sum), (&mut dv, dv_sum)] {
        grads
            .iter_mut()
            .zip(sums.chunks_exact(hs))
            .for_each(|(grad, sum)| grad.copy_from_slice(sum));
    }
}
