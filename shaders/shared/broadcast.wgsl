// Broadcasts a matrix from one lane of a subgroup of 8 to all of them: the lane must be a constant there.

fn lane0(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 0u),
        subgroupBroadcast(m[1], 0u),
        subgroupBroadcast(m[2], 0u),
        subgroupBroadcast(m[3], 0u),
    );
}

fn lane1(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 1u),
        subgroupBroadcast(m[1], 1u),
        subgroupBroadcast(m[2], 1u),
        subgroupBroadcast(m[3], 1u),
    );
}

fn lane2(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 2u),
        subgroupBroadcast(m[1], 2u),
        subgroupBroadcast(m[2], 2u),
        subgroupBroadcast(m[3], 2u),
    );
}

fn lane3(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 3u),
        subgroupBroadcast(m[1], 3u),
        subgroupBroadcast(m[2], 3u),
        subgroupBroadcast(m[3], 3u),
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

fn lane5(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 5u),
        subgroupBroadcast(m[1], 5u),
        subgroupBroadcast(m[2], 5u),
        subgroupBroadcast(m[3], 5u),
    );
}

fn lane6(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 6u),
        subgroupBroadcast(m[1], 6u),
        subgroupBroadcast(m[2], 6u),
        subgroupBroadcast(m[3], 6u),
    );
}

fn lane7(m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        subgroupBroadcast(m[0], 7u),
        subgroupBroadcast(m[1], 7u),
        subgroupBroadcast(m[2], 7u),
        subgroupBroadcast(m[3], 7u),
    );
}

