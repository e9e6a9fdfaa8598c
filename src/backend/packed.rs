//! Numbers in another format than the one that kernels of the CPU compute in.

use std::any::TypeId;
use std::ops::Range;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::zeroed::Zeroed;
use crate::kernel::{Format, Real};
use crate::math::stored::{self, Q8, Stored};

/// The number of elements that one thread writes at a time.
pub(super) const WRITE_PART: usize = 1 << 17;

/// Packed numbers.
pub(super) enum Packed {
    F16(Zeroed<f16>),
    Bf16(Zeroed<bf16>),
    Q8(Zeroed<Q8>),
}

/// Whether numbers in this format are packed.
pub(super) fn is_packed(format: Format) -> bool {
    ![Format::F32, Format::U32].contains(&format)
}

impl Packed {
    /// Makes room for `len` numbers, which are 0; in large pages, if all of it is in use as long as it is there.
    ///
    /// # Panics
    ///
    /// If numbers in this format are not packed.
    pub(super) fn zeroed(large: bool, format: Format, len: usize) -> Packed {
        match format {
            Format::F16 => Packed::F16(zeroed(large, len)),
            Format::BF16 => Packed::Bf16(zeroed(large, len)),
            Format::Q8_0 => Packed::Q8(zeroed(large, len / stored::BLOCK)),
            other => panic!("{other} is not packed"),
        }
    }

    /// Returns numbers as they are on a device.
    ///
    /// # Panics
    ///
    /// If they are not whole blocks of a packed format.
    pub(super) fn of_bytes(format: Format, bytes: &[u8]) -> Packed {
        match format {
            Format::F16 => Packed::F16(Zeroed::Usual(bytemuck::pod_collect_to_vec(bytes))),
            Format::BF16 => Packed::Bf16(Zeroed::Usual(bytemuck::pod_collect_to_vec(bytes))),
            Format::Q8_0 => Packed::Q8(Zeroed::Usual(bytemuck::pod_collect_to_vec(bytes))),
            other => panic!("{other} is not packed"),
        }
    }

    pub(super) fn format(&self) -> Format {
        match self {
            Packed::F16(_) => Format::F16,
            Packed::Bf16(_) => Format::BF16,
            Packed::Q8(_) => Format::Q8_0,
        }
    }

    /// Returns the numbers as they are.
    pub(super) fn stored(&self) -> Stored<'_> {
        match self {
            Packed::F16(data) => Stored::F16(data),
            Packed::Bf16(data) => Stored::Bf16(data),
            Packed::Q8(data) => Stored::Q8(data),
        }
    }

    /// Returns a range of the numbers as they are on a device.
    ///
    /// # Panics
    ///
    /// If the range cuts a block.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        match self.stored().part(range) {
            Stored::F32(data) => bytemuck::cast_slice(data),
            Stored::F16(data) => bytemuck::cast_slice(data),
            Stored::Bf16(data) => bytemuck::cast_slice(data),
            Stored::Q8(data) => bytemuck::cast_slice(data),
        }
    }

    /// Writes the numbers from `start` on in the precision in which kernels compute, on all threads.
    pub(super) fn widen<F: Real>(&self, start: usize, out: &mut [F]) {
        let parts = out.par_chunks_mut(WRITE_PART).enumerate();
        parts.for_each(|(i, out)| {
            let first = start + i * WRITE_PART;
            let part = self.stored().part(first..first + out.len());
            match as_f32_mut(out) {
                Some(out) => part.widen(out),
                None => {
                    let numbers = part.widened();
                    out.iter_mut().zip(&*numbers).for_each(|(out, x)| *out = F::of(f64::from(*x)));
                }
            }
        });
    }

    /// Overwrites the numbers from `start` on with rounded ones, on all threads. What is not finite stays so, in q8_0 for its
    /// whole block.
    pub(super) fn write(&mut self, start: usize, numbers: &[f32]) {
        let parts = numbers.par_chunks(WRITE_PART);
        match self {
            Packed::F16(data) => {
                let out = data[start..][..numbers.len()].par_chunks_mut(WRITE_PART);
                out.zip(parts).for_each(|(out, part)| out.convert_from_f32_slice(part));
            }
            Packed::Bf16(data) => {
                let out = data[start..][..numbers.len()].par_chunks_mut(WRITE_PART);
                out.zip(parts).for_each(|(out, part)| stored::round_to_bf16(out, part));
            }
            Packed::Q8(data) => {
                let out = data[start / stored::BLOCK..].par_chunks_mut(WRITE_PART / stored::BLOCK);
                out.zip(parts).for_each(|(out, part)| stored::round_to_q8(out, part));
            }
        }
    }

    /// Does the same with what a kernel has computed.
    pub(super) fn narrow<F: Real>(&mut self, start: usize, numbers: &[F]) {
        match as_f32(numbers) {
            Some(numbers) => self.write(start, numbers),
            None => {
                let odd: Vec<f32> = numbers.iter().map(|x| to_odd(x.f64())).collect();
                self.write(start, &odd);
            }
        }
    }
}

/// Rounds to single precision so that another rounding, to half precision, gives the number that is nearest to `x`: what is not
/// exact becomes the neighbour whose last bit is 1, which lies between the same numbers of half precision as `x`.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let is_exact = f64::from(near) == x || !near.is_finite();
    if is_exact || near.to_bits() & 1 == 1 {
        return near;
    }
    let is_beyond = f64::from(near).abs() > x.abs();
    f32::from_bits(if is_beyond { near.to_bits() - 1 } else { near.to_bits() + 1 })
}

fn zeroed<T: Pod>(large: bool, len: usize) -> Zeroed<T> {
    if large { Zeroed::in_large_pages(len) } else { Zeroed::new(len) }
}

/// Returns the numbers themselves if they are in single precision, to be changed.
fn as_f32_mut<F: Real>(data: &mut [F]) -> Option<&mut [f32]> {
    (TypeId::of::<F>() == TypeId::of::<f32>()).then(|| bytemuck::cast_slice_mut(data))
}

/// Returns the numbers themselves if they are in single precision.
pub(super) fn as_f32<F: Real>(data: &[F]) -> Option<&[f32]> {
    (TypeId::of::<F>() == TypeId::of::<f32>()).then(|| bytemuck::cast_slice(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside a number in the middle of two of half precision, the nearest one is that on the other side, however small the
    /// difference; a number of single precision in between would hide it.
    #[test]
    fn numbers_of_double_precision_are_rounded_once() {
        let middle = [1.0 + 2_f64.powi(-11), 1.0 + 2_f64.powi(-8)];
        for (half, middle) in [Format::F16, Format::BF16].into_iter().zip(middle) {
            let spacing = 2.0 * (middle - 1.0);
            for (x, want) in [
                (middle, 1.0),
                (middle + 2_f64.powi(-45), 1.0 + spacing),
                (middle - 2_f64.powi(-45), 1.0),
                (spacing + middle, 1.0 + 2.0 * spacing),
                (spacing + middle - 2_f64.powi(-45), 1.0 + spacing),
                (1e300, f64::INFINITY),
                (0.0, 0.0),
            ] {
                for sign in [1.0, -1.0] {
                    let mut packed = Packed::zeroed(false, half, 1);
                    packed.narrow(0, &[sign * x]);
                    assert_eq!(packed.stored().widened()[0], (sign * want) as f32, "{half}: {x:e}");
                }
            }
            let mut packed = Packed::zeroed(false, half, 1);
            packed.narrow(0, &[f64::NAN]);
            assert!(packed.stored().widened()[0].is_nan());
        }
    }
}
