// uses: gelu_exact
// out = gelu(x), in its exact form. One workgroup per 1024 elements: each invocation processes
// four at a time.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;              // (B, T, C)
@group(0) @binding(2) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let start = group_index(group) * 256u;
    let end = min(start + 256u, arrayLength(&out));
    for (var i = start + local; i < end; i += 64u) {
        out[i] = vec4<out_elem>(gelu_exact_four(vec4<f32>(x[i])));
    }
}
