//! What a run leaves: a model that learned, the best one, the newest checkpoints, a log, a picture.

use std::fs;
use std::path::Path;

use serde_json::Value;
use wgpt::backend::Device;
use wgpt::config::Optimizer;
use wgpt::data::{IGNORE, Tokens, stories};
use wgpt::engine::{Engine, MicroBatch, Tensor};
use wgpt::kernel::Step;
use wgpt::model::Uses;
use wgpt::{GenerateOptions, Gpt, Tokenizer, TrainConfig, Trainer};

use super::{Place, devices, metrics, tiny, train};

#[test]
fn the_loss_falls_on_stories() {
    for (name, device) in devices() {
        let text: Vec<String> = stories::stories(1, 60).collect();
        let mut gpt = Gpt::new(tiny(), device, 3).unwrap();
        gpt.train_tokenizer(&text.join("\n"), 257).unwrap();
        let ids = gpt.tokenizer().unwrap().encode(&text.join("\n"));
        let config = TrainConfig {
            max_iters: 60,
            learning_rate: 2e-2,
            log_every: 1,
            ..TrainConfig::default()
        };
        let mut trainer = Trainer::new(gpt, Tokens::from_ids(ids), config).unwrap();
        let mut losses = vec![];
        let summary = trainer
            .run(&mut |event| {
                if let wgpt::Event::Step(report) = event {
                    losses.push(f64::from(report.loss.unwrap()));
                }
            })
            .unwrap();
        let ln_vocab = 257_f64.ln();
        assert!((losses[0] - ln_vocab).abs() < 0.2, "{name}: the first loss is {}", losses[0]);
        assert!(losses[59] < 3.3, "{name}: the last loss is {}", losses[59]);
        assert!(summary.val_loss.unwrap() < 3.3, "{name}: {summary:?}");
        assert_eq!((summary.steps, summary.run_dir), (60, None));
    }
}

#[test]
fn best_is_the_best_model_and_the_newest_are_kept() {
    let place = Place::new();
    let mut settings = place.settings();
    // The learning rate rises until it ruins what was learned.
    let train_config = &mut settings.train;
    train_config.max_iters = 40;
    (train_config.eval_every, train_config.save_every) = (4, 4);
    (train_config.keep, train_config.warmup) = (100, Some(0));
    (train_config.learning_rate, train_config.min_learning_rate) = (1e-2, Some(3.0));
    let summary = train(&settings, &Device::Cpu).unwrap();

    let lines = metrics(&place.run());
    let evaluated: Vec<(u64, f64)> = lines
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line.get("val_loss")?.as_f64()?)))
        .collect();
    assert_eq!(
        evaluated.iter().map(|e| e.0).collect::<Vec<_>>(),
        (4..=40).step_by(4).collect::<Vec<_>>()
    );
    let best = evaluated.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!((4..40).contains(&best.0), "the last is not the best: {evaluated:?}");
    assert_eq!(summary.best_val_loss, Some(best.1));
    assert_eq!(summary.val_loss, Some(evaluated[9].1));

    let model = |dir: &str| fs::read(place.run().join(dir).join("model.safetensors")).unwrap();
    assert!(model("best") == model(&format!("checkpoints/step-{}", best.0)));
    assert!(model("best") != model("checkpoints/step-40"));
    assert!(model("") == model("checkpoints/step-40"), "the folder's own model is the last");
    for (_, device) in devices() {
        let mut gpt = Gpt::load(&place.run().join("best"), device).unwrap();
        assert!(gpt.generate("The", &wgpt::GenerateOptions::default()).is_ok());
    }
}

#[test]
fn only_so_many_checkpoints_are_kept() {
    for (keep, want) in [(0, vec![12]), (1, vec![12]), (3, vec![6, 9, 12])] {
        let place = Place::new();
        let mut settings = place.settings();
        (settings.train.keep, settings.train.save_every) = (keep, 3);
        (settings.train.eval_every, settings.train.grad_accum) = (0, 1);
        train(&settings, &Device::Cpu).unwrap();
        let mut steps: Vec<usize> = fs::read_dir(place.run().join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .map(|name| name.strip_prefix("step-").unwrap().parse().unwrap())
            .collect();
        steps.sort();
        assert_eq!(steps, want, "--keep {keep}");
    }
}

#[test]
fn characters_of_several_bytes_are_streamed_whole() {
    let text = "é日🙂 ".repeat(300);
    let mut gpt = Gpt::new(tiny(), Device::Cpu, 3).unwrap();
    gpt.set_tokenizer(Tokenizer::bytes()).unwrap();
    let ids = gpt.tokenizer().unwrap().encode(&text);
    let config = TrainConfig { max_iters: 150, learning_rate: 1e-2, ..TrainConfig::default() };
    let mut trainer = Trainer::new(gpt, Tokens::from_ids(ids), config).unwrap();
    trainer.run(&mut |_| {}).unwrap();
    let mut gpt = trainer.into_model();
    let options = GenerateOptions { temperature: 0.0, ..GenerateOptions::default() };
    let mut pieces = vec![];
    gpt.generate_stream("é", &options, &mut |piece| pieces.push(piece.to_owned())).unwrap();
    let prompt = gpt.tokenizer().unwrap().encode("é");
    let new = gpt.generate_ids(&prompt, &options).unwrap();
    assert_eq!(pieces.concat(), gpt.tokenizer().unwrap().decode_lossy(&new).unwrap());
    let (last, whole) = pieces.split_last().unwrap();
    assert!(pieces.concat().contains("日🙂 é"), "{pieces:?}");
    assert!(whole.iter().all(|piece| !piece.contains('\u{fffd}')), "{whole:?}, then {last:?}");
}

#[test]
fn metrics_have_their_fields() {
    for (name, device) in devices() {
        let place = Place::new();
        let settings = place.settings();
        let summary = train(&settings, &device).unwrap();
        let lines = metrics(&place.run());
        let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(
            steps,
            [1, 2, 4, 5, 6, 8, 10, 12],
            "{name}: the first, every second, evaluations"
        );
        for line in &lines {
            let step = line["step"].as_u64().unwrap();
            let mut keys: Vec<&str> =
                line.as_object().unwrap().keys().map(String::as_str).collect();
            let evaluated = step.is_multiple_of(5) || step == 12;
            assert_eq!(keys.contains(&"val_loss"), evaluated, "{name}: {line}");
            // A GPU's best is measured only where it can be kept.
            let mfu = line["mfu"].as_f64();
            assert_eq!(mfu.is_some_and(|mfu| mfu > 0.0 && mfu < 2.0), name == "cpu", "{line}");
            keys.retain(|key| !["val_loss", "mfu"].contains(key));
            assert_eq!(
                keys,
                ["step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "skipped"]
            );
            assert_eq!(line["tokens"], step * 3 * 16 * 2);
            assert_eq!(line["lr"], settings.train.learning_rate_at(step as usize - 1));
            for key in ["loss", "grad_norm", "tokens_per_s"] {
                assert!(line[key].as_f64().is_some_and(|x| x > 0.0), "{name}: {key} of {line}");
            }
        }
        let last = lines.last().unwrap();
        assert_eq!(last["val_loss"], summary.val_loss.unwrap());
        assert_eq!(last["loss"], summary.train_loss.unwrap() as f32);
    }
}

#[test]
fn the_picture_has_both_curves() {
    let place = Place::new();
    train(&place.settings(), &Device::Cpu).unwrap();
    let svg = fs::read_to_string(place.run().join("loss.svg")).unwrap();
    assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    let points = |colour: &str| {
        let line = svg.split("<polyline").find(|line| {
            line.contains(colour) && line.split("points=").nth(1).is_some_and(|p| p.contains(' '))
        });
        let points = line.and_then(|line| line.split("points=\"").nth(1)).unwrap_or_default();
        points.split('"').next().unwrap_or_default().split_whitespace().count()
    };
    assert_eq!(points("#0000FF"), 8, "a point a logged step");
    assert_eq!(points("#FF0000"), 3, "a point an evaluation");
    for word in ["training", "validation", "loss", "updates", "run"] {
        assert!(svg.contains(word), "{word}");
    }
}

#[test]
fn a_run_begins_from_a_model() {
    for (name, device) in devices() {
        let place = Place::new();
        train(&place.settings(), &device).unwrap();
        let best = place.run().join("best");
        let mut settings = place.settings();
        settings.train.out = Some(place.path("second"));
        settings.init = Some(best.clone());
        settings.model.n_layer = 7; // The model's own sizes count.
        (settings.train.learning_rate, settings.train.weight_decay) = (0.0, 0.0);
        train(&settings, &device).unwrap();
        let model = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(
            model(&place.path("second")) == model(&best),
            "{name}: nothing is learned at rate 0"
        );
        let sizes = |dir: &Path| -> Value {
            serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(sizes(&place.path("second"))["n_layer"], 2);
    }
}

/// The gradients and the loss of sequences with uneven masks do not depend on how they are split.
#[test]
fn every_target_counts_the_same_however_an_update_is_split() {
    let ids: Vec<u32> = (0..65).map(|i| i * i * 31 % 257).collect();
    let mut targets = ids[1..].to_vec();
    // 16, 1, 0 and 9 targets count in the four sequences.
    let masks = [16..16, 17..32, 32..48, 50..57];
    masks.into_iter().for_each(|mask| targets[mask].fill(IGNORE));
    let step = Step { learning_rate: 0.5, ..Step::default() };
    for (name, device) in devices() {
        let update = |parts: usize| {
            let (batch, training) = (4 / parts, Some(Optimizer::Sgd));
            let uses = Uses { batch, seq: 16, training, ..Uses::default() };
            let mut engine = Engine::new(&tiny(), uses, &device).unwrap();
            engine.initialize(11);
            let fill = |micro: usize, part: &mut MicroBatch| {
                let places = micro * batch * 16..(micro + 1) * batch * 16;
                part.tokens = ids[places.clone()].to_vec();
                part.targets = targets[places].to_vec();
                Ok(())
            };
            let all = engine.train_update(parts, &mut MicroBatch::default(), fill, step).unwrap();
            assert_eq!(all, 26, "{name}: the targets that count");
            engine
        };
        let mut whole = update(1);
        let loss = whole.read_update().unwrap().loss;
        assert!((f64::from(loss) - 257_f64.ln()).abs() < 0.5, "{name}: {loss}");
        for parts in [2, 4] {
            let mut split = update(parts);
            let theirs = split.read_update().unwrap().loss;
            assert!((theirs - loss).abs() <= 1e-6 * loss, "{name}, {parts} parts: {theirs} {loss}");
            for param in whole.program().params.clone().iter() {
                let want = whole.param_data(param, Tensor::Gradient).unwrap();
                let param = split.program().param(&param.name).unwrap().clone();
                let got = split.param_data(&param, Tensor::Gradient).unwrap();
                let most = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let worst = want.iter().zip(&got).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(worst <= 1e-6 * most, "{name}, {parts} parts, {}: {worst}", param.name);
            }
        }
    }
}

/// Without a target that counts there is no update: nothing changes, and it is no update of the optimiser either.
#[test]
fn an_update_without_a_target_changes_nothing() {
    for (name, device) in devices() {
        let training = Some(Optimizer::Adamw);
        let uses = Uses { batch: 1, seq: 16, training, ..Uses::default() };
        let mut engine = Engine::new(&tiny(), uses, &device).unwrap();
        engine.initialize(11);
        let step = Step { learning_rate: 0.5, weight_decay: 0.1, ..Step::default() };
        let update = |engine: &mut Engine, target: u32| {
            let mut batch = MicroBatch { tokens: vec![5; 16], ..MicroBatch::default() };
            let fill = |_: usize, batch: &mut MicroBatch| {
                batch.targets = vec![target; 16];
                Ok(())
            };
            engine.train_update(2, &mut batch, fill, step).unwrap()
        };
        assert_eq!(update(&mut engine, 7), 32);
        let state = |engine: &mut Engine| -> Vec<u32> {
            let mut bits = engine.read_state().unwrap().to_vec();
            for param in engine.program().params.clone().iter() {
                for tensor in [Tensor::Value, Tensor::Moment(0), Tensor::Moment(1)] {
                    let data = engine.param_data(param, tensor).unwrap();
                    bits.extend(data.into_iter().map(f32::to_bits));
                }
            }
            bits
        };
        let before = state(&mut engine);
        assert_eq!(update(&mut engine, IGNORE), 0);
        assert!(state(&mut engine) == before, "{name}: something changed");
    }
}

#[test]
fn two_half_batches_are_one_batch() {
    for (name, device) in devices() {
        let engine = |batch: usize| {
            let training = Some(Optimizer::Sgd);
            let uses = Uses { batch, seq: 16, training, ..Uses::default() };
            let mut engine = Engine::new(&tiny(), uses, &device).unwrap();
            engine.initialize(11);
            engine
        };
        let (mut whole, mut halves) = (engine(8), engine(4));
        let ids: Vec<u32> = (0..129).map(|i| i * i * 31 % 257).collect();
        let (x, y) = (&ids[..128], &ids[1..]);
        let step = Step { learning_rate: 0.5, grad_clip: 1.0, ..Step::default() };
        whole.train_batch(x, y, (0, 128), step);
        halves.train_batch(&x[..64], &y[..64], (0, 128), step);
        halves.train_batch(&x[64..], &y[64..], (1, 128), step);
        for tensor in [Tensor::Gradient, Tensor::Value] {
            if tensor == Tensor::Value {
                whole.update(&step);
                halves.update(&step);
                let (a, b) = (whole.read_update().unwrap(), halves.read_update().unwrap());
                assert!(
                    (a.loss - b.loss).abs() <= 1e-5 * a.loss,
                    "{name}: {} and {}",
                    a.loss,
                    b.loss
                );
                assert!((a.grad_norm - b.grad_norm).abs() <= 1e-5 * a.grad_norm, "{name}");
            }
            for param in whole.program().params.clone().iter() {
                let want = whole.param_data(param, tensor).unwrap();
                let theirs = halves.program().param(&param.name).unwrap().clone();
                let got = halves.param_data(&theirs, tensor).unwrap();
                let most = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                assert!(most > 0.0, "{name}: {} has a {tensor:?}", param.name);
                for (a, b) in want.iter().zip(&got) {
                    assert!((a - b).abs() <= 1e-5 * most, "{name}: {} {tensor:?}", param.name);
                }
            }
        }
    }
}
