// dbranch = dout, for `out = stream + branch`; the stream's gradient is dout itself. One invocation
// per element.

@group(0) @binding(1) var<storage, read> dout: array<f32>;             // (B, T, C)
@group(0) @binding(2) var<storage, read_write> dbranch: array<f32>;    // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&dbranch) {
        dbranch[i] = dout[i];
    }
}
