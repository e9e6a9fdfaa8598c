// dweight += Σ n · dout over the rows, n = x · rstd, for `out = n · weight`. One workgroup per 16 channels: the 16
// invocations of a channel share the rows.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;             // (B, T, C)
@group(0) @binding(2) var<storage, read> rstd: array<f32>;             // (B, T)
@group(0) @binding(3) var<storage, read> dout: array<dout_elem>;       // (B, T, C)
@group(0) @binding(4) var<storage, read_write> dweight: array<f32>;    // (C)

const CHANNELS = 16u;
const LANES = 16u;

var<workgroup> sums: array<f32, CHANNELS * LANES>;

@compute @workgroup_size(CHANNELS * LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let c = group_index(group) * CHANNELS + local % CHANNELS;
    var sum = 0.0;
    if c < dims.C {
        for (var row = local / CHANNELS; row < dims.B * dims.T; row += LANES) {
            let i = row * dims.C + c;
            sum += f32(x[i]) * rstd[row] * f32(dout[i]);
        }
    }
    sums[local] = sum;
    for (var lanes = LANES / 2u; lanes > 0u; lanes /= 2u) {
        workgroupBarrier();
        if local < lanes * CHANNELS {
            sums[local] += sums[local + lanes * CHANNELS];
        }
    }
    if local >= CHANNELS || c >= dims.C {
        return;
    }
    if overwrites() {
        dweight[c] = sums[local];
    } else {
        dweight[c] += sums[local];
    }
}
