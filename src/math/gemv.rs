//! Products with a few rows, limited by the bandwidth of the memory that the matrix is in.
//!
//! Each number of a product is summed in one order, independent of the number of rows, the number of threads and the
//! width of the machine's vectors: there are `PARTS` partial sums, each over a run of the weight's rows, in groups of
//! four from the last of the four to the first; then the partial sums are added in order. So a row of generation has
//! the same bits alone and among others.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::math::simd::MulAdd;
use crate::math::simd::{self, LANES, LINE, prefetch, vector_fn};

/// The number of parts of a product's sum; with a few rows each part is a task.
const PARTS: usize = 8;

/// The largest number of rows that counts as few: such a product is limited by memory bandwidth.
const FEW: usize = 8;

/// The number of columns by which a few rows are multiplied at a time, so that the weight's values stay in the L1
/// cache.
const COLUMNS: usize = 512;

/// The largest number of columns of a task over several rows, so that their sums stay in the L2 cache.
const MOST_COLUMNS: usize = 2048;

/// The number of the weight's rows by which several rows are multiplied at a time, so that memory is read in runs; a
/// multiple of 4.
const DEPTH: usize = 32;

/// How many panels ahead the weight's rows are asked for: processors do not foresee runs that are a row apart.
const AHEAD: usize = 4;

/// Computes `out (R,N) += x (R,K) · weight (K,N)`, for as many rows as there are in `x`, each a separate slice.
///
/// # Panics
///
/// If the lengths do not fit each other.
pub fn rows_product(out: &mut [f32], x: &[&[f32]], weight: &[f32]) {
    let (n, k) = (out.len() / x.len(), x[0].len());
    assert!(x.iter().all(|x| x.len() == k), "the rows of a product are of one length");
    assert_eq!((out.len(), weight.len()), (x.len() * n, k * n), "the sizes of a product agree");
    match x.len() {
        ..=FEW => few_rows_product(out, x, weight),
        _ => pulp::Arch::new().dispatch(SeveralRows { out, x, weight, n }),
    }
}

/// Computes [`rows_product`] for a few rows: every task reads a run of whole rows, so that memory is read in its own
/// order.
fn few_rows_product(out: &mut [f32], x: &[&[f32]], weight: &[f32]) {
    let (n, k) = (out.len() / x.len(), x[0].len());
    let part = k.div_ceil(PARTS);
    let mut sums = vec![0.0; k.div_ceil(part) * out.len()];
    let tasks = sums.par_chunks_mut(out.len()).zip(weight.par_chunks(part * n)).enumerate();
    tasks.for_each(|(i, (sums, weight))| add_part(sums, x, i * part, weight));
    for sums in sums.chunks_exact(out.len()) {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}

vector_fn! {
    /// Computes `sums += x · weight`, where the weight's rows are those from `first` on, four at a time.
    fn add_part<'a>(
        sums: &'a mut [f32], x: &'a [&'a [f32]], first: usize, weight: &'a [f32],
    ) -> () {
        let n = sums.len() / x.len();
        let columns = if x.len() == 1 { n } else { COLUMNS };
        let fours = weight.chunks_exact(4 * n);
        let rest = fours.remainder().chunks_exact(n);
        let mut k = first;
        for rows in fours {
            for start in (0..n).step_by(columns) {
                let len = columns.min(n - start);
                let row = |i: usize| &rows[i * n + start..][..len];
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                for (sums, x) in sums.chunks_exact_mut(n).zip(x) {
                    let sums = &mut sums[start..][..len];
                    let x: &[f32; 4] = x[k..].first_chunk().expect("a factor for each row");
                    for j in 0..len {
                        let sum_cd = x[2].fma(c[j], x[3].fma(d[j], sums[j]));
                        sums[j] = x[0].fma(a[j], x[1].fma(b[j], sum_cd));
                    }
                }
            }
            k += 4;
        }
        for row in rest {
            sums.chunks_exact_mut(n).zip(x).for_each(|(sums, x)| simd::add_scaled(sums, x[k], row));
            k += 1;
        }
    }
}

/// [`rows_product`] for several rows: every task has some columns, and reads some rows of the weight in them at a time.
struct SeveralRows<'a> {
    out: &'a mut [f32],
    x: &'a [&'a [f32]],
    weight: &'a [f32],
    n: usize,
}

impl WithSimd for SeveralRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let SeveralRows { out, x, weight, n } = self;
        let part = x[0].len().div_ceil(PARTS);
        // A tile's sums take half of the registers, or three quarters; machines with long vectors have 32 registers.
        let groups: Vec<Group> = match S::F32_LANES {
            16 => groups::<8>(x, part),
            _ => groups::<6>(x, part),
        };
        let panel = 2 * S::F32_LANES;
        let each = n.div_ceil(rayon::current_num_threads()).min(MOST_COLUMNS);
        let width = each.next_multiple_of(panel);
        let mut blocks: Vec<Vec<&mut [f32]>> = vec![];
        blocks.resize_with(n.div_ceil(width), || Vec::with_capacity(x.len()));
        for row in out.chunks_exact_mut(n) {
            for (block, part) in blocks.iter_mut().zip(row.chunks_mut(width)) {
                block.push(part);
            }
        }
        let tasks = blocks.into_par_iter().enumerate();
        tasks.for_each_init(Vec::new, |sums: &mut Vec<f32>, (i, mut out)| {
            let padded = out[0].len().next_multiple_of(panel);
            for (part, weight) in weight.chunks(part * n).enumerate() {
                sums.clear();
                sums.resize(out.len() * padded, 0.0);
                let weight = Columns { weight, n, first: i * width, len: out[0].len() };
                simd.vectorize(AddPart { simd, weight, groups: &groups, part, sums });
                add_to_rows(&mut out, sums, panel);
            }
        });
    }
}

/// Some rows, for each part of the sum in the order of summation; the rows' numbers of one column are adjacent.
struct Group {
    rows: usize,
    parts: Vec<Vec<f32>>,
}

/// Splits the rows into groups of `MOST`, and the rest into groups of powers of two.
fn groups<const MOST: usize>(x: &[&[f32]], part: usize) -> Vec<Group> {
    let (mut rest, mut groups) = (x, vec![]);
    while !rest.is_empty() {
        let rows = if rest.len() >= MOST { MOST } else { 1 << rest.len().ilog2() };
        let (group, after) = rest.split_at(rows);
        rest = after;
        let together = |start: usize| {
            let end = (start + part).min(group[0].len());
            let mut numbers = Vec::with_capacity((end - start) * rows);
            for k in in_order(end - start) {
                numbers.extend(group.iter().map(|x| x[start + k]));
            }
            numbers
        };
        let parts = (0..group[0].len()).step_by(part).map(together).collect();
        groups.push(Group { rows, parts });
    }
    groups
}

/// Returns the order of summation of a partial sum of `len` products.
#[inline(always)]
fn in_order(len: usize) -> impl Iterator<Item = usize> {
    let fours = len / 4 * 4;
    (0..fours).map(|k| k ^ 3).chain(fours..len)
}

/// Some columns of the weight's rows that belong to a part of the sum.
#[derive(Clone, Copy)]
struct Columns<'a> {
    weight: &'a [f32],
    n: usize,
    first: usize,
    len: usize,
}

/// Adds a part of the sum to the sums of some columns: panel by panel of two vectors, group by group of rows.
struct AddPart<'a, S> {
    simd: S,
    weight: Columns<'a>,
    groups: &'a [Group],
    part: usize,
    sums: &'a mut [f32],
}

impl<S: Simd> pulp::NullaryFnOnce for AddPart<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let AddPart { simd, weight: Columns { weight, n, first, len }, groups, part, sums } = self;
        let panel = 2 * S::F32_LANES;
        let panels = S::as_mut_simd_f32s(sums).0.as_chunks_mut::<2>().0;
        let rows_in_all: usize = groups.iter().map(|group| group.rows).sum();
        let mut read = [[simd.splat_f32s(0.0); 2]; DEPTH];
        for block in 0..(weight.len() / n).div_ceil(DEPTH) {
            let rest = &weight[block * DEPTH * n..];
            let depth = DEPTH.min(rest.len() / n);
            for (start, panels) in (0..len).step_by(panel).zip(panels.chunks_exact_mut(rows_in_all))
            {
                let wanted = panel.min(len - start);
                read_panel::<S>(&mut read, &rest[..depth * n], n, first + start, wanted);
                let ahead = start + AHEAD * panel;
                let ahead = if ahead < len { ahead } else { DEPTH * n + ahead - len };
                for line in (0..panel).step_by(LINE) {
                    let lines = rest.get(first + ahead + line..).unwrap_or_default();
                    lines.iter().step_by(n).take(depth).for_each(prefetch);
                }
                let mut panels = panels;
                for group in groups {
                    let (sums, after) = panels.split_at_mut(group.rows);
                    panels = after;
                    let x = &group.parts[part][block * DEPTH * group.rows..];
                    match group.rows {
                        8 if S::F32_LANES == 16 => add_tile::<S, 8>(simd, sums, x, &read[..depth]),
                        6 => add_tile::<S, 6>(simd, sums, x, &read[..depth]),
                        4 => add_tile::<S, 4>(simd, sums, x, &read[..depth]),
                        2 => add_tile::<S, 2>(simd, sums, x, &read[..depth]),
                        _ => add_tile::<S, 1>(simd, sums, x, &read[..depth]),
                    }
                }
            }
        }
    }
}

/// Reads a panel of some rows, `wanted` columns from `at` on, in the order of summation.
#[inline(always)]
fn read_panel<S: Simd>(
    read: &mut [[S::f32s; 2]; DEPTH],
    rows: &[f32],
    n: usize,
    at: usize,
    wanted: usize,
) {
    let read_row = |to: &mut [S::f32s; 2], row: &[f32]| {
        if wanted == 2 * S::F32_LANES {
            *to = *S::as_simd_f32s(&row[at..]).0.first_chunk().expect("a row has the panel");
        } else {
            bytemuck::cast_slice_mut(to)[..wanted].copy_from_slice(&row[at..][..wanted]);
        }
    };
    let fours = rows.len() / n / 4 * 4;
    for (to, rows) in read.chunks_exact_mut(4).zip(rows.chunks_exact(4 * n)) {
        to.iter_mut().rev().zip(rows.chunks_exact(n)).for_each(|(to, row)| read_row(to, row));
    }
    for (to, row) in read[fours..].iter_mut().zip(rows[fours * n..].chunks_exact(n)) {
        read_row(to, row);
    }
}

/// Adds the products of R rows with some of the weight's rows in a panel.
#[inline(always)]
fn add_tile<S: Simd, const R: usize>(
    simd: S,
    sums: &mut [[S::f32s; 2]],
    x: &[f32],
    weight: &[[S::f32s; 2]],
) {
    let sums = sums.first_chunk_mut::<R>().expect("a group has sums");
    let mut tile = *sums;
    for (x, weight) in x.as_chunks::<R>().0.iter().zip(weight) {
        for (sums, x) in tile.iter_mut().zip(x) {
            let x = simd.splat_f32s(*x);
            sums[0] = simd.mul_add_e_f32s(x, weight[0], sums[0]);
            sums[1] = simd.mul_add_e_f32s(x, weight[1], sums[1]);
        }
    }
    *sums = tile;
}

/// Adds sums, which are ordered by panel and then by row, to the columns of the rows.
fn add_to_rows(out: &mut [&mut [f32]], sums: &[f32], panel: usize) {
    for (i, sums) in sums.chunks_exact(out.len() * panel).enumerate() {
        for (out, sums) in out.iter_mut().zip(sums.chunks_exact(panel)) {
            out[i * panel..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        }
    }
}

/// Computes `out (R,N) = x (R,K) · table (N,K)ᵀ`: a dot product for each row of `x` and each row of the table; the rows
/// of `out` and of `x` are separate slices.
///
/// # Panics
///
/// If the lengths do not fit each other.
pub fn rows_dots(out: Vec<&mut [f32]>, x: &[&[f32]], table: &[f32]) {
    const TASK: usize = 128;
    let Some(k) = x.first().map(|x| x.len()) else { return };
    assert_eq!(out.len(), x.len(), "the rows of a product agree");
    let mut blocks: Vec<Vec<&mut [f32]>> = vec![];
    blocks.resize_with(table.len() / k.max(1) / TASK + 1, || Vec::with_capacity(x.len()));
    for (row, x) in out.into_iter().zip(x) {
        assert_eq!((table.len(), x.len()), (row.len() * k, k), "the sizes of a product agree");
        for (block, part) in blocks.iter_mut().zip(row.chunks_mut(TASK)) {
            block.push(part);
        }
    }
    blocks
        .into_par_iter()
        .zip(table.par_chunks(TASK * k))
        .for_each(|(mut out, table)| dots(&mut out, 0, x, table));
}

/// Computes the dot products of rows with the rows of a table on the calling thread, into the columns from `first` on.
pub(super) fn dots(out: &mut [&mut [f32]], first: usize, x: &[&[f32]], table: &[f32]) {
    pulp::Arch::new().dispatch(Dots { out, first, x, table });
}

/// The dot products of rows with the rows of a table. Some rows of both are processed at a time, so that values read
/// from the cache are used several times, and several sums are in progress at once.
struct Dots<'a, 'b> {
    out: &'a mut [&'b mut [f32]],
    first: usize,
    x: &'a [&'a [f32]],
    table: &'a [f32],
}

impl WithSimd for Dots<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // A tile's sums take half of the registers; machines with long vectors have 32 registers.
        match S::F32_LANES {
            16 => self.in_tiles::<S, 4>(simd),
            _ => self.in_tiles::<S, 2>(simd),
        }
    }
}

/// The rows of a table that are multiplied at a time with few rows: each is the next one of its own part of the table, since
/// four long runs of memory are read 1.5 times as fast as one.
const RUNS: usize = 4;

/// The rows of a table that stay in the L1 cache while they are multiplied by all rows.
const KEPT: usize = 8;

impl Dots<'_, '_> {
    /// Multiplies T rows of the table with four rows at a time, while there are enough of both.
    #[inline(always)]
    fn in_tiles<S: Simd, const T: usize>(self, simd: S) {
        if self.x.len() < 4 {
            return self.in_runs(simd);
        }
        let k = self.x[0].len();
        for (i, table) in self.table.chunks(KEPT * k).enumerate() {
            for (out, x) in self.out.chunks_mut(4).zip(self.x.chunks(4)) {
                for (j, table) in table.chunks(T * k).enumerate() {
                    let at = self.first + i * KEPT + j * T;
                    if table.len() == T * k && x.len() == 4 {
                        dot_tile::<S, T, 4>(simd, out, x, table, at);
                        continue;
                    }
                    for (out, x) in out.iter_mut().zip(x) {
                        for (t, row) in table.chunks_exact(k).enumerate() {
                            [out[at + t]] = row_dots(simd, [row], x);
                        }
                    }
                }
            }
        }
    }

    /// Multiplies rows of the table with one row at a time.
    #[inline(always)]
    fn in_runs<S: Simd>(self, simd: S) {
        let k = self.x[0].len();
        let row = |i: usize| &self.table[i * k..][..k];
        let rows = self.table.len() / k;
        let part = rows / RUNS;
        for (out, x) in self.out.iter_mut().zip(self.x) {
            let out = &mut out[self.first..][..rows];
            for i in 0..part {
                let of_parts: [f32; RUNS] =
                    row_dots(simd, std::array::from_fn(|t| row(t * part + i)), x);
                (0..RUNS).for_each(|t| out[t * part + i] = of_parts[t]);
            }
            for (i, out) in out.iter_mut().enumerate().skip(RUNS * part) {
                [*out] = row_dots(simd, [row(i)], x);
            }
        }
    }
}

/// Computes the dot products of a row with T others, each summed as by [`simd::dot`].
#[inline(always)]
fn row_dots<S: Simd, const T: usize>(simd: S, rows: [&[f32]; T], x: &[f32]) -> [f32; T] {
    let (vectors, k) = (LANES / S::F32_LANES, x.len());
    let (x_blocks, row_blocks) = (blocks(x, k), rows.map(|row| blocks(row, k)));
    let mut sums = [[simd.splat_f32s(0.0); LANES]; T];
    for (i, x) in x_blocks.iter().enumerate() {
        let x = S::as_simd_f32s(x).0;
        for (sums, row) in sums.iter_mut().zip(&row_blocks) {
            let row = S::as_simd_f32s(&row[i]).0;
            for v in 0..vectors {
                sums[v] = simd.mul_add_e_f32s(row[v], x[v], sums[v]);
            }
        }
    }
    std::array::from_fn(|t| {
        let mut lanes = [0.0_f32; LANES];
        S::as_mut_simd_f32s(&mut lanes).0.copy_from_slice(&sums[t][..vectors]);
        for (lane, j) in lanes.iter_mut().zip(k / LANES * LANES..k) {
            *lane = rows[t][j].fma(x[j], *lane);
        }
        simd::join_lanes(lanes, |a, b| a + b)
    })
}

/// Computes the dot products of T rows of a table with R rows, each summed as by [`simd::dot`], into `out` from `at`
/// on.
#[inline(always)]
fn dot_tile<S: Simd, const T: usize, const R: usize>(
    simd: S,
    out: &mut [&mut [f32]],
    x: &[&[f32]],
    table: &[f32],
    at: usize,
) {
    let k = x[0].len();
    let x: [&[f32]; R] = std::array::from_fn(|r| x[r]);
    let table: [&[f32]; T] = std::array::from_fn(|t| &table[t * k..][..k]);
    let (x_blocks, table_blocks) = (x.map(|x| blocks(x, k)), table.map(|row| blocks(row, k)));
    let mut lanes = [[[0.0_f32; LANES]; R]; T];
    for first in (0..LANES).step_by(S::F32_LANES) {
        let vector = |block: &[f32; LANES]| S::as_simd_f32s(&block[first..]).0[0];
        let mut sums = [[simd.splat_f32s(0.0); R]; T];
        for i in 0..k / LANES {
            let x = x_blocks.map(|x| vector(&x[i]));
            for (sums, row) in sums.iter_mut().zip(&table_blocks) {
                let row = vector(&row[i]);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = simd.mul_add_e_f32s(row, x, *sum);
                }
            }
        }
        for (lanes, sums) in lanes.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            S::as_mut_simd_f32s(&mut lanes[first..]).0[0] = *sums;
        }
    }
    for (t, lanes) in lanes.iter_mut().enumerate() {
        for (r, lanes) in lanes.iter_mut().enumerate() {
            for (lane, j) in lanes.iter_mut().zip(k / LANES * LANES..k) {
                *lane = table[t][j].fma(x[r][j], *lane);
            }
            out[r][at + t] = simd::join_lanes(*lanes, |a, b| a + b);
        }
    }
}

/// Returns the whole blocks of a row of `k` numbers.
#[inline(always)]
fn blocks(row: &[f32], k: usize) -> &[[f32; LANES]] {
    &row.as_chunks().0[..k / LANES]
}

#[cfg(test)]
mod tests {
    use super::{rows_dots, rows_product};
    use crate::math::simd;

    fn noise(n: usize, factor: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * factor % 1_013) as f32 - 500.0) * 1e-3).collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        for [k, n] in
            [[1, 1], [7, 33], [9, 64], [37, 5], [96, 100], [330, 70], [1_030, 17], [40, 700]]
        {
            let weight = noise(k * n, 7_919);
            for rows in [2, 3, 4, 5, 8, 9, 13, 64] {
                let all = noise(rows * k, 104_729);
                let x: Vec<&[f32]> = all.chunks(k).collect();
                let (mut sums, mut dots) = (vec![0.5; rows * n], vec![0.0; rows * n]);
                rows_product(&mut sums, &x, &weight);
                rows_dots(dots.chunks_mut(n).collect(), &x, &weight);
                for (i, dot) in dots.iter().enumerate() {
                    let want = simd::dot(&weight[i % n * k..][..k], x[i / n]);
                    assert_eq!(dot.to_bits(), want.to_bits(), "{k} {n}, dot {i} of {rows} rows");
                }
                for (r, x) in x.chunks(1).enumerate() {
                    let (mut one, mut dot) = (vec![0.5; n], vec![0.0; n]);
                    rows_product(&mut one, x, &weight);
                    rows_dots(vec![&mut dot], x, &weight);
                    let range = r * n..(r + 1) * n;
                    assert_eq!(
                        bits(&sums[range.clone()]),
                        bits(&one),
                        "{k} {n}, row {r} of {rows}"
                    );
                    assert_eq!(bits(&dots[range]), bits(&dot), "{k} {n}, dots of {r} of {rows}");
                }
            }
        }
    }
}
