// The second operand of a linear layer's output: its weight (C, OC), which is (K, N). A kernel declares `weight`.

const B_ALONG_K = false;

fn b_at(k: u32, n: u32) -> f32 {
    let i = k * dims.OC + n;
    return f32(weight[i / 4u][i % 4u]);
}

fn b_four(k: u32, n: u32) -> vec4<f32> {
    return vec4<f32>(weight[(k * dims.OC + n) / 4u]);
}
