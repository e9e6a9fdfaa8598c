// dx = dout · transpose(weight), from `out = x · weight + bias`. Tiles: shared/matmul.wgsl.

@group(0) @binding(1) var<storage, read> weight: array<weight_elem>;    // (C, OC)
@group(0) @binding(2) var<storage, read> dout: array<dout_elem>;        // (B, T, OC)
@group(0) @binding(3) var<storage, read_write> dx: array<dx_elem>;      // (B, T, C)

const A_ALONG_K = true;
const B_ALONG_K = true;

fn a_at(m: u32, k: u32) -> f32 {
    return f32(dout[m * dims.OC + k]);
}

fn b_at(k: u32, n: u32) -> f32 {
    return f32(weight[n * dims.OC + k]);
}

fn store(m: u32, n: u32, value: f32) {
    dx[m * dims.C + n] = dx_elem(value);
}

@compute @workgroup_size(MATMUL_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    matmul(group, local, dims.B * dims.T, dims.OC, dims.C);
}
