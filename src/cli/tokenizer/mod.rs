//! `wgpt tokenizer`: trains, applies and describes byte-level BPE tokenizers.

mod common;
mod convert;
mod decode;
mod encode;
mod info;
mod train;

use clap::Subcommand;
use wgpt::Result;

use super::outcome::Outcome;

pub use common::sources;

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
