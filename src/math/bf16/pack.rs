//! Factors as pairs along the sums, in the order in which a tile reads them.

use half::bf16;
use rayon::prelude::*;

use crate::math::gemm::Matrix;

/// A packed factor: panels of `width` lines (rows of a, or columns of b), in each for every pair of the sum the pairs of all
/// lines. An odd sum ends with a 0, and so do the lines of the last panel.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    data: &'a [u32],
    /// The lines that are no padding.
    lines: usize,
    width: usize,
    /// The pairs of a sum.
    pairs: usize,
}

impl<'a> Panels<'a> {
    /// Returns what [`pack`] has written for `lines` lines of sums of length `depth`.
    pub(super) fn new(data: &'a [u32], lines: usize, width: usize, depth: usize) -> Panels<'a> {
        Panels { data, lines, width, pairs: depth.div_ceil(2) }
    }

    /// Returns the panel that begins at line `first`, and how many of its lines are no padding.
    pub(super) fn from(self, first: usize) -> (&'a [u32], usize) {
        let len = self.width * self.pairs;
        let panel = &self.data[first / self.width * len..][..len];
        (panel, self.width.min(self.lines - first))
    }
}

/// Packs the rows of a matrix, `width` at a time; on all threads.
pub(super) fn pack(out: &mut Vec<u32>, matrix: Matrix<'_, bf16>, width: usize) {
    let panel = width * matrix.cols().div_ceil(2);
    let len = matrix.rows().div_ceil(width) * panel;
    if out.len() < len {
        out.resize(len, 0);
    }
    // Nothing is to be done where the sums are empty.
    let panels = out[..len].par_chunks_mut(panel.max(1)).enumerate();
    panels.for_each(|(i, out)| pack_panel(out, matrix, i * width, width));
}

/// Returns a pair as the processor reads it: the first number in the lower half.
fn pair(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

/// Packs the rows from `first` on.
fn pack_panel(out: &mut [u32], matrix: Matrix<'_, bf16>, first: usize, width: usize) {
    let count = width.min(matrix.rows() - first);
    if count < width {
        out.fill(0);
    }
    if matrix.has_rows() {
        for line in 0..count {
            let numbers = matrix.row(first + line);
            let (pairs, rest) = numbers.as_chunks::<2>();
            let rest = rest.iter().map(|x| pair(*x, bf16::ZERO));
            let pairs = pairs.iter().map(|[x, y]| pair(*x, *y)).chain(rest);
            out[line..].iter_mut().step_by(width).zip(pairs).for_each(|(out, pair)| *out = pair);
        }
        return;
    }
    // The columns are contiguous.
    let (columns, zeros) = (matrix.t(), [bf16::ZERO; super::COLUMNS]);
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        let x = &columns.row(2 * i)[first..][..count];
        let y = match 2 * i + 1 < columns.rows() {
            true => &columns.row(2 * i + 1)[first..][..count],
            false => &zeros[..count],
        };
        out.iter_mut().zip(x.iter().zip(y)).for_each(|(out, (x, y))| *out = pair(*x, *y));
    }
}
