//! Do runs learn, stop, go on bit for bit, and fail with one clear error?

#[path = "training/dropout.rs"]
mod dropout;
#[path = "training/encoded.rs"]
mod encoded;
#[path = "training/evaluating.rs"]
mod evaluating;
#[path = "training/faults.rs"]
mod faults;
#[path = "training/learning.rs"]
mod learning;
#[path = "training/memory.rs"]
mod memory;
#[path = "training/resuming.rs"]
mod resuming;
#[path = "training/validation.rs"]
mod validation;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use wgpt::backend::Device;
use wgpt::backend::gpu::DeviceChoice;
use wgpt::data::stories;
use wgpt::train::{Resumed, RunSettings, resume, start};
use wgpt::{GptConfig, Result, Summary, TrainConfig, Trainer};

use crate::common::gpu;

/// Every device that a run is tested on, with its name.
pub fn devices() -> Vec<(&'static str, Device)> {
    let gpu = gpu().map(|device| ("gpu", Device::Gpu(Arc::clone(device))));
    [("cpu", Device::Cpu)].into_iter().chain(gpu).collect()
}

/// A model of two layers that trains in an instant.
pub fn tiny() -> GptConfig {
    GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 16,
        vocab_size: 257,
        n_positions: 16,
        ..GptConfig::small()
    }
}

/// A folder with a text and, once there is one, a run.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A folder with a text of 40 stories.
    pub fn new() -> Place {
        let dir = TempDir::new().unwrap();
        let text: Vec<String> = stories::stories(5, 40).collect();
        fs::write(dir.path().join("text.txt"), text.join("\n")).unwrap();
        Place { dir }
    }

    /// A file of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The run's folder.
    pub fn run(&self) -> PathBuf {
        self.path("run")
    }

    /// A run of 12 updates with everything on: dropout, accumulation, evaluations, saves.
    pub fn settings(&self) -> RunSettings {
        RunSettings {
            data: vec![self.path("text.txt").to_string_lossy().into_owned()],
            val_data: vec![],
            long: wgpt::chat::Long::Cut,
            tokenizer: "bytes".into(),
            model: tiny(),
            train: TrainConfig {
                max_iters: 12,
                batch_size: 3,
                grad_accum: 2,
                learning_rate: 1e-2,
                dropout: 0.1,
                eval_every: 5,
                eval_iters: 2,
                save_every: 4,
                log_every: 2,
                out: Some(self.run()),
                ..TrainConfig::default()
            },
            device: DeviceChoice::Cpu,
            threads: None,
            init: None,
            cache: None,
        }
    }
}

/// A run from its beginning to its end.
pub fn train(settings: &RunSettings, device: &Device) -> Result<Summary> {
    start(settings, device.clone(), &mut |_| {})?.run(&mut |_| {})
}

/// The summary of a run that is resumed, finished or not.
pub fn go_on(run: &Path, device: &Device) -> Result<Summary> {
    match resume(run, |_| Ok(device.clone()), &mut |_| {})? {
        Resumed::Running(mut trainer) => trainer.run(&mut |_| {}),
        Resumed::Finished(summary) => Ok(summary),
    }
}

/// Runs until `step` updates are made, then stops.
pub fn run_until(trainer: &mut Trainer, step: usize) -> Result<Summary> {
    trainer.stop_after(step);
    let result = trainer.run(&mut |_| {});
    trainer.stop_after(usize::MAX);
    result
}

/// All of a run's files, less what tells the time: two runs that did the same have the same.
pub fn contents(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    collect(run, "", &mut files);
    files.remove(".lock");
    files.remove("run.json");
    for (name, bytes) in &mut files {
        let timeless = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            let fields = value.as_object_mut().unwrap();
            fields.remove("tokens_per_s");
            fields.remove("mfu");
            fields.remove("exchange");
            fields.remove("seconds");
            format!("{value}\n")
        };
        let text = || String::from_utf8(bytes.clone()).unwrap();
        if name == "metrics.jsonl" {
            *bytes = text().lines().map(timeless).collect::<String>().into_bytes();
        } else if name.ends_with("train_state.json") {
            *bytes = timeless(&text()).into_bytes();
        }
    }
    files
}

fn collect(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(path).unwrap());
        }
    }
}

/// Asserts that two runs' folders hold the same, and names the first file that differs.
pub fn assert_same(got: &Path, want: &Path, what: &str) {
    let (got, want) = (contents(got), contents(want));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(&want), "{what}: files");
    let is_model =
        |name: &String| name == "model.safetensors" || name == "adapter_model.safetensors";
    assert!(want.keys().any(is_model), "{what}: there is a model");
    for (name, bytes) in &want {
        assert!(got[name] == *bytes, "{what}: {name} differs");
    }
}

/// The lines of metrics.jsonl.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
