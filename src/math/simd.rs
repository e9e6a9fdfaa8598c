//! Vector functions: plain loops that the compiler turns into the widest vectors of the machine that
//! it runs on.
//!
//! Functions here are always inlined; call them inside a `vector_fn!`. Sums run in [`LANES`] lanes that are added in a
//! fixed order, the same on every machine.

/// The number of lanes of a sum.
pub const LANES: usize = 16;

/// The numbers of a cache line.
pub const LINE: usize = 16;

/// The number of elements that a task of an elementwise kernel works on: as many as the L1 and L2 caches hold.
pub const CHUNK: usize = 1 << 14;

/// Defines a function whose body is compiled for the vectors of the machine that it runs on.
///
/// Functions that the body calls must always be inlined to be compiled for these vectors too; that is why this is a
/// macro and takes no closure, which the compiler may not inline. The lifetime is the one of all references.
macro_rules! vector_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$life:lifetime>(
        $($arg:ident: $type:ty),* $(,)?
    ) -> $out:ty $body:block) => {
        $(#[$meta])*
        $vis fn $name<$life>($($arg: $type),*) -> $out {
            struct Args<$life> {
                $($arg: $type,)*
                life: std::marker::PhantomData<&$life ()>,
            }
            impl<$life> pulp::WithSimd for Args<$life> {
                type Output = $out;

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $out {
                    let Args { $($arg,)* life: _ } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Args { $($arg,)* life: std::marker::PhantomData })
        }
    };
}
pub(crate) use vector_fn;

/// Has the cache line of a number read into the L2 cache, where the processor can; nothing waits for it.
#[inline(always)]
pub fn prefetch(x: &f32) {
    #[cfg(target_arch = "x86_64")]
    #[allow(
        unsafe_code,
        reason = "a hint, which reads nothing; products of 12 and 16 rows take 0.65 to 0.87 of the time"
    )]
    // SAFETY: every processor of this architecture has the instruction, and a reference is a valid address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(x).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// A product that is added, rounded once.
pub trait MulAdd {
    /// Returns `self * factor + summand`. WebAssembly has no instruction that rounds once, and the function in its place takes 20
    /// times as long: there it is rounded twice.
    fn fma(self, factor: Self, summand: Self) -> Self;
}

impl MulAdd for f32 {
    #[inline(always)]
    fn fma(self, factor: f32, summand: f32) -> f32 {
        if cfg!(target_family = "wasm") {
            self * factor + summand
        } else {
            self.mul_add(factor, summand)
        }
    }
}

/// Returns the number of rows that a task of a rowwise kernel works on, for rows of `width` elements.
pub fn rows_per_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// Joins lanes in a fixed order.
#[inline(always)]
pub fn join_lanes(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            lanes[l] = join(lanes[l], lanes[l + width]);
        }
    }
    lanes[0]
}

/// Combines the elements of a slice in lanes that start at `init`.
#[inline(always)]
pub fn fold(
    init: f32,
    x: &[f32],
    f: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [init; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = f(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, x);
    }
    join_lanes(lanes, join)
}

/// Computes Σ f(x), with `f(sum, x)` adding to the sum.
#[inline(always)]
pub fn sum_by(x: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    fold(0.0, x, f, |a, b| a + b)
}

/// Computes Σ f(x, y, z), with `f(sum, x, y, z)` adding to the sum.
#[inline(always)]
pub fn sum_by_3([x, y, z]: [&[f32]; 3], f: impl Fn(f32, f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (y_blocks, y_rest) = y.as_chunks::<LANES>();
    let (z_blocks, z_rest) = z.as_chunks::<LANES>();
    for ((x, y), z) in x_blocks.iter().zip(y_blocks).zip(z_blocks) {
        for (((lane, &x), &y), &z) in lanes.iter_mut().zip(x).zip(y).zip(z) {
            *lane = f(*lane, x, y, z);
        }
    }
    for (((lane, &x), &y), &z) in lanes.iter_mut().zip(x_rest).zip(y_rest).zip(z_rest) {
        *lane = f(*lane, x, y, z);
    }
    join_lanes(lanes, |a, b| a + b)
}

/// Computes Σ x.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    sum_by(x, |sum, x| sum + x)
}

/// Computes Σ (x - centre) and Σ (x - centre)², in one pass.
#[inline(always)]
pub fn sums_around(x: &[f32], centre: f32) -> [f32; 2] {
    let (mut sums, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for ((sum, square), &x) in sums.iter_mut().zip(&mut squares).zip(block) {
            let d = x - centre;
            *sum += d;
            *square = d.fma(d, *square);
        }
    }
    for ((sum, square), &x) in sums.iter_mut().zip(&mut squares).zip(rest) {
        let d = x - centre;
        *sum += d;
        *square = d.fma(d, *square);
    }
    [sums, squares].map(|lanes| join_lanes(lanes, |a, b| a + b))
}

/// Computes Σ a · b.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.fma(b, *lane);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = a.fma(b, *lane);
    }
    join_lanes(lanes, |a, b| a + b)
}

/// Returns the larger number; `a` if `b` is not a number.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Returns the largest number; -∞ if there is none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    fold(f32::NEG_INFINITY, x, larger, larger)
}

/// Computes `out += factor · x`.
#[inline(always)]
pub fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = factor.fma(x, *out);
    }
}

vector_fn! {
    /// Computes `out += x`.
    pub fn add_to<'a>(out: &'a mut [f32], x: &'a [f32]) -> () {
        add_scaled(out, 1.0, x);
    }
}

/// The largest exponent of e that `exp` uses; e^x is about 2^127 there.
const EXP_MAX: f32 = 88.02;
/// Below this, e^x counts as 0: 2^-126 is the smallest normal number.
const EXP_MIN: f32 = -87.33;

/// Computes e^x, to two units in the last place.
///
/// The result is 0 below -87.33 and e^88.02 above 88.02; NaN stays NaN. The power of two goes into the exponent's bits;
/// the remainder, in ±ln 2 / 2, goes into the first eight terms of the series.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding this rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = (3 << 22) as f32;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let y = if x > EXP_MAX { EXP_MAX } else { x };
    let shifted = y.fma(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.fma(-LN2_LOW, n.fma(-LN2_HIGH, y));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.fma(p, c);
    }
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if y < EXP_MIN { 0.0 } else { p * power }
}

/// Computes the logistic function, 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Computes cosine and sine of an angle in turns, a signed binary fraction of 64 bits.
///
/// The nearest quarter of a turn selects the function and the sign; the rest, in ±π/4, goes into Cephes' polynomials.
#[inline(always)]
pub fn cos_sin(turns: i64) -> [f32; 2] {
    const RADIANS: f32 = std::f32::consts::TAU / (1u64 << 32) as f32;
    let phase = (turns >> 32) as i32;
    let quarter = (phase.wrapping_add(1 << 29) as u32) >> 30;
    let rest = phase.wrapping_sub((quarter << 30) as i32) as f32 * RADIANS;
    let z = rest * rest;
    let s = z.fma(-1.951_529_6e-4, 8.332_161e-3).fma(z, -1.666_665_5e-1);
    let s = (rest * z).fma(s, rest);
    let c = z.fma(2.443_315_7e-5, -1.388_731_6e-3).fma(z, 4.166_664_6e-2);
    let c = (z * z).fma(c, 0.5f32.fma(-z, 1.0));
    let [x, y] = if quarter & 1 == 1 { [-s, c] } else { [c, s] };
    if quarter & 2 == 2 { [-x, -y] } else { [x, y] }
}

/// √(8/π) and the cubic term of GELU's tanh form: gelu(x) = x · σ(√(8/π) (x + 0.044715 x³)), since
/// (1 + tanh u) / 2 = σ(2u).
const GELU_SCALE: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.044_715;
/// Beyond this, GELU is 0 or x, to the last bit.
const GELU_END: f32 = 16.0;

/// Computes GELU in its tanh form.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let x = if x < -GELU_END { -GELU_END } else { x };
    let u = GELU_SCALE * x * (GELU_CUBIC * x).fma(x, 1.0);
    x / (1.0 + exp(-u))
}

/// Computes the derivative of [`gelu`].
#[inline(always)]
pub fn gelu_slope(x: f32) -> f32 {
    let x = if x < -GELU_END { -GELU_END } else { x };
    let x = if x > GELU_END { GELU_END } else { x };
    let square = x * x;
    let u = GELU_SCALE * x * GELU_CUBIC.fma(square, 1.0);
    let e = exp(-u);
    let s = 1.0 / (1.0 + e);
    let slope = GELU_SCALE * (3.0 * GELU_CUBIC).fma(square, 1.0);
    // σ'(u) = σ (1 - σ), and 1 - σ = e σ without cancellation.
    (x * (e * s) * slope).fma(s, s)
}

/// Replaces each `x` by e^(x - shift); returns the sum.
#[inline(always)]
pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp(*x - shift);
    }
    sum(x)
}

#[cfg(test)]
mod tests {
    use super::{cos_sin, exp, gelu, gelu_slope};

    vector_fn! {
        fn cos_sin_of<'a>(turns: &'a i64) -> [f32; 2] {
            cos_sin(*turns)
        }
    }

    vector_fn! {
        /// Computes [`exp`], [`gelu`] and [`gelu_slope`] of one number.
        fn functions<'a>(x: &'a f32) -> [f32; 3] {
            [exp(*x), gelu(*x), gelu_slope(*x)]
        }
    }

    #[test]
    fn exp_is_exact_to_two_units() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let ([got, ..], want) = (functions(&x), f64::from(x).exp());
            let error = (f64::from(got) - want).abs() / want;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}) is {got}, want {want}");
        }
    }

    #[test]
    fn cos_sin_are_exact_to_two_units() {
        for i in -100_000i64..100_000 {
            let turns = i.wrapping_mul(92_233_720_368_547) + 12_345;
            let angle = turns as f64 / 2f64.powi(64) * std::f64::consts::TAU;
            let (got, want) = (cos_sin_of(&turns), [angle.cos(), angle.sin()]);
            for (got, want) in got.into_iter().zip(want) {
                let error = (f64::from(got) - want).abs();
                assert!(error <= f64::from(f32::EPSILON), "{turns}: {got}, want {want}");
            }
        }
    }

    #[test]
    fn extremes_stay_numbers_and_nan_stays_nan() {
        for x in [f32::MIN, -1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30, f32::MAX] {
            let [e, g, s] = functions(&x);
            assert!(e.is_finite() && s.is_finite() && g.is_finite(), "{x}: {e} {g} {s}");
            let end = match x {
                _ if x > 1.0 => [x, 1.0],
                _ if x < -1.0 => [0.0, 0.0],
                _ => [0.0, 0.5],
            };
            assert!((g - end[0]).abs() <= 1e-30 && (s - end[1]).abs() <= 1e-30, "{x}: {g} {s}");
        }
        assert_eq!(functions(&f32::NEG_INFINITY)[0], 0.0);
        assert!(functions(&f32::NAN).iter().all(|x| x.is_nan()));
    }
}
