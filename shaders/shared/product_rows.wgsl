// The matrix product of a few rows, limited by the memory that holds `b`: generation uses it.
//
// One workgroup computes 32 columns of 8 rows; the order of each row's sums does not depend on the number of rows. An
// invocation owns four columns and every 32nd block of four values of k, so that a row of `b` is read 128 bytes (64 in
// half precision) at a time and each number once; then the workgroup adds up the parts, one row at a time. Each byte of
// `b` in f32 costs 4 FLOPs, which any device can do in that time.

const ACROSS = 8u;    // vectors of columns
const SLICES = 32u;   // shares of k
const ROWS = 8u;

var<workgroup> parts: array<vec4<f32>, ACROSS * SLICES>;

// Stores the sum of the parts of each vector of columns in the first ACROSS of them.
fn add_up(local: u32) {
    for (var stride = SLICES / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride * ACROSS {
            parts[local] += parts[local + stride * ACROSS];
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(ACROSS * SLICES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let size = sizes();
    let fit = strides_fit();
    let tile = group_tile(group);
    let n = 4u * (tile.x * ACROSS + local % ACROSS);
    let first = tile.y * ROWS;
    let rows_left = size.x - first;
    var sums: array<vec4<f32>, ROWS>;
    var b_sum = vec4(0.0);
    for (var k = 4u * (local / ACROSS); k < size.y; k += 4u * SLICES) {
        let b = b_block(k, n, size, fit);
        let a = a_block(first, k, size, fit);
        sums[0] += a[0].x * b[0] + a[1].x * b[1] + a[2].x * b[2] + a[3].x * b[3];
        if rows_left > 1u {
            sums[1] += a[0].y * b[0] + a[1].y * b[1] + a[2].y * b[2] + a[3].y * b[3];
            sums[2] += a[0].z * b[0] + a[1].z * b[1] + a[2].z * b[2] + a[3].z * b[3];
            sums[3] += a[0].w * b[0] + a[1].w * b[1] + a[2].w * b[2] + a[3].w * b[3];
        }
        if rows_left > 4u {
            let c = a_block(first + 4u, k, size, fit);
            sums[4] += c[0].x * b[0] + c[1].x * b[1] + c[2].x * b[2] + c[3].x * b[3];
            sums[5] += c[0].y * b[0] + c[1].y * b[1] + c[2].y * b[2] + c[3].y * b[3];
            sums[6] += c[0].z * b[0] + c[1].z * b[1] + c[2].z * b[2] + c[3].z * b[3];
            sums[7] += c[0].w * b[0] + c[1].w * b[1] + c[2].w * b[2] + c[3].w * b[3];
        }
        if B_SUMS {
            b_sum += b[0] + b[1] + b[2] + b[3];
        }
    }

    for (var m = 0u; m < min(rows_left, ROWS); m++) {
        parts[local] = sums[0];
        add_up(local);
        if local < ACROSS {
            store_vector(first + m, n, size, fit, parts[local]);
        }
        workgroupBarrier();
        // The next row moves up: what is indexed by a variable would lie in memory.
        sums[0] = sums[1];
        sums[1] = sums[2];
        sums[2] = sums[3];
        sums[3] = sums[4];
        sums[4] = sums[5];
        sums[5] = sums[6];
        sums[6] = sums[7];
    }
    if B_SUMS {
        parts[local] = b_sum;
        add_up(local);
        for (var i = 0u; i < 4u && local < ACROSS && n + i < size.z; i++) {
            store_sum(n + i, parts[local][i]);
        }
    }
}
