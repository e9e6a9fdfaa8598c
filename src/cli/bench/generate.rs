//! `wgpt bench generate`: whole continuations.

use wgpt::engine::Engine;
use wgpt::model::Uses;
use wgpt::{GenerateOptions, Result};

use super::common::{Common, Rounds, measure, random_ids, show};
use crate::cli::profile::ProfileArgs;

/// Generation with the cache, greedy, including the prompt's time; a step is one whole continuation
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  wgpt bench generate --size gpt2 --prompt-tokens 16 --max-tokens 64"
)]
pub struct Args {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// New tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Time N continuations
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Write N continuations before those
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: u32,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Times generation.
pub fn run(args: &Args) -> Result<()> {
    let (common, prompt, new) = (&args.common, args.prompt_tokens, args.max_tokens);
    // As `wgpt generate` does: room for these texts.
    let context = (prompt as usize).saturating_add(new as usize).checked_next_power_of_two();
    let uses = Uses { generation: Some(1), context, ..Uses::default() };
    let mut engine = common.engine(uses, None)?;
    let ids = random_ids(engine.program().config.vocab_size, prompt as usize);
    let options = GenerateOptions {
        max_tokens: new as usize,
        temperature: 0.0,
        ..GenerateOptions::default()
    };
    let one = |engine: &mut Engine, _| {
        wgpt::generate::generate(engine, &ids, &options, &[], |_| Ok(true)).map(drop)
    };
    let rounds = Rounds { warmup: args.warmup, steps: args.steps };
    let measured = measure(&mut engine, &args.profile, rounds, one)?;
    let what = format!("generation of {new} tokens after {prompt}");
    show(common, &engine, &what, new as usize, measured);
    Ok(())
}
