//! Local training: the ranks train on their own between syncs, at which they take an outer step together ([`Outer`]).
//! Between two syncs no rank hears of another.
//!
//! Only right after a sync do all ranks have the same parameters, and only then is the model evaluated or saved. A
//! checkpoint also needs the outer momentum and the moments of every rank: they go to rank 0, which alone has files, and
//! from it to the ranks of a run that goes on, a slice at a time.

use std::mem;
use std::path::Path;

use super::apart::{Apart, Wanted};
use super::saves::moments;
use super::{MAX_SKIPPED, Trainer};
use crate::checkpoint::{self, RankFile, TrainState};
use crate::clock::Stopwatch;
use crate::dist::{Link, Outer};
use crate::error::{Error, Result};
use crate::model;

impl Trainer {
    /// The files that a checkpoint has for local training; none without it.
    pub(super) fn rank_files(&self) -> Vec<RankFile> {
        let Some(local) = self.config.local else { return vec![] };
        let (config, train) = (self.gpt.config(), &self.config);
        let trained = model::trained(config, &train.finetune);
        checkpoint::rank_files(&trained, &moments(config, train), local.ranks)
    }

    /// Opens the files of a checkpoint for [`Trainer::begin_apart`], and checks that they are those of this run.
    pub(super) fn open_ranks(&mut self, path: &Path, saved: &mut TrainState) -> Result<()> {
        let Some(local) = self.config.local else {
            saved.words_of_others = vec![];
            return Ok(());
        };
        self.of_ranks = checkpoint::open_rank_files(path, &self.rank_files())?;
        let ranks = saved.words_of_others.len() + 1;
        if ranks != local.ranks {
            return Err(Error::input(format!(
                "{} has the counters of {ranks} ranks, the run has {}",
                path.display(),
                local.ranks
            ))
            .hint("put run.json back as it was"));
        }
        Ok(())
    }

    /// Prepares this rank for local training, if the run is one: from the start, or from what rank 0 reads of the
    /// checkpoint.
    pub(super) fn begin_apart(&mut self) -> Result<()> {
        let Some(local) = self.config.local.filter(|_| self.apart.is_none()) else { return Ok(()) };
        let (files, rank_files) = (mem::take(&mut self.of_ranks), self.rank_files());
        let (engine, link) = (&mut self.engine, &self.link);
        let mut apart = Apart { outer: Outer::new(engine, link, local)?, most_skipped: 0 };
        // At the start there is nothing to hand out.
        for (i, of) in rank_files.iter().enumerate().filter(|_| self.state.step > 0) {
            apart.hand_out(of, files.get(i), engine, link)?;
        }
        self.apart = Some(apart);
        Ok(())
    }

    /// Takes the outer step with all other ranks, unless one of them has skipped too many updates. Then they find out whether
    /// one of them was told to stop.
    pub(super) fn sync(&mut self) -> Result<()> {
        let Some(apart) = &mut self.apart else { return Ok(()) };
        let clock = Stopwatch::start();
        let skipped = u64::from(mem::take(&mut apart.most_skipped));
        let all = self.link.call(move |world| world.gather(&[skipped]))?;
        if let Some(rank) = all.iter().position(|words| words[0] >= u64::from(MAX_SKIPPED)) {
            return Err(self.diverged(&format!(
                "the loss or gradient was not finite on rank {rank} in {} updates in a row, seen at the sync after step {}",
                all[rank][0], self.state.step
            )));
        }
        apart.outer.step(&mut self.engine, &self.link)?;
        self.agree_to_stop()?;
        self.spend(clock.seconds());
        self.count_times();
        Ok(())
    }

    /// Gathers the counters of all devices into the state that is saved.
    pub(super) fn gather_words(&mut self) -> Result<()> {
        if self.apart.is_none() {
            return Ok(());
        }
        let own: Vec<u64> = self.state.device_words.iter().copied().map(u64::from).collect();
        let all = self.gather(own)?;
        let words = |words: &Vec<u64>| words.iter().map(|word| *word as u32).collect();
        self.state.words_of_others = all[1..].iter().map(words).collect();
        Ok(())
    }

    /// Answers rank 0, which saves, until it wants nothing more; rank 0 tells the others so.
    pub(super) fn end_save(&mut self) -> Result<()> {
        let (Some(apart), link) = (&mut self.apart, &self.link) else { return Ok(()) };
        while let Some(wanted) = Wanted::of_words(&link.call(|world| world.gather(&[]))?[0]) {
            apart.answer(&wanted, &mut self.engine, link)?;
        }
        Ok(())
    }
}

/// Writes the files of a checkpoint that local training needs, on rank 0; the others answer it in [`Trainer::end_save`].
pub(super) fn write_files(
    apart: &mut Option<Apart>,
    link: &Link,
    files: &[RankFile],
    dir: &Path,
) -> Result<()> {
    let Some(apart) = apart else { return Ok(()) };
    let fill =
        &mut |rank, name: &str, start, out: &mut [f32]| apart.ask(link, (rank, name), start, out);
    checkpoint::write_rank_files(dir, files, fill)
}
