// uses: norm
// dweight += Σ n · dout and dbias += Σ dout over the rows, n = (x - mean) · rstd, for `out = n · weight + bias`.
// One workgroup per 16 channels: the 16 invocations of a channel share the rows. See shared/norm.wgsl.

@group(0) @binding(1) var<storage, read> x: array<f32>;                // (B, T, C)
@group(0) @binding(2) var<storage, read> mean: array<vec2<f32>>;       // (B, T): m, rest
@group(0) @binding(3) var<storage, read> rstd: array<f32>;             // (B, T)
@group(0) @binding(4) var<storage, read> dout: array<dout_elem>;       // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dweight: array<f32>;    // (C)
@group(0) @binding(6) var<storage, read_write> dbias: array<f32>;      // (C)

const CHANNELS = 16u;
const LANES = 16u;

var<workgroup> sums: array<vec2<f32>, CHANNELS * LANES>;

@compute @workgroup_size(CHANNELS * LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let c = group_index(group) * CHANNELS + local % CHANNELS;
    var sum = vec2(0.0);
    if c < dims.C {
        for (var row = local / CHANNELS; row < dims.B * dims.T; row += LANES) {
            let d = f32(dout[row * dims.C + c]);
            let norm = Norm(mean[row].x, mean[row].y, rstd[row]);
            sum += vec2(normalized(x[row * dims.C + c], norm) * d, d);
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
        dweight[c] = sums[local].x;
        dbias[c] = sums[local].y;
    } else {
        dweight[c] += sums[local].x;
        dbias[c] += sums[local].y;
    }
}
