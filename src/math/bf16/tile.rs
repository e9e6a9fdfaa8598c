//! The tile of sums that stays in registers, and what it asks of a processor.

use super::pack::Panels;
use crate::math::gemm::Into;
use crate::math::simd::{MulAdd, vector_fn};

/// The sums of a vector.
pub(super) const LANES: usize = 16;
/// The vectors of a tile's columns.
const VECTORS: usize = 2;
/// The rows of a tile: with [`VECTORS`] vectors each, 24 of the 32 registers have sums.
pub(super) const ROWS: usize = 12;
/// The columns of a tile.
pub(super) const COLUMNS: usize = VECTORS * LANES;

/// What a tile asks of a processor: VDPBF16PS, and how its operands get there and back.
pub(super) trait Dot: Copy {
    /// A pair for each sum of a vector.
    type Pairs: Copy;
    /// The sums of a vector.
    type Sums: Copy;

    /// Returns sums of nothing.
    fn zero(self) -> Self::Sums;
    /// Returns these pairs.
    fn load(self, pairs: &[u32; LANES]) -> Self::Pairs;
    /// Returns the same pair for each sum.
    fn splat(self, pair: u32) -> Self::Pairs;
    /// Adds to each sum the product of the second numbers, rounds, adds that of the first numbers, and rounds. Numbers below
    /// the smallest normal one count as 0 and become 0.
    fn add(self, sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums;
    /// Returns the sums as numbers.
    fn store(self, sums: Self::Sums) -> [f32; LANES];
}

/// A part of a product, which a task computes.
pub(super) struct Part<'a, 'b> {
    /// Its rows of the output, each in its columns.
    pub out: Vec<&'a mut [f32]>,
    /// Its first row and its first column, in the packed factors.
    pub at: [usize; 2],
    /// The packed factors.
    pub panels: [Panels<'b>; 2],
    /// The effect on the output.
    pub into: Into,
    /// What the product is multiplied by.
    pub factor: f32,
}

/// Computes a part of a product, tile by tile: the columns of a tile stay in the L1 cache for all rows.
#[inline(always)]
pub(super) fn multiply<D: Dot>(dot: D, part: Part<'_, '_>) {
    let Part { mut out, at: [row, column], panels: [of_a, of_b], into, factor } = part;
    let columns = out[0].len();
    for start in (0..columns).step_by(COLUMNS) {
        let (b, width) = of_b.from(column + start);
        for (i, out) in out.chunks_mut(ROWS).enumerate() {
            let (a, _) = of_a.from(row + i * ROWS);
            let sums = tile(dot, a, b);
            for (out, sums) in out.iter_mut().zip(&sums) {
                let out = out[start..][..width.min(columns - start)].iter_mut();
                let sums = out.zip(sums.as_flattened());
                match into {
                    Into::Set => sums.for_each(|(out, sum)| *out = factor * sum),
                    Into::Add => sums.for_each(|(out, sum)| *out = factor.fma(*sum, *out)),
                }
            }
        }
    }
}

/// Computes the sums of a tile.
#[inline(always)]
fn tile<D: Dot>(dot: D, a: &[u32], b: &[u32]) -> [[[f32; LANES]; VECTORS]; ROWS] {
    let a = a.as_chunks::<ROWS>().0;
    let b = b.as_chunks::<LANES>().0.as_chunks::<VECTORS>().0;
    let mut sums = [[dot.zero(); VECTORS]; ROWS];
    for (a, b) in a.iter().zip(b) {
        let b = [dot.load(&b[0]), dot.load(&b[1])];
        for row in 0..ROWS {
            let a = dot.splat(a[row]);
            for vector in 0..VECTORS {
                sums[row][vector] = dot.add(sums[row][vector], a, b[vector]);
            }
        }
    }
    let mut out = [[[0.0; LANES]; VECTORS]; ROWS];
    for row in 0..ROWS {
        for vector in 0..VECTORS {
            out[row][vector] = dot.store(sums[row][vector]);
        }
    }
    out
}

/// [`Dot`] in plain loops.
#[derive(Clone, Copy)]
pub(super) struct Loops;

/// Returns 0 of the same sign in place of a number below the smallest normal one.
#[inline(always)]
fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0_f32.copysign(x) } else { x }
}

impl Dot for Loops {
    /// The first and the second numbers.
    type Pairs = [[f32; LANES]; 2];
    type Sums = [f32; LANES];

    #[inline(always)]
    fn zero(self) -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    fn load(self, pairs: &[u32; LANES]) -> [[f32; LANES]; 2] {
        let mut numbers = [[0.0; LANES]; 2];
        for lane in 0..LANES {
            numbers[0][lane] = flush(f32::from_bits(pairs[lane] << 16));
            numbers[1][lane] = flush(f32::from_bits(pairs[lane] & 0xffff_0000));
        }
        numbers
    }

    #[inline(always)]
    fn splat(self, pair: u32) -> [[f32; LANES]; 2] {
        self.load(&[pair; LANES])
    }

    #[inline(always)]
    fn add(
        self,
        mut sums: [f32; LANES],
        a: [[f32; LANES]; 2],
        b: [[f32; LANES]; 2],
    ) -> [f32; LANES] {
        for number in [1, 0] {
            for lane in 0..LANES {
                sums[lane] = flush(a[number][lane].fma(b[number][lane], sums[lane]));
            }
        }
        sums
    }

    #[inline(always)]
    fn store(self, sums: [f32; LANES]) -> [f32; LANES] {
        sums
    }
}

vector_fn! {
    fn multiply_in_vectors<'a>(part: Part<'a, 'a>) -> () {
        multiply(Loops, part);
    }
}

/// Computes a part of a product by plain loops.
pub(super) fn multiply_by_loops(part: Part<'_, '_>) {
    multiply_in_vectors(part);
}
