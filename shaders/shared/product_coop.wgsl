// The matrix product on matrix units: operands in half precision, sums in single.
//
// One workgroup computes a tile of matrices of M x N, in 8 units of 2 x 4 matrices, two of them side by side. With one
// slice the tile is 8 x 8 matrices; with two, for products that would leave most of a device idle, it is 4 x 4, units
// have 2 x 2, and each half of the units computes all of the tile for every other K of the sums. The operands of 2 or 4
// K at a time go through workgroup memory: a matrix is loaded from there by rows or by columns. The vectors of the next
// step are read while those of this step are multiplied. The elements of the sums cannot be accessed in the matrices, so
// each matrix goes through workgroup memory once more before it is stored; there the slices are added up.
//
// Each subgroup computes one unit, or two that lie one above the other where a workgroup has 4 subgroups and not 8: a
// variant with ARRANGEMENTS = 2 does either, by the size of the subgroups that the device makes of its invocations.
//
// Operands keep their order in global memory, so that nothing is transposed; with ALONG_K they are transposed in blocks
// of 4 x 4 where that is needed, so that neighbours in k are always neighbours in workgroup memory: some matrix units
// load them at once then, and otherwise number by number.
//
// With matrices of 16 x 16 and one slice a step of 32 moves 16 KiB for 1 MFLOP: 64 FLOPs per byte of global memory, 21
// per byte of workgroup memory; with two slices 32 and 16.
//
// A variant declares
//     SLICES
//     LEAST             the smallest subgroup
//     ARRANGEMENTS      1: a workgroup has 8 subgroups; 2: it has 8 or 4
//     ALONG_K
// and the shape of the matrices, in shared/coop_*.wgsl, and of the tiles' elements, in coop_vectors.wgsl or
// coop_numbers.wgsl.

const UNITS = 8u;
const INVOCATIONS = UNITS * LEAST;
const UNIT_LANES = LEAST;
const DOWN = 2u;                             // matrices of a unit, vertically
const ACROSS = 4u / SLICES;                  // and horizontally
const MATRICES = DOWN * ACROSS;
const ROWS = UNITS / 2u / SLICES;            // of units, per slice
const TILE_M = ROWS * DOWN * M;
const TILE_N = 2u * ACROSS * N;
const TILE_K = 2u * K * SLICES;
const A_FETCHED = TILE_M * TILE_K / 4u / INVOCATIONS;   // vectors of a tile, per invocation
const B_FETCHED = TILE_N * TILE_K / 4u / INVOCATIONS;
const PAD = 2u;                              // in vectors, so that rows fall into different banks
const K_PITCH = TILE_K / 4u + PAD;           // of rows along k, in vectors
const A_LENGTH = TILE_M * K_PITCH;
const B_LENGTH = TILE_N * K_PITCH;

// The tile of `a` and then that of `b`, as vectors or as numbers.
var<workgroup> tiles: array<TileElement, (A_LENGTH + B_LENGTH) * 4u / WIDTH>;
var<workgroup> stage: array<f32, UNITS * M * N>;

// Returns the vectors of a row of a tile `side` long: along k, or along its side.
fn row_vectors(side: u32, along_k: bool) -> u32 {
    return select(side, TILE_K, along_k) / 4u;
}

// Returns the place of an invocation's vector `i` in the tile: its number along the side and along k. Vectors along k
// are fetched row by row. Of those along the side that are to be transposed, four make a block.
fn vector_place(i: u32, local: u32, side: u32, along_k: bool) -> vec2<u32> {
    let width = row_vectors(side, along_k);
    if along_k {
        let v = i * INVOCATIONS + local;
        return vec2(v / width, 4u * (v % width));
    }
    if ALONG_K {
        let block = i / 4u * INVOCATIONS + local;
        return vec2(4u * (block % width), 4u * (block / width) + i % 4u);
    }
    let v = i * INVOCATIONS + local;
    return vec2(4u * (v % width), v / width);
}

fn fetch_a(i: u32, local: u32, m0: u32, k0: u32, size: vec3<u32>, fit: bool) -> vec4<f16> {
    let place = vector_place(i, local, TILE_M, A_ALONG_K);
    return vec4<f16>(a_vector(m0 + place.x, k0 + place.y, size, fit));
}

fn fetch_b(i: u32, local: u32, k0: u32, n0: u32, size: vec3<u32>, fit: bool) -> vec4<f16> {
    let place = vector_place(i, local, TILE_N, B_ALONG_K);
    return vec4<f16>(b_vector(k0 + place.y, n0 + place.x, size, fit));
}

// Whether an operand's blocks of 4 x 4 are transposed on their way into workgroup memory.
fn is_transposed(along_k: bool) -> bool {
    return ALONG_K && !along_k;
}

// Stores a vector at its place in the tile that begins at `start`, in the order in which it came.
fn put_vector(start: u32, place: vec2<u32>, side: u32, along_k: bool, value: vec4<f16>) {
    let row = select(place.y, place.x, along_k);
    let column = select(place.x, place.y, along_k);
    put(start + row * (row_vectors(side, along_k) + PAD) + column / 4u, value);
}

// Stores vectors along the side, of k at `place` and the next three, as vectors along k.
fn put_block(start: u32, place: vec2<u32>, r0: vec4<f16>, r1: vec4<f16>, r2: vec4<f16>, r3: vec4<f16>) {
    let at = start + place.x * K_PITCH + place.y / 4u;
    put(at, vec4(r0.x, r1.x, r2.x, r3.x));
    put(at + K_PITCH, vec4(r0.y, r1.y, r2.y, r3.y));
    put(at + 2u * K_PITCH, vec4(r0.z, r1.z, r2.z, r3.z));
    put(at + 3u * K_PITCH, vec4(r0.w, r1.w, r2.w, r3.w));
}

fn load_a(m: u32, k: u32) -> MatrixA {
    if A_ALONG_K | ALONG_K {
        let at = m * K_PITCH + k / 4u;
        return coopLoadT<MatrixA>(&tiles[at * (4u / WIDTH)], K_PITCH * (4u / WIDTH));
    }
    let pitch = TILE_M / 4u + PAD;
    let at = k * pitch + m / 4u;
    return coopLoad<MatrixA>(&tiles[at * (4u / WIDTH)], pitch * (4u / WIDTH));
}

fn load_b(k: u32, n: u32) -> MatrixB {
    if B_ALONG_K | ALONG_K {
        let at = A_LENGTH + n * K_PITCH + k / 4u;
        return coopLoad<MatrixB>(&tiles[at * (4u / WIDTH)], K_PITCH * (4u / WIDTH));
    }
    let pitch = TILE_N / 4u + PAD;
    let at = A_LENGTH + k * pitch + n / 4u;
    return coopLoadT<MatrixB>(&tiles[at * (4u / WIDTH)], pitch * (4u / WIDTH));
}

// Returns the sums over the tile's k of columns n..n+4 of b, which is not along k in global memory.
fn column_sums(n: u32) -> vec4<f32> {
    var sums = vec4(0.0);
    if ALONG_K {
        for (var k = 0u; k < TILE_K / 4u; k++) {
            let at = A_LENGTH + n * K_PITCH + k;
            for (var i = 0u; i < 4u; i++) {
                sums[i] += dot(vec4<f32>(got(at + i * K_PITCH)), vec4(1.0));
            }
        }
        return sums;
    }
    for (var k = 0u; k < TILE_K; k++) {
        sums += vec4<f32>(got(A_LENGTH + k * (TILE_N / 4u + PAD) + n / 4u));
    }
    return sums;
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
    @builtin(subgroup_size) lanes: u32,
) {
    let size = sizes();
    let fit = strides_fit();
    let tile = group_tile(group);
    let m0 = tile.y * TILE_M;
    let n0 = tile.x * TILE_N;
    // The units of this subgroup: one or two, in rows from this one on. AMD's compiler knows the size of its subgroups, but
    // not how many there are, and unrolls the loops over units only if it knows.
    var units = 1u;
    if ARRANGEMENTS == 2u {
        units = lanes / LEAST;
    }
    let first_row = subgroup / 2u * units;
    let column = subgroup % 2u;
    // Not every compiler sees that there is one slice.
    var slice = 0u;
    if SLICES > 1u {
        slice = first_row / ROWS;
    }
    let m = first_row % ROWS * DOWN * M;
    let n = column * ACROSS * N;
    let sums_b = B_SUMS && tile.y == 0u && local < TILE_N / 4u;

    var sums: array<MatrixC, ARRANGEMENTS * MATRICES>;
    var a_next: array<vec4<f16>, A_FETCHED>;
    var b_next: array<vec4<f16>, B_FETCHED>;
    var b_sum = vec4(0.0);
    for (var i = 0u; i < A_FETCHED; i++) {
        a_next[i] = fetch_a(i, local, m0, 0u, size, fit);
    }
    for (var i = 0u; i < B_FETCHED; i++) {
        b_next[i] = fetch_b(i, local, 0u, n0, size, fit);
    }
    for (var k0 = 0u; k0 < size.y; k0 += TILE_K) {
        workgroupBarrier();
        if is_transposed(A_ALONG_K) {
            for (var i = 0u; i < A_FETCHED; i += 4u) {
                let place = vector_place(i, local, TILE_M, A_ALONG_K);
                put_block(0u, place, a_next[i], a_next[i + 1u], a_next[i + 2u], a_next[i + 3u]);
            }
        } else {
            for (var i = 0u; i < A_FETCHED; i++) {
                put_vector(0u, vector_place(i, local, TILE_M, A_ALONG_K), TILE_M, A_ALONG_K, a_next[i]);
            }
        }
        if is_transposed(B_ALONG_K) {
            for (var i = 0u; i < B_FETCHED; i += 4u) {
                let place = vector_place(i, local, TILE_N, B_ALONG_K);
                put_block(A_LENGTH, place, b_next[i], b_next[i + 1u], b_next[i + 2u], b_next[i + 3u]);
            }
        } else {
            for (var i = 0u; i < B_FETCHED; i++) {
                put_vector(A_LENGTH, vector_place(i, local, TILE_N, B_ALONG_K), TILE_N, B_ALONG_K, b_next[i]);
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < A_FETCHED; i++) {
            a_next[i] = fetch_a(i, local, m0, k0 + TILE_K, size, fit);
        }
        for (var i = 0u; i < B_FETCHED; i++) {
            b_next[i] = fetch_b(i, local, k0 + TILE_K, n0, size, fit);
        }
        for (var step = 0u; step < TILE_K / (SLICES * K); step++) {
            let k = (step * SLICES + slice) * K;
            var b: array<MatrixB, ACROSS>;
            for (var j = 0u; j < ACROSS; j++) {
                b[j] = load_b(k, n + j * N);
            }
            for (var i = 0u; i < units * DOWN; i++) {
                let a = load_a(m + i * M, k);
                for (var j = 0u; j < ACROSS; j++) {
                    sums[i * ACROSS + j] = coopMultiplyAdd(a, b[j], sums[i * ACROSS + j]);
                }
            }
        }
        if sums_b {
            b_sum += column_sums(4u * local);
        }
    }

    // The invocations of a unit store its matrices, each those of its own slice.
    let lane = local % UNIT_LANES;
    let lane_row = local / UNIT_LANES / 2u;
    var lane_slice = 0u;
    if SLICES > 1u {
        lane_slice = lane_row / ROWS;
    }
    let lane_m = m0 + lane_row % ROWS * DOWN * M;
    let lane_n = n0 + local / UNIT_LANES % 2u * ACROSS * N;
    let first = M * N * (local / UNIT_LANES % (UNITS / SLICES));
    for (var i = 0u; i < MATRICES; i++) {
        workgroupBarrier();
        for (var unit = 0u; unit < units; unit++) {
            let at = M * N * (2u * (first_row + unit) + column);
            coopStoreT(sums[unit * MATRICES + i], &stage[at], N);
        }
        workgroupBarrier();
        for (var v = lane_slice * UNIT_LANES + lane; v < M * N / 4u; v += SLICES * UNIT_LANES) {
            var value = staged(first + 4u * v);
            if SLICES == 2u {
                value += staged(first + 4u * v + M * N * (UNITS / SLICES));
            }
            store_vector(lane_m + i / ACROSS * M + 4u * v / N, lane_n + i % ACROSS * N + 4u * v % N, size, fit, value);
        }
    }
    if sums_b {
        for (var i = 0u; i < 4u && n0 + 4u * local + i < size.z; i++) {
            store_sum(n0 + 4u * local + i, b_sum[i]);
        }
    }
}
