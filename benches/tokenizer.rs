//! The tokenizer on stories: training, encoding, decoding, in bytes of text a second.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpt::Tokenizer;
use wgpt::data::stories;

fn tokenizer(c: &mut Criterion) {
    let text: String = stories::stories(1, 2000).map(|story| story + "\n").collect();
    let mut group = c.benchmark_group("tokenizer");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(text.len() as u64));
    for vocab in [1000, 5000] {
        let train = || Tokenizer::train(text.as_bytes(), vocab).expect("the text is long enough");
        group.bench_function(format!("train/{vocab}"), |b| b.iter(train));
        let tokenizer = train();
        group.bench_function(format!("encode/{vocab}"), |b| b.iter(|| tokenizer.encode(&text)));
        let ids = tokenizer.encode(&text);
        group.bench_function(format!("decode/{vocab}"), |b| {
            b.iter(|| tokenizer.decode(&ids).expect("its own ids"));
        });
    }
    group.finish();
}

criterion_group!(benches, tokenizer);
criterion_main!(benches);
