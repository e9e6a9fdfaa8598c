//! Products of one row, bound by the memory that the matrix comes from.

use rayon::prelude::*;

use crate::math::simd::{self, vector_fn};

/// Parts of the sum of [`row_product`], each a task.
const TASKS: usize = 8;

/// `out (N) = x (K) · weight (K,N) + bias (N)`.
///
/// Every task reads a run of whole rows, so that memory is read in its own order.
///
/// # Panics
///
/// If the lengths do not fit each other.
pub fn row_product(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32]) {
    let n = out.len();
    assert_eq!((weight.len(), bias.len()), (x.len() * n, n), "the sizes of a product agree");
    let rows = x.len().div_ceil(TASKS);
    let mut sums = vec![0.0; x.len().div_ceil(rows) * n];
    let tasks = sums.par_chunks_mut(n).zip(x.par_chunks(rows)).zip(weight.par_chunks(rows * n));
    tasks.for_each(|((sums, x), weight)| add_rows(sums, x, weight));
    out.copy_from_slice(bias);
    for sums in sums.chunks_exact(n) {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}

vector_fn! {
    /// `sums += x · weight`, four rows of the weight at a time.
    fn add_rows<'a>(sums: &'a mut [f32], x: &'a [f32], weight: &'a [f32]) -> () {
        let n = sums.len();
        let (fours, rest) = x.as_chunks::<4>();
        for (x, rows) in fours.iter().zip(weight.chunks_exact(4 * n)) {
            let (a, bcd) = rows.split_at(n);
            let (b, cd) = bcd.split_at(n);
            let (c, d) = cd.split_at(n);
            for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let sum_cd = x[2].mul_add(*c, x[3].mul_add(*d, *sum));
                *sum = x[0].mul_add(*a, x[1].mul_add(*b, sum_cd));
            }
        }
        for (&x, row) in rest.iter().zip(weight[fours.len() * 4 * n..].chunks_exact(n)) {
            simd::add_scaled(sums, x, row);
        }
    }
}

/// `out (N) = rows (N,K) · x (K)`: a dot product a row.
///
/// # Panics
///
/// If the lengths do not fit each other.
pub fn row_dots(out: &mut [f32], rows: &[f32], x: &[f32]) {
    const ROWS: usize = 128;
    let k = x.len();
    assert_eq!(rows.len(), out.len() * k, "the sizes of a product agree");
    out.par_chunks_mut(ROWS)
        .zip(rows.par_chunks(ROWS * k))
        .for_each(|(out, rows)| dots(out, rows, x));
}

vector_fn! {
    fn dots<'a>(out: &'a mut [f32], rows: &'a [f32], x: &'a [f32]) -> () {
        for (out, row) in out.iter_mut().zip(rows.chunks_exact(x.len())) {
            *out = simd::dot(row, x);
        }
    }
}
