// The matrix product on matrix units: operands in half precision, sums in single.
//
// One workgroup of 8 subgroups computes a tile of matrices of EDGE x EDGE. With one slice the tile is 8 x 8
// matrices, 2 x 4 per subgroup; with two, for products that would leave most of a device idle, it is 4 x 4,
// and each half of the subgroups computes all of it, 2 x 2 per subgroup, for every other EDGE of k. The operands
// of 2 or 4 EDGE of k at a time go through workgroup memory, in their order in global memory, so that nothing is
// transposed: a matrix is loaded by rows or by columns. The vectors of the next step are read while those of this
// step are multiplied. The elements of the sums cannot be accessed in the matrices, so each matrix goes through
// workgroup memory once more before it is stored; there the slices are added up.
//
// With EDGE 16 and one slice a step of 32 moves 16 KiB for 1 MFLOP: 64 FLOPs per byte of global memory, 21 per
// byte of workgroup memory; with two slices 32 and 16.

const TILE = 8u * EDGE / SLICES;
const TILE_K = 2u * EDGE * SLICES;
const DOWN = 2u;                             // matrices of a subgroup, vertically
const ACROSS = 4u / SLICES;                  // and horizontally
const SUBGROUPS = 8u / SLICES;               // per slice
const INVOCATIONS = 8u * SUBGROUP;
const VECTORS = TILE * TILE_K / 4u;          // per tile of either operand
const FETCHED = VECTORS / INVOCATIONS;       // of these, per invocation
const PAD = 2u;                              // in vectors, so that rows fall into different banks
const TILE_LENGTH = TILE * (TILE_K / 4u + PAD);

// The tile of `a` and then that of `b`, as vectors or as numbers: shared/coop_vectors.wgsl.
var<workgroup> tiles: array<TileElement, 2u * TILE_LENGTH * 4u / WIDTH>;
var<workgroup> stage: array<f32, 8u * EDGE * EDGE>;

// Returns the vectors of a row of a tile in global memory: along k, or along the tile's side.
fn row_vectors(along_k: bool) -> u32 {
    return select(TILE, TILE_K, along_k) / 4u;
}

// Returns the place of vector `i` of a tile in workgroup memory.
fn tile_index(i: u32, along_k: bool) -> u32 {
    let width = row_vectors(along_k);
    return i / width * (width + PAD) + i % width;
}

fn fetch_a(i: u32, m0: u32, k0: u32, size: vec3<u32>, fit: bool) -> vec4<f16> {
    let width = row_vectors(A_ALONG_K);
    let place = vec2(i / width, 4u * (i % width));
    if A_ALONG_K {
        return vec4<f16>(a_vector(m0 + place.x, k0 + place.y, size, fit));
    }
    return vec4<f16>(a_vector(m0 + place.y, k0 + place.x, size, fit));
}

fn fetch_b(i: u32, k0: u32, n0: u32, size: vec3<u32>, fit: bool) -> vec4<f16> {
    let width = row_vectors(B_ALONG_K);
    let place = vec2(i / width, 4u * (i % width));
    if B_ALONG_K {
        return vec4<f16>(b_vector(k0 + place.y, n0 + place.x, size, fit));
    }
    return vec4<f16>(b_vector(k0 + place.x, n0 + place.y, size, fit));
}

fn load_a(m: u32, k: u32) -> MatrixA {
    let pitch = row_vectors(A_ALONG_K) + PAD;
    if A_ALONG_K {
        let at = m * pitch + k / 4u;
        return coopLoadT<MatrixA>(&tiles[at * (4u / WIDTH)], pitch * (4u / WIDTH));
    }
    let at = k * pitch + m / 4u;
    return coopLoad<MatrixA>(&tiles[at * (4u / WIDTH)], pitch * (4u / WIDTH));
}

fn load_b(k: u32, n: u32) -> MatrixB {
    let pitch = row_vectors(B_ALONG_K) + PAD;
    if B_ALONG_K {
        let at = TILE_LENGTH + n * pitch + k / 4u;
        return coopLoad<MatrixB>(&tiles[at * (4u / WIDTH)], pitch * (4u / WIDTH));
    }
    let at = TILE_LENGTH + k * pitch + n / 4u;
    return coopLoadT<MatrixB>(&tiles[at * (4u / WIDTH)], pitch * (4u / WIDTH));
}

// Returns four neighbours of a sum.
fn staged(at: u32) -> vec4<f32> {
    return vec4(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]);
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let size = sizes();
    let fit = strides_fit();
    let tile = group_tile(group);
    let m0 = tile.y * TILE;
    let n0 = tile.x * TILE;
    // Not every compiler sees that there is one slice.
    var slice = 0u;
    if SLICES > 1u {
        slice = subgroup / SUBGROUPS;
    }
    let m = subgroup % SUBGROUPS / 2u * DOWN * EDGE;
    let n = subgroup % 2u * ACROSS * EDGE;
    let sums_b = B_SUMS && tile.y == 0u && local < TILE / 4u;

    var sums: array<MatrixC, DOWN * ACROSS>;
    var a_next: array<vec4<f16>, FETCHED>;
    var b_next: array<vec4<f16>, FETCHED>;
    var b_sum = vec4(0.0);
    for (var i = 0u; i < FETCHED; i++) {
        a_next[i] = fetch_a(i * INVOCATIONS + local, m0, 0u, size, fit);
        b_next[i] = fetch_b(i * INVOCATIONS + local, 0u, n0, size, fit);
    }
    for (var k0 = 0u; k0 < size.y; k0 += TILE_K) {
        workgroupBarrier();
        for (var i = 0u; i < FETCHED; i++) {
            put(tile_index(i * INVOCATIONS + local, A_ALONG_K), a_next[i]);
            put(TILE_LENGTH + tile_index(i * INVOCATIONS + local, B_ALONG_K), b_next[i]);
        }
        workgroupBarrier();
        for (var i = 0u; i < FETCHED; i++) {
            a_next[i] = fetch_a(i * INVOCATIONS + local, m0, k0 + TILE_K, size, fit);
            b_next[i] = fetch_b(i * INVOCATIONS + local, k0 + TILE_K, n0, size, fit);
        }
        for (var step = 0u; step < TILE_K / (SLICES * EDGE); step++) {
            let k = (step * SLICES + slice) * EDGE;
            let a0 = load_a(m, k);
            let a1 = load_a(m + EDGE, k);
            let b0 = load_b(k, n);
            let b1 = load_b(k, n + EDGE);
            sums[0] = coopMultiplyAdd(a0, b0, sums[0]);
            sums[1] = coopMultiplyAdd(a0, b1, sums[1]);
            sums[ACROSS] = coopMultiplyAdd(a1, b0, sums[ACROSS]);
            sums[ACROSS + 1u] = coopMultiplyAdd(a1, b1, sums[ACROSS + 1u]);
            if SLICES == 1u {
                let b2 = load_b(k, n + 2u * EDGE);
                let b3 = load_b(k, n + 3u * EDGE);
                sums[2] = coopMultiplyAdd(a0, b2, sums[2]);
                sums[3] = coopMultiplyAdd(a0, b3, sums[3]);
                sums[DOWN * ACROSS - 2u] = coopMultiplyAdd(a1, b2, sums[DOWN * ACROSS - 2u]);
                sums[DOWN * ACROSS - 1u] = coopMultiplyAdd(a1, b3, sums[DOWN * ACROSS - 1u]);
            }
        }
        if sums_b {
            for (var k = 0u; k < TILE_K; k++) {
                b_sum += vec4<f32>(got(TILE_LENGTH + k * (row_vectors(false) + PAD) + local));
            }
        }
    }

    let own = EDGE * EDGE * subgroup;
    let first = EDGE * EDGE * (subgroup % SUBGROUPS);
    for (var i = 0u; i < DOWN * ACROSS; i++) {
        workgroupBarrier();
        coopStoreT(sums[i], &stage[own], EDGE);
        workgroupBarrier();
        for (var v = slice * SUBGROUP + lane; v < EDGE * EDGE / 4u; v += SLICES * SUBGROUP) {
            var value = staged(first + 4u * v);
            if SLICES == 2u {
                value += staged(first + 4u * v + EDGE * EDGE * SUBGROUPS);
            }
            let row = m0 + m + i / ACROSS * EDGE + 4u * v / EDGE;
            let column = n0 + n + i % ACROSS * EDGE + 4u * v % EDGE;
            store_vector(row, column, size, fit, value);
        }
    }
    if sums_b {
        for (var i = 0u; i < 4u && n0 + 4u * local + i < size.z; i++) {
            store_sum(n0 + 4u * local + i, b_sum[i]);
        }
    }
}
