//! The settings that determine a run, and the data and the tokenizer that follow from them.

use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::arch::Family;
use crate::backend::gpu::DeviceChoice;
use crate::chat::Long;
use crate::checkpoint::{self, CHOICES, TextFiles};
use crate::config::{GptConfig, TrainConfig};
use crate::data::{self, ChatEncoding, Downloads, Sources, Tokens};
use crate::disk;
use crate::error::{Error, Result, field};
use crate::files;
use crate::gpt::without_rows;
use crate::tokenizer::Tokenizer;
use crate::train::chats::{CONVERSATIONS_FILE, ChatWork, Conversations};
use crate::train::choice::TokenizerChoice;
use crate::train::encoded::{Places, REFERENCE_FILE, Reference, TOKENS_FILE, Work};
use crate::train::report::Event;

/// The most text that a tokenizer is trained on, in bytes, taken evenly from all of the text.
const TOKENIZER_SAMPLE: u64 = 32 << 20;
/// The files that a run's folder may hold before the first update.
pub(super) const BEFORE_TRAINING: [&str; 7] = [
    "run.json",
    "tokenizer.json",
    TOKENS_FILE,
    REFERENCE_FILE,
    CONVERSATIONS_FILE,
    CHOICES,
    ".lock",
];

/// The settings of a run, as run.json holds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// The training data: `stories`, `shakespeare`, `tinystories`, files, folders.
    pub data: Vec<String>,
    /// The data to validate on; empty: a tenth of the training data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val_data: Vec<String>,
    /// What is done with conversations that are longer than the context.
    #[serde(default, skip_serializing_if = "Long::is_default")]
    pub long: Long,
    /// The source of the tokenizer.
    pub tokenizer: TokenizerChoice,
    /// The sizes; the tokenizer has at most as many tokens as the vocabulary.
    #[serde(deserialize_with = "of_a_family")]
    pub model: GptConfig,
    /// The settings of the training.
    pub train: TrainConfig,
    /// The device that the run uses.
    pub device: DeviceChoice,
    /// The number of CPU threads; `None`: all.
    pub threads: Option<usize>,
    /// The model folder, or weights file, that training starts from.
    pub init: Option<PathBuf>,
    /// The cache folder, where encoded data are kept for later runs; `None`: only the run's folder has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

/// Reads sizes, and checks that there is a family of such models.
fn of_a_family<'de, D: Deserializer<'de>>(settings: D) -> Result<GptConfig, D::Error> {
    let config = GptConfig::deserialize(settings)?;
    Family::find(&config.blocks.family).map_err(D::Error::custom)?;
    Ok(config)
}

/// The data and the tokenizer of a run, ready to use.
pub struct Prepared {
    /// The sizes, with the tokenizer's vocabulary size.
    pub model: GptConfig,
    /// The tokenizer; `None` for token files without one.
    pub tokenizer: Option<Tokenizer>,
    /// The end of text, as the files give it.
    pub text_files: TextFiles,
    /// The data.
    pub tokens: Tokens,
    /// What became of the conversations, if the data are such.
    pub conversations: Option<Conversations>,
}

impl RunSettings {
    /// Checks that adapters belong to a model that is saved elsewhere.
    ///
    /// # Errors
    ///
    /// If there is no such model, or it has adapters itself.
    pub(super) fn check_adapted(&self) -> Result<()> {
        let init = match (&self.train.finetune.lora, &self.init) {
            (None, _) => return Ok(()),
            (Some(_), init) => init.as_deref(),
        };
        match init {
            None => Err(Error::usage(format!(
                "{} adapts a model that is there already",
                field("lora.rank")
            ))
            .hint(format!(
                "name it with {} DIR; or leave {} out to train a new one",
                field("init"),
                field("lora.rank")
            ))),
            Some(dir) if checkpoint::has_adapters(dir) => {
                Err(Error::usage(format!("{} holds adapters already", dir.display()))
                    .hint("make it a whole model first: wgpt export, or Gpt::load and Gpt::save"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Returns the same settings with absolute paths: a run may be resumed from another folder.
    #[must_use]
    pub fn absolute(&self) -> RunSettings {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = |path: &str| absolute(Path::new(path)).to_string_lossy().into_owned();
        let corpus =
            |name: &str| name == "stories" || data::DATASETS.iter().any(|d| d.name == name);
        let data = |name: &String| if corpus(name) { name.clone() } else { text(name) };
        let tokenizer = match &self.tokenizer {
            TokenizerChoice::Folder(folder) => TokenizerChoice::Folder(absolute(folder)),
            choice => choice.clone(),
        };
        RunSettings {
            data: self.data.iter().map(data).collect(),
            val_data: self.val_data.iter().map(data).collect(),
            tokenizer,
            init: self.init.as_deref().map(absolute),
            cache: self.cache.as_deref().map(absolute),
            train: TrainConfig {
                out: self.train.out.as_deref().map(absolute),
                ..self.train.clone()
            },
            ..self.clone()
        }
    }
}

/// Fetches and encodes the data, or finds them encoded: in the run's folder, or in the cache folder.
///
/// `saved` is the checkpoint that the run resumes from: its sizes and its tokenizer are then used, even if the files
/// that the run started from have changed.
///
/// # Errors
///
/// If data cannot be obtained or read, or do not fit the model.
pub fn prepare(
    settings: &RunSettings,
    run_dir: Option<&Path>,
    saved: Option<&Path>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Prepared> {
    let mut model = match saved.or(settings.init.as_deref()) {
        Some(dir) => checkpoint::read_config(dir)?,
        None => settings.model.clone(),
    };
    if let (Some(saved), None) = (saved, &settings.init) {
        check_sizes(&settings.model, &model, saved)?;
    }
    let has_parameters = saved.is_some() || settings.init.is_some();
    let own = run_dir.map(|dir| own_data(dir, saved)).transpose()?.flatten();
    let (known, gone) = match own {
        Some(Own { tokenizer, tokens }) => {
            let tokenizer = fit(&mut model, tokenizer, has_parameters, on_event)?;
            match tokens {
                Ok(tokens) => {
                    let mut text_files = text_files(settings, saved, &model, Some(&tokenizer))?;
                    if tokens.are_conversations() {
                        let template = text_files.chat_template(&tokenizer)?;
                        text_files = text_files.with_chat_template(&template)?;
                    }
                    let conversations = run_dir.map(Conversations::of_run).transpose()?.flatten();
                    let tokenizer = Some(tokenizer);
                    return Ok(Prepared { model, tokenizer, text_files, tokens, conversations });
                }
                Err(gone) => (Some(tokenizer), Some(gone)),
            }
        }
        None => {
            let known = known_tokenizer(settings, saved)?;
            let fit = |tokenizer| fit(&mut model, tokenizer, has_parameters, on_event);
            (known.map(fit).transpose()?, None)
        }
    };
    let mut sources = parse(&settings.data, gone.as_ref(), on_event)?;
    let mut validation = match settings.val_data.as_slice() {
        [] => None,
        data => Some(parse(data, gone.as_ref(), on_event)?),
    };
    if let Some(shards) = sources.shards() {
        shards.notes().into_iter().for_each(|note| on_event(&Event::Note(note)));
        let mut tokens = shards.open()?;
        if let Some(validation) = &validation {
            tokens = tokens.with_validation(validation.tokens()?.ok_or_else(other_validation)?)?;
        }
        tokens.check(model.vocab_size)?;
        let text_files = text_files(settings, saved, &model, known.as_ref())?;
        return Ok(Prepared { model, tokenizer: known, text_files, tokens, conversations: None });
    }
    if let (None, Some(dir)) = (&known, saved.or(settings.init.as_deref())) {
        return Err(Error::input(format!(
            "{} has no tokenizer, so it is not known what its tokens mean",
            dir.display()
        ))
        .hint(format!(
            "give its tokenizer's folder with {} DIR, or data as token ids (.bin)",
            field("tokenizer")
        )));
    }
    for sources in [Some(&mut sources), validation.as_mut()].into_iter().flatten() {
        fetch(sources, on_event)?;
    }
    let files = sources.conversations()?;
    let val_files = validation.as_ref().map(Sources::conversations).transpose()?.flatten();
    if validation.is_some() && files.is_some() != val_files.is_some() {
        return Err(other_validation());
    }
    let tokenizer = match known {
        Some(tokenizer) => tokenizer,
        None => {
            let sample = match &files {
                Some(files) => data::sample_of_conversations(files, TOKENIZER_SAMPLE as usize),
                None => sources.sample(TOKENIZER_SAMPLE),
            };
            let tokenizer = train_tokenizer(&sample?, model.vocab_size, on_event)?;
            fit(&mut model, tokenizer, has_parameters, on_event)?
        }
    };
    let mut text_files = text_files(settings, saved, &model, Some(&tokenizer))?;
    let places = Places { run: run_dir, cache: settings.cache.as_deref() };
    keep_tokenizer(&tokenizer, run_dir)?;
    if let Some(files) = files {
        let template = text_files.chat_template(&tokenizer)?;
        on_event(&Event::Note(format!("the conversations are written by {}", template.place())));
        text_files = text_files.with_chat_template(&template)?;
        let context = settings.train.seq_len.unwrap_or(model.n_positions);
        let (template, tokenizer_of) = (&template, &tokenizer);
        let encoding =
            ChatEncoding { template, tokenizer: tokenizer_of, context, long: settings.long };
        let name = sources.name();
        let work = ChatWork { encoding, files: &files, validation: val_files.as_deref(), name };
        let (tokens, conversations) = work.run(run_dir, on_event)?;
        let (tokenizer, conversations) = (Some(tokenizer), Some(conversations));
        return Ok(Prepared { model, tokenizer, text_files, tokens, conversations });
    }
    let end = text_files.end_of_text(Some(&tokenizer)).0.separator();
    if end.is_none() && several(&sources)? {
        on_event(&Event::Note(
            "the documents run together: neither the tokenizer nor a file beside it names an end-of-text token (eos_token)"
                .to_owned(),
        ));
    }
    let wanted = gone.as_ref();
    let validation = validation.as_ref();
    let (sources, tokenizer_of) = (&sources, &tokenizer);
    let work = Work { sources, validation, tokenizer: tokenizer_of, end_of_text: end, wanted };
    let tokens = work.run(places, on_event)?;
    Ok(Prepared { model, tokenizer: Some(tokenizer), text_files, tokens, conversations: None })
}

/// Returns the error for data of two kinds.
fn other_validation() -> Error {
    Error::usage(format!(
        "{} and {} are of different kinds: texts, conversations or token files",
        field("data"),
        field("val_data")
    ))
    .hint("name data of one kind by both")
}

/// Returns whether there is more than one document.
fn several(sources: &Sources) -> Result<bool> {
    for document in sources.documents().skip(1) {
        if document?.begins {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the end of text from the files of the checkpoint, or of the initial model, and from those beside the
/// tokenizer.
fn text_files(
    settings: &RunSettings,
    saved: Option<&Path>,
    model: &GptConfig,
    tokenizer: Option<&Tokenizer>,
) -> Result<TextFiles> {
    match (saved, &settings.init, settings.tokenizer.folder().zip(tokenizer)) {
        (Some(saved), ..) => TextFiles::read(saved, model.vocab_size),
        (None, Some(init), None) => TextFiles::read(init, model.vocab_size),
        (None, Some(init), Some((folder, _))) => {
            TextFiles::read(init, model.vocab_size)?.with_tokenizer_of(folder)
        }
        (None, None, Some((folder, tokenizer))) => TextFiles::of_tokenizer(folder, tokenizer),
        (None, None, None) => Ok(TextFiles::default()),
    }
}

/// The data in a run's folder.
struct Own {
    tokenizer: Tokenizer,
    /// The ids, or the reference to them if they are gone.
    tokens: Result<Tokens, Reference>,
}

/// Returns the data that a run's folder holds or refers to, with the tokenizer that made them; `None` if it has none.
fn own_data(dir: &Path, saved: Option<&Path>) -> Result<Option<Own>> {
    if !Tokenizer::exists(dir) {
        return Ok(None);
    }
    let path = dir.join(TOKENS_FILE);
    let tokens = if disk::is_file(&path) {
        let opened = Tokens::open(&path).map_err(|error| {
            error.hint(format!(
                "remove {}: {} encodes the data again",
                path.display(),
                field("resume")
            ))
        });
        Ok(opened?)
    } else if let Some(reference) = Reference::of(dir)? {
        reference.open()?.ok_or(reference)
    } else {
        return Ok(None);
    };
    Ok(Some(Own { tokenizer: Tokenizer::load(saved.unwrap_or(dir))?, tokens }))
}

/// Returns the sources of the data; `gone` refers to their encoded form, which was lost.
fn parse(
    data: &[String],
    gone: Option<&Reference>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Sources> {
    if let Some(gone) = gone {
        on_event(&Event::Note(gone.note()));
    }
    let lost = |error: Error| gone.map_or_else(|| error.clone(), |gone| gone.lost(&error));
    let sources = Sources::parse(data).map_err(lost)?;
    sources.notes().into_iter().for_each(|note| on_event(&Event::Note(note)));
    Ok(sources)
}

/// Returns the tokenizer that is known before any data are read: the saved one, the one in the settings, or the initial
/// model's.
fn known_tokenizer(settings: &RunSettings, saved: Option<&Path>) -> Result<Option<Tokenizer>> {
    let of = |dir: Option<&Path>| {
        let folder = dir.map(checkpoint::tokenizer_folder).transpose()?.flatten();
        folder.as_deref().map(Tokenizer::load).transpose()
    };
    match (saved, &settings.tokenizer) {
        (Some(_), _) => of(saved),
        (None, TokenizerChoice::Train) => of(settings.init.as_deref()),
        (None, TokenizerChoice::Bytes) => Ok(Some(Tokenizer::bytes())),
        (None, TokenizerChoice::Folder(folder)) => Tokenizer::load(folder).map(Some),
    }
}

/// Fits tokenizer and model to each other: a new model takes the size of the tokenizer's vocabulary; a model with
/// parameters must have room for the tokens, except for added tokens without a row, which are left out.
fn fit(
    model: &mut GptConfig,
    tokenizer: Tokenizer,
    has_parameters: bool,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Tokenizer> {
    if !has_parameters {
        model.vocab_size = tokenizer.vocab_size();
        return Ok(tokenizer);
    }
    let (tokenizer, left_out) = tokenizer.within(model.vocab_size)?;
    let note = without_rows(&left_out, model.vocab_size);
    note.into_iter().for_each(|note| on_event(&Event::Note(note)));
    if tokenizer.vocab_size() > model.vocab_size {
        return Err(Error::input(format!(
            "the tokenizer has {} tokens, the model's vocab_size is {}",
            tokenizer.vocab_size(),
            model.vocab_size
        ))
        .hint("use the tokenizer that the model was trained with"));
    }
    Ok(tokenizer)
}

/// Downloads the data that are not on this machine yet.
fn fetch(sources: &mut Sources, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
    let mut fetched = |progress: data::Progress| {
        on_event(&Event::Preparing {
            what: format!("downloading {}", progress.name),
            done: progress.done_bytes,
            total: progress.total_bytes.unwrap_or(0),
        });
    };
    sources.fetch(&Downloads::from_env()?, &mut fetched)
}

/// Checks that run.json and the checkpoint have the same sizes; the vocabulary's size comes from the tokenizer.
fn check_sizes(settings: &GptConfig, saved: &GptConfig, dir: &Path) -> Result<()> {
    let sizes = |config: &GptConfig| {
        [
            ("n_layer", config.n_layer),
            ("n_head", config.n_head),
            ("n_embd", config.n_embd),
            ("n_positions", config.n_positions),
            ("n_inner", config.n_inner()),
        ]
    };
    let differ = |((name, wanted), (_, got)): ((&str, usize), (_, usize))| {
        (wanted != got).then(|| format!("{name} is {wanted} in run.json and {got}"))
    };
    match sizes(settings).into_iter().zip(sizes(saved)).find_map(differ) {
        None => Ok(()),
        Some(what) => Err(Error::input(format!("{what} in {}", dir.display())).hint(format!(
            "put run.json back as it was; or begin another run from the checkpoint by {}",
            field("init")
        ))),
    }
}

/// Trains a tokenizer of at most `vocab` tokens on a sample of the data.
fn train_tokenizer(
    sample: &[String],
    vocab: usize,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Tokenizer> {
    let what = format!("training a tokenizer of {vocab} tokens");
    on_event(&Event::Preparing { what, done: 0, total: 0 });
    Tokenizer::train_documents(sample.iter().map(String::as_str), vocab)
}

/// Writes the tokenizer to the run's folder.
fn keep_tokenizer(tokenizer: &Tokenizer, run_dir: Option<&Path>) -> Result<()> {
    let Some(dir) = run_dir else { return Ok(()) };
    files::write_bytes(&dir.join("tokenizer.json"), tokenizer.to_json().as_bytes())
}
