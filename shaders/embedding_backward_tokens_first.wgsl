// dwte[v] += Σ of dout over the rows whose token is v, for `out = wte[token] + wpe[position]`; the rows
// of dwte whose token does not occur stay unchanged.
//
// One workgroup, of which one subgroup works, per row of dout. Only the first row of a token continues: it
// adds all rows of its token, in order, each lane four channels at a time. So no row of dwte is changed by
// two workgroups, and only tokens that occur are compared.

@group(0) @binding(1) var<storage, read> tokens: array<u32>;              // (B, T)
@group(0) @binding(2) var<storage, read> dout: array<vec4<f32>>;          // (B, T, C)
@group(0) @binding(3) var<storage, read_write> dwte: array<vec4<f32>>;    // (V, C)

// Whether a row before `row` has the same token.
fn came_before(row: u32, id: u32, lane: u32, lanes: u32) -> bool {
    for (var start = 0u; start < row; start += lanes) {
        let other = start + lane;
        if subgroupAny(other < row && tokens[other] == id) {
            return true;
        }
    }
    return false;
}

// Adds to row `v` of dwte the rows of dout from `start` on whose bits are set in `bits`.
fn add_rows(v: u32, start: u32, bits: u32, lane: u32, lanes: u32) {
    let width = dims.C / 4u;
    for (var rest = bits; rest != 0u; rest &= rest - 1u) {
        let row = start + firstTrailingBit(rest);
        for (var c = lane; c < width; c += lanes) {
            dwte[v * width + c] += dout[row * width + c];
        }
    }
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    let first = group_index(group);
    let rows = dims.B * dims.T;
    if first >= rows || subgroup > 0u {
        return;
    }
    let id = tokens[first];
    let v = id - dims.START;
    if v >= dims.V || came_before(first, id, lane, lanes) {
        return;
    }
    for (var start = first; start < rows; start += lanes) {
        let row = start + lane;
        let same = subgroupBallot(row < rows && tokens[row] == id);
        add_rows(v, start, same.x, lane, lanes);
        add_rows(v, start + 32u, same.y, lane, lanes);
    }
}
