// dx = dout · gelu'(x), from `out = 0.5 x (1 + tanh(u))`, `u = GELU_SCALE (x + GELU_CUBIC x^3)`.
// One invocation an element.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> dout: array<dout_elem>;      // (B, T, C)
@group(0) @binding(3) var<storage, read_write> dx: array<dx_elem>;    // (B, T, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < arrayLength(&dx) {
        let v = f32(x[i]);
        let t = gelu_tanh(v);
        let du = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * v * v);
        dx[i] = dx_elem(f32(dout[i]) * (0.5 * (1.0 + t) + 0.5 * v * (1.0 - t * t) * du));
    }
}
