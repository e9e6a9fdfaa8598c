//! Tokens from the files beside a vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json.
//!
//! The rules are those of Hugging Face's `transformers`: `added_tokens_decoder` of tokenizer_config.json lists all
//! added tokens. If it is missing, added_tokens.json and special_tokens_map.json, which older versions wrote, are read
//! instead. Then the tokens that have a role (`eos_token`, …) are added if they are missing.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::reading::{parse, read};
use super::special::Flags;
use super::vocabulary::{Stated, Vocabulary};
use crate::disk;
use crate::error::{Error, Result};

pub(super) const CONFIG: &str = "tokenizer_config.json";
pub(super) const SPECIAL: &str = "special_tokens_map.json";
pub(super) const ADDED: &str = "added_tokens.json";

/// The roles of tokens, in the order in which tokens are added for them.
const PARTS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Lists of further special tokens; the first list that has any is used.
const LISTS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// A token that a file beside the vocabulary adds.
struct Beside {
    token: Stated,
    file: PathBuf,
    /// Whether its flags replace those of the same token in tokenizer.json.
    replaces: bool,
}

/// The settings in the files beside a vocabulary.
#[derive(Default)]
pub(super) struct Besides {
    tokens: Vec<Beside>,
    /// Whether a space is put in front of texts, if the files say so.
    pub(super) add_prefix_space: Option<bool>,
}

/// An added token in the form of these files, except for its name or key.
#[derive(Deserialize)]
struct Entry {
    content: String,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl Entry {
    /// Returns the token. It is special if the entry or `special` says so, and `normalized` defaults to the opposite.
    fn stated(self, id: Option<u32>, special: bool) -> Stated {
        let special = self.special || special;
        let flags = Flags {
            special,
            normalized: self.normalized.unwrap_or(!special),
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            single_word: self.single_word,
        };
        Stated { content: self.content, id, flags }
    }
}

impl Besides {
    /// Reads the files of the folder `dir`; each may be missing.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be read or has another format.
    pub(super) fn read(dir: &Path) -> Result<Besides> {
        let mut config = object(&dir.join(CONFIG))?;
        let mut besides =
            Besides { tokens: Vec::new(), add_prefix_space: add_prefix_space(&config) };
        let named_in = if let Some(decoder) = config.remove("added_tokens_decoder") {
            besides.add_decoder(decoder, &dir.join(CONFIG))?;
            dir.join(CONFIG)
        } else {
            let special = object(&dir.join(SPECIAL))?;
            let named_in = dir.join(if special.is_empty() { CONFIG } else { SPECIAL });
            join(&mut config, special);
            besides.add_older(&config, &dir.join(ADDED), &named_in)?;
            named_in
        };
        besides.add_named(&config, &named_in)?;
        Ok(besides)
    }

    /// Adds the tokens of `added_tokens_decoder`, a map from ids to tokens.
    fn add_decoder(&mut self, decoder: Value, file: &Path) -> Result<()> {
        let at = |error: Error| error.at(format!("{}: added_tokens_decoder", file.display()));
        let Value::Object(decoder) = decoder else {
            return Err(at(Error::input("is not a map from ids to tokens")));
        };
        let mut tokens = Vec::new();
        for (id, entry) in decoder {
            let number =
                id.parse().map_err(|_| Error::input(format!("{id:?} is no id"))).map_err(at)?;
            tokens.push(entry_of(entry).map_err(at)?.stated(Some(number), false));
        }
        tokens.sort_by_key(|token| token.id);
        let beside = |token| Beside { token, file: file.to_owned(), replaces: true };
        self.tokens.extend(tokens.into_iter().map(beside));
        Ok(())
    }

    /// Adds the tokens of added_tokens.json, a map from tokens to ids. A token that has a role is special.
    fn add_older(
        &mut self,
        config: &Map<String, Value>,
        file: &Path,
        named_in: &Path,
    ) -> Result<()> {
        let special: Vec<String> =
            named(config, named_in)?.into_iter().map(|token| token.content).collect();
        let mut tokens = Vec::new();
        for (content, id) in object(file)? {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                Error::input(format!("the token {content:?} has no id")).at(file.display())
            })?;
            let special = special.contains(&content);
            let flags = Flags { special, normalized: !special, ..Flags::default() };
            tokens.push(Stated { content, id: Some(id), flags });
        }
        tokens.sort_by_key(|token| token.id);
        let beside = |token| Beside { token, file: file.to_owned(), replaces: false };
        self.tokens.extend(tokens.into_iter().map(beside));
        Ok(())
    }

    /// Adds the tokens that have a role.
    fn add_named(&mut self, config: &Map<String, Value>, file: &Path) -> Result<()> {
        let beside = |token| Beside { token, file: file.to_owned(), replaces: false };
        self.tokens.extend(named(config, file)?.into_iter().map(beside));
        Ok(())
    }

    /// Adds all tokens to a vocabulary.
    ///
    /// # Errors
    ///
    /// Names the file whose token has another id than the same token elsewhere, or the id of another token.
    pub(super) fn add_to(&self, vocabulary: &mut Vocabulary) -> Result<()> {
        for Beside { token, file, replaces } in &self.tokens {
            if token.id.is_none() && vocabulary.has_added(&token.content) {
                continue;
            }
            let mut token = token.clone();
            if let Some(flags) = vocabulary.flags(&token.content).filter(|_| !replaces) {
                token.flags = flags;
            }
            vocabulary.add(token).map_err(|error| error.at(file.display()))?;
        }
        Ok(())
    }
}

/// Returns the setting in tokenizer_config.json for a space in front of texts. If it is missing, the tokenizer classes
/// of the listed models add none, even if tokenizer.json does, and other classes use the setting in tokenizer.json.
fn add_prefix_space(config: &Map<String, Value>) -> Option<bool> {
    const NONE_BY_DEFAULT: [&str; 4] =
        ["GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "RobertaTokenizer"];
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let is_of_model = NONE_BY_DEFAULT.contains(&class.strip_suffix("Fast").unwrap_or(class));
    match config.get("add_prefix_space") {
        Some(said) => said.as_bool(),
        None => is_of_model.then_some(false),
    }
}

/// Returns the object in a JSON file; an empty one if there is no file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    if !disk::exists(path) {
        return Ok(Map::new());
    }
    parse(&read(path)?).map_err(|error| error.at(path.display()))
}

fn entry_of(value: Value) -> Result<Entry> {
    Entry::deserialize(value).map_err(|error| Error::input(error.to_string()))
}

/// Adds the settings of special_tokens_map.json, which take precedence, to those of tokenizer_config.json. All its
/// tokens are special.
fn join(config: &mut Map<String, Value>, special: Map<String, Value>) {
    let mark = |value: &mut Value| {
        if let Value::Object(entry) = value
            && entry.contains_key("content")
        {
            entry.insert("special".to_owned(), true.into());
        }
    };
    for (key, mut value) in special {
        mark(&mut value);
        match (&mut value, config.get_mut(&key)) {
            (Value::Array(more), Some(Value::Array(list))) => {
                more.iter_mut().for_each(mark);
                more.retain(|token| !list.contains(token));
                list.append(more);
            }
            (Value::Array(list), _) => {
                list.iter_mut().for_each(mark);
                config.insert(key, value);
            }
            _ => {
                config.insert(key, value);
            }
        }
    }
}

/// Returns the tokens that have a role: first those of [`PARTS`], then those in other fields whose names end
/// in `_token`, then those of a list. Some lists are maps from names to tokens.
fn named(config: &Map<String, Value>, file: &Path) -> Result<Vec<Stated>> {
    let further = config.keys().map(String::as_str);
    let further = further.filter(|key| key.ends_with("_token") && !PARTS.contains(key));
    let parts = PARTS.into_iter().chain(further).filter_map(|key| Some((key, config.get(key)?)));
    let list = LISTS.into_iter().find_map(|key| {
        let tokens: Vec<&Value> = match config.get(key)? {
            Value::Array(tokens) => tokens.iter().collect(),
            Value::Object(tokens) => tokens.values().collect(),
            _ => return None,
        };
        (!tokens.is_empty()).then(|| tokens.into_iter().map(move |token| (key, token)))
    });
    let mut tokens = Vec::new();
    for (key, token) in parts.chain(list.into_iter().flatten()) {
        let stated = match token {
            Value::String(content) => {
                Stated { content: content.clone(), id: None, flags: Flags::SPECIAL }
            }
            Value::Object(_) => {
                let entry = entry_of(token.clone());
                let entry =
                    entry.map_err(|error| error.at(format!("{}: {key}", file.display())))?;
                let mut stated = entry.stated(None, false);
                stated.flags.special = true;
                stated
            }
            _ => continue,
        };
        tokens.push(stated);
    }
    Ok(tokens.into_iter().filter(|token| !token.content.is_empty()).collect())
}
