//! Do Hugging Face's `tokenizers` read what we write and give the same ids?

use std::str::FromStr;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use wgpt::Tokenizer;
use wgpt::tokenizer::END_OF_TEXT;

use super::{encodings, rows, text, tokenizers};

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn theirs(json: &str) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_str(json).unwrap()
}

fn their_ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

/// Texts on which patterns differ: case, contractions, marks, numbers, line ends, blanks, slashes, scripts.
fn nasty() -> impl Strategy<Value = String> {
    let parts = [
        "a",
        "b",
        "The",
        "iPhone",
        "ABC",
        "'s",
        "'S",
        "'ll",
        "'VE",
        "'\u{17f}",
        "'",
        "1",
        "12",
        "345",
        "6789",
        "\u{663}",
        "\u{bd}",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u{a0}",
        "\u{3000}",
        "/",
        "//",
        "!",
        "?!",
        "\u{301}",
        "\u{e9}",
        "\u{1c5}",
        "\u{4e2d}\u{6587}",
        "\u{2b0}",
        "\u{1f600}",
        "\u{200d}",
        "<|endoftext|>",
        "_",
        "\0",
    ];
    let part = prop_oneof![
        4 => proptest::sample::select(parts.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

fn cases(number: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: number,
        failure_persistence: None,
        ..Default::default()
    })
}

#[test]
fn the_reference_rows_have_their_ids() {
    let encodings = encodings();
    for (name, _, tokenizer) in tokenizers(&encodings) {
        let theirs = theirs(&tokenizer.to_json());
        for row in rows(&encodings, "rows") {
            let text = text(row, "text");
            assert_eq!(
                tokenizer.encode_with_special(text),
                their_ids(&theirs, text),
                "{name} {text:?}"
            );
        }
    }
}

/// A tokenizer that they have trained on uncut texts: its merges join what any pattern parts, so that a wrong cut shows.
fn merged_across_cuts() -> Value {
    let mut runner = TestRunner::deterministic();
    let mut draw = || nasty().new_tree(&mut runner).unwrap().current().replace(END_OF_TEXT, "");
    let texts: Vec<String> = (0..4000).map(|_| draw()).collect();
    let byte_level = ByteLevel::new(false, true, false);
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level));
    let trainer = BpeTrainer::builder()
        .vocab_size(20_000)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false);
    tokenizer.train(&mut TrainerWrapper::from(trainer.build()), texts.into_iter()).unwrap();
    serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap()
}

#[test]
fn random_text_has_their_ids_by_every_pattern() {
    let plain = merged_across_cuts();
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |regex: &str, use_regex: bool| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            byte_level(use_regex)]})
    };
    let digits = |single: bool| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": single}, byte_level(true)]})
    };
    let pre_tokenizers = [
        byte_level(true),
        split(CL100K, false),
        split(QWEN2, false),
        split(O200K, false),
        split(r"\p{N}{1,3}", true),
        digits(true),
        digits(false),
    ];
    for (pre_tokenizer, ignore_merges) in
        pre_tokenizers.into_iter().flat_map(|p| [(p.clone(), false), (p, true)])
    {
        let mut json = plain.clone();
        json["pre_tokenizer"] = pre_tokenizer;
        json["model"]["ignore_merges"] = json!(ignore_merges);
        let ours = Tokenizer::from_json(&json.to_string(), "pattern").unwrap();
        let again = Tokenizer::from_json(&ours.to_json(), "again").unwrap();
        assert!(again == ours);
        let (theirs, written) = (theirs(&json.to_string()), theirs(&ours.to_json()));
        let check = |text: String| {
            let expected = their_ids(&theirs, &text);
            prop_assert_eq!(
                &ours.encode_with_special(&text),
                &expected,
                "{:?}",
                &json["pre_tokenizer"]
            );
            prop_assert_eq!(&their_ids(&written, &text), &expected);
            Ok(())
        };
        cases(400).run(&nasty(), check).unwrap();
    }
}

#[test]
fn random_merges_give_their_ids_for_long_pieces_too() {
    let letters =
        |size| proptest::collection::vec(proptest::sample::select(vec!['a', 'b', 'c', ' ']), size);
    let pair = (letters(40..400), 258usize..330, letters(0..700), 1usize..40);
    cases(120)
        .run(&pair, |(corpus, vocab, text, times)| {
            let corpus: String = corpus.into_iter().collect();
            let ours = Tokenizer::train(corpus.as_bytes(), vocab).unwrap();
            let text: String = text.into_iter().collect();
            // The same letters over and over, and no blanks: pieces of thousands of bytes.
            let long = text.replace(' ', "").repeat(times);
            let theirs = theirs(&ours.to_json());
            for text in [text, long] {
                prop_assert_eq!(ours.encode(&text), their_ids(&theirs, &text));
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn special_tokens_are_found_as_they_find_them() {
    let plain: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    // Tokens that begin, hold and overlap each other, of both kinds: which is looked for first decides.
    let contents = ["<|a", "<|a|>", "a|><|", "|>", "aa", " b ", "\u{20ac}"];
    let kinds = proptest::collection::vec(any::<bool>(), contents.len());
    let part = proptest::sample::select(vec!["<|", "a", "|>", " ", "b", "\u{20ac}", "<|a|>", "!"]);
    let texts = proptest::collection::vec(part, 0..30).prop_map(|parts| parts.concat());
    cases(400)
        .run(&(kinds, texts), |(kinds, text)| {
            let mut json = plain.clone();
            let added = json["added_tokens"].as_array_mut().unwrap();
            for ((content, normalized), id) in contents.iter().zip(kinds).zip(257..) {
                added.push(
                    json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": normalized, "special": false}),
                );
            }
            let ours = Tokenizer::from_json(&json.to_string(), "special").unwrap();
            let expected = their_ids(&theirs(&json.to_string()), &text);
            prop_assert_eq!(ours.encode_with_special(&text), expected);
            Ok(())
        })
        .unwrap();
}

#[test]
fn special_tokens_added_later_are_theirs_too() {
    let tokens = ["<|user|>", "ab"];
    let ours = Tokenizer::train(b"abab abab", 258).unwrap().with_special_tokens(tokens).unwrap();
    // "ab" was a token already and keeps its id.
    assert_eq!(
        ours.special_tokens().collect::<Vec<_>>(),
        [("<|endoftext|>", 0), ("<|user|>", 258), ("ab", 257)]
    );
    let theirs = theirs(&ours.to_json());
    for text in ["abab<|user|>ab", "<|user|><|endoftext|>", "a<|user|>b"] {
        assert_eq!(ours.encode_with_special(text), their_ids(&theirs, text), "{text}");
    }
    for (tokens, mention) in
        [(["x", "<|b|>"], "fewer"), (["<|b|>", "<|b|>"], "twice"), (["<|b|>", "ab"], "anyway")]
    {
        let error = ours.clone().with_special_tokens(tokens).unwrap_err().to_string();
        assert!(error.contains(mention), "{error}");
    }
}

#[test]
fn a_merge_whose_result_is_an_added_token_too_gives_their_ids_in_long_pieces() {
    // In the vocabulary this spells two characters of two bytes; as an added token it stands for its four letters.
    let content = "\u{c3}\u{a9}\u{c3}\u{a9}";
    let trained =
        Tokenizer::train(&"\u{e9}\u{e9}\u{e9} \u{e9}\u{e9}".repeat(9).into_bytes(), 300).unwrap();
    let mut json: Value = serde_json::from_str(&trained.to_json()).unwrap();
    let id = json["model"]["vocab"][content].clone();
    assert!(id.is_u64(), "{}", json["model"]["vocab"]);
    json["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": id, "content": content, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": false}));
    let ours = Tokenizer::from_json(&json.to_string(), "added").unwrap();
    let theirs = theirs(&json.to_string());
    for times in [1, 3, 40, 333] {
        let text = "\u{e9}".repeat(times);
        assert_eq!(ours.encode_with_special(&text), their_ids(&theirs, &text), "{times}");
    }
}
