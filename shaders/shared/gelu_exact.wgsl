// The exact form of GELU, and its derivative.

// Computes the share of the normal distribution below x, from `power`, which is e^(-x^2/2).
fn normal_below(x: f32, power: f32) -> f32 {
    let ratio = 1.0 / (1.0 + 0.28284271 * abs(x));
    var sum = NORMAL_TAIL[8];
    sum = sum * ratio + NORMAL_TAIL[7];
    sum = sum * ratio + NORMAL_TAIL[6];
    sum = sum * ratio + NORMAL_TAIL[5];
    sum = sum * ratio + NORMAL_TAIL[4];
    sum = sum * ratio + NORMAL_TAIL[3];
    sum = sum * ratio + NORMAL_TAIL[2];
    sum = sum * ratio + NORMAL_TAIL[1];
    sum = sum * ratio + NORMAL_TAIL[0];
    let tail = 0.5 * ratio * sum * power;
    return select(1.0 - tail, tail, x < 0.0);
}

// Computes e^(-x^2/2). Where it would be no normal number, it counts as the smallest one.
fn normal_power(x: f32) -> f32 {
    return exp(max(-0.5 * x * x, -87.0));
}

fn gelu_exact(x: f32) -> f32 {
    return x * normal_below(x, normal_power(x));
}

// The derivative of gelu_exact; the factor is 1 / sqrt(2 pi).
fn gelu_exact_slope(x: f32) -> f32 {
    let power = normal_power(x);
    return normal_below(x, power) + 0.39894228 * x * power;
}

// The same for four numbers.
fn gelu_exact_four(x: vec4<f32>) -> vec4<f32> {
    return vec4(gelu_exact(x.x), gelu_exact(x.y), gelu_exact(x.z), gelu_exact(x.w));
}

fn gelu_exact_slope_four(x: vec4<f32>) -> vec4<f32> {
    return vec4(gelu_exact_slope(x.x), gelu_exact_slope(x.y), gelu_exact_slope(x.z), gelu_exact_slope(x.w));
}
