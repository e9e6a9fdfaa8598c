// uses: linear_x, linear_in_out, product_no_sums, gelu, product
// pre = x · weight + bias, out = gelu(pre), computed from the stored value of pre, from which gelu_forward may
// recompute it. Operands: shared/linear_*.wgsl. Engines: shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;              // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<vec4<weight_elem>>;    // (C, OC)
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;              // (OC)
@group(0) @binding(4) var<storage, read_write> pre: array<vec4<pre_elem>>;    // (B, T, OC)
@group(0) @binding(5) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, OC)

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
