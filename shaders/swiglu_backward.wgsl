// uses: silu
// dgate = dout · up · s (1 + gate (1 - s)) and dup = dout · gate · s, s = sigmoid(gate), for
// `out = silu(gate) · up`. One invocation per element.

@group(0) @binding(1) var<storage, read> gate: array<gate_elem>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> up: array<up_elem>;                // (B, T, C)
@group(0) @binding(3) var<storage, read> dout: array<dout_elem>;            // (B, T, C)
@group(0) @binding(4) var<storage, read_write> dgate: array<dgate_elem>;    // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dup: array<dup_elem>;        // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&dup) {
        let z = f32(gate[i]);
        let d = f32(dout[i]);
        let s = sigmoid(z);
        dgate[i] = dgate_elem(d * f32(up[i]) * s * (1.0 + z * (1.0 - s)));
        dup[i] = dup_elem(d * z * s);
    }
}
