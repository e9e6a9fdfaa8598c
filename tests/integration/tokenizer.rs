//! Does the tokenizer give exactly the reference's ids, merges and texts, and refuse what is
//! broken?

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};
use wgpt::Tokenizer;
use wgpt::tokenizer::{END_OF_TEXT, TokenizerTrainer};

use crate::common::oracle;

mod files;
mod huggingface;
mod slow;

fn folder() -> PathBuf {
    oracle().join("tokenizer")
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

fn rows<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    let rows = file[name].as_array().unwrap();
    assert!(!rows.is_empty(), "{name}");
    rows
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap()
}

/// Every reference tokenizer by the name of its vocabulary, such as "512", with its folder.
fn tokenizers(encodings: &Value) -> Vec<(String, PathBuf, Tokenizer)> {
    let entries = encodings["tokenizers"].as_object().unwrap();
    assert!(!entries.is_empty());
    let load = |(name, path): (&String, &Value)| {
        let path = folder().join(path.as_str().unwrap());
        let dir = path.parent().unwrap().to_path_buf();
        (name.clone(), dir.clone(), Tokenizer::load(&dir).unwrap())
    };
    entries.iter().map(load).collect()
}

fn encodings() -> Value {
    read_json(folder().join("encodings.json"))
}

#[test]
fn every_row_has_the_reference_ids_and_text() {
    let encodings = encodings();
    for (name, _, tokenizer) in tokenizers(&encodings) {
        for row in rows(&encodings, "rows") {
            let text_in = text(row, "text");
            let expected = ids(&row[format!("ids_{name}")]);
            assert_eq!(tokenizer.encode_with_special(text_in), expected, "{name} {text_in:?}");
            let plain = row.get(format!("ids_{name}_plain")).map_or(expected.clone(), ids);
            assert_eq!(tokenizer.encode(text_in), plain, "{name} plain {text_in:?}");
            assert_eq!(tokenizer.decode_lossy(&expected).unwrap(), text(row, "decoded"));
            assert_eq!(tokenizer.decode(&plain).unwrap(), text_in.as_bytes());
            check_stream(&tokenizer, &expected, text(row, "decoded"));
        }
        let end = encodings["special_token_id"].as_u64().unwrap() as u32;
        assert_eq!(tokenizer.end_of_text(), Some(end));
    }
}

#[test]
fn the_training_text_has_the_reference_ids() {
    let encodings = encodings();
    let expected = &encodings["train_text"];
    let text = read(folder().join(text(expected, "file")));
    for (name, _, tokenizer) in tokenizers(&encodings) {
        let expected = &expected["encoded_without_special_tokens"][&name];
        let found = tokenizer.encode(&text);
        assert_eq!(found.len() as u64, expected["num_tokens"].as_u64().unwrap());
        assert_eq!(found[..100], ids(&expected["first_100"]));
        assert_eq!(found[found.len() - 100..], ids(&expected["last_100"]));
        let bytes: Vec<u8> = found.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect();
        let sum = Sha256::digest(bytes);
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sum, expected["sha256_of_ids_as_u16_le"].as_str().unwrap());
    }
}

/// Decodes id by id: all but the bytes of an unfinished character come at once, and nothing else.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32], text: &str) {
    let mut stream = tokenizer.decode_stream();
    let (mut bytes, mut shown) = (0, String::new());
    for &id in ids {
        bytes += tokenizer.token_bytes(id).unwrap().len();
        shown += &stream.push(id).unwrap();
        assert_eq!(shown, text[..text.floor_char_boundary(bytes)]);
    }
    assert_eq!(stream.finish(), "");
    assert_eq!(shown, text);
}

#[test]
fn cut_characters_are_marked_at_once_and_held_back_in_a_stream() {
    let encodings = encodings();
    let tokenizers: HashMap<_, _> =
        tokenizers(&encodings).into_iter().map(|(name, _, tokenizer)| (name, tokenizer)).collect();
    for row in rows(&encodings, "partial") {
        let (ids, expected) = (ids(&row["ids"]), text(row, "decoded_lossy"));
        let tokenizer = &tokenizers[&row["vocab"].to_string()];
        let hex = tokenizer.decode(&ids).unwrap();
        let hex: String = hex.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, text(row, "bytes_hex"));
        assert_eq!(tokenizer.decode_lossy(&ids).unwrap(), expected);
        let mut stream = tokenizer.decode_stream();
        let parts: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        // What is broken at the end is still held; what is broken before a whole character cannot
        // be.
        assert_eq!(parts.trim_end_matches('\u{fffd}'), parts);
        assert_eq!(parts + &stream.finish(), expected);
    }
}

#[test]
fn training_finds_the_reference_vocabulary_and_merges() {
    let encodings = encodings();
    let text = std::fs::read(folder().join(text(&encodings["train_text"], "file"))).unwrap();
    for (name, dir, reference) in tokenizers(&encodings) {
        let trained = Tokenizer::train(&text, name.parse().unwrap()).unwrap();
        let (found, expected) = (trained.to_json(), read(dir.join("tokenizer.json")));
        let found: Value = serde_json::from_str(&found).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        assert_eq!(found["model"]["merges"], expected["model"]["merges"], "{name}");
        assert_eq!(found["model"]["vocab"], expected["model"]["vocab"], "{name}");
        assert_eq!(found, expected, "{name}");
        assert!(trained == reference);
    }
}

#[test]
fn bytes_is_the_trainer_at_its_smallest_vocabulary() {
    let bytes = Tokenizer::bytes();
    assert_eq!((bytes.vocab_size(), bytes.merge_count()), (257, 0));
    assert!(Tokenizer::train(b"aaaa aaaa aaaa", 257).unwrap() == bytes);
    assert!(Tokenizer::train(b"", 10_000).unwrap() == bytes);
    let error = Tokenizer::train(b"aaaa", 256).unwrap_err().to_string();
    assert!(error.contains("256"), "{error}");
    // The order of the letters' code points: '!' first, then Latin-1, then what the alphabet moves,
    // 0 at its head.
    for (id, token) in [(0, END_OF_TEXT.as_bytes()), (1, b"!"), (188, b"\xff"), (189, b"\0")] {
        assert_eq!(bytes.token_bytes(id), Some(token));
    }
}

#[test]
fn a_text_that_supports_fewer_merges_gives_a_smaller_vocabulary() {
    // "aaaa" once: (a, a) three times, then (aa, aa) once, which is too seldom.
    let tokenizer = Tokenizer::train(b"aaaa", 1_000_000_000).unwrap();
    assert_eq!(tokenizer.vocab_size(), 258);
    assert_eq!(tokenizer.encode("aaaaa").len(), 3);
}

#[test]
fn documents_do_not_join_and_their_number_does_not_matter() {
    let one = Tokenizer::train_documents(["ab", "ab", "ab"], 1000).unwrap();
    let (a, b) = (one.encode("a")[0], one.encode("b")[0]);
    assert_eq!(one.encode("abab"), [257, 257], "(a, b) merges, (b, a) spans documents");
    assert!(a != 257 && b != 257);
    assert_eq!(one.vocab_size(), 258);

    // A text in two documents, cut where a piece begins, is the text in one.
    let text = read(folder().join("train_text.txt"));
    let whole = Tokenizer::train(text.as_bytes(), 400).unwrap();
    let word = text[1000..].find(|letter: char| letter.is_ascii_alphabetic()).unwrap() + 1000;
    let cut = text[word..].find([' ', '\n']).unwrap() + word;
    let halves = [&text[..cut], &text[cut..]];
    assert!(Tokenizer::train_documents(halves, 400).unwrap() == whole);

    let error =
        Tokenizer::train_documents([&b"good"[..], b"ba\xffd"], 300).unwrap_err().to_string();
    assert!(
        error.contains("document 2") && error.contains("UTF-8") && error.contains("at 2"),
        "{error}"
    );
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let text = read(folder().join("train_text.txt")).repeat(12);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let tokenizer = Tokenizer::train(text.as_bytes(), 600).unwrap();
            (tokenizer.encode(&text), tokenizer.to_json())
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn long_pieces_take_no_quadratic_time() {
    // A quadratic algorithm would take 10¹² steps here.
    let text = "a".repeat(1 << 20);
    let tokenizer = Tokenizer::train(text.as_bytes(), 300).unwrap();
    // Each merge doubles: 2, 4, …, 2¹⁹ (2²⁰ would occur once).
    assert_eq!(tokenizer.vocab_size(), 257 + 19);
    assert_eq!(tokenizer.encode(&text), [257 + 18; 2]);
    let mixed: String =
        (0..1u32 << 19).map(|i| ['a', 'b'][(i.wrapping_mul(0x9e37_79b9) >> 31) as usize]).collect();
    let tokenizer = Tokenizer::train(mixed.as_bytes(), 2000).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode(&mixed)).unwrap(), mixed.as_bytes());
}

#[test]
fn special_tokens_are_found_longest_first() {
    let mut json: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (id, content) in [(257, "<|end"), (258, "of text|>")] {
        added.push(serde_json::json!({"id": id, "content": content, "special": true}));
    }
    let tokenizer = Tokenizer::from_json(&json.to_string(), "added").unwrap();
    assert_eq!(tokenizer.vocab_size(), 259);
    assert_eq!(tokenizer.encode_with_special("<|end<|endoftext|>of text|>!"), [257, 0, 258, 1]);
    assert_eq!(tokenizer.decode_lossy(&[258, 0]).unwrap(), "of text|><|endoftext|>");
    assert!(Tokenizer::from_json(&tokenizer.to_json(), "again").unwrap() == tokenizer);
    assert_eq!(tokenizer.special_tokens().count(), 3);
}

#[test]
fn special_tokens_of_ones_own_are_not_learned_from_and_kept_in_files() {
    let documents = ["<|user|>abab<|tool|>", "abab abab<|user|>"];
    let trainer = TokenizerTrainer::new(300).special_tokens(["<|user|>", "<|tool|>"]);
    let trained = trainer.train(documents.map(Ok), &mut |_| {}).unwrap();
    let tokenizer = trained.tokenizer;
    let special: Vec<(&str, u32)> = tokenizer.special_tokens().collect();
    assert_eq!(special, [(END_OF_TEXT, 0), ("<|user|>", 1), ("<|tool|>", 2)]);
    assert_eq!(tokenizer.encode_with_special("<|tool|>abab<|user|>"), [2, 260, 1]);
    assert_eq!(tokenizer.encode("<|tool|>").len(), 8, "nothing of it was learned");
    assert!(Tokenizer::from_json(&tokenizer.to_json(), "again").unwrap() == tokenizer);
    let error = tokenizer.to_vocab_and_merges().unwrap_err().to_string();
    assert!(error.contains("<|user|>"), "{error}");
    for (tokens, mention) in [
        (["<|a|>", "<|a|>"], "twice"),
        (["<|a|>", END_OF_TEXT], "anyway"),
        (["", "<|a|>"], "fewer"),
    ] {
        let trainer = TokenizerTrainer::new(300).special_tokens(tokens);
        let error = trainer.train([Ok("ab")], &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(mention), "{error}");
    }
    let small = TokenizerTrainer::new(258).special_tokens(["<|a|>", "<|b|>"]);
    let error = small.train([Ok("ab")], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("258"), "{error}");
}

#[test]
fn memory_is_bounded_and_what_is_left_out_is_told_whatever_the_threads() {
    // Words that never come again: 64 MB of them cost more than there is room for.
    let mut state = 1_u64;
    let mut document = || -> String {
        (0..1 << 20)
            .map(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if i % 16 == 15 { ' ' } else { char::from(b'a' + ((state >> 40) % 26) as u8) }
            })
            .collect()
    };
    let documents: Vec<String> = (0..40).map(|_| document()).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let trainer = TokenizerTrainer::new(400).max_memory(TokenizerTrainer::LEAST_MEMORY);
        pool.install(|| {
            trainer.train(documents.iter().map(|d| Ok(d.as_str())), &mut |_| {}).unwrap()
        })
    };
    let one = run(1);
    let dropped = one.dropped.unwrap();
    assert!(dropped.pieces > 0 && dropped.bytes < one.bytes && one.pieces > 0);
    assert_eq!(one.tokenizer.vocab_size(), 400);
    assert!(one == run(3));
    let error = TokenizerTrainer::new(400).max_memory(1).train([Ok("ab")], &mut |_| {});
    assert!(error.unwrap_err().to_string().contains("memory"));
}

#[test]
fn documents_are_encoded_as_each_alone() {
    // Enough for several threads, with documents longer and shorter than what one takes at a time.
    let text = read(folder().join("train_text.txt")).replace(END_OF_TEXT, "");
    let tokenizer = Tokenizer::train(text.as_bytes(), 500).unwrap();
    let long = text.repeat(9);
    let documents = [[&text, ""], [&long, "a"], ["<|", &text]].concat();
    let alone = documents.iter().flat_map(|text| [tokenizer.encode(text), vec![0]].concat());
    let expected: Vec<u32> = alone.collect();
    assert!(tokenizer.encode_documents(documents.iter().copied()) == expected);
    let joined: String = documents.iter().flat_map(|text| [text, END_OF_TEXT]).collect();
    assert!(tokenizer.encode_with_special(&joined) == expected);
    assert!(tokenizer.encode_documents([]).is_empty());
}

#[test]
fn unknown_ids_are_named() {
    let tokenizer = Tokenizer::bytes();
    let message = |error: wgpt::Error| error.to_string();
    assert!(message(tokenizer.decode(&[1, 257]).unwrap_err()).contains("257"));
    assert!(message(tokenizer.decode_lossy(&[u32::MAX]).unwrap_err()).contains("4294967295"));
    let mut stream = tokenizer.decode_stream();
    assert!(message(stream.push(300).unwrap_err()).contains("300"));
    assert_eq!(stream.push(1).unwrap(), "!");
}
