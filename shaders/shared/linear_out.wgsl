// The output of a linear layer: out (B, T, OC), which is (M, N), with its bias. A kernel declares both.

fn store(m: u32, n: u32, value: f32) {
    let i = m * dims.OC + n;
    out[i / 4u][i % 4u] = out_elem(value + bias[n / 4u][n % 4u]);
}

fn store_four(m: u32, n: u32, value: vec4<f32>) {
    out[(m * dims.OC + n) / 4u] = vec4<out_elem>(value + bias[n / 4u]);
}
