//! The time of a run: a profile of some updates, the time lines of the ranks, and training's share of the device's best speed.

use super::Trainer;
use crate::clock::Stopwatch;
use crate::config::Precision;
use crate::dist::{Link, Times};
use crate::error::Result;
use crate::profile::{self, Profile, Report};
use crate::timeline::{self, Activity, Span};

/// How often the ranks meet so that their clocks can be aligned.
const MEETINGS: usize = 16;

/// A profile of some updates.
#[derive(Default)]
pub(super) struct Profiling {
    /// The number of updates that are still to be timed.
    pub left: u32,
    /// The number of updates that were timed.
    pub done: u32,
    pub profile: Option<Profile>,
    /// By how many seconds this rank's clock is ahead of the first rank's.
    ahead_s: f64,
    /// What this rank did while the profile went on, in order, in seconds of the profile's clock.
    spans: Vec<Span>,
}

/// How a rank spent the time of an update, on average: milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankTimes {
    /// It computed.
    pub computed_ms: f64,
    /// It copied between its device and the host: in the profiled updates, and 0 if there are none.
    pub copied_ms: f64,
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
        self.stop_profile();
        let updates = (self.busy.1 as f64 / self.tokens_an_update() as f64).max(1.0);
        let Times { busy, waited } = self.times;
        let copies = self.profiling.spans.iter().filter(|span| span.activity == Activity::Copy);
        let copied = copies.map(|span| span.seconds).sum::<f64>();
        let copied = copied / f64::from(self.profiling.done.max(1));
        let [computed, waited, hidden] =
            [self.busy.0 - waited, waited, (busy - waited).max(0.0)].map(|all| all / updates);
        let own = [(computed - copied).max(0.0), copied, waited, hidden];
        let own = own.map(|seconds| (1e3 * seconds).to_bits()).to_vec();
        let of = |words: &Vec<u64>| {
            let [computed_ms, copied_ms, waited_ms, hidden_ms] =
                [0, 1, 2, 3].map(|i| f64::from_bits(words[i]));
            RankTimes { computed_ms, copied_ms, waited_ms, hidden_ms }
        };
        Ok(self.gather(own)?.iter().map(of).collect())
    }

    /// Returns what each rank did from the first profiled update to the last one, in order, in seconds of the clock of the
    /// first rank's profile. All ranks call it together, before [`Trainer::end_profile`], and each of them has called
    /// [`Trainer::begin_profile`].
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn spans_of_ranks(&mut self) -> Result<Vec<Vec<Span>>> {
        self.stop_profile();
        let Profiling { ahead_s, spans, .. } = &self.profiling;
        let on_first = |span: &Span| Span { start_s: span.start_s - ahead_s, ..*span }.words();
        let own = spans.iter().flat_map(on_first).collect();
        let of = |words: &Vec<u64>| {
            words.as_chunks().0.iter().filter_map(|words| Span::of_words(*words)).collect()
        };
        Ok(self.gather(own)?.iter().map(of).collect())
    }

    /// Starts to time what is done: the first of the profiled updates comes next. The ranks align their clocks.
    pub(super) fn start_profile(&mut self) -> Result<()> {
        self.engine.begin_profile();
        let Some(clock) = self.engine.profile().map(Profile::clock) else { return Ok(()) };
        self.profiling.ahead_s = ahead(&self.link, clock)?;
        self.link.begin_spans(clock);
        Ok(())
    }

    /// Counts an update that was profiled; the last one ends the profile.
    pub(super) fn profiled(&mut self) {
        let Profiling { left, done, .. } = &mut self.profiling;
        (*left, *done) = (*left - 1, *done + 1);
        if *left == 0 {
            self.stop_profile();
        }
    }

    /// Ends the profile, if one goes on.
    fn stop_profile(&mut self) {
        if let Some(profile) = self.engine.end_profile() {
            let mut spans = [profile.activities(), &self.link.end_spans()].concat();
            spans.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
            self.profiling.spans = spans;
            self.profiling.profile = Some(profile);
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
        self.stop_profile();
        let Profiling { done, profile, .. } = std::mem::take(&mut self.profiling);
        let Some(profile) = profile else { return Ok(None) };
        let peak = profile::peak(self.gpt.device(), self.config.precision == Precision::Mixed)?;
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

/// Returns by how many seconds this rank's clock is ahead of the first rank's, as [`timeline::ahead`] finds it: each meeting
/// is a gathering of all ranks, which none of them leaves before all have come.
fn ahead(link: &Link, clock: Stopwatch) -> Result<f64> {
    let mut own = vec![];
    for _ in 0..MEETINGS {
        let before_s = clock.seconds();
        link.call(|world| world.gather(&[0]))?;
        own.extend([before_s, clock.seconds()]);
    }
    let words = own.iter().map(|seconds| seconds.to_bits()).collect::<Vec<_>>();
    let all = link.call(move |world| world.gather(&words))?;
    let rounds = |rank: usize| {
        let pairs = all[rank].as_chunks().0.iter();
        pairs.map(|[before, after]| [*before, *after].map(f64::from_bits))
    };
    let rounds: Vec<_> = rounds(0).zip(rounds(link.grid().rank)).collect();
    Ok(timeline::ahead(&rounds))
}
