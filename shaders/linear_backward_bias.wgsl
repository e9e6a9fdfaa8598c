// dbias += Σ dout over the rows. One workgroup per 16 channels: the 16 invocations of a channel share the rows.

@group(0) @binding(1) var<storage, read> dout: array<dout_elem>;       // (B, T, OC)
@group(0) @binding(2) var<storage, read_write> dbias: array<f32>;      // (OC)

const CHANNELS = 16u;
const LANES = 16u;

var<workgroup> sums: array<f32, CHANNELS * LANES>;

@compute @workgroup_size(CHANNELS * LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let o = group_index(group) * CHANNELS + local % CHANNELS;
    var sum = 0.0;
    if o < dims.OC {
        for (var row = local / CHANNELS; row < dims.B * dims.T; row += LANES) {
            sum += f32(dout[row * dims.OC + o]);
        }
    }
    sums[local] = sum;
    for (var lanes = LANES / 2u; lanes > 0u; lanes /= 2u) {
        workgroupBarrier();
        if local < lanes * CHANNELS {
            sums[local] += sums[local + lanes * CHANNELS];
        }
    }
    if local >= CHANNELS || o >= dims.OC {
        return;
    }
    if overwrites() {
        dbias[o] = sums[local];
    } else {
        dbias[o] += sums[local];
    }
}
