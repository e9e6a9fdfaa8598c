//! The form of a tokenizer.json, and which of its settings are understood.
//!
//! A file is parsed twice: first its settings, so that another kind of tokenizer is refused by its
//! name and not because its vocabulary looks different; then what is long.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::Added;
use super::files::two_parts;
use crate::error::{Error, Result};

/// What of a tokenizer.json decides whether it is understood.
#[derive(Deserialize)]
pub(super) struct Settings {
    normalizer: Option<Part>,
    pre_tokenizer: Option<Part>,
    post_processor: Option<Part>,
    decoder: Option<Part>,
    model: ModelSettings,
}

/// One stage of a tokenizer.
#[derive(Deserialize)]
struct Part {
    r#type: String,
    #[serde(default)]
    add_prefix_space: bool,
    use_regex: Option<bool>,
}

#[derive(Deserialize)]
struct ModelSettings {
    r#type: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
}

impl Settings {
    /// Refuses what is not GPT-2's.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::input(what).hint("use a byte-level BPE tokenizer such as GPT-2's"))
        };
        let model = &self.model;
        if let Some(kind) = model.r#type.as_deref().filter(|&kind| kind != "BPE") {
            return refuse(format!("the model is {kind}, must be BPE"));
        }
        let settings = [
            ("dropout", model.dropout.is_none_or(|dropout| dropout == 0.0)),
            ("continuing_subword_prefix", is_empty(&model.continuing_subword_prefix)),
            ("end_of_word_suffix", is_empty(&model.end_of_word_suffix)),
            ("ignore_merges", !model.ignore_merges),
        ];
        if let Some((name, _)) = settings.iter().find(|(_, supported)| !supported) {
            return refuse(format!("the model's setting {name} is not supported"));
        }
        if let Some(normalizer) = &self.normalizer {
            return refuse(format!("the normalizer {} is not supported", normalizer.r#type));
        }
        let Some(pre_tokenizer) = &self.pre_tokenizer else {
            return refuse("there is no pre_tokenizer, must be ByteLevel".to_owned());
        };
        let parts = [
            ("pre_tokenizer", Some(pre_tokenizer)),
            ("post_processor", self.post_processor.as_ref()),
            ("decoder", self.decoder.as_ref()),
        ];
        for (name, part) in parts {
            if let Some(part) = part.filter(|part| part.r#type != "ByteLevel") {
                return refuse(format!(
                    "the {name} {} is not supported, must be ByteLevel",
                    part.r#type
                ));
            }
        }
        if pre_tokenizer.add_prefix_space || pre_tokenizer.use_regex == Some(false) {
            return refuse(
                "the pre_tokenizer must have add_prefix_space false and use_regex true".to_owned(),
            );
        }
        Ok(())
    }
}

fn is_empty(text: &Option<String>) -> bool {
    text.as_deref().is_none_or(str::is_empty)
}

/// What of a tokenizer.json is long.
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

/// The tokens of a vocabulary in the order of the file: a map would hide one that is there twice.
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
    /// Refuses the ways of matching that are not implemented.
    pub(super) fn check(self) -> Result<Added> {
        let AddedEntry { id, content, normalized, special, .. } = self;
        let ways =
            [("single_word", self.single_word), ("lstrip", self.lstrip), ("rstrip", self.rstrip)];
        if let Some((way, _)) = ways.iter().find(|(_, on)| *on) {
            return Err(Error::input(format!(
                "the added token {content:?} has {way}, which is not supported"
            )));
        }
        if content.is_empty() {
            return Err(Error::input(format!("the added token with the id {id} is empty")));
        }
        Ok(Added { id, content, special, normalized })
    }
}
