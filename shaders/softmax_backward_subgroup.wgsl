// uses: subgroup_rows
// ds = p · (dp - Σ p · dp) over the first i + 1 columns of row i, 0 after them, for
// `p = exp(s) / Σ exp(s)`. One subgroup per row: shared/subgroup_rows.wgsl.

@group(0) @binding(1) var<storage, read> p: array<f32>;           // (B, NH, T, T)
@group(0) @binding(2) var<storage, read> dp: array<f32>;          // (B, NH, T, T)
@group(0) @binding(3) var<storage, read_write> ds: array<f32>;    // (B, NH, T, T)

fn row_count() -> u32 {
    return dims.B * dims.NH * dims.T;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let base = row * dims.T;
    let seen = row % dims.T + 1u;

    var dot = 0.0;
    for (var j = lane; j < seen; j += lanes) {
        dot += p[base + j] * dp[base + j];
    }
    dot = subgroupAdd(dot);

    for (var j = lane; j < dims.T; j += lanes) {
        if j < seen {
            ds[base + j] = p[base + j] * (dp[base + j] - dot);
        } else {
            ds[base + j] = 0.0;
        }
    }
}
