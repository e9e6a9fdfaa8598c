//! The time of a run: a profile of some updates, and training's share of the device's best speed.

use super::Trainer;
use crate::dist::Times;
use crate::error::Result;
use crate::profile::{self, Profile, Report};

/// A profile of some updates.
#[derive(Default)]
pub(super) struct Profiling {
    /// The number of updates that are still to be timed.
    pub left: u32,
    /// The number of updates that were timed.
    pub done: u32,
    pub profile: Option<Profile>,
}

/// How a rank spent the time of an update, on average: milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankTimes {
    /// It computed, and copied between its device and the host.
    pub computed_ms: f64,
    /// It waited for other ranks.
    pub waited_ms: f64,
    /// It sent and received, while it computed.
    pub hidden_ms: f64,
}

impl Trainer {
    /// Returns how each rank spent its time in this process. All ranks call it together.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn times_of_ranks(&mut self) -> Result<Vec<RankTimes>> {
        let updates = (self.busy.1 as f64 / self.tokens_an_update() as f64).max(1.0);
        let Times { busy, waited } = self.times;
        let seconds = [self.busy.0 - waited, waited, (busy - waited).max(0.0)];
        let own = seconds.map(|seconds| (1e3 * seconds / updates).to_bits()).to_vec();
        let of = |words: &Vec<u64>| {
            let [computed_ms, waited_ms, hidden_ms] = [0, 1, 2].map(|i| f64::from_bits(words[i]));
            RankTimes { computed_ms, waited_ms, hidden_ms }
        };
        Ok(self.gather(own)?.iter().map(of).collect())
    }

    /// Counts an update that was profiled; the last one ends the profile.
    pub(super) fn profiled(&mut self) {
        let Profiling { left, done, profile } = &mut self.profiling;
        (*left, *done) = (*left - 1, *done + 1);
        if *left == 0 {
            *profile = self.engine.end_profile();
        }
    }

    /// Times every kernel of `updates` updates, after the first one of this process.
    pub fn begin_profile(&mut self, updates: u32) {
        self.profiling = Profiling { left: updates, ..Profiling::default() };
    }

    /// Returns the profile, as a time line and as a table; `None` if the run ended before any update was profiled.
    ///
    /// # Errors
    ///
    /// If the device has no room to measure its best speed, or is lost.
    pub fn end_profile(&mut self) -> Result<Option<(Profile, Report)>> {
        let Profiling { done, profile, .. } = std::mem::take(&mut self.profiling);
        let Some(profile) = profile.or_else(|| self.engine.end_profile()) else { return Ok(None) };
        let peak = profile::peak(self.gpt.device())?;
        let updates = self.busy.1 as f64 / self.tokens_an_update() as f64;
        let report = profile.report(done, self.busy.0 * 1e3 / updates, peak);
        Ok(Some((profile, report)))
    }

    /// Returns the share of the device's best speed that so many tokens per second use.
    pub(super) fn mfu(&self, tokens_per_s: f64) -> Option<f64> {
        let program = self.engine.program();
        let parameters = program.params.iter().map(|param| &param.info);
        let flops = profile::flops_per_token(&program.config, parameters, self.shape.1);
        Some(tokens_per_s * flops / (self.best_gflops? * 1e9))
    }
}
