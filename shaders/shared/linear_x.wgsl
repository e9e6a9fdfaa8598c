// The first operand of a linear layer's output: x (B, T, C), which is (M, K). A kernel declares `x`.

const A_ALONG_K = true;

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
