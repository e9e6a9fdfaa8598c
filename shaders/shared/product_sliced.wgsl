// The matrix product for which tiles of 64 would be too few to fill a device: it has smaller tiles, and computes
// each sum in SLICES parts, which the workgroup adds up, always in the same order.
//
// One workgroup computes a tile of 32 x 32. Of each 64 columns of `a` and rows of `b` that go through
// workgroup memory, a slice of 64 invocations multiplies 16, and every invocation keeps 4 x 4 sums. This
// gives 4 workgroups of 256 where the tiles of 64 give one of 64: 16 times the invocations.
//
// Each k costs an invocation 2 vectors of workgroup memory and 16 multiply-adds; a tile does 16 FLOPs per
// byte of memory in f32, which the caches have to deliver.

const TILE = 32u;
const SLICES = 4u;
const SLICE_K = 16u;
const STEP = SLICES * SLICE_K;
const SIDE = TILE / 4u;              // invocations of a slice along a side of the tile, and vectors
const SLICE = SIDE * SIDE;           // invocations of a slice
const B_START = STEP * SIDE;         // where the tile of `b` begins

// A tile of `a` and one of `b`; at the end the sums of each slice and row of an invocation's four.
var<workgroup> tiles: array<vec4<f32>, 2u * STEP * SIDE>;

// Returns the place of block `i` of a tile: vectors along its side, blocks along k. Neighbours read neighbours.
fn block_place(i: u32, along_k: bool) -> vec2<u32> {
    if along_k {
        return vec2(i / (STEP / 4u), i % (STEP / 4u));
    }
    return vec2(i % SIDE, i / SIDE);
}

fn store_block(start: u32, place: vec2<u32>, block: mat4x4<f32>) {
    let at = start + 4u * place.y * SIDE + place.x;
    tiles[at] = block[0];
    tiles[at + SIDE] = block[1];
    tiles[at + 2u * SIDE] = block[2];
    tiles[at + 3u * SIDE] = block[3];
}

// Loads one block per invocation: the first half of them loads `a`, the other half `b`.
fn load_tiles(local: u32, m0: u32, n0: u32, k0: u32, size: vec3<u32>, fit: bool) {
    let i = local % (2u * SLICE);
    if local < 2u * SLICE {
        let place = block_place(i, A_ALONG_K);
        store_block(0u, place, a_block(m0 + 4u * place.x, k0 + 4u * place.y, size, fit));
    } else {
        let place = block_place(i, B_ALONG_K);
        store_block(B_START, place, b_block(k0 + 4u * place.y, n0 + 4u * place.x, size, fit));
    }
}

// Returns the sum over all slices of the values that each stored at `at`.
fn add_up(at: u32, pitch: u32) -> vec4<f32> {
    return tiles[at] + tiles[at + pitch] + tiles[at + 2u * pitch] + tiles[at + 3u * pitch];
}

@compute @workgroup_size(SLICES * SLICE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let size = sizes();
    let fit = strides_fit();
    let tile = group_tile(group);
    let m0 = tile.y * TILE;
    let n0 = tile.x * TILE;
    let slice = local / SLICE;
    let own = local % SLICE;
    let x = own % SIDE;
    let y = own / SIDE;
    let first = slice * SLICE_K * SIDE;

    var r0 = vec4(0.0); var r1 = vec4(0.0); var r2 = vec4(0.0); var r3 = vec4(0.0);
    var b_sum = vec4(0.0);
    for (var k0 = 0u; k0 < size.y; k0 += STEP) {
        load_tiles(local, m0, n0, k0, size, fit);
        workgroupBarrier();
        for (var k = first; k < first + SLICE_K * SIDE; k += 2u * SIDE) {
            let a0 = tiles[k + y];
            let b0 = tiles[B_START + k + x];
            r0 += a0.x * b0; r1 += a0.y * b0; r2 += a0.z * b0; r3 += a0.w * b0;
            let a1 = tiles[k + SIDE + y];
            let b1 = tiles[B_START + k + SIDE + x];
            r0 += a1.x * b1; r1 += a1.y * b1; r2 += a1.z * b1; r3 += a1.w * b1;
            if B_SUMS {
                b_sum += b0 + b1;
            }
        }
        workgroupBarrier();
    }

    // Each slice then stores one of an invocation's four rows.
    tiles[4u * slice * SLICE + own] = r0;
    tiles[(4u * slice + 1u) * SLICE + own] = r1;
    tiles[(4u * slice + 2u) * SLICE + own] = r2;
    tiles[(4u * slice + 3u) * SLICE + own] = r3;
    workgroupBarrier();
    store_vector(m0 + 4u * y + slice, n0 + 4u * x, size, fit, add_up(slice * SLICE + own, 4u * SLICE));
    if B_SUMS && tile.y == 0u {
        workgroupBarrier();
        tiles[local] = b_sum;
        workgroupBarrier();
        let sum = add_up(own, SLICE);
        for (var i = 0u; i < 4u && local < SIDE && n0 + 4u * x + i < size.z; i++) {
            store_sum(n0 + 4u * x + i, sum[i]);
        }
    }
}
