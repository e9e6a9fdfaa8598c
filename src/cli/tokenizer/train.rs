//! `wgpt tokenizer train`: a vocabulary learned from text.

use std::path::PathBuf;

use wgpt::checkpoint::files::write_bytes;
use wgpt::{Error, Event, Result, Tokenizer};

use super::sources;
use crate::cli::output;
use crate::cli::progress::Progress;

/// Learn a vocabulary from text
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wgpt tokenizer train a.txt folder/ --vocab 4000 --out tok")]
pub struct Args {
    /// Files, folders, or stories, shakespeare, tinystories
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// The most tokens; at least 257: the end of text and the bytes
    #[arg(long, value_name = "N")]
    vocab: usize,
    /// The folder to write tokenizer.json to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// The most text to learn from, in bytes, taken evenly from all of it.
const LEARNED_BYTES: u64 = 1 << 30;

/// Trains and writes tokenizer.json.
///
/// # Errors
///
/// If a text cannot be read, or the folder not be written.
pub fn run(args: &Args) -> Result<()> {
    let Args { files, vocab, out } = args;
    let vocab = *vocab;
    let mut progress = Progress::new();
    let sources = sources(files, &mut progress)?;
    let what = format!("training a tokenizer of {vocab} tokens");
    progress.show(&Event::Preparing { what, done: 0, total: 0 });
    let sample = sources.sample(LEARNED_BYTES)?;
    let tokenizer = Tokenizer::train_documents(sample.iter().map(String::as_str), vocab)?;
    progress.end();
    std::fs::create_dir_all(out).map_err(|e| Error::io("creating", out, &e))?;
    let path = out.join("tokenizer.json");
    write_bytes(&path, tokenizer.to_json().as_bytes())?;
    if tokenizer.vocab_size() < vocab {
        output::log(&format!("the text has pairs for {} tokens only", tokenizer.vocab_size()));
    }
    output::line(&format!("{}: {} tokens", path.display(), tokenizer.vocab_size()));
    Ok(())
}
