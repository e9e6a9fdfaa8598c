//! Do Hugging Face's `tokenizers` read what we write and give the same ids?

use std::str::FromStr;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use wgpt::Tokenizer;
use wgpt::tokenizer::{AddedAs, END_OF_TEXT, TokenizerTrainer};

use super::cuts::streamed;
use super::{encodings, rows, text, tokenizers};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn theirs(json: &str) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_str(json).unwrap()
}

pub(super) fn their_ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

/// Texts on which patterns differ: case, contractions, marks, numbers, line ends, blanks, slashes, scripts.
pub(super) fn nasty() -> impl Strategy<Value = String> {
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
        // A digit that is new in Unicode 17.
        "\u{11de0}",
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

pub(super) fn cases(number: u32) -> TestRunner {
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
pub(super) fn merged_across_cuts(vocab: usize) -> Value {
    let mut runner = TestRunner::deterministic();
    let mut draw = || nasty().new_tree(&mut runner).unwrap().current().replace(END_OF_TEXT, "");
    let texts: Vec<String> = (0..4000).map(|_| draw()).collect();
    let byte_level = ByteLevel::new(false, true, false);
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false);
    tokenizer.train(&mut TrainerWrapper::from(trainer.build()), texts.into_iter()).unwrap();
    tokenizer.with_decoder(Some(byte_level));
    serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap()
}

/// A pre-tokenizer of every kind.
pub(super) fn pre_tokenizers(add_prefix_space: bool) -> [Value; 8] {
    let byte_level = |use_regex: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space,
            "trim_offsets": true, "use_regex": use_regex})
    };
    let split = |regex: &str, use_regex: bool| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            byte_level(use_regex)]})
    };
    let digits = |single: bool| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": single}, byte_level(true)]})
    };
    [
        byte_level(true),
        split(GPT2, false),
        split(CL100K, false),
        split(QWEN2, false),
        split(O200K, false),
        split(r"\p{N}{1,3}", true),
        digits(true),
        digits(false),
    ]
}

#[test]
fn random_text_has_their_ids_by_every_pattern() {
    let plain = merged_across_cuts(20_000);
    let all = pre_tokenizers(false).into_iter().flat_map(|p| [(p.clone(), false), (p, true)]);
    for (pre_tokenizer, ignore_merges) in all.chain(pre_tokenizers(true).map(|p| (p, false))) {
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
fn texts_in_every_form_have_their_ids_as_qwen_and_others_normalise_them() {
    let plain = merged_across_cuts(3000);
    let marks = proptest::sample::select(vec![
        "e\u{301}",
        "\u{301}",
        "\u{e9}",
        "\u{212b}",
        "\u{1112}\u{1161}\u{11ab}",
        "\u{d55c}",
        "\u{fb01}",
        "\u{ff11}",
        "\u{bd}",
        "\u{2126}",
        "\u{37e}",
        "=\u{338}",
        "q\u{307}\u{323}",
        "\u{b4}",
        " ",
        "a",
        "'s",
        "\n",
        "1",
        "\u{338}",
        "\u{fa19}",
        "\u{9c7}\u{9be}",
        "<|endoftext|>",
    ]);
    let text = proptest::collection::vec(marks, 0..40).prop_map(|parts| parts.concat());
    let lengths = proptest::collection::vec(1..6_usize, 1..4);
    for form in ["NFC", "NFD", "NFKC", "NFKD"] {
        for pre_tokenizer in pre_tokenizers(false) {
            let mut plain = plain.clone();
            plain["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": form}]});
            plain["pre_tokenizer"] = pre_tokenizer.clone();
            let all = (text.clone(), added(), lengths.clone());
            let check = |(text, tokens, lengths): (String, Vec<AddedToken>, Vec<usize>)| {
                let json = with_added(&plain, tokens);
                let ours = Tokenizer::from_json(&json, form).unwrap();
                let theirs = theirs(&json);
                let expected = their_ids(&theirs, &text);
                prop_assert_eq!(
                    &ours.encode_with_special(&text),
                    &expected,
                    "{} {}",
                    form,
                    pre_tokenizer
                );
                prop_assert_eq!(
                    ours.decode_lossy(&expected).unwrap(),
                    theirs.decode(&expected, false).unwrap()
                );
                let found = streamed(&ours, AddedAs::Tokens, &text, &lengths).0;
                prop_assert_eq!(&found, &expected, "{} {} in pieces", form, pre_tokenizer);
                prop_assert!(Tokenizer::from_json(&ours.to_json(), "again").unwrap() == ours);
                Ok(())
            };
            cases(25).run(&all, check).unwrap();
        }
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

/// Tokens that begin, hold and overlap each other, letters of the byte alphabet, white space; some of them, each with
/// flags of its own.
pub(super) fn added() -> impl Strategy<Value = Vec<AddedToken>> {
    let contents = [
        "<|a", "<|a|>", "a|><|", "|>", "aa", " b ", "\u{20ac}", "\u{e9}", "\u{120}b", "\n", "  ",
        "b\t!",
    ];
    let token = (any::<bool>(), any::<[bool; 5]>());
    proptest::collection::vec(token, contents.len()).prop_map(move |chosen| {
        let tokens = contents.iter().zip(chosen).filter(|(_, (there, _))| *there);
        let token = |(content, (_, flags)): (&&str, (bool, [bool; 5]))| {
            let [special, normalized, lstrip, rstrip, single_word] = flags;
            // They fail where a token of white space takes in what the one before it has taken, unless it strips both
            // sides.
            let lstrip = lstrip && (rstrip || !content.trim().is_empty());
            AddedToken::from(content.to_string(), special)
                .normalized(normalized)
                .lstrip(lstrip)
                .rstrip(rstrip)
                .single_word(single_word)
        };
        tokens.map(token).collect()
    })
}

/// A tokenizer.json with tokens that they have added.
pub(super) fn with_added(plain: &Value, tokens: Vec<AddedToken>) -> String {
    let mut tokenizer = theirs(&plain.to_string());
    tokenizer.add_tokens(tokens).unwrap();
    tokenizer.to_string(false).unwrap()
}

/// Texts of added tokens with white space and words around them.
pub(super) fn around() -> impl Strategy<Value = String> {
    let part = proptest::sample::select(vec![
        "<|", "<|a|>", "a", "aa", "|>", " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "b",
        "b\t!", "_", "1", "23", "'s", "!", "/", "\u{20ac}", "\u{e9}", "\u{301}", "\u{120}b",
        "\u{4e2d}", "\u{3002}", "The", "\u{e01}",
    ]);
    proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

#[test]
fn added_tokens_are_found_as_they_find_them_whatever_their_flags() {
    let plain = merged_across_cuts(900);
    let kinds = (0..8_usize, any::<bool>());
    cases(1500)
        .run(&(kinds, added(), around()), |((kind, prefix), tokens, text)| {
            let mut plain = plain.clone();
            plain["pre_tokenizer"] = pre_tokenizers(prefix)[kind].clone();
            let json = with_added(&plain, tokens);
            let ours = Tokenizer::from_json(&json, "added").unwrap();
            let theirs = theirs(&json);
            let expected = their_ids(&theirs, &text);
            prop_assert_eq!(&ours.encode_with_special(&text), &expected);
            prop_assert_eq!(
                ours.decode_lossy(&expected).unwrap(),
                theirs.decode(&expected, false).unwrap()
            );
            let written = ours.to_json();
            prop_assert!(Tokenizer::from_json(&written, "again").unwrap() == ours);
            prop_assert_eq!(their_ids(&super::huggingface::theirs(&written), &text), expected);
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
        [(["", "<|b|>"], "empty"), (["<|b|>", "<|b|>"], "twice"), (["<|b|>", "ab"], "anyway")]
    {
        let error = ours.clone().with_special_tokens(tokens).unwrap_err().to_string();
        assert!(error.contains(mention), "{error}");
    }
}

#[test]
fn a_special_token_whose_bytes_a_learned_token_has_is_a_token_of_its_own() {
    let corpus = "\u{5929}\u{5730} x  y ".repeat(20) + "  ";
    let single = ["\u{5929}", " ", "x", "\u{e5}", "\u{120}", "\n"];
    let longer = ["\u{5929}\u{5730}", "  ", " x", "\u{120}x", "\u{e5}\u{a4}"];
    for token in single.into_iter().chain(longer) {
        let trained = Tokenizer::train_documents([corpus.as_str(), "  ", "  "], 290).unwrap();
        let ours = trained.clone().with_special_tokens([token]).unwrap();
        let mut theirs = theirs(&trained.to_json());
        theirs.add_special_tokens([AddedToken::from(token, true)]).unwrap();
        let read = Tokenizer::from_json(&ours.to_json(), "again").unwrap();
        assert!(read == ours, "{token}");
        let written = super::huggingface::theirs(&ours.to_json());
        for text in
            ["\u{5929}\u{5730} x  y\u{5929}\u{5730}", "x  ", " \u{120}x  x", "\u{e5}\u{a4}\u{5929}"]
        {
            let expected = their_ids(&theirs, text);
            assert_eq!(ours.encode_with_special(text), expected, "{token:?} in {text:?}");
            assert_eq!(their_ids(&written, text), expected, "{token:?} in {text:?}");
        }
    }
}

#[test]
fn an_added_token_of_white_space_in_the_vocabulary_is_not_the_token_of_the_byte() {
    let mut json: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    // Each is passed over within words, where the byte's own token, which is spelled with a letter, is meant.
    for (id, content) in [(257, "\n"), (258, " ")] {
        json["model"]["vocab"][content] = id.into();
        json["added_tokens"].as_array_mut().unwrap().push(json!({"id": id, "content": content,
            "single_word": true, "lstrip": false, "rstrip": false, "normalized": true, "special": false}));
    }
    let ours = Tokenizer::from_json(&json.to_string(), "added").unwrap();
    let theirs = theirs(&json.to_string());
    for text in ["a\nb", "a b", "!\n!", "! !", "a\n b \n!"] {
        let expected = their_ids(&theirs, text);
        assert_eq!(ours.encode_with_special(text), expected, "{text:?}");
        assert_eq!(ours.decode_lossy(&expected).unwrap(), text);
    }
}

#[test]
fn a_special_token_of_training_that_is_spelled_like_a_learned_one_is_that_one() {
    // The letters of the byte alphabet for a blank and an x: the merge of their bytes makes this token.
    let trainer = TokenizerTrainer::new(262).special_tokens(["\u{120}x"]);
    let ours = trainer.train([Ok("a x a x a x")], &mut |_| {}).unwrap().tokenizer;
    assert!(Tokenizer::from_json(&ours.to_json(), "again").unwrap() == ours);
    let theirs = theirs(&ours.to_json());
    for text in ["a x a", "\u{120}x"] {
        assert_eq!(ours.encode_with_special(text), their_ids(&theirs, text), "{text}");
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

/// Whether every version of Unicode leaves a character as it is: a Chinese one that stands for itself, or one of the
/// planes that have no others.
fn stands_for_itself(character: char) -> bool {
    matches!(character, '\u{3400}'..'\u{a000}' | '\u{20000}'..'\u{2f800}' | '\u{30000}'..)
}

/// Newer tables of Unicode would give other ids to characters that came after theirs.
#[test]
fn every_character_has_their_ids_in_every_form() {
    let plain = merged_across_cuts(2_000);
    for form in ["NFC", "NFD", "NFKC", "NFKD"] {
        let mut json = plain.clone();
        json["pre_tokenizer"] = pre_tokenizers(false)[0].clone();
        json["normalizer"] = json!({"type": form});
        let ours = Tokenizer::from_json(&json.to_string(), form).unwrap();
        let theirs = theirs(&json.to_string());
        let characters = ('\0'..=char::MAX).filter(|character| !stands_for_itself(*character));
        // A mark after each shows what it joins with, and in which order.
        let marked: Vec<String> =
            characters.map(|character| format!("{character}\u{301}\u{323} ")).collect();
        for texts in marked.chunks(256) {
            let text = texts.concat();
            if ours.encode_with_special(&text) != their_ids(&theirs, &text) {
                let differs =
                    |text: &&String| ours.encode_with_special(text) != their_ids(&theirs, text);
                panic!("{form}: {:?}", texts.iter().filter(differs).collect::<Vec<_>>());
            }
        }
    }
}
