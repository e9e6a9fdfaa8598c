//! Products of stored rows by instructions of x86 processors, with the very bits of the loops.

#![allow(
    unsafe_code,
    reason = "instructions that not every processor has; the callers below have asked for them"
)]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm256_abs_epi8,
    _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_dpbusd_epi32, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8,
    _mm256_slli_epi32,
};

use super::{LANES, Q8, Q8_LANES, Rounded, join_lanes};

/// The rows that are multiplied at a time. Each is the next one of its own part of the matrix: four long runs of memory are
/// read 1.7 times as fast as one, or as four rows side by side.
const ROWS: usize = 4;

/// Whether the processor has the instructions of [`half_dots`] and [`q8_dots`].
pub(super) fn is_fast() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}

fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")
}

/// Multiplies rows of halves, of bf16 or else of f16, by `x`; only where it [is fast](is_fast).
pub(super) fn half_dots<const BF16: bool>(out: &mut [f32], x: &[f32], rows: &[u16]) {
    assert!(is_fast(), "the processor has the instructions");
    // SAFETY: it has.
    unsafe { every_half_dot::<BF16>(out, x, rows) }
}

#[target_feature(enable = "avx2,f16c,fma")]
fn every_half_dot<const BF16: bool>(out: &mut [f32], x: &[f32], rows: &[u16]) {
    let row = |i: usize| &rows[i * x.len()..][..x.len()];
    let part = out.len() / ROWS;
    for i in 0..part {
        let of_parts = some_half_dots::<BF16, ROWS>(std::array::from_fn(|t| row(t * part + i)), x);
        (0..ROWS).for_each(|t| out[t * part + i] = of_parts[t]);
    }
    for (i, out) in out.iter_mut().enumerate().skip(ROWS * part) {
        [*out] = some_half_dots::<BF16, 1>([row(i)], x);
    }
}

#[target_feature(enable = "avx2,f16c,fma")]
fn some_half_dots<const BF16: bool, const T: usize>(rows: [&[u16]; T], x: &[f32]) -> [f32; T] {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let row_blocks = rows.map(|row| &row.as_chunks::<LANES>().0[..blocks.len()]);
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    for (i, x) in blocks.iter().enumerate() {
        let x: [__m256; 2] = bytemuck::cast(*x);
        for t in 0..T {
            let row: [__m128i; 2] = bytemuck::cast(row_blocks[t][i]);
            for half in 0..2 {
                let row = widen::<BF16>(row[half]);
                sums[t][half] = _mm256_fmadd_ps(row, x[half], sums[t][half]);
            }
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        let mut lanes: [f32; LANES] = bytemuck::cast(sums[t]);
        let row = &rows[t][x.len() - rest.len()..];
        for (lane, (x, number)) in lanes.iter_mut().zip(rest.iter().zip(row)) {
            let number = match BF16 {
                true => f32::from_bits(u32::from(*number) << 16),
                false => super::wide_f16(*number),
            };
            *lane = number.mul_add(*x, *lane);
        }
        out[t] = join_lanes(lanes, |a, b| a + b);
    }
    out
}

#[target_feature(enable = "avx2,f16c")]
fn widen<const BF16: bool>(halves: __m128i) -> __m256 {
    match BF16 {
        true => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves))),
        false => _mm256_cvtph_ps(halves),
    }
}

/// Multiplies rows in blocks by `x`; only where it [is fast](is_fast).
pub(super) fn q8_dots(out: &mut [f32], x: &[Rounded], rows: &[Q8]) {
    assert!(is_fast(), "the processor has the instructions");
    // SAFETY: it has, and the further ones of the first case if they are asked for.
    match has_vnni() {
        true => unsafe { q8_dots_by_vnni(out, x, rows) },
        false => unsafe { q8_dots_by_avx2(out, x, rows) },
    }
}

/// Defines the products of rows of blocks for some instructions, of which `four` adds four products of bytes each.
macro_rules! q8_dots {
    ($name:ident, $of_some:ident, $features:literal, $four:ident) => {
        #[target_feature(enable = $features)]
        fn $name(out: &mut [f32], x: &[Rounded], rows: &[Q8]) {
            let row = |i: usize| &rows[i * x.len()..][..x.len()];
            let part = out.len() / ROWS;
            for i in 0..part {
                let of_parts: [f32; ROWS] = $of_some(std::array::from_fn(|t| row(t * part + i)), x);
                (0..ROWS).for_each(|t| out[t * part + i] = of_parts[t]);
            }
            for (i, out) in out.iter_mut().enumerate().skip(ROWS * part) {
                [*out] = $of_some([row(i)], x);
            }
        }

        #[target_feature(enable = $features)]
        fn $of_some<const T: usize>(rows: [&[Q8]; T], x: &[Rounded]) -> [f32; T] {
            let rows = rows.map(|row| &row[..x.len()]);
            let mut sums = [_mm256_setzero_ps(); T];
            for (i, x) in x.iter().enumerate() {
                let b: __m256i = bytemuck::cast(x.numbers);
                for t in 0..T {
                    let row = &rows[t][i];
                    let a: __m256i = bytemuck::cast(row.numbers);
                    // The first factor has no sign: that goes to the second.
                    let four = $four(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
                    let half = _mm_cvtsi32_si128(i32::from(row.scale));
                    let scale = _mm256_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(half)) * x.scale);
                    sums[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(four), scale, sums[t]);
                }
            }
            sums.map(|sums| {
                let mut lanes = [0.0; LANES];
                lanes[..Q8_LANES].copy_from_slice(&bytemuck::cast::<_, [f32; Q8_LANES]>(sums));
                join_lanes(lanes, |a, b| a + b)
            })
        }
    };
}

q8_dots!(q8_dots_by_vnni, some_by_vnni, "avx512vnni,avx512vl,avx2,f16c,fma", four_by_vnni);
q8_dots!(q8_dots_by_avx2, some_by_avx2, "avx2,f16c,fma", four_by_avx2);

#[target_feature(enable = "avx512vnni,avx512vl,avx2")]
fn four_by_vnni(a: __m256i, b: __m256i) -> __m256i {
    _mm256_dpbusd_epi32(_mm256_setzero_si256(), a, b)
}

/// Two products fit into 16 bits: 2 · 128 · 127.
#[target_feature(enable = "avx2")]
fn four_by_avx2(a: __m256i, b: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))
}
