// The second operand of a linear layer's output: its weight (OC, C), which is (N, K). A kernel declares `weight`.

const B_ALONG_K = true;

fn b_at(k: u32, n: u32) -> f32 {
    return number_of_weight(n * dims.C + k);
}

fn b_four(k: u32, n: u32) -> vec4<f32> {
    return numbers_of_weight((n * dims.C + k) / 4u);
}
