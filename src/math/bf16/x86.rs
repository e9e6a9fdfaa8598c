//! [`Dot`] by the instructions of AVX-512 BF16.

#![allow(
    unsafe_code,
    reason = "instructions that not every processor has; `multiply` has asked for them"
)]

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_storeu_ps,
};
use std::mem::transmute;

use super::tile::{self, Dot, LANES, Part};

/// Whether the processor has the instructions.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Computes a part of a product; only where the instructions [are there](is_there).
pub(super) fn multiply(part: Part<'_, '_>) {
    assert!(is_there(), "the processor has the instructions");
    // SAFETY: it has.
    unsafe { multiply_here(part) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn multiply_here(part: Part<'_, '_>) {
    tile::multiply(Avx512(()), part);
}

/// The instructions. There is one only where the processor has them: within [`multiply_here`].
#[derive(Clone, Copy)]
struct Avx512(());

impl Dot for Avx512 {
    type Pairs = __m512bh;
    type Sums = __m512;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: the processor has the instruction.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn load(self, pairs: &[u32; LANES]) -> __m512bh {
        // SAFETY: the processor has the instruction, and reads all of the array, whatever its alignment; bits of one vector
        // are those of the other.
        unsafe { transmute(_mm512_loadu_si512(pairs.as_ptr().cast())) }
    }

    #[inline(always)]
    fn splat(self, pair: u32) -> __m512bh {
        // SAFETY: the processor has the instruction; bits of one vector are those of the other.
        unsafe { transmute(_mm512_set1_epi32(pair.cast_signed())) }
    }

    #[inline(always)]
    fn add(self, sums: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        // SAFETY: the processor has the instruction.
        unsafe { _mm512_dpbf16_ps(sums, a, b) }
    }

    #[inline(always)]
    fn store(self, sums: __m512) -> [f32; LANES] {
        let mut numbers = [0.0; LANES];
        // SAFETY: the processor has the instruction, which writes all of the array, whatever its alignment.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), sums) };
        numbers
    }
}
