//! What llama.cpp is told of a tokenizer.
//!
//! - A byte-level one is a `gpt2` (`tokenizer.ggml.model`). llama.cpp identifies patterns by the names of models and cannot
//!   read an expression from a file. The name (`tokenizer.ggml.pre`) also decides whether merges are ignored for a piece
//!   that equals a token.
//! - One of characters is a `llama`. It has no merges: two neighbours merge if their texts are a token together, that of
//!   the highest score first. So the merges of a file must be all that its tokens have, in the order of the tokens.

use serde_json::Value;

use rustc_hash::{FxHashMap, FxHashSet};

use super::bpe::Tokenizer;
use super::characters::{Characters, Scheme};
use super::merge::Merger;
use super::pretokenizer::{Pattern, PreTokenizer};
use super::ranks::NONE;
use crate::error::{Error, Result, field};

/// The character that stands for a blank in SentencePiece's vocabularies.
pub(super) const BLANK: char = '\u{2581}';

/// A tokenizer in llama.cpp's terms.
pub(crate) enum LlamaCpp {
    /// Byte-level, with this name of a pattern.
    Gpt2 { pre: &'static str },
    /// Of characters.
    Llama {
        /// By id: the larger, the earlier a token is merged.
        scores: Vec<f32>,
        /// The tokens of bytes.
        bytes: Vec<u32>,
        unknown: Option<u32>,
        /// Whether a blank is put in front of texts.
        blank_in_front: bool,
    },
}

/// How texts are cut, whether merges are ignored, and llama.cpp's name for the two. If models differ only in other
/// aspects, one of them represents all.
pub(super) const NAMES: [(PreTokenizer, bool, &str); 6] = [
    (PreTokenizer::GPT2, false, "gpt-2"),
    (cl100k(3), false, "dbrx"),
    (cl100k(3), true, "llama-bpe"),
    (cl100k(1), false, "qwen2"),
    (PreTokenizer { pattern: Pattern::O200k, ..PreTokenizer::GPT2 }, false, "gpt-4o"),
    (PreTokenizer { numbers: Some(1), ..PreTokenizer::GPT2 }, false, "smollm"),
];

const fn cl100k(numbers: usize) -> PreTokenizer {
    PreTokenizer { pattern: Pattern::Cl100k { numbers }, ..PreTokenizer::GPT2 }
}

fn refused<T>(what: &str) -> Result<T> {
    Err(Error::input(format!("a GGUF file cannot hold this tokenizer: {what}"))
        .hint(format!("hand the model on as a folder: {} DIR", field("out"))))
}

impl Tokenizer {
    /// Returns this tokenizer in llama.cpp's terms.
    ///
    /// # Errors
    ///
    /// If llama.cpp would encode some text differently: names the setting that it does not support.
    pub(crate) fn llama_cpp(&self) -> Result<LlamaCpp> {
        if let Some((content, way)) = self.stripping_token() {
            return refused(&format!(
                "its added token {content:?} has {way}, which llama.cpp does not heed"
            ));
        }
        if let Some(characters) = &self.characters {
            return self.llama(characters);
        }
        let names: Vec<_> =
            NAMES.iter().filter(|(cuts, ..)| *cuts == self.rules.pre_tokenizer).collect();
        let exact = names.iter().find(|(_, ignores, _)| *ignores == self.rules.ignore_merges);
        match (exact.or(names.first()), exact.is_some()) {
            (Some((.., pre)), true) => Ok(LlamaCpp::Gpt2 { pre }),
            (Some((.., pre)), false) if !self.merges_fall_short() => Ok(LlamaCpp::Gpt2 { pre }),
            (Some(_), false) => refused(
                "it takes a piece that is a token whatever its merges (ignore_merges), which llama.cpp does with other patterns alone",
            ),
            (None, _) => refused(
                "llama.cpp has no pre-tokenizer (tokenizer.ggml.pre) that cuts texts by its pattern and add_prefix_space",
            ),
        }
    }

    /// Returns the scores of a vocabulary of characters.
    fn llama(&self, characters: &Characters) -> Result<LlamaCpp> {
        let rules = &characters.rules;
        let Some(bytes) = characters.bytes() else {
            return refused("it has no tokens of bytes (byte_fallback)");
        };
        if rules.folds != [(' ', BLANK)]
            || !["", "\u{2581}"].contains(&&*self.rules.normalizer.prepend)
        {
            return refused(&format!("its blanks do not stand as {BLANK:?}"));
        }
        if rules.splits {
            return refused("its texts are cut into words before they are merged");
        }
        let mut scores = vec![-(self.merges.len() as f32); self.vocab_size()];
        let mut last = None;
        let mut seen = FxHashSet::default();
        for (merge, rank) in self.merges.iter().zip(0_u32..) {
            if seen.insert(merge.result) {
                scores[merge.result as usize] = -(rank as f32);
            } else if last != Some(merge.result) {
                return refused("the merges that give one token do not follow each other");
            }
            last = Some(merge.result);
        }
        if let Some(text) = self.unmerged(characters) {
            return refused(&format!("it has no merge of {text:?}, whose parts are tokens"));
        }
        let blank_in_front =
            rules.scheme != Scheme::Never || !self.rules.normalizer.prepend.is_empty();
        Ok(LlamaCpp::Llama {
            scores,
            bytes: bytes.to_vec(),
            unknown: characters.unknown(),
            blank_in_front,
        })
    }

    /// Returns a token of which two parts are tokens that do not merge to it.
    fn unmerged(&self, characters: &Characters) -> Option<String> {
        let is_text = |id: u32| {
            !characters.is_stand_in(id) && !self.added_tokens().any(|(added, _)| added == id)
        };
        let own = self.vocabulary().filter(|(id, _)| is_text(*id));
        let ids: FxHashMap<&str, u32> =
            own.filter_map(|(id, text)| Some((str::from_utf8(text).ok()?, id))).collect();
        let is_merged = |text: &str, id: u32| {
            text.char_indices().skip(1).all(|(at, _)| {
                let (left, right) = text.split_at(at);
                let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) else {
                    return true;
                };
                let rank = self.rank(left, right);
                rank != NONE && self.merges[rank as usize].result == id
            })
        };
        ids.iter().find(|(text, id)| !is_merged(text, **id)).map(|(text, _)| (*text).to_owned())
    }

    /// Returns a sentence about each text that llama.cpp encodes differently, which its own conversions of such models
    /// accept.
    pub(crate) fn llama_cpp_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.rules.pre_tokenizer.pattern == Pattern::O200k {
            // It is used for GPT-4o itself, too.
            notes.push("llama.cpp cuts texts by an approximation of this pattern: accents, marks and capitals beyond ASCII may give other tokens".to_owned());
        }
        if let Some(form) = self.rules.normalizer.form {
            let form = form.name();
            notes.push(format!("llama.cpp does not bring texts into the form {form}: characters that are written in another one may give other tokens"));
        }
        let is_otherwise =
            |characters: &Characters| !matches!(characters.rules.scheme, Scheme::Never);
        if self.characters.as_deref().is_some_and(is_otherwise) {
            notes.push("llama.cpp puts a blank in front of texts after special tokens, too, and where there is one: such texts may give other tokens".to_owned());
        }
        notes
    }

    /// Returns an added token that includes or depends on the text around it, and the setting that causes this.
    fn stripping_token(&self) -> Option<(String, &'static str)> {
        let file: Value = serde_json::from_str(&self.to_json()).ok()?;
        file["added_tokens"].as_array()?.iter().find_map(|added| {
            let ways = ["lstrip", "rstrip", "single_word"];
            let way = ways.into_iter().find(|way| added[*way] == true)?;
            Some((added["content"].as_str()?.to_owned(), way))
        })
    }

    /// Whether some token is a whole piece of text but is not the result of its merges.
    fn merges_fall_short(&self) -> bool {
        let (mut merger, mut ids) = (Merger::default(), vec![]);
        self.whole.iter().any(|(bytes, id)| {
            let Ok(text) = std::str::from_utf8(bytes) else { return false };
            let mut pieces = 0;
            self.rules.pre_tokenizer.for_each_piece(text, |_| pieces += 1);
            ids.clear();
            merger.merge(self, bytes.as_ref(), &mut ids);
            pieces == 1 && ids != [*id]
        })
    }
}
