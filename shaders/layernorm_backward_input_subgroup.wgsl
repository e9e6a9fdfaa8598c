// uses: subgroup_rows, norm
// dx += rstd · (g - mean(g) - n · mean(g · n)), g = weight · dout, n = (x - mean) · rstd, for
// `out = n · weight + bias`. One subgroup per row: shared/subgroup_rows.wgsl, shared/norm.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;             // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;        // (C)
@group(0) @binding(3) var<storage, read> mean: array<vec2<f32>>;          // (B, T): m, rest
@group(0) @binding(4) var<storage, read> rstd: array<f32>;                // (B, T)
@group(0) @binding(5) var<storage, read> dout: array<vec4<dout_elem>>;    // (B, T, C)
@group(0) @binding(6) var<storage, read_write> dx: array<vec4<f32>>;      // (B, T, C)

fn row_count() -> u32 {
    return dims.B * dims.T;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.C / 4u;
    let base = row * width;
    let norm = Norm(mean[row].x, mean[row].y, rstd[row]);

    var g_sum = vec4(0.0);
    var gn_sum = vec4(0.0);
    for (var c = lane; c < width; c += lanes) {
        let g = weight[c] * vec4<f32>(dout[base + c]);
        g_sum += g;
        gn_sum += g * normalized_four(x[base + c], norm);
    }
    let g_mean = row_sum(g_sum) / f32(dims.C);
    let gn_mean = row_sum(gn_sum) / f32(dims.C);

    for (var c = lane; c < width; c += lanes) {
        let n = normalized_four(x[base + c], norm);
        let value = norm.rstd * (weight[c] * vec4<f32>(dout[base + c]) - g_mean - n * gn_mean);
        if overwrites() {
            dx[base + c] = value;
        } else {
            dx[base + c] += value;
        }
    }
}
