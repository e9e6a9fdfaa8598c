//! Options and functions that the subcommands of `wgpt data` share.

use std::path::{Path, PathBuf};

use wgpt::chat::{ChatTemplate, Long};
use wgpt::checkpoint::{TextFiles, read_config, tokenizer_folder};
use wgpt::data::Sources;
use wgpt::{Error, Result, Tokenizer};

use crate::cli::options::find_model;

/// The conversations, and how they become tokens.
#[derive(clap::Args)]
pub struct ChatArgs {
    /// Files of conversations: JSON lines with messages, with prompt and completion, or with conversations
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Use the tokenizer and the chat template of this model [default: the newest run in runs/]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Tokens per sequence [default: the model's context]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    seq_len: Option<u32>,
    /// What to do with a longer conversation: cut (after the last whole turn that fits), or drop
    #[arg(long, value_name = "HOW", default_value = "cut")]
    pub long: Long,
}

/// What reads conversations for a model.
pub struct Reading {
    /// The model's folder.
    pub folder: PathBuf,
    /// The files of conversations.
    pub files: Vec<PathBuf>,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    /// Tokens per sequence.
    pub context: usize,
}

impl ChatArgs {
    /// Finds the model, and reads its tokenizer and its template.
    ///
    /// # Errors
    ///
    /// If there is no model, it has no tokenizer, or the files hold no conversations.
    pub fn reading(&self) -> Result<Reading> {
        let sources = Sources::parse(&self.files)?;
        let files = sources.conversations()?.ok_or_else(|| {
            Error::input(format!("{} holds no conversations", sources.name()))
                .hint("each line is an object with \"messages\", with \"prompt\" and \"completion\", or with \"conversations\"")
        })?;
        let folder = find_model(self.model.as_deref())?;
        let config = read_config(&folder)?;
        let tokenizer = tokenizer(&folder)?.within(config.vocab_size)?.0;
        let template = TextFiles::read(&folder, config.vocab_size)?.chat_template(&tokenizer)?;
        let context = self.seq_len.map_or(config.n_positions, |seq| seq as usize);
        if context > config.n_positions {
            return Err(Error::usage(format!(
                "--seq-len is {context}, must be at most the model's context, {}",
                config.n_positions
            )));
        }
        Ok(Reading { folder, files, tokenizer, template, context })
    }
}

/// Returns the tokenizer of a model.
fn tokenizer(folder: &Path) -> Result<Tokenizer> {
    let place = tokenizer_folder(folder)?.ok_or_else(|| {
        Error::input(format!("{} has no tokenizer", folder.display()))
            .hint("put the model's tokenizer.json there")
    })?;
    Tokenizer::load(&place)
}
