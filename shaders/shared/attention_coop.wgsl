// The part that attention's kernels on matrix units share.
//
// One workgroup of 4 subgroups has 4 EDGE positions of a head as its own, EDGE per subgroup, and processes
// OTHERS positions at a time, 64 channels of which go through workgroup memory. Its own positions stay in
// registers as matrices. The elements of the products of both (own positions down, others across) cannot be
// accessed in the matrices: they go through `stage` to the lanes, and come back through `weights` in half
// precision. Lanes share a subgroup's rows: lane % EDGE is the row, lane / EDGE the share.
//
// A kernel declares
//     STAGES                   the number of products per pair of positions
//     four(part, t, d)         four channels from `d` on of position `t`, 0 outside, of a part

// The rows of a head in qkv, or in dout.
struct Part {
    rows: vec2<u32>,
    of_dout: bool,
}

const OWN = 4u * EDGE;
const OTHERS = 32u;
const CHANNELS = 64u;
const INVOCATIONS = 4u * SUBGROUP;
const LANES = SUBGROUP / EDGE;          // that share a row
const ACROSS = OTHERS / EDGE;           // matrices of others, side by side
const PARTS = CHANNELS / EDGE;          // matrices of channels, side by side
// Rows are slightly longer than their contents, so that they fall into different banks.
const TILE_PITCH = CHANNELS + 8u;
const STAGE_PITCH = OTHERS + 4u;
const WEIGHTS_PITCH = OTHERS + 8u;
const SECOND = OTHERS;                  // where the others' second vectors begin in the tile

// The others' first and second vectors, or own ones before they are loaded into registers. The elements are not
// vectors of four, because Metal loads matrices only from scalars.
var<workgroup> tile: array<f16, 2u * OTHERS * TILE_PITCH>;
var<workgroup> stage: array<f32, STAGES * OWN * STAGE_PITCH>;
var<workgroup> weights: array<f16, STAGES * OWN * WEIGHTS_PITCH>;

// Stores 64 channels from `d` on of `count` positions from `t` on in the tile, from row `start` on.
fn fill(start: u32, count: u32, part: Part, t: u32, d: u32, local: u32) {
    for (var i = local; i < count * CHANNELS / 4u; i += INVOCATIONS) {
        let r = i / (CHANNELS / 4u);
        let c = 4u * (i % (CHANNELS / 4u));
        let value = four(part, t + r, d + c);
        let at = (start + r) * TILE_PITCH + c;
        tile[at] = value.x;
        tile[at + 1u] = value.y;
        tile[at + 2u] = value.z;
        tile[at + 3u] = value.w;
    }
}

// Loads matrices of a subgroup's own positions, which are among those from `t` on: positions down, 64 channels
// from `d` on across.
fn load_own(
    own: ptr<function, array<MatrixA, PARTS>>,
    part: Part,
    t: u32,
    d: u32,
    subgroup: u32,
    local: u32,
) {
    workgroupBarrier();
    fill(0u, OWN, part, t, d, local);
    workgroupBarrier();
    for (var c = 0u; c < PARTS; c++) {
        let at = subgroup * EDGE * TILE_PITCH + c * EDGE;
        (*own)[c] = coopLoadT<MatrixA>(&tile[at], TILE_PITCH);
    }
    workgroupBarrier();
}

// Returns others from `start + o` EDGE on down, channels from `c` EDGE on across.
fn others_matrix(start: u32, o: u32, c: u32) -> MatrixB {
    let at = (start + o * EDGE) * TILE_PITCH + c * EDGE;
    return coopLoadT<MatrixB>(&tile[at], TILE_PITCH);
}

// Returns the same, transposed.
fn others_across(start: u32, o: u32, c: u32) -> MatrixB {
    let at = (start + o * EDGE) * TILE_PITCH + c * EDGE;
    return coopLoad<MatrixB>(&tile[at], TILE_PITCH);
}

// Returns a subgroup's own positions down, others from `o` EDGE on across.
fn weights_matrix(which: u32, subgroup: u32, o: u32) -> MatrixA {
    let at = (which * OWN + subgroup * EDGE) * WEIGHTS_PITCH + o * EDGE;
    return coopLoadT<MatrixA>(&weights[at], WEIGHTS_PITCH);
}

// Returns where a subgroup's matrix number `o` begins in the stage.
fn stage_place(which: u32, subgroup: u32, o: u32) -> u32 {
    return (which * OWN + subgroup * EDGE) * STAGE_PITCH + o * EDGE;
}

// Returns four neighbours in the stage.
fn staged(at: u32) -> vec4<f32> {
    return vec4(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]);
}
