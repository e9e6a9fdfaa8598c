// The part that attention's kernels on matrix units share.
//
// One workgroup of 4 subgroups has 4 EDGE positions of a head as its own, EDGE per subgroup, and processes
// OTHERS positions at a time, 64 channels of which go through workgroup memory. Its own positions stay in
// registers as matrices. The elements of the products of both (own positions down, others across) cannot be
// accessed in the matrices: they go through `stage` to the lanes, and come back as weights in half precision.
// Lanes share a subgroup's rows: lane % EDGE is the row, lane / EDGE the share; a lane has every LANES-th four of
// the row's others.
//
// A kernel declares
//     KINDS             the number of weights per pair of positions
//     four(part, at)    the vector of four channels at `at` of a part
// A variant has HEAD, the most channels of a head, 64 or 128; the elements of `tiles` are those of
// shared/coop_vectors.wgsl or coop_numbers.wgsl.

// The rows of a head in qkv, or in dout.
struct Part {
    rows: vec2<u32>,
    of_dout: bool,
}

const OWN = 4u * EDGE;
const OTHERS = 32u;
const CHANNELS = 64u;
const CHUNKS = HEAD / CHANNELS;
const INVOCATIONS = 4u * SUBGROUP;
const LANES = SUBGROUP / EDGE;          // that share a row
const FOURS = OTHERS / 4u / LANES;      // fours of others of a lane
const ACROSS = OTHERS / EDGE;           // matrices of others, side by side
const PARTS = CHANNELS / EDGE;          // matrices of channels, side by side
// Rows, in vectors of four, are slightly longer than their contents, so that they fall into different banks.
const TILE_PITCH = CHANNELS / 4u + 2u;
const STAGE_PITCH = OTHERS / 4u + 1u;
const WEIGHTS_PITCH = OTHERS / 4u + 2u;
const SECOND = OTHERS;                  // the row where the others' second vectors begin
const WEIGHTS = 2u * OTHERS * TILE_PITCH;

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

// Loads matrices of a subgroup's own positions, which are among those from `t` on: positions down, channels across,
// beginning with chunk `first`, after whose last chunk the first one follows.
fn load_own(
    own: ptr<function, array<MatrixA, CHUNKS * PARTS>>,
    part: Part,
    t: u32,
    first: u32,
    subgroup: u32,
    local: u32,
) {
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
        workgroupBarrier();
        fill(0u, OWN, part, t, (first + chunk) % CHUNKS * CHANNELS, local);
        workgroupBarrier();
        for (var c = 0u; c < PARTS; c++) {
            let at = subgroup * EDGE * TILE_PITCH + c * (EDGE / 4u);
            (*own)[chunk * PARTS + c] =
                coopLoadT<MatrixA>(&tiles[at * (4u / WIDTH)], TILE_PITCH * (4u / WIDTH));
        }
    }
}

// Returns others from `start + o` EDGE on down, channels from `c` EDGE on across.
fn others_matrix(start: u32, o: u32, c: u32) -> MatrixB {
    let at = (start + o * EDGE) * TILE_PITCH + c * (EDGE / 4u);
    return coopLoadT<MatrixB>(&tiles[at * (4u / WIDTH)], TILE_PITCH * (4u / WIDTH));
}

// Returns the same, transposed.
fn others_across(start: u32, o: u32, c: u32) -> MatrixB {
    let at = (start + o * EDGE) * TILE_PITCH + c * (EDGE / 4u);
    return coopLoad<MatrixB>(&tiles[at * (4u / WIDTH)], TILE_PITCH * (4u / WIDTH));
}

// Returns the place of a lane's first four weights of a kind; `row` is the subgroup's first or the lane's.
fn weights_place(kind: u32, row: u32) -> u32 {
    return WEIGHTS + (kind * OWN + row) * WEIGHTS_PITCH;
}

// Returns a subgroup's own positions down, others from `o` EDGE on across.
fn weights_matrix(kind: u32, subgroup: u32, o: u32) -> MatrixA {
    let at = weights_place(kind, subgroup * EDGE) + o * (EDGE / 4u);
    return coopLoadT<MatrixA>(&tiles[at * (4u / WIDTH)], WEIGHTS_PITCH * (4u / WIDTH));
}

// Returns where a subgroup's matrix number `o` begins in the stage.
fn stage_place(subgroup: u32, o: u32) -> u32 {
    return subgroup * EDGE * STAGE_PITCH * 4u + o * EDGE;
}

// Returns four neighbours in the stage.
fn staged(at: u32) -> vec4<f32> {
    return vec4(stage[at], stage[at + 1u], stage[at + 2u], stage[at + 3u]);
}
