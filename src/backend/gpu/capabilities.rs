//! The capabilities of an adapter that kernels may use.

use wgpu::{Adapter, Features};

use crate::kernel::{Matrices, Needs};

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
    let offered = match features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        true => matrix_shapes(adapter),
        false => vec![],
    };
    Needs {
        f16: features.contains(Features::SHADER_F16),
        subgroups: features.contains(Features::SUBGROUP).then(|| subgroup_sizes(adapter)),
        matrices: Matrices::among(|shape| offered.contains(&shape)),
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
    }
}

/// Returns the least and the largest size of an adapter's subgroups.
pub(super) fn subgroup_sizes(adapter: &Adapter) -> [u32; 2] {
    let info = adapter.get_info();
    match info.backend {
        // wgpu reports 4 to 64 there. Apple's own GPUs, which have matrix units, have 32; the others 32 or 64.
        wgpu::Backend::Metal if info.name.starts_with("Apple") => [32, 32],
        wgpu::Backend::Metal => [32, 64],
        _ => [info.subgroup_min_size, info.subgroup_max_size],
    }
}

/// Returns the shapes (m, n, k) of the adapter's matrices, in half precision with sums in single.
pub(super) fn matrix_shapes(adapter: &Adapter) -> Vec<[u32; 3]> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let properties = adapter.cooperative_matrix_properties();
    let usable = properties.iter().filter(|p| p.ab_type == F16 && p.cr_type == F32);
    usable.map(|p| [p.m_size, p.n_size, p.k_size]).collect()
}
