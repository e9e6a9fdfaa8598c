// The tanh form of GELU, and what its gradient needs.

const GELU_SCALE = 0.7978845608028654; // sqrt(2 / pi)
const GELU_CUBIC = 0.044715;

// tanh(sqrt(2 / pi) (x + 0.044715 x^3)). Beyond 15 it is 1 in single precision; exp would overflow.
fn gelu_tanh(x: f32) -> f32 {
    let u = clamp(GELU_SCALE * (x + GELU_CUBIC * x * x * x), -15.0, 15.0);
    return 1.0 - 2.0 / (exp(2.0 * u) + 1.0);
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + gelu_tanh(x));
}
