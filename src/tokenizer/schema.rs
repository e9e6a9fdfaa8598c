//! The form of a tokenizer.json, and which of its settings are understood.
//!
//! A file is parsed twice: first its settings, so that another kind of tokenizer is refused by its
//! name and not because its vocabulary looks different; then what is long.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use super::Added;
use super::files::two_parts;
use super::pretokenizer::{Pattern, PreTokenizer};
use crate::error::{Error, Result};

/// What of a tokenizer.json decides whether it is understood.
#[derive(Deserialize)]
pub(super) struct Settings {
    normalizer: Option<Part>,
    pre_tokenizer: Option<Part>,
    post_processor: Option<Value>,
    decoder: Option<Part>,
    model: ModelSettings,
}

/// One stage of a tokenizer, or several in a `Sequence`.
#[derive(Deserialize)]
struct Part {
    r#type: String,
    #[serde(default)]
    add_prefix_space: bool,
    use_regex: Option<bool>,
    pretokenizers: Option<Vec<Part>>,
    processors: Option<Vec<Part>>,
    pattern: Option<SplitPattern>,
    behavior: Option<String>,
    #[serde(default)]
    invert: bool,
    individual_digits: Option<bool>,
}

/// What a `Split` cuts at.
#[derive(Deserialize)]
enum SplitPattern {
    Regex(String),
    String(String),
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

/// What the settings of a file say of how text becomes ids.
pub(super) struct Rules {
    pub(super) pre_tokenizer: PreTokenizer,
    pub(super) ignore_merges: bool,
    /// Kept for the file where it does more than `ByteLevel`, which changes no ids.
    pub(super) post_processor: Option<Value>,
}

fn refuse<T>(what: String) -> Result<T> {
    Err(Error::input(what).hint("use a byte-level BPE tokenizer such as GPT-2's"))
}

impl Settings {
    /// Refuses what would change the ids and is not implemented.
    pub(super) fn check(self) -> Result<Rules> {
        let model = &self.model;
        if let Some(kind) = model.r#type.as_deref().filter(|&kind| kind != "BPE") {
            return refuse(format!("the model is {kind}, must be BPE"));
        }
        let settings = [
            ("dropout", model.dropout.is_none_or(|dropout| dropout == 0.0)),
            ("continuing_subword_prefix", is_empty(&model.continuing_subword_prefix)),
            ("end_of_word_suffix", is_empty(&model.end_of_word_suffix)),
        ];
        if let Some((name, _)) = settings.iter().find(|(_, supported)| !supported) {
            return refuse(format!("the model's setting {name} is not supported"));
        }
        if let Some(normalizer) = &self.normalizer {
            return refuse(format!("the normalizer {} is not supported", normalizer.r#type));
        }
        if let Some(decoder) = self.decoder.as_ref().filter(|part| part.r#type != "ByteLevel") {
            let kind = &decoder.r#type;
            return refuse(format!("the decoder {kind} is not supported, must be ByteLevel"));
        }
        let Some(pre_tokenizer) = &self.pre_tokenizer else {
            return refuse("there is no pre_tokenizer, must be ByteLevel".to_owned());
        };
        Ok(Rules {
            pre_tokenizer: pre_tokenizer.pre_tokenizer()?,
            ignore_merges: model.ignore_merges,
            post_processor: self.post_processor.map_or(Ok(None), post_processor)?,
        })
    }
}

/// A post-processor that is not just `ByteLevel`. A template puts special tokens around a text when that is asked for; the
/// ids of the text itself are the same.
fn post_processor(value: Value) -> Result<Option<Value>> {
    let part = Part::deserialize(&value).map_err(|error| Error::input(error.to_string()))?;
    let stages = part.processors.as_deref().unwrap_or(std::slice::from_ref(&part));
    let known = |part: &&Part| matches!(part.r#type.as_str(), "ByteLevel" | "TemplateProcessing");
    if let Some(other) = stages.iter().find(|part| !known(part)) {
        let kind = &other.r#type;
        return refuse(format!("the post_processor {kind} is not supported, must be ByteLevel"));
    }
    Ok((part.r#type != "ByteLevel").then_some(value))
}

impl Part {
    /// What a file's `pre_tokenizer` means: [`pre_tokenizer_json`] the other way round.
    fn pre_tokenizer(&self) -> Result<PreTokenizer> {
        let (first, last) = match self.pretokenizers.as_deref() {
            Some([only]) => (None, only),
            Some([first, last]) => (Some(first), last),
            Some(stages) => {
                let kinds: Vec<&str> = stages.iter().map(|part| part.r#type.as_str()).collect();
                let kinds = kinds.join(", ");
                return refuse(format!("the pre_tokenizer Sequence of {kinds} is not supported"));
            }
            None => (None, self),
        };
        if last.r#type != "ByteLevel" {
            let kind = &last.r#type;
            return refuse(format!("the pre_tokenizer {kind} is not supported, must be ByteLevel"));
        }
        let by_pattern = last.use_regex != Some(false);
        if last.add_prefix_space || (first.is_none() && !by_pattern) {
            return refuse(
                "the pre_tokenizer must have add_prefix_space false and use_regex true".to_owned(),
            );
        }
        let Some(first) = first else { return Ok(PreTokenizer::GPT2) };
        let numbers = |together| PreTokenizer { numbers: Some(together), ..PreTokenizer::GPT2 };
        match (first.r#type.as_str(), &first.pattern, by_pattern) {
            ("Digits", _, true) => {
                let single = first.individual_digits == Some(true);
                Ok(numbers(if single { 1 } else { usize::MAX }))
            }
            ("Split", Some(SplitPattern::Regex(regex)), _)
                if first.behavior.as_deref() == Some("Isolated") && !first.invert =>
            {
                let known = PATTERNS.iter().find(|(spelling, _)| spelling == regex);
                match (known, by_pattern) {
                    (Some((_, pattern)), false) => {
                        Ok(PreTokenizer { numbers: None, pattern: *pattern })
                    }
                    (None, true) if regex == THREES => Ok(numbers(3)),
                    _ => refuse(format!("the pre_tokenizer's pattern {regex} is not supported")),
                }
            }
            (kind, Some(SplitPattern::String(text)), _) => {
                refuse(format!("the pre_tokenizer {kind} at {text:?} is not supported"))
            }
            (kind, ..) => {
                refuse(format!("the pre_tokenizer {kind} before ByteLevel is not supported"))
            }
        }
    }
}

/// Numbers in threes.
const THREES: &str = r"\p{N}{1,3}";

/// How files spell the patterns; the first spelling of each is the one that is written.
const PATTERNS: [(&str, Pattern); 7] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Cl100k { numbers: 3 },
    ),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        Pattern::Cl100k { numbers: 3 },
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Cl100k { numbers: 1 },
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Cl100k { numbers: usize::MAX },
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::O200k,
    ),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
];

/// A pre-tokeniser as a file has it.
pub(super) fn pre_tokenizer_json(pre_tokenizer: PreTokenizer) -> Value {
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let sequence = |stages: [Value; 2]| json!({ "type": "Sequence", "pretokenizers": stages });
    let digits = |single: bool| json!({ "type": "Digits", "individual_digits": single });
    match (pre_tokenizer.numbers, pre_tokenizer.pattern) {
        (None, Pattern::Gpt2) => byte_level(true),
        (Some(3), _) => sequence([split(THREES), byte_level(true)]),
        (Some(together), _) => sequence([digits(together == 1), byte_level(true)]),
        (None, pattern) => {
            let spelling = PATTERNS.iter().find(|(_, known)| *known == pattern);
            sequence([split(spelling.map_or("", |(regex, _)| regex)), byte_level(false)])
        }
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
