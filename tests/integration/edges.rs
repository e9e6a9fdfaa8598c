//! What happens where a definition has its edge: norms that overflow, masses that are met exactly?

use wgpt::config::Optimizer;
use wgpt::graph::Slot;
use wgpt::kernel::constants::NORM_BLOCK;
use wgpt::kernel::{Dims, Draw, Format, LossScale, Step, rows, state};
use wgpt::ops::global_norm::{self, NormViews};
use wgpt::ops::optimizer;
use wgpt::ops::sample;
use wgpt::plan::{Phase, Plan, Role, View};

use crate::common::{On, Subject, assert_relative};

/// Gradients that one workgroup reduces.
const BLOCK: usize = NORM_BLOCK as usize;

/// Elements of the first slice: two blocks of partial sums and the beginning of a third.
const FIRST: usize = 2 * BLOCK + 3;

/// Two slices of parameters with their gradients, and what an update by gradient descent needs.
struct Update {
    on: Subject,
    params: [View; 2],
    grads: [View; 2],
    norm: View,
    state: View,
}

impl Update {
    fn new(on: On) -> Update {
        let mut plan = Plan::default();
        let mut slices =
            |role, name| [FIRST, 5].map(|len| plan.buffer(role, name, len, Format::F32));
        let (params, grads) = (slices(Role::Parameters, "w"), slices(Role::Gradients, "w.grad"));
        let len = global_norm::partials_len(&grads);
        let [partials, loss, norm] = [("partials", len), ("loss", 1), ("norm", 2)]
            .map(|(name, len)| plan.buffer(Role::Staging, name, len, Format::F32));
        let state = plan.buffer(Role::Staging, "state", state::LEN, Format::U32);
        let views = NormViews { partials, loss, norm, state };
        global_norm::record(&mut plan, &grads, views, LossScale::Fixed);
        for (params, grads) in params.into_iter().zip(grads) {
            let slot = Slot { params, grads, moments: None, copy: None, decays: true };
            optimizer::record(&mut plan, Optimizer::Sgd, &slot, norm, state);
        }
        plan.end_phase(Phase::Update, 0);
        Update { on: on.backend(&plan), params, grads, norm, state }
    }

    /// Makes these gradients `x`, all others 0 and all parameters 0.25, and runs the first update; returns the
    /// norm and its factor.
    fn run(&mut self, places: [(usize, usize); 2], x: f32, step: &Step) -> [f64; 2] {
        for (slice, view) in self.grads.into_iter().enumerate() {
            let mut data = vec![0.0; view.len];
            places.iter().filter(|(of, _)| *of == slice).for_each(|(_, at)| data[*at] = x);
            self.on.write(view, &data);
        }
        self.params.iter().for_each(|view| self.on.write(*view, &vec![0.25; view.len]));
        self.on.write_u32(self.state, &[0; state::LEN]);
        self.on.run(Phase::Update, step);
        self.on.read(self.norm).try_into().expect("a norm and its factor")
    }

    /// The words of `state`.
    fn words(&mut self) -> Vec<u32> {
        self.on.read_u32(self.state)
    }

    fn params(&mut self) -> Vec<f64> {
        self.params.into_iter().flat_map(|view| self.on.read(view)).collect()
    }
}

/// Within one block, in two blocks of one slice, and in two slices.
const PAIRS: [[(usize, usize); 2]; 3] =
    [[(0, 0), (0, 1)], [(0, 1), (0, 2 * BLOCK + 1)], [(0, BLOCK), (1, 4)]];

/// Two gradients of 3e38 are finite, and their norm, 4.2e38, is not in single precision: the update is skipped.
#[test]
fn a_norm_that_overflows_skips_the_update_though_every_gradient_is_finite() {
    for on in On::all_variants() {
        let mut update = Update::new(on);
        for (i, places) in PAIRS.into_iter().enumerate() {
            for grad_clip in [0.0, 1.0] {
                let step = Step { learning_rate: 1.0, grad_clip, ..Step::default() };
                let norm = update.run(places, 3e38, &step);
                let what = format!("{on:?}, pair {i}, clipped to {grad_clip}");
                if on == On::Twins64 {
                    assert_relative(&what, norm[0], f64::from(3e38_f32) * 2_f64.sqrt(), 1e-12);
                    assert_eq!(update.words(), [1, 0, 0, 0, 0, 0, 0], "{what}: applied");
                } else {
                    assert_eq!(norm, [-1.0, 0.0], "{what}");
                    assert_eq!(update.words(), [0, 1, 1, 1, 0, 0, 0], "{what}: skipped, counted");
                    assert!(update.params().iter().all(|p| *p == 0.25), "{what}: nothing changes");
                }
            }
        }
    }
}

/// Below the least normal number some devices have zeros: an update is made all the same.
#[test]
fn gradients_that_are_hardly_numbers_skip_no_update() {
    for on in On::all_variants() {
        let mut update = Update::new(on);
        for (i, places) in PAIRS.into_iter().enumerate() {
            for x in [1e-39_f32, 1e-44] {
                let norm = update.run(places, x, &Step { learning_rate: 1.0, ..Step::default() });
                let what = format!("{on:?}, pair {i} of {x:e}: {norm:?}");
                let want = f64::from(x) * 2_f64.sqrt();
                assert!(norm[0] == 0.0 || (norm[0] / want - 1.0).abs() < 0.5, "{what}");
                assert_eq!(update.words(), [1, 0, 0, 0, 0, 0, 0], "{what}: applied");
            }
        }
    }
}

/// Squares overflow or vanish long before norms do: these are norms like any other.
#[test]
fn norms_of_very_large_and_very_small_gradients_are_right() {
    for on in On::all_variants() {
        let mut update = Update::new(on);
        for (i, places) in PAIRS.into_iter().enumerate() {
            for x in [2e38_f32, 1e30, 1e20, 1e-20, 1e-30] {
                let want = f64::from(x) * 2_f64.sqrt();
                // Half of the norm is left, if it is not small beside the 1e-6 that joins it where it clips.
                let (grad_clip, left) = if x > 1.0 { (want / 2.0, 0.5) } else { (0.0, 1.0) };
                let learning_rate = 4.0 / f64::from(x);
                let step = Step { grad_clip, learning_rate, ..Step::default() };
                let norm = update.run(places, x, &step);
                let what = format!("{on:?}, pair {i} of {x:e}");
                let tolerance = on.tolerance(1e-12, 5e-6, 5e-6);
                assert_relative(&what, norm[0], want, tolerance);
                assert_relative(&what, norm[1], left, tolerance);
                assert_eq!(update.words(), [1, 0, 0, 0, 0, 0, 0], "{what}");
                let moved = places.map(|(slice, at)| [0, FIRST][slice] + at);
                for (at, p) in update.params().into_iter().enumerate() {
                    let want = 0.25 - if moved.contains(&at) { 4.0 * left } else { 0.0 };
                    assert!((p - want).abs() <= 5e-5, "{what}: parameter {at} is {p}, not {want}");
                }
            }
        }
    }
}

/// The probabilities of these logits after a filter.
fn filtered(on: On, logits: &[f32], draw: &Draw) -> Vec<f64> {
    let v = logits.len();
    let mut plan = Plan::default();
    let slots = plan.buffer(Role::Staging, "slots", rows::slot::WORDS, Format::U32);
    let seen = plan.buffer(Role::Staging, "seen", v, Format::U32);
    let [input, probs] =
        ["logits", "probs"].map(|name| plan.buffer(Role::Logits, name, v, Format::F32));
    let dims = Dims { V: v as u32, T: 1, SLOTS: 1, ..Dims::default() };
    plan.push(&sample::FILTER, dims, &[slots, seen, input, probs]);
    plan.end_phase(Phase::Sample, 0);
    let mut on = on.backend(&plan);
    on.write(input, logits);
    on.write_u32(seen, &vec![0; v]);
    on.write_u32(slots, &draw.words(0));
    on.run(Phase::Sample, &Step::default());
    on.read(probs)
}

/// What is no number is seen in a block whose other gradients are 0, too: there no sum shows it.
#[test]
fn what_is_no_number_among_zeros_skips_the_update() {
    for on in On::all_variants() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut update = Update::new(on);
            let norm = update.run(
                [(0, BLOCK), (0, BLOCK)],
                x,
                &Step { learning_rate: 0.5, ..Step::default() },
            );
            assert_eq!(norm, [-1.0, 0.0], "{on:?}: {x}");
            assert_eq!(update.words()[state::SKIPPED], 1, "{on:?}: {x}");
            assert!(update.params().iter().all(|x| *x == 0.25), "{on:?}: {x}");
        }
    }
}

/// Min-p is a share of the largest probability, whatever the largest logit is.
#[test]
fn min_p_is_a_share_of_the_largest_probability() {
    for on in On::all_variants() {
        for largest in [-20.0, 0.5, 3.0] {
            let logits: Vec<f32> = (0..40).map(|i| largest - 0.5 * i as f32).collect();
            let probs = filtered(on, &logits, &Draw { min_p: 0.3, ..Draw::default() });
            // e^-1 is above 0.3, e^-1.5 is not.
            let kept = probs.iter().filter(|p| **p > 0.0).count();
            assert_eq!(kept, 3, "{on:?}: {largest}: {probs:?}");
        }
    }
}

/// A token stays while the mass before it is below p; where that is exactly p, it goes. Of 512 equals a half is
/// more than the CPU's kernel sorts at first, and more than one for each invocation of a GPU.
#[test]
fn top_p_that_is_met_exactly_keeps_no_token_more() {
    let among = |equal: usize, all: usize, x: f32| -> Vec<f32> {
        let is_equal = |i: usize| i * equal / all != (i + 1) * equal / all;
        (0..all).map(|i| if is_equal(i) { x } else { -1e4 }).collect()
    };
    let cases = [
        (among(4, 4, 1.0), 0.5, 2),
        (among(4, 4, 1.0), 0.25, 1),
        (among(4, 4, -2.0), 0.75, 3),
        (among(8, 8, 0.0), 0.25, 2),
        (among(4, 11, -3.0), 0.5, 2),
        (among(512, 1_000, 2.0), 0.5, 256),
        (among(512, 1_000, 2.0), 0.625, 320),
    ];
    for on in On::all_variants() {
        for (logits, top_p, kept) in &cases {
            let probs = filtered(on, logits, &Draw { top_p: *top_p, ..Draw::default() });
            let what = format!("{on:?}: {kept} of {} by {top_p}", logits.len());
            let equals = (0..logits.len()).filter(|v| logits[*v] > -1e4);
            let want: Vec<usize> = equals.take(*kept).collect();
            let got: Vec<usize> = (0..probs.len()).filter(|v| probs[*v] > 0.0).collect();
            assert_eq!(got, want, "{what}: the first of the equals");
            let each = 1.0 / *kept as f64;
            assert!(got.iter().all(|v| (probs[*v] - each).abs() <= 1e-6), "{what}: {probs:?}");
        }
    }
}
