// The formulas of layer normalisation that use the statistics of a row. The mean has two parts, m + rest:
// src/ops/layernorm.rs explains why.

struct Norm {
    m: f32,
    rest: f32,
    rstd: f32,
}

// Computes the statistics from m, and from the sums of x - m and of its square over a row.
fn norm_of(m: f32, sums: vec2<f32>) -> Norm {
    let rest = sums.x / f32(dims.C);
    // For equal numbers, both terms are the same up to their rounding.
    let variance = max(sums.y - rest * sums.x, 0.0) / f32(dims.C);
    return Norm(m, rest, 1.0 / sqrt(variance + dims.EPS));
}

// Computes n = ((x - m) - rest) · rstd. A compiler may regroup a sum, and x - (m + rest) would lose the benefit of
// `rest`; it has no reason to move the multiplication out of this expression.
fn normalized(x: f32, norm: Norm) -> f32 {
    return fma(x - norm.m, norm.rstd, -norm.rest * norm.rstd);
}

// The same for four channels.
fn normalized_four(x: vec4<f32>, norm: Norm) -> vec4<f32> {
    return fma(x - norm.m, vec4(norm.rstd), vec4(-norm.rest * norm.rstd));
}
