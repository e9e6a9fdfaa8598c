//! `wgpt tokenizer train`: learns a vocabulary from text.

use std::path::PathBuf;

use wgpt::data::CutText;
use wgpt::files::write_bytes;
use wgpt::tokenizer::{Progress, TokenizerTrainer};
use wgpt::{Error, Event, Result};

use super::common::sources;
use crate::cli::{number, output, progress};

/// Learn a vocabulary from text
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wgpt tokenizer train a.txt folder/ --vocab 4000 --out tok")]
pub struct Args {
    /// Learn from files, folders, or stories, shakespeare, tinystories
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Learn at most N tokens; at least 257: the end of text and the bytes
    #[arg(long, value_name = "N")]
    vocab: usize,
    /// Add a token that stands for itself wherever a text spells it, besides <|endoftext|>; may be given several times
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// Use at most SIZE of memory, at least 256MB; if the distinct words of the text do not fit, the rarest are left out
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = number::parse_bytes)]
    max_memory: u64,
    /// Write tokenizer.json to this folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Trains a tokenizer and writes tokenizer.json.
///
/// # Errors
///
/// If a text cannot be read, or the folder cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let Args { files, vocab, special, max_memory, out } = args;
    let mut bar = progress::Progress::new();
    let sources = sources(files, &mut bar)?;
    let what = format!("training a tokenizer of {vocab} tokens");
    bar.show(&Event::Preparing { what, done: 0, total: 0 });
    let total = sources.bytes();
    let trainer = TokenizerTrainer::new(*vocab).special_tokens(special).max_memory(*max_memory);
    let documents = CutText::new(sources.documents(), trainer.cutter()?);
    let documents = documents.map(|document| document.map(|document| document.text));
    let trained = trainer.train(documents, &mut |at| match at {
        Progress::Counting(done) => bar.bytes("counting words", done, total),
        Progress::Merging(done) => bar.count("merging pairs", done as u64, *vocab as u64),
    })?;
    bar.end();
    if trained.bytes == 0 {
        return Err(Error::input(format!("{} has no text: no data to learn from", sources.name())));
    }
    std::fs::create_dir_all(out).map_err(|e| Error::io("creating", out, &e))?;
    let path = out.join("tokenizer.json");
    let tokenizer = &trained.tokenizer;
    write_bytes(&path, tokenizer.to_json().as_bytes())?;
    if let Some(dropped) = trained.dropped {
        output::log(&format!(
            "the distinct words did not fit --max-memory: {} of the rarest were left out, {:.1} % of the text; none occurs more \
             than {} times more often than was counted",
            number::thousands(dropped.pieces),
            100.0 * dropped.bytes as f64 / trained.bytes as f64,
            number::thousands(dropped.short_by)
        ));
    }
    if tokenizer.vocab_size() < *vocab {
        output::log(&format!("the text has pairs for {} tokens only", tokenizer.vocab_size()));
    }
    output::line(&format!("{}: {} tokens", path.display(), tokenizer.vocab_size()));
    Ok(())
}
