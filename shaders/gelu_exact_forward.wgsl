// uses: gelu_exact
// out = gelu(x), in its exact form. One invocation per element.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;              // (B, T, C)
@group(0) @binding(2) var<storage, read_write> out: array<out_elem>;    // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&out) {
        out[i] = out_elem(gelu_exact(f32(x[i])));
    }
}
