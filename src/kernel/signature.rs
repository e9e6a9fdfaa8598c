//! The signature of a kernel: the names, formats and accesses of its buffers.

use super::format::Format;

/// The formats of numbers that a plan keeps in either precision, as shaders have them. In a CPU's plan bf16 is in the place of f16.
pub const FLOATS: &[Format] = &[Format::F32, Format::F16];

/// The formats of a matrix that a plan only reads.
pub const WEIGHTS: &[Format] = &[Format::F32, Format::F16, Format::BF16, Format::Q8_0];

/// How a kernel accesses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    In,
    /// Every element is overwritten; the old values are not read.
    Out,
    /// The part that the sizes describe is overwritten, the rest stays unchanged.
    Part,
    /// Every element is added to, or overwritten if [`Step::overwrites`](crate::kernel::Step::overwrites) returns true.
    Acc,
    /// Elements are read and then overwritten.
    Mut,
}

/// One buffer of a kernel's signature: its name, its access and its formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The name in the shader.
    pub name: &'static str,
    /// How the kernel accesses it.
    pub access: Access,
    /// The formats that it may have in a shader, the usual one first.
    pub formats: &'static [Format],
    /// Whether it is a matrix that is only read, in any format of [`WEIGHTS`].
    pub is_stored: bool,
    /// Whether it is a factor of a product.
    pub is_factor: bool,
}

impl Arg {
    const fn new(name: &'static str, access: Access, formats: &'static [Format]) -> Arg {
        Arg { name, access, formats, is_stored: false, is_factor: false }
    }

    /// Returns the same argument with these formats.
    ///
    /// In the shader its blocks have the type `NAME_elem`.
    pub const fn takes(self, formats: &'static [Format]) -> Arg {
        Arg { formats, ..self }
    }

    /// Returns the same argument, in any format of [`WEIGHTS`]; the CPU kernel takes it as it is stored. A shader declares
    /// elements of the type `stored_NAME`, and reads them by `number_of_NAME(i)` and `numbers_of_NAME(i / 4)`.
    pub const fn stored(self) -> Arg {
        Arg { formats: WEIGHTS, is_stored: true, ..self }
    }

    /// Returns the same argument, in any format of [`FLOATS`], which the CPU kernel takes as it is stored: a factor of a product.
    pub const fn factor(self) -> Arg {
        Arg { formats: FLOATS, is_factor: true, ..self }
    }

    /// Whether the CPU kernel takes it as it is stored: [`Io::stored`](crate::kernel::Io::stored).
    pub fn comes_as_stored(self) -> bool {
        self.is_stored || self.is_factor
    }

    /// Whether a view in this format is accepted: on a CPU bf16 wherever half precision is.
    pub fn accepts(self, format: Format) -> bool {
        let is_half = format == Format::BF16 && self.formats.contains(&Format::F16);
        self.is_in_shaders(format) || is_half
    }

    /// Whether a shader reads or writes it in this format.
    pub fn is_in_shaders(self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    /// Returns its format where a plan does not choose another.
    pub fn usual_format(self) -> Format {
        self.formats[0]
    }

    /// Whether the kernel writes it.
    pub fn is_written(self) -> bool {
        self.access != Access::In
    }
}

/// Declares real numbers that are read.
pub const fn reads(name: &'static str) -> Arg {
    Arg::new(name, Access::In, &[Format::F32])
}

/// Declares integers that are read.
pub const fn reads_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::In, &[Format::U32])
}

/// Declares real numbers that are all overwritten.
pub const fn writes(name: &'static str) -> Arg {
    Arg::new(name, Access::Out, &[Format::F32])
}

/// Declares real numbers that are overwritten in part.
pub const fn writes_part(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, &[Format::F32])
}

/// Declares integers that are overwritten in part.
pub const fn writes_part_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, &[Format::U32])
}

/// Declares real numbers that are added to: see [`Access::Acc`].
pub const fn adds(name: &'static str) -> Arg {
    Arg::new(name, Access::Acc, &[Format::F32])
}

/// Declares real numbers that are changed in place.
pub const fn changes(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, &[Format::F32])
}

/// Declares integers that are changed in place.
pub const fn changes_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, &[Format::U32])
}
