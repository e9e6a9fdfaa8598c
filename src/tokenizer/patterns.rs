//! The pre-tokenizers of byte-level files: reads and writes their settings.

use serde_json::{Value, json};

use super::pretokenizer::{Pattern, PreTokenizer, Prefix};
use super::rules::refuse;
use super::schema::{Part, Pattern as Cut};
use crate::error::{Error, Result};

impl Part {
    /// Returns the meaning of a file's `pre_tokenizer`: the inverse of [`pre_tokenizer_json`].
    pub(super) fn pre_tokenizer(&self) -> Result<PreTokenizer> {
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
            ("Split", Some(Cut::Regex(regex)), _)
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
            (kind, Some(Cut::String(text)), _) => {
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

/// The patterns by the names of the vocabularies that they were published with.
const NAMED: [(&str, Pattern); 7] = [
    ("gpt2", Pattern::Gpt2),
    ("r50k_base", Pattern::Gpt2),
    ("p50k_base", Pattern::Gpt2),
    ("cl100k_base", Pattern::Cl100k { numbers: 3 }),
    ("llama3", Pattern::Cl100k { numbers: 3 }),
    ("qwen2", Pattern::Cl100k { numbers: 1 }),
    ("o200k_base", Pattern::O200k),
];

/// Returns the pre-tokenizer with a pattern, given its name or its regular expression.
///
/// # Errors
///
/// Lists the names if it is none of them.
pub(super) fn named(pattern: &str) -> Result<PreTokenizer> {
    let known = NAMED.iter().chain(&PATTERNS).find(|(name, _)| *name == pattern);
    match known {
        Some((_, pattern)) => Ok(PreTokenizer { pattern: *pattern, ..PreTokenizer::GPT2 }),
        None => {
            let names = NAMED.map(|(name, _)| name).join(", ");
            Err(Error::input(format!("the pattern {pattern:?} is not known"))
                .hint(format!("give the pattern of one of {names}")))
        }
    }
}

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
