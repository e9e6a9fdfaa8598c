//! The shapes of cooperative matrices, which matrix units multiply.

/// A shape of cooperative matrices: a (m, k) · b (k, n) in half precision, with sums in single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Rows of the first operand and of the result.
    pub m: u32,
    /// Columns of the second operand and of the result.
    pub n: u32,
    /// Columns of the first operand, rows of the second.
    pub k: u32,
    /// The text that declares the matrices to kernels.
    pub wgsl: &'static str,
}

/// Shapes that kernels know, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices(u32);

impl Matrices {
    /// The shapes that variants exist for. naga 30 has square matrices of 8 and 16 alone.
    pub const KNOWN: [MatrixShape; 2] = [
        MatrixShape { m: 8, n: 8, k: 8, wgsl: include_str!("../../shaders/shared/coop_8x8.wgsl") },
        MatrixShape {
            m: 16,
            n: 16,
            k: 16,
            wgsl: include_str!("../../shaders/shared/coop_16x16.wgsl"),
        },
    ];

    /// No matrix units.
    pub const NONE: Matrices = Matrices(0);
    /// [`Matrices::KNOWN`]`[0]` alone.
    pub const OF_8X8: Matrices = Matrices(1);
    /// [`Matrices::KNOWN`]`[1]` alone.
    pub const OF_16X16: Matrices = Matrices(2);

    /// Returns the known shapes, `(m, n, k)`, that an adapter has.
    pub fn among(has: impl Fn([u32; 3]) -> bool) -> Matrices {
        let known = Matrices::KNOWN.iter().enumerate();
        let had = known.filter(|(_, shape)| has([shape.m, shape.n, shape.k]));
        Matrices(had.fold(0, |set, (i, _)| set | 1 << i))
    }

    /// Whether all shapes of `others` are in this set.
    pub fn include(self, others: Matrices) -> bool {
        self.0 & others.0 == others.0
    }

    /// Returns the shape of a variant.
    ///
    /// # Panics
    ///
    /// If the set is empty.
    pub const fn shape(self) -> MatrixShape {
        Matrices::KNOWN[self.0.trailing_zeros() as usize]
    }

    /// Returns the shapes of the set, the smallest first.
    pub fn shapes(self) -> impl Iterator<Item = MatrixShape> {
        let known = Matrices::KNOWN.into_iter().enumerate();
        known.filter(move |(i, _)| self.0 & 1 << i != 0).map(|(_, shape)| shape)
    }
}
