// out = x · weight + bias. Operands: shared/linear_*.wgsl. Engines: shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;              // (B, T, C)
@group(0) @binding(2) var<storage, read> weight: array<vec4<weight_elem>>;    // (C, OC)
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;              // (OC)
@group(0) @binding(4) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, OC)

fn store(m: u32, n: u32, value: f32) {
    let i = m * dims.OC + n;
    out[i / 4u][i % 4u] = out_elem(value + bias[n / 4u][n % 4u]);
}

fn store_four(m: u32, n: u32, value: vec4<f32>) {
    out[(m * dims.OC + n) / 4u] = vec4<out_elem>(value + bias[n / 4u]);
}
