//! The capabilities of an adapter that kernels may use.

use wgpu::{Adapter, Features};

use crate::kernel::Needs;

/// The features that are requested of an adapter that has them.
pub(super) const USED: Features = Features::SHADER_F16
    .union(Features::SUBGROUP)
    .union(Features::TIMESTAMP_QUERY)
    .union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
    .union(Features::PIPELINE_CACHE)
    .union(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

/// Permits the features that wgpu calls experimental, if `features` contains any.
pub(super) fn experimental(features: Features) -> wgpu::ExperimentalFeatures {
    if features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        // SAFETY: wgpu requires this token because such features may be unsound in places. There is no
        // other way to use matrix units; every kernel that uses them is compared with its twin.
        #[allow(unsafe_code, reason = "wgpu gives matrix units for this word alone")]
        unsafe {
            wgpu::ExperimentalFeatures::enabled()
        }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    }
}

/// Returns the capabilities that variants may require, for a device with these features and limits.
pub(super) fn has(adapter: &Adapter, features: Features, limits: &wgpu::Limits) -> Needs {
    let info = adapter.get_info();
    let uniform = info.subgroup_min_size == info.subgroup_max_size;
    let subgroup = features.contains(Features::SUBGROUP) && uniform;
    // Metal adapters report 4 to 64 through wgpu, but every GPU that Metal drives has 32 or 64.
    let least = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_min_size };
    let usable = least >= 8 && info.subgroup_max_size <= 64;
    Needs {
        f16: features.contains(Features::SHADER_F16),
        subgroup: if subgroup { info.subgroup_max_size } else { 0 },
        subgroups: features.contains(Features::SUBGROUP) && usable,
        matrix_tiles: if features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            matrix_tiles(adapter)
        } else {
            0
        },
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
    }
}

/// Returns the edges of the adapter's square tiles, f16 with f32 sums: bits 8 and 16.
fn matrix_tiles(adapter: &Adapter) -> u32 {
    use wgpu::CooperativeScalarType::{F16, F32};
    let usable = |p: &&wgpu::CooperativeMatrixProperties| {
        let square = p.m_size == p.n_size && p.n_size == p.k_size;
        square && p.ab_type == F16 && p.cr_type == F32 && matches!(p.m_size, 8 | 16)
    };
    let properties = adapter.cooperative_matrix_properties();
    properties.iter().filter(usable).fold(0, |tiles, p| tiles | p.m_size)
}
