//! Are all forms of tokenizer files read alike, and broken or foreign ones refused by name?

use serde_json::Value;
use wgpt::Tokenizer;

use super::{encodings, oracle, read, read_json, rows, text, tokenizers};

#[test]
fn every_form_of_the_files_loads_the_same_tokenizer() {
    let encodings = encodings();
    let mut string_merges = 0;
    for (_, dir, reference) in tokenizers(&encodings) {
        let (vocab, merges) = (read(dir.join("vocab.json")), read(dir.join("merges.txt")));
        let older = Tokenizer::from_vocab_and_merges(&vocab, &merges, "older").unwrap();
        assert!(older == reference);
        let windows = merges.replace('\n', "\r\n");
        assert!(Tokenizer::from_vocab_and_merges(&vocab, &windows, "older").unwrap() == reference);
        let copy = tempfile::tempdir().unwrap();
        assert!(!Tokenizer::exists(copy.path()));
        std::fs::write(copy.path().join("vocab.json"), vocab).unwrap();
        std::fs::write(copy.path().join("merges.txt"), merges).unwrap();
        assert!(Tokenizer::exists(copy.path()));
        assert!(Tokenizer::load(copy.path()).unwrap() == reference);

        let strings = dir.join("tokenizer_string_merges.json");
        if strings.exists() {
            string_merges += 1;
            assert!(Tokenizer::from_json(&read(strings), "strings").unwrap() == reference);
        }
        let written = reference.to_json();
        assert!(Tokenizer::from_json(&written, "written").unwrap() == reference);
        assert_eq!(written.trim(), read(dir.join("tokenizer.json")).trim());
    }
    assert!(string_merges > 0);
}

/// The tokenizer cases of `bad/`, those apart that only fail beside a model.
#[test]
fn broken_files_are_refused_and_the_fault_named() {
    let bad = read_json(oracle().join("bad/bad.json"));
    let cases = rows(&bad, "cases").iter().filter(|case| case["kind"] == "tokenizer");
    let mut refused = 0;
    for case in cases {
        let dir = oracle().join(text(case, "path"));
        if dir.join("model.safetensors").exists() {
            Tokenizer::load(&dir).unwrap();
            continue;
        }
        refused += 1;
        let error = Tokenizer::load(&dir).unwrap_err().to_string();
        for any in case["must_mention"].as_array().unwrap() {
            let lower =
                error.to_lowercase().replace(&dir.display().to_string().to_lowercase(), "DIR");
            let any: Vec<String> = any
                .as_array()
                .unwrap()
                .iter()
                .map(|word| word.as_str().unwrap().to_lowercase())
                .collect();
            assert!(
                any.iter().any(|word| lower.contains(word)),
                "{}: {error:?}: {any:?}",
                dir.display()
            );
        }
    }
    assert!(refused > 0);
}

/// Changes to a sound tokenizer.json, each with what its error must mention.
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let sound: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    let cases = [
        ("/normalizer", r#"{"type": "Nmt"}"#, "Nmt"),
        ("/pre_tokenizer", r#"{"type": "Metaspace"}"#, "Metaspace"),
        ("/pre_tokenizer", "null", "pre_tokenizer"),
        (
            "/normalizer",
            r#"{"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}"#,
            "Lowercase",
        ),
        (
            "/normalizer",
            r#"{"type": "Strip", "strip_left": false, "strip_right": true}"#,
            "normalizer Strip",
        ),
        (
            "/normalizer",
            r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "b"}"#,
            "normalizer Replace",
        ),
        (
            "/normalizer",
            r#"{"type": "Replace", "pattern": {"Regex": "a"}, "content": "a"}"#,
            "normalizer Replace",
        ),
        ("/normalizer", r#"{"type": "Prepend", "prepend": "x"}"#, "normalizer Prepend"),
        (
            "/normalizer",
            r#"{"type": "BertNormalizer", "clean_text": false, "handle_chinese_chars": false,
                "strip_accents": true, "lowercase": false}"#,
            "normalizer BertNormalizer",
        ),
        (
            "/post_processor",
            r#"{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}],
                "pair": [], "special_tokens": {}}"#,
            "template",
        ),
        ("/pre_tokenizer", r#"{"type": "Sequence", "pretokenizers": []}"#, "Sequence"),
        ("/pre_tokenizer/use_regex", "false", "use_regex"),
        ("/post_processor", r#"{"type": "Unheard"}"#, "Unheard"),
        (
            "/post_processor",
            r#"{"type": "Sequence", "processors": [{"type": "Unheard"}]}"#,
            "Unheard",
        ),
        ("/decoder", r#"{"type": "Sequence", "decoders": [{"type": "Metaspace"}]}"#, "Metaspace"),
        (
            "/pre_tokenizer",
            r#"{"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "use_regex": false}]}"#,
            r"\w+",
        ),
        ("/decoder", r#"{"type": "WordPiece", "prefix": "x"}"#, "decoder WordPiece"),
        ("/model/type", r#""Unigram""#, "Unigram"),
        ("/model/dropout", "0.1", "dropout"),
        ("/model/continuing_subword_prefix", r###""##""###, "continuing_subword_prefix"),
        ("/model/end_of_word_suffix", r#""</w>""#, "end_of_word_suffix"),
        ("/model/vocab", r#"[["a", -1.5]]"#, "map"),
        ("/model/vocab/!", "-1", "-1"),
        ("/model/vocab/!", "4294967295", "4294967295"),
        ("/model/vocab/!", "1.5", "1.5"),
        ("/model/merges", r#"["a b c"]"#, "two parts"),
        ("/model/merges", r#"[["a", "b", "c"]]"#, "merge"),
        ("/model/merges", "[7]", "merge"),
        ("/added_tokens/0/id", "7", "7"),
        ("/added_tokens/0/id", "-7", "-7"),
        ("/added_tokens/0/content", r#""""#, "empty"),
    ];
    for (place, value, mention) in cases {
        let mut json = sound.clone();
        *json.pointer_mut(place).unwrap() = serde_json::from_str(value).unwrap();
        let error = Tokenizer::from_json(&json.to_string(), "PLACE").unwrap_err().to_string();
        assert!(error.contains(mention) && error.starts_with("PLACE"), "{place} {value}: {error}");
    }
    let twice = sound.to_string().replacen(r#""!":1"#, r#""!":1,"!":1"#, 1);
    let error = Tokenizer::from_json(&twice, "PLACE").unwrap_err().to_string();
    assert!(error.contains("the token \"!\" is there twice"), "{error}");
}

#[test]
fn parts_that_change_no_ids_are_taken_and_what_is_read_is_written() {
    let sound: Value =
        serde_json::from_str(&Tokenizer::train(b"abab abab", 259).unwrap().to_json()).unwrap();
    let byte_level = r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}"#;
    let roberta = r#"{"type": "RobertaProcessing", "sep": ["<|endoftext|>", 0], "cls": ["<|endoftext|>", 0],
        "trim_offsets": true, "add_prefix_space": false}"#;
    let bert =
        r#"{"type": "BertProcessing", "sep": ["<|endoftext|>", 0], "cls": ["<|endoftext|>", 0]}"#;
    let template = r#"{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}}"#;
    let cases = [
        ("/normalizer", r#"{"type": "Sequence", "normalizers": []}"#.to_owned()),
        (
            "/normalizer",
            r#"{"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}"#
                .to_owned(),
        ),
        (
            "/normalizer",
            r#"{"type": "Strip", "strip_left": false, "strip_right": false}"#.to_owned(),
        ),
        (
            "/normalizer",
            r#"{"type": "Sequence", "normalizers": [
                {"type": "Replace", "pattern": {"String": "ab"}, "content": "ab"},
                {"type": "BertNormalizer", "clean_text": false, "handle_chinese_chars": false,
                 "strip_accents": null, "lowercase": false}]}"#
                .to_owned(),
        ),
        ("/pre_tokenizer", format!(r#"{{"type": "Sequence", "pretokenizers": [{byte_level}]}}"#)),
        (
            "/pre_tokenizer",
            format!(
                r#"{{"type": "Sequence", "pretokenizers": [{{"type": "Sequence", "pretokenizers": [{byte_level}]}}]}}"#
            ),
        ),
        ("/post_processor", "null".to_owned()),
        ("/post_processor", roberta.to_owned()),
        ("/post_processor", bert.to_owned()),
        ("/post_processor", r#"{"type": "Sequence", "processors": []}"#.to_owned()),
        (
            "/post_processor",
            format!(
                r#"{{"type": "Sequence", "processors": [{byte_level}, {{"type": "Sequence", "processors": [{template}]}}]}}"#
            ),
        ),
        ("/decoder", "null".to_owned()),
        (
            "/decoder",
            format!(r#"{{"type": "Sequence", "decoders": [{byte_level}, {{"type": "Fuse"}}]}}"#),
        ),
    ];
    for (place, value) in cases {
        let mut json = sound.clone();
        *json.pointer_mut(place).unwrap() = serde_json::from_str(&value).unwrap();
        let theirs: tokenizers::Tokenizer = json.to_string().parse().unwrap();
        let ours = Tokenizer::from_json(&json.to_string(), "PLACE").unwrap();
        let written: tokenizers::Tokenizer = ours.to_json().parse().unwrap();
        for text in ["abab ab<|endoftext|> ab", "", " a  b\n"] {
            let expected = theirs.encode(text, false).unwrap().get_ids().to_vec();
            assert_eq!(ours.encode_with_special(text), expected, "{value}");
            assert_eq!(written.encode(text, false).unwrap().get_ids(), expected, "{value}");
        }
        assert!(Tokenizer::from_json(&ours.to_json(), "again").unwrap() == ours, "{value}");
    }
}

#[test]
fn the_fields_that_older_files_leave_out_are_not_missed() {
    // GPT-2's first tokenizer.json had no model type, and empty strings where newer ones have null.
    let mut json: Value =
        serde_json::from_str(&Tokenizer::train(b"abab", 258).unwrap().to_json()).unwrap();
    let model = json["model"].as_object_mut().unwrap();
    for name in ["type", "byte_fallback", "ignore_merges"] {
        model.remove(name).unwrap();
    }
    model["continuing_subword_prefix"] = "".into();
    model["end_of_word_suffix"] = "".into();
    json["pre_tokenizer"].as_object_mut().unwrap().remove("use_regex").unwrap();
    let tokenizer = Tokenizer::from_json(&json.to_string(), "older").unwrap();
    assert_eq!(tokenizer.encode("abab"), [257, 257]);
}

#[test]
fn a_missing_tokenizer_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(empty.path()).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    std::fs::create_dir(empty.path().join("tokenizer.json")).unwrap();
    let error = Tokenizer::load(empty.path()).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
    std::fs::remove_dir(empty.path().join("tokenizer.json")).unwrap();
    std::fs::write(empty.path().join("tokenizer.json"), b"{\xff}").unwrap();
    let error = Tokenizer::load(empty.path()).unwrap_err();
    assert!(error.to_string().contains("UTF-8"), "{error}");
}
