//! The CPU kernels of attention in training, and the helpers that they share with those of generation.

use rayon::prelude::*;

use super::heads::{Heads, Seen, kv_head};
use crate::kernel::{Dims, Io, Step};
use crate::math::gemm::{Into, Matrix, serial};
use crate::math::simd::{self, vector_fn};

/// The number of queries that a CPU kernel processes at a time.
pub(super) const TILE: usize = 64;

/// Returns the rows of every group of `width` columns of (B,T,columns), as B · columns / width lists of T.
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

/// Returns the rows of every head of the queries, keys and values, each as B · heads lists of T.
fn heads_of<'a>(dims: &Dims, data: &'a mut [f32]) -> [Vec<Vec<&'a mut [f32]>>; 3] {
    let (t, rows, hs) = (dims.T as usize, dims.rows(), dims.HS as usize);
    let parts = Heads::of(dims);
    let mut lists = parts.map(|part| {
        (0..dims.B as usize * part.heads).map(|_| Vec::with_capacity(t)).collect::<Vec<_>>()
    });
    // The heads of each part come in memory order; the loop below merges the three parts.
    let mut places = parts.map(|part| {
        let heads = move |row| (0..part.heads).map(move |head| (part.at(row, head), row, head));
        (0..rows).flat_map(heads).peekable()
    });
    let (mut rest, mut end) = (data, 0);
    while let Some((_, which)) =
        (0..3).filter_map(|i| places[i].peek().map(|place| (place.0, i))).min()
    {
        let (start, row, head) = places[which].next().expect("it was just seen");
        let wrong = "no heads share an element";
        rest.split_off_mut(..start - end).expect(wrong);
        let list = &mut lists[which][row / t * parts[which].heads + head];
        list.push(rest.split_off_mut(..hs).expect(wrong));
        end = start + hs;
    }
    lists
}

/// Returns `n` rows of B · T, from `row` on, of a head of the queries, the keys or the values.
pub(super) fn rows_of<'a>(
    dims: &Dims,
    qkv: &'a [f32],
    part: Heads,
    head: usize,
    row: usize,
    n: usize,
) -> Matrix<'a> {
    Matrix::new(&qkv[part.at(row, head)..], n, dims.HS as usize, part.row_stride)
}

vector_fn! {
    /// Turns scores into exponentials, 0 where a row does not see the key, and returns each row's sum.
    ///
    /// Rows are `m` columns long; `lse`, if given, receives log Σ exp.
    fn exponentials<'a>(
        scores: &'a mut [f32],
        m: usize,
        seen: Seen<'a>,
        sums: &'a mut [f32],
        lse: Option<&'a mut [f32]>,
    ) -> () {
        let mut lse = lse;
        for (r, (row, total)) in scores.chunks_exact_mut(m).zip(sums).enumerate() {
            let columns = seen.columns(r);
            row[columns.end..].fill(0.0);
            row[..columns.start].fill(0.0);
            let row = &mut row[columns];
            let max = simd::max(row);
            *total = simd::exp_sum(row, max);
            if let Some(lse) = &mut lse {
                lse[r] = max + total.ln();
            }
        }
    }
}

/// Computes the outputs of `q` (n,HS) over the keys and values (m,HS) that its rows see, and log Σ exp of each
/// row, if wanted.
pub(super) fn attend(
    [q, k, v]: [Matrix<'_>; 3],
    seen: Seen<'_>,
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

/// Memory that a thread reuses for every tile.
#[derive(Default)]
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// Returns parts of these lengths; their contents are not cleared.
    fn parts<const N: usize>(&mut self, lens: [usize; N]) -> [&mut [f32]; N] {
        let len = lens.iter().sum();
        if self.0.len() < len {
            self.0.resize(len, 0.0);
        }
        let mut rest = &mut self.0[..];
        lens.map(|len| rest.split_off_mut(..len).expect("the scratch is as long as its parts"))
    }
}

pub(super) fn forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let (([qkv], [out, lse]), [first_key], []) = io.split();
    let (t, heads) = (dims.T as usize, dims.NH as usize);
    let [queries, keys, values] = Heads::of(dims);
    let outputs = column_groups(out, t, dims.C as usize, dims.HS as usize);
    let tasks = outputs.into_par_iter().zip(lse.par_chunks_exact_mut(t)).enumerate();
    tasks.for_each_init(Scratch::default, |scratch, (task, (mut out, lse))| {
        let (sequence, h) = (task / heads * t, task % heads);
        let tiles = out.chunks_mut(TILE).zip(lse.chunks_mut(TILE)).enumerate();
        for (i, (out, lse)) in tiles {
            let (first, end) = (i * TILE, i * TILE + out.len());
            let seen = Seen::of(dims, &first_key[sequence..][..t], first, out.len());
            let q = rows_of(dims, qkv, queries, h, sequence + first, out.len());
            let [k, v] = [keys, values].map(|part| {
                let (row, n) = (sequence + seen.begin(), end - seen.begin());
                rows_of(dims, qkv, part, kv_head(dims, h), row, n)
            });
            attend([q, k, v], seen, out, Some(lse), scratch);
        }
    });
}

vector_fn! {
    /// Computes `delta` for the rows of one head; the rows of the outputs and of their gradients are `c` apart.
    fn delta_rows<'a>(out: &'a [f32], dout: &'a [f32], sizes: [usize; 2], delta: &'a mut [f32]) -> () {
        let [c, hs] = sizes;
        for (i, delta) in delta.iter_mut().enumerate() {
            *delta = simd::dot(&out[i * c..][..hs], &dout[i * c..][..hs]);
        }
    }
}

pub(super) fn backward_delta(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let ([out, dout], [delta]) = io.reals();
    let (t, c, heads) = (dims.T as usize, dims.C as usize, dims.NH as usize);
    let hs = dims.HS as usize;
    delta.par_chunks_exact_mut(t).enumerate().for_each(|(task, delta)| {
        let at = task / heads * t * c + task % heads * hs;
        delta_rows(&out[at..], &dout[at..], [c, hs], delta);
    });
}

pub(super) fn backward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let (([qkv, lse, delta, dout], [dqkv]), [first_key], []) = io.split();
    let saved = Saved { dims, qkv, first_key, lse, delta, dout };
    let queries_per_key = (dims.NH / dims.KVH) as usize;
    let [dq, dk, dv] = heads_of(dims, dqkv);
    let mut dq = dq.into_iter();
    let with_queries =
        |(task, (dk, dv))| (task, dq.by_ref().take(queries_per_key).collect::<Vec<_>>(), dk, dv);
    let tasks: Vec<_> = dk.into_iter().zip(dv).enumerate().map(with_queries).collect();
    tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (task, dq, dk, dv)| {
        backward_key_head(&saved, task, dq, [dk, dv], scratch);
    });
}

/// The inputs of the backward pass.
#[derive(Clone, Copy)]
struct Saved<'a> {
    dims: &'a Dims,
    qkv: &'a [f32],
    first_key: &'a [u32],
    lse: &'a [f32],
    delta: &'a [f32],
    dout: &'a [f32],
}

vector_fn! {
    /// Turns scores into probabilities, and dout · v into the gradients of the scores.
    ///
    /// Rows are `m` columns long.
    fn score_gradients<'a>(
        p: &'a mut [f32],
        ds: &'a mut [f32],
        m: usize,
        seen: Seen<'a>,
        lse: &'a [f32],
        delta: &'a [f32],
        scale: f32,
    ) -> () {
        for (r, (p, ds)) in p.chunks_exact_mut(m).zip(ds.chunks_exact_mut(m)).enumerate() {
            let (total, delta) = (lse[r], delta[r]);
            let columns = seen.columns(r);
            for row in [&mut *p, &mut *ds] {
                row[columns.end..].fill(0.0);
                row[..columns.start].fill(0.0);
            }
            for (p, ds) in p[columns.clone()].iter_mut().zip(&mut ds[columns]) {
                *p = simd::exp(*p - total);
                *ds = *p * (*ds - delta) * scale;
            }
        }
    }
}

/// Computes the gradients of one head of keys and values of one sequence, and of the queries that read it.
fn backward_key_head(
    saved: &Saved<'_>,
    task: usize,
    dq: Vec<Vec<&mut [f32]>>,
    dkv: [Vec<&mut [f32]>; 2],
    scratch: &mut Scratch,
) {
    let (t, hs) = (saved.dims.T as usize, saved.dims.HS as usize);
    let (heads, kv_heads) = (saved.dims.NH as usize, saved.dims.KVH as usize);
    let (b, first_head) = (task / kv_heads, task % kv_heads * dq.len());
    let n = TILE.min(t);
    let [p, ds, sums, tile] = scratch.parts([n * t, n * t, 2 * t * hs, n * hs]);
    let (dk_sum, dv_sum) = sums.split_at_mut(t * hs);
    for (i, dq) in dq.into_iter().enumerate() {
        let head = Head { b, h: first_head + i, at: (b * heads + first_head + i) * t };
        let into = Into::set_if(i == 0);
        let sums = [&mut *dk_sum, &mut *dv_sum];
        backward_query_head(saved, head, dq, (into, sums), [&mut *p, &mut *ds, &mut *tile]);
    }
    for (grads, sums) in dkv.into_iter().zip([dk_sum, dv_sum]) {
        grads
            .into_iter()
            .zip(sums.chunks_exact(hs))
            .for_each(|(grad, sum)| grad.copy_from_slice(sum));
    }
}

/// A head of the queries of one sequence, and where its rows begin in `lse` and `delta`.
#[derive(Clone, Copy)]
struct Head {
    b: usize,
    h: usize,
    at: usize,
}

/// Computes the gradients of one head of the queries, and adds its contribution to the gradients of its keys and
/// values, or overwrites them with it.
fn backward_query_head(
    saved: &Saved<'_>,
    head: Head,
    mut dq: Vec<&mut [f32]>,
    (first_into, [dk_sum, dv_sum]): (Into, [&mut [f32]; 2]),
    [p, ds, tile]: [&mut [f32]; 3],
) {
    let Saved { dims, qkv, first_key, lse, delta, dout } = *saved;
    let Head { b, h, at } = head;
    let (t, c, hs) = (dims.T as usize, dims.C as usize, dims.HS as usize);
    let [queries, keys, values] = Heads::of(dims);
    let scale = 1.0 / (hs as f32).sqrt();
    // The last tile comes first: it starts the sums, up to the last row.
    for (i, dq) in dq.chunks_mut(TILE).enumerate().rev() {
        let (first, n) = (i * TILE, dq.len());
        let seen = Seen::of(dims, &first_key[b * t..][..t], first, n);
        let (begin, m) = (seen.begin(), first + n - seen.begin());
        let (p, ds, tile) = (&mut p[..n * m], &mut ds[..n * m], &mut tile[..n * hs]);
        let q = rows_of(dims, qkv, queries, h, b * t + first, n);
        let [k, v] =
            [keys, values].map(|part| rows_of(dims, qkv, part, kv_head(dims, h), b * t + begin, m));
        let d = Matrix::new(&dout[(b * t + first) * c + h * hs..], n, hs, c);
        serial(p, m, Into::Set, q, k.t(), scale);
        serial(ds, m, Into::Set, d, v.t(), 1.0);
        score_gradients(p, ds, m, seen, &lse[at + first..], &delta[at + first..], scale);
        let (p, ds) = (Matrix::new(p, n, m, m), Matrix::new(ds, n, m, m));
        let into = if first + n == t { first_into } else { Into::Add };
        for (sum, weights, vectors) in [(&mut *dv_sum, p, d), (&mut *dk_sum, ds, q)] {
            if into == Into::Set {
                sum[..begin * hs].fill(0.0);
            }
            serial(&mut sum[begin * hs..], hs, into, weights.t(), vectors, 1.0);
        }
        serial(tile, hs, Into::Set, ds, k, 1.0);
        dq.iter_mut().zip(tile.chunks_exact(hs)).for_each(|(dq, tile)| dq.copy_from_slice(tile));
    }
}
