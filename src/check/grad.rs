//! Finite differences against backpropagation: is the mathematics of every gradient right?
//!
//! A [`Case`] is a plan that computes one number from some inputs, and that number's gradient. In double precision the
//! twins' gradient is compared with differences of the number itself,
//!
//! ```text
//! f' = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h + O(h⁴)
//! ```
//!
//! element by element for tiny cases, along random directions for larger ones. A device's gradients are then compared
//! with those of the twins.

use std::sync::Arc;

use crate::backend::cpu::{Cpu, Use};
use crate::backend::{Backend, Device};
use crate::check::{grad_cases, sabotage};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::kernel::Step;
use crate::ops::random::threefry;
use crate::plan::{Limits, Phase, Plan, View};

/// The largest relative error of a gradient in double precision.
pub const BOUND: f64 = 1e-6;

/// The largest error of a device's gradient in single precision, relative to the largest element of its tensor.
pub const DEVICE_BOUND: f64 = 1e-4;

/// The step h of the differences.
const STEP: f64 = 1e-3;

/// Gradients below this share of their tensor's largest are compared as if they were this large:
/// a difference carries the rounding of the whole sum, not of the element.
const FLOOR: f64 = 1e-2;

/// No gradient is compared as if it were smaller than this: some are exactly zero.
const LEAST: f64 = 1e-5;

/// The result of one case: a row of the table of `wgpt grad-check`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The op, or the model.
    pub what: String,
    /// The number of elements, or random directions, that were perturbed or compared.
    pub checked: usize,
    /// The largest relative error; infinite if a value is not a number.
    pub worst: f64,
    /// The place of that error: `tensor[index]: got …, want …`.
    pub place: String,
    /// The largest error allowed.
    pub bound: f64,
    /// Whether the error is within the bound.
    pub passed: bool,
}

/// The way a case is perturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perturb {
    /// Every element of every input.
    Elements,
    /// All inputs at once, along this many random directions.
    Directions(usize),
}

/// The definition of a case's number.
#[derive(Clone, Debug)]
pub enum Objective {
    /// The dot product of this output with fixed random numbers, which are the output's gradient.
    Dot(Var),
    /// This loss, summed over the replays.
    Loss(View),
}

/// One run of a case's phases: the integers and the step that it reads.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Tokens and targets.
    pub words: Vec<(View, Vec<u32>)>,
    /// The other values that it reads.
    pub step: Step,
}

/// A number computed from some inputs, and its gradient, as a plan.
#[derive(Clone, Debug)]
pub struct Case {
    /// The op, or the model.
    pub what: String,
    /// The recording; a test may exchange a dispatch's kernel.
    pub plan: Plan,
    /// The tensors to perturb, where they have a gradient: names and places. Sliced tensors have one entry per slice.
    pub inputs: Vec<(String, Var)>,
    /// The micro-batches.
    pub replays: Vec<Replay>,
    /// The phases that compute the number.
    pub forward: Vec<Phase>,
    /// The phases that compute the gradient.
    pub backward: Vec<Phase>,
    /// The number.
    pub objective: Objective,
    /// The way the inputs are perturbed.
    pub perturb: Perturb,
}

/// Checks every op and some whole models, with the twins in double precision.
///
/// If `spoil` names a kernel, that kernel's twin is made wrong first ([`sabotage()`]), to test this check.
///
/// # Errors
///
/// If `spoil` is a kernel that no case runs.
pub fn grad_check(spoil: Option<&str>) -> Result<Vec<Row>> {
    let mut cases = grad_cases::all(Limits::NONE);
    if let Some(name) = spoil {
        let changed: usize = cases.iter_mut().map(|case| sabotage(&mut case.plan, name)).sum();
        if changed == 0 {
            return Err(Error::usage(format!("no gradient check runs a kernel {name:?}")));
        }
    }
    Ok(cases.iter().map(Case::check).collect())
}

/// Compares a device's gradients of tiny models with those of the twins in double precision.
///
/// If `spoil` names a kernel, that kernel's twin is made wrong first ([`sabotage()`]), to test this check.
///
/// # Errors
///
/// If the device fails.
pub fn grad_check_device(device: &Device, spoil: Option<&str>) -> Result<Vec<Row>> {
    let cases = grad_cases::models(device.limits());
    let compare = |case: &Case| {
        let mut backend = device.backend(Arc::new(case.plan.clone()))?;
        let mut reference = case.clone();
        spoil.into_iter().for_each(|name| {
            sabotage(&mut reference.plan, name);
        });
        reference.compare(&mut *backend)
    };
    cases.iter().map(compare).collect()
}

/// The largest error so far.
struct Worst {
    error: f64,
    place: String,
}

impl Worst {
    fn new() -> Worst {
        Worst { error: 0.0, place: String::new() }
    }

    fn see(&mut self, error: f64, place: impl FnOnce() -> String) {
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > self.error || self.place.is_empty() {
            *self = Worst { error, place: place() };
        }
    }

    fn row(self, what: &str, checked: usize, bound: f64) -> Row {
        let Worst { error: worst, place } = self;
        Row { what: what.to_owned(), checked, worst, place, bound, passed: worst <= bound }
    }
}

/// Returns numbers without a pattern, of mean 0 and deviation 1: number `i` of tensor `tensor`.
pub(super) fn noise(tensor: usize, i: usize) -> f64 {
    let [word, _] = threefry([0x6772_6164, tensor as u32], [i as u32, 0]);
    (f64::from(word) / f64::from(u32::MAX) * 2.0 - 1.0) * 3f64.sqrt()
}

/// Returns an input's initial value, large enough that a mistake in any input shows.
fn initial(name: &str, tensor: usize, i: usize) -> f32 {
    let is_norm = name.contains("ln") || name.contains("norm");
    let is_gain = is_norm && name.ends_with(".weight");
    (if is_gain { 1.0 + 0.3 * noise(tensor, i) } else { 0.4 * noise(tensor, i) }) as f32
}

impl Case {
    /// Returns a backend in double precision with the inputs in place.
    fn twins(&self) -> Cpu<f64> {
        let mut twins = Cpu::<f64>::new(Arc::new(self.plan.clone()), Use::Twins);
        self.fill(&mut twins);
        twins
    }

    /// Writes the inputs.
    fn fill(&self, backend: &mut dyn Backend) {
        for (tensor, (name, var)) in self.inputs.iter().enumerate() {
            let data: Vec<f32> = (0..var.value.len).map(|i| initial(name, tensor, i)).collect();
            backend.write(var.value, &data);
        }
    }

    fn run(&self, backend: &mut dyn Backend, phases: &[Phase], replay: &Replay) {
        for (view, words) in &replay.words {
            backend.write_u32(*view, words);
        }
        for &phase in phases {
            backend.run(self.plan.phase(phase), &replay.step);
        }
    }

    /// Returns the factor of an output's element `i`.
    fn upstream(i: usize) -> f64 {
        noise(usize::MAX, i)
    }

    /// Computes the number.
    fn value(&self, twins: &mut Cpu<f64>) -> f64 {
        let mut total = 0.0;
        for replay in &self.replays {
            self.run(twins, &self.forward, replay);
            total += match self.objective {
                Objective::Loss(loss) => twins.reals(loss)[0],
                Objective::Dot(out) => {
                    let products = twins.reals(out.value).iter().enumerate();
                    products.map(|(i, x)| x * Case::upstream(i)).sum()
                }
            };
        }
        total
    }

    /// Runs forward and backward over all replays, on the given backend.
    fn backpropagate(&self, backend: &mut dyn Backend) {
        for replay in &self.replays {
            self.run(backend, &self.forward, replay);
            if let Objective::Dot(out) = self.objective {
                let upstream = (0..out.grad.len).map(|i| Case::upstream(i) as f32);
                backend.write(out.grad, &upstream.collect::<Vec<_>>());
            }
            self.run(backend, &self.backward, replay);
        }
    }

    /// Computes the gradient of every input that has one, by backpropagation in double precision.
    fn gradients(&self, twins: &mut Cpu<f64>) -> Vec<Vec<f64>> {
        for replay in &self.replays {
            self.run(twins, &self.forward, replay);
            if let Objective::Dot(out) = self.objective {
                let upstream = twins.reals_mut(out.grad).iter_mut().enumerate();
                upstream.for_each(|(i, x)| *x = Case::upstream(i));
            }
            self.run(twins, &self.backward, replay);
        }
        let gradient = |var: &Var| var.has_grad().then(|| twins.reals(var.grad).to_vec());
        self.inputs.iter().map(|(_, var)| gradient(var).unwrap_or_default()).collect()
    }

    /// Compares finite differences with backpropagation.
    pub fn check(&self) -> Row {
        let mut twins = self.twins();
        let gradients = self.gradients(&mut twins);
        match self.perturb {
            Perturb::Elements => self.check_elements(&mut twins, &gradients),
            Perturb::Directions(n) => self.check_directions(&mut twins, &gradients, n),
        }
    }

    /// Returns the number's derivative; `at(x)` is the number with the perturbation x.
    fn difference(h: f64, mut at: impl FnMut(f64) -> f64) -> f64 {
        (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
    }

    fn check_elements(&self, twins: &mut Cpu<f64>, gradients: &[Vec<f64>]) -> Row {
        let (mut worst, mut checked) = (Worst::new(), 0);
        for ((name, var), gradient) in self.inputs.iter().zip(gradients) {
            let floor = largest(gradient) * FLOOR;
            for (i, &got) in gradient.iter().enumerate() {
                let start = twins.reals(var.value)[i];
                let want = Case::difference(STEP, |x| {
                    twins.reals_mut(var.value)[i] = start + x;
                    self.value(twins)
                });
                twins.reals_mut(var.value)[i] = start;
                let error = (got - want).abs() / got.abs().max(want.abs()).max(floor).max(LEAST);
                worst.see(error, || format!("{name}[{i}]: got {got:e}, want {want:e}"));
                checked += 1;
            }
        }
        worst.row(&self.what, checked, BOUND)
    }

    fn check_directions(&self, twins: &mut Cpu<f64>, gradients: &[Vec<f64>], n: usize) -> Row {
        let elements: usize = gradients.iter().map(Vec::len).sum();
        let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let starts: Vec<Vec<f64>> =
            self.inputs.iter().map(|(_, var)| twins.reals(var.value).to_vec()).collect();
        let mut worst = Worst::new();
        for direction in 0..n {
            let along = |tensor: usize, i: usize| {
                noise((direction + 1) << 16 | tensor, i) / (elements as f64).sqrt()
            };
            let dot = |(tensor, gradient): (usize, &Vec<f64>)| -> f64 {
                gradient.iter().enumerate().map(|(i, g)| g * along(tensor, i)).sum()
            };
            let got: f64 = gradients.iter().enumerate().map(dot).sum();
            // One unit of a direction is spread over all elements, so the step may be longer.
            let want = Case::difference(10.0 * STEP, |x| {
                let inputs = self.inputs.iter().enumerate();
                for (tensor, (_, var)) in inputs.filter(|(_, (_, var))| var.has_grad()) {
                    let values = twins.reals_mut(var.value).iter_mut().enumerate();
                    values.for_each(|(i, v)| *v = starts[tensor][i] + x * along(tensor, i));
                }
                self.value(twins)
            });
            let floor = (norm / (elements as f64).sqrt()).max(LEAST);
            let error = (got - want).abs() / got.abs().max(want.abs()).max(floor);
            worst.see(error, || format!("direction {direction}: got {got:e}, want {want:e}"));
        }
        worst.row(&self.what, n, BOUND)
    }

    /// Compares the twins' gradients with those of a backend that runs this case's plan.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn compare(&self, backend: &mut dyn Backend) -> Result<Row> {
        let want = self.gradients(&mut self.twins());
        self.fill(backend);
        self.backpropagate(backend);
        let (mut worst, mut checked) = (Worst::new(), 0);
        for ((name, var), want) in self.inputs.iter().zip(&want) {
            let mut got = vec![0.0; var.grad.len];
            backend.read(var.grad, &mut got)?;
            let scale = largest(want).max(LEAST);
            for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
                let error = (f64::from(got) - want).abs() / scale;
                worst.see(error, || format!("{name}[{i}]: got {got:e}, want {want:e}"));
                checked += 1;
            }
        }
        Ok(worst.row(&self.what, checked, DEVICE_BOUND))
    }
}

/// Returns the largest magnitude; NaN if there is a NaN.
fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m: f64, x| if x.is_nan() || m.is_nan() { f64::NAN } else { m.max(x.abs()) })
}
