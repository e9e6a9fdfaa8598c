//! Do ranks learn as PyTorch does? Its accumulated training trajectories, on the grids of ranks that their sizes allow.
//!
//! Whole runs are compared, by the losses and norms that they log and the model that they save. A run draws the windows of
//! its updates at random places of its data: the reference's sequences are put at these places beforehand.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use wgpt::TrainConfig;
use wgpt::backend::Device;
use wgpt::backend::gpu::DeviceChoice;
use wgpt::checkpoint::{read_config, read_metrics};
use wgpt::config::Sum;
use wgpt::data::{self, Place, TokenWriter, Tokens};
use wgpt::train::{RunSettings, TokenizerChoice};

use crate::common::{On, Tensors, assert_relative, gpu, json, oracle};
use crate::oracle::{compare_update, compare_weights, settings};
use crate::ranks::begin;

/// The tokens of a run's validation split, whose loss nobody compares.
const VALIDATION: usize = 64;

/// The ranks of a run: replicas of each stage, stages, and how the replicas add gradients and keep moments.
#[derive(Clone, Copy, Debug)]
struct Grid {
    replicas: usize,
    stages: usize,
    sum: Sum,
    zero: bool,
}

/// Ranks that each have the whole model.
fn replicas(replicas: usize) -> Grid {
    Grid { replicas, stages: 1, sum: Sum::Exact, zero: false }
}

/// The reference's run.
struct Reference {
    name: &'static str,
    expected: Value,
    tensors: Tensors,
    /// The folder of the model that it starts from.
    model: PathBuf,
    /// The sequences (update, row, T) and their next tokens.
    tokens: Vec<u32>,
    targets: Vec<u32>,
    updates: usize,
    /// Sequences of an update, and tokens of each.
    rows: usize,
    seq: usize,
    micro_batches: usize,
}

impl Reference {
    fn open(name: &'static str) -> Reference {
        let expected = json(&oracle().join(format!("{name}.json")));
        let tensors = Tensors::open(&oracle().join(format!("{name}.safetensors")));
        let shape = tensors.shape("batches.tokens");
        let (tokens, targets) = (tensors.ids("batches.tokens"), tensors.ids("batches.targets"));
        let (updates, seq) = (shape[0], *shape.last().expect("a shape"));
        let model = oracle().join(expected["model"].as_str().expect("a name"));
        let micro_batches = expected["micro_batches"].as_u64().expect("a number") as usize;
        let rows = tokens.len() / updates / seq;
        assert!(micro_batches > 1 && rows.is_multiple_of(micro_batches), "{name}: {shape:?}");
        Reference {
            name,
            expected,
            tensors,
            model,
            tokens,
            targets,
            updates,
            rows,
            seq,
            micro_batches,
        }
    }

    fn layers(&self) -> usize {
        read_config(&self.model).expect("a sound model").n_layer
    }

    /// Where a run with this seed draws the window of each sequence, of data of `len` tokens.
    fn places(&self, seed: u64, micro_batches: usize, len: usize) -> Vec<usize> {
        // Tokens that are their own places.
        let tokens = Tokens::from_ids((0..len as u32).collect());
        let range = tokens.split(Some(VALIDATION)).0;
        let shape = (self.rows / micro_batches, self.seq);
        let mut places = vec![];
        for step in 0..self.updates as u64 {
            for micro in 0..micro_batches as u64 {
                let mut x = vec![0; shape.0 * shape.1];
                let mut y = x.clone();
                let place = Place { seed, step, micro };
                data::batch(&tokens, range.clone(), place, shape, &mut x, &mut y).expect("room");
                places.extend(x.chunks(self.seq).map(|row| row[0] as usize));
            }
        }
        places
    }

    /// Writes data of which a run draws the reference's sequences, in the reference's order; returns the run's seed.
    fn write_data(&self, path: &Path, micro_batches: usize) -> u64 {
        let window = self.seq + 1;
        let sequences = self.updates * self.rows;
        // Few enough for their room that some seed draws no two windows that overlap.
        let len = sequences * sequences * window;
        let apart = |seed: &u64| {
            let mut places = self.places(*seed, micro_batches, len);
            places.sort_unstable();
            places.windows(2).all(|two| two[1] - two[0] >= window)
        };
        let seed = (0..1000).find(apart).expect("a seed whose windows do not overlap");
        let mut ids = vec![0; len];
        let places = self.places(seed, micro_batches, len);
        let rows = self.tokens.chunks(self.seq).zip(self.targets.chunks(self.seq));
        for (place, (tokens, targets)) in places.into_iter().zip(rows) {
            assert_eq!(tokens[1..], targets[..self.seq - 1], "targets are the next tokens");
            ids[place..][..self.seq].copy_from_slice(tokens);
            ids[place + self.seq] = targets[self.seq - 1];
        }
        let vocabulary = read_config(&self.model).expect("a sound model").vocab_size;
        let mut writer = TokenWriter::create(path, vocabulary).expect("a file");
        writer.push(&ids).and_then(|()| writer.finish()).expect("it is written");
        seed
    }

    /// Follows the trajectory on each of some grids, with updates of so many micro-batches.
    fn follow(&self, micro_batches: usize, grids: &[Grid], device: &Device) {
        let place = TempDir::new().expect("a folder");
        let file = place.path().join("reference.bin");
        let seed = self.write_data(&file, micro_batches);
        for (i, grid) in grids.iter().enumerate() {
            let run = place.path().join(format!("run-{i}"));
            let train = TrainConfig {
                batch_size: self.rows / micro_batches,
                seq_len: Some(self.seq),
                grad_accum: micro_batches,
                seed,
                sum: grid.sum,
                zero: grid.zero,
                pipeline: grid.stages,
                eval_every: 0,
                val_tokens: Some(VALIDATION),
                save_every: 0,
                log_every: 1,
                out: Some(run.clone()),
                ..settings(&self.expected["hyper"])
            };
            assert_eq!(train.max_iters, self.updates, "{}: the run ends as it does", self.name);
            let settings = RunSettings {
                data: vec![file.to_string_lossy().into_owned()],
                val_data: vec![],
                long: wgpt::chat::Long::Cut,
                tokenizer: TokenizerChoice::default(),
                model: read_config(&self.model).expect("a sound model"),
                train,
                device: DeviceChoice::Cpu,
                threads: None,
                init: Some(self.model.clone()),
                cache: None,
            };
            let what = format!("{} {grid:?} of {micro_batches}", self.name);
            let summary = begin(&settings, grid.replicas * grid.stages, device);
            assert!(summary.unwrap_or_else(|e| panic!("{what}: {e}")).finished, "{what}");
            let on = if matches!(device, Device::Cpu) { On::Cpu } else { On::Gpu };
            self.compare(&what, &run, on);
        }
    }

    /// Compares what a run has logged and saved.
    fn compare(&self, what: &str, run: &Path, on: On) {
        let lines = read_metrics(run).expect("its lines");
        let steps = self.expected["steps"].as_array().expect("steps");
        assert_eq!((lines.len(), steps.len()), (self.updates, self.updates), "{what}");
        let mut learned = 0.0;
        for (line, want) in lines.iter().zip(steps) {
            let what = format!("{what} update {} ", line.step);
            let numbers = [line.loss, line.grad_norm].map(|x| f64::from(x.expect("a number")));
            compare_update(&what, numbers.into(), want, on);
            assert_relative(&what, line.lr, want["lr"].as_f64().expect("a number"), 1e-12);
            learned += line.lr;
        }
        let saved = std::fs::read_dir(run.join("checkpoints")).expect("checkpoints");
        let saved: Vec<PathBuf> = saved.map(|entry| entry.expect("a folder").path()).collect();
        assert_eq!(saved.len(), 1, "{what}: {saved:?}");
        let config = read_config(&saved[0]).expect("a sound model");
        let saved = Tensors::open(&saved[0].join("model.safetensors"));
        let mut read = |name: &str| {
            let its = |own: &&str| own.strip_prefix("transformer.").unwrap_or(own) == name;
            saved.get(saved.names().find(its).unwrap_or(name)).to_vec()
        };
        let sizes = (config.n_embd, learned);
        let compared = compare_weights(&mut read, &self.tensors, on, sizes);
        assert_eq!(compared, saved.names().count(), "{what}");
    }

    /// The whole model on each of some numbers of ranks: fast, and exact with split moments, which have the bits of whole ones.
    fn without_stages(&self, counts: RangeInclusive<usize>) -> Vec<Grid> {
        let variants = |n| {
            let fast = Grid { sum: Sum::Fast, ..replicas(n) };
            [fast, Grid { zero: true, ..replicas(n) }]
        };
        counts.flat_map(variants).collect()
    }

    /// Pipelines of each number of stages, as many beside each other as `counts` says.
    fn with_stages(&self, counts: RangeInclusive<usize>) -> Vec<Grid> {
        let grid = |stages| counts.clone().map(move |n| Grid { stages, ..replicas(n) });
        (2..=self.layers()).flat_map(grid).collect()
    }
}

fn on_every_grid(name: &'static str) {
    let reference = Reference::open(name);
    let n = reference.micro_batches;
    let grids = [reference.without_stages(2..=n), reference.with_stages(1..=n)].concat();
    reference.follow(n, &grids, &Device::Cpu);
}

/// The same updates in more and smaller micro-batches, which more ranks can share out.
#[test]
fn trajectory_a_in_micro_batches_of_one_sequence() {
    let reference = Reference::open("train_trajectory_a_accum");
    let n = reference.rows;
    let stages = Grid { stages: reference.layers(), ..replicas(n / 2) };
    reference.follow(n, &[replicas(n - 1), replicas(n), stages], &Device::Cpu);
}

#[test]
fn trajectory_a_on_every_grid() {
    on_every_grid("train_trajectory_a_accum");
}

#[test]
fn trajectory_b_on_every_grid() {
    on_every_grid("train_trajectory_b_accum");
}

/// A software driver is slow, and each kernel is compared elsewhere.
#[test]
fn trajectory_a_on_grids_of_a_gpu() {
    let Some(gpu) = gpu() else { return };
    let reference = Reference::open("train_trajectory_a_accum");
    let n = reference.micro_batches;
    let zero = Grid { zero: true, ..replicas(n) };
    let stages = Grid { stages: reference.layers(), ..replicas(1) };
    reference.follow(n, &[zero, stages], &Device::Gpu(Arc::clone(gpu)));
}
