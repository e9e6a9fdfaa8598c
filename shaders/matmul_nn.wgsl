// uses: product_no_sums, product
// out (M,N) += a (M,K) · b (K,N). Rows of `a` are LD apart and begin at START. Engines:
// shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> a: array<vec4<a_elem>>;              // (M, LD), columns START..START + K
@group(0) @binding(2) var<storage, read> b: array<vec4<b_elem>>;              // (K, N)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<out_elem>>;    // (M, N)

const A_ALONG_K = true;
const B_ALONG_K = false;

fn sizes() -> vec3<u32> {
    return vec3(dims.M, dims.K, dims.N);
}

fn strides_fit() -> bool {
    return dims.LD % 4u == 0u && dims.START % 4u == 0u && dims.N % 4u == 0u;
}

fn a_at(m: u32, k: u32) -> f32 {
    let i = m * dims.LD + dims.START + k;
    return f32(a[i / 4u][i % 4u]);
}

fn a_four(m: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(a[(m * dims.LD + dims.START + k) / 4u]);
}

fn b_at(k: u32, n: u32) -> f32 {
    let i = k * dims.N + n;
    return f32(b[i / 4u][i % 4u]);
}

fn b_four(k: u32, n: u32) -> vec4<f32> {
    return vec4<f32>(b[(k * dims.N + n) / 4u]);
}

fn store(m: u32, n: u32, value: f32) {
    let i = m * dims.N + n;
    if overwrites() {
        out[i / 4u][i % 4u] = out_elem(value);
    } else {
        out[i / 4u][i % 4u] = out_elem(f32(out[i / 4u][i % 4u]) + value);
    }
}

fn store_four(m: u32, n: u32, value: vec4<f32>) {
    let i = (m * dims.N + n) / 4u;
    if overwrites() {
        out[i] = vec4<out_elem>(value);
    } else {
        out[i] = vec4<out_elem>(vec4<f32>(out[i]) + value);
    }
}
