// uses: product_no_sums, product
// dx = dout · transpose(weight), for `out = x · weight + bias`. Engines: shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> weight: array<vec4<weight_elem>>;    // (C, OC)
@group(0) @binding(2) var<storage, read> dout: array<vec4<dout_elem>>;        // (B, T, OC)
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<dx_elem>>;      // (B, T, C)

const A_ALONG_K = true;
const B_ALONG_K = true;

fn sizes() -> vec3<u32> {
    return vec3(dims.B * dims.T, dims.OC, dims.C);
}

fn strides_fit() -> bool {
    return dims.C % 4u == 0u && dims.OC % 4u == 0u;
}

fn a_at(m: u32, k: u32) -> f32 {
    let i = m * dims.OC + k;
    return f32(dout[i / 4u][i % 4u]);
}

fn a_four(m: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(dout[(m * dims.OC + k) / 4u]);
}

fn b_at(k: u32, n: u32) -> f32 {
    let i = n * dims.OC + k;
    return f32(weight[i / 4u][i % 4u]);
}

fn b_four(k: u32, n: u32) -> vec4<f32> {
    return vec4<f32>(weight[(n * dims.OC + k) / 4u]);
}

fn store(m: u32, n: u32, value: f32) {
    let i = m * dims.C + n;
    dx[i / 4u][i % 4u] = dx_elem(value);
}

fn store_four(m: u32, n: u32, value: vec4<f32>) {
    dx[(m * dims.C + n) / 4u] = vec4<dx_elem>(value);
}
