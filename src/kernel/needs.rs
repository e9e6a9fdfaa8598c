//! The requirements of variants, and the capabilities of adapters.

use super::matrices::Matrices;

/// The requirements of a variant beyond WebGPU's defaults, or the capabilities of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Arithmetic in half precision.
    pub f16: bool,
    /// Operations within subgroups, and the least and the largest size of these: the sizes that a variant is right for, or
    /// those that an adapter may give a workgroup. `None`: no such operations.
    pub subgroups: Option<[u32; 2]>,
    /// Matrix units: the shape of matrices that a variant uses, or the shapes that an adapter has.
    pub matrices: Matrices,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations per workgroup.
    pub invocations: u32,
}

impl Needs {
    /// No requirements beyond the guarantees of WebGPU.
    pub const NOTHING: Needs = Needs {
        f16: false,
        subgroups: None,
        matrices: Matrices::NONE,
        workgroup_bytes: 16 << 10,
        invocations: 256,
    };

    /// Operations within subgroups of 8.
    pub const SUBGROUPS_OF_8: Needs = Needs { subgroups: Some([8, 8]), ..Needs::NOTHING };
    /// Operations within subgroups of any size from 8 to 64.
    pub const SUBGROUPS: Needs = Needs { subgroups: Some([8, 64]), ..Needs::NOTHING };

    /// Whether an adapter with the capabilities `has` can run it.
    pub fn within(&self, has: &Needs) -> bool {
        self.lacking(has).is_none()
    }

    /// Returns what an adapter with the capabilities `has` lacks to run it, in words: the first such thing.
    pub fn lacking(&self, has: &Needs) -> Option<&'static str> {
        let sizes = match (self.subgroups, has.subgroups) {
            (None, _) => true,
            (Some([least, most]), Some([from, to])) => least <= from && to <= most,
            (Some(_), None) => false,
        };
        let lacks = [
            ("half precision", self.f16 && !has.f16),
            ("operations within subgroups", self.subgroups.is_some() && has.subgroups.is_none()),
            ("matrix units with matrices of this shape", !has.matrices.include(self.matrices)),
            ("subgroups of this size alone", !sizes),
            ("workgroup memory", self.workgroup_bytes > has.workgroup_bytes),
            ("invocations per workgroup", self.invocations > has.invocations),
        ];
        lacks.into_iter().find(|(_, lacks)| *lacks).map(|(what, _)| what)
    }
}
