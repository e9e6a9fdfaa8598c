// Passes matrices from lane to lane in a subgroup of 8. A loop broadcasts the matrix of lane 0 (and of lane 4) and then moves
// all matrices down by one lane: eight times its text would take a driver's compiler seconds.

fn lane0(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 0u),
        subgroupBroadcast(m[1], 0u),
        subgroupBroadcast(m[2], 0u),
        subgroupBroadcast(m[3], 0u),
    );
}

fn lane4(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 4u),
        subgroupBroadcast(m[1], 4u),
        subgroupBroadcast(m[2], 4u),
        subgroupBroadcast(m[3], 4u),
    );
}

// Returns the matrix of the next lane, in the last lane that of lane 0.
fn of_next_lane(m: mat4x4<f32>, lane: u32) -> mat4x4<f32> {
    return of_lane(m, (lane + 1u) & 7u);
}

// Returns the matrix of the next lane of the same half, in its last lane that of its first one.
fn of_next_lane_in_half(m: mat4x4<f32>, lane: u32) -> mat4x4<f32> {
    return of_lane(m, (lane & 4u) | ((lane + 1u) & 3u));
}

fn of_lane(m: mat4x4<f32>, lane: u32) -> mat4x4<f32> {
    return mat4x4(
        subgroupShuffle(m[0], lane),
        subgroupShuffle(m[1], lane),
        subgroupShuffle(m[2], lane),
        subgroupShuffle(m[3], lane),
    );
}
