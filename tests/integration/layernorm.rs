//! Does layer normalisation keep its digits where a row's mean is large against its spread?
//!
//! A mean of 1e4 is a multiple of 1e-3 in single precision. With a spread of 0.25 every output would be off by as much
//! as a 500th if that rounded mean were all that is subtracted. The reference is the formula in double precision.

use std::sync::Arc;

use wgpt::backend::Backend;
use wgpt::backend::cpu::{Cpu, Use};
use wgpt::backend::gpu::{Choice, Gpu};
use wgpt::kernel::{Accumulate, Dims, Format, Step};
use wgpt::ops::{layernorm, residual_layernorm};
use wgpt::plan::{Phase, Plan, Role, View};

use crate::common::{full_gpu, largest};

const EPS: f32 = 1e-5;

/// What outputs and gradients may be off by, relative to the largest of what is added up to them: the twin, which adds
/// 768 numbers one after the other, is off by 7e-7.
const TOLERANCE: f64 = 2e-6;

/// The kernels over rows of one width, and their buffers.
struct Rig {
    plan: Plan,
    x: View,
    weight: View,
    bias: View,
    out: View,
    dout: View,
    dx: View,
    dweight: View,
    dbias: View,
    stream: View,
    branch: View,
    sum: View,
    joined: View,
}

impl Rig {
    fn new(rows: usize, c: usize) -> Rig {
        let mut plan = Plan::default();
        let mut real = |name, len| plan.buffer(Role::Activations, name, len, Format::F32);
        let [x, out, dout, dx] = ["x", "out", "dout", "dx"].map(|name| real(name, rows * c));
        let [stream, branch, sum, joined] =
            ["stream", "branch", "sum", "joined"].map(|name| real(name, rows * c));
        let [weight, bias, dweight, dbias] =
            ["weight", "bias", "dweight", "dbias"].map(|name| real(name, c));
        let [mean, of_sum] = ["mean", "of_sum"].map(|name| real(name, 2 * rows));
        let [rstd, rstd_of_sum] = ["rstd", "rstd_of_sum"].map(|name| real(name, rows));
        let (b, t) = (1, rows as u32);
        let dims = Dims { B: b, T: t, C: c as u32, EPS, ..Dims::default() };
        plan.push(&layernorm::FORWARD, dims, &[x, weight, bias, out, mean, rstd]);
        let args = [stream, branch, weight, bias, sum, joined, of_sum, rstd_of_sum];
        plan.push(&residual_layernorm::FORWARD, dims, &args);
        let set = Dims { ACC: Accumulate::Set as u32, ..dims };
        plan.push(&layernorm::BACKWARD_INPUT, set, &[x, weight, mean, rstd, dout, dx]);
        plan.push(&layernorm::BACKWARD_PARAMS, set, &[x, mean, rstd, dout, dweight, dbias]);
        plan.end_phase(Phase::Forward, 0);
        Rig { plan, x, weight, bias, out, dout, dx, dweight, dbias, stream, branch, sum, joined }
    }
}

/// Every implementation, by its name.
fn backends(plan: &Plan) -> Vec<(&'static str, Box<dyn Backend>)> {
    let plan = Arc::new(plan.clone());
    let cpu = |which| Box::new(Cpu::<f32>::new(Arc::clone(&plan), which)) as Box<dyn Backend>;
    let mut all = vec![("twin", cpu(Use::Twins)), ("CPU kernel", cpu(Use::Kernels))];
    if let Some(device) = full_gpu() {
        for (name, choice) in
            [("WGSL portable", Choice::Portable), ("WGSL subgroup", Choice::Named("subgroup"))]
        {
            let gpu = Gpu::with(device, Arc::clone(&plan), choice).expect("it fits the device");
            all.push((name, Box::new(gpu)));
        }
    }
    all
}

/// Numbers without a pattern, in -1..1.
fn noise(seed: u32, n: usize) -> Vec<f32> {
    let number = |i: usize| {
        let [word, _] = wgpt::ops::random::threefry([seed, 77], [i as u32, 0]);
        word as f32 / (1u32 << 31) as f32 - 1.0
    };
    (0..n).map(number).collect()
}

/// The rows of a width: what they are, and their numbers.
fn rows(c: usize) -> Vec<(&'static str, Vec<f32>)> {
    let around = |mean: f32, spread: f32, seed: u32| -> Vec<f32> {
        noise(seed, c).iter().map(|x| mean + 3f32.sqrt() * spread * x).collect()
    };
    let outlier = |at: usize, seed: u32| {
        let mut row = around(0.0, 0.25, seed);
        row[at] = 1e4;
        row
    };
    vec![
        ("mean 1e4, spread 0.25", around(1e4, 0.25, 1)),
        ("mean -1e4, spread 0.25", around(-1e4, 0.25, 2)),
        ("mean 0, spread 1", around(0.0, 1.0, 3)),
        ("mean 3, spread 1e-3", around(3.0, 1e-3, 4)),
        ("constant 1e4", vec![1e4 + 1.0 / 3.0; c]),
        ("constant 0", vec![0.0; c]),
        ("the first an outlier", outlier(0, 5)),
        ("the last an outlier", outlier(c - 1, 6)),
    ]
}

/// One row in double precision: n, and the reciprocal deviation.
fn normalized(x: &[f32]) -> (Vec<f64>, f64) {
    let (c, x) = (x.len() as f64, x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    let mean = x.iter().sum::<f64>() / c;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / c;
    let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
    (x.iter().map(|x| (x - mean) * rstd).collect(), rstd)
}

/// The largest difference, relative to `scale`; infinite if something is not a number.
fn worst(got: &[f32], want: &[f64], scale: f64) -> f64 {
    let differences = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).abs());
    let worst = differences
        .fold(0.0, |worst: f64, x| if x.is_nan() { f64::INFINITY } else { worst.max(x) });
    worst / scale.max(1e-30)
}

fn read(backend: &mut dyn Backend, view: View) -> Vec<f32> {
    let mut data = vec![0.0; view.len];
    backend.read(view, &mut data).expect("the device is there");
    data
}

/// What one width came to on one backend: the errors of y, of y after a residual sum and of dx by row, then those of
/// dweight and dbias.
fn errors(rig: &Rig, backend: &mut dyn Backend, c: usize) -> (Vec<[f64; 3]>, [f64; 2]) {
    let rows: Vec<Vec<f32>> = rows(c).into_iter().map(|(_, row)| row).collect();
    let x = rows.concat();
    let (weight, bias) = (noise(11, c), noise(12, c));
    let dout = noise(13, x.len());
    let branch: Vec<f32> = noise(14, x.len()).iter().map(|x| 0.1 * x).collect();
    let stream: Vec<f32> = x.iter().zip(&branch).map(|(x, branch)| x - branch).collect();
    let inputs = [
        (rig.x, &x),
        (rig.weight, &weight),
        (rig.bias, &bias),
        (rig.dout, &dout),
        (rig.stream, &stream),
        (rig.branch, &branch),
    ];
    inputs.iter().for_each(|(view, data)| backend.write(*view, data));
    backend.run(0..rig.plan.dispatches.len(), &Step::default());

    let sum: Vec<f32> = stream.iter().zip(&branch).map(|(a, b)| a + b).collect();
    assert_eq!(read(backend, rig.sum), sum, "the residual sum");
    let [y, joined, dx] = [rig.out, rig.joined, rig.dx].map(|view| read(backend, view));
    let output = |x: &[f32]| -> Vec<f64> {
        let scaled = normalized(x).0.into_iter().zip(&weight).zip(&bias);
        scaled.map(|((n, w), b)| n * f64::from(*w) + f64::from(*b)).collect()
    };
    let (mut dweight, mut dbias, mut size) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
    let mut by_row = vec![];
    for (row, x) in rows.iter().enumerate() {
        let at = row * c..(row + 1) * c;
        let (n, rstd) = normalized(x);
        let g: Vec<f64> = weight
            .iter()
            .zip(&dout[at.clone()])
            .map(|(w, d)| f64::from(*w) * f64::from(*d))
            .collect();
        let g_mean = g.iter().sum::<f64>() / c as f64;
        let gn_mean = g.iter().zip(&n).map(|(g, n)| g * n).sum::<f64>() / c as f64;
        let want: Vec<f64> =
            g.iter().zip(&n).map(|(g, n)| rstd * (g - g_mean - n * gn_mean)).collect();
        for (i, n) in n.iter().enumerate() {
            let d = f64::from(dout[row * c + i]);
            (dweight[i], dbias[i]) = (dweight[i] + n * d, dbias[i] + d);
            size[i] += (n * d).abs();
        }
        let (out, joint) = (output(x), output(&sum[at.clone()]));
        by_row.push([
            worst(&y[at.clone()], &out, largest(&out).max(1.0)),
            worst(&joined[at.clone()], &joint, largest(&joint).max(1.0)),
            worst(&dx[at], &want, rstd * largest(&g)),
        ]);
    }
    let params = [
        worst(&read(backend, rig.dweight), &dweight, largest(&size).max(1.0)),
        worst(&read(backend, rig.dbias), &dbias, largest(&dbias).max(1.0)),
    ];
    (by_row, params)
}

#[test]
fn digits_are_kept() {
    let mut wrong = vec![];
    for c in [1, 2, 64, 91, 97, 257, 768] {
        let kinds = rows(c);
        let rig = Rig::new(kinds.len(), c);
        for (name, mut backend) in backends(&rig.plan) {
            let (by_row, params) = errors(&rig, &mut *backend, c);
            for ((kind, _), [y, joined, dx]) in kinds.iter().zip(by_row) {
                println!(
                    "{name:13} {c:4} {kind:24} y {y:.1e}  y of a sum {joined:.1e}  dx {dx:.1e}"
                );
                if [y, joined, dx].iter().any(|error| *error > TOLERANCE) {
                    wrong.push(format!("{name}, {c} wide, {kind}: {y:e} {joined:e} {dx:e}"));
                }
            }
            println!("{name:13} {c:4} dweight {:.1e}  dbias {:.1e}", params[0], params[1]);
            if params.iter().any(|error| *error > TOLERANCE) {
                wrong.push(format!("{name}, {c} wide, dweight and dbias: {params:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "off by more than {TOLERANCE:e}:\n{}", wrong.join("\n"));
}
