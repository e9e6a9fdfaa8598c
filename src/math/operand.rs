//! Products of matrices as they are stored: in bf16 by [`bf16::product`], in all other formats widened.

use super::gemm::{self, Into, Matrix};
use super::stored::Stored;
use super::{bf16, gemv};

/// Whether products in bf16 are there: a page does without, as no browser has their instruction, and is small.
const IN_BF16: bool = cfg!(not(target_family = "wasm"));

/// A factor of a product.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    stored: Stored<'a>,
    rows: usize,
    cols: usize,
    stride: usize,
    is_transposed: bool,
}

impl<'a> Operand<'a> {
    /// Creates a matrix (rows, cols) whose rows begin `stride` elements apart.
    pub fn new(stored: Stored<'a>, rows: usize, cols: usize, stride: usize) -> Operand<'a> {
        Operand { stored, rows, cols, stride, is_transposed: false }
    }

    /// Returns the transposed matrix.
    #[must_use]
    pub fn t(self) -> Operand<'a> {
        Operand { is_transposed: !self.is_transposed, ..self }
    }

    /// Returns the matrix with these numbers.
    fn of<'b, T>(&self, data: &'b [T]) -> Matrix<'b, T> {
        let matrix = Matrix::new(data, self.rows, self.cols, self.stride);
        if self.is_transposed { matrix.t() } else { matrix }
    }
}

/// Computes `out = a · b`, or adds the product to `out`, whose rows begin `stride` elements apart; on all threads.
///
/// # Panics
///
/// If the sizes do not fit each other, or a matrix does not lie within its slice.
pub fn product(out: &mut [f32], stride: usize, into: Into, a: Operand<'_>, b: Operand<'_>) {
    match (a.stored, b.stored) {
        (Stored::Bf16(x), Stored::Bf16(y)) if IN_BF16 => {
            bf16::product(out, stride, into, a.of(x), b.of(y), 1.0);
        }
        (x, y) => {
            let (x, y) = (x.widened(), y.widened());
            gemm::product(out, stride, into, a.of(&x), b.of(&y), 1.0);
        }
    }
}

/// Computes `out (R,N) += x (R,K) · weight (K,N)`. The bits of a row do not depend on the other rows.
///
/// # Panics
///
/// If the sizes do not fit each other, or `x` is transposed.
pub fn rows_product(out: &mut [f32], x: Operand<'_>, weight: Operand<'_>) {
    if IN_BF16 && matches!((x.stored, weight.stored), (Stored::Bf16(_), Stored::Bf16(_))) {
        return product(out, weight.cols, Into::Add, x, weight);
    }
    let (numbers, weight) = (x.stored.widened(), weight.stored.widened());
    let x = x.of(&numbers);
    let rows: Vec<&[f32]> = (0..x.rows()).map(|row| x.row(row)).collect();
    gemv::rows_product(out, &rows, &weight);
}
