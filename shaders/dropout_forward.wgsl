// uses: threefry
// out = x / (1 - p) where kept, else 0, depending on the random word of (element, layer), which the backward pass
// draws again. One invocation per element.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;         // (B, T, C)
@group(0) @binding(2) var<storage, read_write> out: array<f32>;    // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&out) {
        let kept = threefry(vec2(step.seed_0, step.seed_1), vec2(i, dims.ID)) >= step.dropout;
        let scale = 1.0 / (1.0 - f32(step.dropout) / 4294967296.0);
        out[i] = select(0.0, f32(x[i]) * scale, kept);
    }
}
