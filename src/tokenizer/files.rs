//! Tokenizer files: reads and writes Hugging Face's tokenizer.json, and the older vocab.json with
//! merges.txt. Tokens that are added by files beside them are read in both cases. Files of tiktoken are read, too.
//!
//! Parts of a file that would change the ids and are not implemented (some normalizers and
//! pre-tokenizers, other models, dropout, …) are rejected by name. `truncation` and `padding` affect
//! batches, not ids, and are ignored. Memory is allocated for the actual contents of a file, never for sizes that the
//! file claims.

use std::path::Path;

use serde_json::{Value, json};

use super::alphabet;
use super::beside::{self, Besides};
use super::bpe::Tokenizer;
use super::characters::{CharacterRules, Stages};
use super::patterns::pre_tokenizer_json;
use super::pretokenizer::{PreTokenizer, Prefix};
use super::reading::{parse, read};
use super::rules::Rules;
use super::schema::{AddedEntry, Entries, File, Settings};
use super::special::{Added, Flags};
use super::tiktoken::is_tiktoken;
use super::token::{Merge, two_parts};
use super::vocabulary::Vocabulary;
use crate::disk;
use crate::error::{Error, Result};

const JSON: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const MODEL: &str = "tokenizer.model";
/// The ending of tiktoken's files.
const TIKTOKEN: &str = "tiktoken";

impl Tokenizer {
    /// Optional files of a folder that may extend tokenizer.json, or vocab.json and merges.txt.
    pub const BESIDE: [&str; 3] = [beside::CONFIG, beside::SPECIAL, beside::ADDED];

    /// Whether `dir` has a tokenizer's files.
    pub fn exists(dir: &Path) -> bool {
        disk::exists(&dir.join(JSON))
            || disk::exists(&dir.join(VOCAB))
            || is_tiktoken(&dir.join(MODEL))
    }

    /// Reads tokenizer.json in the folder `dir`, or if there is none, vocab.json and merges.txt; also reads the tokens
    /// and the `add_prefix_space` in tokenizer_config.json, special_tokens_map.json and added_tokens.json. Without any of
    /// them, reads Llama 3's tokenizer.model. `dir` may also be a tiktoken file whose name says its pattern, such as
    /// cl100k_base.tiktoken.
    ///
    /// # Errors
    ///
    /// Names the file that is missing, is invalid, or contradicts another one.
    pub fn load(dir: &Path) -> Result<Tokenizer> {
        let path = dir.join(JSON);
        if disk::exists(&path) {
            let besides = Besides::read(dir)?;
            return Tokenizer::read_json(&read(&path)?, &path.display().to_string(), &besides);
        }
        if dir.extension().is_some_and(|ending| ending == TIKTOKEN) && disk::is_file(dir) {
            let pattern = dir.file_stem().unwrap_or_default().to_string_lossy();
            let text = read(dir)?;
            return Tokenizer::from_tiktoken(
                &text,
                &pattern,
                NO_TOKENS,
                &dir.display().to_string(),
            );
        }
        let model = dir.join(MODEL);
        if !disk::exists(&dir.join(VOCAB)) && disk::is_file(&model) {
            let bytes = disk::read(&model).map_err(|e| Error::io("reading", &model, &e))?;
            return Tokenizer::from_tokenizer_model(&bytes, &model.display().to_string());
        }
        if !Tokenizer::exists(dir) {
            return Err(Error::input(format!("{} has no tokenizer: no {JSON}", dir.display()))
                .hint(format!("give a folder with {JSON}, or with {VOCAB} and {MERGES}")));
        }
        let (vocab, merges) = (read(&dir.join(VOCAB))?, read(&dir.join(MERGES))?);
        let besides = Besides::read(dir)?;
        Tokenizer::read_vocab_and_merges(&vocab, &merges, &dir.display().to_string(), &besides)
    }

    /// Parses the text of a tokenizer.json; error messages begin with `place`.
    ///
    /// # Errors
    ///
    /// If it is not JSON of this form, has a part that is not supported, or its vocabulary and
    /// merges are inconsistent.
    pub fn from_json(json: &str, place: &str) -> Result<Tokenizer> {
        Tokenizer::read_json(json, place, &Besides::default())
    }

    fn read_json(json: &str, place: &str, besides: &Besides) -> Result<Tokenizer> {
        let at = |error: Error| error.at(place);
        let rules = parse::<Settings>(json).and_then(|settings| settings.check(besides));
        let rules = rules.map_err(at)?;
        let file: File = parse(json).map_err(at)?;
        let mut vocab = Vocabulary::new(file.model.vocab.0).map_err(at)?;
        for added in file.added_tokens.unwrap_or_default() {
            vocab.add(AddedEntry::stated(added)).map_err(at)?;
        }
        besides.add_to(&mut vocab)?;
        let merges = file.model.merges.iter().zip(1..).map(|(merge, number)| {
            let (left, right) = merge.parts().ok_or_else(|| {
                Error::input(format!("merge {number}, {merge:?}, does not have two parts"))
            })?;
            vocab.merge(left, right).map_err(|error| error.at(format!("merge {number}")))
        });
        let merges = merges.collect::<Result<_>>().map_err(at)?;
        let tokens = vocab.tokens(rules.characters.is_none()).map_err(at)?;
        Tokenizer::build(tokens, merges, vocab.added, rules).map_err(at)
    }

    /// Parses the texts of a vocab.json and a merges.txt; error messages begin with `place`, their
    /// folder.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Tokenizer::from_json); the error for an invalid merge gives its line.
    pub fn from_vocab_and_merges(
        vocab_json: &str,
        merges_txt: &str,
        place: &str,
    ) -> Result<Tokenizer> {
        Tokenizer::read_vocab_and_merges(vocab_json, merges_txt, place, &Besides::default())
    }

    fn read_vocab_and_merges(
        vocab_json: &str,
        merges_txt: &str,
        place: &str,
        besides: &Besides,
    ) -> Result<Tokenizer> {
        let vocab_place = Path::new(place).join(VOCAB);
        let at_vocab = |error: Error| error.at(vocab_place.display());
        let Entries(entries) = parse(vocab_json).map_err(at_vocab)?;
        let mut vocab = Vocabulary::new(entries).map_err(at_vocab)?;
        besides.add_to(&mut vocab)?;
        let merges_place = Path::new(place).join(MERGES);
        let mut merges = Vec::new();
        for (line, number) in merges_txt.lines().zip(1..) {
            if line.starts_with("#version") || line.is_empty() {
                continue;
            }
            let merge = two_parts(line).ok_or_else(|| {
                Error::input(format!("{line:?} does not have two parts with a blank between them"))
            });
            let merge = merge.and_then(|(left, right)| vocab.merge(left, right));
            let at_line =
                |error: Error| error.at(format!("{} line {number}", merges_place.display()));
            merges.push(merge.map_err(at_line)?);
        }
        let tokens = vocab.tokens(true).map_err(at_vocab)?;
        let mut rules = Rules::default();
        if besides.add_prefix_space == Some(true) {
            rules.pre_tokenizer.prefix = Prefix::Stretches;
        }
        Tokenizer::build(tokens, merges, vocab.added, rules).map_err(at_vocab)
    }

    /// Returns the text of a tokenizer.json that Hugging Face's `tokenizers` and
    /// [`from_json`](Tokenizer::from_json) can read.
    pub fn to_json(&self) -> String {
        let byte_level = |add_prefix_space: bool, trim_offsets: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": add_prefix_space,
                "trim_offsets": trim_offsets,
                "use_regex": true,
            })
        };
        let added: Vec<Value> = self.added.list().iter().map(Added::to_json).collect();
        let spellings = self.spellings();
        let own = self.vocabulary().map(|(id, _)| id);
        let vocab = own.map(|id| (spellings[id as usize].clone(), Value::from(id)));
        let spelling = |id: u32| spellings[id as usize].as_str();
        let merge = |merge: &Merge| json!([spelling(merge.left), spelling(merge.right)]);
        let merges = self.merges.iter().map(merge);
        let rules = &self.rules;
        let by_default = || match rules.characters {
            Some(_) => Value::Null,
            None => byte_level(true, false),
        };
        let stages = match &rules.characters {
            Some(CharacterRules { stages, .. }) => stages.clone(),
            None => Stages {
                normalizer: rules
                    .normalizer
                    .form
                    .map_or(Value::Null, |form| json!({"type": form.name()})),
                pre_tokenizer: pre_tokenizer_json(rules.pre_tokenizer),
                decoder: byte_level(true, true),
            },
        };
        let (unk_token, fuse_unk, byte_fallback) = match &rules.characters {
            Some(own) => (own.unk_token.as_deref(), own.fuse_unk, own.byte_fallback),
            None => (None, false, false),
        };
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": stages.normalizer,
            "pre_tokenizer": stages.pre_tokenizer,
            "post_processor": rules.post_processor.clone().unwrap_or_else(by_default),
            "decoder": stages.decoder,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unk_token,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": fuse_unk,
                "byte_fallback": byte_fallback,
                "ignore_merges": rules.ignore_merges,
                "vocab": Value::Object(vocab.collect()),
                "merges": Value::Array(merges.collect()),
            },
        });
        format!("{file:#}")
    }

    /// Returns the texts of a vocab.json and a merges.txt, in the format in which GPT-2 was published.
    ///
    /// ```
    /// # use wgpt::Tokenizer;
    /// let tokenizer = Tokenizer::train(b"low lower lowest low lower lowest", 262)?;
    /// let (vocab, merges) = tokenizer.to_vocab_and_merges()?;
    /// assert!(Tokenizer::from_vocab_and_merges(&vocab, &merges, "files")? == tokenizer);
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If these files cannot represent the tokenizer: they support only GPT-2's pattern and `<|endoftext|>`.
    pub fn to_vocab_and_merges(&self) -> Result<(String, String)> {
        let other = self.added.list().iter().find(|added| **added != Added::end_of_text(added.id));
        let what = match other {
            Some(added) => format!("the special token {:?}", added.content),
            None if self.characters.is_some() => "a vocabulary of characters".to_owned(),
            None if !self.rules.normalizer.is_identity() => "a normalizer".to_owned(),
            None if self.rules.ignore_merges => "the setting ignore_merges".to_owned(),
            None if self.rules.pre_tokenizer.prefix != Prefix::None => {
                "the setting add_prefix_space".to_owned()
            }
            None if self.rules.pre_tokenizer != PreTokenizer::GPT2 => {
                "another pattern than GPT-2's".to_owned()
            }
            None => {
                let ids: serde_json::Map<String, Value> = self
                    .spellings()
                    .into_iter()
                    .zip(0u32..)
                    .filter(|(spelling, _)| !spelling.is_empty())
                    .map(|(spelling, id)| (spelling, Value::from(id)))
                    .collect();
                let merges = self.spelled_merges().into_iter().map(|merge| merge + "\n");
                let merges = std::iter::once("#version: 0.2\n".to_owned()).chain(merges);
                return Ok((Value::Object(ids).to_string(), merges.collect()));
            }
        };
        Err(Error::input(format!("{VOCAB} and {MERGES} cannot hold {what}"))
            .hint(format!("write {JSON} instead")))
    }

    /// Returns the spelling of each token in a file, by id; empty for unused ids.
    pub(crate) fn spellings(&self) -> Vec<String> {
        let ids = 0..self.vocab_size() as u32;
        let spell = |id| match &self.characters {
            Some(characters) => characters.spelling(id).to_owned(),
            None => self.token_bytes(id).map(alphabet::spell).unwrap_or_default(),
        };
        let mut spellings: Vec<String> = ids.map(spell).collect();
        for added in self.added.list() {
            spellings[added.id as usize].clone_from(&added.content);
        }
        spellings
    }

    /// Returns the merges as merges.txt spells them: `Ġ t`.
    pub(crate) fn spelled_merges(&self) -> Vec<String> {
        let spellings = self.spellings();
        let spelling = |id: u32| &spellings[id as usize];
        let merge = |merge: &Merge| format!("{} {}", spelling(merge.left), spelling(merge.right));
        self.merges.iter().map(merge).collect()
    }

    /// Whether a space is put in front of texts. tokenizer_config.json must say so, too: otherwise transformers before
    /// 5 adds none.
    pub(crate) fn adds_prefix_space(&self) -> bool {
        self.rules.pre_tokenizer.prefix == Prefix::Stretches
    }

    /// Returns the ids of the tokens that are recognised by name in a text, and whether each is special.
    pub(crate) fn added_tokens(&self) -> impl Iterator<Item = (u32, bool)> {
        self.added.list().iter().map(|added| (added.id, added.flags.special))
    }
}

/// No special tokens beside those of a tiktoken file.
const NO_TOKENS: [(&str, u32); 0] = [];

impl Added {
    fn to_json(&self) -> Value {
        let Flags { special, normalized, lstrip, rstrip, single_word } = self.flags;
        json!({
            "id": self.id,
            "content": self.content,
            "single_word": single_word,
            "lstrip": lstrip,
            "rstrip": rstrip,
            "normalized": normalized,
            "special": special,
        })
    }
}
