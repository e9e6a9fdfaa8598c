// dwpe[t] += Σ over the batch of dout[b, t], for `out = wte[token] + wpe[t]`; positions past T get
// no contribution. One invocation per element of the table.

@group(0) @binding(1) var<storage, read> dout: array<f32>;          // (B, T, C)
@group(0) @binding(2) var<storage, read_write> dwpe: array<f32>;    // (S, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i >= arrayLength(&dwpe) {
        return;
    }
    let t = i / dims.C;
    let c = i % dims.C;
    var sum = 0.0;
    if t < dims.T {
        for (var b = 0u; b < dims.B; b++) {
            sum += dout[(b * dims.T + t) * dims.C + c];
        }
    }
    if overwrites() {
        dwpe[i] = sum;
    } else {
        dwpe[i] += sum;
    }
}
