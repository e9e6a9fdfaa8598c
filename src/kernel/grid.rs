//! Grids: the number of workgroups of a dispatch.

use super::dims::Dims;

/// The size that WebGPU guarantees for each dimension of a grid.
pub const LARGEST: u32 = 65_535;

/// Arranges `groups` workgroups in rows of at most [`LARGEST`]; `group_index` in WGSL is the inverse.
pub fn fold(groups: u32) -> [u32; 3] {
    [groups.clamp(1, LARGEST), groups.div_ceil(LARGEST).max(1), 1]
}

/// Cuts a grid into about `parts` parts of whole rows (a single row: of columns); returns for each part
/// [`Dims::FIRST`] and its size.
///
/// ```
/// use wgpt::kernel::grid::split;
/// assert_eq!(split([7, 5, 2], 2), [([0, 0], [7, 3, 2]), ([0, 3], [7, 2, 2])]);
/// assert_eq!(split([7, 1, 2], 2), [([0, 0], [4, 1, 2]), ([4, 0], [3, 1, 2])]);
/// ```
pub fn split([x, y, z]: [u32; 3], parts: u32) -> Vec<([u32; 2], [u32; 3])> {
    let len = if y > 1 { y } else { x };
    let most = len.div_ceil(parts.clamp(1, len.max(1)));
    let part = |first| match most.min(len - first) {
        rows if y > 1 => ([0, first], [x, rows, z]),
        columns => ([first, 0], [columns, y, z]),
    };
    (0..len).step_by(most as usize).map(part).collect()
}

/// Returns B · T.
pub fn row_count(dims: &Dims) -> u32 {
    dims.B * dims.T
}

/// Returns one workgroup per row of B · T.
pub fn rows(dims: &Dims, _: &[usize]) -> [u32; 3] {
    fold(dims.B * dims.T)
}

/// Returns one workgroup per 8 of `rows` rows.
pub fn eight_rows(rows: u32) -> [u32; 3] {
    fold(rows.div_ceil(8))
}

/// Returns one workgroup per 1024 elements of the last argument.
pub fn vectors(_: &Dims, lens: &[usize]) -> [u32; 3] {
    fold(lens.last().map_or(1, |&len| len.div_ceil(1024)) as u32)
}

/// Returns one invocation, in workgroups of 256, per element of the last argument.
pub fn elements(_: &Dims, lens: &[usize]) -> [u32; 3] {
    fold(lens.last().map_or(1, |&len| len.div_ceil(256)) as u32)
}

/// Returns one workgroup per tile of a matrix, both in rows and columns.
pub fn tiles(matrix: [u32; 2], tile: [u32; 2]) -> [u32; 3] {
    [matrix[1].div_ceil(tile[1]), matrix[0].div_ceil(tile[0]), 1]
}
