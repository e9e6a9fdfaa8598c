// uses: reduce, norm
// out = (x - mean) · rstd · weight + bias, over the C channels of each row.
// One workgroup per row; two passes, so that the variance does not cancel. See shared/norm.wgsl.

@group(0) @binding(1) var<storage, read> x: array<f32>;                 // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<f32>;            // (C)
@group(0) @binding(3) var<storage, read> bias: array<f32>;              // (C)
@group(0) @binding(4) var<storage, read_write> out: array<out_elem>;    // (B, T, C)
@group(0) @binding(5) var<storage, read_write> mean: array<vec2<f32>>;  // (B, T): m, rest
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

    var sums = vec2(0.0);
    for (var c = local; c < dims.C; c += WG_SIZE) {
        let d = x[base + c] - m;
        sums += vec2(d, d * d);
    }
    let norm = norm_of(m, workgroup_sums(local, sums));

    for (var c = local; c < dims.C; c += WG_SIZE) {
        out[base + c] = out_elem(normalized(x[base + c], norm) * weight[c] + bias[c]);
    }
    if local == 0u {
        mean[row] = vec2(norm.m, norm.rest);
        rstd[row] = norm.rstd;
    }
}
