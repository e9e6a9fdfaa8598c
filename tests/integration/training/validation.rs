//! Is the validation split bounded, kept by the run, and shown as it is gone through?

use std::fs;
use std::sync::Arc;

use assert_cmd::Command;
use wgpt::backend::Device;
use wgpt::checkpoint::read_metrics;
use wgpt::train::{Resumed, RunSettings, resume, start};
use wgpt::{Event, TrainConfig};

use crate::common::gpu;

use super::{Place, run_until, train};

/// Tokens to train on and to validate on, as a run says when it begins.
fn started(event: &Event) -> Option<(usize, usize)> {
    match event {
        Event::Started { train_tokens, val_tokens, .. } => Some((*train_tokens, *val_tokens)),
        _ => None,
    }
}

fn with(place: &Place, val_tokens: Option<usize>) -> RunSettings {
    let mut settings = place.settings();
    settings.train.val_tokens = val_tokens;
    settings
}

#[test]
fn the_split_has_its_bound_and_evaluations_tell_how_far_they_are() {
    let gpu = gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)));
    let losses = [Device::Cpu].into_iter().chain(gpu).map(split_and_progress);
    let losses: Vec<f64> = losses.collect();
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-4), "{losses:?}");
}

/// Checks both on a device; the loss of the whole split at the end, which a GPU reads late.
fn split_and_progress(device: Device) -> f64 {
    let place = Place::new();
    let len = fs::read(place.path("text.txt")).unwrap().len();
    let (mut split, mut seen) = (None, vec![]);
    let mut trainer = start(&with(&place, Some(201)), device, &mut |_| {}).unwrap();
    let summary = trainer
        .run(&mut |event| {
            split = split.or(started(event));
            if let Event::Evaluating { done, total } = event {
                seen.push((*done, *total));
            }
        })
        .unwrap();
    assert_eq!(split, Some((len - 201, 201)));
    // 200 targets are 13 windows of 16, in 5 batches of 3, at the end.
    let last = &seen[seen.len() - 6..];
    assert_eq!(last, (0..=5).map(|done| (done, 5)).collect::<Vec<_>>());
    let text = fs::read_to_string(place.run().join("run.json")).unwrap();
    assert!(text.contains("\"val_tokens\": 201"), "{text}");
    assert_eq!(TrainConfig::default().val_tokens, Some(1_000_000));
    summary.val_loss.expect("it was evaluated at the end")
}

/// So that the losses of one run can be compared.
#[test]
fn every_evaluation_is_of_the_same_batches() {
    let place = Place::new();
    let mut settings = place.settings();
    settings.train = TrainConfig {
        // The model stays as it is.
        learning_rate: 0.0,
        min_learning_rate: Some(0.0),
        eval_every: 1,
        eval_iters: 1,
        log_every: 1,
        ..settings.train
    };
    train(&settings, &Device::Cpu).unwrap();
    let metrics = read_metrics(&place.run()).unwrap();
    let losses: Vec<f64> = metrics.iter().filter_map(|line| line.val_loss).collect();
    // The last one is of the whole split.
    let on_the_way = &losses[..losses.len() - 1];
    assert!(on_the_way.len() > 2 && on_the_way.iter().all(|x| *x == losses[0]), "{losses:?}");
}

#[test]
fn a_run_of_an_older_version_keeps_its_whole_split() {
    let (whole, parts) = (Place::new(), Place::new());
    let wanted = train(&with(&whole, None), &Device::Cpu).unwrap();
    let mut trainer = start(&with(&parts, None), Device::Cpu, &mut |_| {}).unwrap();
    run_until(&mut trainer, 6).unwrap();
    drop(trainer);
    // As a version without the setting wrote it.
    let path = parts.run().join("run.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(json["train"].as_object_mut().unwrap().shift_remove("val_tokens").is_some());
    fs::write(&path, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
    let resumed = resume(&parts.run(), |_| Ok(Device::Cpu), &mut |_| {}).unwrap();
    let Resumed::Running(mut trainer) = resumed else { panic!("six updates are left") };
    let mut split = None;
    let got = trainer.run(&mut |event| split = split.or(started(event))).unwrap();
    let len = fs::read(parts.path("text.txt")).unwrap().len();
    assert_eq!(split.unwrap().1, len.div_ceil(10));
    assert_eq!(got.val_loss, wanted.val_loss);
    // More than a tenth is never taken.
    let config: TrainConfig = serde_json::from_str("{\"max_iters\": 3}").unwrap();
    assert_eq!(config.val_tokens, None);
}

#[test]
fn val_tokens_is_an_option_of_the_command_line_and_of_files() {
    let place = Place::new();
    let wgpt = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("wgpt").unwrap();
        command.current_dir(place.path("")).env("WGPT_CACHE", place.path("cache"));
        command.args(["train", "--data=text.txt", "--tokenizer=bytes", "--device=cpu", "--json"]);
        command.args(["--layers=1", "--heads=2", "--embd=8", "--context=16", "--max-iters=1"]);
        command.args(arguments).assert()
    };
    fs::write(place.path("run.toml"), "val-tokens = \"all\"\n").unwrap();
    for (arguments, kept) in [
        (&["--out=a"][..], "\"val_tokens\": 1000000"),
        (&["--out=b", "--val-tokens=77"], "\"val_tokens\": 77"),
        (&["--out=c", "--val-tokens", "all"], "\"val_tokens\": null"),
        (&["--out=d", "--config=run.toml"], "\"val_tokens\": null"),
    ] {
        let done = wgpt(arguments).success();
        let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        assert!(!said.contains("evaluating"), "quiet where there is no terminal: {said}");
        assert_eq!(
            said.contains("found the encoded data in"),
            !arguments.contains(&"--out=a"),
            "{said}"
        );
        let out = place.path(arguments[0].strip_prefix("--out=").unwrap());
        let text = fs::read_to_string(out.join("run.json")).unwrap();
        assert!(text.contains(kept), "{arguments:?}: {text}");
    }
    for wrong in ["0", "1", "-5", "many", "1.5"] {
        let refused = wgpt(&["--out=e", "--val-tokens", wrong]).code(2);
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(said.contains("--val-tokens"), "{wrong}: {said}");
        assert!(!place.path("e").exists());
    }
}
