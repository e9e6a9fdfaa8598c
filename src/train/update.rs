//! One update: its micro-batches on this rank, the sum over all ranks, the optimiser.

use super::stages::Pipeline;
use super::{MAX_SKIPPED, Trainer};
use crate::checkpoint::RunDir;
use crate::data::{Place, Rows};
use crate::disk;
use crate::dist::{self, Sums};
use crate::engine::{self, Engine, Finals, MicroBatch, Update};
use crate::error::{Error, Result, field};
use crate::kernel::{Step, state};
use crate::ops::{dropout, random};

impl Trainer {
    pub(super) fn tokens_an_update(&self) -> u64 {
        (self.shape.0 * self.shape.1 * self.config.grad_accum) as u64
    }

    /// Makes an update, unless none of its targets count; returns whether it did.
    pub(super) fn update(&mut self, iter: usize, learning_rate: f64) -> Result<bool> {
        let config = &self.config;
        let step = Step {
            dropout: dropout::threshold(config.dropout),
            learning_rate,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
            grad_clip: config.grad_clip,
            ..Step::default()
        };
        let (seed, micros) = (config.seed, config.grad_accum);
        let mut fill = |micro: usize, batch: &mut MicroBatch| {
            let place = Place { seed, step: iter as u64, micro: micro as u64 };
            let MicroBatch { tokens, targets, starts, .. } = batch;
            batch.seed = random::key(seed, iter as u32, micro as u32);
            self.train.draw(&self.tokens, place, micros, Rows { tokens, targets, starts }).map(drop)
        };
        let has_documents = self.tokens.are_conversations();
        let (batch, link, engine) = (&mut self.micro_batch, &self.link, &mut self.engine);
        let grid = link.grid();
        let share = config.shares().swap_remove(grid.replica());
        let own = engine::count_targets(share.clone(), batch, &mut fill)? as u64;
        let all = match self.apart {
            Some(_) => own as usize,
            None => {
                // The ranks of the first stage have each micro-batch once.
                let all = link.call(move |world| world.gather(&[own]))?;
                all[..grid.replicas()].iter().flatten().sum::<u64>() as usize
            }
        };
        if all == 0 {
            return Ok(false);
        }
        let mut train = |engine: &mut Engine, finals: Option<Finals<'_>>| match grid.stages {
            1 => engine.train_micro_batches(share.clone(), all, batch, &mut fill, step, finals),
            _ => {
                let fill = &mut fill;
                let mut pipeline = Pipeline { engine, link, batch, has_documents, fill, step };
                let key = |micro: usize| random::key(seed, iter as u32, micro as u32);
                pipeline.train(share.clone(), all, &key, finals)
            }
        };
        match &self.layout {
            None => train(engine, None)?,
            Some(layout) => {
                let (sent, mut sums) = (layout.sent(), Sums::new(link, layout));
                let mut add = |engine: &mut Engine, numbers| sums.add(engine, numbers);
                train(engine, Some((&sent, &mut add)))?;
                self.broken = sums.finish(engine)?;
            }
        }
        match engine.program().split {
            None => engine.update(&step),
            Some(_) => dist::update_split(engine, link, &step)?,
        }
        Ok(true)
    }

    /// Returns an error if too many consecutive updates were skipped.
    pub(super) fn check(&self, update: &Update, step: usize) -> Result<()> {
        let skipped = update.state[state::SKIPPED_IN_A_ROW];
        if skipped < MAX_SKIPPED {
            return Ok(());
        }
        let what = if update.loss.is_finite() { "gradient" } else { "loss" };
        let place = self.broken.map_or(String::new(), |rank| format!(" on rank {rank}"));
        Err(self.diverged(&format!(
            "the {what} was not finite{place} in {skipped} updates in a row, up to step {step}; the parameters are as before them"
        )))
    }

    /// Returns the error of a diverged run, with the possible ways out: a checkpoint may have diverged too.
    pub(super) fn diverged(&self, message: &str) -> Error {
        let best = self.run.as_ref().map(RunDir::best).filter(|best| disk::exists(best));
        let more = best.map_or(String::new(), |best| {
            format!(
                "; or go on from the best model with other settings by {} {}",
                field("init"),
                best.display()
            )
        });
        Error::training(message).hint(format!(
            "lower {} or lengthen {}{more}",
            field("learning_rate"),
            field("warmup")
        ))
    }
}
