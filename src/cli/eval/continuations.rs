//! `wgpt eval continuations`: compares a model's continuations with how the text really goes on.

use std::time::Instant;

use serde::Serialize;
use wgpt::data::{self, Sources, Tokens};
use wgpt::eval::{Bleu, Continuation, continue_and_score, continue_on, cut};
use wgpt::staged::Staged;
use wgpt::tokenizer::AddedAs;
use wgpt::{Error, GenerateOptions, Gpt, Result, Tokenizer};

use super::bleu;
use super::common::{self, Common};
use crate::cli::options::{ChoiceArgs, device_name};
use crate::cli::progress::{Bar, Progress};
use crate::cli::ranks::Others;
use crate::cli::{output, tokenizer};

const EXAMPLES: &str = "\
The text is cut into pieces of a prompt and a reference, one after the other within its documents. At most --samples of these are \
taken, spread evenly. The same command gives the same text.

Examples:
  wgpt eval continuations held-out.txt
  wgpt eval continuations held-out.txt --model runs/NAME/best --samples 500 --temperature 0.8 --json";

/// BLEU of what a model writes after the beginnings of held-out text, against how the text goes on
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Text that the model has not seen, in the forms of wgpt eval
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    pub common: Common,
    /// Tokens per prompt [default: 32, or half the context]
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Tokens per reference, and of what is written [default: 32, or half the context]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Take at most N pieces
    #[arg(long, value_name = "N", default_value_t = 100)]
    samples: usize,
    /// Below 1: more likely tokens; above 1: more surprising ones; 0: always the likeliest
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    temperature: f64,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Seed of the random draws [default: 1337]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// The printed report.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    prompt_tokens: usize,
    max_tokens: usize,
    temperature: f64,
    seed: u64,
    samples: usize,
    bleu: Bleu,
    examples: Vec<Continuation>,
    seconds: f64,
}

impl Args {
    fn options(&self) -> GenerateOptions {
        let default = GenerateOptions::default();
        GenerateOptions {
            temperature: self.temperature,
            seed: self.seed.unwrap_or(default.seed),
            ..self.choice.options()
        }
    }

    /// Returns the numbers of tokens of a prompt and of a reference, for a model of `context` positions.
    fn lens(&self, context: usize) -> Result<(usize, usize)> {
        let default = 32.min(context / 2).max(1);
        let lens = (self.prompt_tokens.unwrap_or(default), self.max_tokens.unwrap_or(default));
        let sum = lens.0.saturating_add(lens.1);
        if lens.0 == 0 || lens.1 == 0 || self.samples == 0 {
            return Err(Error::usage(
                "--prompt-tokens, --max-tokens and --samples must be at least 1",
            ));
        }
        if sum > context {
            return Err(Error::usage(format!(
                "--prompt-tokens and --max-tokens are {} and {}, together above the model's context, {context}",
                lens.0, lens.1
            )));
        }
        Ok(lens)
    }
}

/// Generates the continuations and scores them.
pub fn run(args: &Args, others: &mut Others) -> Result<()> {
    let options = args.options();
    options.validate()?;
    let sources = tokenizer::sources(&args.files, &mut Progress::new())?;
    let (dir, mut gpt) = args.common.load()?;
    let lens = args.lens(gpt.config().n_positions)?;
    let tokenizer = common::tokenizer(&gpt, &dir, "words")?;
    let tokens = encode(&sources, &tokenizer, &gpt)?;
    let cuts = cut(&tokens, lens, args.samples, gpt.end_of_text().ids())?;

    let uses = gpt.uses_of_samples(1);
    let mut staged = others.take(&mut gpt, uses, false)?;
    let began = Instant::now();
    let bar = Bar::new("writing", cuts.len() as u64);
    let progress = &mut |_| bar.add(1);
    let (bleu, examples) = match &mut staged {
        None => continue_and_score(&mut gpt, &cuts, &options, progress)?,
        Some(staged) => {
            continue_on(&mut gpt.sampler(&mut staged.stages()), &cuts, &options, progress)?
        }
    };
    drop(bar);
    staged.map_or(Ok(()), Staged::end)?;
    let report = Report {
        model: dir.to_string_lossy().into_owned(),
        device: device_name(gpt.device()),
        prompt_tokens: lens.0,
        max_tokens: lens.1,
        temperature: options.temperature,
        seed: options.seed,
        samples: cuts.len(),
        bleu,
        examples,
        seconds: began.elapsed().as_secs_f64(),
    };
    if args.common.json {
        output::json(&report);
    } else {
        show(&report);
    }
    Ok(())
}

/// Returns the tokens of the sources, which fit the model.
fn encode(sources: &Sources, tokenizer: &Tokenizer, gpt: &Gpt) -> Result<Tokens> {
    let tokens = match sources.tokens()? {
        Some(tokens) => tokens,
        None => {
            let mut ids = vec![];
            let mut push = |more: &[u32]| {
                ids.extend_from_slice(more);
                Ok(())
            };
            let encoder = tokenizer.encoder(AddedAs::Tokens);
            let separator = gpt.end_of_text().separator();
            data::encode(sources.documents(), encoder, separator, &mut push, &mut |_| {})?;
            Tokens::from_ids(ids).named(sources.name())
        }
    };
    tokens.check(gpt.config().vocab_size)?;
    Ok(tokens)
}

/// Prints a few texts and the score of all of them.
fn show(report: &Report) {
    for example in report.examples.iter().take(3) {
        let show = |what: &str, text: &str| output::line(&format!("{what:<10}{text:?}"));
        show("prompt", &example.prompt);
        show("written", &example.hypothesis);
        show("the text", &example.reference);
        output::line("");
    }
    output::line(&bleu::table(&report.bleu, &[("continuations", report.samples)]));
}
