//! The tokenizer: training, encoding, decoding, in bytes of text a second, and encoding of what is hardest to encode.
//!
//! The text is ten thousand stories, or the file that `WGPT_BENCH_TEXT` names. `RAYON_NUM_THREADS` sets the threads.

use std::collections::BTreeMap;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use wgpt::Tokenizer;
use wgpt::data::stories;

fn text() -> String {
    match std::env::var_os("WGPT_BENCH_TEXT") {
        Some(path) => std::fs::read_to_string(path).expect("WGPT_BENCH_TEXT is a text file"),
        None => stories::stories(1, 10_000).map(|story| story + "\n").collect(),
    }
}

fn tokenizer(c: &mut Criterion) {
    let text = text();
    let mut group = c.benchmark_group("tokenizer");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    for vocab in [1000, 5000, 32_000] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let train = || Tokenizer::train(text.as_bytes(), vocab).expect("the text is long enough");
        group.bench_function(format!("train/{vocab}"), |b| b.iter(train));
        let tokenizer = train();
        group.bench_function(format!("encode/{vocab}"), |b| b.iter(|| tokenizer.encode(&text)));
        let ids = tokenizer.encode(&text);
        group.bench_function(format!("decode/{vocab}"), |b| {
            b.iter(|| tokenizer.decode(&ids).expect("its own ids"));
        });
        let characters = of_characters(&tokenizer);
        group
            .bench_function(format!("characters/{vocab}"), |b| b.iter(|| characters.encode(&text)));
        for (name, hard) in hard_texts() {
            group.throughput(Throughput::Bytes(hard.len() as u64));
            group.bench_function(format!("hard/{vocab}/{name}"), |b| {
                b.iter(|| tokenizer.encode(&hard));
            });
            group.bench_function(format!("characters/{vocab}/{name}"), |b| {
                b.iter(|| characters.encode(&hard));
            });
        }
    }
    group.finish();
}

/// The tokens of ASCII letters in a vocabulary of characters with Llama 2's stages, in which a text is one piece.
fn of_characters(tokenizer: &Tokenizer) -> Tokenizer {
    let file: Value = serde_json::from_str(&tokenizer.to_json()).expect("JSON");
    let spell = |token: &str| token.replace('\u{120}', "\u{2581}");
    let is_kept =
        |token: &str| spell(token).chars().all(|c| c.is_ascii_graphic() || c == '\u{2581}');
    let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
    let own = file["model"]["vocab"].as_object().expect("a map").keys();
    let own = own.filter(|token| is_kept(token)).map(|token| spell(token));
    let vocab = std::iter::once("<unk>".to_owned()).chain(bytes).chain(own).zip(0_u32..);
    let merges = file["model"]["merges"].as_array().expect("a list").iter();
    let merges = merges.map(|pair| [0, 1].map(|i| pair[i].as_str().expect("a token")));
    let merges = merges.filter(|pair| pair.iter().all(|part| is_kept(part)));
    let merges: Vec<[String; 2]> = merges.map(|pair| pair.map(spell)).collect();
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let file = json!({
        "normalizer": {"type": "Sequence", "normalizers":
            [{"type": "Prepend", "prepend": "\u{2581}"}, replace(" ", "\u{2581}")]},
        "decoder": {"type": "Sequence", "decoders": [replace("\u{2581}", " "), {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab.collect::<BTreeMap<String, u32>>(), "merges": merges},
    });
    Tokenizer::from_json(&file.to_string(), "characters").expect("a sound file")
}

/// A megabyte each of what has few pieces, or none that comes again.
fn hard_texts() -> [(&'static str, String); 5] {
    const BYTES: usize = 1 << 20;
    let mut state = 1_u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let bytes: Vec<u8> = (0..BYTES).map(|_| random()).collect();
    let letters = bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    [
        ("one_letter", "a".repeat(BYTES)),
        ("spaces", " ".repeat(BYTES)),
        ("line_ends", "\n".repeat(BYTES)),
        ("random_letters", letters),
        ("random_bytes", String::from_utf8_lossy(&bytes).into_owned()),
    ]
}

criterion_group!(benches, tokenizer);
criterion_main!(benches);
