// uses: product_no_sums, product
// out (M,N) = a (M,K) · transpose(b (N,K)). Rows of `out` are LD apart and begin at START; the elements between
// them stay unchanged. Engines: shared/product_*.wgsl.

@group(0) @binding(1) var<storage, read> a: array<vec4<a_elem>>;              // (M, K)
@group(0) @binding(2) var<storage, read> b: array<stored_b>;                    // (N, K)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<out_elem>>;    // (M, LD), columns START..START + N

const A_ALONG_K = true;
const B_ALONG_K = true;

fn sizes() -> vec3<u32> {
    return vec3(dims.M, dims.K, dims.N);
}

fn strides_fit() -> bool {
    return dims.LD % 4u == 0u && dims.START % 4u == 0u && dims.K % 4u == 0u;
}

fn a_at(m: u32, k: u32) -> f32 {
    let i = m * dims.K + k;
    return f32(a[i / 4u][i % 4u]);
}

fn a_four(m: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(a[(m * dims.K + k) / 4u]);
}

fn b_at(k: u32, n: u32) -> f32 {
    return number_of_b(n * dims.K + k);
}

fn b_four(k: u32, n: u32) -> vec4<f32> {
    return numbers_of_b((n * dims.K + k) / 4u);
}

fn store(m: u32, n: u32, value: f32) {
    let i = m * dims.LD + dims.START + n;
    out[i / 4u][i % 4u] = out_elem(value);
}

fn store_four(m: u32, n: u32, value: vec4<f32>) {
    out[(m * dims.LD + dims.START + n) / 4u] = vec4<out_elem>(value);
}
