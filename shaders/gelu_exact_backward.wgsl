// uses: gelu_exact
// dx = dout · gelu'(x), for `out = gelu(x)` in its exact form. One invocation per element.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> dout: array<dout_elem>;      // (B, T, C)
@group(0) @binding(3) var<storage, read_write> dx: array<dx_elem>;    // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&dx) {
        dx[i] = dx_elem(f32(dout[i]) * gelu_exact_slope(f32(x[i])));
    }
}
