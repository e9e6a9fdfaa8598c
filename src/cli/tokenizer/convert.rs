//! `wgpt tokenizer convert`: writes a tokenizer in another format.

use std::path::PathBuf;

use wgpt::files::write_bytes;
use wgpt::{Error, Result};

use super::common::load;
use crate::cli::output;

/// Write a tokenizer in another form, or with more special tokens
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wgpt tokenizer convert --tokenizer tok --out gpt2-files --format gpt2
  wgpt tokenizer convert --tokenizer tok --out chat --special '<|user|>' --special '<|assistant|>'")]
pub struct Args {
    /// Convert the tokenizer of this folder, or bytes
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Write to this folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Add a special token at the end of the vocabulary; may be given several times
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// Write this form: json (tokenizer.json) or gpt2 (vocab.json and merges.txt)
    #[arg(long, value_name = "FORMAT", default_value = "json", hide_possible_values = true)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Gpt2,
}

/// Writes the files.
///
/// # Errors
///
/// If the tokenizer cannot be read, the format cannot represent it, or the folder cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let tokenizer = load(&args.tokenizer)?.with_special_tokens(&args.special)?;
    let files = match args.format {
        Format::Json => vec![("tokenizer.json", tokenizer.to_json())],
        Format::Gpt2 => {
            let (vocab, merges) = tokenizer.to_vocab_and_merges()?;
            vec![("vocab.json", vocab), ("merges.txt", merges)]
        }
    };
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io("creating", &args.out, &e))?;
    for (name, text) in files {
        let path = args.out.join(name);
        write_bytes(&path, text.as_bytes())?;
        output::line(&path.display().to_string());
    }
    Ok(())
}
