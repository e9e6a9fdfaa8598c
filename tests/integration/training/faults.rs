//! Whatever is wrong is one clear error, and nothing that was learned is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use wgpt::backend::Device;
use wgpt::config::Optimizer;
use wgpt::data::{TokenWriter, Tokens};
use wgpt::engine::{Engine, Tensor};
use wgpt::error::Kind;
use wgpt::model::Uses;
use wgpt::train::{MAX_SKIPPED, RunSettings, start};
use wgpt::{Error, Event, GenerateOptions, Gpt, GptConfig, TrainConfig, Trainer};

use crate::common::{json, oracle};

use crate::common::{gpu, new_gpu};

use super::{Place, assert_same, contents, devices, go_on, metrics, run_until, tiny, train};

/// The oracle's bad model folders, each with what its error must say: one word of each list.
fn bad_models() -> Vec<(PathBuf, Vec<Vec<String>>)> {
    let list = json(&oracle().join("bad/bad.json"));
    let cases = list["cases"].as_array().unwrap().iter();
    let whole =
        |case: &Value| oracle().join(case["path"].as_str().unwrap()).join("config.json").exists();
    let kinds = ["checkpoint", "config"];
    let models = cases.filter(|case| whole(case) || kinds.iter().any(|kind| case["kind"] == *kind));
    let words = |case: &Value| serde_json::from_value(case["must_mention"].clone()).unwrap();
    let path = |case: &Value| oracle().join(case["path"].as_str().unwrap());
    models.map(|case| (path(case), words(case))).collect()
}

#[test]
fn the_first_model_is_looked_at_before_tokenizer_and_data() {
    for (init, words) in bad_models() {
        let place = Place::new();
        let mut settings = place.settings();
        (settings.init, settings.tokenizer) = (Some(init.clone()), "train".into());
        settings.data = vec!["/no/such".into()];
        let error = train(&settings, &Device::Cpu).unwrap_err();
        // The folder's own name often holds the words looked for.
        let text = error.to_string().replace(init.to_str().unwrap(), "").to_lowercase();
        for any in words {
            let said = any.iter().any(|word| text.contains(&word.to_lowercase()));
            assert!(said, "{}: one of {any:?} in {error}", init.display());
        }
    }
    // A sound model without a tokenizer: that is the next fault, before the data are read.
    let place = Place::new();
    let mut settings = place.settings();
    (settings.init, settings.tokenizer) = (Some(oracle().join("bad/control_ok")), "train".into());
    settings.train.seq_len = Some(1);
    let error = train(&settings, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("has no tokenizer"), "{error}");
    settings.tokenizer = "/no/such".into();
    settings.data = vec!["/nor/this".into()];
    let error = train(&settings, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
}

#[test]
fn what_no_machine_holds_is_refused_before_the_data_are_encoded() {
    let place = Place::new();
    let mut settings = place.settings();
    settings.model = GptConfig { n_embd: 1 << 16, n_layer: 100, ..tiny() };
    let error = start(&settings, Device::Cpu, &mut |event| panic!("{event:?}")).err().unwrap();
    assert_eq!(error.kind(), Kind::Device, "{error}");
    assert!(!place.run().exists());
}

/// A run in memory over ids that nothing is special about.
fn in_memory(device: &Device, config: TrainConfig) -> Trainer {
    let ids: Vec<u32> = (0..2000).map(|i| i * i * 7 % 257).collect();
    let gpt = Gpt::new(tiny(), device.clone(), 5).unwrap();
    Trainer::new(gpt, Tokens::from_ids(ids), config).unwrap()
}

/// Overwrites one number of a parameter and returns what was there.
fn poke(trainer: &mut Trainer, name: &str, index: usize, value: f32) -> f32 {
    let engine = trainer.engine();
    let param = engine.program().param(name).unwrap().clone();
    let mut data = engine.param_data(&param, Tensor::Value).unwrap();
    let old = std::mem::replace(&mut data[index], value);
    let fill = |start: usize, out: &mut [f32]| {
        out.copy_from_slice(&data[start..start + out.len()]);
        Ok(())
    };
    engine.write_param(&param, Tensor::Value, fill).unwrap();
    old
}

/// The bits of all parameters and moments.
fn bits(trainer: &mut Trainer) -> Vec<u32> {
    let engine = trainer.engine();
    let mut all = vec![];
    for param in engine.program().params.clone().iter() {
        for tensor in [Tensor::Value, Tensor::Moment(0), Tensor::Moment(1)] {
            all.extend(engine.param_data(param, tensor).unwrap().into_iter().map(f32::to_bits));
        }
    }
    all
}

#[test]
fn what_is_not_finite_never_reaches_the_weights() {
    for (name, device) in devices() {
        let config = TrainConfig { max_iters: 40, log_every: 1, ..TrainConfig::default() };
        let mut trainer = in_memory(&device, config);
        run_until(&mut trainer, 3).unwrap();
        let old = poke(&mut trainer, "h.1.mlp.c_fc.weight", 5, f32::INFINITY);
        let before = bits(&mut trainer);
        run_until(&mut trainer, 5).unwrap();
        assert!(bits(&mut trainer) == before, "{name}: two updates were skipped");

        // A spike that passes: the run goes on, and has counted.
        poke(&mut trainer, "h.1.mlp.c_fc.weight", 5, old);
        let mut skipped = vec![];
        trainer.stop_after(8);
        trainer
            .run(&mut |event| {
                if let Event::Step(report) = event {
                    skipped.push(report.skipped);
                    assert!(report.loss.unwrap().is_finite());
                }
            })
            .unwrap();
        assert_eq!(skipped, [2; 3], "{name}");
        assert!(bits(&mut trainer) != before, "{name}: it learns again");

        // One that does not pass.
        trainer.stop_after(usize::MAX);
        poke(&mut trainer, "ln_f.weight", 0, f32::NAN);
        let before = bits(&mut trainer);
        let mut last = None;
        let error = trainer
            .run(&mut |event| {
                if let Event::Step(report) = event {
                    last = Some(*report);
                }
            })
            .unwrap_err();
        let last = last.unwrap();
        assert_eq!(
            (last.step, last.skipped),
            (8 + MAX_SKIPPED as usize, 2 + MAX_SKIPPED),
            "{name}"
        );
        assert_eq!(error.kind(), Kind::Training);
        for words in ["the loss was not finite in 10 updates in a row", "step 18"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(error.advice().unwrap().contains("lower learning_rate"), "{error:?}");
        assert!(bits(&mut trainer) == before, "{name}: the parameters are as before");
    }
}

#[test]
fn a_run_that_blows_up_stops_with_the_cause() {
    let place = Place::new();
    let mut settings = place.settings();
    settings.train = TrainConfig {
        max_iters: 200,
        optimizer: Optimizer::Sgd,
        learning_rate: 1e3,
        min_learning_rate: Some(1e3),
        grad_clip: 0.0,
        warmup: Some(0),
        weight_decay: 1e3,
        log_every: 1,
        save_every: 1,
        eval_every: 0,
        out: Some(place.run()),
        ..TrainConfig::default()
    };
    let error = train(&settings, &Device::Cpu).unwrap_err();
    assert_eq!(error.kind(), Kind::Training, "{error}");
    assert!(error.to_string().contains("not finite in 10 updates in a row"), "{error}");
    let lines = metrics(&place.run());
    assert!(lines.iter().any(|line| line["loss"].is_null() || line["grad_norm"].is_null()));
    // And again when it is resumed: never an endless loop, never a panic.
    assert!(go_on(&place.run(), &Device::Cpu).is_err());
}

/// A run of 8 updates, of which those after the first few are skipped: fewer than stop a run on the way.
fn astray(place: &Place) -> RunSettings {
    let mut settings = place.settings();
    settings.train = TrainConfig {
        max_iters: 8,
        optimizer: Optimizer::Sgd,
        learning_rate: 1e3,
        grad_clip: 0.0,
        weight_decay: 1e3,
        warmup: Some(0),
        eval_every: 0,
        out: Some(place.run()),
        ..TrainConfig::default()
    };
    settings
}

#[test]
fn a_run_that_ends_with_a_loss_that_is_not_finite_fails() {
    let place = Place::new();
    for (evaluations, saves) in [(0, 0), (1, 5)] {
        let mut settings = astray(&place);
        (settings.train.eval_every, settings.train.save_every) = (evaluations, saves);
        let error = train(&settings, &Device::Cpu).unwrap_err();
        assert_eq!(error.kind(), Kind::Training, "{error}");
        assert!(error.to_string().contains("not finite after 8 updates"), "{error}");
        let (hint, run) = (error.advice().unwrap(), place.run());
        assert_eq!(hint.contains("by init"), evaluations > 0, "{hint}");
        assert_eq!(
            run.join("best").exists(),
            evaluations > 0,
            "what was never finite is not the best"
        );
        assert_eq!(run.join("model.safetensors").exists(), saves > 0);
        let lines = metrics(&run);
        assert!(lines.last().unwrap()["skipped"].as_u64() > Some(0), "{lines:?}");
        // It is not finished, and going on with it ends in the same way.
        assert!(go_on(&run, &Device::Cpu).unwrap_err().to_string().contains("not finite"));
        if saves > 0 {
            let mut gpt = Gpt::load(&run, Device::Cpu).unwrap();
            for temperature in [0.0, 1.0] {
                let options = GenerateOptions { temperature, ..GenerateOptions::default() };
                let error = gpt.generate("The", &options).unwrap_err();
                assert!(error.to_string().contains("logits are not finite"), "{error}");
            }
        }
        fs::remove_dir_all(run).unwrap();
    }
}

/// Starts a run that cannot begin; afterwards its folder is as if it had not been tried.
fn refused(change: impl FnOnce(&mut RunSettings, &Place)) -> Error {
    let place = Place::new();
    let mut settings = place.settings();
    change(&mut settings, &place);
    let error = train(&settings, &Device::Cpu).unwrap_err();
    assert!(!place.run().exists(), "{error}: nothing is left");
    assert!(!error.to_string().contains('\n'), "{error}: one sentence");
    assert!(train(&place.settings(), &Device::Cpu).unwrap().finished, "the same --out works");
    error
}

#[test]
fn what_cannot_begin_leaves_nothing() {
    let says = |error: Error, words: &[&str]| {
        for word in words {
            let all = format!("{error} ({:?})", error.advice());
            assert!(all.contains(word), "{word:?} in {all}");
        }
    };
    let short = |text: &'static str| {
        refused(move |settings, place| {
            fs::write(place.path("short.txt"), text).unwrap();
            settings.data = vec![place.path("short.txt").to_string_lossy().into_owned()];
        })
    };
    says(short("A cat."), &["short.txt", "too short", "17", "seq_len"]);
    says(short("The cat sat on"), &["short.txt", "too short"]);
    says(short("  "), &["short.txt", "too short"]);
    says(refused(|s, _| s.data = vec!["/no/such".into()]), &["/no/such", "stories"]);
    says(refused(|s, _| s.data = vec![]), &["no data", "stories"]);
    says(refused(|s, _| s.tokenizer = "/no/such".into()), &["/no/such"]);
    says(refused(|s, _| s.init = Some("/no/such".into())), &["/no/such"]);
    says(refused(|s, _| s.model.n_head = 3), &["n_head 3 does not divide"]);
    says(refused(|s, _| s.train.learning_rate = 1e30), &["learning_rate is 1000000", "0 to 1000"]);
    says(refused(|s, _| s.train.learning_rate = f64::NAN), &["learning_rate is NaN"]);
    says(refused(|s, _| s.train.seq_len = Some(17)), &["seq_len is 17", "16"]);
    says(refused(|s, _| s.train.seq_len = Some(0)), &["seq_len is 0"]);
    says(refused(|s, _| s.train.eval_iters = 0), &["eval_iters is 0"]);
    says(refused(|s, _| s.train.batch_size = usize::MAX), &["batch_size times seq_len", "at most"]);
    says(refused(|s, _| s.train.grad_accum = usize::MAX), &["grad_accum", "at most"]);
    says(refused(|s, _| s.train.max_iters = usize::MAX), &["max_iters", "at most"]);
    says(refused(|s, _| s.train.warmup = Some(usize::MAX)), &["warmup", "at most"]);
    says(refused(|s, _| s.train.eval_iters = 1 << 62), &["eval_iters", "at most"]);
}

#[test]
fn unusual_settings_make_a_run() {
    let trains = |change: fn(&mut RunSettings)| {
        let place = Place::new();
        let mut settings = place.settings();
        change(&mut settings);
        let summary = train(&settings, &Device::Cpu).unwrap();
        assert!(summary.finished && summary.val_loss.is_some_and(f64::is_finite), "{settings:?}");
        assert!(go_on(&place.run(), &Device::Cpu).unwrap() == summary);
    };
    trains(|s| (s.train.keep, s.train.eval_every, s.train.save_every) = (0, 0, 0));
    trains(|s| s.train.seq_len = Some(1));
    trains(|s| (s.train.max_iters, s.train.log_every) = (1, 1000));
    trains(|s| s.train.warmup = Some(1000));
    // A batch of more windows than the data has tokens; a validation split shorter than a window.
    trains(|s| (s.train.batch_size, s.train.grad_accum, s.train.max_iters) = (2000, 1, 1));
    let place = Place::new();
    let mut settings = place.settings();
    let text = fs::read_to_string(&settings.data[0]).unwrap();
    fs::write(&settings.data[0], &text[..60]).unwrap();
    settings.train.eval_every = 1;
    assert!(train(&settings, &Device::Cpu).unwrap().val_loss.is_some());
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let place = Place::new();
    train(&place.settings(), &Device::Cpu).unwrap();
    let before = contents(&place.run());
    let error = train(&place.settings(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("holds a run already"), "{error}");
    assert!(error.advice().unwrap().contains("by resume"), "{error:?}");
    assert!(contents(&place.run()) == before);

    let other = Place::new();
    fs::create_dir(other.run()).unwrap();
    fs::write(other.run().join("tokens.bin"), "mine").unwrap();
    let error = train(&other.settings(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    assert_eq!(fs::read_to_string(other.run().join("tokens.bin")).unwrap(), "mine");
    assert!(go_on(&other.run(), &Device::Cpu).unwrap_err().to_string().contains("holds no run"));
}

#[test]
fn one_process_at_a_time() {
    let place = Place::new();
    let mut trainer = start(&place.settings(), Device::Cpu, &mut |_| {}).unwrap();
    for error in [
        go_on(&place.run(), &Device::Cpu).unwrap_err(),
        train(&place.settings(), &Device::Cpu).unwrap_err(),
    ] {
        let words = ["another process trains", "holds a run already"];
        assert!(words.iter().any(|word| error.to_string().contains(word)), "{error}");
    }
    assert!(trainer.run(&mut |_| {}).unwrap().finished, "the first is not disturbed");
}

/// A run stopped after 6 of 12 updates, damaged, refused with these words, mended, and finished.
fn damaged(words: &[&str], damage: impl FnOnce(&Path), mend: impl FnOnce(&Path)) {
    let (whole, parts) = (Place::new(), Place::new());
    train(&whole.settings(), &Device::Cpu).unwrap();
    let mut trainer = start(&parts.settings(), Device::Cpu, &mut |_| {}).unwrap();
    run_until(&mut trainer, 6).unwrap();
    drop(trainer);
    let run = parts.run();
    let saved = run.join("saved");
    for name in ["run.json", "tokens.bin"] {
        fs::create_dir_all(&saved).unwrap();
        fs::copy(run.join(name), saved.join(name)).unwrap();
    }
    damage(&run);
    let error = go_on(&run, &Device::Cpu).unwrap_err();
    for word in words {
        let all = format!("{error} ({:?})", error.advice());
        assert!(all.contains(word), "{word:?} in {all}");
    }
    mend(&run);
    fs::remove_dir_all(&saved).unwrap();
    assert!(go_on(&run, &Device::Cpu).unwrap().finished, "{words:?}");
    for place in [&whole, &parts] {
        for step in [6, 8] {
            let _ = fs::remove_dir_all(place.run().join(format!("checkpoints/step-{step}")));
        }
    }
    assert_same(&run, &whole.run(), &format!("{words:?}"));
}

/// Puts back a file that [`damaged`] has saved.
fn restore(run: &Path, name: &str) {
    fs::copy(run.join("saved").join(name), run.join(name)).unwrap();
}

/// Changes a text in run.json.
fn edit(run: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(run.join("run.json")).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(run.join("run.json"), text.replace(from, to)).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_goes_on() {
    let newest = |run: &Path| run.join("checkpoints/step-6");
    let remove = |run: &Path| fs::remove_dir_all(run.join("checkpoints/step-6")).unwrap();
    damaged(
        &["train_state.safetensors", "remove the folder", "step-6"],
        |run| cut(&newest(run).join("train_state.safetensors")),
        remove,
    );
    damaged(
        &["train_state.json", "damaged", "remove the folder"],
        |run| cut(&newest(run).join("train_state.json")),
        remove,
    );
    damaged(
        &["model.safetensors", "remove the folder"],
        |run| cut(&newest(run).join("model.safetensors")),
        remove,
    );
    damaged(
        &["step-9", "state of step 6"],
        |run| fs::rename(newest(run), run.join("checkpoints/step-9")).unwrap(),
        |run| fs::rename(run.join("checkpoints/step-9"), newest(run)).unwrap(),
    );
}

#[test]
fn edited_settings_and_data_are_refused() {
    let back = |run: &Path| restore(run, "run.json");
    damaged(
        &["n_layer is 3 in run.json", "2"],
        |run| edit(run, "\"n_layer\": 2", "\"n_layer\": 3"),
        back,
    );
    damaged(&["the seed is 7 in run.json"], |run| edit(run, "\"seed\": 1337", "\"seed\": 7"), back);
    damaged(&["train_state.safetensors"], |run| edit(run, "\"adamw\"", "\"sgd\""), back);
    damaged(&["run.json"], |run| cut(&run.join("run.json")), back);
    damaged(
        &["run.json", "line 7", "expected"],
        |run| edit(run, "\"n_layer\": 2", "\"n_layer\": \"x\""),
        back,
    );
    let tokens = |run: &Path| restore(run, "tokens.bin");
    damaged(&["tokens.bin", "remove"], |run| cut(&run.join("tokens.bin")), tokens);
    // Sound data that are not those of the run.
    let others = |run: &Path| {
        let path = run.join("tokens.bin");
        let tokens = Tokens::open(&path).unwrap();
        let mut ids = vec![0; tokens.len()];
        tokens.copy_to(0..tokens.len(), &mut ids);
        drop(tokens);
        ids.reverse();
        let vocab = *ids.iter().max().unwrap() as usize + 1;
        let mut writer = TokenWriter::create(&path, vocab).unwrap();
        writer.push(&ids).unwrap();
        writer.finish().unwrap();
    };
    damaged(&["tokens.bin", "was changed"], others, tokens);
    // Data that are missing are encoded again.
    let again = |run: &Path| fs::remove_file(run.join("tokens.bin")).unwrap();
    damaged(&["tokens.bin"], |run| cut(&run.join("tokens.bin")), again);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    // Each of these fails in the middle of a run: the log, a checkpoint, the best model.
    type Change = fn(&Path);
    let faults: [(&str, Change, Change); 3] = [
        (
            "metrics.jsonl",
            |run| {
                fs::rename(run.join("metrics.jsonl"), run.join("aside")).unwrap();
                std::os::unix::fs::symlink("/dev/full", run.join("metrics.jsonl")).unwrap();
            },
            |run| fs::rename(run.join("aside"), run.join("metrics.jsonl")).unwrap(),
        ),
        (
            "checkpoints",
            |run| {
                fs::rename(run.join("checkpoints"), run.join("aside")).unwrap();
                fs::write(run.join("checkpoints"), "in the way").unwrap();
            },
            |run| {
                fs::remove_file(run.join("checkpoints")).unwrap();
                fs::rename(run.join("aside"), run.join("checkpoints")).unwrap();
            },
        ),
        (
            "loss.svg",
            |run| {
                fs::remove_file(run.join("loss.svg")).unwrap();
                fs::create_dir_all(run.join("loss.svg/in the way")).unwrap();
            },
            |run| fs::remove_dir_all(run.join("loss.svg")).unwrap(),
        ),
    ];
    for (what, damage, mend) in faults {
        let (whole, parts) = (Place::new(), Place::new());
        train(&whole.settings(), &Device::Cpu).unwrap();
        let mut trainer = start(&parts.settings(), Device::Cpu, &mut |_| {}).unwrap();
        let run = parts.run();
        let error = trainer
            .run(&mut |event| {
                if matches!(event, Event::Step(report) if report.step == 5) {
                    damage(&run);
                }
            })
            .unwrap_err();
        drop(trainer);
        assert!(error.to_string().contains(what), "{error}");
        mend(&run);
        assert!(go_on(&run, &Device::Cpu).unwrap().finished);
        assert_same(&run, &whole.run(), what);
    }
}

#[test]
fn a_model_that_no_machine_holds_is_refused() {
    let config = GptConfig { n_embd: 1 << 16, n_layer: 100, ..tiny() };
    let mut gpt = Gpt::new(config, Device::Cpu, 1).unwrap();
    let options = GenerateOptions::default();
    let generating = gpt.generate_ids(&[1], &options).expect_err("too large");
    let tokens = Tokens::from_ids(vec![1; 1000]);
    let training = Trainer::new(gpt, tokens, TrainConfig::default()).err().expect("too large");
    for (error, advice) in [(generating, "a smaller model"), (training, "batch_size")] {
        assert_eq!(error.kind(), Kind::Device, "{error}");
        assert!(error.to_string().contains("GiB"), "{error}");
        assert!(error.advice().unwrap().contains(advice), "{error}");
    }
}

#[test]
fn a_run_whose_device_is_lost_goes_on_from_its_last_save() {
    let Some(device) = new_gpu(None) else { return };
    let gpu = Device::Gpu(Arc::clone(&device));
    let (whole, cut) = (Place::new(), Place::new());
    train(&whole.settings(), &gpu).unwrap();
    let mut trainer = start(&cut.settings(), gpu, &mut |_| {}).unwrap();
    // In the middle of a save there is no event; just before one is as near as a test comes.
    let error = trainer.run(&mut |event| {
        if matches!(event, Event::Step(report) if report.step == 8) {
            device.lose();
        }
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Device, "{error}");
    assert!(error.advice().is_some(), "{error}");
    drop(trainer);
    let again = Device::Gpu(new_gpu(None).unwrap());
    assert!(go_on(&cut.run(), &again).unwrap().finished);
    assert_same(&cut.run(), &whole.run(), "after a lost device");
}

/// Set in the process that does nothing but this test, in an address space with an end.
const ALONE: &str = "WGPT_TEST_ALONE";

/// A driver that refuses memory is an error, and neither the device nor the run is lost by it.
#[cfg(target_os = "linux")]
#[test]
fn a_model_that_the_driver_has_no_memory_for_is_refused_and_a_run_goes_on() {
    if std::env::var_os(ALONE).is_some() {
        return exhaust();
    }
    let name = "a_model_that_the_driver_has_no_memory_for_is_refused_and_a_run_goes_on";
    let limited = "ulimit -v 8000000; exec \"$0\" \"$@\"";
    assert_cmd::Command::new("sh")
        .args(["-c", limited, std::env::current_exe().unwrap().to_str().unwrap(), "--exact"])
        .args([&format!("training::faults::{name}"), "--nocapture"])
        .env(ALONE, "1")
        .timeout(std::time::Duration::from_secs(120))
        .assert()
        .success();
}

/// Asks for 61 GiB beside a run, in an address space of 8.
fn exhaust() {
    let Some(device) = gpu() else { return };
    let device = Device::Gpu(Arc::clone(device));
    let (whole, cut) = (Place::new(), Place::new());
    train(&whole.settings(), &device).unwrap();
    let mut trainer = start(&cut.settings(), device.clone(), &mut |_| {}).unwrap();
    run_until(&mut trainer, 6).unwrap();
    let large = GptConfig { n_layer: 80, n_embd: 2048, n_head: 16, ..tiny() };
    let uses = Uses::training(&TrainConfig::default(), &large);
    let error = Engine::new(&large, uses, &device).err().expect("it does not fit");
    println!("{error} ({:?})", error.advice());
    assert_eq!(error.kind(), Kind::Device);
    assert!(error.to_string().contains("GiB") && error.to_string().contains("Memory"), "{error}");
    for option in ["batch_size", "recompute", "precision"] {
        assert!(error.advice().unwrap().contains(option), "{error:?}");
    }
    drop(trainer);
    assert!(go_on(&cut.run(), &device).unwrap().finished);
    assert_same(&cut.run(), &whole.run(), "after a refusal");
}
