//! Are tiktoken's files read with tiktoken's ids, and others refused by name?

use std::collections::HashMap;

use proptest::prelude::*;
use tiktoken_rs::CoreBPE;
use wgpt::Tokenizer;

use super::huggingface::{cases, nasty};

/// Bytes in base64, as RFC 4648 has it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of_three = |three: &[u8]| {
        let bits = three.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - three.len()));
        let letter = |i: usize| match i <= three.len() {
            true => char::from(LETTERS[(bits >> (18 - 6 * i) & 63) as usize]),
            false => '=',
        };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(of_three).collect()
}

/// The file of a vocabulary that the crate tiktoken-rs carries: its first `size` tokens, which are not special.
fn file(bpe: &CoreBPE, size: u32) -> String {
    let line = |rank: u32| Some(format!("{} {rank}\n", base64(&bpe.decode_bytes(&[rank]).ok()?)));
    (0..size).filter_map(line).collect()
}

#[test]
fn published_vocabularies_have_tiktokens_ids() {
    let all = [
        ("gpt2", tiktoken_rs::r50k_base_singleton(), 50_256),
        ("cl100k_base", tiktoken_rs::cl100k_base_singleton(), 100_256),
    ];
    for (pattern, bpe, size) in all {
        let file = file(bpe, size);
        let special = [("<|endoftext|>", size)];
        let ours = Tokenizer::from_tiktoken(&file, pattern, special, "FILE").unwrap();
        assert_eq!(ours.vocab_size(), size as usize + 1);
        assert_eq!(ours.encode_with_special("a<|endoftext|>").last(), Some(&size));
        let check = |text: String| {
            prop_assert_eq!(ours.encode(&text), bpe.encode_ordinary(&text));
            Ok(())
        };
        cases(300).run(&nasty(), check).unwrap();
        let long =
            "Hello world, an-other 12345 tests!?\n\n  of \u{1f600} \u{4e2d}\u{6587}".repeat(90);
        assert_eq!(ours.encode(&long), bpe.encode_ordinary(&long));
        assert!(Tokenizer::from_json(&ours.to_json(), "again").unwrap() == ours);
    }
}

#[test]
fn broken_files_are_refused_with_their_line() {
    let bytes: HashMap<u8, String> =
        (0..=255).map(|byte| (byte, format!("{} {byte}\n", base64(&[byte])))).collect();
    let sound: String = (0..=255).map(|byte| bytes[&byte].clone()).collect();
    let error = |file: &str, pattern: &str| {
        Tokenizer::from_tiktoken(file, pattern, [("<|e|>", 256)], "FILE").unwrap_err().to_string()
    };
    let cases = [
        (sound.clone() + "YWI=256\n", "gpt2", "FILE line 257"),
        (sound.clone() + "YWI 256\n", "gpt2", "base64"),
        (sound.clone() + "YWI= x\n", "gpt2", "rank"),
        (sound.clone() + "YWI= 255\n", "gpt2", "line 256"),
        (sound.replace(&bytes[&7], "AAA= 7\n"), "gpt2", "byte 7"),
        (sound.clone(), "gpt3", "gpt3"),
        (sound.clone() + "YWI= 256\n", "gpt2", "<|e|>"),
    ];
    for (file, pattern, mention) in cases {
        let error = error(&file, pattern);
        assert!(error.contains(mention) && error.starts_with("FILE"), "{mention}: {error}");
    }
}

#[test]
fn a_tokenizer_model_is_read_by_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    std::fs::write(&path, b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02").unwrap();
    assert!(!Tokenizer::exists(folder.path()));
    let error = Tokenizer::load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("SentencePiece"), "{error}");
    assert!(error.advice().unwrap().contains("tokenizer.json"), "{error}");

    // As many tokens as Llama 3 has, of two bytes and of three.
    let token = |rank: u32| match rank {
        0..256 => base64(&[rank as u8]),
        256..65_792 => base64(&[((rank - 256) >> 8) as u8, (rank - 256) as u8]),
        _ => base64(&[1, ((rank - 65_792) >> 8) as u8, (rank - 65_792) as u8]),
    };
    let file =
        |size: u32| (0..size).map(|rank| format!("{} {rank}\n", token(rank))).collect::<String>();
    std::fs::write(&path, file(128_000)).unwrap();
    assert!(Tokenizer::exists(folder.path()));
    let llama = Tokenizer::load(folder.path()).unwrap();
    let special: HashMap<&str, u32> = llama.special_tokens().collect();
    assert_eq!(special.len(), 256);
    assert_eq!((special["<|begin_of_text|>"], special["<|eot_id|>"]), (128_000, 128_009));
    assert_eq!(special["<|reserved_special_token_250|>"], 128_255);
    assert_eq!(llama.encode_whole("<|eot_id|>"), [128_000, 128_009]);
    std::fs::write(&path, file(999)).unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("999") && error.contains("128000"), "{error}");
}

#[test]
fn a_file_named_by_its_pattern_is_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cl100k_base.tiktoken");
    let sound: String = (0..=255).map(|byte| format!("{} {byte}\n", base64(&[byte]))).collect();
    std::fs::write(&path, sound + "YWI= 256\n").unwrap();
    assert_eq!(Tokenizer::load(&path).unwrap().encode("ab"), [256]);
    let other = folder.path().join("mine.tiktoken");
    std::fs::rename(&path, &other).unwrap();
    let error = Tokenizer::load(&other).unwrap_err().to_string();
    assert!(error.contains("mine"), "{error}");
}
