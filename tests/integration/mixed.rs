//! Is mixed precision near enough? Gradients and losses beside those of f32, the loss scale, the copies of
//! the weights.

use std::path::Path;
use std::sync::Arc;

use wgpt::arch::Family;
use wgpt::backend::Device;
use wgpt::backend::gpu::Gpu;
use wgpt::config::{Optimizer, Precision};
use wgpt::data::{Tokens, stories};
use wgpt::engine::{Engine, Tensor};
use wgpt::kernel::state::{self, GROWTH_INTERVAL, LARGEST_SCALE_LOG2};
use wgpt::kernel::{Format, Step};
use wgpt::model::{EXTENDS, Uses};
use wgpt::plan::{Limits, Phase};
use wgpt::{Event, Gpt, GptConfig, TrainConfig, Trainer};

use crate::common::{
    Model, On, Tensors, assert_close_of_max, assert_relative, full_gpu, gpu, oracle,
};
use crate::families::families_of;

/// The models of the reference that have gradients.
const MODELS: [&str; 3] = ["gpt2_tiny_a", "gpt2_tiny_b", "gpt2_tiny_c"];

/// Those of other families.
const FAMILIES: [&str; 5] = ["llama_bias", "mistral_window", "qwen2", "qwen3", "gpt_neox"];

/// A training of one of these over the reference's batch.
fn uses(expect: &Tensors) -> Uses {
    let shape = expect.shape("tokens");
    Uses {
        batch: shape[0],
        seq: shape[1],
        training: Some(Optimizer::Adamw),
        precision: Precision::Mixed,
        ..Uses::default()
    }
}

/// A model of the reference with everything that a first update needs, and its batch.
struct Ready {
    model: Model,
    tokens: Vec<u32>,
    targets: Vec<u32>,
}

impl Ready {
    fn new(dir: &Path, on: On) -> Ready {
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        let mut model = Model::open(dir, uses(&expect), on);
        model.on.run(Phase::Cast, &Step::default());
        let words = model.program.update.expect("recorded for training").state;
        model.on.write_u32(words, &state::first(model.program.loss_scale));
        Ready { model, tokens: expect.ids("tokens"), targets: expect.ids("targets") }
    }

    fn step(&self) -> Step {
        Step { loss_scale: 1.0 / self.tokens.len() as f64, learning_rate: 1e-3, ..Step::default() }
    }

    fn gradients(&mut self, step: &Step) {
        self.model.run_batch(&self.tokens, &self.targets, &[Phase::Forward, Phase::Backward], step);
    }

    /// What gradients are multiplied by.
    fn loss_scale(&self) -> f64 {
        state::loss_scale(&state::first(self.model.program.loss_scale))
    }

    fn set(&mut self, word: usize, value: u32) {
        let words = self.model.program.update.expect("recorded for training").state;
        self.model.on.write_u32(words.slice(word, 1), &[value]);
    }

    /// Makes an update and returns the words of the state after it.
    fn update(&mut self, step: &Step) -> Vec<u32> {
        let views = self.model.program.update.expect("recorded for training");
        self.model.on.run(Phase::Update, step);
        self.model.on.read_u32(views.state)
    }

    fn norm(&mut self) -> Vec<f64> {
        let view = self.model.program.update.expect("recorded for training").norm;
        self.model.on.read(view)
    }

    /// Every parameter, as bits.
    fn bits(&mut self) -> Vec<u64> {
        let names: Vec<String> =
            self.model.program.params.iter().map(|param| param.name.clone()).collect();
        let data = names.iter().flat_map(|name| self.model.param(name, false));
        data.map(f64::to_bits).collect()
    }
}

#[test]
fn gradients_are_near_those_of_f32() {
    // Half precision has 11 bits; a handful of roundings lie behind each gradient. Those of Llama's kind have weights of a larger
    // spread, and store more on the way: heads before and after the rotation, and both sides of the gate.
    let gpt2 = MODELS.iter().map(|name| (oracle().join(name), 1.0));
    let llama = FAMILIES.iter().map(|name| (families_of(name), 6.0));
    for (dir, more) in gpt2.chain(llama) {
        let name = dir.display();
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        for on in On::in_either_half() {
            let more = more * on.coarseness();
            let mut ready = Ready::new(&dir, on);
            let step = ready.step();
            ready.gradients(&step);
            let loss = expect.get("loss")[0];
            assert_relative(&format!("{name} {on:?} loss"), ready.model.loss(), loss, 1e-3 * more);
            let scale = ready.loss_scale();
            let mut squares = 0.0;
            for param in ready.model.program.params.clone().iter() {
                let family = Family::of(&ready.model.program.config);
                let want = expect.get(&format!("grad.{}", family.file_name(&param.name)));
                let got: Vec<f64> =
                    ready.model.param(&param.name, true).iter().map(|g| g / scale).collect();
                squares += want.iter().map(|g| g * g).sum::<f64>();
                let what = format!("{name} {on:?} {}", param.name);
                assert_close_of_max(&what, &got, want, 5e-3 * more);
            }
            // What is clipped and reported does not carry the scale.
            let clip = squares.sqrt() / 4.0;
            ready.update(&Step { grad_clip: clip, ..step });
            let norm = ready.norm();
            assert_relative(&format!("{name} {on:?} norm"), norm[0], squares.sqrt(), 3e-3 * more);
            assert_relative(
                &format!("{name} {on:?} coefficient"),
                norm[1] * scale,
                0.25,
                3e-3 * more,
            );
        }
    }
}

/// The errors of a model's gradients, relative to the reference by Euclidean norms.
#[derive(Debug)]
struct Errors {
    /// Of all gradients as one vector.
    all: f64,
    /// The mean of those of each tensor.
    mean: f64,
}

/// Half of the processors of a machine may have the instruction, so that both the kernels and the twins are measured. The
/// file has what PyTorch's autocast misses by; `make_autocast.py` tells how it is measured.
#[test]
fn gradients_in_bf16_are_nearly_as_good_as_those_of_autocast() {
    let file = std::fs::read(oracle().join("autocast_bf16.json")).expect("it is in the repository");
    let file: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
    let gpt2 = MODELS.iter().map(|name| (name, oracle().join(name)));
    for (name, dir) in gpt2.chain(FAMILIES.iter().map(|name| (name, families_of(name)))) {
        let theirs = |what: &str| file["errors"][name][what].as_f64().expect("a number");
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        for on in On::in_bf16() {
            let mut ready = Ready::new(&dir, on);
            let step = ready.step();
            ready.gradients(&step);
            let Errors { all, mean } = errors(&mut ready.model, &expect);
            let (of_all, of_mean) = (all / theirs("all"), mean / theirs("mean"));
            println!(
                "{name} {on:?}: {all:.5} {mean:.5}, {of_all:.2} and {of_mean:.2} of autocast's"
            );
            assert!(of_all <= 1.5 && of_mean <= 1.5, "{name} {on:?}: {all}, {mean}");
        }
    }
}

/// Returns the errors of gradients whose loss scale is 1.
fn errors(model: &mut Model, expect: &Tensors) -> Errors {
    let params = model.program.params.clone();
    let family = Family::of(&model.program.config);
    let (mut squares, mut total, mut each) = (0.0, 0.0, 0.0);
    for param in params.iter() {
        let want = expect.get(&format!("grad.{}", family.file_name(&param.name)));
        let got = model.param(&param.name, true);
        let both = || got.iter().zip(want).enumerate();
        squares += both().map(|(_, (got, want))| (got - want).powi(2)).sum::<f64>();
        total += want.iter().map(|want| want.powi(2)).sum::<f64>();
        // The gradient of the keys' bias is 0 but for rounding.
        let third = want.len() / 3;
        let is_zero =
            |i: usize| param.name.ends_with("attn.c_attn.bias") && (third..2 * third).contains(&i);
        let of_tensor = both().filter(|(i, _)| !is_zero(*i));
        let [error, size] = of_tensor.fold([0.0_f64; 2], |[error, size], (_, (got, want))| {
            [error + (got - want).powi(2), size + want.powi(2)]
        });
        each += (error / size).sqrt();
    }
    Errors { all: f64::sqrt(squares / total), mean: each / params.len() as f64 }
}

#[test]
fn an_overflow_is_skipped_and_halves_the_scale() {
    for on in On::in_half() {
        let mut ready = Ready::new(&oracle().join("gpt2_tiny_a"), on);
        let step = ready.step();
        ready.set(state::SCALE_LOG2, LARGEST_SCALE_LOG2);
        ready.set(state::SCALE_AGE, 7);
        let before = ready.bits();
        let mut scale = LARGEST_SCALE_LOG2;
        loop {
            ready.gradients(&step);
            let words = ready.update(&step);
            if words[state::SKIP] == 0 {
                assert_eq!((words[state::APPLIED], words[state::SCALE_AGE]), (1, 1), "{on:?}");
                break;
            }
            scale -= 1;
            let overflowed = LARGEST_SCALE_LOG2 - scale;
            // It is no trouble, so that it does not end a run.
            assert_eq!(words, [0, 0, 0, 1, scale, 0, overflowed], "{on:?}");
            assert_eq!(ready.norm(), [-1.0, 0.0], "{on:?}");
            assert!(ready.bits() == before, "{on:?}: nothing changes");
        }
        assert!(scale < LARGEST_SCALE_LOG2 && scale > 8, "{on:?}: {scale}");
        assert!(ready.bits() != before, "{on:?}: it goes on");
    }
}

#[test]
fn good_updates_double_the_scale() {
    for on in On::in_half() {
        let mut ready = Ready::new(&oracle().join("gpt2_tiny_a"), on);
        let step = ready.step();
        // Gradients of zero overflow with no scale.
        let idle = Step { loss_scale: 0.0, ..step };
        ready.gradients(&idle);
        let cases =
            [(10, 2, 10, 1), (10, 1, 11, 0), (LARGEST_SCALE_LOG2, 1, LARGEST_SCALE_LOG2, 0)];
        for (scale, left, want, age) in cases {
            ready.set(state::SCALE_LOG2, scale);
            ready.set(state::SCALE_AGE, GROWTH_INTERVAL - left);
            let words = ready.update(&idle);
            let age = if age == 1 { GROWTH_INTERVAL - 1 } else { 0 };
            assert_eq!([words[state::SCALE_LOG2], words[state::SCALE_AGE]], [want, age], "{on:?}");
        }
    }
}

#[test]
fn what_no_scale_helps_against_is_trouble() {
    for on in On::in_half() {
        let mut ready = Ready::new(&oracle().join("gpt2_tiny_a"), on);
        let step = ready.step();
        ready.gradients(&step);
        let gradient = ready.model.program.params[0].slices[0].var.grad;
        let loss = ready.model.program.batch.expect("recorded with batches").loss;
        ready.model.on.write(gradient.slice(0, 1), &[f32::NAN]);
        ready.set(state::SCALE_LOG2, 0);
        assert_eq!(ready.update(&step), [0, 1, 1, 1, 0, 0, 0], "{on:?}: the scale cannot fall");
        ready.set(state::SCALE_LOG2, 3);
        ready.model.on.write(loss, &[f32::NAN]);
        assert_eq!(ready.update(&step), [0, 2, 2, 1, 3, 0, 0], "{on:?}: the loss has no scale");
    }
}

/// A model of two layers, and a text for it.
fn tiny() -> GptConfig {
    GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 32,
        vocab_size: 256,
        n_positions: 32,
        ..GptConfig::small()
    }
}

fn text() -> Tokens {
    let text: String = stories::stories(3, 60).collect::<Vec<_>>().join("\n");
    Tokens::from_ids(text.bytes().map(u32::from).collect())
}

/// The CPU, and the full GPU, where it computes in half precision; each with the digits that it rounds off.
fn devices() -> Vec<(Device, u32)> {
    let gpu = full_gpu().filter(|gpu| gpu.has().f16).map(|gpu| Device::Gpu(Arc::clone(gpu)));
    [(Device::Cpu, 0xffff)].into_iter().chain(gpu.map(|gpu| (gpu, 0x1fff))).collect()
}

/// A run of some updates in memory.
fn trainer(device: &Device, precision: Precision) -> Trainer {
    let config = TrainConfig {
        max_iters: 60,
        learning_rate: 3e-3,
        log_every: 1,
        eval_iters: 2,
        precision,
        ..TrainConfig::default()
    };
    Trainer::new(Gpt::new(tiny(), device.clone(), 5).unwrap(), text(), config).unwrap()
}

#[test]
fn training_follows_that_in_f32() {
    for (device, _) in devices() {
        let losses = |precision| {
            let mut losses = vec![];
            let mut keep = |event: &Event| match event {
                Event::Step(report) => losses.push(f64::from(report.loss.unwrap())),
                Event::Evaluated { val_loss, .. } => losses.push(*val_loss),
                _ => {}
            };
            let summary = trainer(&device, precision).run(&mut keep).unwrap();
            losses.push(summary.val_loss.unwrap());
            losses
        };
        let (want, got) = (losses(Precision::F32), losses(Precision::Mixed));
        assert_eq!(got.len(), want.len());
        assert!(want[want.len() - 1] < 0.7 * want[0], "it learns: {want:?}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_relative(&format!("loss {i}"), *got, *want, 1e-2);
        }
    }
}

/// Saves hold the parameters as they are; a model that was loaded writes what the trained one wrote.
#[test]
fn models_are_saved_and_loaded_in_full() {
    for (device, rounded_off) in devices() {
        assert_saved_in_full(device, rounded_off);
    }
}

fn assert_saved_in_full(device: Device, rounded_off: u32) {
    let mut trainer = trainer(&device, Precision::Mixed);
    trainer.run(&mut |_| {}).unwrap();
    let mut trained = trainer.into_model();
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("model");
    trained.save(&saved).unwrap();
    let mut loaded = Gpt::load(&saved, device).unwrap();
    loaded.set_precision(Precision::Mixed);
    let bits = |gpt: &mut Gpt| -> Vec<u32> {
        let engine = gpt.engine().unwrap();
        let params = engine.program().params.clone();
        let data = params.iter().flat_map(|p| engine.param_data(p, Tensor::Value).unwrap());
        data.map(f32::to_bits).collect()
    };
    let full = bits(&mut trained);
    assert!(full.iter().any(|bits| bits & rounded_off != 0), "more digits than half precision has");
    assert!(bits(&mut loaded) == full);
    let greedy = wgpt::GenerateOptions { max_tokens: 20, temperature: 0.0, ..Default::default() };
    let ids: Vec<u32> = "The cat".bytes().map(u32::from).collect();
    let want = trained.generate_ids(&ids, &greedy).unwrap();
    assert_eq!(loaded.generate_ids(&ids, &greedy).unwrap(), want);
}

/// What products read follows every change of the parameters.
#[test]
fn copies_are_as_new_as_the_parameters() {
    devices().iter().for_each(|(device, _)| assert_copies_are_new(device));
}

fn assert_copies_are_new(device: &Device) {
    let uses = Uses {
        batch: 1,
        seq: 32,
        training: Some(Optimizer::Sgd),
        generation: Some(1),
        precision: Precision::Mixed,
        ..Uses::default()
    };
    let new = |seed| {
        let mut engine = Engine::new(&tiny(), uses, device).unwrap();
        engine.initialize(seed);
        engine
    };
    let ids: Vec<u32> = (0..33).map(|i| i * 37 % 256).collect();
    let loss = |engine: &mut Engine| engine.evaluate(&ids[..32], &ids[1..]).unwrap();
    let (mut first, mut second) = (new(1), new(2));
    let [one, two] = [&mut first, &mut second].map(loss);
    assert!(one != two);
    first.initialize(2);
    assert!(loss(&mut first) == two, "after parameters are written");
    let step = Step { learning_rate: 0.5, ..Step::default() };
    first.train_batch(&ids[..32], &ids[1..], (0, 32), step);
    first.update(&step);
    let updated = loss(&mut first);
    second.copy_from(&mut first).unwrap();
    assert!(updated != two && updated == loss(&mut second), "after an update");
}

#[test]
fn extensions_are_near_those_of_f32() {
    let dir = oracle().join("gpt2_tiny_a");
    let expect = Tensors::open(&dir.join("expect.safetensors"));
    let shape = expect.shape("logits");
    let (seq, v) = (shape[1], shape[2]);
    let tokens = &expect.ids("tokens")[..seq];
    for on in On::in_either_half() {
        // Alone, where the cache is of half precision, and beside training, whose memory it uses.
        let alone = Uses { generation: Some(1), precision: Precision::Mixed, ..Uses::default() };
        for uses in [alone, Uses { generation: Some(1), ..uses(&expect) }] {
            let mut model = Model::open(&dir, uses, on);
            model.on.run(Phase::Cast, &Step::default());
            model.extend(0, tokens, &EXTENDS);
            let last = model.program.generation.expect("recorded for generation").logits;
            let want = &expect.get("logits")[(seq - 1) * v..seq * v];
            assert_close_of_max(
                &format!("{on:?} logits"),
                &model.on.read(last),
                want,
                1e-2 * on.coarseness(),
            );
        }
    }
}

#[test]
fn a_device_without_half_precision_refuses() {
    let Some(device) = gpu() else { return };
    let uses = Uses { generation: Some(1), precision: Precision::Mixed, ..Uses::default() };
    let program = wgpt::model::Program::record(&tiny(), uses, device.limits());
    let error = Gpu::new(device, program.plan).err().expect("it has no halves");
    assert!(error.to_string().contains("half precision"), "{error}");
    assert!(error.advice().is_some_and(|hint| hint.contains("precision f32")), "{error:?}");
}

/// Plans in bf16 are for a CPU.
#[test]
fn a_gpu_refuses_activations_in_bf16() {
    let Some(device) = full_gpu() else { return };
    let uses = Uses { generation: Some(1), precision: Precision::Mixed, ..Uses::default() };
    let limits = Limits { half: Format::BF16, ..device.limits() };
    let program = wgpt::model::Program::record(&tiny(), uses, limits);
    let error = Gpu::new(device, program.plan).err().expect("it has no bf16");
    assert!(error.to_string().contains("writes bf16"), "{error}");
}
