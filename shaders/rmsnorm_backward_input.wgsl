// uses: reduce
// dx += rstd · (g - n · mean(g · n)), g = weight · dout, n = x · rstd, for `out = n · weight`. One workgroup per row.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;            // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<f32>;          // (C)
@group(0) @binding(3) var<storage, read> rstd: array<f32>;            // (B, T)
@group(0) @binding(4) var<storage, read> dout: array<dout_elem>;      // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dx: array<dx_elem>;    // (B, T, C)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.T {
        return;
    }
    let base = row * dims.C;
    let scale = rstd[row];

    var sum = 0.0;
    for (var c = local; c < dims.C; c += WG_SIZE) {
        sum += weight[c] * f32(dout[base + c]) * (f32(x[base + c]) * scale);
    }
    let mean = workgroup_sum(local, sum) / f32(dims.C);

    for (var c = local; c < dims.C; c += WG_SIZE) {
        let n = f32(x[base + c]) * scale;
        let value = scale * (weight[c] * f32(dout[base + c]) - n * mean);
        if overwrites() {
            dx[base + c] = dx_elem(value);
        } else {
            dx[base + c] = dx_elem(f32(dx[base + c]) + value);
        }
    }
}
