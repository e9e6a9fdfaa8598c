//! The settings of a training run.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::local::Local;
use super::model::{GptConfig, LARGEST, Optimizer, Precision, RankBatch, Recompute, Sum};
use crate::error::{Error, Field, Result, field};
use crate::finetune::FineTune;
use crate::pipeline::{self, Grid};
use crate::tree;

/// The settings of a training run; every field has a default.
///
/// `seq_len` and `warmup` of `None` mean the model's context and a twentieth of `max_iters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The number of updates to make.
    pub max_iters: usize,
    /// Sequences per micro-batch.
    pub batch_size: usize,
    /// Tokens per sequence; `None`: the model's context.
    pub seq_len: Option<usize>,
    /// Micro-batches per update, of all ranks together.
    pub grad_accum: usize,
    /// The highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// The lowest learning rate, at the end; `None`: a tenth of the highest.
    pub min_learning_rate: Option<f64>,
    /// Updates of linear warm-up; `None`: a twentieth of `max_iters`.
    pub warmup: Option<usize>,
    /// The weight decay of two-dimensional parameters.
    pub weight_decay: f64,
    /// Decay of Adam's first moment.
    pub beta1: f64,
    /// Decay of Adam's second moment.
    pub beta2: f64,
    /// The term that Adam adds to the root of the second moment.
    pub eps: f64,
    /// The largest norm of the gradient; 0: no clipping.
    pub grad_clip: f64,
    /// The share of the activations that training drops, in the embedding and before every residual sum.
    pub dropout: f64,
    /// The seed of initialisation, batches and dropout.
    pub seed: u64,
    /// Updates between evaluations; 0: only at the end.
    pub eval_every: usize,
    /// Validation batches per evaluation, except for the last evaluation, which covers the whole split.
    pub eval_iters: usize,
    /// The most tokens of the validation split; `None`: a tenth of all tokens, however many that are. A file without it
    /// means `None`, because the runs of older versions had no such bound.
    #[serde(default)]
    pub val_tokens: Option<usize>,
    /// The run ends after this many evaluations in a row without a better validation loss; `None`: it makes all its updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// When the run was lengthened, the earliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengthened: Vec<Lengthened>,
    /// Updates between saves; 0: only at the end.
    pub save_every: usize,
    /// Updates between two lines of the log.
    pub log_every: usize,
    /// The number of checkpoints to keep.
    pub keep: usize,
    /// The method that updates the parameters.
    pub optimizer: Optimizer,
    /// The precision of activations, of their gradients and of the weights in products.
    pub precision: Precision,
    /// The values that the backward pass recomputes.
    pub recompute: Recompute,
    /// In which order the gradients of an update's micro-batches are added.
    #[serde(default, skip_serializing_if = "Sum::is_default")]
    pub sum: Sum,
    /// How an update's micro-batches are shared out to the ranks.
    #[serde(default, skip_serializing_if = "RankBatch::is_default")]
    pub rank_batch: RankBatch,
    /// How many micro-batches of an update each rank takes, in the order of the ranks, since [`RankBatch::Auto`] measured it;
    /// empty: it is still to be measured. Without that it has no meaning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rank_shares: Vec<usize>,
    /// Whether ranks split the optimiser's state, and in mixed precision the parameters in single precision, instead of each having all of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero: bool,
    /// How many stages, each with some of the layers, the ranks form.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub pipeline: usize,
    /// The number of this rank. It is of a process, not of a run: no file keeps it.
    #[serde(skip)]
    pub rank: usize,
    /// How many ranks share the micro-batches of an update. It is of a process, not of a run: no file keeps it.
    #[serde(skip)]
    pub ranks: usize,
    /// Whether the ranks train on their own between syncs; `None`: they add their gradients in every update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Local>,
    /// Which part of the model is trained.
    pub finetune: FineTune,
    /// The run's folder; `None`: the run stays in memory and writes nothing.
    pub out: Option<PathBuf>,
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            max_iters: 3000,
            batch_size: 8,
            seq_len: None,
            grad_accum: 1,
            learning_rate: 1e-3,
            min_learning_rate: None,
            warmup: None,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            grad_clip: 1.0,
            dropout: 0.0,
            seed: 1337,
            eval_every: 500,
            eval_iters: 20,
            val_tokens: Some(1_000_000),
            patience: None,
            lengthened: vec![],
            save_every: 500,
            log_every: 10,
            keep: 2,
            optimizer: Optimizer::Adamw,
            precision: Precision::F32,
            recompute: Recompute::Gelu,
            sum: Sum::default(),
            rank_batch: RankBatch::default(),
            rank_shares: vec![],
            zero: false,
            pipeline: 1,
            rank: 0,
            ranks: 1,
            local: None,
            finetune: FineTune::default(),
            out: None,
        }
    }
}

/// A change of a run's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lengthened {
    /// The number of updates that were made before it.
    pub at: usize,
    /// [`TrainConfig::max_iters`] before it.
    pub max_iters: usize,
}

/// The default of counts that are 1 where nothing is said.
fn one() -> usize {
    1
}

/// Whether a count is its default.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(count: &usize) -> bool {
    *count == 1
}

impl TrainConfig {
    /// Returns this rank's place among all.
    pub fn grid(&self) -> Grid {
        Grid { rank: self.rank, size: self.ranks, stages: self.pipeline }
    }

    /// Returns the micro-batches of each rank, or in pipelines of each rank of a stage, in the order of the ranks. Shares that
    /// are still to be measured are even.
    ///
    /// ```
    /// use wgpt::{TrainConfig, config::RankBatch};
    /// let even = TrainConfig { ranks: 2, grad_accum: 4, ..TrainConfig::default() };
    /// assert_eq!(even.shares(), [0..2, 2..4]);
    /// let measured = TrainConfig { rank_batch: RankBatch::Auto, rank_shares: vec![3, 1], ..even };
    /// assert_eq!(measured.shares(), [0..3, 3..4]);
    /// ```
    pub fn shares(&self) -> Vec<Range<usize>> {
        if self.rank_batch == RankBatch::Auto && !self.rank_shares.is_empty() {
            return tree::ranges(&self.rank_shares);
        }
        let (n, replicas) = (self.grad_accum, self.grid().replicas());
        (0..replicas).map(|replica| tree::share(n, replica, replicas)).collect()
    }

    /// Whether the ranks' shares are still to be measured.
    pub fn is_unmeasured(&self) -> bool {
        self.rank_batch == RankBatch::Auto && self.ranks > 1 && self.rank_shares.is_empty()
    }

    /// Returns settings that suit a model's sizes: the defaults, with a learning rate of 0.4 / `n_embd`.
    ///
    /// The best learning rate falls with the width; this rule agrees with the published rates for GPT-2 (6e-4 at 768
    /// channels, 2.5e-4 at 1600) and with rates that suited small models here.
    pub fn for_model(model: &GptConfig) -> TrainConfig {
        TrainConfig { learning_rate: 0.4 / model.n_embd.max(64) as f64, ..TrainConfig::default() }
    }

    /// Returns the number of warm-up updates. They do not change when a run is lengthened.
    pub fn warmup_iters(&self) -> usize {
        let first = self.lengthened.first().map_or(self.max_iters, |change| change.max_iters);
        self.warmup.unwrap_or(first / 20)
    }

    /// Returns the learning rate at the end.
    pub fn min_lr(&self) -> f64 {
        self.min_learning_rate.unwrap_or(self.learning_rate / 10.0)
    }

    /// Returns the learning rate of update `iter`, counted from 0: linear warm-up, then a cosine.
    ///
    /// Where the run was lengthened, the rate goes on from what it was at that update, without a jump, and falls along another cosine
    /// to the lowest at the new end; a warm-up is finished before. A run that had come to its end has the lowest rate, and keeps it.
    ///
    /// ```
    /// use wgpt::TrainConfig;
    /// let config = TrainConfig { max_iters: 100, warmup: Some(9), ..TrainConfig::default() };
    /// assert_eq!(config.learning_rate_at(0), 1e-3 / 10.0);
    /// assert_eq!(config.learning_rate_at(9), 1e-3);
    /// ```
    pub fn learning_rate_at(&self, iter: usize) -> f64 {
        let warmup = self.warmup_iters();
        if iter < warmup {
            return self.learning_rate * (iter + 1) as f64 / (warmup + 1) as f64;
        }
        // Each part of the run falls from where the one before has got to.
        let (mut first, mut highest) = (warmup, self.learning_rate);
        for Lengthened { at, max_iters } in &self.lengthened {
            let next = warmup.max(*at);
            if iter < next {
                return self.falling(highest, first..*max_iters, iter);
            }
            highest = self.falling(highest, first..*max_iters, next);
            first = next;
        }
        self.falling(highest, first..self.max_iters, iter)
    }

    /// Returns the learning rate of an update on the cosine from `highest` down to the lowest over a range of updates.
    fn falling(&self, highest: f64, range: Range<usize>, iter: usize) -> f64 {
        if iter > range.end {
            return self.min_lr();
        }
        let ratio = iter.saturating_sub(range.start) as f64 / range.len().max(1) as f64;
        let share = 0.5 * (1.0 + (std::f64::consts::PI * ratio).cos());
        self.min_lr() + share * (highest - self.min_lr())
    }

    /// Makes the run longer from update `at` on, the number of those that were made.
    ///
    /// # Errors
    ///
    /// If it is not longer than what it has; a run that has ended before may go on to its old end (`ended`).
    pub fn lengthen(&mut self, at: usize, max_iters: usize, ended: bool) -> Result<()> {
        let least = if ended { at } else { self.max_iters };
        if max_iters <= least {
            return Err(Error::usage(format!(
                "{} is {max_iters}, must be more than {least}, which the run has {}",
                field("max_iters"),
                if ended { "made" } else { "already" }
            ))
            .hint(format!(
                "leave it out to go on with the run as it is; or begin another one by {}",
                field("init")
            )));
        }
        // Where a run goes on from before an earlier change, that one has not happened.
        let undone = self.lengthened.iter().position(|change| change.at >= at);
        let end = undone.map_or(self.max_iters, |index| self.lengthened[index].max_iters);
        self.lengthened.truncate(undone.unwrap_or(self.lengthened.len()));
        self.lengthened.push(Lengthened { at, max_iters: end });
        self.max_iters = max_iters;
        Ok(())
    }

    /// Returns whether a task that runs every `every` updates (0: only at the end) is due after update `done`.
    pub fn is_due(&self, every: usize, done: usize) -> bool {
        done == self.max_iters || (every > 0 && done.is_multiple_of(every))
    }

    /// Checks that the settings are valid for training this model.
    ///
    /// # Errors
    ///
    /// Names the field that is out of range.
    pub fn validate(&self, model: &GptConfig) -> Result<()> {
        self.check_least()?;
        self.check_sizes(model)?;
        self.check_grid(model)?;
        self.check_shares()?;
        self.check_reals()?;
        self.local.map_or(Ok(()), |local| local.check(self))
    }

    /// Checks that the ranks form a grid in which each has layers and micro-batches, and that they share out their work in only
    /// one way.
    fn check_grid(&self, model: &GptConfig) -> Result<()> {
        let Grid { size, stages, .. } = self.grid();
        pipeline::check(stages, model.n_layer)?;
        let name = field("pipeline");
        if !size.is_multiple_of(stages) {
            return Err(Error::usage(format!(
                "{name} is {stages}, must divide the number of ranks, {size}"
            ))
            .hint(format!("start {stages} ranks, or a multiple of that, or set another {name}")));
        }
        let replicas = self.grid().replicas();
        if self.grad_accum < replicas {
            let what = if stages > 1 { "number of ranks of a stage" } else { "number of ranks" };
            return Err(Error::usage(format!(
                "{} is {}, must be at least the {what}, {replicas}",
                field("grad_accum"),
                self.grad_accum
            ))
            .hint("it counts the micro-batches of all ranks together"));
        }
        let (lora, sync_every) = (self.finetune.lora.is_some(), field("local.sync_every"));
        let (cannot, with) = match (stages > 1, self.local.is_some()) {
            (true, _) if self.zero => (field("zero"), name),
            (true, _) if self.rank_batch == RankBatch::Auto => (field("rank_batch"), name),
            (true, _) if lora => (field("lora.rank"), name),
            (true, true) => (sync_every, name),
            (false, true) if self.zero => (field("zero"), sync_every),
            _ => return Ok(()),
        };
        Err(Error::usage(format!("{cannot} is not possible together with {with}"))
            .hint("set one of the two"))
    }

    /// Checks that measured shares are those of the ranks.
    fn check_shares(&self) -> Result<()> {
        let shares = &self.rank_shares;
        if self.rank_batch == RankBatch::Even || shares.is_empty() {
            return Ok(());
        }
        let all = shares.iter().fold(0_usize, |all, share| all.saturating_add(*share));
        if shares.len() == self.ranks && !shares.contains(&0) && all == self.grad_accum {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} is {shares:?}, must be a number from 1 on for each of the {} ranks, and {} in all, {}",
            field("rank_shares"),
            self.ranks,
            field("grad_accum"),
            self.grad_accum
        ))
        .hint("leave it out: the ranks are then measured again"))
    }

    /// Checks that no count is too small.
    fn check_least(&self) -> Result<()> {
        let positive = [
            (field("max_iters"), self.max_iters),
            (field("batch_size"), self.batch_size),
            (field("grad_accum"), self.grad_accum),
            (field("eval_iters"), self.eval_iters),
            (field("log_every"), self.log_every),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(Error::usage(format!("{name} is 0, must be at least 1")));
            }
        }
        if self.patience == Some(0) {
            return Err(Error::usage(format!("{} is 0, must be at least 1", field("patience"))));
        }
        if self.patience.is_some() && self.eval_every == 0 {
            return Err(Error::usage(format!(
                "{} counts evaluations, and {} is 0: there is only one, at the end",
                field("patience"),
                field("eval_every")
            ))
            .hint("evaluate every few hundred updates"));
        }
        if let Some(tokens) = self.val_tokens.filter(|tokens| *tokens < 2) {
            return Err(Error::usage(format!(
                "{} is {tokens}, must be at least 2: one is predicted from another",
                field("val_tokens")
            ))
            .hint("give a number of tokens, or all"));
        }
        Ok(())
    }

    /// Checks that a sequence fits the model's context, and that no count is too large.
    fn check_sizes(&self, model: &GptConfig) -> Result<()> {
        let t = self.seq_len.unwrap_or(model.n_positions);
        if t == 0 || t > model.n_positions {
            return Err(Error::usage(format!(
                "{} is {t}, must be 1 to the model's context, {}",
                field("seq_len"),
                model.n_positions
            )));
        }
        let most = [
            (field("max_iters"), self.max_iters, u32::MAX as usize),
            (field("warmup"), self.warmup_iters(), u32::MAX as usize),
            (field("eval_iters"), self.eval_iters, LARGEST),
            (field("grad_accum"), self.grad_accum, LARGEST),
        ];
        for (name, value, most) in most {
            if value > most {
                return Err(Error::usage(format!("{name} is {value}, must be at most {most}")));
            }
        }
        let tokens = self.batch_size.saturating_mul(t);
        if tokens > LARGEST {
            return Err(Error::usage(format!(
                "{} times {} is {tokens}, must be at most {LARGEST}",
                field("batch_size"),
                field("seq_len")
            )));
        }
        Ok(())
    }

    /// Checks the ranges of real numbers.
    fn check_reals(&self) -> Result<()> {
        let ranges = [
            (field("learning_rate"), self.learning_rate, 0.0..=1e3),
            (field("min_learning_rate"), self.min_lr(), 0.0..=1e3),
            (field("weight_decay"), self.weight_decay, 0.0..=1e3),
            (field("beta1"), self.beta1, 0.0..=0.999_999),
            (field("beta2"), self.beta2, 0.0..=0.999_999),
            (field("grad_clip"), self.grad_clip, 0.0..=1e9),
            (field("dropout"), self.dropout, 0.0..=0.95),
        ];
        ranges.into_iter().try_for_each(|(name, value, range)| check_range(name, value, range))
    }
}

/// Checks that a real number is within a range.
pub(super) fn check_range(name: Field, value: f64, range: RangeInclusive<f64>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(Error::usage(format!("{name} is {value}, must be {least} to {most}")))
}
