//! `wgpt data`: what a model is given of conversations, and what it learns of them.

mod common;
mod prove;
mod show;

use clap::Subcommand;
use wgpt::Result;

use super::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  wgpt data show chats.jsonl --model runs/NAME/best
  wgpt data show chats.jsonl --model org/name --limit 20 --tokens
  wgpt data prove chats.jsonl --model runs/NAME/best";

/// Show what is trained on of conversations, and prove that they see nothing of each other
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Show(show::Args),
    Prove(prove::Args),
}

/// Runs the subcommand.
///
/// # Errors
///
/// If a conversation is faulty, or the model has no tokenizer.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Show(args) => show::run(args),
        Command::Prove(args) => prove::run(args),
    }
}
