//! Everything that decides a run, and the data and the tokenizer that follow from it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::config::{GptConfig, TrainConfig};
use crate::data::{self, Downloads, Sources, TokenWriter, Tokens};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::train::report::Event;

/// The most text that a tokenizer is trained on, in bytes, taken evenly from all of it.
const TOKENIZER_SAMPLE: u64 = 32 << 20;
const TOKENS_FILE: &str = "tokens.bin";

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
    /// The model folder that training starts from.
    pub init: Option<PathBuf>,
}

/// What a run trains on, ready to use.
pub struct Prepared {
    /// The sizes, with the vocabulary that the tokenizer has.
    pub model: GptConfig,
    /// `None` for token files without one.
    pub tokenizer: Option<Tokenizer>,
    /// The data.
    pub tokens: Tokens,
}

/// Fetches and encodes the data, or finds them in the run's folder, where they are kept.
///
/// # Errors
///
/// If data cannot be had or read, or do not fit the model.
pub fn prepare(
    settings: &RunSettings,
    run_dir: Option<&Path>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Prepared> {
    let mut model = settings.model.clone();
    if let Some(init) = &settings.init {
        model = checkpoint::read_config(init)?;
    }
    let mut sources = Sources::parse(&settings.data)?;
    if let Some(path) = sources.token_file() {
        let tokenizer = match settings.tokenizer.as_str() {
            "train" | "bytes" => settings.init.as_deref().filter(|dir| Tokenizer::exists(dir)),
            folder => Some(Path::new(folder)),
        };
        let tokenizer = tokenizer.map(Tokenizer::load).transpose()?;
        let tokens = Tokens::open(path)?;
        tokens.check(model.vocab_size)?;
        return Ok(Prepared { model, tokenizer, tokens });
    }
    let kept = run_dir.map(|dir| dir.join(TOKENS_FILE)).filter(|path| path.is_file());
    let tokenizer = match (kept.is_some(), run_dir) {
        (true, Some(dir)) if Tokenizer::exists(dir) => Tokenizer::load(dir)?,
        _ => {
            let mut fetched = |progress: data::Progress| {
                on_event(&Event::Preparing {
                    what: format!("downloading {}", progress.name),
                    done: progress.done_bytes,
                    total: progress.total_bytes.unwrap_or(0),
                });
            };
            sources.fetch(&Downloads::from_env()?, &mut fetched)?;
            make_tokenizer(settings, &sources, model.vocab_size, on_event)?
        }
    };
    if settings.init.is_none() {
        model.vocab_size = tokenizer.vocab_size();
    } else if tokenizer.vocab_size() > model.vocab_size {
        return Err(Error::input(format!(
            "the tokenizer has {} tokens, the model's vocab_size is {}",
            tokenizer.vocab_size(),
            model.vocab_size
        )));
    }
    let tokens = match kept {
        Some(path) => Tokens::open(&path)?,
        None => encode(&sources, &tokenizer, run_dir, on_event)?,
    };
    Ok(Prepared { model, tokenizer: Some(tokenizer), tokens })
}

fn make_tokenizer(
    settings: &RunSettings,
    sources: &Sources,
    vocab: usize,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Tokenizer> {
    match (settings.tokenizer.as_str(), &settings.init) {
        ("train", Some(init)) if Tokenizer::exists(init) => Tokenizer::load(init),
        ("train", Some(init)) => Err(Error::input(format!(
            "{} has no tokenizer, so it is not known what its tokens mean",
            init.display()
        ))
        .hint("give its tokenizer's folder with --tokenizer DIR, or data as token ids (.bin)")),
        ("train", None) => {
            let what = format!("training a tokenizer of {vocab} tokens");
            on_event(&Event::Preparing { what, done: 0, total: 0 });
            let sample = sources.sample(TOKENIZER_SAMPLE)?;
            Tokenizer::train_documents(sample.iter().map(String::as_str), vocab)
        }
        ("bytes", _) => Ok(Tokenizer::bytes()),
        (folder, _) => Tokenizer::load(Path::new(folder)),
    }
}

/// Encodes all data into the run's folder, or into memory without one.
fn encode(
    sources: &Sources,
    tokenizer: &Tokenizer,
    run_dir: Option<&Path>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Tokens> {
    let total = sources.bytes();
    let mut progress = |done: u64| {
        on_event(&Event::Preparing { what: "encoding the data".into(), done, total });
    };
    let encode = |text: &str| tokenizer.encode(text);
    let end = tokenizer.end_of_text();
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
