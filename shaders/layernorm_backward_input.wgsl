// uses: reduce, norm
// dx += rstd · (g - mean(g) - n · mean(g · n)), g = weight · dout, n = (x - mean) · rstd, for
// `out = n · weight + bias`. One workgroup per row. See shared/norm.wgsl.

@group(0) @binding(1) var<storage, read> x: array<f32>;             // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<f32>;        // (C)
@group(0) @binding(3) var<storage, read> mean: array<vec2<f32>>;    // (B, T): m, rest
@group(0) @binding(4) var<storage, read> rstd: array<f32>;          // (B, T)
@group(0) @binding(5) var<storage, read> dout: array<dout_elem>;    // (B, T, C)
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;      // (B, T, C)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.T {
        return;
    }
    let base = row * dims.C;
    let norm = Norm(mean[row].x, mean[row].y, rstd[row]);

    var sums = vec2(0.0);
    for (var c = local; c < dims.C; c += WG_SIZE) {
        let g = weight[c] * f32(dout[base + c]);
        sums += vec2(g, g * normalized(x[base + c], norm));
    }
    let means = workgroup_sums(local, sums) / f32(dims.C);

    for (var c = local; c < dims.C; c += WG_SIZE) {
        let n = normalized(x[base + c], norm);
        let value = norm.rstd * (weight[c] * f32(dout[base + c]) - means.x - n * means.y);
        if overwrites() {
            dx[base + c] = value;
        } else {
            dx[base + c] += value;
        }
    }
}
