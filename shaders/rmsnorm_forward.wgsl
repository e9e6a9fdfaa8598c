// uses: reduce
// out = x · rstd · weight, rstd = 1 / sqrt(mean(x²) + EPS), over the C channels of each row. One workgroup per row.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;              // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<f32>;            // (C)
@group(0) @binding(3) var<storage, read_write> out: array<out_elem>;    // (B, T, C)
@group(0) @binding(4) var<storage, read_write> rstd: array<f32>;        // (B, T)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.T {
        return;
    }
    let base = row * dims.C;

    var squares = 0.0;
    for (var c = local; c < dims.C; c += WG_SIZE) {
        let value = f32(x[base + c]);
        squares += value * value;
    }
    let scale = 1.0 / sqrt(workgroup_sum(local, squares) / f32(dims.C) + dims.EPS);

    for (var c = local; c < dims.C; c += WG_SIZE) {
        out[base + c] = out_elem(f32(x[base + c]) * scale * weight[c]);
    }
    if local == 0u {
        rstd[row] = scale;
    }
}
