//! Vector functions: plain loops that the compiler turns into the widest vectors of the machine that
//! it runs on.
//!
//! Functions here are always inlined; call them inside [`vectorized`]. Sums run in [`LANES`] lanes
//! that are added in a fixed order, on every machine alike.

use std::array;

/// Lanes of a sum.
pub const LANES: usize = 32;

/// Elements a task of an elementwise kernel works on: what the first two caches hold.
pub const CHUNK: usize = 1 << 14;

/// Runs `f` compiled for the vectors of this machine.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Rows a task of a rowwise kernel works on, for rows of `width` elements.
pub fn rows_per_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// Combines the elements of slices of one length in lanes.
#[inline(always)]
pub fn fold<const N: usize>(
    init: f32,
    xs: [&[f32]; N],
    f: impl Fn(f32, [f32; N]) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let len = xs[0].len();
    let xs = xs.map(|x| &x[..len]);
    let mut lanes = [init; LANES];
    let whole = len - len % LANES;
    for at in (0..whole).step_by(LANES) {
        let blocks: [&[f32]; N] = array::from_fn(|n| &xs[n][at..at + LANES]);
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane = f(*lane, array::from_fn(|n| blocks[n][l]));
        }
    }
    for at in whole..len {
        let lane = &mut lanes[at - whole];
        *lane = f(*lane, array::from_fn(|n| xs[n][at]));
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            lanes[l] = join(lanes[l], lanes[l + width]);
        }
    }
    lanes[0]
}

/// Σ x
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    fold(0.0, [x], |sum, [x]| sum + x, |a, b| a + b)
}

/// Σ a · b
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold(0.0, [a, b], |sum, [a, b]| a.mul_add(b, sum), |a, b| a + b)
}

/// The larger number; `a` if `b` is not a number.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest number; -∞ of none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    fold(f32::NEG_INFINITY, [x], |max, [x]| larger(max, x), larger)
}

/// `out += factor · x`
#[inline(always)]
pub fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = factor.mul_add(x, *out);
    }
}

/// The largest power of e that exp gives: 2^127.
const EXP_MAX: f32 = 88.02;
/// Below this, e^x counts as 0: 2^-126 is the smallest normal number.
const EXP_MIN: f32 = -87.33;

/// e^x, to two units in the last place.
///
/// 0 below -87.33 and e^88.02 above 88.02; NaN stays NaN. The power of two goes into the exponent's
/// bits; what is left, in ±ln 2 / 2, into the first eight terms of the series.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding this rounds to an integer, which is then found in the lowest bits.
    const ROUND: f32 = (3 << 22) as f32;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let y = if x > EXP_MAX { EXP_MAX } else { x };
    let shifted = y.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, y));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if y < EXP_MIN { 0.0 } else { p * power }
}

/// √(8/π) and the cubic term of GELU's tanh form: gelu(x) = x · σ(√(8/π) (x + 0.044715 x³)), since
/// (1 + tanh u) / 2 = σ(2u).
const GELU_SCALE: f32 = 1.595_769_1;
const GELU_CUBIC: f32 = 0.044_715;
/// Beyond this GELU is 0 or x, to the last bit.
const GELU_END: f32 = 16.0;

/// GELU in its tanh form.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let x = if x < -GELU_END { -GELU_END } else { x };
    let u = GELU_SCALE * x * (GELU_CUBIC * x).mul_add(x, 1.0);
    x / (1.0 + exp(-u))
}

/// The derivative of [`gelu`].
#[inline(always)]
pub fn gelu_slope(x: f32) -> f32 {
    let x = if x < -GELU_END { -GELU_END } else { x };
    let x = if x > GELU_END { GELU_END } else { x };
    let square = x * x;
    let u = GELU_SCALE * x * GELU_CUBIC.mul_add(square, 1.0);
    let e = exp(-u);
    let s = 1.0 / (1.0 + e);
    let slope = GELU_SCALE * (3.0 * GELU_CUBIC).mul_add(square, 1.0);
    // σ'(u) = σ (1 - σ), and 1 - σ = e σ without cancellation.
    (x * (e * s) * slope).mul_add(s, s)
}

/// `x` becomes e^(x - shift); returns the sum.
#[inline(always)]
pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp(*x - shift);
    }
    sum(x)
}

#[cfg(test)]
mod tests {
    use super::{exp, gelu, gelu_slope, vectorized};

    #[test]
    fn exp_is_exact_to_two_units() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (vectorized(|| exp(x)), f64::from(x).exp());
            let error = (f64::from(got) - want).abs() / want;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}) is {got}, want {want}");
        }
    }

    #[test]
    fn extremes_stay_numbers_and_nan_stays_nan() {
        for x in [f32::MIN, -1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30, f32::MAX] {
            let [e, g, s] = vectorized(|| [exp(x), gelu(x), gelu_slope(x)]);
            assert!(e.is_finite() && s.is_finite() && g.is_finite(), "{x}: {e} {g} {s}");
            let end = if x > 1.0 {
                [x, 1.0]
            } else if x < -1.0 {
                [0.0, 0.0]
            } else {
                [0.0, 0.5]
            };
            assert!((g - end[0]).abs() <= 1e-30 && (s - end[1]).abs() <= 1e-30, "{x}: {g} {s}");
        }
        assert_eq!(vectorized(|| exp(f32::NEG_INFINITY)), 0.0);
        for f in [exp, gelu, gelu_slope] {
            assert!(vectorized(|| f(f32::NAN)).is_nan());
        }
    }
}
