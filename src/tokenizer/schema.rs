//! The form of a tokenizer.json.
//!
//! A file is parsed twice: first its settings, so that another kind of tokenizer is rejected by its
//! name and not because its vocabulary looks different; then its long parts.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::special::Flags;
use super::token::two_parts;
use super::vocabulary::Stated;

/// The parts of a tokenizer.json that decide whether it is supported.
#[derive(Deserialize)]
pub(super) struct Settings {
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Option<Value>,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: ModelSettings,
}

/// One stage of a tokenizer, or several in a `Sequence`.
#[derive(Deserialize)]
pub(super) struct Part {
    pub(super) r#type: String,
    #[serde(default)]
    pub(super) add_prefix_space: bool,
    pub(super) use_regex: Option<bool>,
    #[serde(alias = "normalizers", alias = "pretokenizers", alias = "processors")]
    #[serde(alias = "decoders")]
    stages: Option<Vec<Part>>,
    pub(super) pattern: Option<Pattern>,
    pub(super) behavior: Option<String>,
    #[serde(default)]
    pub(super) invert: bool,
    pub(super) individual_digits: Option<bool>,
    pub(super) prepend: Option<String>,
    pub(super) content: Option<String>,
    pub(super) replacement: Option<char>,
    pub(super) prepend_scheme: Option<String>,
    pub(super) split: Option<bool>,
    pub(super) start: Option<usize>,
    pub(super) stop: Option<usize>,
    /// The sequence of a template for one text.
    pub(super) single: Option<Vec<Value>>,
    /// Further settings, by their names in the file.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

/// The text that a `Split` cuts at, or that a `Replace` replaces.
#[derive(Deserialize)]
pub(super) enum Pattern {
    Regex(String),
    String(String),
}

impl Part {
    /// Returns the part itself, or all stages of a `Sequence`, including those of nested sequences.
    pub(super) fn stages(&self) -> Vec<&Part> {
        match self.stages.as_deref() {
            Some(stages) if self.r#type == "Sequence" => {
                stages.iter().flat_map(Part::stages).collect()
            }
            _ => vec![self],
        }
    }
}

#[derive(Deserialize)]
pub(super) struct ModelSettings {
    pub(super) r#type: Option<String>,
    pub(super) dropout: Option<f64>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

/// The long parts of a tokenizer.json.
#[derive(Deserialize)]
pub(super) struct File {
    pub(super) added_tokens: Option<Vec<AddedEntry>>,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) vocab: Entries,
    pub(super) merges: Vec<MergeEntry>,
}

#[derive(Deserialize)]
pub(super) struct AddedEntry {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// A merge: `["a", "b"]`, or `"a b"` in older files.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a merge is neither [\"a\", \"b\"] nor \"a b\"")]
pub(super) enum MergeEntry {
    Pair(String, String),
    Joined(String),
}

impl MergeEntry {
    pub(super) fn parts(&self) -> Option<(&str, &str)> {
        match self {
            MergeEntry::Pair(left, right) => Some((left, right)),
            MergeEntry::Joined(merge) => two_parts(merge),
        }
    }
}

/// The tokens of a vocabulary in the order of the file: a map would hide duplicates.
pub(super) struct Entries(pub(super) Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl AddedEntry {
    pub(super) fn stated(self) -> Stated {
        let AddedEntry { id, content, special, normalized, lstrip, rstrip, single_word } = self;
        let flags = Flags { special, normalized, lstrip, rstrip, single_word };
        Stated { content, id: Some(id), flags }
    }
}
