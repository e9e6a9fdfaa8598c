//! `wgpt tokenizer`: trains, applies and describes byte-level BPE tokenizers.

mod convert;
mod decode;
mod encode;
mod info;
mod train;

use std::path::Path;

use clap::Subcommand;
use wgpt::checkpoint::{EndOfText, TextFiles};
use wgpt::data::{Downloads, Sources};
use wgpt::{Event, Result, Tokenizer};

use super::progress::Progress;
use super::{Outcome, output};

const EXAMPLES: &str = "\
Examples:
  wgpt tokenizer train book.txt --vocab 4000 --out tok
  wgpt tokenizer encode book.txt --tokenizer tok --out book.bin
  wgpt train --data book.bin --tokenizer tok
  echo \"15496 995\" | wgpt tokenizer decode --tokenizer gpt2-folder
  wgpt tokenizer info --tokenizer tok --json";

/// Train, apply and describe tokenizers
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Encode(encode::Args),
    Decode(decode::Args),
    Info(info::Args),
    Convert(convert::Args),
}

/// Runs the subcommand.
///
/// # Errors
///
/// If a file cannot be read or written, or an id is not in the vocabulary.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Train(args) => train::run(args)?,
        Command::Encode(args) => encode::run(args)?,
        Command::Decode(args) => decode::run(args)?,
        Command::Info(args) => info::run(args)?,
        Command::Convert(args) => convert::run(args)?,
    }
    Ok(Outcome::Good)
}

fn load(name: &Path) -> Result<Tokenizer> {
    match name.to_str() {
        Some("bytes") => Ok(Tokenizer::bytes()),
        _ => Tokenizer::load(name),
    }
}

/// Where texts end by a tokenizer and the files beside it; says what is odd about them.
fn end_of_text(name: &Path, tokenizer: &Tokenizer) -> Result<EndOfText> {
    let files = match name.to_str() {
        Some("bytes") => TextFiles::default(),
        _ => TextFiles::of_tokenizer(name, tokenizer)?,
    };
    let (end, notices) = files.end_of_text(Some(tokenizer));
    notices.iter().for_each(|notice| output::log(notice));
    Ok(end)
}

/// The texts, on this machine; says what was left out.
pub(super) fn sources(files: &[String], progress: &mut Progress) -> Result<Sources> {
    let mut sources = Sources::parse(files)?;
    sources.notes().iter().for_each(|note| output::log(note));
    sources.fetch(&Downloads::from_env()?, &mut |at| {
        progress.show(&Event::Preparing {
            what: format!("downloading {}", at.name),
            done: at.done_bytes,
            total: at.total_bytes.unwrap_or(0),
        });
    })?;
    Ok(sources)
}

/// Whether a file is read as a token file, by its name.
fn is_token_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("bin"))
}
