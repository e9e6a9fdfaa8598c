//! Are the tokens and settings that files beside a vocabulary add read as Hugging Face's transformers reads them?

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::Tokenizer;

use super::huggingface::{their_ids, theirs};

const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Folders with the tokenizer of bytes, as tokenizer.json and as vocab.json with merges.txt, and files beside it.
fn folders(files: &[(&str, Value)]) -> [TempDir; 2] {
    let bytes = Tokenizer::bytes();
    let (vocab, merges) = bytes.to_vocab_and_merges().unwrap();
    let forms = [
        vec![("tokenizer.json", bytes.to_json())],
        vec![("vocab.json", vocab), ("merges.txt", merges)],
    ];
    forms.map(|form| {
        let folder = TempDir::new().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        form.iter().for_each(|(name, text)| write(name, text));
        files.iter().for_each(|(name, value)| write(name, &value.to_string()));
        folder
    })
}

/// An added token with some of its flags set.
fn token(content: &str, flags: &[&str]) -> Value {
    let mut token = json!({"content": content, "lstrip": false, "rstrip": false, "single_word": false,
        "normalized": false, "special": true});
    for flag in flags {
        token[*flag] = true.into();
    }
    token
}

fn decoder(entries: &[(&str, Value)]) -> Value {
    let entries = entries.iter().map(|(id, token)| ((*id).to_owned(), token.clone()));
    json!({"added_tokens_decoder": Value::Object(entries.collect())})
}

/// The ids are those of AutoTokenizer of transformers 5.24.0 for these folders (tokenizer_class GPT2Tokenizer,
/// add_special_tokens=False), the same for both forms.
/// The files beside the vocabulary, a text, and its ids.
type Case<'a> = (&'a [(&'a str, Value)], &'a str, &'a [u32]);

#[test]
fn what_is_beside_has_transformers_ids() {
    let user = || token("<|user|>", &[]);
    let text = "! <|user|> !";
    let typed = json!({"__type": "AddedToken", "content": "<|user|>", "lstrip": false, "rstrip": true,
        "single_word": false, "normalized": false, "special": true});
    let (split, joined) = ([1, 221, 257, 221, 1], "<|user|><|b|><|p|>");
    let mut prefixed = decoder(&[("257", user())]);
    prefixed["add_prefix_space"] = true.into();
    let plain = json!({"content": "<|user|>", "lstrip": false, "rstrip": true, "normalized": false,
        "single_word": false});
    let cases: [Case<'_>; 23] = [
        (&[(CONFIG, decoder(&[("257", user())]))], text, &split),
        (
            &[(CONFIG, decoder(&[("258", token("<|b|>", &[])), ("257", user())]))],
            "<|user|><|b|>",
            &[257, 258],
        ),
        (&[(CONFIG, decoder(&[("257", token("<|user|>", &["lstrip"]))]))], text, &[1, 257, 221, 1]),
        (
            &[(CONFIG, decoder(&[("0", token("<|endoftext|>", &["rstrip"]))]))],
            "! <|endoftext|> !",
            &[1, 221, 0, 1],
        ),
        (
            &[(CONFIG, decoder(&[("257", token("ab", &["single_word"]))]))],
            "ab abc ab! xab",
            &[257, 221, 65, 66, 67, 221, 257, 1, 221, 88, 65, 66],
        ),
        // Where there is an added_tokens_decoder the older files say nothing.
        (
            &[
                (CONFIG, decoder(&[("257", user())])),
                (SPECIAL, json!({"pad_token": "!"})),
                (ADDED, json!({"!!": 257})),
            ],
            "!! <|user|>",
            &[1, 1, 221, 257],
        ),
        (&[(ADDED, json!({"<|user|>": 257}))], text, &split),
        (&[(ADDED, json!({"<|b|>": 258, "<|user|>": 257}))], "<|b|><|user|>", &[258, 257]),
        (&[(SPECIAL, json!({"eos_token": "<|user|>"}))], text, &split),
        (
            &[(SPECIAL, json!({"mask_token": token("<|user|>", &["lstrip", "normalized"])}))],
            text,
            &[1, 257, 221, 1],
        ),
        (&[(SPECIAL, json!({"mask_token": plain}))], text, &[1, 221, 257, 1]),
        (
            &[(
                SPECIAL,
                json!({"additional_special_tokens": ["<|user|>", "<|b|>"], "pad_token": "<|p|>"}),
            )],
            joined,
            &[258, 259, 257],
        ),
        (
            &[
                (SPECIAL, json!({"pad_token": "<|p|>", "additional_special_tokens": ["<|user|>"]})),
                (ADDED, json!({"<|user|>": 257, "<|b|>": 258})),
            ],
            joined,
            &[257, 258, 259],
        ),
        (
            &[(CONFIG, json!({"pad_token": "<|p|>", "eos_token": "<|user|>"}))],
            "<|user|><|p|>",
            &[257, 258],
        ),
        (&[(CONFIG, json!({"pad_token": typed}))], text, &[1, 221, 257, 1]),
        (&[(CONFIG, json!({"additional_special_tokens": ["<|user|>"]}))], text, &split),
        (&[(CONFIG, json!({"extra_special_tokens": ["<|user|>"]}))], text, &split),
        (&[(CONFIG, json!({"extra_special_tokens": {"image_token": "<|user|>"}}))], text, &split),
        (&[(CONFIG, json!({"image_token": "<|user|>", "add_bos_token": false}))], text, &split),
        (&[(SPECIAL, json!({"pad_token": "!"}))], "a! !b", &[65, 1, 221, 1, 66]),
        (
            &[(CONFIG, json!({"add_prefix_space": true}))],
            "!<|endoftext|>!<|endoftext|> !",
            &[221, 1, 0, 221, 1, 0, 221, 1],
        ),
        (&[(CONFIG, json!({"add_prefix_space": false}))], "!<|endoftext|>!", &[1, 0, 1]),
        (&[(CONFIG, prefixed)], "!<|user|>!<|user|> !", &[221, 1, 257, 221, 1, 257, 221, 1]),
    ];
    for (files, text, expected) in cases {
        for folder in folders(files) {
            let tokenizer = Tokenizer::load(folder.path()).unwrap();
            assert_eq!(tokenizer.encode_with_special(text), expected, "{files:?}");
            let written = tokenizer.to_json();
            assert_eq!(their_ids(&theirs(&written), text), expected, "{files:?}: {written}");
            assert!(Tokenizer::from_json(&written, "again").unwrap() == tokenizer, "{files:?}");
        }
    }
}

#[test]
fn the_class_of_a_model_adds_no_blank_unless_the_configuration_says_so() {
    let mut prefixed: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    prefixed["pre_tokenizer"]["add_prefix_space"] = true.into();
    let (with, without): ([u32; 5], [u32; 3]) = ([221, 1, 0, 221, 1], [1, 0, 1]);
    // The ids of AutoTokenizer of transformers 5.24.0, and of 4.57.1 where the class is one of a model.
    let cases: [(Value, &[u32]); 9] = [
        (json!({"tokenizer_class": "GPT2Tokenizer"}), &without),
        (json!({"tokenizer_class": "GPT2TokenizerFast"}), &without),
        (json!({"tokenizer_class": "Qwen2Tokenizer"}), &without),
        (json!({"tokenizer_class": "RobertaTokenizerFast"}), &without),
        (json!({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true}), &with),
        (json!({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": false}), &without),
        (json!({"tokenizer_class": "PreTrainedTokenizerFast"}), &with),
        (json!({"tokenizer_class": "TokenizersBackend"}), &with),
        (json!({}), &with),
    ];
    for (config, expected) in cases {
        let [folder, _] = folders(&[(CONFIG, config.clone())]);
        std::fs::write(folder.path().join("tokenizer.json"), prefixed.to_string()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(tokenizer.encode_with_special("!<|endoftext|>!"), expected, "{config}");
    }
}

#[test]
fn a_list_may_hold_tokens_with_flags() {
    // As transformers 4 wrote it.
    let list = json!(["<|b|>", token("<|user|>", &["lstrip"])]);
    for folder in folders(&[(SPECIAL, json!({"additional_special_tokens": list}))]) {
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(tokenizer.encode_with_special("! <|user|> <|b|>"), [1, 258, 221, 257]);
    }
}

#[test]
fn a_token_of_tokenizer_json_keeps_its_flags_unless_the_configuration_has_it() {
    let mut json: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    let mut user = token("<|user|>", &["lstrip"]);
    user["id"] = 257.into();
    json["added_tokens"].as_array_mut().unwrap().push(user);
    let cases: [(&str, Value, &[u32]); 3] = [
        (ADDED, json!({"<|user|>": 257}), &[1, 257]),
        (SPECIAL, json!({"pad_token": token("<|user|>", &[])}), &[1, 257]),
        (CONFIG, decoder(&[("257", token("<|user|>", &[]))]), &[1, 221, 257]),
    ];
    for (name, value, expected) in cases {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(tokenizer.encode_with_special("! <|user|>"), expected, "{name}");
    }
}

#[test]
fn contradictions_and_broken_files_are_refused_by_name() {
    let error = |dir: &Path| Tokenizer::load(dir).unwrap_err().to_string();
    let cases: [(&str, Value, &[&str]); 9] = [
        (ADDED, json!({"<|user|>": 5}), &["<|user|>", "id 5", "%"]),
        (ADDED, json!({"<|user|>": 300}), &["<|user|>", "id 300", "257"]),
        (ADDED, json!({"<|endoftext|>": 9}), &["<|endoftext|>", "9", "0"]),
        (ADDED, json!({"<|user|>": "257"}), &["<|user|>", "id"]),
        (CONFIG, decoder(&[("9", token("<|endoftext|>", &[]))]), &["<|endoftext|>", "9", "0"]),
        (CONFIG, decoder(&[("300", token("<|user|>", &[]))]), &["<|user|>", "300", "257"]),
        (CONFIG, decoder(&[("x", token("<|user|>", &[]))]), &["added_tokens_decoder", "x"]),
        (CONFIG, json!({"added_tokens_decoder": [1]}), &["added_tokens_decoder", "map"]),
        (SPECIAL, json!([1]), &["map"]),
    ];
    for (name, value, mentions) in cases {
        for folder in folders(&[(name, value.clone())]) {
            let error = error(folder.path());
            assert!(error.contains(name), "{name} {value}: {error}");
            assert!(mentions.iter().all(|mention| error.contains(mention)), "{value}: {error}");
        }
    }
    // A vocabulary with gaps has no end to add a token at.
    let mut json: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    json["model"]["vocab"]["!"] = 257.into();
    json["model"]["vocab"]["!!"] = 258.into();
    let gaps = Tokenizer::from_json(&json.to_string(), "gaps").unwrap();
    let error = gaps.with_special_tokens(["<|user|>"]).unwrap_err().to_string();
    assert!(error.contains("258") && error.contains("!!"), "{error}");
}

#[test]
fn what_vocab_and_merges_cannot_say_is_named() {
    let prefixed = &folders(&[(CONFIG, json!({"add_prefix_space": true}))])[1];
    let stripped = &folders(&[(CONFIG, decoder(&[("0", token("<|endoftext|>", &["lstrip"]))]))])[1];
    for (folder, mention) in [(prefixed, "add_prefix_space"), (stripped, "<|endoftext|>")] {
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let error = tokenizer.to_vocab_and_merges().unwrap_err().to_string();
        assert!(error.contains(mention), "{error}");
    }
}
