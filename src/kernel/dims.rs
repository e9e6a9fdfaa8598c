//! The sizes of a dispatch: one struct that every kernel reads.

use bytemuck::{Pod, Zeroable};

use super::format::Format;

/// The sizes of one dispatch, in the letters used throughout: every kernel reads this one struct.
///
/// `shaders/shared/dims.wgsl` declares the same fields; a test compares the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(non_snake_case, reason = "the letters of the papers and of the shaders")]
pub struct Dims {
    /// Batch size: sequences.
    pub B: u32,
    /// Time: positions per sequence.
    pub T: u32,
    /// Channels of the input.
    pub C: u32,
    /// Channels of the output.
    pub OC: u32,
    /// Attention heads of the queries.
    pub NH: u32,
    /// Vocabulary: rows of the slice of the token table, or columns of the logits.
    pub V: u32,
    /// Positions of the context: rows of the position table and of a cache.
    pub S: u32,
    /// Rows of a matrix product's output.
    pub M: u32,
    /// Length of a matrix product's sums.
    pub K: u32,
    /// Columns of a matrix product's output.
    pub N: u32,
    /// Elements from one row of the logits to the next.
    pub LD: u32,
    /// Where a slice begins: its first row of the token table, or its first column of the logits.
    pub START: u32,
    /// Whether an [`Access::Acc`](crate::kernel::Access::Acc) is added to or overwritten: an [`Accumulate`] number.
    pub ACC: u32,
    /// Identifies the op that draws random numbers, or a [`Decay`] or a [`LossScale`].
    pub ID: u32,
    /// The number that a normalisation adds to the variance, or to the mean square.
    pub EPS: f32,
    /// The factor of low-rank adapters, or the sign of rotary angles.
    pub SCALE: f32,
    /// Channels of an attention head.
    pub HS: u32,
    /// Heads of the keys and of the values, of which NH is a multiple: query head h reads head h / (NH / KVH).
    pub KVH: u32,
    /// Elements before the first query.
    pub Q_START: u32,
    /// Elements before the first key.
    pub K_START: u32,
    /// Elements before the first value.
    pub V_START: u32,
    /// Elements from one row of queries to the next.
    pub Q_ROW: u32,
    /// Elements from one row of keys, and of values, to the next.
    pub K_ROW: u32,
    /// Elements from one head of a query to the next.
    pub Q_HEAD: u32,
    /// Elements from one head of a key, and of a value, to the next.
    pub K_HEAD: u32,
    /// Channels of each head that are rotated by its position: an even number, 0 without a rotation.
    pub RC: u32,
    /// Positions that each position sees at most, its own included; 0: all that came before.
    pub WINDOW: u32,
    /// Sequences that generation processes at once; 0 outside of generation. If it is not 0, the bits of a row do
    /// not depend on the other rows, nor on their number.
    pub SLOTS: u32,
    /// The start of the part of a grid that a GPU computes at once: its first column and its first row.
    pub FIRST: [u32; 2],
}

impl Dims {
    /// Returns the number of rows of an activation: one for each position of each sequence.
    pub fn rows(&self) -> usize {
        self.B as usize * self.T as usize
    }

    /// Returns the first position of the window that ends at `position`.
    pub fn window_start(&self, position: usize) -> usize {
        match self.WINDOW {
            0 => 0,
            window => (position + 1).saturating_sub(window as usize),
        }
    }

    /// Returns the sizes that describe the layout of attention's heads, by name.
    fn heads(&self) -> [(&'static str, u32); 11] {
        [
            ("HS", self.HS),
            ("KVH", self.KVH),
            ("Q_START", self.Q_START),
            ("K_START", self.K_START),
            ("V_START", self.V_START),
            ("Q_ROW", self.Q_ROW),
            ("K_ROW", self.K_ROW),
            ("Q_HEAD", self.Q_HEAD),
            ("K_HEAD", self.K_HEAD),
            ("RC", self.RC),
            ("WINDOW", self.WINDOW),
        ]
    }
}

impl std::fmt::Display for Dims {
    /// Writes every size that is not 0, as ` B=2 T=3 EPS=1e-5`. [`Dims::FIRST`] is left out: a plan does not set it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Dims { B, T, C, OC, NH, V, S, M, K, N, LD, START, ACC, ID, EPS, SCALE, SLOTS, .. } =
            *self;
        let sizes = [("B", B), ("T", T), ("C", C), ("OC", OC), ("NH", NH), ("V", V), ("S", S)];
        let product = [("M", M), ("K", K), ("N", N), ("LD", LD), ("START", START)];
        let words = sizes.into_iter().chain(product).chain([("ACC", ACC), ("ID", ID)]);
        let words = words.chain(self.heads()).chain([("SLOTS", SLOTS)]);
        for (name, word) in words.filter(|(_, word)| *word != 0) {
            write!(f, " {name}={word}")?;
        }
        for (name, real) in [("EPS", EPS), ("SCALE", SCALE)].into_iter().filter(|x| x.1 != 0.0) {
            write!(f, " {name}={real:?}")?;
        }
        Ok(())
    }
}

/// Whether an [`Access::Acc`](crate::kernel::Access::Acc) is added to or overwritten: [`Dims::ACC`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Accumulate {
    /// Adds to the existing values.
    Add = 0,
    /// Overwrites the values: the first contribution in a phase.
    Set = 1,
    /// Overwrites in the first micro-batch of an update ([`Step::accumulate`](crate::kernel::Step::accumulate) 0),
    /// adds in the others.
    SetFirst = 2,
}

/// Which weight decay an update applies: [`Dims::ID`] of the optimiser's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Decay {
    /// No decay.
    Off = 0,
    /// Decoupled: the parameter shrinks by lr · decay.
    Decoupled = 1,
    /// Coupled: decay · parameter is added to the gradient.
    Coupled = 2,
}

/// Whether the loss scale changes: [`Dims::ID`] of the norm's last kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LossScale {
    /// It stays constant.
    Fixed = 0,
    /// It rises and falls: [`crate::ops::global_norm`].
    Dynamic = 1,
}

impl LossScale {
    /// Returns the one that gradients in this format need: bf16 has the exponents of single precision, so that none is too small.
    pub fn of(format: Format) -> LossScale {
        if format == Format::F16 { LossScale::Dynamic } else { LossScale::Fixed }
    }
}
