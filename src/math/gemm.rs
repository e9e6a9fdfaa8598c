//! Single-precision matrix products with any strides.

use std::ops::Range;

use gemm::Parallelism;

/// A matrix in a slice: element (r, c) is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Returns the least length of a slice that holds a matrix of these sizes.
pub(super) fn reach(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

impl<'a, T> Matrix<'a, T> {
    /// Creates a matrix (rows, cols) whose rows begin `stride` elements apart.
    ///
    /// # Panics
    ///
    /// If it does not lie within `data`.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Matrix<'a, T> {
        assert!(reach(rows, cols, stride, 1) <= data.len(), "a matrix lies within its slice");
        Matrix { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether its rows are contiguous.
    pub(super) fn has_rows(&self) -> bool {
        self.col_stride == 1
    }

    /// Returns a row of a matrix whose rows are contiguous.
    ///
    /// # Panics
    ///
    /// If the rows are not contiguous, or there is no such row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(self.has_rows() && row < self.rows, "row {row} is not a slice");
        &self.data[row * self.row_stride..][..self.cols]
    }

    /// Returns some rows, in some columns.
    ///
    /// # Panics
    ///
    /// If the matrix does not have them.
    pub(super) fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Matrix<'a, T> {
        assert!(rows.end <= self.rows && cols.end <= self.cols, "a part is the matrix's");
        let Matrix { row_stride, col_stride, .. } = *self;
        let start = rows.start * row_stride + cols.start * col_stride;
        let data = if rows.is_empty() || cols.is_empty() { &[] } else { &self.data[start..] };
        Matrix { data, rows: rows.len(), cols: cols.len(), row_stride, col_stride }
    }

    /// Returns the transposed matrix.
    #[must_use]
    pub fn t(self) -> Matrix<'a, T> {
        let Matrix { data, rows, cols, row_stride, col_stride } = self;
        let (rows, cols, row_stride, col_stride) = (cols, rows, col_stride, row_stride);
        Matrix { data, rows, cols, row_stride, col_stride }
    }
}

/// The effect of a product on its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// Overwrites it.
    Set,
    /// Adds to it.
    Add,
}

impl Into {
    /// Returns `Set` if `overwrite`, else `Add`.
    pub fn set_if(overwrite: bool) -> Into {
        if overwrite { Into::Set } else { Into::Add }
    }
}

/// The number of rows of the output that are computed at a time: `gemm` copies these rows of `a` if `a` is transposed.
const ROWS: usize = 4096;

/// Computes `out = factor · a · b`, or adds the product to `out`, whose rows begin `stride` elements apart; on all
/// threads.
///
/// # Panics
///
/// If the sizes do not fit each other, or the output does not lie within its slice.
pub fn product(
    out: &mut [f32],
    stride: usize,
    into: Into,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
) {
    for first in (0..a.rows).step_by(ROWS) {
        let a = a.part(first..a.rows.min(first + ROWS), 0..a.cols);
        run(&mut out[first * stride..], stride, into, a, b, factor, Parallelism::Rayon(0));
    }
}

/// Computes [`product`] on the calling thread alone.
///
/// # Panics
///
/// If the sizes do not fit each other, or the output does not lie within its slice.
pub fn serial(
    out: &mut [f32],
    stride: usize,
    into: Into,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
) {
    run(out, stride, into, a, b, factor, Parallelism::None);
}

fn run(
    out: &mut [f32],
    stride: usize,
    into: Into,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
    parallelism: Parallelism,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "the inner sizes of a product agree");
    assert!(stride >= n && reach(m, n, stride, 1) <= out.len(), "a product lies within its slice");
    // SAFETY: every element that `gemm` reads or writes has its row and column below the sizes given;
    // `Matrix::new` and the assertion above keep those within their slices, the output's rows do not
    // overlap, and the borrow of `out` is exclusive.
    #[allow(unsafe_code, reason = "gemm takes pointers; checked above")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}
