//! Loading: a model of GPT-2's sizes, from its file to the device.

#[expect(dead_code, reason = "nothing here needs ids")]
mod common;

use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpt::checkpoint::{ModelFiles, TextFiles, write_model};
use wgpt::engine::Tensor;
use wgpt::{Gpt, GptConfig};

/// Writes a model of GPT-2's sizes without a pattern; the length of its weights in bytes.
fn write_random(dir: &Path) -> u64 {
    let config = GptConfig::gpt2();
    let model = ModelFiles {
        schema: wgpt::model::schema(&config, &wgpt::FineTune::default()),
        config: &config,
        dropout: 0.0,
        tokenizer: None,
        text_files: &TextFiles::default(),
        adapter: None,
    };
    let mut state = 1_u32;
    let mut fill = |_: &str, _: usize, out: &mut [f32]| {
        out.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 * 1e-8 - 0.08
        });
        Ok(())
    };
    write_model(dir, &model, &mut fill).expect("the folder is ours");
    std::fs::metadata(dir.join("model.safetensors")).expect("it was written").len()
}

fn loading(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a place for files");
    let mut group = c.benchmark_group("loading/gpt2");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Bytes(write_random(folder.path())));
    for (name, device) in common::devices() {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut gpt = Gpt::load(folder.path(), device.clone()).expect("a sound model");
                let engine = gpt.engine().expect("it fits");
                // A read waits until everything is where it belongs.
                let param = engine.program().params.last().expect("a parameter").clone();
                engine.param_data(&param, Tensor::Value).expect("the device is there")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loading);
criterion_main!(benches);
