// uses: reduce
// ds = p · (dp - Σ p · dp) over the first i + 1 columns of row i, 0 after them, for
// `p = exp(s) / Σ exp(s)`. One workgroup per row.

@group(0) @binding(1) var<storage, read> p: array<f32>;           // (B, NH, T, T)
@group(0) @binding(2) var<storage, read> dp: array<f32>;          // (B, NH, T, T)
@group(0) @binding(3) var<storage, read_write> ds: array<f32>;    // (B, NH, T, T)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.NH * dims.T {
        return;
    }
    let base = row * dims.T;
    let seen = row % dims.T + 1u;

    var dot = 0.0;
    for (var j = local; j < seen; j += WG_SIZE) {
        dot += p[base + j] * dp[base + j];
    }
    dot = workgroup_sum(local, dot);

    for (var j = local; j < dims.T; j += WG_SIZE) {
        if j < seen {
            ds[base + j] = p[base + j] * (dp[base + j] - dot);
        } else {
            ds[base + j] = 0.0;
        }
    }
}
