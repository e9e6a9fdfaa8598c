// uses: product
// dweight += transpose(x) · dout and dbias += the column sums of dout, for `out = x · weight + bias`.
// Engines: shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;             // (B, T, C)
@group(0) @binding(2) var<storage, read> dout: array<vec4<dout_elem>>;       // (B, T, OC)
@group(0) @binding(3) var<storage, read_write> dweight: array<vec4<f32>>;    // (C, OC)
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;            // (OC)

const A_ALONG_K = false;
const B_ALONG_K = false;

fn sizes() -> vec3<u32> {
    return vec3(dims.C, dims.B * dims.T, dims.OC);
}

fn strides_fit() -> bool {
    return dims.C % 4u == 0u && dims.OC % 4u == 0u;
}

fn a_at(m: u32, k: u32) -> f32 {
    let i = k * dims.C + m;
    return f32(x[i / 4u][i % 4u]);
}

fn a_four(m: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(x[(k * dims.C + m) / 4u]);
}

fn b_at(k: u32, n: u32) -> f32 {
    let i = k * dims.OC + n;
    return f32(dout[i / 4u][i % 4u]);
}

fn b_four(k: u32, n: u32) -> vec4<f32> {
    return vec4<f32>(dout[(k * dims.OC + n) / 4u]);
}

fn store(m: u32, n: u32, value: f32) {
    let i = m * dims.OC + n;
    if overwrites() {
        dweight[i / 4u][i % 4u] = value;
    } else {
        dweight[i / 4u][i % 4u] += value;
    }
}

fn store_four(m: u32, n: u32, value: vec4<f32>) {
    let i = (m * dims.OC + n) / 4u;
    if overwrites() {
        dweight[i] = value;
    } else {
        dweight[i] += value;
    }
}

const B_SUMS = true;

fn store_sum(n: u32, sum: f32) {
    if overwrites() {
        dbias[n] = sum;
    } else {
        dbias[n] += sum;
    }
}
