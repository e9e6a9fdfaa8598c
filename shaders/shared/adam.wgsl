// The constants that the variants of Adam share.

// Computes 1 - exp(x) for x <= 0. Near 0 the difference would lose digits; there a series is used, whose first
// omitted term is below 2^-24 of the whole.
fn one_minus_exp(x: f32) -> f32 {
    if x < -0.5 {
        return 1.0 - exp(max(x, -80.0));
    }
    var sum = 1.0;
    for (var n = 9.0; n > 1.5; n -= 1.0) {
        sum = 1.0 + sum * x / n;
    }
    return -x * sum;
}
