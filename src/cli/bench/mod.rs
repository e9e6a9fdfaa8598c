//! `wgpt bench`: measures the speed of training, fine-tuning, generation and every kernel on this machine.

mod common;
mod generate;
mod kernels;
mod lora;
mod train;

use wgpt::Result;

use super::outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  wgpt bench train --size medium --threads 2
  wgpt bench lora --size smollm2-135m --batch-sizes 1
  wgpt bench generate --size qwen3-0.6b --json
  wgpt bench generate --size gpt2 --json
  wgpt bench kernels --size small --device gpu";

/// Measure the speed of training, fine-tuning, generation or single kernels
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Train(train::Args),
    Lora(lora::Args),
    Generate(generate::Args),
    Kernels(kernels::Args),
}

/// Runs the benchmark.
///
/// # Errors
///
/// If the sizes do not form a model, or the device cannot hold it.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Train(args) => train::run(args)?,
        Command::Lora(args) => lora::run(args)?,
        Command::Generate(args) => generate::run(args)?,
        Command::Kernels(args) => kernels::run(args)?,
    }
    Ok(Outcome::Good)
}
