//! Settings that fit a device: the least recomputation and the largest micro-batch, found by recording programs.

use crate::config::{GptConfig, Recompute};
use crate::finetune::FineTune;
use crate::model::{Program, Uses};
use crate::plan::Limits;

/// The largest micro-batch that [`largest_batch`] tries, in sequences.
pub const LARGEST_BATCH: usize = 64;

/// Returns the recomputation from which `auto` begins: adapters are trained to need little memory, and the outputs of GELUs
/// and of SwiGLUs, which only they read again, cost more memory than time.
pub fn first_recompute(finetune: &FineTune) -> Recompute {
    if finetune.lora.is_some() { Recompute::Gelu } else { Recompute::None }
}

/// Returns the least recomputation, from the first one on, with which these uses fit; the most if they never fit.
///
/// ```
/// use wgpt::{FineTune, config::Recompute, fit::least_recompute, model::Uses};
/// let fits = |uses: Uses| uses.recompute != Recompute::None;
/// assert_eq!(least_recompute(Uses::default(), &FineTune::default(), fits), Recompute::Gelu);
/// ```
pub fn least_recompute(
    uses: Uses,
    finetune: &FineTune,
    mut fits: impl FnMut(Uses) -> bool,
) -> Recompute {
    let first = first_recompute(finetune);
    let mut all = Recompute::ALL.into_iter().skip_while(|recompute| *recompute != first);
    all.find(|&recompute| fits(Uses { recompute, ..uses })).unwrap_or(Recompute::Block)
}

/// Returns the largest power of two of sequences, up to [`LARGEST_BATCH`], with which these uses fit; 1 if they never
/// fit.
///
/// ```
/// use wgpt::{fit::largest_batch, model::Uses};
/// assert_eq!(largest_batch(Uses::default(), |uses| uses.batch < 20), 16);
/// ```
pub fn largest_batch(uses: Uses, mut fits: impl FnMut(Uses) -> bool) -> usize {
    let mut all = (0..=LARGEST_BATCH.ilog2()).rev().map(|log2| 1 << log2);
    all.find(|&batch| fits(Uses { batch, ..uses })).unwrap_or(1)
}

/// Records programs for a device, and keeps the last one: the program that was recorded to see whether it fits is then
/// run.
///
/// ```
/// use wgpt::plan::Limits;
/// use wgpt::{FineTune, GptConfig, fit::Programs, model::Uses};
/// let (config, finetune) = (GptConfig::small(), FineTune::default());
/// let mut programs = Programs::default();
/// let mut record = |seq| {
///     let uses = Uses { batch: 1, seq, ..Uses::default() };
///     programs.of(&config, uses, &finetune, Limits::NONE).plan.clone()
/// };
/// assert!(std::sync::Arc::ptr_eq(&record(8), &record(8)) && record(8).total_bytes() < record(9).total_bytes());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Programs {
    last: Option<Program>,
    recorded: usize,
}

impl Programs {
    /// Returns a program as [`Program::record_tuning`] does; the last one again if it was recorded with the same
    /// arguments.
    ///
    /// # Panics
    ///
    /// As [`Program::record_tuning`].
    pub fn of(
        &mut self,
        config: &GptConfig,
        uses: Uses,
        finetune: &FineTune,
        limits: Limits,
    ) -> &Program {
        let is_same = |last: &Program| {
            (&last.config, last.uses, &last.finetune, last.limits)
                == (config, uses, finetune, limits)
        };
        let last = self.last.take().filter(is_same);
        self.recorded += usize::from(last.is_none());
        self.last
            .insert(last.unwrap_or_else(|| Program::record_tuning(config, uses, finetune, limits)))
    }

    /// Returns the number of recorded programs.
    pub fn recorded(&self) -> usize {
        self.recorded
    }
}
