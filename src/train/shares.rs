//! How many micro-batches of an update each rank takes, where that is found by measuring: once, at the run's start.

use super::agree::check_all;
use super::{RunSettings, Trainer};
use crate::clock::Stopwatch;
use crate::config::RankBatch;
use crate::data::{Place, Rows};
use crate::dist::World;
use crate::error::Result;
use crate::kernel::Step;
use crate::ops::{dropout, random};
use crate::tree;

/// A measurement takes at least so many seconds and micro-batches, so that the ranks of a machine, which share its cores, are
/// measured while all of them compute; and it begins no micro-batch after so many seconds.
const LEAST_S: f64 = 0.4;
const LEAST_TIMES: usize = 3;
const MOST_S: f64 = 1.5;

impl Trainer {
    /// Measures a micro-batch on every rank, all at the same time, and shares out the micro-batches of an update by that; the
    /// run keeps it. Does nothing where the shares are known, or even.
    ///
    /// # Errors
    ///
    /// If a rank is gone or has lost its device, or the run's settings cannot be written.
    pub(super) fn share_out(&mut self, world: &mut dyn World) -> Result<()> {
        if !self.config.is_unmeasured() {
            return Ok(());
        }
        // The first one may take longer.
        let warm = self.time_micro_batch();
        check_all(world, warm)?;
        let measured = self.measure();
        let own = check_all(world, measured)?;
        let all = world.gather(&[own])?;
        self.rank_times = all.iter().map(|words| words[0]).collect();
        self.config.rank_shares = tree::apportion(self.config.grad_accum, &self.rank_times);
        let kept = self.keep_shares();
        check_all(world, kept)
    }

    /// The time of a micro-batch's passes on this rank, in nanoseconds: the median of some.
    fn measure(&mut self) -> Result<u64> {
        let (clock, mut times) = (Stopwatch::start(), vec![]);
        let enough = |times: &[u64], seconds: f64| {
            seconds >= MOST_S || (seconds >= LEAST_S && times.len() >= LEAST_TIMES)
        };
        while !enough(&times, clock.seconds()) {
            times.push(self.time_micro_batch()?);
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    /// Times forward and backward pass over a micro-batch, in nanoseconds, and leaves nothing behind.
    fn time_micro_batch(&mut self) -> Result<u64> {
        let seed = self.config.seed;
        let place = Place { seed, step: 0, micro: 0 };
        let batch = &mut self.micro_batch;
        let (tokens, targets) = (&mut batch.tokens, &mut batch.targets);
        let rows = Rows { tokens, targets, starts: &mut batch.starts };
        self.train.draw(&self.tokens, place, self.config.grad_accum, rows)?;
        let dropout = dropout::threshold(self.config.dropout);
        let step = Step { dropout, seed: random::key(seed, 0, 0), ..Step::default() };
        let clock = Stopwatch::start();
        self.engine.try_micro_batch(&batch.tokens, &batch.targets, step)?;
        Ok(clock.elapsed().as_nanos() as u64)
    }

    /// Writes the shares to the run's settings, on the rank that has them.
    fn keep_shares(&self) -> Result<()> {
        let Some(run) = &self.run else { return Ok(()) };
        let mut settings: RunSettings = run.settings()?;
        settings.train.rank_shares = self.config.rank_shares.clone();
        run.keep_settings(&settings)
    }

    /// Says how the micro-batches are shared out, if that was measured.
    pub(super) fn say_shares(&self) -> Option<String> {
        let config = &self.config;
        let is_measured = config.rank_batch == RankBatch::Auto && !config.rank_shares.is_empty();
        is_measured.then(|| said(&config.rank_shares, &self.rank_times))
    }
}

/// Says how many micro-batches each rank takes, and how long it takes for one; no times: they were measured earlier.
fn said(shares: &[usize], times: &[u64]) -> String {
    let all: usize = shares.iter().sum();
    let rank = |(rank, share): (usize, &usize)| {
        let of = if rank == 0 { format!(" of {all} micro-batches") } else { String::new() };
        let each = if rank == 0 { " each" } else { "" };
        let time = times.get(rank).map_or(String::new(), |time| match *time as f64 / 1e9 {
            time if time < 0.1 => format!(" ({:.1} ms{each})", 1e3 * time),
            time => format!(" ({time:.2} s{each})"),
        });
        format!("rank {rank} takes {share}{of}{time}")
    };
    let ranks: Vec<String> = shares.iter().enumerate().map(rank).collect();
    let earlier = if times.is_empty() { ", as measured at the start of the run" } else { "" };
    ranks.join(", ") + earlier
}

#[cfg(test)]
mod tests {
    use super::said;

    #[test]
    fn the_shares_are_said_in_one_line() {
        let line = said(&[3, 1], &[210_000_000, 650_000_000]);
        assert_eq!(
            line,
            "rank 0 takes 3 of 4 micro-batches (0.21 s each), rank 1 takes 1 (0.65 s)"
        );
        let line = said(&[1, 2], &[4_120_000, 2_000_000]);
        assert_eq!(
            line,
            "rank 0 takes 1 of 3 micro-batches (4.1 ms each), rank 1 takes 2 (2.0 ms)"
        );
        let line = said(&[1, 2], &[]);
        let earlier = ", as measured at the start of the run";
        assert_eq!(line, format!("rank 0 takes 1 of 3 micro-batches, rank 1 takes 2{earlier}"));
    }
}
