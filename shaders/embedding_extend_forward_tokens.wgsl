// uses: rows
// out[row] = wte[token] of rows of generation, for the tokens in a slice of V rows of the table from START; the first slice
// zeroes masked rows, for which nothing is read. One workgroup per row.

@group(0) @binding(1) var<storage, read> rows: array<u32>;         // (T, ROW_WORDS)
@group(0) @binding(2) var<storage, read> tokens: array<u32>;       // (SLOTS, S + 1)
@group(0) @binding(3) var<storage, read> wte: array<stored_wte>;   // (V, C)
@group(0) @binding(4) var<storage, read_write> out: array<f32>;    // (T, C)

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.T {
        return;
    }
    let place = place_of(row);
    if !place.inside {
        for (var c = local; c < dims.C && dims.START == 0u; c += 128u) {
            out[row * dims.C + c] = 0.0;
        }
        return;
    }
    let id = tokens[place.slot * (dims.S + 1u) + place.position] - dims.START;
    if id >= dims.V {
        return;
    }
    for (var c = local; c < dims.C; c += 128u) {
        out[row * dims.C + c] = number_of_wte(id * dims.C + c);
    }
}
