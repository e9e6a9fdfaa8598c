//! The form of a tokenizer.json, and the settings that are supported.
//!
//! A file is parsed twice: first its settings, so that another kind of tokenizer is rejected by its
//! name and not because its vocabulary looks different; then its long parts.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use super::beside::Besides;
use super::pretokenizer::{Pattern, PreTokenizer, Prefix};
use super::special::Flags;
use super::token::two_parts;
use super::vocabulary::Stated;
use crate::error::{Error, Result};

/// The parts of a tokenizer.json that decide whether it is supported.
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
    #[serde(alias = "normalizers", alias = "pretokenizers", alias = "processors")]
    #[serde(alias = "decoders")]
    stages: Option<Vec<Part>>,
    pattern: Option<SplitPattern>,
    behavior: Option<String>,
    #[serde(default)]
    invert: bool,
    individual_digits: Option<bool>,
    /// The sequence of a template for one text.
    single: Option<Vec<Value>>,
    /// The settings by which a normalizer changes texts, by their names in the file.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// The pattern that a `Split` cuts at.
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

/// The rules for encoding text in a file's settings.
pub(super) struct Rules {
    pub(super) pre_tokenizer: PreTokenizer,
    pub(super) ignore_merges: bool,
    /// The post-processor, kept for the file if it does more than `ByteLevel`; it does not change the ids.
    pub(super) post_processor: Option<Value>,
}

fn refuse<T>(what: String) -> Result<T> {
    Err(Error::input(what).hint("use a byte-level BPE tokenizer such as GPT-2's"))
}

impl Settings {
    /// Rejects settings that would change the ids and are not implemented. The files beside may set `add_prefix_space`
    /// for a pre-tokenizer that is not a sequence.
    pub(super) fn check(self, besides: &Besides) -> Result<Rules> {
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
        check_normalizer(self.normalizer.as_ref())?;
        only("decoder", self.decoder.as_ref(), &["ByteLevel", "Fuse"])?;
        let Some(mut pre_tokenizer) = self.pre_tokenizer else {
            return refuse("there is no pre_tokenizer, must be ByteLevel".to_owned());
        };
        if let Some(add_prefix_space) = besides.add_prefix_space {
            pre_tokenizer.add_prefix_space = add_prefix_space;
        }
        Ok(Rules {
            pre_tokenizer: pre_tokenizer.pre_tokenizer()?,
            ignore_merges: model.ignore_merges,
            post_processor: self.post_processor.map_or(Ok(None), post_processor)?,
        })
    }
}

/// Rejects normalizers, except those whose settings leave every text unchanged.
fn check_normalizer(part: Option<&Part>) -> Result<()> {
    let stages = part.map(Part::stages).unwrap_or_default();
    match stages.iter().find(|stage| !stage.is_identity()) {
        Some(stage) => refuse(format!("the normalizer {} is not supported", stage.r#type)),
        None => Ok(()),
    }
}

/// Rejects a part with stages of kinds other than `known`, which are known to change nothing.
fn only(what: &str, part: Option<&Part>, known: &[&str]) -> Result<()> {
    let stages = part.map(Part::stages).unwrap_or_default();
    match stages.iter().find(|stage| !known.contains(&stage.r#type.as_str())) {
        Some(Part { r#type: kind, .. }) => match known.first() {
            Some(usual) => refuse(format!("the {what} {kind} is not supported, must be {usual}")),
            None => refuse(format!("the {what} {kind} is not supported")),
        },
        None => Ok(()),
    }
}

/// Returns a post-processor other than a plain `ByteLevel`. The others put special tokens around a text on request; the
/// ids of the text itself are the same.
fn post_processor(value: Value) -> Result<Option<Value>> {
    const KNOWN: [&str; 4] =
        ["ByteLevel", "TemplateProcessing", "RobertaProcessing", "BertProcessing"];
    let part = Part::deserialize(&value).map_err(|error| Error::input(error.to_string()))?;
    only("post_processor", Some(&part), &KNOWN)?;
    let templates = part.stages().into_iter().filter_map(|stage| stage.single.as_ref());
    for template in templates {
        let texts = template.iter().filter(|piece| piece.get("Sequence").is_some()).count();
        if texts != 1 {
            return refuse(format!(
                "the post_processor's template has the text {texts} times, must be once"
            ));
        }
    }
    Ok((part.r#type != "ByteLevel").then_some(value))
}

impl Part {
    /// Returns the part itself, or all stages of a `Sequence`, including those of nested sequences.
    fn stages(&self) -> Vec<&Part> {
        match self.stages.as_deref() {
            Some(stages) if self.r#type == "Sequence" => {
                stages.iter().flat_map(Part::stages).collect()
            }
            _ => vec![self],
        }
    }

    /// Whether a normalizer's settings leave every text unchanged.
    fn is_identity(&self) -> bool {
        let are_false =
            |names: &[&str]| names.iter().all(|name| self.more.get(*name) == Some(&json!(false)));
        match self.r#type.as_str() {
            "Sequence" => self.stages.as_ref().is_some_and(Vec::is_empty),
            "Strip" => are_false(&["strip_left", "strip_right"]),
            "Prepend" => self.more.get("prepend") == Some(&json!("")),
            "Replace" => match &self.pattern {
                Some(SplitPattern::String(text)) => self.more.get("content") == Some(&json!(text)),
                _ => false,
            },
            "BertNormalizer" => {
                let accents = self.more.get("strip_accents");
                are_false(&["clean_text", "handle_chinese_chars", "lowercase"])
                    && accents.is_none_or(|accents| *accents != json!(true))
            }
            _ => false,
        }
    }

    /// Returns the meaning of a file's `pre_tokenizer`: the inverse of [`pre_tokenizer_json`].
    fn pre_tokenizer(&self) -> Result<PreTokenizer> {
        let stages = self.stages();
        let (first, last) = match stages.as_slice() {
            [only] => (None, *only),
            [first, last] => (Some(*first), *last),
            stages => {
                let kinds: Vec<&str> = stages.iter().map(|part| part.r#type.as_str()).collect();
                let kinds = kinds.join(", ");
                return refuse(format!("the pre_tokenizer Sequence of {kinds} is not supported"));
            }
        };
        if last.r#type != "ByteLevel" {
            let kind = &last.r#type;
            return refuse(format!("the pre_tokenizer {kind} is not supported, must be ByteLevel"));
        }
        let by_pattern = last.use_regex != Some(false);
        let prefix = match first {
            _ if !last.add_prefix_space => Prefix::None,
            None => Prefix::Stretches,
            Some(_) => Prefix::Parts,
        };
        let Some(first) = first else {
            if !by_pattern {
                return refuse("the pre_tokenizer must have use_regex true".to_owned());
            }
            return Ok(PreTokenizer { prefix, ..PreTokenizer::GPT2 });
        };
        let numbers =
            |together| PreTokenizer { numbers: Some(together), pattern: Pattern::Gpt2, prefix };
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
                        Ok(PreTokenizer { numbers: None, pattern: *pattern, prefix })
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

/// The pattern of numbers in groups of up to three.
const THREES: &str = r"\p{N}{1,3}";

/// The spellings of the patterns in files; the first spelling of each pattern is the one that is written.
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

/// Returns the JSON of a pre-tokenizer for a file.
pub(super) fn pre_tokenizer_json(pre_tokenizer: PreTokenizer) -> Value {
    let PreTokenizer { numbers, pattern, prefix } = pre_tokenizer;
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix != Prefix::None, "trim_offsets": true, "use_regex": use_regex });
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let sequence = |stages: [Value; 2]| json!({ "type": "Sequence", "pretokenizers": stages });
    let digits = |single: bool| json!({ "type": "Digits", "individual_digits": single });
    match (numbers, pattern) {
        (None, Pattern::Gpt2) if prefix != Prefix::Parts => byte_level(true),
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
