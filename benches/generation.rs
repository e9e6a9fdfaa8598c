//! Generation: a prompt of 16 tokens and 64 new ones, the prompt's time included.

mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpt::{GenerateOptions, Gpt, GptConfig};

const PROMPT_TOKENS: usize = 16;
const NEW_TOKENS: usize = 64;

fn generation(c: &mut Criterion) {
    let mut group = c.benchmark_group("generation/small");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(NEW_TOKENS as u64));
    let config = GptConfig::small();
    let prompt = common::ids(PROMPT_TOKENS, config.vocab_size);
    let sampled = GenerateOptions { temperature: 0.8, top_k: 40, top_p: 0.9, ..options() };
    let greedy = GenerateOptions { temperature: 0.0, ..options() };
    for (name, device) in common::devices() {
        let mut gpt = Gpt::new(config.clone(), device, 1).expect("small is valid");
        for (how, options) in [("greedy", &greedy), ("sampled", &sampled)] {
            group.bench_function(format!("{name}/{how}"), |b| {
                b.iter(|| {
                    let new = gpt.generate_ids(&prompt, options).expect("the device is there");
                    assert_eq!(new.len(), NEW_TOKENS);
                });
            });
        }
    }
    group.finish();
}

fn options() -> GenerateOptions {
    GenerateOptions { max_tokens: NEW_TOKENS, ..GenerateOptions::default() }
}

criterion_group!(benches, generation);
criterion_main!(benches);
