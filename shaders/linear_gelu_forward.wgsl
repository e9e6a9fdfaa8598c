// pre = x · weight + bias, out = gelu(pre), of what is kept of pre, from which gelu_forward may find it
// again. Engines: shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;              // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<vec4<weight_elem>>;    // (C, OC)
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;              // (OC)
@group(0) @binding(4) var<storage, read_write> pre: array<vec4<pre_elem>>;    // (B, T, OC)
@group(0) @binding(5) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, OC)

const A_ALONG_K = true;
const B_ALONG_K = false;

fn sizes() -> vec3<u32> {
    return vec3(dims.B * dims.T, dims.C, dims.OC);
}

fn strides_fit() -> bool {
    return dims.C % 4u == 0u && dims.OC % 4u == 0u;
}

fn a_at(m: u32, k: u32) -> f32 {
    let i = m * dims.C + k;
    return f32(x[i / 4u][i % 4u]);
}

fn a_four(m: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(x[(m * dims.C + k) / 4u]);
}

fn b_at(k: u32, n: u32) -> f32 {
    let i = k * dims.OC + n;
    return f32(weight[i / 4u][i % 4u]);
}

fn b_four(k: u32, n: u32) -> vec4<f32> {
    return vec4<f32>(weight[(k * dims.OC + n) / 4u]);
}

fn store(m: u32, n: u32, value: f32) {
    let i = m * dims.OC + n;
    let kept = pre_elem(value + bias[n / 4u][n % 4u]);
    pre[i / 4u][i % 4u] = kept;
    out[i / 4u][i % 4u] = out_elem(gelu(f32(kept)));
}

fn store_four(m: u32, n: u32, value: vec4<f32>) {
    let i = (m * dims.OC + n) / 4u;
    let kept = vec4<pre_elem>(value + bias[n / 4u]);
    let y = vec4<f32>(kept);
    pre[i] = kept;
    out[i] = vec4<out_elem>(vec4(gelu(y.x), gelu(y.y), gelu(y.z), gelu(y.w)));
}
