// uses: gelu_exact
// dx = dout · gelu'(x), for `out = gelu(x)` in its exact form. One workgroup per 1024 elements: each invocation processes
// four at a time.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> dout: array<vec4<dout_elem>>;      // (B, T, C)
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<dx_elem>>;    // (B, T, C)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let start = group_index(group) * 256u;
    let end = min(start + 256u, arrayLength(&dx));
    for (var i = start + local; i < end; i += 64u) {
        dx[i] = vec4<dx_elem>(vec4<f32>(dout[i]) * gelu_exact_slope_four(vec4<f32>(x[i])));
    }
}
