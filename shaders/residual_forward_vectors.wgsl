// out = stream + branch. One workgroup per 1024 elements: each invocation processes
// four at a time.

@group(0) @binding(1) var<storage, read> stream: array<vec4<f32>>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> branch: array<vec4<branch_elem>>;    // (B, T, C)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;         // (B, T, C)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let start = group_index(group) * 256u;
    let end = min(start + 256u, arrayLength(&out));
    for (var i = start + local; i < end; i += 64u) {
        out[i] = stream[i] + vec4<f32>(branch[i]);
    }
}
