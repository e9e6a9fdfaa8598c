//! What a kernel asks of its buffers: their names, what they hold, and what happens to them.

use super::format::Format;

/// The formats of numbers that a plan keeps in either precision.
pub const FLOATS: &[Format] = &[Format::F32, Format::F16];

/// What happens to a buffer of a kernel's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    In,
    /// Every element is overwritten; what was there is not read.
    Out,
    /// The part that the sizes name is overwritten, the rest stays.
    Part,
    /// Every element is added to, or overwritten where [`Step::overwrites`](crate::kernel::Step::overwrites) says so.
    Acc,
    /// Every element is read and then overwritten.
    Mut,
}

/// One buffer of a kernel's signature: what it is called, what happens to it and what it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The name in the shader.
    pub name: &'static str,
    /// What happens to it.
    pub access: Access,
    /// The formats that it may have, the usual one first.
    pub formats: &'static [Format],
}

impl Arg {
    const fn new(name: &'static str, access: Access, formats: &'static [Format]) -> Arg {
        Arg { name, access, formats }
    }

    /// The same, in any of these formats.
    ///
    /// In the shader its blocks are of the type `NAME_elem`.
    pub const fn takes(self, formats: &'static [Format]) -> Arg {
        Arg { formats, ..self }
    }

    /// Whether a view in this format fits.
    pub fn accepts(self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    /// The format that it has where a plan does not choose another.
    pub fn usual_format(self) -> Format {
        self.formats[0]
    }

    /// Whether the kernel writes it.
    pub fn is_written(self) -> bool {
        self.access != Access::In
    }
}

/// Real numbers that are read.
pub const fn reads(name: &'static str) -> Arg {
    Arg::new(name, Access::In, &[Format::F32])
}

/// Integers that are read.
pub const fn reads_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::In, &[Format::U32])
}

/// Real numbers that are all overwritten.
pub const fn writes(name: &'static str) -> Arg {
    Arg::new(name, Access::Out, &[Format::F32])
}

/// Real numbers of which a part is overwritten.
pub const fn writes_part(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, &[Format::F32])
}

/// Integers of which a part is overwritten.
pub const fn writes_part_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, &[Format::U32])
}

/// Real numbers that are added to: see [`Access::Acc`].
pub const fn adds(name: &'static str) -> Arg {
    Arg::new(name, Access::Acc, &[Format::F32])
}

/// Real numbers that are changed in place.
pub const fn changes(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, &[Format::F32])
}

/// Integers that are changed in place.
pub const fn changes_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, &[Format::U32])
}
