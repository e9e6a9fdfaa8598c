// pre = x · weight + bias, out = gelu(pre). Tiles: shared/matmul.wgsl.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;              // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<weight_elem>;    // (C, OC)
@group(0) @binding(3) var<storage, read> bias: array<f32>;              // (OC)
@group(0) @binding(4) var<storage, read_write> pre: array<pre_elem>;    // (B, T, OC)
@group(0) @binding(5) var<storage, read_write> out: array<out_elem>;    // (B, T, OC)

const A_ALONG_K = true;
const B_ALONG_K = false;

fn a_at(m: u32, k: u32) -> f32 {
    return f32(x[m * dims.C + k]);
}

fn b_at(k: u32, n: u32) -> f32 {
    return f32(weight[k * dims.OC + n]);
}

fn store(m: u32, n: u32, value: f32) {
    let at = m * dims.OC + n;
    let y = value + bias[n];
    pre[at] = pre_elem(y);
    out[at] = out_elem(gelu(y));
}

@compute @workgroup_size(MATMUL_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    matmul(group, local, dims.B * dims.T, dims.C, dims.OC);
}
