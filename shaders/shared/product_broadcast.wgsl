// The matrix product by one subgroup of 8: 16 rows and 128 columns, without workgroup memory.
//
// Every invocation keeps 16 rows of 16 columns in registers. For four values of k at a time, the subgroup reads
// its part of `a` once, two vectors per invocation, and passes each number to all lanes by a broadcast; each
// invocation reads its own columns of `b`. This is for devices where a load costs as much as many multiply-adds
// (a GPU emulated by a CPU): it needs the fewest loads, 18 vectors per 1024 multiply-adds. Rows and columns past
// the end read the last ones instead, and are not stored.

const ROWS = 16u;
const COLUMNS = 16u; // per invocation

// What an invocation adds up: its columns of each row of the result, and, where `wants_b`, of all rows of `b`.
struct Sums {
    rows: array<mat4x4<f32>, ROWS>,
    b: mat4x4<f32>,
    wants_b: bool,
}

// Adds the products of 16 numbers of one column of `a` and an invocation's columns of one row of `b`.
fn multiply(sums: ptr<function, Sums>, low: f32, high: f32, b: mat4x4<f32>) {
    (*sums).rows[0] += subgroupBroadcast(low, 0u) * b;
    (*sums).rows[1] += subgroupBroadcast(low, 1u) * b;
    (*sums).rows[2] += subgroupBroadcast(low, 2u) * b;
    (*sums).rows[3] += subgroupBroadcast(low, 3u) * b;
    (*sums).rows[4] += subgroupBroadcast(low, 4u) * b;
    (*sums).rows[5] += subgroupBroadcast(low, 5u) * b;
    (*sums).rows[6] += subgroupBroadcast(low, 6u) * b;
    (*sums).rows[7] += subgroupBroadcast(low, 7u) * b;
    (*sums).rows[8] += subgroupBroadcast(high, 0u) * b;
    (*sums).rows[9] += subgroupBroadcast(high, 1u) * b;
    (*sums).rows[10] += subgroupBroadcast(high, 2u) * b;
    (*sums).rows[11] += subgroupBroadcast(high, 3u) * b;
    (*sums).rows[12] += subgroupBroadcast(high, 4u) * b;
    (*sums).rows[13] += subgroupBroadcast(high, 5u) * b;
    (*sums).rows[14] += subgroupBroadcast(high, 6u) * b;
    (*sums).rows[15] += subgroupBroadcast(high, 7u) * b;
    if (*sums).wants_b {
        (*sums).b += b;
    }
}

// Returns a (m, k..k+4).
fn a_row(m: u32, k: u32) -> vec4<f32> {
    if A_ALONG_K {
        return a_four(m, k);
    }
    return vec4(a_at(m, k), a_at(m, k + 1u), a_at(m, k + 2u), a_at(m, k + 3u));
}

// Returns four columns of b (k..k+4, n..n+4), as rows of k, where neighbours in k are neighbours in memory.
fn b_along_k(k: u32, n: u32, last: u32) -> mat4x4<f32> {
    return transpose(mat4x4(
        b_four(k, min(n, last)),
        b_four(k, min(n + 1u, last)),
        b_four(k, min(n + 2u, last)),
        b_four(k, min(n + 3u, last)),
    ));
}

// Returns an invocation's columns of one row of `b`, where neighbours in n are neighbours in memory.
fn b_along_n(k: u32, n: u32, last: u32) -> mat4x4<f32> {
    return mat4x4(
        b_four(k, min(n, last - 3u)),
        b_four(k, min(n + 4u, last - 3u)),
        b_four(k, min(n + 8u, last - 3u)),
        b_four(k, min(n + 12u, last - 3u)),
    );
}

// Returns an invocation's columns of one row of `b`, reading single elements.
fn b_row(k: u32, n: u32, last: u32) -> mat4x4<f32> {
    return mat4x4(
        b_each(k, n, last),
        b_each(k, n + 4u, last),
        b_each(k, n + 8u, last),
        b_each(k, n + 12u, last),
    );
}

fn b_each(k: u32, n: u32, last: u32) -> vec4<f32> {
    return vec4(
        b_at(k, min(n, last)),
        b_at(k, min(n + 1u, last)),
        b_at(k, min(n + 2u, last)),
        b_at(k, min(n + 3u, last)),
    );
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let size = sizes();
    let tile = group_tile(group);
    let m = tile.y * ROWS;
    let n = (tile.x * 8u + lane) * COLUMNS;
    let last = size.z - 1u;
    let low_m = min(m + lane, size.x - 1u);
    let high_m = min(m + 8u + lane, size.x - 1u);
    let fit = strides_fit() && size.z >= 4u;
    let vectors_end = select(0u, size.y / 4u * 4u, fit);

    var sums: Sums;
    sums.wants_b = B_SUMS && tile.y == 0u;
    for (var k = 0u; k < vectors_end; k += 4u) {
        let low = a_row(low_m, k);
        let high = a_row(high_m, k);
        if B_ALONG_K {
            let c0 = b_along_k(k, n, last);
            let c1 = b_along_k(k, n + 4u, last);
            let c2 = b_along_k(k, n + 8u, last);
            let c3 = b_along_k(k, n + 12u, last);
            multiply(&sums, low.x, high.x, mat4x4(c0[0], c1[0], c2[0], c3[0]));
            multiply(&sums, low.y, high.y, mat4x4(c0[1], c1[1], c2[1], c3[1]));
            multiply(&sums, low.z, high.z, mat4x4(c0[2], c1[2], c2[2], c3[2]));
            multiply(&sums, low.w, high.w, mat4x4(c0[3], c1[3], c2[3], c3[3]));
        } else {
            multiply(&sums, low.x, high.x, b_along_n(k, n, last));
            multiply(&sums, low.y, high.y, b_along_n(k + 1u, n, last));
            multiply(&sums, low.z, high.z, b_along_n(k + 2u, n, last));
            multiply(&sums, low.w, high.w, b_along_n(k + 3u, n, last));
        }
    }
    for (var k = vectors_end; k < size.y; k++) {
        multiply(&sums, a_at(low_m, k), a_at(high_m, k), b_row(k, n, last));
    }

    for (var i = 0u; i < min(ROWS, size.x - m); i++) {
        // The next columns and rows move up: what is indexed by a variable would lie in memory, and the driver's
        // compiler would take seconds for it.
        for (var j = 0u; j < COLUMNS; j += 4u) {
            store_vector(m + i, n + j, size, fit, sums.rows[0][0]);
            sums.rows[0] = mat4x4(sums.rows[0][1], sums.rows[0][2], sums.rows[0][3], sums.rows[0][0]);
        }
        sums.rows[0] = sums.rows[1];
        sums.rows[1] = sums.rows[2];
        sums.rows[2] = sums.rows[3];
        sums.rows[3] = sums.rows[4];
        sums.rows[4] = sums.rows[5];
        sums.rows[5] = sums.rows[6];
        sums.rows[6] = sums.rows[7];
        sums.rows[7] = sums.rows[8];
        sums.rows[8] = sums.rows[9];
        sums.rows[9] = sums.rows[10];
        sums.rows[10] = sums.rows[11];
        sums.rows[11] = sums.rows[12];
        sums.rows[12] = sums.rows[13];
        sums.rows[13] = sums.rows[14];
        sums.rows[14] = sums.rows[15];
    }
    if sums.wants_b {
        for (var i = 0u; i < COLUMNS && n + i < size.z; i++) {
            store_sum(n + i, sums.b[0].x);
            sums.b[0] = sums.b[0].yzwx;
            if i % 4u == 3u {
                sums.b = mat4x4(sums.b[1], sums.b[2], sums.b[3], sums.b[0]);
            }
        }
    }
}
