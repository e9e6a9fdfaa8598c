// The part that attention's kernels on matrix units share.
//
// One workgroup has 4 M positions of a head as its own, in 4 units of M, and processes OTHERS positions at a time, 64
// channels of which go through workgroup memory. Its own positions stay in registers as matrices. The elements of the
// products of both (own positions down, others across) cannot be accessed in the matrices: they go through `stage` to
// the invocations, and come back as weights in half precision. The invocations of a unit, its lanes, share its rows:
// lane % M is the row, lane / M the share; a lane has every LANES-th four of the row's others.
//
// A unit has one subgroup, or two where a workgroup has 8 subgroups and not 4: then each computes every other matrix of
// the unit's products. A variant with ARRANGEMENTS = 2 does either, by the size of the subgroups that the device makes of
// its invocations.
//
// A kernel declares
//     KINDS             the number of weights per pair of positions
//     four(part, at)    the vector of four channels at `at` of a part
// and a variant
//     HEAD              the most channels of a head, 64 or 128
//     LEAST             the smallest subgroup
//     ARRANGEMENTS      1: a workgroup has 4 subgroups; 2: it has 8 or 4
// The shape of the matrices, whose N and K are equal here, is in shared/coop_*.wgsl, that of the elements of `tiles` in
// coop_vectors.wgsl or coop_numbers.wgsl.

// The rows of a head in qkv, or in dout.
struct Part {
    rows: vec2<u32>,
    of_dout: bool,
}

const UNITS = 4u;
const UNIT_LANES = ARRANGEMENTS * LEAST;
const INVOCATIONS = UNITS * UNIT_LANES;
const OWN = UNITS * M;
const OTHERS = 32u;
const CHANNELS = 64u;
const CHUNKS = HEAD / CHANNELS;
const LANES = UNIT_LANES / M;           // that share a row
const FOURS = OTHERS / 4u / LANES;      // fours of others of a lane
const ACROSS = OTHERS / N;              // matrices of others, side by side
const PARTS = CHANNELS / N;             // matrices of channels, side by side
// Rows, in vectors of four, are slightly longer than their contents, so that they fall into different banks.
const TILE_PITCH = CHANNELS / 4u + 2u;
const STAGE_PITCH = OTHERS / 4u + 1u;
const WEIGHTS_PITCH = OTHERS / 4u + 2u;
const SECOND = OTHERS;                  // the row where the others' second vectors begin
const WEIGHTS = 2u * OTHERS * TILE_PITCH;

// The subgroup's part of a workgroup: its unit, the subgroups of that, and its number among them. Of matrices side by side
// it has every `parts`-th, from `part` on.
struct Work {
    unit: u32,
    parts: u32,
    part: u32,
}

fn work_of(subgroup: u32, lanes: u32) -> Work {
    if ARRANGEMENTS == 1u {
        return Work(subgroup, 1u, 0u);
    }
    let parts = UNIT_LANES / lanes;
    return Work(subgroup / parts, parts, subgroup % parts);
}

// The others' first and second vectors, or own ones before they are loaded into registers; then the weights.
var<workgroup> tiles: array<TileElement, (WEIGHTS + KINDS * OWN * WEIGHTS_PITCH) * 4u / WIDTH>;
var<workgroup> stage: array<f32, OWN * STAGE_PITCH * 4u>;

// Stores 64 channels from `d` on of `count` positions from `t` on in the tile, from row `start` on. An invocation has
// the same channels of every row that it stores.
fn fill(start: u32, count: u32, part: Part, t: u32, d: u32, local: u32) {
    let apart = INVOCATIONS / (CHANNELS / 4u);
    let r = local / (CHANNELS / 4u);
    let c = local % (CHANNELS / 4u);
    let end = select(0u, dims.T, d + 4u * c < dims.HS);
    var at = channel(part.rows, t + r, d + 4u * c) / 4u;
    for (var i = 0u; i < count / apart; i++) {
        var value = vec4<f16>();
        if t + r + i * apart < end {
            value = four(part, at);
        }
        put((start + r + i * apart) * TILE_PITCH + c, value);
        at += apart * (part.rows.y / 4u);
    }
}

// Loads matrices of a unit's own positions, which are among those from `t` on: positions down, channels across, beginning
// with chunk `first`, after whose last chunk the first one follows.
fn load_own(
    own: ptr<function, array<MatrixA, CHUNKS * PARTS>>,
    part: Part,
    t: u32,
    first: u32,
    unit: u32,
    local: u32,
) {
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
        workgroupBarrier();
        fill(0u, OWN, part, t, (first + chunk) % CHUNKS * CHANNELS, local);
        workgroupBarrier();
        for (var c = 0u; c < PARTS; c++) {
            let at = unit * M * TILE_PITCH + c * (K / 4u);
            (*own)[chunk * PARTS + c] =
                coopLoadT<MatrixA>(&tiles[at * (4u / WIDTH)], TILE_PITCH * (4u / WIDTH));
        }
    }
}

// Returns others from `start + o` K on down, channels from `c` N on across.
fn others_matrix(start: u32, o: u32, c: u32) -> MatrixB {
    let at = (start + o * K) * TILE_PITCH + c * (N / 4u);
    return coopLoadT<MatrixB>(&tiles[at * (4u / WIDTH)], TILE_PITCH * (4u / WIDTH));
}

// Returns the same, transposed.
fn others_across(start: u32, o: u32, c: u32) -> MatrixB {
    let at = (start + o * N) * TILE_PITCH + c * (K / 4u);
    return coopLoad<MatrixB>(&tiles[at * (4u / WIDTH)], TILE_PITCH * (4u / WIDTH));
}

// Returns the place of a lane's first four weights of a kind; `row` is the unit's first or the lane's.
fn weights_place(kind: u32, row: u32) -> u32 {
    return WEIGHTS + (kind * OWN + row) * WEIGHTS_PITCH;
}

// Returns a unit's own positions down, others from `o` K on across.
fn weights_matrix(kind: u32, unit: u32, o: u32) -> MatrixA {
    let at = weights_place(kind, unit * M) + o * (K / 4u);
    return coopLoadT<MatrixA>(&tiles[at * (4u / WIDTH)], WEIGHTS_PITCH * (4u / WIDTH));
}

// Returns where a unit's matrix number `o` begins in the stage.
fn stage_place(unit: u32, o: u32) -> u32 {
    return unit * M * STAGE_PITCH * 4u + o * N;
}

// Returns four neighbours in the stage.
fn staged(at: u32) -> vec4<f32> {
    return vec4(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]);
}
