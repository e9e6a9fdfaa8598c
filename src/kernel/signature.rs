//! The signature of a kernel: the names, formats and accesses of its buffers.

use super::format::Format;

/// The formats of numbers that a plan keeps in either precision.
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
    /// The formats that it may have, the usual one first.
    pub formats: &'static [Format],
    /// Whether the CPU kernel takes it as it is stored: [`Io::stored`](crate::kernel::Io::stored).
    pub is_stored: bool,
}

impl Arg {
    const fn new(name: &'static str, access: Access, formats: &'static [Format]) -> Arg {
        Arg { name, access, formats, is_stored: false }
    }

    /// Returns the same argument with these formats.
    ///
    /// In the shader its blocks have the type `NAME_elem`.
    pub const fn takes(self, formats: &'static [Format]) -> Arg {
        Arg { formats, ..self }
    }

    /// Returns the same argument, in any format of [`WEIGHTS`], which the CPU kernel takes as it is stored. A shader declares
    /// elements of the type `stored_NAME`, and reads them by `number_of_NAME(i)` and `numbers_of_NAME(i / 4)`.
    pub const fn stored(self) -> Arg {
        Arg { formats: WEIGHTS, is_stored: true, ..self }
    }

    /// Whether a view in this format is accepted.
    pub fn accepts(self, format: Format) -> bool {
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
