//! Is the wiring right? PyTorch's and Hugging Face's values: models, training, generation, filters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use wgpt::arch::without_prefix;
use wgpt::backend::Device;
use wgpt::config::Optimizer;
use wgpt::generate::generate;
use wgpt::kernel::{Dims, Draw, Format, Step, rows, state};
use wgpt::model::{EXTENDS, Uses};
use wgpt::ops::cross_entropy::IGNORE;
use wgpt::ops::sample;
use wgpt::plan::{Phase, Plan, Role};
use wgpt::{GenerateOptions, Gpt, TrainConfig};

use crate::common::{
    Model, On, Tensors, assert_close, assert_close_of_max, assert_relative, gpu, json, largest,
    oracle,
};

/// The model folders with expected values.
pub fn model_folders(oracle: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(oracle).expect("the oracle is there");
    let folders = folders.map(|entry| entry.expect("a readable folder").path());
    let mut folders: Vec<PathBuf> =
        folders.filter(|path| path.join("expect.safetensors").exists()).collect();
    folders.sort();
    assert!(folders.len() >= 3, "{folders:?}");
    folders
}

/// What the reference rounded to F32 can miss, where the twins in f64 are compared.
const ROUNDING: f64 = 1e-7;

#[test]
fn logits_loss_and_every_gradient() {
    for dir in model_folders(&oracle()) {
        for on in On::all() {
            compare_model(&dir, &dir, on, on.tolerance(ROUNDING, 2e-5, 1e-4));
        }
    }
}

/// Compares logits, loss and every gradient of the model in `dir` with what the folder `expected` has.
pub fn compare_model(dir: &Path, expected: &Path, on: On, gradient_tolerance: f64) {
    let expect = Tensors::open(&expected.join("expect.safetensors"));
    let shape = expect.shape("tokens");
    let (tokens, targets) = (expect.ids("tokens"), expect.ids("targets"));
    let uses = Uses {
        batch: shape[0],
        seq: shape[1],
        training: Some(Optimizer::Adamw),
        logits: true,
        ..Uses::default()
    };
    let what = |part: &str| format!("{} {on:?} {part}", dir.display());
    let mut model = Model::open(dir, uses, on);
    let loss_scale = 1.0 / tokens.len() as f64;
    let step = Step { loss_scale, ..Step::default() };
    let phases = [Phase::Forward, Phase::Logits, Phase::Backward];
    model.run_batch(&tokens, &targets, &phases, &step);

    let all = model.program.batch.and_then(|batch| batch.logits).expect("logits");
    let tolerance = on.tolerance(ROUNDING, 2e-5, 1e-4);
    assert_close_of_max(&what("logits"), &model.on.read(all), expect.get("logits"), tolerance);
    // The epsilon of a normalisation is a single on every device.
    let tolerance = on.tolerance(1e-9, 2e-6, 1e-5);
    assert_relative(&what("loss"), model.loss(), expect.get("loss")[0], tolerance);
    let mut gradients = 0;
    for name in expect.names().filter_map(|name| name.strip_prefix("grad.")) {
        let want = expect.get(&format!("grad.{name}"));
        let got = model.param(without_prefix(name), true);
        assert_close_of_max(&what(name), &got, want, gradient_tolerance);
        gradients += 1;
    }
    let all = model.program.params.len();
    let half = dir.to_string_lossy().ends_with("16");
    assert_eq!(gradients, if half { 0 } else { all }, "{}", what("gradients"));
}

/// One training run of the reference.
pub struct Trajectory {
    /// The folder of the reference's values.
    pub oracle: PathBuf,
    /// The name of its files.
    pub file: &'static str,
    /// Whether it is the file's run in two micro-batches that halve each batch.
    pub halves: bool,
}

/// The reference's settings.
pub fn settings(hyper: &Value) -> TrainConfig {
    let number = |name: &str| hyper[name].as_f64().expect("a number");
    TrainConfig {
        learning_rate: number("lr_max"),
        min_learning_rate: Some(number("lr_min")),
        warmup: Some(number("warmup_iters") as usize),
        max_iters: number("lr_decay_iters") as usize,
        beta1: number("beta1"),
        beta2: number("beta2"),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        grad_clip: number("grad_clip"),
        ..TrainConfig::default()
    }
}

/// The step of update `it`, as the reference's settings have it.
fn update_step(hyper: &Value, it: usize, lr: f64) -> Step {
    let config = settings(hyper);
    let learning_rate = config.learning_rate_at(it);
    assert_relative("learning rate", learning_rate, lr, 1e-12);
    Step {
        learning_rate,
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.eps,
        weight_decay: config.weight_decay,
        grad_clip: config.grad_clip,
        ..Step::default()
    }
}

/// Trains as the reference did, and compares every update.
pub fn follow(trajectory: &Trajectory, on: On) {
    let Trajectory { oracle, .. } = trajectory;
    let reference = json(&oracle.join(format!("{}.json", trajectory.file)));
    let tensors = Tensors::open(&oracle.join(format!("{}.safetensors", trajectory.file)));
    let hyper = &reference["hyper"];
    let shape = tensors.shape("batches.tokens");
    let (tokens, targets) = (tensors.ids("batches.tokens"), tensors.ids("batches.targets"));
    let of = if trajectory.halves { &reference["accumulated"] } else { &reference };
    let micro_batches = of["micro_batches"].as_u64().expect("a number") as usize;
    let seq = *shape.last().expect("a shape");
    let batch = tokens.len() / shape[0] / seq / micro_batches;
    let uses = Uses { batch, seq, training: Some(Optimizer::Adamw), ..Uses::default() };
    let dir = oracle.join(reference["model"].as_str().expect("a name"));
    let mut model = Model::open(&dir, uses, on);
    let update = model.program.update.expect("recorded for training");

    let steps = of["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), shape[0]);
    let rows = batch * seq;
    let mut learned = 0.0;
    for (it, want) in steps.iter().enumerate() {
        let what = |part: &str| format!("{} {on:?} step {it} {part}", trajectory.file);
        let number = |name: &str| want[name].as_f64().expect("a number");
        let step = update_step(hyper, it, number("lr"));
        learned += step.learning_rate;
        let mut before = 0.0;
        for micro in 0..micro_batches {
            let at = (it * micro_batches + micro) * rows;
            let loss_scale = 1.0 / (rows * micro_batches) as f64;
            let step = Step { accumulate: u32::from(micro > 0), loss_scale, ..step };
            let phases = [Phase::Forward, Phase::Backward];
            model.run_batch(&tokens[at..at + rows], &targets[at..at + rows], &phases, &step);
            let losses = want["micro_losses"].as_array();
            assert_eq!(losses.is_some(), micro_batches > 1, "{}", what("losses"));
            if let Some(losses) = losses {
                let loss = (model.loss() - before) * micro_batches as f64;
                before = model.loss();
                let tolerance = on.tolerance(1e-8, 1e-5, 1e-4);
                let want = losses[micro].as_f64().expect("a number");
                assert_relative(&what("micro-batch's loss"), loss, want, tolerance);
            }
        }
        model.on.run(Phase::Update, &step);
        let norm = model.on.read(update.norm);
        compare_update(&what(""), (model.loss(), norm[0]), want, on);
        let tolerance = on.tolerance(1e-7, 5e-5, 5e-4);
        assert_relative(&what("coefficient"), norm[1], number("clip_coef"), tolerance);
    }
    let words = model.on.read_u32(update.state);
    assert_eq!(words[state::APPLIED] as usize, steps.len());
    assert_eq!(words[state::SKIPPED], 0);
    let (channels, params) = (model.program.config.n_embd, model.program.params.len());
    let mut read = |name: &str| model.param(name, false);
    assert_eq!(compare_weights(&mut read, &tensors, on, (channels, learned)), params);

    // The first batch, once more, with the final weights.
    let want = reference["loss_batch0_after_training"].as_f64().expect("a number");
    let micro = reference["micro_batches"].as_u64().expect("a number") as usize;
    let of_batch = tokens.len() / shape[0] / micro;
    let mut total = 0.0;
    for at in (0..of_batch).step_by(rows) {
        let step = Step { loss_scale: 1.0 / of_batch as f64, ..Step::default() };
        let phases = [Phase::Forward, Phase::Evaluate];
        model.run_batch(&tokens[at..at + rows], &targets[at..at + rows], &phases, &step);
        total += model.loss();
    }
    let tolerance = on.tolerance(1e-7, 1e-5, 1e-4);
    assert_relative(&format!("{} at last", trajectory.file), total, want, tolerance);
}

/// Compares loss and norm of an update with a step of the reference.
pub fn compare_update(what: &str, (loss, norm): (f64, f64), want: &Value, on: On) {
    let number = |name: &str| want[name].as_f64().expect("a number");
    let tolerance = on.tolerance(1e-8, 1e-5, 1e-4);
    assert_relative(&format!("{what}loss"), loss, number("loss"), tolerance);
    let tolerance = on.tolerance(1e-7, 5e-5, 5e-4);
    assert_relative(&format!("{what}norm"), norm, number("grad_norm"), tolerance);
}

/// Compares the parameters after a trajectory of a model of so many channels, whose learning rates have the sum `learned`;
/// returns their number.
pub fn compare_weights(
    read: &mut dyn FnMut(&str) -> Vec<f64>,
    tensors: &Tensors,
    on: On,
    (channels, learned): (usize, f64),
) -> usize {
    let mut compared = 0;
    for name in tensors.names().filter_map(|name| name.strip_prefix("final.")) {
        let what = format!("{on:?} final {name}");
        let want = tensors.get(&format!("final.{name}"));
        let got = read(without_prefix(name));
        let tolerance = on.tolerance(3e-7, 1e-4, 5e-4);
        compared += 1;
        if !name.ends_with("attn.c_attn.bias") {
            assert_close(&what, &got, want, tolerance);
            continue;
        }
        // The keys' bias has no gradient but rounding, which Adam blows up to the learning rate.
        let thirds = [0..channels, channels..2 * channels, 2 * channels..3 * channels];
        for (third, bound) in thirds.into_iter().zip([tolerance, learned, tolerance]) {
            assert_close(&what, &got[third.clone()], &want[third], bound);
        }
    }
    compared
}

/// The twins are slow; those in single precision agree with the kernels.
fn trajectory(file: &'static str, halves: bool, twins: bool) {
    let wanted = |on: &On| *on != On::Twins32 && (twins || *on != On::Twins64);
    for on in On::all().into_iter().filter(wanted) {
        follow(&Trajectory { oracle: oracle(), file, halves }, on);
    }
}

#[test]
fn trajectory_a() {
    trajectory("train_trajectory_a", false, true);
}

#[test]
fn trajectory_a_in_halves() {
    trajectory("train_trajectory_a", true, true);
}

#[test]
fn trajectory_a_accumulated() {
    trajectory("train_trajectory_a_accum", false, true);
}

#[test]
fn trajectory_b() {
    trajectory("train_trajectory_b", false, false);
}

#[test]
fn trajectory_b_in_halves() {
    trajectory("train_trajectory_b", true, false);
}

#[test]
fn trajectory_b_accumulated() {
    trajectory("train_trajectory_b_accum", false, true);
}

/// The ids of a list in JSON.
pub fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("ids");
    ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Continues a prompt greedily, through the phases of the plan.
pub fn continue_greedily(model: &mut Model, case: &Value) -> Vec<u32> {
    let prompt = ids(&case["prompt"]);
    let most = case["max_new_tokens"].as_u64().expect("a number") as usize;
    let end = case["eos_token_id"].as_u64().map(|id| id as u32);
    let window = model.program.config.n_positions;
    let generation = model.program.generation.expect("recorded for generation");
    let mut tokens = prompt.clone();
    let mut cached = 0;
    for _ in 0..most {
        let start = tokens.len().saturating_sub(window);
        let seen = &tokens[start..];
        let from = if start == 0 { cached } else { 0 };
        let len = seen.len();
        let new = seen[from..].to_vec();
        model.extend(from, &new, &EXTENDS);
        cached = len;
        model.sample(len - 1, Draw { temperature: 0.0, ..Draw::default() });
        let next = model.on.read_u32(generation.sequence)[len];
        tokens.push(next);
        if Some(next) == end {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

/// The cases of greedy generation, with their kinds.
fn greedy_cases(reference: &Value) -> Vec<(&'static str, &Value)> {
    let kinds = ["greedy", "greedy_eos", "greedy_cropped"];
    let cases = kinds.into_iter().flat_map(|kind| {
        let cases = reference[kind].as_array().expect("cases");
        assert!(!cases.is_empty(), "no case of {kind}");
        cases.iter().map(move |case| (kind, case))
    });
    cases.collect()
}

/// The same cases, but one in which the window moves: a cache is of no use there, which takes twins and software drivers long.
fn few_greedy_cases(reference: &Value) -> Vec<(&'static str, &Value)> {
    let mut cases = greedy_cases(reference);
    let first = cases.iter().position(|(kind, _)| *kind == "greedy_cropped").expect("a case");
    cases.truncate(first + 1);
    cases
}

#[test]
fn greedy_generation_by_the_twins() {
    for name in ["generation_a", "generation_b"] {
        let reference = json(&oracle().join(format!("{name}.json")));
        let dir = oracle().join(reference["model"].as_str().expect("a name"));
        let uses = Uses { generation: Some(1), ..Uses::default() };
        let mut model = Model::open(&dir, uses, On::Twins64);
        for (kind, case) in few_greedy_cases(&reference) {
            if let Some(window) = case["window"].as_u64() {
                assert_eq!(window as usize, model.program.config.n_positions);
            }
            let got = continue_greedily(&mut model, case);
            assert_eq!(got, ids(&case["continuation"]), "{name} {kind}");
        }
    }
}

#[test]
fn greedy_generation() {
    let gpu = gpu().map(|device| Device::Gpu(Arc::clone(device)));
    for device in [Device::Cpu].into_iter().chain(gpu) {
        for name in ["generation_a", "generation_b"] {
            let reference = json(&oracle().join(format!("{name}.json")));
            let dir = oracle().join(reference["model"].as_str().expect("a name"));
            let mut gpt = Gpt::load(&dir, device.clone()).expect("a sound model");
            let engine = gpt.engine().expect("the device is there");
            let cases = match device {
                Device::Cpu => greedy_cases(&reference),
                Device::Gpu(_) => few_greedy_cases(&reference),
            };
            for (kind, case) in cases {
                let options = GenerateOptions {
                    max_tokens: case["max_new_tokens"].as_u64().expect("a number") as usize,
                    temperature: 0.0,
                    ..GenerateOptions::default()
                };
                let end = case["eos_token_id"].as_u64().map(|id| id as u32);
                let prompt = ids(&case["prompt"]);
                let got = generate(engine, &prompt, &options, end.as_slice(), |_| Ok(true))
                    .expect("the device is there");
                assert_eq!(got, ids(&case["continuation"]), "{name} {kind}");
            }
        }
    }
}

/// A number of the reference; those that are not finite are strings.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().expect("a number").parse().expect("a number"))
}

#[test]
fn filters() {
    let mut compared = 0;
    for name in ["generation_a", "generation_b"] {
        let reference = json(&oracle().join(format!("{name}.json")));
        for vector in reference["filters"].as_array().expect("vectors") {
            for on in On::all() {
                compared += filter_vector(vector, on);
            }
        }
    }
    assert!(compared >= 100 * On::all().len(), "{compared} cases");
}

/// Runs all cases of one vector of logits and returns their number.
fn filter_vector(vector: &Value, on: On) -> usize {
    let logits: Vec<f32> =
        vector["logits"].as_array().expect("logits").iter().map(|x| number(x) as f32).collect();
    let v = logits.len();
    let mut plan = Plan::default();
    let slots = plan.buffer(Role::Staging, "slots", rows::slot::WORDS, Format::U32);
    let seen = plan.buffer(Role::Staging, "seen", v, Format::U32);
    let input = plan.buffer(Role::Logits, "logits", v, Format::F32);
    let probs = plan.buffer(Role::Logits, "probs", v, Format::F32);
    let dims = Dims { V: v as u32, T: 1, SLOTS: 1, ..Dims::default() };
    plan.push(&sample::FILTER, dims, &[slots, seen, input, probs]);
    plan.end_phase(Phase::Sample, 0);
    let mut subject = on.backend(&plan);
    subject.write(input, &logits);
    let mut words = vec![0; v];
    ids(&vector["previous_ids"]).into_iter().for_each(|id| words[id as usize] = 1);
    subject.write_u32(seen, &words);

    let cases = vector["cases"].as_array().expect("cases");
    for case in cases {
        let setting = |name: &str, off: f64| case["settings"].get(name).map_or(off, number);
        let draw = Draw {
            repetition_penalty: setting("repetition_penalty", 1.0),
            temperature: setting("temperature", 1.0),
            top_k: setting("top_k", 0.0) as u32,
            top_p: setting("top_p", 1.0),
            min_p: setting("min_p", 0.0),
            ..Draw::default()
        };
        subject.write_u32(slots, &draw.words(0));
        subject.run(Phase::Sample, &Step::default());
        let tol_f32 = vector["tol_f32"].as_f64().expect("a tolerance");
        let what = format!("{} {on:?} {}", vector["name"], case["settings"]);
        let tolerance = on.tolerance(1e-12, tol_f32, 5.0 * tol_f32);
        compare_filtered(&what, &subject.read(probs), case, tolerance);
    }
    cases.len()
}

fn compare_filtered(what: &str, got: &[f64], case: &Value, tolerance: f64) {
    let mut want = vec![0.0; got.len()];
    let probs = case["probs"].as_array().expect("probabilities");
    for (id, p) in ids(&case["ids"]).into_iter().zip(probs) {
        want[id as usize] = number(p);
    }
    let flag = |name: &str| case.get(name).is_some_and(|flag| flag == true);
    if flag("near_boundary") {
        let kept = |p: &[f64]| p.iter().filter(|p| **p > 0.0).count();
        assert!(kept(got).abs_diff(kept(&want)) <= 1, "{what}: {got:?}");
        assert_close(what, &[got.iter().sum()], &[1.0], 1e-5);
        if kept(got) != kept(&want) {
            return;
        }
    }
    let (mut got, mut want) = (got.to_vec(), want);
    if flag("tie_ambiguous") {
        got.sort_by(f64::total_cmp);
        want.sort_by(f64::total_cmp);
    }
    assert_close(what, &got, &want, tolerance);
    // What is filtered out is exactly 0; what is left may be too small for single precision.
    for (g, w) in got.iter().zip(&want) {
        assert!(*w > 0.0 || *g == 0.0, "{what}: {g:e} is not filtered out");
        assert!(*w < 1e-30 || *g > 0.0, "{what}: {w:e} is filtered out");
    }
}

#[test]
fn perplexity_of_windows_that_do_not_overlap() {
    for name in ["perplexity_a", "perplexity_b"] {
        compare_perplexity(&oracle(), name);
    }
}

/// Compares the losses of windows that do not overlap, and the perplexity, with a file of the reference.
pub fn compare_perplexity(oracle: &Path, name: &str) {
    let reference = json(&oracle.join(format!("{name}.json")));
    let dir = oracle.join(reference["model"].as_str().expect("a name"));
    let tokens = ids(&reference["tokens"]);
    let expected = &reference["non_overlapping"];
    let windows = expected["windows"].as_array().expect("windows");
    let seq = reference["n_positions"].as_u64().expect("a number") as usize;
    for on in On::all() {
        // The twins are slow: of the last windows, one of which is short.
        let skip = if on == On::Cpu { 0 } else { windows.len().saturating_sub(3) };
        let uses = Uses { batch: 1, seq, ..Uses::default() };
        let mut model = Model::open(&dir, uses, on);
        let (mut total, mut counted) = (0.0, 0);
        for window in &windows[skip..] {
            let at = |name: &str| window[name].as_u64().expect("a number") as usize;
            let (begin, end) = (at("begin"), at("end"));
            let mut inputs = tokens[begin..end].to_vec();
            let mut targets = tokens[begin + 1..end + 1].to_vec();
            inputs.resize(seq, 0);
            targets.resize(seq, IGNORE);
            let phases = [Phase::Forward, Phase::Evaluate];
            model.run_batch(&inputs, &targets, &phases, &Step::default());
            let what = format!("{name} {on:?} window {begin}");
            let want = number(&window["nll_sum"]);
            assert_relative(&what, model.loss(), want, on.tolerance(1e-8, 1e-5, 1e-4));
            total += model.loss();
            counted += end - begin;
        }
        if skip == 0 {
            assert_eq!(counted as u64, expected["tokens_scored"].as_u64().expect("a number"));
            let perplexity = (total / counted as f64).exp();
            let want = number(&expected["perplexity"]);
            assert_relative(name, perplexity, want, on.tolerance(1e-8, 1e-5, 1e-4));
        }
    }
}

/// The comparisons themselves: they fail where they should.
#[test]
fn comparisons_fail() {
    let fails = |got: f64, want: f64| {
        std::panic::catch_unwind(|| assert_close_of_max("x", &[got], &[want], 0.1)).is_err()
    };
    assert!(!fails(1.0, 1.05));
    for (got, want) in [(1.0, 1.2), (f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, 1.0)] {
        assert!(fails(got, want), "{got} passes for {want}");
    }
    assert_eq!(largest(&[-3.0, 2.0]), 3.0);
}
