// The register-tiled matrix product that every device runs: tiles of TILE x TILE through workgroup memory.
//
// One workgroup computes one tile; 16 columns of `a` and 16 rows of `b` at a time go through workgroup
// memory in blocks of 4 x 4, and every invocation keeps 8 x 8 sums in registers, as four blocks of 4 x 4
// that are half a tile apart, so that neighbours read neighbouring words. The sums are declared one by
// one, since not every compiler keeps an array that a loop indexes in registers.
//
// Each k costs an invocation 4 vectors of workgroup memory and 64 multiply-adds; a tile of 64 does 32
// FLOPs per byte of memory in f32, one of 128 does 64.

const TILE_K = 16u;
const SIDE = TILE / 8u;      // invocations along a side of the tile
const VECTORS = TILE / 4u;   // vectors along a side of the tile
const HALF = TILE / 8u;      // vectors from one block of sums to the next
const BLOCKS = VECTORS * TILE_K / 4u;   // blocks of a tile of either operand

const B_START = TILE_K * VECTORS;   // the tile of b comes after that of a

var<workgroup> tiles: array<vec4<f32>, 2u * TILE_K * VECTORS>;

// Returns the place of block `i` of a tile: vectors along its side, blocks along k. Neighbours read neighbours.
fn block_place(i: u32, along_k: bool) -> vec2<u32> {
    if along_k {
        return vec2(i / (TILE_K / 4u), i % (TILE_K / 4u));
    }
    return vec2(i % VECTORS, i / VECTORS);
}

// Stores a block of the tile that begins at `start`.
fn store_block(start: u32, place: vec2<u32>, block: mat4x4<f32>) {
    let at = start + 4u * place.y * VECTORS + place.x;
    tiles[at] = block[0];
    tiles[at + VECTORS] = block[1];
    tiles[at + 2u * VECTORS] = block[2];
    tiles[at + 3u * VECTORS] = block[3];
}

// Loads the tiles of step `k0` in one pass: with as many blocks as invocations each loads one of either operand, with
// half as many one half of the invocations loads `a` and the other `b`. `inside` says that both tiles are wholly inside.
fn load_tiles(local: u32, m0: u32, n0: u32, k0: u32, size: vec3<u32>, fit: bool, inside: bool) {
    let i = local % BLOCKS;
    if BLOCKS == SIDE * SIDE || local < BLOCKS {
        let place = block_place(i, A_ALONG_K);
        let m = m0 + 4u * place.x;
        let k = k0 + 4u * place.y;
        if inside {
            store_block(0u, place, a_block_inside(m, k));
        } else {
            store_block(0u, place, a_block(m, k, size, fit));
        }
    }
    if BLOCKS == SIDE * SIDE || local >= BLOCKS {
        let place = block_place(i, B_ALONG_K);
        let k = k0 + 4u * place.y;
        let n = n0 + 4u * place.x;
        if inside {
            store_block(B_START, place, b_block_inside(k, n));
        } else {
            store_block(B_START, place, b_block(k, n, size, fit));
        }
    }
}

@compute @workgroup_size(SIDE * SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let size = sizes();
    let fit = strides_fit();
    let tile = group_tile(group);
    let m0 = tile.y * TILE;
    let n0 = tile.x * TILE;
    let x = local % SIDE;
    let y = local / SIDE;
    let sums_b = B_SUMS && tile.y == 0u;
    // Of each step that ends before this k, both tiles are wholly inside.
    let inside = select(0u, size.y, fit && m0 + TILE <= size.x && n0 + TILE <= size.z);

    // Sums of row r: of this invocation's first four columns (l) and of those half a tile further (h).
    var l0 = vec4(0.0); var l1 = vec4(0.0); var l2 = vec4(0.0); var l3 = vec4(0.0);
    var l4 = vec4(0.0); var l5 = vec4(0.0); var l6 = vec4(0.0); var l7 = vec4(0.0);
    var h0 = vec4(0.0); var h1 = vec4(0.0); var h2 = vec4(0.0); var h3 = vec4(0.0);
    var h4 = vec4(0.0); var h5 = vec4(0.0); var h6 = vec4(0.0); var h7 = vec4(0.0);
    var sum = vec4(0.0); // of the columns of b, four per invocation

    for (var k0 = 0u; k0 < size.y; k0 += TILE_K) {
        load_tiles(local, m0, n0, k0, size, fit, k0 + TILE_K <= inside);
        workgroupBarrier();
        for (var k = 0u; k < TILE_K; k += 2u) {
            let a0 = tiles[k * VECTORS + y];
            let c0 = tiles[k * VECTORS + HALF + y];
            let bl0 = tiles[B_START + k * VECTORS + x];
            let bh0 = tiles[B_START + k * VECTORS + HALF + x];
            l0 += a0.x * bl0; l1 += a0.y * bl0; l2 += a0.z * bl0; l3 += a0.w * bl0;
            l4 += c0.x * bl0; l5 += c0.y * bl0; l6 += c0.z * bl0; l7 += c0.w * bl0;
            h0 += a0.x * bh0; h1 += a0.y * bh0; h2 += a0.z * bh0; h3 += a0.w * bh0;
            h4 += c0.x * bh0; h5 += c0.y * bh0; h6 += c0.z * bh0; h7 += c0.w * bh0;
            let a1 = tiles[(k + 1u) * VECTORS + y];
            let c1 = tiles[(k + 1u) * VECTORS + HALF + y];
            let bl1 = tiles[B_START + (k + 1u) * VECTORS + x];
            let bh1 = tiles[B_START + (k + 1u) * VECTORS + HALF + x];
            l0 += a1.x * bl1; l1 += a1.y * bl1; l2 += a1.z * bl1; l3 += a1.w * bl1;
            l4 += c1.x * bl1; l5 += c1.y * bl1; l6 += c1.z * bl1; l7 += c1.w * bl1;
            h0 += a1.x * bh1; h1 += a1.y * bh1; h2 += a1.z * bh1; h3 += a1.w * bh1;
            h4 += c1.x * bh1; h5 += c1.y * bh1; h6 += c1.z * bh1; h7 += c1.w * bh1;
        }
        if sums_b && local < VECTORS {
            for (var k = 0u; k < TILE_K; k++) {
                sum += tiles[B_START + k * VECTORS + local];
            }
        }
        workgroupBarrier();
    }

    let m = m0 + 4u * y;
    let n = n0 + 4u * x;
    let h = 4u * HALF;
    // The next rows move up: what is indexed by a variable would lie in memory.
    for (var half = 0u; half <= h; half += h) {
        for (var i = 0u; i < 4u; i++) {
            store_vector(m + half + i, n, size, fit, l0);
            store_vector(m + half + i, n + h, size, fit, h0);
            l0 = l1; l1 = l2; l2 = l3; l3 = l4; l4 = l5; l5 = l6; l6 = l7;
            h0 = h1; h1 = h2; h2 = h3; h3 = h4; h4 = h5; h5 = h6; h6 = h7;
        }
    }
    if sums_b && local < VECTORS {
        for (var i = 0u; i < 4u && n0 + 4u * local + i < size.z; i++) {
            store_sum(n0 + 4u * local + i, sum[i]);
        }
    }
}
