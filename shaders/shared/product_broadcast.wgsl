// The matrix product by one subgroup of 8: 16 rows and 128 columns, without workgroup memory.
//
// Every invocation keeps 16 rows of 16 columns in registers. For four values of k at a time, the subgroup reads
// its part of `a` once, two vectors per invocation, and passes each number to all lanes by a broadcast; each
// invocation reads its own columns of `b`. This is for devices where a load costs as much as many multiply-adds
// (a GPU emulated by a CPU): it needs the fewest loads, 18 vectors per 1024 multiply-adds. Rows and columns past
// the end read the last ones instead, and are not stored.

const ROWS = 16u;
const COLUMNS = 16u; // per invocation

// Adds the products of 16 numbers of one column of `a` and an invocation's columns of one row of `b`.
fn multiply(sums: ptr<function, array<mat4x4<f32>, ROWS>>, low: f32, high: f32, b: mat4x4<f32>) {
    (*sums)[0] += subgroupBroadcast(low, 0u) * b;
    (*sums)[1] += subgroupBroadcast(low, 1u) * b;
    (*sums)[2] += subgroupBroadcast(low, 2u) * b;
    (*sums)[3] += subgroupBroadcast(low, 3u) * b;
    (*sums)[4] += subgroupBroadcast(low, 4u) * b;
    (*sums)[5] += subgroupBroadcast(low, 5u) * b;
    (*sums)[6] += subgroupBroadcast(low, 6u) * b;
    (*sums)[7] += subgroupBroadcast(low, 7u) * b;
    (*sums)[8] += subgroupBroadcast(high, 0u) * b;
    (*sums)[9] += subgroupBroadcast(high, 1u) * b;
    (*sums)[10] += subgroupBroadcast(high, 2u) * b;
    (*sums)[11] += subgroupBroadcast(high, 3u) * b;
    (*sums)[12] += subgroupBroadcast(high, 4u) * b;
    (*sums)[13] += subgroupBroadcast(high, 5u) * b;
    (*sums)[14] += subgroupBroadcast(high, 6u) * b;
    (*sums)[15] += subgroupBroadcast(high, 7u) * b;
}

// Adds an invocation's columns of one row of `b` to their sums, if these are wanted.
fn add_row(b_sum: ptr<function, mat4x4<f32>>, wanted: bool, b: mat4x4<f32>) {
    if wanted {
        *b_sum += b;
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
    let sums_b = B_SUMS && tile.y == 0u;
    let vectors_end = select(0u, size.y / 4u * 4u, fit);

    var sums: array<mat4x4<f32>, ROWS>;
    var b_sum: mat4x4<f32>;
    for (var k = 0u; k < vectors_end; k += 4u) {
        let low = a_row(low_m, k);
        let high = a_row(high_m, k);
        if B_ALONG_K {
            let c0 = b_along_k(k, n, last);
            let c1 = b_along_k(k, n + 4u, last);
            let c2 = b_along_k(k, n + 8u, last);
            let c3 = b_along_k(k, n + 12u, last);
            let b0 = mat4x4(c0[0], c1[0], c2[0], c3[0]);
            multiply(&sums, low.x, high.x, b0);
            add_row(&b_sum, sums_b, b0);
            let b1 = mat4x4(c0[1], c1[1], c2[1], c3[1]);
            multiply(&sums, low.y, high.y, b1);
            add_row(&b_sum, sums_b, b1);
            let b2 = mat4x4(c0[2], c1[2], c2[2], c3[2]);
            multiply(&sums, low.z, high.z, b2);
            add_row(&b_sum, sums_b, b2);
            let b3 = mat4x4(c0[3], c1[3], c2[3], c3[3]);
            multiply(&sums, low.w, high.w, b3);
            add_row(&b_sum, sums_b, b3);
        } else {
            let b0 = b_along_n(k, n, last);
            multiply(&sums, low.x, high.x, b0);
            add_row(&b_sum, sums_b, b0);
            let b1 = b_along_n(k + 1u, n, last);
            multiply(&sums, low.y, high.y, b1);
            add_row(&b_sum, sums_b, b1);
            let b2 = b_along_n(k + 2u, n, last);
            multiply(&sums, low.z, high.z, b2);
            add_row(&b_sum, sums_b, b2);
            let b3 = b_along_n(k + 3u, n, last);
            multiply(&sums, low.w, high.w, b3);
            add_row(&b_sum, sums_b, b3);
        }
    }
    for (var k = vectors_end; k < size.y; k++) {
        let b = b_row(k, n, last);
        multiply(&sums, a_at(low_m, k), a_at(high_m, k), b);
        add_row(&b_sum, sums_b, b);
    }

    for (var i = 0u; i < min(ROWS, size.x - m); i++) {
        // The next columns and rows move up: what is indexed by a variable would lie in memory, and the driver's
        // compiler would take seconds for it.
        for (var j = 0u; j < COLUMNS; j += 4u) {
            store_vector(m + i, n + j, size, fit, sums[0][0]);
            sums[0] = mat4x4(sums[0][1], sums[0][2], sums[0][3], sums[0][0]);
        }
        sums[0] = sums[1];
        sums[1] = sums[2];
        sums[2] = sums[3];
        sums[3] = sums[4];
        sums[4] = sums[5];
        sums[5] = sums[6];
        sums[6] = sums[7];
        sums[7] = sums[8];
        sums[8] = sums[9];
        sums[9] = sums[10];
        sums[10] = sums[11];
        sums[11] = sums[12];
        sums[12] = sums[13];
        sums[13] = sums[14];
        sums[14] = sums[15];
    }
    if sums_b {
        for (var i = 0u; i < COLUMNS && n + i < size.z; i++) {
            store_sum(n + i, b_sum[0].x);
            b_sum[0] = b_sum[0].yzwx;
            if i % 4u == 3u {
                b_sum = mat4x4(b_sum[1], b_sum[2], b_sum[3], b_sum[0]);
            }
        }
    }
}
