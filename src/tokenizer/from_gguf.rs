//! A tokenizer of a GGUF file, written down as Hugging Face's tokenizer.json.
//!
//! llama.cpp identifies patterns by the names of models; one of SentencePiece's kind has scores instead of merges. What it
//! does not say (normal forms, words within added tokens) is not there.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::bpe::Tokenizer;
use super::llama_cpp::{BLANK, NAMES};
use super::patterns::pre_tokenizer_json;
use crate::error::{Error, Result};

/// Further names for patterns that are known by another one.
const ALSO: [(&str, &str); 7] = [
    ("llama3", "llama-bpe"),
    ("llama-v3", "llama-bpe"),
    ("smaug-bpe", "llama-bpe"),
    ("gpt2", "gpt-2"),
    // GPT-NeoX's tokenizer is named after these.
    ("mpt", "gpt-2"),
    ("olmo", "gpt-2"),
    ("deepseek-r1-qwen", "qwen2"),
];

/// The pattern whose texts have a beginning unless the file says otherwise.
const LLAMA_3: &str = "llama-bpe";

/// llama.cpp's kinds of tokens.
mod kinds {
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
}

/// What a file says of its tokenizer.
struct Described<'a> {
    entries: &'a Map<String, Value>,
    tokens: Vec<&'a str>,
    kinds: Vec<i64>,
}

impl Tokenizer {
    /// Returns tokenizer.json for the entries of a GGUF file; `None` if it has no tokenizer.
    ///
    /// # Errors
    ///
    /// If it is of a kind or has a pattern that is not known, or has more tokens than the model.
    pub(crate) fn json_of_gguf(
        entries: &Map<String, Value>,
        vocab_size: usize,
    ) -> Result<Option<Value>> {
        let model = entries.get("tokenizer.ggml.model").and_then(Value::as_str);
        match model {
            None | Some("no_vocab" | "none") => Ok(None),
            Some("gpt2") => Described::of(entries, vocab_size)?.of_bytes().map(Some),
            Some("llama") => Described::of(entries, vocab_size)?.of_characters().map(Some),
            Some(other) => Err(Error::input(format!(
                "tokenizer.ggml.model is {other:?}, only gpt2 and llama are read"
            ))
            .hint("take the model as a folder of Hugging Face's files")),
        }
    }
}

impl<'a> Described<'a> {
    fn of(entries: &'a Map<String, Value>, vocab_size: usize) -> Result<Described<'a>> {
        let list = |key: &str| entries.get(&format!("tokenizer.ggml.{key}"))?.as_array();
        let missing = |key: &str| Error::input(format!("tokenizer.ggml.{key} is not a list"));
        let tokens = list("tokens").ok_or_else(|| missing("tokens"))?;
        let tokens: Option<Vec<&str>> = tokens.iter().map(Value::as_str).collect();
        let tokens = tokens.ok_or_else(|| missing("tokens"))?;
        let kinds = list("token_type").map(|all| all.iter().filter_map(Value::as_i64).collect());
        let kinds: Vec<i64> = kinds.unwrap_or_else(|| vec![1; tokens.len()]);
        if tokens.len() > vocab_size || kinds.len() != tokens.len() {
            return Err(Error::input(format!(
                "the file has {} tokens, {} of them with a kind, and a token table of {vocab_size} rows",
                tokens.len(),
                kinds.len()
            )));
        }
        Ok(Described { entries, tokens, kinds })
    }

    fn entry(&self, key: &str) -> &Value {
        self.entries.get(&format!("tokenizer.ggml.{key}")).unwrap_or(&Value::Null)
    }

    /// Returns the tokens of a text's own, not those that are found in it first.
    fn own(&self) -> impl Iterator<Item = (usize, &'a str)> + '_ {
        let added = [kinds::UNUSED, kinds::CONTROL, kinds::USER_DEFINED, kinds::UNKNOWN];
        let all = self.tokens.iter().copied().enumerate().zip(&self.kinds);
        all.filter(move |(_, kind)| !added.contains(kind)).map(|(token, _)| token)
    }

    fn added(&self) -> Value {
        let all = self.tokens.iter().zip(&self.kinds).enumerate();
        let added = all.filter(|(_, (_, kind))| {
            [kinds::CONTROL, kinds::USER_DEFINED, kinds::UNKNOWN].contains(*kind)
        });
        let entry = |(id, (text, kind)): (usize, (&&str, &i64))| {
            json!({
                "id": id, "content": text, "special": *kind != kinds::USER_DEFINED,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        added.map(entry).collect()
    }

    /// Returns the template of one text: the tokens around it that the file names.
    fn post_processor(&self, begins: bool) -> Value {
        let wants = |key: &str, default: bool| self.entry(key).as_bool().unwrap_or(default);
        let named = |key: &str, is_wanted: bool| {
            let id = self.entry(key).as_u64().filter(|_| is_wanted)?;
            Some((self.tokens.get(usize::try_from(id).ok()?)?, id))
        };
        let before = named("bos_token_id", wants("add_bos_token", begins));
        let after = named("eos_token_id", wants("add_eos_token", false));
        if before.is_none() && after.is_none() {
            return Value::Null;
        }
        let token = |(text, _): &(&&str, u64)| json!({"SpecialToken": {"id": text, "type_id": 0}});
        let of = |text: &str| json!({"Sequence": {"id": text, "type_id": 0}});
        let around = |texts: &[&str]| -> Value {
            let inner = texts.iter().map(|text| of(text));
            before.iter().map(token).chain(inner).chain(after.iter().map(token)).collect()
        };
        let tokens = before.iter().chain(&after).map(|(text, id)| {
            ((**text).to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}))
        });
        json!({
            "type": "TemplateProcessing", "single": around(&["A"]), "pair": around(&["A", "B"]),
            "special_tokens": tokens.collect::<Map<_, _>>(),
        })
    }

    /// Returns the vocabulary, with the added tokens among its ids; those behind it have the next free ones.
    fn vocabulary(&self) -> Value {
        let last = self.own().last().map_or(0, |(id, _)| id);
        let all = self.tokens.iter().zip(&self.kinds).enumerate().take(last + 1);
        let used = all.filter(|(_, (_, kind))| **kind != kinds::UNUSED);
        used.map(|(id, (text, _))| ((*text).to_owned(), Value::from(id)))
            .collect::<Map<_, _>>()
            .into()
    }

    fn of_bytes(&self) -> Result<Value> {
        let pre = self.entry("pre").as_str().unwrap_or("none");
        let name = ALSO.iter().find(|(also, _)| *also == pre).map_or(pre, |(_, name)| name);
        let known = NAMES.iter().find(|(.., known)| *known == name);
        let (cuts, ignore_merges, _) = known.ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(.., name)| *name).collect();
            Error::input(format!(
                "tokenizer.ggml.pre is {pre:?}, only {} are read",
                names.join(", ")
            ))
            .hint("take the model as a folder of Hugging Face's files")
        })?;
        let merges = self.entry("merges").as_array().cloned().unwrap_or_default();
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        });
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added(),
            "normalizer": null, "pre_tokenizer": pre_tokenizer_json(*cuts),
            "post_processor": self.post_processor(*name == *LLAMA_3), "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": ignore_merges,
                "vocab": self.vocabulary(), "merges": merges,
            },
        }))
    }

    fn of_characters(&self) -> Result<Value> {
        let scores = self.entry("scores").as_array().filter(|all| all.len() == self.tokens.len());
        let scores = scores.ok_or_else(|| {
            Error::input(format!("tokenizer.ggml.scores is not a list of {}", self.tokens.len()))
        })?;
        let ids: HashMap<&str, usize> = self.own().map(|(id, text)| (text, id)).collect();
        let mut order: Vec<(usize, &str)> = self.own().collect();
        let score = |id: usize| scores[id].as_f64().unwrap_or(f64::NEG_INFINITY);
        order.sort_by(|(a, _), (b, _)| score(*b).total_cmp(&score(*a)));
        // Two neighbours merge if their texts are a token together.
        let merges = order.iter().flat_map(|(_, text)| {
            let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
            splits.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
        });
        let merges: Vec<Value> = merges.map(|(left, right)| json!([left, right])).collect();
        let unknown = self.kinds.iter().position(|kind| *kind == kinds::UNKNOWN);
        let unknown = unknown.map(|id| self.tokens[id]);
        let (blank, in_front) = (BLANK.to_string(), self.entry("add_space_prefix").as_bool());
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": blank});
        let back = json!({"type": "Replace", "pattern": {"String": blank}, "content": " "});
        let (mut before, mut after) =
            (vec![], vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]);
        if in_front.unwrap_or(true) {
            before.push(json!({"type": "Prepend", "prepend": blank}));
            after.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        before.push(replace);
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added(),
            "normalizer": {"type": "Sequence", "normalizers": before}, "pre_tokenizer": null,
            "post_processor": self.post_processor(true),
            "decoder": {"type": "Sequence", "decoders": after},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false,
                "vocab": self.vocabulary(), "merges": merges,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pattern_has_several_names() {
        let of_pattern = |pre: &str| {
            let entries = json!({
                "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.merges": [],
            });
            let entries = entries.as_object().expect("an object");
            Tokenizer::json_of_gguf(entries, 2).expect("a known pattern")
        };
        for name in ["gpt2", "mpt", "olmo"] {
            assert_eq!(of_pattern(name), of_pattern("gpt-2"), "{name}");
        }
        assert_ne!(of_pattern("qwen2"), of_pattern("gpt-2"));
    }
}
