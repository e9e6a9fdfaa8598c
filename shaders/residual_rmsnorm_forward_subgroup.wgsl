// uses: subgroup_rows
// sum = stream + branch and out = sum · rstd · weight, rstd = 1 / sqrt(mean(sum²) + EPS), over the C channels of each row.
// One subgroup per row (shared/subgroup_rows.wgsl); a lane reads only what it wrote itself.

@group(0) @binding(1) var<storage, read> stream: array<vec4<f32>>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> branch: array<vec4<branch_elem>>;    // (B, T, C)
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;            // (C)
@group(0) @binding(4) var<storage, read_write> sum: array<vec4<f32>>;         // (B, T, C)
@group(0) @binding(5) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;              // (B, T)

fn row_count() -> u32 {
    return dims.B * dims.T;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.C / 4u;
    let base = row * width;

    var squares = vec4(0.0);
    for (var c = lane; c < width; c += lanes) {
        let values = stream[base + c] + vec4<f32>(branch[base + c]);
        sum[base + c] = values;
        squares += values * values;
    }
    let scale = 1.0 / sqrt(row_sum(squares) / f32(dims.C) + dims.EPS);

    for (var c = lane; c < width; c += lanes) {
        out[base + c] = vec4<out_elem>(sum[base + c] * scale * weight[c]);
    }
    if lane == 0u {
        rstd[row] = scale;
    }
}
