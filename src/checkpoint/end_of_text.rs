//! The tokens that end and begin texts, as the files of a model define them.
//!
//! | file | ends | begins |
//! |---|---|---|
//! | generation_config.json | `eos_token_id` | `bos_token_id` |
//! | config.json | `eos_token_id` | `bos_token_id` |
//! | tokenizer_config.json | `eos_token` | `bos_token` |
//! | special_tokens_map.json | `eos_token` | `bos_token` |
//! | the tokenizer | `<|endoftext|>` | |
//!
//! The first file that names a token decides; a later file that names another token is reported. `null` names no token.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::adapter;
use super::location::folder_of;
use crate::chat::{ChatTemplate, plain_template};
use crate::disk;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The tokens that end texts, and the one that begins them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndOfText {
    ids: Vec<u32>,
    bos: Option<u32>,
}

impl EndOfText {
    /// Texts end at any of `ids`, the first of which separates two texts, and begin with `bos` if there is one.
    /// Duplicate ids are removed.
    pub fn new(mut ids: Vec<u32>, bos: Option<u32>) -> EndOfText {
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        EndOfText { ids, bos }
    }

    /// Returns the default for a tokenizer without any other file: its `<|endoftext|>`, if it has one.
    pub fn of(tokenizer: &Tokenizer) -> EndOfText {
        EndOfText::new(tokenizer.end_of_text().into_iter().collect(), None)
    }

    /// Returns all ids at which generation ends.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether a text ends at this token.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// Returns the token between two texts. It is also used wherever a single id is needed.
    pub fn separator(&self) -> Option<u32> {
        self.ids.first().copied()
    }

    /// Returns the token that begins a new text: the one named by the files, or else the one between two texts.
    pub fn opening(&self) -> Option<u32> {
        self.bos.or(self.separator())
    }

    /// Returns the ids as `eos_token_id` stores them: a number, a list or null.
    pub(super) fn to_json(&self) -> Value {
        match self.ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        }
    }
}

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The names of tokens that a chat template is given.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The default of Hugging Face's `GPT2Config`. The files of a model with another vocabulary have it if nobody
/// set its ids.
const GPT2_DEFAULT: u64 = 50256;

/// A JSON object in a file.
#[derive(Clone, Debug, PartialEq)]
struct JsonFile {
    path: PathBuf,
    /// The unchanged contents of the file; `None` if only its tokens are used.
    bytes: Option<Vec<u8>>,
    fields: Map<String, Value>,
}

impl JsonFile {
    /// Reads the file of this name from the first of these folders that has it; `None` if there is none.
    fn read(folders: &[&Path], name: &str) -> Result<Option<JsonFile>> {
        let mut files = folders.iter().map(|folder| folder.join(name));
        let Some(path) = files.find(|file| disk::is_file(file)) else { return Ok(None) };
        let bytes = disk::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Some(JsonFile { path, bytes: Some(bytes), fields })),
            Ok(_) => Err(Error::input(format!("{} is not a JSON object", path.display()))),
            Err(e) => Err(Error::input(format!("{} is not JSON: {e}", path.display()))
                .hint("the file is damaged or incomplete: copy or download it again")),
        }
    }

    fn field(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }

    fn fault(&self, name: &str, wanted: &str) -> Error {
        Error::input(format!("{name} is {}, must be {wanted}", self.field(name)))
            .at(self.path.display())
            .hint("put the model's own token there, or null")
    }
}

/// A chat template.
#[derive(Clone, Debug, PartialEq)]
struct TemplateFile {
    /// Where it comes from, for messages.
    place: String,
    source: String,
}

impl TemplateFile {
    /// Reads chat_template.jinja from the first of these folders that has it.
    fn read(folders: &[&Path]) -> Result<Option<TemplateFile>> {
        let mut files = folders.iter().map(|folder| folder.join(CHAT_TEMPLATE));
        let Some(path) = files.find(|file| disk::is_file(file)) else { return Ok(None) };
        let source = disk::read_to_string(&path).map_err(|e| Error::io("reading", &path, &e))?;
        Ok(Some(TemplateFile { place: path.display().to_string(), source }))
    }
}

/// The settings for texts in a model's files, apart from the tokenizer's own file. A saved model keeps them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextFiles {
    config: Option<JsonFile>,
    generation_config: Option<JsonFile>,
    tokenizer_config: Option<JsonFile>,
    special_tokens_map: Option<JsonFile>,
    /// The chat template that has a file of its own, or that a run has added.
    chat_template: Option<TemplateFile>,
    /// A sentence about each ignored id, which is outside this model's vocabulary.
    passed_over: Vec<String>,
}

impl TextFiles {
    /// Reads the settings in the folder of a model of `vocab_size` tokens. For adapters, the folder of their model
    /// provides the files that their own folder does not have.
    ///
    /// # Errors
    ///
    /// Names the file that is damaged, or the field that names no token of the vocabulary.
    pub fn read(model: &Path, vocab_size: usize) -> Result<TextFiles> {
        let dir = folder_of(model);
        let base = adapter::model_folder(dir)?;
        let folders = [dir, folder_of(&base)];
        let mut files = TextFiles {
            config: JsonFile::read(&folders, CONFIG)?,
            generation_config: JsonFile::read(&folders, GENERATION_CONFIG)?,
            tokenizer_config: JsonFile::read(&folders, TOKENIZER_CONFIG)?,
            special_tokens_map: JsonFile::read(&folders, SPECIAL_TOKENS_MAP)?,
            chat_template: TemplateFile::read(&folders)?,
            passed_over: vec![],
        };
        for file in [&mut files.generation_config, &mut files.config].into_iter().flatten() {
            for name in ["eos_token_id", "bos_token_id"] {
                files.passed_over.extend(check_ids(file, name, vocab_size)?);
            }
        }
        files.check_named()?;
        Ok(files)
    }

    /// Reads the settings in the folder of a tokenizer, for a new model. Only the tokens are used, and no other setting
    /// of a model that may be there.
    ///
    /// # Errors
    ///
    /// As [`read`](TextFiles::read).
    pub fn of_tokenizer(folder: &Path, tokenizer: &Tokenizer) -> Result<TextFiles> {
        let mut files = TextFiles::read(folder, tokenizer.vocab_size())?;
        // A template belongs to the tokenizer. It gets a file of its own, since tokenizer_config.json is not kept.
        files.chat_template = files.own_template()?;
        for file in
            [&mut files.generation_config, &mut files.tokenizer_config].into_iter().flatten()
        {
            file.bytes = None;
        }
        Ok(files)
    }

    /// Replaces the tokenizer's settings by those in `folder`, for a tokenizer that comes from its own folder.
    ///
    /// # Errors
    ///
    /// As [`read`](TextFiles::read).
    pub fn with_tokenizer_of(self, folder: &Path) -> Result<TextFiles> {
        let read = |name| JsonFile::read(&[folder], name);
        let (tokenizer_config, map) = (read(TOKENIZER_CONFIG)?, read(SPECIAL_TOKENS_MAP)?);
        let template = TemplateFile::read(&[folder])?;
        if tokenizer_config.is_none() && map.is_none() && template.is_none() {
            return Ok(self);
        }
        let chat_template = match template {
            Some(template) => Some(template),
            None if tokenizer_config
                .as_ref()
                .is_some_and(|file| !file.field("chat_template").is_null()) =>
            {
                None
            }
            None => self.own_template()?,
        };
        let files = TextFiles { tokenizer_config, special_tokens_map: map, chat_template, ..self };
        files.check_named()?;
        Ok(files)
    }

    /// Checks that the files that name tokens by their texts contain texts.
    fn check_named(&self) -> Result<()> {
        let roles = ["eos_token", "bos_token"];
        self.named().try_for_each(|file| {
            roles.iter().try_for_each(|role| token_text(file, role).map(|_| ()))
        })
    }

    /// Returns the files with ids, in order of precedence.
    fn numbered(&self) -> impl Iterator<Item = &JsonFile> {
        [&self.generation_config, &self.config].into_iter().flatten()
    }

    /// Returns the files with tokens' texts, in order of precedence. They come after the files with ids.
    fn named(&self) -> impl Iterator<Item = &JsonFile> {
        [&self.tokenizer_config, &self.special_tokens_map].into_iter().flatten()
    }

    /// Returns the tokens that end and begin texts, and a sentence about each inconsistency between the files.
    pub fn end_of_text(&self, tokenizer: Option<&Tokenizer>) -> (EndOfText, Vec<String>) {
        let mut notices = self.passed_over.clone();
        let mut said: Vec<(String, Vec<u32>)> = vec![];
        for file in self.numbered() {
            let ids = ids(file.field("eos_token_id")).unwrap_or_default();
            said.push((format!("{} {}", file.path.display(), file.field("eos_token_id")), ids));
        }
        let mut bos =
            self.numbered().find_map(|file| ids(file.field("bos_token_id"))?.first().copied());
        for file in tokenizer.iter().flat_map(|_| self.named()) {
            let id = |name| {
                let text = token_text(file, name).ok().flatten()?;
                Some((text, tokenizer.and_then(|tokenizer| token_id(tokenizer, text))))
            };
            bos = bos.or_else(|| id("bos_token")?.1);
            match id("eos_token") {
                Some((text, Some(id))) => {
                    said.push((format!("{} {text:?} ({id})", file.path.display()), vec![id]));
                }
                Some((text, None)) => notices.push(format!(
                    "{}: eos_token is {text:?}, which is no token of the tokenizer: it ends no text",
                    file.path.display()
                )),
                None => {}
            }
        }
        said.retain(|(_, ids)| !ids.is_empty());
        notices.extend(contradiction(&said));
        let fallback = || tokenizer.map(|tokenizer| EndOfText::of(tokenizer).ids);
        let ids = said.into_iter().next().map(|(_, ids)| ids).or_else(fallback).unwrap_or_default();
        (EndOfText::new(ids, bos), notices)
    }

    /// Returns the original generation_config.json and tokenizer_config.json, if they exist.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        [(GENERATION_CONFIG, &self.generation_config), (TOKENIZER_CONFIG, &self.tokenizer_config)]
            .into_iter()
            .filter_map(|(name, file)| Some((name, file.as_ref()?.bytes.as_deref()?)))
    }

    /// Returns the chat template's file, if the model's folder is to have one.
    pub(super) fn kept_template(&self) -> Option<(&'static str, &[u8])> {
        self.chat_template.as_ref().map(|file| (CHAT_TEMPLATE, file.source.as_bytes()))
    }

    /// Returns the source of the model's own chat template, if it has one.
    ///
    /// # Errors
    ///
    /// If tokenizer_config.json has something else in its place.
    pub(crate) fn template_source(&self) -> Result<Option<String>> {
        Ok(self.own_template()?.map(|file| file.source))
    }

    /// Returns the template of chat_template.jinja, or else that of tokenizer_config.json.
    fn own_template(&self) -> Result<Option<TemplateFile>> {
        if self.chat_template.is_some() {
            return Ok(self.chat_template.clone());
        }
        let Some(file) = &self.tokenizer_config else { return Ok(None) };
        let named = |name: &str| {
            let all = file.field("chat_template").as_array()?;
            all.iter().find(|one| one["name"] == name)?["template"].as_str()
        };
        let source = match file.field("chat_template") {
            Value::Null => return Ok(None),
            Value::String(source) => Some(source.as_str()),
            _ => named("default"),
        };
        let place = file.path.display().to_string();
        let source = source.ok_or_else(|| {
            Error::input(format!(
                "{place}: chat_template is neither a text nor a list with one named default"
            ))
            .hint("put the template into a file chat_template.jinja beside it")
        })?;
        Ok(Some(TemplateFile { place, source: source.to_owned() }))
    }

    /// Returns the model's chat template: that of chat_template.jinja, or of tokenizer_config.json, or else the plain one
    /// ([`plain_template`]). It is given the tokens that the files name (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    ///
    /// If it is no template, or there is none and a reply would not end with the plain one.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let (end, _) = self.end_of_text(Some(tokenizer));
        let mut tokens = Map::new();
        for name in NAMED_TOKENS {
            let text = self.named().find_map(|file| token_text(file, name).ok().flatten());
            tokens.extend(text.map(|text| (name.to_owned(), text.into())));
        }
        let is_end = |(_, id): &(&str, u32)| Some(*id) == end.separator();
        if let (false, Some((text, _))) =
            (tokens.contains_key("eos_token"), tokenizer.special_tokens().find(is_end))
        {
            tokens.insert("eos_token".to_owned(), text.into());
        }
        let (source, place) = match self.own_template()? {
            Some(TemplateFile { place, source }) => (source, place),
            None => {
                let has_end = tokens.contains_key("eos_token");
                plain_template(tokenizer, end.separator().filter(|_| has_end))?
            }
        };
        ChatTemplate::new(&source, &place, tokens)
    }

    /// Whether the files have a chat template.
    ///
    /// # Errors
    ///
    /// If tokenizer_config.json has something else in its place.
    pub fn has_chat_template(&self) -> Result<bool> {
        Ok(self.own_template()?.is_some())
    }

    /// Returns these files with the template that a model was trained with, if they have none.
    ///
    /// # Errors
    ///
    /// As [`TextFiles::has_chat_template`].
    pub fn with_chat_template(self, template: &ChatTemplate) -> Result<TextFiles> {
        if self.has_chat_template()? {
            return Ok(self);
        }
        let (place, source) = (template.place().to_owned(), template.source().to_owned());
        Ok(TextFiles { chat_template: Some(TemplateFile { place, source }), ..self })
    }

    /// Returns the ids in config.json; where it names none, the ids that all files together define.
    pub(super) fn config_ids(&self, end: &EndOfText) -> [(&'static str, Value); 3] {
        let all = [
            ("bos_token_id", json!(end.opening())),
            ("eos_token_id", end.to_json()),
            ("pad_token_id", Value::Null),
        ];
        let own = |name: &str| self.config.as_ref().map(|file| file.field(name).clone());
        all.map(|(name, ids)| (name, own(name).filter(|own| !own.is_null()).unwrap_or(ids)))
    }
}

/// Returns the ids that a field names: a number, a list or null; `None` if it is something else.
fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Null => Some(vec![]),
        Value::Array(all) => all.iter().map(id).collect(),
        one => Some(vec![id(one)?]),
    }
}

/// Checks that a field names ids of the vocabulary. If GPT-2's default is beyond the vocabulary, it is removed, alone
/// or from a list, and reported, since nobody chose it.
fn check_ids(file: &mut JsonFile, name: &str, vocab_size: usize) -> Result<Option<String>> {
    let is_default = |id: &Value| id.as_u64() == Some(GPT2_DEFAULT);
    let place = file.path.display().to_string();
    let passed_over = |value: &Value| {
        format!(
            "{place}: {name} is {value}, GPT-2's own 50256 is beyond the {vocab_size} tokens of this model: it is passed over"
        )
    };
    let beyond = vocab_size as u64 <= GPT2_DEFAULT;
    if beyond
        && let Some(Value::Array(ids)) = file.fields.get_mut(name)
        && ids.iter().any(is_default)
    {
        let notice = passed_over(&json!(ids));
        ids.retain(|id| !is_default(id));
        return Ok(check_ids(file, name, vocab_size)?.or(Some(notice)));
    }
    let value = file.field(name);
    let known = |ids: &Vec<u32>| ids.iter().all(|&id| (id as usize) < vocab_size);
    if ids(value).is_some_and(|ids| known(&ids) && (ids.len() < 2 || name == "eos_token_id")) {
        return Ok(None);
    }
    if is_default(value) {
        let notice = passed_over(value);
        file.fields.remove(name);
        return Ok(Some(notice));
    }
    let wanted = format!("an id of the vocabulary, from 0 to {}", vocab_size.saturating_sub(1));
    let more = if name == "eos_token_id" { ", or a list of them" } else { "" };
    Err(file.fault(name, &format!("{wanted}{more}")))
}

/// Returns the text of a token that a field names: a string, or an object with its `content`.
fn token_text<'a>(file: &'a JsonFile, name: &str) -> Result<Option<&'a str>> {
    let value = file.field(name);
    match value.get("content").unwrap_or(value) {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(file.fault(name, "a token's text")),
    }
}

/// Returns the id of a token by its text. The token may be added or learned.
fn token_id(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    let added = tokenizer.special_tokens().find(|(added, _)| *added == text);
    let learned = || {
        let mut ids = 0..tokenizer.vocab_size() as u32;
        ids.find(|&id| tokenizer.token_bytes(id) == Some(text.as_bytes()))
    };
    added.map(|(_, id)| id).or_else(learned)
}

/// Returns a notice if a file names an end of text that the first file does not.
fn contradiction(said: &[(String, Vec<u32>)]) -> Option<String> {
    let [(first, ids), rest @ ..] = said else { return None };
    let others = rest.iter().filter(|(_, other)| other.iter().any(|id| !ids.contains(id)));
    let others: Vec<&str> = others.map(|(what, _)| what.as_str()).collect();
    (!others.is_empty()).then(|| {
        format!(
            "the files contradict each other on the end of text (eos): {first} is taken, not {}",
            others.join(" or ")
        )
    })
}
