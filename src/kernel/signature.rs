//! What a kernel asks of its buffers: their names, what they hold, and what happens to them.

/// The element type of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// A floating-point number: f32, or f64 in the CPU backend's proofs.
    Real,
    /// A half-precision number.
    F16,
    /// A 32-bit unsigned integer.
    U32,
}

impl Elem {
    /// Bytes an element on a device.
    pub fn bytes(self) -> u64 {
        match self {
            Elem::Real | Elem::U32 => 4,
            Elem::F16 => 2,
        }
    }
}

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

/// One buffer of a kernel's signature: what it is called, what it holds and what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The name in the shader.
    pub name: &'static str,
    /// What happens to it.
    pub access: Access,
    /// What it holds.
    pub elem: Elem,
    /// Whether a plan may give it half-precision numbers in the place of real ones.
    pub half: bool,
}

impl Arg {
    const fn new(name: &'static str, access: Access, elem: Elem) -> Arg {
        Arg { name, access, elem, half: false }
    }

    /// The same, of half precision too where a plan has it so.
    ///
    /// In the shader its elements are of the type `NAME_elem`, which is f32 or f16.
    pub const fn or_half(self) -> Arg {
        Arg { half: true, ..self }
    }

    /// Whether a view with these elements fits.
    pub fn takes(self, elem: Elem) -> bool {
        elem == self.elem || (self.half && elem == Elem::F16)
    }

    /// Whether the kernel writes it.
    pub fn is_written(self) -> bool {
        self.access != Access::In
    }
}

/// Real numbers that are read.
pub const fn reads(name: &'static str) -> Arg {
    Arg::new(name, Access::In, Elem::Real)
}

/// Integers that are read.
pub const fn reads_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::In, Elem::U32)
}

/// Real numbers that are all overwritten.
pub const fn writes(name: &'static str) -> Arg {
    Arg::new(name, Access::Out, Elem::Real)
}

/// Real numbers of which a part is overwritten.
pub const fn writes_part(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, Elem::Real)
}

/// Integers of which a part is overwritten.
pub const fn writes_part_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, Elem::U32)
}

/// Real numbers that are added to: see [`Access::Acc`].
pub const fn adds(name: &'static str) -> Arg {
    Arg::new(name, Access::Acc, Elem::Real)
}

/// Real numbers that are changed in place.
pub const fn changes(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, Elem::Real)
}

/// Integers that are changed in place.
pub const fn changes_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, Elem::U32)
}
