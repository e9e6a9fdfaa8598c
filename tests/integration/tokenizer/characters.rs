//! Do vocabularies of characters, as Llama 2, Mistral and Gemma have them, give the ids and texts of Hugging Face's
//! `tokenizers`?

use proptest::prelude::*;
use serde_json::{Value, json};
use wgpt::Tokenizer;
use wgpt::tokenizer::AddedAs;

use super::cuts::streamed;
use super::huggingface::{added, around, cases, nasty, their_ids, theirs, with_added};

/// The stages of a file, by the models that have them.
pub(super) fn pipelines() -> Vec<(&'static str, Value)> {
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let sequence = |name: &str, stages: &[Value]| json!({"type": "Sequence", name: stages});
    let metaspace = |scheme: &str, split: bool| {
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme,
            "split": split})
    };
    let decoders = |strip: usize| {
        let mut stages = vec![
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if strip > 0 {
            stages.push(json!({"type": "Strip", "content": " ", "start": strip, "stop": 0}));
        }
        sequence("decoders", &stages)
    };
    let nothing = Value::Null;
    let stages = |normalizer: &Value, pre_tokenizer: &Value, decoder: Value| json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder});
    let llama = sequence("normalizers", &[prepend.clone(), replace.clone()]);
    let formed = |form: &str| {
        let form = json!({"type": form});
        sequence("normalizers", &[form, prepend.clone(), replace.clone()])
    };
    let gemma = json!({"type": "Split", "pattern": {"String": " "},
        "behavior": "MergedWithPrevious", "invert": false});
    vec![
        ("Llama 2, Mistral 0.1", stages(&llama, &nothing, decoders(1))),
        ("Mistral 0.3", stages(&nothing, &metaspace("first", false), decoders(1))),
        ("Gemma", stages(&replace, &gemma, decoders(0))),
        ("words", stages(&nothing, &metaspace("always", true), metaspace("always", true))),
        ("texts", stages(&nothing, &metaspace("always", false), metaspace("never", false))),
        ("inner words", stages(&nothing, &metaspace("never", true), decoders(2))),
        ("NFC", stages(&formed("NFC"), &nothing, decoders(1))),
        ("NFKC", stages(&formed("NFKC"), &nothing, decoders(1))),
        ("NFKC words", stages(&json!({"type": "NFKC"}), &metaspace("first", true), decoders(1))),
        ("nothing", stages(&nothing, &nothing, decoders(0))),
    ]
}

/// What a vocabulary does with characters that it does not have.
#[derive(Clone, Copy, Debug)]
struct Unknown {
    byte_fallback: bool,
    fuse_unk: bool,
}

/// A file with these stages, and with a vocabulary of some letters and random merges of its tokens.
fn file(stages: &Value, merges: &[(usize, usize)], unknown: Unknown) -> Value {
    let letters =
        ["\u{2581}", "a", "b", "c", "\u{e9}", "\u{4e2d}", "\u{6587}", "!", "\n", "<", ">", "0"];
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    if unknown.byte_fallback {
        tokens.extend((0..=255).map(|byte: u8| format!("<0x{byte:02X}>")));
    }
    let first = tokens.len();
    tokens.extend(letters.map(str::to_owned));
    let mut pairs = vec![];
    for &(left, right) in merges {
        let mergeable = tokens.len() - first;
        let pair = [left, right].map(|part| tokens[first + part % mergeable].clone());
        let joined = pair.concat();
        if joined.len() < 40 && !pairs.contains(&json!(pair)) {
            pairs.push(json!(pair));
            if !tokens.contains(&joined) {
                tokens.push(joined);
            }
        }
    }
    let vocab = tokens.into_iter().zip(0_u32..).map(|(token, id)| (token, id.into()));
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let mut file = stages.clone();
    file["version"] = "1.0".into();
    file["added_tokens"] = json!([token(0, "<unk>"), token(1, "<s>"), token(2, "</s>")]);
    file["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    file["model"] = json!({"type": "BPE", "dropout": null, "unk_token": "<unk>",
        "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": unknown.fuse_unk, "byte_fallback": unknown.byte_fallback,
        "ignore_merges": false, "vocab": Value::Object(vocab.collect()), "merges": pairs});
    file
}

fn merges() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((0..60_usize, 0..60_usize), 0..60)
}

fn unknown() -> impl Strategy<Value = Unknown> {
    (any::<bool>(), any::<bool>())
        .prop_map(|(byte_fallback, fuse_unk)| Unknown { byte_fallback, fuse_unk })
}

/// Texts of the letters that merge, and of what differs between pipelines.
fn texts() -> impl Strategy<Value = String> {
    let part = proptest::sample::select(vec![
        "a",
        "b",
        "c",
        "\u{e9}",
        "\u{4e2d}",
        "\u{6587}",
        "!",
        "\n",
        "<",
        ">",
        "0",
        " ",
        "  ",
        "\u{2581}",
        "ab",
        "ca b",
        " a",
        "<s>",
        "</s>",
        "<unk>",
        "<0x0A>",
        "x",
        "yz",
        "\u{1f600}",
        "e\u{301}",
        "\u{301}",
        "\u{ff11}",
        "\u{fb01}",
        "\u{a0}",
        "\u{b4}",
        "\u{1112}\u{1161}\u{11ab}",
    ]);
    let letters = proptest::collection::vec(part, 0..60).prop_map(|parts| parts.concat());
    prop_oneof![3 => letters, 1 => nasty()]
}

#[test]
fn every_pipeline_has_their_ids_and_texts() {
    for (name, stages) in pipelines() {
        let lengths = proptest::collection::vec(1..6_usize, 1..4);
        let all =
            (merges(), unknown(), texts(), lengths, proptest::collection::vec(0..400_u32, 0..12));
        cases(300)
            .run(&all, |(merges, unknown, text, lengths, ids)| {
                let json = file(&stages, &merges, unknown);
                let ours = Tokenizer::from_json(&json.to_string(), name).unwrap();
                let theirs = theirs(&json.to_string());
                let expected = their_ids(&theirs, &text);
                prop_assert_eq!(&ours.encode_with_special(&text), &expected, "{} {}", name, json);
                let whole = theirs.encode(text.as_str(), true).unwrap().get_ids().to_vec();
                prop_assert_eq!(ours.encode_whole(&text), whole);
                let found = streamed(&ours, AddedAs::Tokens, &text, &lengths).0;
                prop_assert_eq!(&found, &expected, "{} in pieces {}", name, json);

                let known = |id: &u32| (*id as usize) < ours.vocab_size();
                let ids: Vec<u32> = ids.into_iter().filter(known).collect();
                for ids in [&expected, &ids] {
                    let decoded = theirs.decode(ids, false).unwrap();
                    prop_assert_eq!(
                        ours.decode_lossy(ids).unwrap(),
                        &*decoded,
                        "{} {:?}",
                        name,
                        ids
                    );
                    let mut stream = ours.decode_stream();
                    let parts: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
                    let parts = parts + &stream.finish();
                    let bytes = ours.decode(ids).unwrap();
                    prop_assert_eq!(&parts, &String::from_utf8_lossy(&bytes));
                    if !decoded.contains('\u{fffd}') {
                        prop_assert_eq!(parts, decoded);
                    }
                }
                let again = Tokenizer::from_json(&ours.to_json(), "again").unwrap();
                prop_assert!(again == ours);
                let written = super::huggingface::theirs(&ours.to_json());
                prop_assert_eq!(their_ids(&written, &text), expected);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn added_tokens_are_found_in_every_pipeline_whatever_their_flags() {
    for (name, stages) in pipelines() {
        let lengths = proptest::collection::vec(1..6_usize, 1..4);
        let all = (merges(), unknown(), added(), around(), lengths);
        cases(200)
            .run(&all, |(merges, unknown, tokens, text, lengths)| {
                let json = with_added(&file(&stages, &merges, unknown), tokens);
                let ours = Tokenizer::from_json(&json, name).unwrap();
                let theirs = theirs(&json);
                let expected = their_ids(&theirs, &text);
                prop_assert_eq!(&ours.encode_with_special(&text), &expected, "{} {}", name, json);
                let decoded = theirs.decode(&expected, false).unwrap();
                prop_assert_eq!(ours.decode_lossy(&expected).unwrap(), decoded);
                let found = streamed(&ours, AddedAs::Tokens, &text, &lengths).0;
                prop_assert_eq!(&found, &expected, "{} in pieces {}", name, json);
                prop_assert!(Tokenizer::from_json(&ours.to_json(), "again").unwrap() == ours);
                Ok(())
            })
            .unwrap();
    }
}

/// A file of Llama 2's kind with tokens for `▁a` and `ab`.
fn llama() -> Tokenizer {
    let (_, stages) = &pipelines()[0];
    let json = file(stages, &[(0, 1), (1, 2)], Unknown { byte_fallback: true, fuse_unk: true });
    Tokenizer::from_json(&json.to_string(), "llama").unwrap()
}

#[test]
fn the_leading_blank_is_left_out_once_and_characters_come_whole() {
    let tokenizer = llama();
    let ids = tokenizer.encode("a a\u{1f600}\n");
    assert_eq!(tokenizer.decode_lossy(&ids).unwrap(), "a a\u{1f600}\n");
    let streamed = |mut stream: wgpt::tokenizer::DecodeStream<'_>| {
        let parts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(stream.finish(), "");
        parts
    };
    // The four bytes of the character, and the line end, are tokens of their own.
    let rest = [" a", "", "", "", "\u{1f600}", "\n"];
    let begun = [&["a"], &rest[..]].concat();
    assert_eq!(streamed(tokenizer.decode_stream()), begun);
    // After the token that begins a text there is the beginning, after a text there is none.
    assert_eq!(streamed(tokenizer.decode_stream_after(&[1])), begun);
    assert_eq!(streamed(tokenizer.decode_stream_after(&ids)), [&[" a"], &rest[..]].concat());
}

#[test]
fn a_template_may_be_taken_off_put_on_and_written() {
    let tokenizer = llama();
    let ids = tokenizer.encode("a");
    assert_eq!(tokenizer.template(), (&[1][..], &[][..]));
    let without = tokenizer.clone().with_template([], []).unwrap();
    assert_eq!(without.encode_whole("a"), ids);
    let both = without.with_template([1], [2]).unwrap();
    assert_eq!(both.encode_whole("a"), [&[1], &ids[..], &[2]].concat());
    let theirs = theirs(&both.to_json());
    assert_eq!(theirs.encode("a", true).unwrap().get_ids(), both.encode_whole("a"));
    let error = both.with_template([9999], []).unwrap_err().to_string();
    assert!(error.contains("9999"), "{error}");
}

/// Changes to a sound file, each with what its error must mention.
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let sound: Value = serde_json::from_str(&llama().to_json()).unwrap();
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}"});
    let byte = 3 + 10;
    assert_eq!(sound["model"]["vocab"]["<0x0A>"], byte);
    let cases = [
        ("/normalizer", replace("ab", "c"), "Replace"),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": " +"}, "content": "_"}),
            "Replace",
        ),
        ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""}), "Precompiled"),
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": [replace(" ", "_"), {"type": "NFC"}]}),
            "NFC",
        ),
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": [replace("a", "b"), replace("c", "a")]}),
            "Replace",
        ),
        ("/pre_tokenizer", json!({"type": "Whitespace"}), "Whitespace"),
        ("/pre_tokenizer", metaspace.clone(), "Prepend"),
        ("/decoder", Value::Null, "pre_tokenizer"),
        ("/decoder", json!({"type": "Sequence", "decoders": [{"type": "CTC"}]}), "CTC"),
        ("/decoder", json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}), "Strip"),
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/model/end_of_word_suffix", json!("</w>"), "end_of_word_suffix"),
        ("/model/ignore_merges", json!(true), "ignore_merges"),
        ("/model/vocab/<0x0A>", Value::Null, "byte_fallback"),
    ];
    for (place, value, mention) in cases {
        let mut json = sound.clone();
        if value.is_null() && place.starts_with("/model/vocab") {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("<0x0A>").unwrap();
            vocab.insert("other".to_owned(), id);
        } else {
            *json.pointer_mut(place).unwrap() = value.clone();
        }
        let error = Tokenizer::from_json(&json.to_string(), "PLACE").unwrap_err().to_string();
        assert!(error.contains(mention) && error.starts_with("PLACE"), "{place} {value}: {error}");
    }
    let mut json = sound.clone();
    json["model"]["byte_fallback"] = false.into();
    json["model"]["unk_token"] = Value::Null;
    let error = Tokenizer::from_json(&json.to_string(), "PLACE").unwrap_err().to_string();
    assert!(error.contains("unk_token"), "{error}");
}

#[test]
fn long_texts_without_blanks_have_their_ids_and_take_no_quadratic_time() {
    let (_, stages) = &pipelines()[0];
    let merges: Vec<(usize, usize)> = (0..200).map(|i| (i * 7 % 31, i * 5 % 17)).collect();
    let json = file(stages, &merges, Unknown { byte_fallback: true, fuse_unk: true });
    let ours = Tokenizer::from_json(&json.to_string(), "long").unwrap();
    let theirs = theirs(&json.to_string());
    let mut state = 1_u32;
    let mut letter = || {
        state = state.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        ['a', 'b', 'c', '\u{4e2d}'][(state >> 30) as usize]
    };
    let mixed: String = (0..1 << 18).map(|_| letter()).collect();
    for text in [mixed, "ab".repeat(1 << 17), "\u{4e2d}".repeat(1 << 16), " ".repeat(1 << 18)] {
        assert!(ours.encode(&text) == their_ids(&theirs, &text));
    }
}
