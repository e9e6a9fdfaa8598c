//! Products of stored rows by instructions of x86 processors, with the very bits of the loops.

#![allow(
    unsafe_code,
    reason = "instructions that not every processor has; the callers below have asked for them"
)]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm256_abs_epi8,
    _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_dpbusd_epi32, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
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

/// Returns the sets of instructions that the processor has of those that matter here.
pub(super) fn features() -> Vec<&'static str> {
    let all = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("AVX-512 VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AVX-512 BF16", is_x86_feature_detected!("avx512bf16")),
    ];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// Returns how bytes are multiplied, in words.
pub(super) fn way_of_bytes() -> &'static str {
    match has_vnni() {
        true => "products of bytes, four at a time (AVX-512 VNNI)",
        false => "products of bytes, two at a time (AVX2)",
    }
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

/// Multiplies rows in blocks by each of the rows `x`; only where it [is fast](is_fast).
pub(super) fn q8_dots(out: &mut [&mut [f32]], x: &[Vec<Rounded>], rows: &[Q8]) {
    assert!(is_fast(), "the processor has the instructions");
    // SAFETY: it has, and the further ones of the first case if they are asked for.
    match has_vnni() {
        true => unsafe { q8_dots_by_vnni(out, x, rows) },
        false => unsafe { q8_dots_by_avx2(out, x, rows) },
    }
}

/// The rows of the other factor that are multiplied at a time, if there are as many.
const TOGETHER: usize = 4;
/// The rows of the other factor that stay in the cache while the matrix is read.
const KEPT: usize = 8 * TOGETHER;

/// Defines the products of rows of blocks for some instructions, of which `four` adds four products of bytes each.
macro_rules! q8_dots {
    ($name:ident, $tile:ident, $features:literal, $four:ident) => {
        #[target_feature(enable = $features)]
        fn $name(out: &mut [&mut [f32]], x: &[Vec<Rounded>], rows: &[Q8]) {
            let (k, count) = (x[0].len(), out[0].len());
            let row = |i: usize| &rows[i * k..][..k];
            for (out, x) in out.chunks_mut(KEPT).zip(x.chunks(KEPT)) {
                let whole = x.len() / TOGETHER * TOGETHER;
                for r in (0..whole).step_by(TOGETHER) {
                    let x: [&[Rounded]; TOGETHER] = std::array::from_fn(|i| &x[r + i][..]);
                    for i in (0..count).step_by(2) {
                        // The last row of an odd number is multiplied twice.
                        let pair = [i, (i + 1).min(count - 1)];
                        let tile: [[f32; TOGETHER]; 2] = $tile(pair.map(row), x);
                        for (at, sums) in pair.into_iter().zip(tile) {
                            out[r..].iter_mut().zip(sums).for_each(|(out, sum)| out[at] = sum);
                        }
                    }
                }
                let part = count / ROWS;
                for (out, x) in out.iter_mut().zip(x).skip(whole) {
                    for i in 0..part {
                        let tile: [_; ROWS] =
                            $tile(std::array::from_fn(|t| row(t * part + i)), [x]);
                        (0..ROWS).for_each(|t| [out[t * part + i]] = tile[t]);
                    }
                    for (i, out) in out.iter_mut().enumerate().skip(ROWS * part) {
                        [[*out]] = $tile([row(i)], [x]);
                    }
                }
            }
        }

        #[target_feature(enable = $features)]
        fn $tile<const T: usize, const R: usize>(
            rows: [&[Q8]; T],
            x: [&[Rounded]; R],
        ) -> [[f32; R]; T] {
            let k = x[0].len();
            let (rows, x) = (rows.map(|row| &row[..k]), x.map(|x| &x[..k]));
            let mut sums = [[_mm256_setzero_ps(); R]; T];
            for i in 0..k {
                for t in 0..T {
                    let a: __m256i = bytemuck::cast(rows[t][i].numbers);
                    let half = _mm_cvtsi32_si128(i32::from(rows[t][i].scale));
                    let scale = _mm256_set1_ps(_mm_cvtss_f32(_mm_cvtph_ps(half)));
                    // The first factor has no sign: that goes to the second.
                    let size = _mm256_abs_epi8(a);
                    for r in 0..R {
                        let b: __m256i = bytemuck::cast(x[r][i].numbers);
                        let four = _mm256_cvtepi32_ps($four(size, _mm256_sign_epi8(b, a)));
                        let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x[r][i].scale));
                        sums[t][r] = _mm256_fmadd_ps(four, scale, sums[t][r]);
                    }
                }
            }
            sums.map(|sums| {
                sums.map(|sums| {
                    let mut lanes = [0.0; LANES];
                    lanes[..Q8_LANES].copy_from_slice(&bytemuck::cast::<_, [f32; Q8_LANES]>(sums));
                    join_lanes(lanes, |a, b| a + b)
                })
            })
        }
    };
}

q8_dots!(q8_dots_by_vnni, tile_by_vnni, "avx512vnni,avx512vl,avx2,f16c,fma", four_by_vnni);
q8_dots!(q8_dots_by_avx2, tile_by_avx2, "avx2,f16c,fma", four_by_avx2);

#[target_feature(enable = "avx512vnni,avx512vl,avx2")]
fn four_by_vnni(a: __m256i, b: __m256i) -> __m256i {
    _mm256_dpbusd_epi32(_mm256_setzero_si256(), a, b)
}

/// Two products fit into 16 bits: 2 · 128 · 127.
#[target_feature(enable = "avx2")]
fn four_by_avx2(a: __m256i, b: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))
}
