// out = stream + branch. One invocation per element.

@group(0) @binding(1) var<storage, read> stream: array<f32>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> branch: array<branch_elem>;    // (B, T, C)
@group(0) @binding(3) var<storage, read_write> out: array<f32>;         // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&out) {
        out[i] = stream[i] + f32(branch[i]);
    }
}
