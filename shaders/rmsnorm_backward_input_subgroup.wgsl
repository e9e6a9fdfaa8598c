// uses: subgroup_rows
// dx += rstd · (g - n · mean(g · n)), g = weight · dout, n = x · rstd, for `out = n · weight`. One subgroup per row:
// shared/subgroup_rows.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;          // (C)
@group(0) @binding(3) var<storage, read> rstd: array<f32>;                  // (B, T)
@group(0) @binding(4) var<storage, read> dout: array<vec4<dout_elem>>;      // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dx: array<vec4<dx_elem>>;    // (B, T, C)

fn row_count() -> u32 {
    return dims.B * dims.T;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.C / 4u;
    let base = row * width;
    let scale = rstd[row];

    var sums = vec4(0.0);
    for (var c = lane; c < width; c += lanes) {
        sums += weight[c] * vec4<f32>(dout[base + c]) * (vec4<f32>(x[base + c]) * scale);
    }
    let mean = row_sum(sums) / f32(dims.C);

    for (var c = lane; c < width; c += lanes) {
        let n = vec4<f32>(x[base + c]) * scale;
        let value = scale * (weight[c] * vec4<f32>(dout[base + c]) - n * mean);
        if overwrites() {
            dx[base + c] = vec4<dx_elem>(value);
        } else {
            dx[base + c] = vec4<dx_elem>(vec4<f32>(dx[base + c]) + value);
        }
    }
}
