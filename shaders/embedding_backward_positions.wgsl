// uses: positions
// dwpe[p] += Σ of dout over the rows at position p of their documents, for `out = wte[token] + wpe[p]`; positions that no row
// has get no contribution. One invocation per element of the table.
//
// A row at position p lies at least p behind the start of its sequence, and two of them are more than p apart. So from a row
// before position p the next one to look at is known, and from any other it is at least p + 1 rows away: all
// positions together look at about T log T rows of a sequence, and with one document per sequence at few that have no part in it.

@group(0) @binding(1) var<storage, read> starts: array<u32>;        // (B, T)
@group(0) @binding(2) var<storage, read> dout: array<f32>;          // (B, T, C)
@group(0) @binding(3) var<storage, read_write> dwpe: array<f32>;    // (S, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i >= arrayLength(&dwpe) {
        return;
    }
    let position = i / dims.C;
    let c = i % dims.C;
    var sum = 0.0;
    for (var b = 0u; b < dims.B; b++) {
        var t = position;
        while t < dims.T {
            let row = b * dims.T + t;
            let found = position_of(row);
            if found == position {
                sum += dout[row * dims.C + c];
            }
            t += select(position + 1u, position - found, found < position);
        }
    }
    if overwrites() {
        dwpe[i] = sum;
    } else {
        dwpe[i] += sum;
    }
}
