//! How the variants that use matrix units spread over subgroups.

use crate::kernel::{Matrices, Needs};

/// One way to use matrix units, for products and for attention.
pub(crate) struct MatrixUnits {
    /// The matrices.
    pub matrices: Matrices,
    /// The least and the largest size of subgroups.
    subgroups: [u32; 2],
    /// What the shaders must know of it: LEAST, the smallest subgroup; ARRANGEMENTS, of how many numbers of subgroups per
    /// workgroup they are right for; ALONG_K, whether both operands of products lie along k in workgroup memory.
    pub wgsl: &'static str,
}

/// Matrix units like Apple's.
pub(crate) const LIKE_APPLE: MatrixUnits = MatrixUnits {
    matrices: Matrices::OF_8X8,
    subgroups: [32, 32],
    wgsl: "const LEAST = 32u; const ARRANGEMENTS = 1u; const ALONG_K = false;",
};

/// Matrix units like NVIDIA's.
pub(crate) const LIKE_NVIDIA: MatrixUnits =
    MatrixUnits { matrices: Matrices::OF_16X16, ..LIKE_APPLE };

/// Matrix units like AMD's: the driver makes subgroups of 32 or of 64, and the units load numbers that lie along k at once.
pub(crate) const LIKE_AMD: MatrixUnits = MatrixUnits {
    matrices: Matrices::OF_16X16,
    subgroups: [32, 64],
    wgsl: "const LEAST = 32u; const ARRANGEMENTS = 2u; const ALONG_K = true;",
};

/// Those of an emulator on the CPU.
pub(crate) const EMULATED: MatrixUnits = MatrixUnits {
    matrices: Matrices::OF_8X8,
    subgroups: [8, 8],
    wgsl: "const LEAST = 8u; const ARRANGEMENTS = 1u; const ALONG_K = false;",
};

/// What [`LIKE_AMD`] does with 8 subgroups, on the emulator.
pub(crate) const EMULATED_AS_8: MatrixUnits = MatrixUnits {
    wgsl: "const LEAST = 8u; const ARRANGEMENTS = 2u; const ALONG_K = true;",
    ..EMULATED
};

/// What [`LIKE_AMD`] does with 4 subgroups, on the emulator: as if its subgroups could be of 4 and happened to be of 8.
pub(crate) const EMULATED_AS_4: MatrixUnits = MatrixUnits {
    wgsl: "const LEAST = 4u; const ARRANGEMENTS = 2u; const ALONG_K = true;",
    ..EMULATED
};

impl MatrixUnits {
    /// Returns the needs of a variant that takes so much workgroup memory.
    pub(crate) const fn needs(&self, workgroup_bytes: u32) -> Needs {
        let (matrices, subgroups) = (self.matrices, Some(self.subgroups));
        Needs { f16: true, subgroups, matrices, workgroup_bytes, ..Needs::NOTHING }
    }

    /// Returns the rows and columns that a workgroup of a product computes.
    pub(crate) const fn tile(&self, slices: u32) -> [u32; 2] {
        let shape = self.matrices.shape();
        [8 * shape.m / slices, 8 * shape.n / slices]
    }

    /// Returns the workgroup memory of a product, in bytes: both operands' tiles of two k steps in half precision, each row
    /// padded by two vectors, and eight matrices of sums.
    pub(crate) const fn product_bytes(&self, slices: u32) -> u32 {
        let shape = self.matrices.shape();
        let [m, n] = self.tile(slices);
        let row = 2 * (2 * shape.k * slices + 8);
        (m + n) * row + 4 * 8 * shape.m * shape.n
    }
}
