// uses: reduce
// sum = stream + branch and out = sum · rstd · weight, rstd = 1 / sqrt(mean(sum²) + EPS), over the C channels of each row.
// One workgroup per row; an invocation reads only what it wrote itself.

@group(0) @binding(1) var<storage, read> stream: array<f32>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> branch: array<branch_elem>;    // (B, T, C)
@group(0) @binding(3) var<storage, read> weight: array<f32>;            // (C)
@group(0) @binding(4) var<storage, read_write> sum: array<f32>;         // (B, T, C)
@group(0) @binding(5) var<storage, read_write> out: array<out_elem>;    // (B, T, C)
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;        // (B, T)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.T {
        return;
    }
    let base = row * dims.C;

    var squares = 0.0;
    for (var c = local; c < dims.C; c += WG_SIZE) {
        let value = stream[base + c] + f32(branch[base + c]);
        sum[base + c] = value;
        squares += value * value;
    }
    let scale = 1.0 / sqrt(workgroup_sum(local, squares) / f32(dims.C) + dims.EPS);

    for (var c = local; c < dims.C; c += WG_SIZE) {
        out[base + c] = out_elem(sum[base + c] * scale * weight[c]);
    }
    if local == 0u {
        rstd[row] = scale;
    }
}
