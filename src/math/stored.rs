//! Matrices as they are stored: rows of numbers in single precision, in halves, or in blocks of bytes with a scale.
//!
//! The sums run along the rows. In f16 and bf16 a row is widened and multiplied like one of single precision, with the
//! same bits. In q8_0 (ggml's format of that name) the other factor is rounded to blocks of bytes as well, and the bytes
//! are multiplied as integers. In each format a number of a product depends neither on the number of rows nor on the
//! number of threads.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::borrow::Cow;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::math::gemv;
use crate::math::simd::MulAdd;
use crate::math::simd::{LANES, join_lanes, vector_fn};

/// The numbers of a block of q8_0.
pub const BLOCK: usize = 32;

/// A block of q8_0: a number is its byte times the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Q8 {
    /// The bits of a number of half precision.
    pub scale: u16,
    /// -127 to 127.
    pub numbers: [i8; BLOCK],
}

impl Q8 {
    /// A block of numbers that are none.
    pub const NAN: Q8 = Q8 { scale: 0x7e00, numbers: [1; BLOCK] };

    /// Rounds numbers like ggml's reference: `scale = max |x| / 127`, `q = round(x / scale)`, halves away from zero; `None` if
    /// half precision cannot hold the scale, or a number is not finite.
    #[inline(always)]
    pub fn round(x: &[f32; BLOCK]) -> Option<Q8> {
        let Rounded { scale, numbers } = Rounded::of(x);
        let half = f16::from_f32(scale);
        half.is_finite().then(|| Q8 { scale: half.to_bits(), numbers })
    }

    #[inline(always)]
    fn widen(&self, out: &mut [f32]) {
        let scale = wide_f16(self.scale);
        out.iter_mut().zip(&self.numbers).for_each(|(out, q)| *out = scale * f32::from(*q));
    }
}

/// A matrix as it is stored, row by row.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
    /// Blocks, which no row cuts.
    Q8(&'a [Q8]),
}

impl<'a> Stored<'a> {
    /// Returns the number of its elements.
    pub fn len(self) -> usize {
        match self {
            Stored::F32(x) => x.len(),
            Stored::F16(x) => x.len(),
            Stored::Bf16(x) => x.len(),
            Stored::Q8(x) => x.len() * BLOCK,
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Returns a range of its elements, which cuts no block.
    ///
    /// # Panics
    ///
    /// If the range is not within the matrix, or cuts a block.
    pub fn part(self, range: Range<usize>) -> Stored<'a> {
        match self {
            Stored::F32(x) => Stored::F32(&x[range]),
            Stored::F16(x) => Stored::F16(&x[range]),
            Stored::Bf16(x) => Stored::Bf16(&x[range]),
            Stored::Q8(x) => {
                let Range { start, end } = range;
                assert!(start.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK), "a block is cut");
                Stored::Q8(&x[start / BLOCK..end / BLOCK])
            }
        }
    }

    /// Writes its elements in single precision.
    ///
    /// # Panics
    ///
    /// If `out` has another length.
    pub fn widen(self, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "what is widened has the matrix's length");
        match self {
            Stored::F32(x) => out.copy_from_slice(x),
            Stored::F16(x) => x.convert_to_f32_slice(out),
            Stored::Bf16(x) => widen_bf16(bytemuck::cast_slice(x), out),
            Stored::Q8(x) => widen_q8(x, out),
        }
    }

    /// Returns all of its elements in single precision.
    pub fn widened(self) -> Cow<'a, [f32]> {
        const PART: usize = 1 << 16;
        if let Stored::F32(x) = self {
            return Cow::Borrowed(x);
        }
        let mut all = vec![0.0; self.len()];
        all.par_chunks_mut(PART).enumerate().for_each(|(i, out)| {
            self.part(i * PART..i * PART + out.len()).widen(out);
        });
        Cow::Owned(all)
    }
}

/// Returns the number that these bits of half precision are.
#[inline(always)]
fn wide_f16(bits: u16) -> f32 {
    let bits = u32::from(bits);
    // The exponents differ by 112, which a product adds; it makes denormal numbers normal, too.
    let small = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((112 + 127) << 23);
    let endless = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(small.to_bits() | endless | (bits & 0x8000) << 16)
}

vector_fn! {
    fn widen_bf16<'a>(x: &'a [u16], out: &'a mut [f32]) -> () {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = f32::from_bits(u32::from(*x) << 16));
    }
}

vector_fn! {
    /// Rounds to the nearest number, to the even one of two; what is no number stays none.
    pub fn round_to_bf16<'a>(out: &'a mut [bf16], x: &'a [f32]) -> () {
        for (out, x) in out.iter_mut().zip(x) {
            let bits = x.to_bits();
            // A carry may go as far as the exponent, and infinity stays what it is.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
            let quiet = bits | 0x40_0000;
            *out = bf16::from_bits((if x.is_nan() { quiet } else { rounded } >> 16) as u16);
        }
    }
}

vector_fn! {
    fn widen_q8<'a>(x: &'a [Q8], out: &'a mut [f32]) -> () {
        out.chunks_exact_mut(BLOCK).zip(x).for_each(|(out, x)| x.widen(out));
    }
}

/// Returns the sets of instructions that the processor has of those that matter here.
pub fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    return x86::features();
    #[cfg(not(target_arch = "x86_64"))]
    vec![]
}

/// Returns how halves and how blocks are multiplied on this processor, in words.
pub fn ways() -> [&'static str; 2] {
    #[cfg(target_arch = "x86_64")]
    if x86::is_fast() {
        return ["widened within the sum (F16C, AVX2, FMA)", x86::way_of_bytes()];
    }
    ["widened some rows at a time", "bytes in plain loops: saves memory, and little time"]
}

/// The rows of the matrix that a task multiplies.
const TASK: usize = 128;
/// The rows that are widened at a time; their numbers stay in the L1 cache.
const WIDENED: usize = 8;

/// Computes `out (R,N) = x (R,K) · matrix (N,K)ᵀ`; the rows of `out` and of `x` are separate slices.
///
/// # Panics
///
/// If the lengths do not fit each other, or a row of the matrix cuts a block.
pub fn rows_dots(mut out: Vec<&mut [f32]>, x: &[&[f32]], matrix: Stored<'_>) {
    let Some(k) = x.first().map(|x| x.len()) else { return };
    assert_eq!(out.len(), x.len(), "the rows of a product agree");
    assert!(
        out.iter().zip(x).all(|(out, x)| (out.len() * k, k) == (matrix.len(), x.len())),
        "the sizes of a product agree"
    );
    match matrix {
        Stored::F32(table) => gemv::rows_dots(out, x, table),
        Stored::F16(_) | Stored::Bf16(_) => {
            let tasks = tasks(&mut out, matrix, k).into_par_iter();
            tasks.for_each_init(Vec::new, |wide, (mut out, matrix)| {
                half_dots(&mut out, x, matrix, wide);
            });
        }
        Stored::Q8(_) => {
            let x: Vec<Vec<Rounded>> = x.iter().map(|x| round_row(x)).collect();
            let tasks = tasks(&mut out, matrix, k);
            tasks.into_par_iter().for_each(|(mut out, matrix)| {
                let Stored::Q8(blocks) = matrix else { unreachable!("it is in blocks") };
                q8_dots(&mut out, &x, blocks);
            });
        }
    }
}

/// The most rows of the other factor for which halves are widened anew for each.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 3;

/// Multiplies rows of halves by the rows of `x`; `wide` is room for widened ones.
fn half_dots(out: &mut [&mut [f32]], x: &[&[f32]], matrix: Stored<'_>, wide: &mut Vec<f32>) {
    #[cfg(target_arch = "x86_64")]
    if x.len() <= FEW && x86::is_fast() {
        for (out, x) in out.iter_mut().zip(x) {
            match matrix {
                Stored::F16(rows) => x86::half_dots::<false>(out, x, bytemuck::cast_slice(rows)),
                Stored::Bf16(rows) => x86::half_dots::<true>(out, x, bytemuck::cast_slice(rows)),
                Stored::F32(_) | Stored::Q8(_) => unreachable!("they are no halves"),
            }
        }
        return;
    }
    let k = x[0].len();
    let rows = matrix.len() / k;
    for first in (0..rows).step_by(WIDENED) {
        let count = WIDENED.min(rows - first);
        wide.resize(count * k, 0.0);
        matrix.part(first * k..(first + count) * k).widen(wide);
        gemv::dots(out, first, x, wide);
    }
}

/// Some columns of the rows of a product, and the rows of the matrix that give them.
type Task<'a, 'b> = (Vec<&'a mut [f32]>, Stored<'b>);

/// Splits a product into tasks.
fn tasks<'a, 'b>(out: &'a mut [&mut [f32]], matrix: Stored<'b>, k: usize) -> Vec<Task<'a, 'b>> {
    let all = matrix.len() / k;
    let mut tasks: Vec<Task<'a, 'b>> = (0..all)
        .step_by(TASK)
        .map(|first| {
            (Vec::with_capacity(out.len()), matrix.part(first * k..all.min(first + TASK) * k))
        })
        .collect();
    for row in out {
        tasks.iter_mut().zip(row.chunks_mut(TASK)).for_each(|((task, _), part)| task.push(part));
    }
    tasks
}

/// A block of the other factor of q8_0.
#[derive(Clone, Copy)]
struct Rounded {
    scale: f32,
    numbers: [i8; BLOCK],
}

/// Rounds a row to blocks.
fn round_row(x: &[f32]) -> Vec<Rounded> {
    let mut row = vec![Rounded { scale: 0.0, numbers: [0; BLOCK] }; x.len() / BLOCK];
    round_blocks(&mut row, x);
    row
}

vector_fn! {
    /// Rounds numbers to blocks; a block that cannot be rounded becomes [`Q8::NAN`].
    pub fn round_to_q8<'a>(out: &'a mut [Q8], x: &'a [f32]) -> () {
        let blocks = x.as_chunks().0;
        out.iter_mut().zip(blocks).for_each(|(out, x)| *out = Q8::round(x).unwrap_or(Q8::NAN));
    }
}

vector_fn! {
    fn round_blocks<'a>(row: &'a mut [Rounded], x: &'a [f32]) -> () {
        row.iter_mut().zip(x.as_chunks().0).for_each(|(block, x)| *block = Rounded::of(x));
    }
}

impl Rounded {
    /// Rounds numbers, halves away from zero. One that is not finite gives a scale that is not, and so a product that is not.
    #[inline(always)]
    fn of(x: &[f32; BLOCK]) -> Rounded {
        // Without their signs numbers are in the order of their bits, and what is no number comes last.
        let most = x.iter().fold(0, |most: u32, x| most.max(x.abs().to_bits()));
        let scale = f32::from_bits(most) / 127.0;
        let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
        let round = |x: f32| {
            let whole = x.trunc();
            let half = if (x - whole).abs() >= 0.5 { 1.0_f32.copysign(x) } else { 0.0 };
            whole + half
        };
        let mut numbers = [0; BLOCK];
        numbers.iter_mut().zip(x).for_each(|(number, x)| *number = round(x * inverse) as i8);
        Rounded { scale, numbers }
    }
}

/// Multiplies rows in blocks by the rows of `x`.
fn q8_dots(out: &mut [&mut [f32]], x: &[Vec<Rounded>], rows: &[Q8]) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_fast() {
        return x86::q8_dots(out, x, rows);
    }
    out.iter_mut().zip(x).for_each(|(out, x)| q8_dots_in_loops(out, x, rows));
}

/// The lanes of a sum over blocks: each has four products of every block.
const Q8_LANES: usize = BLOCK / 4;

vector_fn! {
    fn q8_dots_in_loops<'a>(out: &'a mut [f32], x: &'a [Rounded], rows: &'a [Q8]) -> () {
        for (out, row) in out.iter_mut().zip(rows.chunks_exact(x.len())) {
            let mut lanes = [0.0_f32; LANES];
            for (row, x) in row.iter().zip(x) {
                let scale = wide_f16(row.scale) * x.scale;
                let (a, b) = (row.numbers.as_chunks::<4>().0, x.numbers.as_chunks::<4>().0);
                for ((lane, a), b) in lanes[..Q8_LANES].iter_mut().zip(a).zip(b) {
                    let sum: i32 = a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                    *lane = (sum as f32).fma(scale, *lane);
                }
            }
            *out = join_lanes(lanes, |a, b| a + b);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::{
        BLOCK, Q8, Stored, q8_dots, q8_dots_in_loops, round_row, round_to_bf16, rows_dots, wide_f16,
    };
    use crate::math::gemv;

    fn noise(n: usize, factor: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * factor % 1_013) as f32 - 500.0) * 1e-3).collect()
    }

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (wide_f16(bits), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_bf16() {
        let specials = [0.0, -0.0, f32::MIN_POSITIVE, 1e-40, f32::MAX, f32::INFINITY, f32::NAN];
        let all = (0..=u32::from(u16::MAX)).map(|i| f32::from_bits(i.wrapping_mul(0x1_0003)));
        let middles = (0..=u32::from(u16::MAX)).map(|i| f32::from_bits(i << 16 | 0x8000));
        let x: Vec<f32> = specials.into_iter().chain(all).chain(middles).collect();
        let mut got = vec![bf16::ZERO; x.len()];
        round_to_bf16(&mut got, &x);
        for (got, x) in got.iter().zip(&x) {
            let want = bf16::from_f32(*x);
            let is_same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(is_same, "{x:e} ({:x}): {got}, {want}", x.to_bits());
        }
    }

    /// Computes a product with all rows at once and with each alone, which must have the same bits.
    fn dots(x: &[&[f32]], matrix: Stored<'_>) -> Vec<f32> {
        let n = matrix.len() / x[0].len();
        let (mut all, mut one) = (vec![0.0; x.len() * n], vec![0.0; n]);
        rows_dots(all.chunks_mut(n).collect(), x, matrix);
        for (all, x) in all.chunks(n).zip(x.chunks(1)) {
            rows_dots(vec![&mut one], x, matrix);
            assert_eq!(all.map_bits(), one.map_bits());
        }
        all
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u32>;
    }

    impl Bits for [f32] {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|x| x.to_bits()).collect()
        }
    }

    #[test]
    fn halves_have_the_bits_of_what_they_are_widened_to() {
        for (k, n, rows) in [(1, 1, 1), (7, 130, 3), (96, 257, 5), (330, 70, 2)] {
            let (weights, x) = (noise(k * n, 7_919), noise(rows * k, 104_729));
            let x: Vec<&[f32]> = x.chunks(k).collect();
            let halves: Vec<f16> = weights.iter().map(|x| f16::from_f32(*x)).collect();
            let uppers: Vec<bf16> = weights.iter().map(|x| bf16::from_f32(*x)).collect();
            for stored in [Stored::F16(&halves), Stored::Bf16(&uppers)] {
                let mut want = vec![0.0; rows * n];
                let wide = stored.widened();
                assert!(
                    wide.iter()
                        .zip(&weights)
                        .all(|(a, b)| (a - b).abs() < 5e-3 * b.abs().max(1e-3))
                );
                gemv::rows_dots(want.chunks_mut(n).collect(), &x, &wide);
                assert_eq!(dots(&x, stored).map_bits(), want.map_bits(), "{k} {n} {rows}");
            }
        }
    }

    #[test]
    fn products_of_blocks_are_those_of_their_numbers() {
        for (k, n, rows) in [(32, 1, 1), (96, 130, 3), (320, 257, 5)] {
            let (weights, x) = (noise(k * n, 7_919), noise(rows * k, 104_729));
            let blocks: Vec<Q8> =
                weights.as_chunks().0.iter().map(|block| Q8::round(block).unwrap()).collect();
            let x: Vec<&[f32]> = x.chunks(k).collect();
            let wide = Stored::Q8(&blocks).widened();
            assert!(wide.iter().zip(&weights).all(|(a, b)| (a - b).abs() < 2.3e-3));
            let got = dots(&x, Stored::Q8(&blocks));
            for (i, got) in got.iter().enumerate() {
                let (x, row) = (x[i / n], &wide[i % n * k..][..k]);
                let rounded = |x: &[f32; BLOCK]| {
                    let scale = x.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
                    x.map(|x| f64::from((x / scale).round() * scale))
                };
                let x: Vec<f64> = x.as_chunks().0.iter().flat_map(rounded).collect();
                let want: f64 = x.iter().zip(row).map(|(x, w)| x * f64::from(*w)).sum();
                let size: f64 = x.iter().zip(row).map(|(x, w)| (x * f64::from(*w)).abs()).sum();
                // A quotient may round to the other of two neighbours.
                let most = 2e-6 * size + 1e-3;
                assert!((f64::from(*got) - want).abs() <= most, "{k} {n}, {i}: {got}, want {want}");
            }
        }
    }

    #[test]
    fn blocks_have_the_same_bits_by_every_way() {
        for (k, n) in [(32, 1), (64, 6), (768, 13)] {
            let mut weights = noise(k * n, 7_919);
            weights[3] = -90.0;
            let blocks: Vec<Q8> =
                weights.as_chunks().0.iter().map(|block| Q8::round(block).unwrap()).collect();
            let mut x = noise(k, 104_729);
            x[3] = 40.0;
            let x = round_row(&x);
            let (taken, mut loops) = (vec![0.0; n], vec![0.0; n]);
            q8_dots_in_loops(&mut loops, &x, &blocks);
            for rows in [1, 5] {
                let mut all = vec![taken.clone(); rows];
                let mut out: Vec<&mut [f32]> = all.iter_mut().map(|row| &mut row[..]).collect();
                q8_dots(&mut out, &vec![x.clone(); rows], &blocks);
                for row in all {
                    assert_eq!(row.map_bits(), loops.map_bits(), "{k} {n}, {rows}");
                }
            }
        }
    }

    /// As by `f32::round`, halves away from zero.
    #[test]
    fn numbers_are_rounded_to_the_nearest_byte() {
        let below_half = f32::from_bits(0.5_f32.to_bits() - 1);
        let mut x: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 - 15.5) * 8.0);
        (x[0], x[1], x[2], x[3]) = (127.0, below_half, -below_half, -0.0);
        (x[4], x[5], x[6]) = (-126.5, 126.499_99, 2.5);
        let rounded = Q8::round(&x).unwrap();
        assert_eq!(f16::from_bits(rounded.scale), f16::ONE);
        assert_eq!(rounded.numbers, x.map(|x| x.round() as i8));
        assert_eq!(rounded.numbers[..7], [127, 0, 0, 0, -127, 126, 3]);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let blocks = [Q8::round(&[0.5; BLOCK]).unwrap()];
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [0.25; BLOCK];
            x[7] = bad;
            let mut out = [0.0];
            rows_dots(vec![&mut out], &[&x], Stored::Q8(&blocks));
            assert!(!out[0].is_finite(), "{bad}: {out:?}");
        }
        for bad in [1e9, f32::NAN, f32::INFINITY] {
            assert_eq!(Q8::round(&std::array::from_fn(|i| if i == 5 { bad } else { 1.0 })), None);
        }
        let mut wide = [0.0; BLOCK];
        Stored::Q8(&[Q8::NAN]).widen(&mut wide);
        assert!(wide.iter().all(|x| x.is_nan()), "{wide:?}");
    }
}
