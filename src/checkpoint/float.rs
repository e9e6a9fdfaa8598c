//! The formats of plain numbers in files.

use half::slice::HalfFloatSliceExt;
use safetensors::tensor::Dtype;

use crate::error::{Error, Result};

/// The format of the numbers in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Float {
    /// 32 bits, unchanged.
    #[default]
    F32,
    /// 16 bits with 11 bits of precision, up to 65504; rounded to the nearest, ties to even.
    F16,
    /// 16 bits with 8 bits of precision and the range of f32; rounded in the same way.
    Bf16,
}

impl Float {
    /// Returns the size of a number in bytes.
    pub fn bytes(self) -> usize {
        if self == Float::F32 { 4 } else { 2 }
    }

    /// Returns the name in config.json, which is PyTorch's name.
    pub fn name(self) -> &'static str {
        match self {
            Float::F32 => "float32",
            Float::F16 => "float16",
            Float::Bf16 => "bfloat16",
        }
    }

    /// Returns the type in safetensors files.
    pub(super) fn dtype(self) -> Dtype {
        match self {
            Float::F32 => Dtype::F32,
            Float::F16 => Dtype::F16,
            Float::Bf16 => Dtype::BF16,
        }
    }

    /// Encodes numbers for a file, in little-endian order; `out` is overwritten.
    ///
    /// # Errors
    ///
    /// Returns the index of the first finite number that does not fit.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
        out.clear();
        let halves = match self {
            Float::F32 if cfg!(target_endian = "little") => {
                out.extend_from_slice(bytemuck::cast_slice(values));
                return Ok(());
            }
            Float::F32 => {
                out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                return Ok(());
            }
            Float::F16 => {
                let mut halves = vec![half::f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                bytemuck::cast_vec::<half::f16, u16>(halves)
            }
            Float::Bf16 => {
                let mut halves = vec![half::bf16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                bytemuck::cast_vec::<half::bf16, u16>(halves)
            }
        };
        let infinity = if self == Float::F16 { 0x7c00 } else { 0x7f80 };
        let lost = |(x, h): (&f32, &u16)| x.is_finite() && h & 0x7fff == infinity;
        if let Some(at) = values.iter().zip(&halves).position(lost) {
            return Err(at);
        }
        out.extend(halves.iter().flat_map(|h| h.to_le_bytes()));
        Ok(())
    }

    /// Returns the error for a parameter's number that does not fit.
    pub(crate) fn does_not_fit(self, name: &str, index: &[usize], x: f32) -> Error {
        let (kind, most, remedy) = match self {
            Float::F16 => ("f16", "65504", "write it in bf16, which has the range of f32"),
            Float::F32 | Float::Bf16 => ("bf16", "3.3895e38", "write it in f32"),
        };
        Error::input(format!("{name} is {x:e} at {index:?}, above what {kind} holds, {most}"))
            .hint(remedy)
    }
}
