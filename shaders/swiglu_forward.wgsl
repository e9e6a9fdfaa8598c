// uses: silu
// out = silu(gate) · up. One invocation per element.

@group(0) @binding(1) var<storage, read> gate: array<gate_elem>;        // (B, T, C)
@group(0) @binding(2) var<storage, read> up: array<up_elem>;            // (B, T, C)
@group(0) @binding(3) var<storage, read_write> out: array<out_elem>;    // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&out) {
        let z = f32(gate[i]);
        out[i] = out_elem(z * sigmoid(z) * f32(up[i]));
    }
}
