// delta[i] = dout[i] · out[i] of each head, which every pair with query i needs. One invocation per head of
// a position, four channels at a time.

@group(0) @binding(1) var<storage, read> out: array<vec4<out_elem>>;      // (B, T, C)
@group(0) @binding(2) var<storage, read> dout: array<vec4<dout_elem>>;    // (B, T, C)
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;         // (B, NH, T)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    let row = i / dims.NH;
    let head = i % dims.NH;
    if row >= dims.B * dims.T {
        return;
    }
    let width = dims.HS / 4u;
    let start = (row * dims.NH + head) * width;
    var sum = vec4(0.0);
    for (var d = 0u; d < width; d++) {
        sum += vec4<f32>(dout[start + d]) * vec4<f32>(out[start + d]);
    }
    delta[(row / dims.T * dims.NH + head) * dims.T + row % dims.T] = dot(sum, vec4(1.0));
}
