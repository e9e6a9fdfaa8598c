use std::io::Write;

use half::bf16;
use rayon::ThreadPoolBuilder;

use super::{DEPTH, PACKED_COLUMNS, PACKED_ROWS, Way, product, product_by};
use crate::math::gemm::{Into, Matrix};

/// Numbers without a pattern, in -1..1, rounded.
fn noise(seed: u64, n: usize) -> Vec<bf16> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| bf16::from_f32(next())).collect()
}

/// A factor (rows, columns) whose numbers are those of a larger slice, and whether it is stored the other way round.
fn factor(data: &[bf16], rows: usize, cols: usize, is_transposed: bool) -> Matrix<'_, bf16> {
    match is_transposed {
        false => Matrix::new(data, rows, cols, cols + 3),
        true => Matrix::new(data, cols, rows, rows + 3).t(),
    }
}

/// The number in a row and a column of [`factor`].
fn number(data: &[bf16], [rows, cols]: [usize; 2], is_transposed: bool, [r, c]: [usize; 2]) -> f64 {
    data[if is_transposed { c * (rows + 3) + r } else { r * (cols + 3) + c }].to_f64()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Sizes of one, around those of a tile and of a task, odd sums, and beyond all that is packed at a time: M, K, N.
const SIZES: [[usize; 3]; 12] = [
    [1, 1, 1],
    [1, 2, 33],
    [3, 7, 5],
    [11, 16, 31],
    [12, 255, 32],
    [13, DEPTH, 33],
    [25, DEPTH + 1, 64],
    [97, 3, 257],
    [5, 2 * DEPTH + 3, 300],
    [200, 65, 70],
    [PACKED_ROWS + 1, 2, 3],
    [2, 3, PACKED_COLUMNS + 1],
];

/// Each layout of both factors: a · b, a · bᵀ, aᵀ · b, and aᵀ · bᵀ.
const LAYOUTS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

#[test]
fn products_are_those_of_the_rounded_numbers() {
    for [m, k, n] in SIZES {
        for [of_a, of_b] in LAYOUTS {
            let (x, y) = (noise(1, (m + 3) * (k + 3)), noise(2, (k + 3) * (n + 3)));
            let (a, b) = (factor(&x, m, k, of_a), factor(&y, k, n, of_b));
            let stride = n + 2;
            for (into, scale) in [(Into::Set, 1.0), (Into::Add, 0.5)] {
                let mut out = vec![0.25_f32; m * stride];
                product(&mut out, stride, into, a, b, scale);
                for (i, got) in out.iter().enumerate() {
                    let (r, c) = (i / stride, i % stride);
                    if c >= n {
                        assert_eq!(*got, 0.25, "nothing beside the product changes");
                        continue;
                    }
                    let terms = (0..k).map(|i| {
                        number(&x, [m, k], of_a, [r, i]) * number(&y, [k, n], of_b, [i, c])
                    });
                    let old = if into == Into::Set { 0.0 } else { 0.25 };
                    let want = f64::from(scale) * terms.clone().sum::<f64>() + old;
                    let size = terms.map(f64::abs).sum::<f64>() + old;
                    let most = size * f64::from(f32::EPSILON) * (1.0 + k as f64 / 2.0).sqrt();
                    let error = (f64::from(*got) - want).abs();
                    assert!(
                        error <= most,
                        "{m} {k} {n} {of_a} {of_b} {into:?} {r},{c}: {got}, {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn threads_and_other_rows_and_columns_change_no_bit() {
    let [m, k, n] = [230, 2 * DEPTH + 5, 600];
    let (x, y) = (noise(3, m * k), noise(4, k * n));
    let (a, b) = (Matrix::new(&x, m, k, k), Matrix::new(&y, k, n, n));
    let mut all = vec![0.0; m * n];
    product(&mut all, n, Into::Set, a, b, 1.0);
    for threads in [1, 2, 3] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        let mut out = vec![0.0; m * n];
        pool.install(|| product(&mut out, n, Into::Set, a, b, 1.0));
        assert!(bits(&out) == bits(&all), "{threads} threads");
    }
    for (row, rows, column, columns) in
        [(0, 1, 0, n), (17, 1, 5, 1), (229, 1, 599, 1), (100, 14, 31, 70)]
    {
        let mut out = vec![0.0; rows * columns];
        let (a, b) = (a.part(row..row + rows, 0..k), b.part(0..k, column..column + columns));
        product(&mut out, columns, Into::Set, a, b, 1.0);
        for (r, out) in out.chunks(columns).enumerate() {
            let want = &all[(row + r) * n + column..][..columns];
            assert!(bits(out) == bits(want), "row {} from column {column} on", row + r);
        }
    }
}

#[test]
fn empty_sums_are_zero_and_empty_products_nothing() {
    let (a, b) = (Matrix::new(&[], 3, 0, 0), Matrix::new(&[], 0, 2, 2));
    let mut out = [7.0; 6];
    product(&mut out, 2, Into::Add, a, b, 1.0);
    assert_eq!(out, [7.0; 6]);
    product(&mut out, 2, Into::Set, a, b, 1.0);
    assert_eq!(out, [0.0; 6]);
    product(&mut [], 0, Into::Set, Matrix::new(&[], 0, 3, 3), Matrix::new(&[], 3, 0, 0), 1.0);
}

/// What the manual of VDPBF16PS says, on single pairs: two roundings, the second number first, no denormal numbers.
#[test]
fn pairs_are_added_as_the_instruction_adds_them() {
    let of = |x: &[f32], y: &[f32]| {
        let [x, y] = [x, y].map(|x| x.iter().copied().map(bf16::from_f32).collect::<Vec<_>>());
        let (a, b) = (Matrix::new(&x, 1, x.len(), x.len()), Matrix::new(&y, y.len(), 1, 1));
        let mut out = [0.0_f32];
        product(&mut out, 1, Into::Set, a, b, 1.0);
        out[0]
    };
    // The second number of the second pair comes first, and 1 is lost beside it: to the nearest even number.
    let large = 2_f32.powi(24);
    assert_eq!(of(&[1.0, 0.0, -large, large], &[1.0; 4]), 0.0);
    assert_eq!(of(&[1.0, 0.0, large, -large], &[1.0; 4]), 1.0);
    // A product is rounded together with the sum: by itself, it would be infinite.
    let huge = bf16::from_f32(2e38).to_f32();
    assert_eq!(of(&[-huge, huge], &[2.0, 1.0]), -huge);
    let tiny = f32::MIN_POSITIVE;
    assert_eq!(of(&[tiny / 2.0, 0.0], &[2.0, 0.0]), 0.0, "a denormal number counts as 0");
    assert_eq!(of(&[tiny, 0.0], &[0.5, 0.0]), 0.0, "a denormal sum becomes 0");
    assert_eq!(of(&[tiny, 0.0], &[1.0, 0.0]), tiny);
}

#[test]
fn what_is_not_finite_stays_so() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = noise(5, 3 * 4);
        x[5] = bf16::from_f32(bad);
        let y = noise(6, 4 * 2);
        let mut out = [0.0; 6];
        product(&mut out, 2, Into::Set, Matrix::new(&x, 3, 4, 4), Matrix::new(&y, 4, 2, 2), 1.0);
        let is_finite = out.map(f32::is_finite);
        assert_eq!(is_finite, [true, true, false, false, true, true], "{bad}: {out:?}");
    }
}

/// The instruction, where the processor has it, and the loops.
#[test]
fn products_have_the_same_bits_by_every_way() {
    if Way::best() == Way::Loops {
        // The harness captures what the macros print.
        let said = writeln!(
            std::io::stderr(),
            "SKIPPED: this processor has no AVX-512 BF16 to compare with the loops"
        );
        return said.expect("there is a terminal, or what takes its place");
    }
    for [m, k, n] in SIZES {
        let (mut x, mut y) = (noise(7, m * k), noise(8, k * n));
        // Among all bits there are denormal numbers, infinities and what is no number.
        let bits_too = (m * k) % 2 == 1;
        for (numbers, factor) in [(&mut x, 40_503), (&mut y, 24_593)] {
            if bits_too {
                let all = |(i, x): (usize, &mut bf16)| *x = bf16::from_bits((i * factor) as u16);
                numbers.iter_mut().enumerate().for_each(all);
            }
        }
        let (a, b) = (Matrix::new(&x, m, k, k), Matrix::new(&y, k, n, n));
        let [taken, loops] = [Way::best(), Way::Loops].map(|way| {
            let mut out = vec![0.0; m * n];
            product_by(way, &mut out, n, Into::Set, [a, b], 1.0);
            out
        });
        for (i, (x, y)) in taken.iter().zip(&loops).enumerate() {
            let is_same = x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
            assert!(is_same, "{m} {k} {n}, {i}: {x} by the instruction, {y} by loops");
        }
    }
}
