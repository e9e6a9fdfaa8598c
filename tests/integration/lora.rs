//! Low-rank adapters: do they compute what their merged model computes, and are their files PEFT's?

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assert_cmd::Command;
use serde_json::{Value, json};
use wgpt::arch::Family;
use wgpt::backend::Device;
use wgpt::checkpoint::{Float, Layout, is_adapter, moments, newest_run, open_state};
use wgpt::config::{Optimizer, Precision, Recompute, WeightFormat};
use wgpt::engine::Tensor;
use wgpt::error::Kind;
use wgpt::finetune::Lora;
use wgpt::kernel::state::{self, FIRST_SCALE_LOG2};
use wgpt::kernel::{Draw, Step};
use wgpt::model::{EXTENDS, Program, Uses, check_finetune, open as open_model, parameters};
use wgpt::ops::random::threefry;
use wgpt::pipeline::Stage;
use wgpt::plan::{Limits, Phase, Role};
use wgpt::train::{RunSettings, start};
use wgpt::{Error, FineTune, Gpt, GptConfig, TrainConfig};

use crate::common::{Model, On, Tensors, assert_close_of_max, full_gpu, json, oracle};
use crate::training::{Place, assert_same, contents, devices, go_on, run_until, tiny, train};

fn lora(rank: usize, alpha: f64, targets: &[&str]) -> Lora {
    Lora { rank, alpha, targets: targets.iter().map(|t| (*t).to_owned()).collect() }
}

fn tuning(lora: Lora) -> FineTune {
    FineTune { lora: Some(lora), ..FineTune::default() }
}

/// Adapters of one kind of layer, of all of them, and of single layers.
fn adapters() -> [Lora; 3] {
    [
        lora(4, 6.0, &["c_attn"]),
        lora(3, 2.0, &["c_attn", "c_proj", "c_fc"]),
        lora(1, 1.0, &["h.1.mlp.c_proj", "transformer.h.0.attn.c_proj"]),
    ]
}

/// Numbers without a pattern, of the size of the reference's weights.
fn noise(name: &str, n: usize) -> Vec<f32> {
    let seed = name.bytes().fold(7u32, |seed, byte| seed.wrapping_mul(31) ^ u32::from(byte));
    let word = |i: usize| threefry([seed, 2], [i as u32, 0])[0];
    (0..n).map(|i| 0.3 * (word(i) as f32 / u32::MAX as f32 - 0.5)).collect()
}

/// A and B of the layer that has this weight.
fn parts(lora: &Lora, name: &str, [c, oc]: [usize; 2]) -> Option<[Vec<f32>; 2]> {
    let layer = name.strip_suffix(".weight").filter(|layer| lora.adapts(layer))?;
    let part = |part, width| noise(&format!("{layer}.{part}.weight"), lora.rank * width);
    Some([part("lora_A", c), part("lora_B", oc)])
}

/// W + alpha / rank · Aᵀ · B of the model in a folder, in double precision.
fn merged(lora: &Lora, name: &str, shape: &[usize], weight: &mut [f32]) {
    let &[c, oc] = shape else { return };
    let Some([a, b]) = parts(lora, name, [c, oc]) else { return };
    for i in 0..c {
        for o in 0..oc {
            let dot: f64 =
                (0..lora.rank).map(|r| f64::from(a[r * c + i]) * f64::from(b[r * oc + o])).sum();
            let w = &mut weight[i * oc + o];
            *w = (f64::from(*w) + lora.alpha / lora.rank as f64 * dot) as f32;
        }
    }
}

/// Two models of one function: with adapters, and with these merged and everything trained.
struct Pair {
    adapted: Model,
    merged: Model,
    expect: Tensors,
}

const TRAINING: Uses = Uses {
    batch: 0,
    seq: 0,
    training: Some(Optimizer::Adamw),
    dropout: false,
    nodes: 0,
    part: None,
    logits: true,
    generation: Some(1),
    serving: false,
    context: None,
    precision: Precision::F32,
    weights: WeightFormat::F32,
    recompute: Recompute::Gelu,
    stage: Stage::WHOLE,
    in_flight: 1,
};

impl Pair {
    fn new(name: &str, lora: &Lora, uses: Uses, on: On) -> Pair {
        let dir = oracle().join(name);
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        let shape = expect.shape("tokens");
        let uses = Uses { batch: shape[0], seq: shape[1], ..uses };
        let (config, weights) = open_model(&dir).expect("a sound model");
        let shapes = parameters(&config);
        let read = |name: &str, out: &mut [f32]| weights.read(name, 0, out).expect("a parameter");
        let mut adapted =
            Model::record_tuning(&config, uses, &tuning(lora.clone()), on, on.limits());
        adapted.fill(|name, out| match name.contains(".lora_") {
            true => out.copy_from_slice(&noise(name, out.len())),
            false => read(name, out),
        });
        let mut whole = Model::record(&config, uses, on, on.limits());
        whole.fill(|name, out| {
            read(name, out);
            let (_, shape) = shapes.iter().find(|(known, _)| known == name).expect("known");
            merged(lora, name, shape, out);
        });
        let mut pair = Pair { adapted, merged: whole, expect };
        for model in [&mut pair.adapted, &mut pair.merged] {
            if uses.precision == Precision::Mixed {
                model.on.run(Phase::Cast, &Step::default());
            }
            let words = model.program.update.expect("recorded for training").state;
            model.on.write_u32(words, &state::first(model.program.loss_scale));
        }
        pair
    }

    /// Compares the logits of a batch, and of a sequence that grows.
    fn assert_logits(&mut self, what: &str, tolerance: f64) {
        let (tokens, targets) = (self.expect.ids("tokens"), self.expect.ids("targets"));
        let logits = |model: &mut Model| {
            let phases = [Phase::Forward, Phase::Logits];
            model.run_batch(&tokens, &targets, &phases, &Step::default());
            let view = model.program.batch.and_then(|batch| batch.logits).expect("logits");
            let all = model.on.read(view);
            model.extend(0, &tokens[..self.expect.shape("tokens")[1]], &EXTENDS);
            let view = model.program.generation.expect("recorded for generation").logits;
            (all, model.on.read(view))
        };
        let (got, want) = (logits(&mut self.adapted), logits(&mut self.merged));
        assert_close_of_max(&format!("{what} logits"), &got.0, &want.0, tolerance);
        assert_close_of_max(&format!("{what} last logits"), &got.1, &want.1, tolerance);
        let base = self.expect.get("logits");
        assert!(got.0.iter().zip(base).any(|(got, base)| (got - base).abs() > 0.01), "{what}");
    }

    /// Compares the gradients of A and B, over two micro-batches, with what follows from that of W.
    fn assert_gradients(&mut self, what: &str, lora: &Lora, tolerance: f64) {
        let (tokens, targets) = (self.expect.ids("tokens"), self.expect.ids("targets"));
        for accumulate in [0, 1] {
            let step =
                Step { accumulate, loss_scale: 0.5 / tokens.len() as f64, ..Step::default() };
            for model in [&mut self.adapted, &mut self.merged] {
                model.run_batch(&tokens, &targets, &[Phase::Forward, Phase::Backward], &step);
            }
        }
        let factor = lora.alpha / lora.rank as f64;
        let mut compared = 0;
        for (name, shape) in parameters(&self.merged.program.config) {
            let &[c, oc] = &shape[..] else { continue };
            let Some([a, b]) = parts(lora, &name, [c, oc]) else { continue };
            let dw = self.merged.param(&name, true);
            let layer = name.trim_end_matches(".weight");
            let sum =
                |n: usize, term: &dyn Fn(usize) -> f64| factor * (0..n).map(term).sum::<f64>();
            let da: Vec<f64> = (0..lora.rank * c)
                .map(|at| {
                    let (r, i) = (at / c, at % c);
                    sum(oc, &|o| dw[i * oc + o] * f64::from(b[r * oc + o]))
                })
                .collect();
            let db: Vec<f64> = (0..lora.rank * oc)
                .map(|at| {
                    let (r, o) = (at / oc, at % oc);
                    sum(c, &|i| dw[i * oc + o] * f64::from(a[r * c + i]))
                })
                .collect();
            for (part, want) in [("lora_A", da), ("lora_B", db)] {
                let name = format!("{layer}.{part}.weight");
                let got = self.adapted.param(&name, true);
                assert_close_of_max(&format!("{what} {name}"), &got, &want, tolerance);
                compared += 1;
            }
        }
        let trained = self.adapted.program.params.iter().filter(|param| param.is_trained());
        assert!(compared > 0 && compared == trained.count(), "{what}");
    }
}

#[test]
fn a_model_with_adapters_is_the_merged_model() {
    for on in On::all() {
        for name in ["gpt2_tiny_a", "gpt2_tiny_c"] {
            for lora in adapters() {
                let recomputes =
                    if name == "gpt2_tiny_a" { &Recompute::ALL[..] } else { &[Recompute::Gelu] };
                for &recompute in recomputes {
                    let uses = Uses { recompute, ..TRAINING };
                    let mut pair = Pair::new(name, &lora, uses, on);
                    let what = format!("{name} {on:?} {recompute:?} {lora:?}");
                    // The merged weights are rounded to single precision.
                    pair.assert_logits(&what, on.tolerance(1e-6, 2e-5, 1e-4));
                    pair.assert_gradients(&what, &lora, on.tolerance(2e-6, 5e-5, 2e-4));
                }
            }
        }
    }
}

#[test]
fn the_same_in_mixed_precision() {
    for on in On::in_either_half() {
        for lora in adapters() {
            let uses = Uses { precision: Precision::Mixed, ..TRAINING };
            let mut pair = Pair::new("gpt2_tiny_a", &lora, uses, on);
            let what = format!("{on:?} {lora:?}");
            // The merged weights are rounded to half precision as a whole, the others in parts.
            pair.assert_logits(&what, 5e-3 * on.coarseness());
            pair.assert_gradients(&what, &lora, 2e-2 * on.coarseness());
        }
    }
    assert_eq!(FIRST_SCALE_LOG2, 16, "both have the same loss scale");
}

#[test]
fn adapters_take_little_memory() {
    let uses = Uses { batch: 1, seq: 64, precision: Precision::Mixed, ..TRAINING };
    let record = |finetune: &FineTune| {
        Program::record_tuning(&GptConfig::small(), uses, finetune, Limits::WEBGPU)
    };
    let whole = record(&FineTune::default());
    let part = record(&tuning(Lora::of_rank(8)));
    assert_eq!(part.plan.exceeds(Limits::WEBGPU), None);
    let count: usize = wgpt::model::adapters(&GptConfig::small(), &Lora::of_rank(8))
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(part.trained_count(), count);
    assert_eq!(part.parameter_count(), whole.parameter_count() + count);
    for role in [Role::Gradients, Role::Moments] {
        assert!(part.plan.bytes(role) < whole.plan.bytes(role) / 20, "{role:?}");
    }
    // The model's own matrices take 2 bytes per number, not 4 and a copy of 2.
    let [part, whole] = [part, whole].map(|program| program.plan.bytes(Role::Parameters));
    assert!(5 * part < 2 * whole, "{part} of {whole}");
}

/// A place with a model to adapt, and the settings of a run that adapts it.
struct Adapting {
    place: Place,
    base: PathBuf,
}

impl Adapting {
    fn new() -> Adapting {
        let place = Place::new();
        let base = place.path("base");
        let mut gpt = Gpt::new(tiny(), Device::Cpu, 3).unwrap();
        gpt.set_tokenizer(wgpt::Tokenizer::bytes()).unwrap();
        gpt.save(&base).unwrap();
        Adapting { place, base }
    }

    fn settings(&self, lora: Lora) -> RunSettings {
        let mut settings = self.place.settings();
        settings.init = Some(self.base.clone());
        settings.tokenizer = "train".into();
        settings.train.finetune = tuning(lora);
        settings
    }
}

/// The last logits of a model after some tokens.
fn last_logits(gpt: &mut Gpt) -> Vec<f64> {
    let engine = gpt.engine().unwrap();
    engine.begin_sequence(0);
    engine.prefill(0, &[84, 104, 101, 32], Draw::default());
    engine.read_logits(0).unwrap().into_iter().map(f64::from).collect()
}

#[test]
fn a_run_with_adapters_goes_on_bit_for_bit_and_is_a_model() {
    let half = full_gpu().filter(|gpu| gpu.has().f16).map(|gpu| Device::Gpu(Arc::clone(gpu)));
    let mixed = half.map(|device| ("mixed", device, Precision::Mixed));
    let all = devices().into_iter().map(|(name, device)| (name, device, Precision::F32));
    for (name, device, precision) in all.chain(mixed) {
        let (whole, parts) = (Adapting::new(), Adapting::new());
        let lora = lora(2, 8.0, &["c_attn", "c_fc", "mlp.c_proj"]);
        let with = |adapting: &Adapting| {
            let mut settings = adapting.settings(lora.clone());
            settings.train.precision = precision;
            // The two runs' files name one base.
            settings.init = Some(whole.base.clone());
            settings
        };
        let before = contents(&whole.base);
        let mut trainer = start(&with(&whole), device.clone(), &mut |_| {}).unwrap();
        let first = trainer.engine().program().trained_count();
        trainer.run(&mut |_| {}).unwrap();
        let mut trainer_of_parts = start(&with(&parts), device.clone(), &mut |_| {}).unwrap();
        run_until(&mut trainer_of_parts, 8).unwrap();
        drop(trainer_of_parts);
        go_on(&parts.place.run(), &device).unwrap();
        let run = whole.place.run();
        assert_same(&parts.place.run(), &run, name);
        assert!(contents(&whole.base) == before, "{name}: the model itself stays as it is");

        // Adapters alone are saved, and their moments.
        let dir = run.join("checkpoints/step-12");
        assert!(is_adapter(&dir) && is_adapter(&run) && is_adapter(&run.join("best")));
        let trained = wgpt::model::adapters(&tiny(), &lora);
        let count = trained.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>();
        assert_eq!(count, first);
        open_state(&dir, &moments(&trained)).unwrap();
        let bytes = fs::metadata(dir.join("adapter_model.safetensors")).unwrap().len() as usize;
        assert!((4 * count..4 * count + 8192).contains(&bytes), "{bytes}");
        let runs = run.parent().unwrap();
        assert_eq!(newest_run(runs).unwrap().unwrap(), run.join("best"));

        // What is loaded is what was trained.
        let mut hand = trainer.into_model();
        let in_hand = last_logits(&mut hand);
        let mut loaded = Gpt::load(&run, device.clone()).unwrap();
        loaded.set_precision(precision);
        let tolerance = if precision == Precision::Mixed { 1e-2 } else { 1e-4 };
        assert_close_of_max(name, &last_logits(&mut loaded), &in_hand, tolerance);
        let mut base = Gpt::load(&whole.base, device.clone()).unwrap();
        let learned = last_logits(&mut base);
        assert!(in_hand.iter().zip(&learned).any(|(a, b)| (a - b).abs() > 1e-2), "{name}");

        // Merged by hand, by saving, and by saving what was loaded: one model.
        let saved = whole.place.path("merged");
        hand.save(&saved).unwrap();
        assert!(!is_adapter(&saved));
        let mut again = Gpt::load(&saved, device.clone()).unwrap();
        again.set_precision(precision);
        assert_close_of_max(name, &last_logits(&mut again), &in_hand, tolerance);
        let loaded_saved = whole.place.path("loaded");
        loaded.save(&loaded_saved).unwrap();
        let [engine, file] =
            [saved, loaded_saved].map(|dir| Tensors::open(&dir.join("model.safetensors")));
        // In mixed precision the engine has halves of the model's own matrices.
        let rounding = if precision == Precision::Mixed { 2f64.powi(-11) } else { 0.0 };
        for (parameter, _) in wgpt::model::parameters(&tiny()) {
            let parameter = Family::of(&tiny()).file_name(&parameter);
            let pairs = engine.get(&parameter).iter().zip(file.get(&parameter));
            let largest = file.get(&parameter).iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(
                worst <= rounding * largest,
                "{name}: {parameter} merged in the engine, {worst}"
            );
        }
    }
}

/// A run's folder that is the base of adapters may have gone on, and a downloaded model may be another by now.
#[test]
fn adapters_know_the_model_that_they_were_trained_on() {
    let adapting = Adapting::new();
    let (base, run) = (&adapting.base, adapting.place.run());
    let settings = adapting.settings(lora(2, 8.0, &["c_attn"]));
    let mut trainer = start(&settings, Device::Cpu, &mut |_| {}).unwrap();
    run_until(&mut trainer, 4).unwrap();
    drop(trainer);
    let notices = || Gpt::load(&run, Device::Cpu).unwrap().notices().to_vec();
    assert_eq!(notices(), [""; 0]);

    // Another type of numbers is the same model, but the run cannot go on bit for bit.
    let (first, half) = (adapting.place.path("first"), adapting.place.path("half"));
    for float in [Float::Bf16, Float::F16] {
        let layout = Layout { float, ..Layout::default() };
        let mut gpt = Gpt::load(base, Device::Cpu).unwrap();
        wgpt::export::folder(&mut gpt, base, &half, layout, &mut |_, _| Ok(())).unwrap();
        fs::rename(base, &first).unwrap();
        fs::rename(&half, base).unwrap();
        assert_eq!(notices(), [""; 0], "{float:?}");
        let error = go_on(&run, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("is not the one that the run began with"), "{error}");
        fs::remove_dir_all(base).unwrap();
        fs::rename(&first, base).unwrap();
    }

    // One number of one tensor, the last that is looked at, is another one.
    let path = base.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let mut changed = bytes.clone();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let described: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let name = "transformer.h.1.mlp.c_proj.weight";
    let start = header + described[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let len: u64 = tiny().n_inner() as u64 * tiny().n_embd as u64;
    let at = start + 4 * (len as usize / 4 * 3);
    changed[at..at + 4].copy_from_slice(&0.5_f32.to_le_bytes());
    fs::write(&path, &changed).unwrap();
    let said = notices();
    assert!(matches!(&said[..], [one] if one.contains("h.1.mlp.c_proj.weight was ")), "{said:?}");
    assert!(
        said[0].contains(&format!("at [{}, 0], and is 0.5", tiny().n_inner() / 4 * 3)),
        "{said:?}"
    );
    let error = go_on(&run, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("h.1.mlp.c_proj.weight was "), "{error}");
    let mut export = Command::cargo_bin("wgpt").unwrap();
    let output = export.args(["export", "--model"]).arg(&run).arg("--out").arg(&half).output();
    let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(stderr.contains(&said[0]), "{stderr}");

    fs::write(&path, &bytes).unwrap();
    assert_eq!(notices(), [""; 0]);
    go_on(&run, &Device::Cpu).unwrap();
}

#[test]
fn adapters_learn_and_begin_as_the_model() {
    let adapting = Adapting::new();
    let mut settings = adapting.settings(lora(4, 8.0, &["c_attn", "c_proj", "c_fc"]));
    settings.train = TrainConfig { max_iters: 60, dropout: 0.0, eval_every: 0, ..settings.train };
    let mut trainer = start(&settings, Device::Cpu, &mut |_| {}).unwrap();
    let engine = trainer.engine();
    for param in engine.program().params.clone().iter().filter(|param| param.is_trained()) {
        let data = engine.param_data(param, Tensor::Value).unwrap();
        let bound = 1.0 / (param.shape[1] as f32).sqrt();
        match param.name.contains("lora_A") {
            true => {
                assert!(data.iter().all(|x| x.abs() <= bound), "{}", param.name);
                let mean = data.iter().map(|x| x.abs()).sum::<f32>() / data.len() as f32;
                assert!((0.35..0.65).contains(&(mean / bound)), "{}: {mean}", param.name);
            }
            false => assert!(data.iter().all(|x| *x == 0.0), "{}", param.name),
        }
    }
    let summary = trainer.run(&mut |_| {}).unwrap();
    let last = summary.val_loss.unwrap();
    // The model is random and its token table, frozen, small: there is little for adapters to do.
    assert!(last < 5.51, "of a model that knows nothing it is 5.55: {last}");
}

#[test]
fn the_files_are_those_of_peft() {
    let adapting = Adapting::new();
    let mut settings = adapting.settings(lora(2, 16.0, &["c_attn", "mlp.c_proj"]));
    settings.train.max_iters = 1;
    train(&settings, &Device::Cpu).unwrap();
    let dir = adapting.place.run().join("best");
    let config = json(&dir.join("adapter_config.json"));
    let base = std::path::absolute(&adapting.base).unwrap();
    for (name, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("r", json!(2)),
        ("lora_alpha", json!(16)),
        ("lora_dropout", json!(0.0)),
        ("target_modules", json!(["c_attn", "mlp.c_proj"])),
        ("fan_in_fan_out", json!(true)),
        ("bias", json!("none")),
        ("base_model_name_or_path", json!(base.to_string_lossy())),
    ] {
        assert_eq!(config[name], value, "{name}");
    }
    let file = Tensors::open(&dir.join("adapter_model.safetensors"));
    assert_eq!(file.names().count(), 2 * 2 * tiny().n_layer);
    let shape = |name: &str| file.shape(&format!("base_model.model.transformer.h.1.{name}.weight"));
    assert_eq!(shape("attn.c_attn.lora_A"), [2, 16]);
    assert_eq!(shape("attn.c_attn.lora_B"), [48, 2]);
    assert_eq!(shape("mlp.c_proj.lora_A"), [2, 64]);
    assert_eq!(shape("mlp.c_proj.lora_B"), [16, 2]);
    assert!(wgpt::Tokenizer::exists(&dir));
}

#[test]
fn what_is_wrong_with_adapters_is_said() {
    let usage = |lora: Lora, words: &str| {
        let error = check_finetune(&tiny(), &tuning(lora)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.kind(), Kind::Usage);
    };
    usage(lora(0, 1.0, &["c_attn"]), "lora.rank is 0");
    usage(lora(17, 1.0, &["c_attn"]), "lora.rank is 17");
    usage(lora(1, f64::NAN, &["c_attn"]), "lora.alpha is NaN");
    usage(lora(1, f64::INFINITY, &["c_attn"]), "lora.alpha is inf");
    usage(lora(1, 0.0, &["c_attn"]), "lora.alpha is 0");
    usage(lora(1, 1.0, &["c_attn", "wte"]), "\"wte\"");
    usage(lora(1, 1.0, &["attn"]), "\"attn\"");
    usage(lora(1, 1.0, &[""]), "\"\"");
    usage(lora(1, 1.0, &[]), "lora.targets");
    let both = FineTune { freeze: vec!["wte.*".into()], ..tuning(Lora::of_rank(1)) };
    assert!(check_finetune(&tiny(), &both).unwrap_err().to_string().contains("lora.rank"));

    let adapting = Adapting::new();
    let mut settings = adapting.settings(Lora::of_rank(2));
    settings.train.max_iters = 1;
    settings.init = None;
    settings.tokenizer = "bytes".into();
    let refused = |settings: &RunSettings, words: &str| {
        let error = train(settings, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.advice().is_some() && !adapting.place.run().join("best/x").exists());
    };
    refused(&settings, "lora.rank adapts a model");
    assert!(!adapting.place.run().exists(), "nothing is left of it");
    train(&RunSettings { init: Some(adapting.base.clone()), ..settings.clone() }, &Device::Cpu)
        .unwrap();
    let best = adapting.place.run().join("best");
    let mut nested = settings.clone();
    (nested.init, nested.train.out) = (Some(best.clone()), Some(adapting.place.path("nested")));
    refused(&nested, "holds adapters already");
    // Without --lora-rank it goes on from the merged model.
    nested.train.finetune = FineTune::default();
    train(&nested, &Device::Cpu).unwrap();
    assert!(!is_adapter(&adapting.place.path("nested")));

    let load = || Gpt::load(&best, Device::Cpu).map(|_| ());
    load().unwrap();
    fs::remove_file(best.join("tokenizer.json")).unwrap();
    let gpt = Gpt::load(&best, Device::Cpu).unwrap();
    assert!(gpt.tokenizer().is_some(), "the model's own, as PEFT saves none");
    broken_configs(&best, &load);
    broken_weights(&best, &load);
    fs::rename(&adapting.base, adapting.place.path("elsewhere")).unwrap();
    let error = load().unwrap_err();
    assert!(error.to_string().contains("base, which is not there"), "{error}");
    assert!(error.advice().unwrap().contains("base_model_name_or_path"));
}

/// Loads after each change of adapter_config.json, and puts it back.
fn broken_configs(dir: &Path, load: &dyn Fn() -> Result<(), Error>) {
    let path = dir.join("adapter_config.json");
    let sound = json(&path);
    let own = dir.to_string_lossy().into_owned();
    for (name, value, words) in [
        ("peft_type", json!("IA3"), "peft_type is \"IA3\""),
        ("use_dora", json!(true), "use_dora is true"),
        ("init_lora_weights", json!("pissa"), "init_lora_weights is \"pissa\""),
        ("alora_invocation_tokens", json!([5, 6]), "alora_invocation_tokens"),
        ("bias", json!("some"), "bias is \"some\""),
        ("kasa_config", json!({ "beta": 1e-4 }), "kasa_config is"),
        ("rank_pattern", json!({ "c_attn": 3 }), "h.0.attn.c_attn.lora_A.weight has shape"),
        ("rank_pattern", json!({ "c_attn": 0 }), "rank_pattern gives \"c_attn\" 0"),
        ("rank_pattern", json!(["c_attn"]), "rank_pattern is"),
        ("alpha_pattern", json!({ "(": 3 }), "alpha_pattern: \"(\" cannot be read as a regular"),
        ("alpha_pattern", json!({ "c_attn": "3" }), "alpha_pattern gives"),
        ("modules_to_save", json!(["wte"]), "wte.weight is missing, which modules_to_save names"),
        ("modules_to_save", json!(["ln_f"]), "ln_f.weight is missing, which modules_to_save names"),
        ("modules_to_save", json!(["c_attn"]), "no layer of a GPT-2 is adapted"),
        (
            "exclude_modules",
            json!(".*h\\.1\\..*"),
            "unexpected tensors base_model.model.transformer.h.1.",
        ),
        ("exclude_modules", json!(["c_attn"]), "no layer of a GPT-2 is adapted"),
        ("layers_to_transform", json!([0]), "unexpected tensors base_model.model.transformer.h.1."),
        ("layers_to_transform", json!("0"), "layers_to_transform is"),
        ("r", json!(0), "r is 0"),
        ("r", json!(-1), "r is -1"),
        ("r", json!(3), "lora_A.weight has shape"),
        ("r", Value::Null, "r is null"),
        ("lora_alpha", json!("x"), "lora_alpha is"),
        ("target_modules", json!("all-linear"), "h.0.attn.c_proj.lora_A.weight is missing"),
        ("target_modules", json!("(c_attn"), "target_modules: \"(c_attn\" cannot be read"),
        ("target_modules", json!("c_attn"), "no layer of a GPT-2 is adapted"),
        ("target_modules", json!(5), "target_modules is 5"),
        ("target_modules", json!(["lm_head", "c_attn"]), "target_modules names lm_head"),
        ("target_modules", json!(["wte", "c_attn"]), "target_modules names transformer.wte"),
        ("target_modules", json!(["c_attn", "c_fc"]), "c_fc.lora_A.weight is missing"),
        ("base_model_name_or_path", json!("no/such/model"), "no/such/model, which is not there"),
        ("base_model_name_or_path", json!(own), "holds adapters, too"),
        ("base_model_name_or_path", Value::Null, "base_model_name_or_path is null"),
    ] {
        let mut config = sound.clone();
        config[name] = value;
        fs::write(&path, config.to_string()).unwrap();
        let error = load().unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert_eq!(error.kind(), Kind::Input, "{name}: {error}");
    }
    fs::write(&path, "{").unwrap();
    assert!(load().unwrap_err().to_string().contains("adapter_config.json"));
    fs::write(&path, sound.to_string()).unwrap();
    load().unwrap();
}

/// Loads with other adapters' weights, cut short, and with one that is not finite.
fn broken_weights(dir: &Path, load: &dyn Fn() -> Result<(), Error>) {
    let path = dir.join("adapter_model.safetensors");
    let sound = fs::read(&path).unwrap();
    fs::write(&path, &sound[..sound.len() - 4]).unwrap();
    assert!(load().unwrap_err().to_string().contains("truncated"));
    let mut broken = sound.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, broken).unwrap();
    let error = load().unwrap_err();
    assert!(error.to_string().contains("is NaN at element"), "{error}");
    let text = String::from_utf8_lossy(&sound).into_owned();
    let name = "transformer.h.1.attn.c_attn.lora_A";
    let at = text.find(name).unwrap() + "transformer.h.".len();
    let mut renamed = sound.clone();
    renamed[at] = b'7';
    fs::write(&path, renamed).unwrap();
    assert!(load().unwrap_err().to_string().contains("is missing"));
    fs::remove_file(&path).unwrap();
    assert!(load().is_err());
    fs::write(&path, sound).unwrap();
    load().unwrap();
}

#[test]
fn the_model_may_be_a_weights_file_and_its_settings_are_handed_on() {
    let adapting = Adapting::new();
    let (base, out) = (&adapting.base, adapting.place.path("out"));
    let weights = base.join("other.safetensors");
    fs::rename(base.join("model.safetensors"), &weights).unwrap();
    let mut config = json(&base.join("config.json"));
    config["task_specific_params"] = json!({ "kept": true });
    fs::write(base.join("config.json"), config.to_string()).unwrap();
    fs::write(base.join("README.md"), "the card of another model").unwrap();
    let mut settings = adapting.settings(Lora::of_rank(2));
    (settings.init, settings.train.max_iters) = (Some(weights), 2);
    train(&settings, &Device::Cpu).unwrap();

    let best = adapting.place.run().join("best");
    let mut gpt = Gpt::load(&best, Device::Cpu).unwrap();
    let export = |gpt: &mut Gpt| {
        wgpt::export::folder(gpt, &best, &out, Layout::default(), &mut |_, _| Ok(()))
    };
    export(&mut gpt).unwrap();
    assert_eq!(json(&out.join("config.json"))["task_specific_params"], json!({ "kept": true }));
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("rank 2, alpha 4, of c_attn; merged"), "{card}");

    // Finite adapters whose product is not.
    let path = best.join("adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let begin = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[begin..].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&1e30f32.to_le_bytes()));
    fs::write(&path, bytes).unwrap();
    fs::remove_dir_all(&out).unwrap();
    let error = export(&mut Gpt::load(&best, Device::Cpu).unwrap()).unwrap_err();
    assert!(error.to_string().contains("c_attn.weight is infinite at [0, 0] once"), "{error}");
    assert!(!out.exists());
}

#[test]
fn the_command_line_adapts_and_generates() {
    let wgpt = |arguments: &[&str]| {
        let output = Command::cargo_bin("wgpt").unwrap().args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), stderr)
    };
    let adapting = Adapting::new();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (base, data) = (text(adapting.base.clone()), text(adapting.place.path("text.txt")));
    let (run, best) = (text(adapting.place.run()), text(adapting.place.run().join("best")));
    let fixed = ["train", "--device", "cpu", "--data", &data, "--max-iters", "2", "--out", &run];
    let train = |more: &[&str]| wgpt(&[&fixed[..], more].concat());
    let (code, _, stderr) = train(&["--lora-rank", "2"]);
    assert!(code == Some(2) && stderr.contains("--init"), "{stderr}");
    let (code, _, stderr) = train(&["--init", &base, "--lora-alpha", "2"]);
    assert!(code == Some(2) && stderr.contains("--lora-rank"), "{stderr}");
    let (code, _, stderr) = train(&["--init", &base, "--lora-rank", "2", "--freeze", "wte.*"]);
    assert!(code == Some(2) && stderr.contains("--freeze"), "{stderr}");
    let file = adapting.place.path("run.toml");
    fs::write(&file, "lora-alpha = 3.5\nlora-targets = [\"c_attn\", \"c_fc\"]").unwrap();
    let file = text(file);
    let (code, stdout, stderr) = train(&["--init", &base, "--lora-rank", "2", "--config", &file]);
    assert!(code == Some(0) && stdout.contains("A sample:"), "{stderr}");
    let config = json(&adapting.place.run().join("adapter_config.json"));
    assert_eq!(config["lora_alpha"], json!(3.5));
    assert_eq!(config["target_modules"], json!(["c_attn", "c_fc"]));
    let (code, stdout, stderr) = wgpt(&[
        "generate",
        "--device",
        "cpu",
        "--model",
        &best,
        "--prompt",
        "The",
        "--max-tokens",
        "5",
    ]);
    assert!(code == Some(0) && stdout.starts_with("The"), "{stderr}");
}
