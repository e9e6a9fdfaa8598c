// Rows of a matrix, each processed by one subgroup of any size. One workgroup per 8 rows: with subgroups of 32 each has
// one row, with 64 two, so that as many rows as possible are under way at once; smaller ones have no row, or one.
//
// A kernel declares `row_count()` and `work(row, lane, lanes)`, where `lanes` is the subgroup's size.

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

@compute @workgroup_size(256)
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
