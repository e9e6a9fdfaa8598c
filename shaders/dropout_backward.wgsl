// uses: threefry
// dx = dout / (1 - p) where kept, else 0, depending on the random word of (element, layer), which the forward pass
// draws as well. One invocation per element; a binding of halves may be longer than one of floats.

@group(0) @binding(1) var<storage, read> dout: array<f32>;            // (B, T, C)
@group(0) @binding(2) var<storage, read_write> dx: array<dx_elem>;    // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&dout) {
        let kept = threefry(vec2(step.seed_0, step.seed_1), vec2(i, dims.ID)) >= step.dropout;
        let scale = 1.0 / (1.0 - f32(step.dropout) / 4294967296.0);
        dx[i] = dx_elem(select(0.0, dout[i] * scale, kept));
    }
}
