//! `wgpt eval`: measures of a model, and of text.

mod bleu;
mod choices;
mod common;
mod continuations;
mod perplexity;

use perplexity::PerplexityArgs;
use wgpt::Result;

use super::outcome::Outcome;

const EXAMPLES: &str = "\
How it is counted:
  perplexity: exp(sum of -ln p / scored tokens), over all tokens but the first, which nothing precedes.
  bits per byte: sum of -log2 p / bytes of the scored tokens' text. An end-of-text token has no bytes, but its -log2 p counts.
  windows: without --stride, they follow one another, as training measures its loss; each token is predicted from those before it \
in its window. With --stride N, they begin N tokens apart, and each scores the tokens that no earlier window has scored: this is \
slower, and gives each token more context. If N is the whole window, the first token of a window is not scored.
  documents: a document of a text file ends at <|endoftext|>, one of a JSON file with its object. The end-of-text token stands \
between two documents, as in training.

Examples:
  wgpt eval held-out.txt                        perplexity of the newest run's best model
  wgpt eval --model gpt2 a.txt b.jsonl --stride 512
  wgpt eval --model folder tokens.bin --json
  wgpt eval continuations held-out.txt          what it writes, against how the text goes on
  wgpt eval choices hellaswag_val.jsonl --model gpt2
  wgpt eval bleu hypotheses.txt references.txt  BLEU of any text; no model needed
  mpirun -n 2 wgpt eval held-out.txt --pipeline 2   of a model that does not fit on one rank";

/// Measure a model: perplexity and bits per byte of a text, BLEU, multiple choice
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    perplexity: PerplexityArgs,
}

#[derive(clap::Subcommand)]
enum Command {
    Bleu(bleu::Args),
    Continuations(continuations::Args),
    Choices(choices::Args),
}

/// Runs the measure.
///
/// # Errors
///
/// If the model, or the data of the measure, cannot be read; if an option is out of range.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        None => {
            let args = &args.perplexity;
            args.common.on_ranks(|others| perplexity::run(args, others))?;
        }
        Some(Command::Bleu(args)) => bleu::run(args)?,
        Some(Command::Continuations(args)) => {
            args.common.on_ranks(|others| continuations::run(args, others))?;
        }
        Some(Command::Choices(args)) => {
            args.common.on_ranks(|others| choices::run(args, others))?;
        }
    }
    Ok(Outcome::Good)
}
