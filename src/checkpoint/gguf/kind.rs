//! The formats of numbers in GGUF files.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::checkpoint::float::Float;
use crate::error::{Error, Result};
use crate::math::stored::{BLOCK, Q8};

/// Bytes per block of q8_0: the scale in f16, then one byte per number.
const BLOCK_BYTES: usize = 2 + BLOCK;

/// The number format of matrices. Biases, normalisations and positions stay in f32, as in llama.cpp's own converter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unchanged numbers, or numbers of 16 bits.
    Float(Float),
    /// Blocks of 32 numbers: bytes with a common scale. Matrices whose row length is not a multiple of 32 are in f16.
    Q8_0,
}

impl Kind {
    const ALL: [Kind; 4] =
        [Kind::Float(Float::F32), Kind::Float(Float::F16), Kind::Float(Float::Bf16), Kind::Q8_0];

    /// Returns the kind of this number in `ggml_type`.
    pub(super) fn of_ggml(ggml_type: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.ggml_type() == ggml_type)
    }

    /// Returns its number in `ggml_type`.
    pub(crate) fn ggml_type(self) -> u32 {
        match self {
            Kind::Float(Float::F32) => 0,
            Kind::Float(Float::F16) => 1,
            Kind::Float(Float::Bf16) => 30,
            Kind::Q8_0 => 8,
        }
    }

    /// Returns the number in `llama_ftype` of a file in this format.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Kind::Float(Float::F32) => 0,
            Kind::Float(Float::F16) => 1,
            Kind::Float(Float::Bf16) => 32,
            Kind::Q8_0 => 7,
        }
    }

    /// Returns the bytes of so many elements.
    pub(crate) fn bytes(self, elements: usize) -> usize {
        match self {
            Kind::Float(float) => elements * float.bytes(),
            Kind::Q8_0 => elements / BLOCK * BLOCK_BYTES,
        }
    }

    /// Encodes numbers for the file; `out` is overwritten.
    ///
    /// # Errors
    ///
    /// Returns the index of a number that does not fit.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
        match self {
            Kind::Float(float) => float.encode(values, out),
            Kind::Q8_0 => {
                out.clear();
                for (i, block) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let encoded = q8_0(block).ok_or_else(|| {
                        let largest = |j: &usize| block[*j].abs();
                        let at = (0..BLOCK).max_by(|a, b| largest(a).total_cmp(&largest(b)));
                        i * BLOCK + at.unwrap_or(0)
                    })?;
                    out.extend(encoded);
                }
                Ok(())
            }
        }
    }

    /// Returns the error for a number that does not fit.
    pub(crate) fn does_not_fit(self, name: &str, index: &[usize], x: f32) -> Error {
        match self {
            Kind::Float(float) => float.does_not_fit(name, index, x),
            Kind::Q8_0 => {
                Error::input(format!("{name} is {x:e} at {index:?}, above what q8_0 holds, 8.3e6"))
                    .hint("write it in bf16 or f32")
            }
        }
    }
}

impl Kind {
    /// Returns the elements of which none is read alone.
    pub(super) fn block(self) -> usize {
        if self == Kind::Q8_0 { BLOCK } else { 1 }
    }

    /// Decodes whole blocks of a file.
    pub(super) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let halves = || bytes.as_chunks().0.iter().map(|half| u16::from_le_bytes(*half));
        match self {
            Kind::Float(Float::F32) => {
                let numbers = bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x));
                out.iter_mut().zip(numbers).for_each(|(out, x)| *out = x);
            }
            Kind::Float(Float::F16) => {
                halves().map(f16::from_bits).collect::<Vec<_>>().convert_to_f32_slice(out);
            }
            Kind::Float(Float::Bf16) => {
                halves().map(bf16::from_bits).collect::<Vec<_>>().convert_to_f32_slice(out);
            }
            Kind::Q8_0 => {
                let blocks = out.as_chunks_mut::<BLOCK>().0.iter_mut();
                for (out, block) in blocks.zip(bytes.as_chunks::<BLOCK_BYTES>().0) {
                    let scale = f16::from_bits(u16::from_le_bytes([block[0], block[1]])).to_f32();
                    let numbers = block[2..].iter().map(|q| scale * f32::from(*q as i8));
                    out.iter_mut().zip(numbers).for_each(|(out, x)| *out = x);
                }
            }
        }
    }
}

/// Encodes a block of q8_0; returns `None` if the scale does not fit f16.
fn q8_0(block: &[f32; BLOCK]) -> Option<[u8; BLOCK_BYTES]> {
    let Q8 { scale, numbers } = Q8::round(block)?;
    let mut out = [0; BLOCK_BYTES];
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..].iter_mut().zip(numbers).for_each(|(out, q)| *out = q as u8);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_ggmls() {
        let mut block = [0.0; BLOCK];
        // The scale is 1: halves are rounded away from zero.
        block[..8].copy_from_slice(&[127.0, -127.0, 0.5, -0.5, 2.5, -2.5, 0.49, 126.4]);
        let bytes = q8_0(&block).unwrap();
        assert_eq!(bytes[..2], [0x00, 0x3c]);
        assert_eq!(
            bytes[2..10].iter().map(|&b| b as i8).collect::<Vec<_>>(),
            [127, -127, 1, -1, 3, -3, 0, 126]
        );
        assert_eq!(q8_0(&[0.0; BLOCK]).unwrap(), [0; BLOCK_BYTES]);
        // A scale of 65504 is the largest of f16; the next larger numbers are rounded to it as well.
        assert!(q8_0(&[127.0 * 65504.0; BLOCK]).is_some());
        assert!(q8_0(&[-127.0 * 65536.0; BLOCK]).is_none());
    }
}
