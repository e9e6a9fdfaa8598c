// The tanh form of GELU, and its derivative.

// Computes tanh(sqrt(2 / pi) (x + 0.044715 x^3)). Beyond 15 it is 1 in single precision, and exp would overflow.
fn gelu_tanh(x: f32) -> f32 {
    let u = clamp(GELU_SCALE * (x + GELU_CUBIC * x * x * x), -15.0, 15.0);
    return 1.0 - 2.0 / (exp(2.0 * u) + 1.0);
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + gelu_tanh(x));
}

// The derivative of gelu, for `gelu(x) = 0.5 x (1 + tanh(u))`, `u = GELU_SCALE (x + GELU_CUBIC x^3)`.
fn gelu_slope(x: f32) -> f32 {
    let t = gelu_tanh(x);
    let du = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x);
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du;
}

// The same for four numbers.
fn gelu_four(x: vec4<f32>) -> vec4<f32> {
    return vec4(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w));
}

fn gelu_slope_four(x: vec4<f32>) -> vec4<f32> {
    return vec4(gelu_slope(x.x), gelu_slope(x.y), gelu_slope(x.z), gelu_slope(x.w));
}
