//! The memory formats of the numbers in a buffer.

use std::fmt;

use crate::math::stored;

/// A storage format: blocks with a fixed number of elements and of bytes.
///
/// A plain number is a block of one element. A quantised format has several elements in a block, which share a
/// scale; ranges of elements begin and end at block boundaries. To add a format, add a constant here, its arm
/// in the memory of the CPU backend, its text for shaders ([`Format::stored_wgsl`]), what the GPU backend writes, and the
/// operands that accept it ([`Arg::takes`](super::Arg::takes)).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    /// The name in plans and messages.
    pub name: &'static str,
    /// Elements per block.
    pub block_len: usize,
    /// Bytes per block on a device.
    pub block_bytes: usize,
    /// The WGSL type of one block; empty if WGSL has none.
    pub wgsl: &'static str,
}

impl Format {
    /// A number of single precision; of double precision in the CPU backend's tests.
    pub const F32: Format = Format::plain("f32", 4, "f32");
    /// A number of half precision.
    pub const F16: Format = Format::plain("f16", 2, "f16");
    /// The upper half of a number of single precision.
    pub const BF16: Format = Format::plain("bf16", 2, "");
    /// 32 signed bytes and a scale of half precision: [`Q8`](crate::math::stored::Q8).
    pub const Q8_0: Format = Format {
        name: "q8_0",
        block_len: stored::BLOCK,
        block_bytes: size_of::<stored::Q8>(),
        wgsl: "",
    };
    /// A 32-bit unsigned integer.
    pub const U32: Format = Format::plain("u32", 4, "u32");

    const fn plain(name: &'static str, bytes: usize, wgsl: &'static str) -> Format {
        Format { name, block_len: 1, block_bytes: bytes, wgsl }
    }

    /// Whether it is read through integers: WGSL has no type for it.
    pub fn is_coded(self) -> bool {
        self.wgsl.is_empty()
    }

    /// Returns the text with which a shader reads the matrix `MATRIX` in this format: the type of its elements, and two
    /// functions, one for a number and one for four.
    ///
    /// # Panics
    ///
    /// If no matrix has this format ([`WEIGHTS`](super::WEIGHTS)).
    pub fn stored_wgsl(self) -> &'static str {
        match self {
            Format::F32 | Format::F16 => include_str!("../../shaders/shared/stored_numbers.wgsl"),
            Format::BF16 => include_str!("../../shaders/shared/stored_bf16.wgsl"),
            Format::Q8_0 => include_str!("../../shaders/shared/stored_q8_0.wgsl"),
            other => panic!("no matrix is in {other}"),
        }
    }

    /// Returns the bytes of `len` elements on a device.
    ///
    /// # Panics
    ///
    /// If `len` is not a whole number of blocks.
    pub fn bytes(self, len: usize) -> u64 {
        assert!(self.is_whole(len), "{len} elements of {self} end within a block");
        (len / self.block_len) as u64 * self.block_bytes as u64
    }

    /// Whether a range may begin or end after `len` elements: whether they are whole blocks.
    pub fn is_whole(self, len: usize) -> bool {
        len.is_multiple_of(self.block_len)
    }

    /// Returns the smallest number of elements that are whole blocks and fill a multiple of `bytes`.
    pub fn elements_per(self, bytes: u64) -> usize {
        let mut common = (self.block_bytes as u64, bytes);
        while common.1 > 0 {
            common = (common.1, common.0 % common.1);
        }
        (bytes / common.0) as usize * self.block_len
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
