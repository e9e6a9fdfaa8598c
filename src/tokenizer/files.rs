//! Tokenizer files: Hugging Face's tokenizer.json, read and written; the older vocab.json with
//! merges.txt, read.
//!
//! A file's parts that would change the ids and are not implemented (normalizers, other
//! pre-tokenizers, other models, dropout, …) are refused by name. `truncation` and `padding` shape
//! batches, not ids, and are ignored. Memory is taken for what a file holds, never for what it
//! claims.

use std::path::Path;

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::pretokenizer::PreTokenizer;
use super::schema::{AddedEntry, Entries, File, Settings, pre_tokenizer_json};
use super::{Added, END_OF_TEXT, Merge, Tokenizer, alphabet};
use crate::error::{Error, Result};

const JSON: &str = "tokenizer.json";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";

impl Tokenizer {
    /// Whether `dir` has a tokenizer's files.
    pub fn exists(dir: &Path) -> bool {
        dir.join(JSON).exists() || dir.join(VOCAB).exists()
    }

    /// Reads tokenizer.json of the folder `dir`, or if there is none, vocab.json and merges.txt.
    ///
    /// # Errors
    ///
    /// Names the file that is missing or wrong.
    pub fn load(dir: &Path) -> Result<Tokenizer> {
        let path = dir.join(JSON);
        if path.exists() {
            return Tokenizer::from_json(&read(&path)?, &path.display().to_string());
        }
        if !Tokenizer::exists(dir) {
            return Err(Error::input(format!("{} has no tokenizer: no {JSON}", dir.display()))
                .hint(format!("give a folder with {JSON}, or with {VOCAB} and {MERGES}")));
        }
        let (vocab, merges) = (read(&dir.join(VOCAB))?, read(&dir.join(MERGES))?);
        Tokenizer::from_vocab_and_merges(&vocab, &merges, &dir.display().to_string())
    }

    /// Reads the text of a tokenizer.json; `place` leads the messages of errors.
    ///
    /// # Errors
    ///
    /// If it is not JSON of this form, has a part that is not supported, or its vocabulary and
    /// merges do not fit together.
    pub fn from_json(json: &str, place: &str) -> Result<Tokenizer> {
        let read = || {
            let rules = parse::<Settings>(json)?.check()?;
            let file: File = parse(json)?;
            let vocab = Vocabulary::new(file.model.vocab.0, file.added_tokens.unwrap_or_default())?;
            let merges = file.model.merges.iter().zip(1..);
            let merges = merges.map(|(merge, number)| {
                let (left, right) = merge.parts().ok_or_else(|| {
                    Error::input(format!("merge {number}, {merge:?}, does not have two parts"))
                })?;
                vocab.merge(left, right).map_err(|error| error.at(format!("merge {number}")))
            });
            let merges = merges.collect::<Result<_>>()?;
            let tokenizer = Tokenizer::build(vocab.tokens, merges, vocab.added)?;
            Ok(tokenizer.with_rules(rules))
        };
        read().map_err(|error: Error| error.at(place))
    }

    /// Reads the texts of a vocab.json and a merges.txt; `place`, their folder, leads the messages
    /// of errors.
    ///
    /// # Errors
    ///
    /// As [`from_json`](Tokenizer::from_json); a wrong merge is named by its line.
    pub fn from_vocab_and_merges(
        vocab_json: &str,
        merges_txt: &str,
        place: &str,
    ) -> Result<Tokenizer> {
        let vocab_place = Path::new(place).join(VOCAB);
        let at_vocab = |error: Error| error.at(vocab_place.display());
        let Entries(entries) = parse(vocab_json).map_err(at_vocab)?;
        let vocab = Vocabulary::new(entries, Vec::new()).map_err(at_vocab)?;
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
        Tokenizer::build(vocab.tokens, merges, vocab.added).map_err(at_vocab)
    }

    /// The text of a tokenizer.json that Hugging Face's `tokenizers` and
    /// [`from_json`](Tokenizer::from_json) read.
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
        let used = spellings.iter().zip(0u32..).filter(|(spelling, _)| !spelling.is_empty());
        let vocab = used.map(|(spelling, id)| (spelling.clone(), Value::from(id)));
        let spelling = |id: u32| spellings[id as usize].as_str();
        let merge = |merge: &Merge| json!([spelling(merge.left), spelling(merge.right)]);
        let merges = self.merges.iter().map(merge);
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": pre_tokenizer_json(self.pre_tokenizer),
            "post_processor": self.post_processor.clone().unwrap_or_else(|| byte_level(true, false)),
            "decoder": byte_level(true, true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": self.ignore_merges,
                "vocab": Value::Object(vocab.collect()),
                "merges": Value::Array(merges.collect()),
            },
        });
        format!("{file:#}")
    }

    /// The texts of a vocab.json and a merges.txt, as GPT-2 was published.
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
    /// If these files cannot say what the tokenizer is: they know GPT-2's pattern and `<|endoftext|>` alone.
    pub fn to_vocab_and_merges(&self) -> Result<(String, String)> {
        let other = self.added.list().iter().find(|added| added.content != END_OF_TEXT);
        let what = match other {
            Some(added) => format!("the special token {:?}", added.content),
            None if self.ignore_merges => "the setting ignore_merges".to_owned(),
            None if self.pre_tokenizer != PreTokenizer::GPT2 => {
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

    /// How a file spells each token, by id; empty where an id is not used.
    pub(crate) fn spellings(&self) -> Vec<String> {
        let ids = 0..self.vocab_size() as u32;
        let spell = |id| self.token_bytes(id).map(alphabet::spell).unwrap_or_default();
        let mut spellings: Vec<String> = ids.map(spell).collect();
        for added in self.added.list() {
            spellings[added.id as usize].clone_from(&added.content);
        }
        spellings
    }

    /// The merges as merges.txt spells them: `Ġ t`.
    pub(crate) fn spelled_merges(&self) -> Vec<String> {
        let spellings = self.spellings();
        let spelling = |id: u32| &spellings[id as usize];
        let merge = |merge: &Merge| format!("{} {}", spelling(merge.left), spelling(merge.right));
        self.merges.iter().map(merge).collect()
    }

    /// The ids of the tokens that a text may name, and whether Hugging Face calls them special.
    pub(crate) fn added_tokens(&self) -> impl Iterator<Item = (u32, bool)> {
        self.added.list().iter().map(|added| (added.id, added.special))
    }
}

impl Added {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "content": self.content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": self.normalized,
            "special": self.special,
        })
    }
}

/// Reads a file of UTF-8; anything but a regular file is refused, since a device has no end.
fn read(path: &Path) -> Result<String> {
    let io = |error| Error::io("reading", path, &error);
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::input(format!("{} is not a file", path.display())));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Error::input(format!("{} is not UTF-8: the first wrong byte is at {place}", path.display()))
    })
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::input(error.to_string()))
}

/// The two parts of a merge such as `Ġ t`.
pub(super) fn two_parts(merge: &str) -> Option<(&str, &str)> {
    let (left, right) = merge.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then_some((left, right))
}

/// A vocabulary while its file is read.
struct Vocabulary {
    ids: FxHashMap<String, u32>,
    tokens: Vec<(u32, Vec<u8>)>,
    added: Vec<Added>,
}

impl Vocabulary {
    /// Puts the entries and the added tokens together; one that is both is one token.
    /// `<|endoftext|>` is always an added token.
    fn new(entries: Vec<(String, u32)>, added: Vec<AddedEntry>) -> Result<Vocabulary> {
        let mut ids = FxHashMap::default();
        for (token, id) in entries {
            if ids.contains_key(&token) {
                return Err(Error::input(format!("the token {token:?} is there twice")));
            }
            ids.insert(token, id);
        }
        let mut added = added.into_iter().map(AddedEntry::check).collect::<Result<Vec<_>>>()?;
        if let Some(&id) = ids.get(END_OF_TEXT)
            && added.iter().all(|added| added.content != END_OF_TEXT)
        {
            added.push(Added::end_of_text(id));
        }
        let mut contents = FxHashMap::default();
        for token in &added {
            let (content, id) = (&token.content, token.id);
            if contents.insert(content.clone(), id).is_some() {
                return Err(Error::input(format!("the added token {content:?} is there twice")));
            }
            if let Some(&other) = ids.get(content).filter(|&&other| other != id) {
                return Err(Error::input(format!(
                    "the added token {content:?} has the ids {id} and {other}"
                )));
            }
        }
        let mut tokens = Vec::with_capacity(ids.len() + added.len());
        for (token, &id) in &ids {
            let bytes = match contents.remove(token) {
                Some(_) => token.clone().into_bytes(),
                None => alphabet::to_bytes(token).map_err(|letter| {
                    Error::input(format!(
                        "the token {token:?} has {letter:?}, which stands for no byte"
                    ))
                    .hint("use a byte-level vocabulary such as GPT-2's")
                })?,
            };
            tokens.push((id, bytes));
        }
        tokens.extend(contents.into_iter().map(|(content, id)| (id, content.into_bytes())));
        tokens.sort_unstable();
        Ok(Vocabulary { ids, tokens, added })
    }

    /// The merge of two tokens, all three by their spelling.
    fn merge(&self, left: &str, right: &str) -> Result<Merge> {
        let id = |token: &str| self.ids.get(token).copied();
        let part = |token| {
            id(token).ok_or_else(|| {
                Error::input(format!(
                    "{left:?} and {right:?} are merged, but {token:?} is not in the vocabulary"
                ))
            })
        };
        let (left_id, right_id) = (part(left)?, part(right)?);
        let joined = format!("{left}{right}");
        let result = id(&joined).ok_or_else(|| {
            let what = format!("the merge of {left:?} and {right:?} gives {joined:?}");
            Error::input(format!("{what}, which is not in the vocabulary"))
        })?;
        Ok(Merge { left: left_id, right: right_id, result })
    }
}
