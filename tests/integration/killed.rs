//! A process that is killed at any moment leaves a run that goes on bit for bit.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Instant;

use assert_cmd::Command;
use wgpt::Gpt;
use wgpt::backend::Device;
use wgpt::checkpoint::{moments, open_state, read_config};
use wgpt::model::parameters;

use crate::common::gpu;
use crate::training::{Place, assert_same, metrics};

/// A command of the program with its arguments.
fn wgpt(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("wgpt").unwrap();
    command.args(arguments).env("WGPT_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// The arguments that begin the run of a place.
fn train(place: &Place, device: &str) -> Vec<String> {
    let arguments = format!(
        "train --tokenizer bytes --layers 1 --heads 2 --embd 16 --context 16 --batch-size 2 \
         --grad-accum 2 --dropout 0.1 --max-iters 24 --eval-every 3 --eval-iters 2 --save-every 2 \
         --log-every 1 --device {device}"
    );
    let mut arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    let paths = [("--data", place.path("text.txt")), ("--out", place.run())];
    for (option, path) in paths {
        arguments.extend([option.to_owned(), path.to_string_lossy().into_owned()]);
    }
    arguments
}

/// Asserts that everything which a killed process left is whole.
fn assert_loadable(run: &Path) {
    let models = [run.join("best"), run.to_owned()].into_iter();
    for dir in models.filter(|dir| dir.join("model.safetensors").exists()) {
        if let Err(error) = Gpt::load(&dir, Device::Cpu) {
            panic!("{}: {error}", dir.display());
        }
    }
    let Ok(checkpoints) = fs::read_dir(run.join("checkpoints")) else { return };
    for dir in checkpoints.map(|entry| entry.unwrap().path()) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let Some(step) = name.strip_prefix("step-") else {
            assert!(name.starts_with('.'), "{name} is no checkpoint and not hidden");
            continue;
        };
        assert!(Gpt::load(&dir, Device::Cpu).is_ok(), "{name}: model");
        let config = read_config(&dir).unwrap();
        let (state, _) = open_state(&dir, &moments(&parameters(&config))).unwrap();
        assert_eq!(state.step.to_string(), step);
        let lines = metrics(run);
        assert!(lines.iter().any(|line| line["step"] == state.step), "{name} has its line");
    }
}

/// Whether a process did not end by itself. On Windows who kills gives the exit code, 1, which an error has, too.
fn was_killed(output: &Output) -> bool {
    let says_error = String::from_utf8_lossy(&output.stderr).contains("error:");
    output.status.code().is_none_or(|code| cfg!(windows) && code == 1 && !says_error)
}

/// Numbers from 0 to 1 without a pattern, the same in every run of the test.
fn draws(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Kills a run at moments drawn from `seed` until it is finished, and compares it with another that
/// nobody disturbed. The first kill comes within this share of the undisturbed time.
fn survives(device: &str, seed: u64, share: f64) {
    let (whole, again, parts) = (Place::new(), Place::new(), Place::new());
    wgpt(&[]).args(train(&whole, device)).assert().success();
    // The first run may have had kernels to compile, whose results are kept.
    let began = Instant::now();
    wgpt(&[]).args(train(&again, device)).assert().success();
    let undisturbed = began.elapsed();
    assert_same(&again.run(), &whole.run(), &format!("{device}, twice"));

    let mut draw = draws(seed);
    let run = parts.run();
    let (mut kills, mut patience) = (0, undisturbed.mul_f64(share));
    loop {
        let timeout = patience.mul_f64(0.1 + 0.9 * draw());
        // Longer each time, so that there is an end on a busy machine too.
        patience = patience.mul_f64(1.2);
        let arguments = match run.join("run.json").exists() {
            true => {
                vec!["train".to_owned(), "--resume".to_owned(), run.to_string_lossy().into_owned()]
            }
            false => train(&parts, device),
        };
        let output = wgpt(&[]).args(&arguments).timeout(timeout).output().unwrap();
        assert_loadable(&run);
        match output.status.code() {
            Some(0) => break,
            _ if was_killed(&output) => kills += 1,
            code => {
                let text = String::from_utf8_lossy(&output.stderr);
                panic!("{device}: exit code {code:?} after {kills} kills: {text}");
            }
        }
        assert!(kills < 200, "{device}: it never ends");
    }
    assert!(kills > 0, "{device}: nothing was killed");
    assert_same(&run, &whole.run(), &format!("{device}, {kills} kills, seed {seed}"));
    // And it is over: the program says so, and changes nothing.
    let resume = ["train", "--resume", &run.to_string_lossy(), "--json"].map(str::to_owned);
    wgpt(&[]).args(resume).assert().success();
    assert_same(&run, &whole.run(), "resumed when it was finished");
}

#[test]
fn a_killed_run_goes_on_bit_for_bit_on_the_cpu() {
    for seed in [1, 2] {
        survives("cpu", seed, 0.3);
    }
}

#[test]
fn a_killed_run_goes_on_bit_for_bit_on_a_gpu() {
    if gpu().is_none() {
        return;
    }
    // Kernels are timed first, so that all runs take the same variants, and as long.
    let tuned = |place: &Place| {
        let assert = wgpt(&[]).args(train(place, "gpu")).assert().success();
        !String::from_utf8_lossy(&assert.get_output().stderr).contains("timing the kernels")
    };
    assert!((0..20).any(|_| tuned(&Place::new())), "tuning has an end");
    survives("gpu", 3, 0.7);
}
