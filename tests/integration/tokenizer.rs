//! Does the tokenizer give exactly the reference's ids, merges and texts, and refuse what is
//! broken?

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};
use wgpt::Tokenizer;
use wgpt::tokenizer::END_OF_TEXT;

use crate::common::oracle;

mod beside;
mod characters;
mod cuts;
mod files;
mod huggingface;
mod slow;
mod tiktoken;
mod training;

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
