// Rows of a matrix, each processed by one subgroup of any size. One workgroup of INVOCATIONS per 8 rows. With 256 of them
// subgroups of 32 have one row each, and subgroups of 64 two, so that many rows are under way at once; with 64
// invocations no subgroup of 8 is idle.
//
// A kernel declares `row_count()` and `work(row, lane, lanes)`, where `lanes` is the subgroup's size; a variant has
// INVOCATIONS.

const ROWS = 8u;
const LOWEST = -3.4e38;

// Returns the sum of all numbers of all lanes to all of them.
fn row_sum(values: vec4<f32>) -> f32 {
    return subgroupAdd(dot(values, vec4(1.0)));
}

// Returns the largest of all numbers of all lanes to all of them.
fn row_max(values: vec4<f32>) -> f32 {
    return subgroupMax(max(max(values.x, values.y), max(values.z, values.w)));
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    for (var i = subgroup; i < ROWS; i += subgroups) {
        let row = group_index(group) * ROWS + i;
        if row < row_count() {
            work(row, lane, lanes);
        }
    }
}
