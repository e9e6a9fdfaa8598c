//! Does training find the reference's merges, whatever the documents, the threads and the memory?

use serde_json::Value;
use wgpt::Tokenizer;
use wgpt::tokenizer::{END_OF_TEXT, TokenizerTrainer};

use super::{encodings, folder, read, text, tokenizers};

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
        (["x", "<|a|>"], "fewer"),
        (["", "<|a|>"], "empty"),
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
