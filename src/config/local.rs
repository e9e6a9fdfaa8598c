//! Training whose ranks talk to each other only now and then.

use serde::{Deserialize, Serialize};

use super::TrainConfig;
use super::train::check_range;
use crate::error::{Error, Result, field};

/// Local updates with an outer step now and then: DiLoCo (Douillard et al. 2023, <https://arxiv.org/abs/2311.08105>).
///
/// Each rank trains alone, with moments of its own. Every [`sync_every`](Local::sync_every) updates the ranks average how
/// far they have come, and an outer step with Nesterov's momentum moves the parameters that all of them go on with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// The updates of each rank between two syncs: H in the paper.
    pub sync_every: usize,
    /// The rate of the outer step.
    pub outer_rate: f64,
    /// The momentum of the outer step.
    pub outer_momentum: f64,
    /// The number of ranks. The run goes on with no other number, because each rank has moments of its own.
    pub ranks: usize,
}

impl Local {
    /// Returns the paper's settings: an outer rate of 0.7 and a momentum of 0.9.
    ///
    /// ```
    /// use wgpt::{TrainConfig, config::Local};
    /// let local = Some(Local::every(50, 4));
    /// let train = TrainConfig { local, ranks: 4, grad_accum: 4, ..TrainConfig::default() };
    /// assert!(train.validate(&wgpt::GptConfig::small()).is_ok());
    /// ```
    pub fn every(sync_every: usize, ranks: usize) -> Local {
        Local { sync_every, outer_rate: 0.7, outer_momentum: 0.9, ranks }
    }

    /// Checks that a run with these settings is started on its number of ranks.
    ///
    /// # Errors
    ///
    /// Names both numbers.
    pub fn check_ranks(&self, ranks: usize) -> Result<()> {
        if ranks == self.ranks {
            return Ok(());
        }
        Err(Error::usage(format!(
            "the number of ranks is {ranks}, must be {}: with {} each rank of a run has moments of its own",
            self.ranks,
            field("local.sync_every")
        ))
        .hint(format!("start it on as many ranks as it began with: mpirun -n {}", self.ranks)))
    }

    /// Checks the ranges, and that the ranks have one model whenever it is evaluated or saved.
    pub(super) fn check(&self, train: &TrainConfig) -> Result<()> {
        let sync_every = field("local.sync_every");
        if self.sync_every == 0 {
            return Err(Error::usage(format!("{sync_every} is 0, must be at least 1")));
        }
        self.check_ranks(train.ranks)?;
        check_range(field("local.outer_rate"), self.outer_rate, 0.0..=10.0)?;
        check_range(field("local.outer_momentum"), self.outer_momentum, 0.0..=0.999_999)?;
        let tasks =
            [(field("eval_every"), train.eval_every), (field("save_every"), train.save_every)];
        for (name, every) in tasks {
            if !every.is_multiple_of(self.sync_every) {
                return Err(Error::usage(format!(
                    "{name} is {every}, must be a multiple of {sync_every}, {}: the ranks have one model only after a sync",
                    self.sync_every
                ))
                .hint("give a multiple of it, or 0 for the end of the run alone"));
            }
        }
        Ok(())
    }
}
