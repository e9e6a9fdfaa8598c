//! A training step: forward, backward and update, in tokens a second.
//!
//! `small` always; `medium` if `WGPT_BENCH_MEDIUM` is set.

mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpt::GptConfig;
use wgpt::config::Optimizer;
use wgpt::engine::Engine;
use wgpt::kernel::Step;
use wgpt::model::Uses;

/// Sequences a step.
const BATCH: usize = 8;

fn step(c: &mut Criterion) {
    let mut sizes = vec![("small", GptConfig::small())];
    if std::env::var_os("WGPT_BENCH_MEDIUM").is_some() {
        sizes.push(("medium", GptConfig::medium()));
    }
    for (size, config) in sizes {
        let mut group = c.benchmark_group(format!("step/{size}"));
        group.sample_size(10).measurement_time(Duration::from_secs(5));
        let rows = BATCH * config.n_positions;
        group.throughput(Throughput::Elements(rows as u64));
        for (name, device) in common::devices() {
            let training = Some(Optimizer::Adamw);
            let uses = Uses { batch: BATCH, seq: config.n_positions, training, ..Uses::default() };
            let mut engine = Engine::new(&config, uses, &device).expect("the device holds it");
            engine.initialize(1);
            let ids = common::ids(rows + 1, config.vocab_size);
            let step = Step { learning_rate: 1e-4, grad_clip: 1.0, ..Step::default() };
            group.bench_function(name, |b| {
                b.iter(|| {
                    engine.train_batch(&ids[..rows], &ids[1..], (0, rows), step);
                    engine.update(&step);
                    engine.read_update().expect("the device is there")
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
