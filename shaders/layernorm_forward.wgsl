// out = (x - mean) · rstd · weight + bias, over the C channels of each row.
// One workgroup a row; two passes, so that the variance does not cancel.

@group(0) @binding(1) var<storage, read> x: array<f32>;                 // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<f32>;            // (C)
@group(0) @binding(3) var<storage, read> bias: array<f32>;              // (C)
@group(0) @binding(4) var<storage, read_write> out: array<out_elem>;    // (B, T, C)
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;        // (B, T)
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;        // (B, T)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.T {
        return;
    }
    let base = row * dims.C;

    var sum = 0.0;
    for (var c = local; c < dims.C; c += WG_SIZE) {
        sum += x[base + c];
    }
    let m = workgroup_sum(local, sum) / f32(dims.C);

    var squares = 0.0;
    for (var c = local; c < dims.C; c += WG_SIZE) {
        let d = x[base + c] - m;
        squares += d * d;
    }
    let r = 1.0 / sqrt(workgroup_sum(local, squares) / f32(dims.C) + dims.EPS);

    for (var c = local; c < dims.C; c += WG_SIZE) {
        out[base + c] = out_elem((x[base + c] - m) * r * weight[c] + bias[c]);
    }
    if local == 0u {
        mean[row] = m;
        rstd[row] = r;
    }
}
