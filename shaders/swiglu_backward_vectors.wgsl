// uses: silu
// dgate = dout · up · s (1 + gate (1 - s)) and dup = dout · gate · s, s = sigmoid(gate), for
// `out = silu(gate) · up`. One workgroup per 1024 elements: each invocation processes four at a time.

@group(0) @binding(1) var<storage, read> gate: array<vec4<gate_elem>>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> up: array<vec4<up_elem>>;                // (B, T, C)
@group(0) @binding(3) var<storage, read> dout: array<vec4<dout_elem>>;            // (B, T, C)
@group(0) @binding(4) var<storage, read_write> dgate: array<vec4<dgate_elem>>;    // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dup: array<vec4<dup_elem>>;        // (B, T, C)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let start = group_index(group) * 256u;
    let end = min(start + 256u, arrayLength(&dup));
    for (var i = start + local; i < end; i += 64u) {
        let z = vec4<f32>(gate[i]);
        let d = vec4<f32>(dout[i]);
        let s = sigmoid_four(z);
        dgate[i] = vec4<dgate_elem>(d * vec4<f32>(up[i]) * s * (1.0 + z * (1.0 - s)));
        dup[i] = vec4<dup_elem>(d * z * s);
    }
}
