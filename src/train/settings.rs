//! Everything that decides a run, and the data and the tokenizer that follow from it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, CHOICES, TextFiles};
use crate::config::{GptConfig, TrainConfig};
use crate::data::{self, Downloads, Shards, Sources, TokenWriter, Tokens};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::train::report::Event;

/// The most text that a tokenizer is trained on, in bytes, taken evenly from all of it.
const TOKENIZER_SAMPLE: u64 = 32 << 20;
const TOKENS_FILE: &str = "tokens.bin";
/// What a run's folder may hold before the first update.
pub(super) const BEFORE_TRAINING: [&str; 5] =
    ["run.json", "tokenizer.json", TOKENS_FILE, CHOICES, ".lock"];

/// The settings of a run, as run.json and `--config` hold them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// What `--data` names: `stories`, `shakespeare`, `tinystories`, files, folders.
    pub data: Vec<String>,
    /// `train`, `bytes`, or the folder of a tokenizer.
    pub tokenizer: String,
    /// The sizes; the vocabulary is the most that the tokenizer may have.
    pub model: GptConfig,
    /// How it is trained.
    pub train: TrainConfig,
    /// `auto`, `cpu`, `gpu` or `gpu:N`.
    pub device: String,
    /// Threads of the CPU; `None`: all.
    pub threads: Option<usize>,
    /// The model folder, or weights file, that training starts from.
    pub init: Option<PathBuf>,
}

/// What a run trains on, ready to use.
pub struct Prepared {
    /// The sizes, with the vocabulary that the tokenizer has.
    pub model: GptConfig,
    /// `None` for token files without one.
    pub tokenizer: Option<Tokenizer>,
    /// What files say of where texts end.
    pub text_files: TextFiles,
    /// The data.
    pub tokens: Tokens,
}

impl RunSettings {
    /// Checks that adapters have a model that they can be saved without.
    ///
    /// # Errors
    ///
    /// If there is none, or it is itself one with adapters.
    pub(super) fn check_adapted(&self) -> Result<()> {
        let init = match (&self.train.finetune.lora, &self.init) {
            (None, _) => return Ok(()),
            (Some(_), init) => init.as_deref(),
        };
        match init {
            None => Err(Error::usage("--lora-rank adapts a model that is there already")
                .hint("name it with --init DIR; or leave --lora-rank out to train a new one")),
            Some(dir) if checkpoint::has_adapters(dir) => {
                Err(Error::usage(format!("{} holds adapters already", dir.display()))
                    .hint("make it a whole model first: wgpt export, or Gpt::load and Gpt::save"))
            }
            Some(_) => Ok(()),
        }
    }

    /// The same settings, with every path absolute: a run may be resumed from another folder.
    #[must_use]
    pub fn absolute(&self) -> RunSettings {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = |path: &str| absolute(Path::new(path)).to_string_lossy().into_owned();
        let corpus =
            |name: &str| name == "stories" || data::DATASETS.iter().any(|d| d.name == name);
        let data = |name: &String| if corpus(name) { name.clone() } else { text(name) };
        let tokenizer = match self.tokenizer.as_str() {
            "train" | "bytes" => self.tokenizer.clone(),
            folder => text(folder),
        };
        RunSettings {
            data: self.data.iter().map(data).collect(),
            tokenizer,
            init: self.init.as_deref().map(absolute),
            train: TrainConfig {
                out: self.train.out.as_deref().map(absolute),
                ..self.train.clone()
            },
            ..self.clone()
        }
    }
}

/// Fetches and encodes the data, or finds them in the run's folder, where they are kept.
///
/// `saved` is the checkpoint that the run goes on from: its sizes and its tokenizer decide then, whatever
/// has become of the files that the run began with.
///
/// # Errors
///
/// If data cannot be had or read, or do not fit the model.
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
    let kept = run_dir.map(|dir| dir.join(TOKENS_FILE)).filter(|path| path.is_file());
    if let Some((path, dir)) = kept.zip(run_dir).filter(|(_, dir)| Tokenizer::exists(dir)) {
        let tokenizer = Tokenizer::load(saved.unwrap_or(dir))?;
        fit(&mut model, &tokenizer, saved.is_some() || settings.init.is_some())?;
        let text_files = text_files(settings, saved, &model, Some(&tokenizer))?;
        let tokens = Tokens::open(&path).map_err(|error| {
            error.hint(format!("remove {}: --resume encodes the data again", path.display()))
        })?;
        return Ok(Prepared { model, tokenizer: Some(tokenizer), text_files, tokens });
    }
    let has_parameters = saved.is_some() || settings.init.is_some();
    let known = known_tokenizer(settings, saved)?;
    if let Some(tokenizer) = &known {
        fit(&mut model, tokenizer, has_parameters)?;
    }
    let mut sources = Sources::parse(&settings.data)?;
    let shards = sources.shards();
    let notes = sources.notes().into_iter().chain(shards.iter().flat_map(Shards::notes));
    notes.for_each(|note| on_event(&Event::Note(note)));
    if let Some(shards) = shards {
        let tokens = shards.open()?;
        tokens.check(model.vocab_size)?;
        let text_files = text_files(settings, saved, &model, known.as_ref())?;
        return Ok(Prepared { model, tokenizer: known, text_files, tokens });
    }
    if let (None, Some(dir)) = (&known, saved.or(settings.init.as_deref())) {
        return Err(Error::input(format!(
            "{} has no tokenizer, so it is not known what its tokens mean",
            dir.display()
        ))
        .hint("give its tokenizer's folder with --tokenizer DIR, or data as token ids (.bin)"));
    }
    let mut fetched = |progress: data::Progress| {
        on_event(&Event::Preparing {
            what: format!("downloading {}", progress.name),
            done: progress.done_bytes,
            total: progress.total_bytes.unwrap_or(0),
        });
    };
    sources.fetch(&Downloads::from_env()?, &mut fetched)?;
    let tokenizer = match known {
        Some(tokenizer) => tokenizer,
        None => train_tokenizer(&sources, model.vocab_size, on_event)?,
    };
    fit(&mut model, &tokenizer, has_parameters)?;
    let text_files = text_files(settings, saved, &model, Some(&tokenizer))?;
    let end = text_files.end_of_text(Some(&tokenizer)).0.separator();
    if end.is_none() && several(&sources)? {
        on_event(&Event::Note(
            "the documents run together: neither the tokenizer nor a file beside it names an end-of-text token (eos_token)"
                .to_owned(),
        ));
    }
    let tokens = encode(&sources, &tokenizer, end, run_dir, on_event)?;
    Ok(Prepared { model, tokenizer: Some(tokenizer), text_files, tokens })
}

/// Whether there is more than one document.
fn several(sources: &Sources) -> Result<bool> {
    for document in sources.documents().skip(1) {
        if document?.begins {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What files say of where texts end: those of the checkpoint, those of the first model, and those beside the tokenizer.
fn text_files(
    settings: &RunSettings,
    saved: Option<&Path>,
    model: &GptConfig,
    tokenizer: Option<&Tokenizer>,
) -> Result<TextFiles> {
    let folder = match settings.tokenizer.as_str() {
        "train" | "bytes" => None,
        folder => Some(Path::new(folder)),
    };
    match (saved, &settings.init, folder.zip(tokenizer)) {
        (Some(saved), ..) => TextFiles::read(saved, model.vocab_size),
        (None, Some(init), None) => TextFiles::read(init, model.vocab_size),
        (None, Some(init), Some((folder, _))) => {
            TextFiles::read(init, model.vocab_size)?.with_tokenizer_of(folder)
        }
        (None, None, Some((folder, tokenizer))) => TextFiles::of_tokenizer(folder, tokenizer),
        (None, None, None) => Ok(TextFiles::default()),
    }
}

/// The tokenizer that there is before any data: the saved one, the one asked for, or that of the first model.
fn known_tokenizer(settings: &RunSettings, saved: Option<&Path>) -> Result<Option<Tokenizer>> {
    let of = |dir: Option<&Path>| {
        let folder = dir.map(checkpoint::tokenizer_folder).transpose()?.flatten();
        folder.as_deref().map(Tokenizer::load).transpose()
    };
    match (saved, settings.tokenizer.as_str()) {
        (Some(_), _) => of(saved),
        (None, "train") => of(settings.init.as_deref()),
        (None, "bytes") => Ok(Some(Tokenizer::bytes())),
        (None, folder) => Tokenizer::load(Path::new(folder)).map(Some),
    }
}

/// A new model takes the tokenizer's vocabulary; one with parameters must have room for it.
fn fit(model: &mut GptConfig, tokenizer: &Tokenizer, has_parameters: bool) -> Result<()> {
    if !has_parameters {
        model.vocab_size = tokenizer.vocab_size();
    } else if tokenizer.vocab_size() > model.vocab_size {
        return Err(Error::input(format!(
            "the tokenizer has {} tokens, the model's vocab_size is {}",
            tokenizer.vocab_size(),
            model.vocab_size
        ))
        .hint("use the tokenizer that the model was trained with"));
    }
    Ok(())
}

/// Checks that run.json and the checkpoint mean the same model; the vocabulary is the tokenizer's.
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
        Some(what) => Err(Error::input(format!("{what} in {}", dir.display())).hint(
            "put run.json back as it was; or begin another run from the checkpoint by --init",
        )),
    }
}

/// A tokenizer of at most `vocab` tokens, learned from the data.
fn train_tokenizer(
    sources: &Sources,
    vocab: usize,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Tokenizer> {
    let what = format!("training a tokenizer of {vocab} tokens");
    on_event(&Event::Preparing { what, done: 0, total: 0 });
    let sample = sources.sample(TOKENIZER_SAMPLE)?;
    Tokenizer::train_documents(sample.iter().map(String::as_str), vocab)
}

/// Encodes all data into the run's folder, or into memory without one; `end` stands between two documents.
fn encode(
    sources: &Sources,
    tokenizer: &Tokenizer,
    end: Option<u32>,
    run_dir: Option<&Path>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Tokens> {
    let total = sources.bytes();
    let mut progress = |done: u64| {
        on_event(&Event::Preparing { what: "encoding the data".into(), done, total });
    };
    let encode = |text: &str| tokenizer.encode_with_special(text);
    let Some(dir) = run_dir else {
        let mut ids = vec![];
        let mut push = |more: &[u32]| {
            ids.extend_from_slice(more);
            Ok(())
        };
        data::encode(sources.documents(), &encode, end, &mut push, &mut progress)?;
        return Ok(Tokens::from_ids(ids).named(sources.name()));
    };
    checkpoint::files::write_bytes(&dir.join("tokenizer.json"), tokenizer.to_json().as_bytes())?;
    let mut writer = TokenWriter::create(&dir.join(TOKENS_FILE), tokenizer.vocab_size())?;
    let mut push = |more: &[u32]| writer.push(more);
    data::encode(sources.documents(), &encode, end, &mut push, &mut progress)?;
    Ok(writer.finish()?.named(sources.name()))
}
