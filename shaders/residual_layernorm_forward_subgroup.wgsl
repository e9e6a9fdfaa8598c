// uses: subgroup_rows, norm
// sum = stream + branch, out = (sum - mean) · rstd · weight + bias, over the C channels of each row.
// Two passes, so that the variance does not cancel. One subgroup per row: shared/subgroup_rows.wgsl,
// shared/norm.wgsl. A lane reads only those elements of `sum` that it wrote itself.

@group(0) @binding(1) var<storage, read> stream: array<vec4<f32>>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> branch: array<vec4<branch_elem>>;    // (B, T, C)
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;            // (C)
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;              // (C)
@group(0) @binding(5) var<storage, read_write> sum: array<vec4<f32>>;         // (B, T, C)
@group(0) @binding(6) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(7) var<storage, read_write> mean: array<vec2<f32>>;        // (B, T): m, rest
@group(0) @binding(8) var<storage, read_write> rstd: array<f32>;              // (B, T)

fn row_count() -> u32 {
    return dims.B * dims.T;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.C / 4u;
    let base = row * width;

    var total = vec4(0.0);
    for (var c = lane; c < width; c += lanes) {
        let joined = stream[base + c] + vec4<f32>(branch[base + c]);
        sum[base + c] = joined;
        total += joined;
    }
    let m = row_sum(total) / f32(dims.C);

    var sums = vec4(0.0);
    var squares = vec4(0.0);
    for (var c = lane; c < width; c += lanes) {
        let d = sum[base + c] - m;
        sums += d;
        squares += d * d;
    }
    let norm = norm_of(m, vec2(row_sum(sums), row_sum(squares)));

    for (var c = lane; c < width; c += lanes) {
        out[base + c] = vec4<out_elem>(normalized_four(sum[base + c], norm) * weight[c] + bias[c]);
    }
    if lane == 0u {
        mean[row] = vec2(norm.m, norm.rest);
        rstd[row] = norm.rstd;
    }
}
