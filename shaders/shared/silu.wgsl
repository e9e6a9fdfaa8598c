// The logistic function of SiLU, `silu(x) = x · sigmoid(x)`. Below -80 it is 0 to single precision, and exp would overflow.

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-max(x, -80.0)));
}

// The same for four numbers.
fn sigmoid_four(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-max(x, vec4(-80.0))));
}
