// uses: positions
// out[b, t] = wte[tokens[b, t]] + wpe[position], for the tokens in a slice of V rows of the table from START. One workgroup
// per row.

@group(0) @binding(1) var<storage, read> tokens: array<u32>;       // (B, T)
@group(0) @binding(2) var<storage, read> starts: array<u32>;       // (B, T)
@group(0) @binding(3) var<storage, read> wte: array<stored_wte>;   // (V, C)
@group(0) @binding(4) var<storage, read> wpe: array<wpe_elem>;     // (S, C)
@group(0) @binding(5) var<storage, read_write> out: array<f32>;    // (B, T, C)

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.T {
        return;
    }
    let position = position_of(row);
    let id = tokens[row] - dims.START;
    if id >= dims.V {
        return;
    }
    for (var c = local; c < dims.C; c += 128u) {
        out[row * dims.C + c] = number_of_wte(id * dims.C + c) + f32(wpe[position * dims.C + c]);
    }
}
