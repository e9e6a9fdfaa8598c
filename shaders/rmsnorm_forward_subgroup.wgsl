// uses: subgroup_rows
// out = x · rstd · weight, rstd = 1 / sqrt(mean(x²) + EPS), over the C channels of each row. One subgroup per row:
// shared/subgroup_rows.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;              // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;            // (C)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(4) var<storage, read_write> rstd: array<f32>;              // (B, T)

fn row_count() -> u32 {
    return dims.B * dims.T;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.C / 4u;
    let base = row * width;

    var squares = vec4(0.0);
    for (var c = lane; c < width; c += lanes) {
        let values = vec4<f32>(x[base + c]);
        squares += values * values;
    }
    let scale = 1.0 / sqrt(row_sum(squares) / f32(dims.C) + dims.EPS);

    for (var c = lane; c < width; c += lanes) {
        out[base + c] = vec4<out_elem>(vec4<f32>(x[base + c]) * scale * weight[c]);
    }
    if lane == 0u {
        rstd[row] = scale;
    }
}
