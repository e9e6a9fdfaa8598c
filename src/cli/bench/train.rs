//! `wgpt bench train`: whole training steps.

use wgpt::Result;
use wgpt::engine::Engine;

use super::common::{Common, Rounds, measure, random_ids, show, step, training};
use crate::cli::options::BatchArgs;
use crate::cli::profile::ProfileArgs;

/// Whole training steps: forward, backward, clipping, AdamW; random ids
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wgpt bench train --size small --steps 50 --json")]
pub struct Args {
    /// Time N steps
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Make N steps before those
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: u32,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Times training.
pub fn run(args: &Args) -> Result<()> {
    let common = &args.common;
    let config = common.model.config()?;
    let shape = args.batch.shape(&common.model, &config)?;
    let mut engine = common.engine(training(shape), Some(&args.batch))?;
    let shape = (engine.program().uses.batch, shape.1);
    let rows = shape.0 * shape.1;
    // The steps use four batches in turn.
    let ids = random_ids(config.vocab_size, 4 * rows + 1);
    let one = |engine: &mut Engine, i: usize| {
        let start = i % 4 * rows;
        let (x, y) = (&ids[start..start + rows], &ids[start + 1..start + rows + 1]);
        engine.train_batch(x, y, (0, rows), step());
        engine.update(&step());
        engine.read_update().map(drop)
    };
    let rounds = Rounds { warmup: args.warmup, steps: args.steps };
    let measured = measure(&mut engine, &args.profile, rounds, one)?;
    let what = format!("training on {} x {} tokens", shape.0, shape.1);
    show(common, &engine, &what, rows, measured);
    Ok(())
}
