//! Local training: the ranks train on their own between syncs, at which they take an outer step together ([`Outer`]).
//! Between two syncs no rank hears of another.
//!
//! Only right after a sync do all ranks have the same parameters, and only then is the model evaluated or saved. A
//! checkpoint also needs the outer momentum and the moments of every rank: they go to rank 0, which alone has files, and
//! from it to the ranks of a run that goes on, a slice at a time.

use std::mem;
use std::ops::Range;
use std::path::Path;

use super::saves::moments;
use super::{MAX_SKIPPED, Trainer};
use crate::checkpoint::{self, OUTER_MOMENTUM, RankFile, TensorFile, TrainState};
use crate::clock::Stopwatch;
use crate::dist::{Flat, Outer, Part, World};
use crate::engine::{Engine, MOMENTS, Tensor};
use crate::error::{Error, Result};
use crate::model;

/// Numbers that rank 0 sends at a time, at most: 4 MiB.
const PIECE: usize = 1 << 20;

/// What a rank of local training has besides its engine.
pub(super) struct Apart {
    outer: Outer,
    /// The most updates in a row that this rank has skipped since the last sync.
    pub most_skipped: u32,
}

/// What goes between rank 0 and the ranks that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// The rank whose moment it is, and which moment; `None`: the outer momentum.
    moment: Option<(usize, usize)>,
    /// The range of the vector of all trained parameters.
    range: Range<usize>,
}

impl Wanted {
    /// A part of a tensor in the file of a rank.
    fn of_tensor(flat: &Flat, rank: Option<usize>, name: &str, elements: Range<usize>) -> Wanted {
        let prefixes = if rank.is_some() { &MOMENTS[..] } else { &[OUTER_MOMENTUM] };
        let param = |prefix: &&str| name.strip_prefix(prefix)?.strip_prefix('.');
        let known = prefixes.iter().enumerate().find_map(|(i, prefix)| Some((i, param(prefix)?)));
        let (i, param) = known.expect("a tensor of the file");
        let first = flat.start_of(param).expect("a trained parameter");
        let range = first + elements.start..first + elements.end;
        Wanted { moment: rank.map(|rank| (rank, i)), range }
    }

    fn words(&self) -> Vec<u64> {
        let moment = self.moment.iter().flat_map(|(rank, i)| [*rank, *i]);
        let all = [self.range.start, self.range.end].into_iter().chain(moment);
        all.map(|word| word as u64).collect()
    }

    /// Reads [`Wanted::words`]; `None` if nothing is wanted.
    fn of_words(words: &[u64]) -> Option<Wanted> {
        let words: Vec<usize> = words.iter().map(|word| *word as usize).collect();
        let moment = match words[..] {
            [_, _] => None,
            [_, _, rank, i] => Some((rank, i)),
            _ => return None,
        };
        Some(Wanted { moment, range: words[0]..words[1] })
    }

    /// The part that each rank has, given its share of the vector. The parts are in the order of the ranks.
    fn parts(&self, shares: &[Range<usize>]) -> Vec<Range<usize>> {
        let Range { start, end } = self.range;
        let part = |(rank, share): (usize, &Range<usize>)| match self.moment {
            None => start.clamp(share.start, share.end)..end.clamp(share.start, share.end),
            Some((of, _)) if of == rank => start..end,
            Some(_) => start..start,
        };
        shares.iter().enumerate().map(part).collect()
    }
}

impl Apart {
    /// Rank 0 asks the ranks for a tensor's elements from `start` on; they [answer](Apart::answer).
    fn ask(
        &mut self,
        world: &mut dyn World,
        (rank, name): (Option<usize>, &str),
        start: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let elements = start..start + out.len();
        let wanted = Wanted::of_tensor(self.outer.flat(), rank, name, elements);
        world.gather(&wanted.words())?;
        let parts = wanted.parts(self.outer.shares());
        let own = match wanted.moment {
            None => self.outer.momentum(parts[0].clone()).to_vec(),
            Some(_) => vec![],
        };
        let lens: Vec<usize> = parts.iter().map(Range::len).collect();
        let mut sent = vec![vec![]; world.size()];
        sent[0] = own;
        out.copy_from_slice(&world.exchange(&sent, &lens)?.concat());
        Ok(())
    }

    /// Sends rank 0 the part of what it wants that this rank has.
    fn answer(
        &mut self,
        wanted: &Wanted,
        engine: &mut Engine,
        world: &mut dyn World,
    ) -> Result<()> {
        let own = wanted.parts(self.outer.shares()).swap_remove(world.rank());
        let mut numbers = vec![0.0; own.len()];
        match wanted.moment {
            None => numbers.copy_from_slice(self.outer.momentum(own)),
            Some((_, i)) => {
                self.outer.flat().read(engine, Tensor::Moment(i), own.start, &mut numbers)?;
            }
        }
        let mut sent = vec![vec![]; world.size()];
        sent[0] = numbers;
        world.exchange(&sent, &vec![0; world.size()])?;
        Ok(())
    }

    /// Gives the ranks their parts of what a file has, which rank 0 alone reads.
    fn hand_out(
        &mut self,
        wanted: &Wanted,
        file: Option<&TensorFile>,
        engine: &mut Engine,
        world: &mut dyn World,
    ) -> Result<()> {
        let mut parts = wanted.parts(self.outer.shares());
        let mut sent = vec![vec![]; world.size()];
        if let Some(file) = file {
            let prefix = wanted.moment.map_or(OUTER_MOMENTUM, |(_, i)| MOMENTS[i]);
            for (sent, part) in sent.iter_mut().zip(&parts) {
                *sent = read(file, prefix, self.outer.flat(), part.clone())?;
            }
        }
        let own = parts.swap_remove(world.rank());
        let mut lens = vec![0; world.size()];
        lens[0] = own.len();
        let got = world.exchange(&sent, &lens)?.swap_remove(0);
        match wanted.moment {
            None => self.outer.momentum(own).copy_from_slice(&got),
            Some((_, i)) => self.outer.flat().write(engine, Tensor::Moment(i), own.start, &got),
        }
        Ok(())
    }
}

/// Reads a range of the vector of all trained parameters from a file that has a tensor for each of them.
fn read(file: &TensorFile, prefix: &str, flat: &Flat, range: Range<usize>) -> Result<Vec<f32>> {
    let mut numbers = vec![0.0; range.len()];
    for Part { param, start, place } in flat.parts(range) {
        file.read(&format!("{prefix}.{}", param.name), start, &mut numbers[place])?;
    }
    Ok(numbers)
}

/// All that a file has of the vector of `len` trained parameters, in pieces.
fn pieces(file: &RankFile, len: usize) -> Vec<Wanted> {
    let moments = match file.rank {
        None => vec![None],
        Some(rank) => (0..MOMENTS.len()).map(|i| Some((rank, i))).collect(),
    };
    let of = |moment| {
        let range = move |start: usize| start..len.min(start + PIECE);
        (0..len).step_by(PIECE).map(move |start| Wanted { moment, range: range(start) })
    };
    moments.into_iter().flat_map(of).collect()
}

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
        let (engine, world) = (&mut self.engine, &mut *self.world);
        let mut apart = Apart { outer: Outer::new(engine, world, local)?, most_skipped: 0 };
        // At the start there is nothing to hand out.
        for (i, of) in rank_files.iter().enumerate().filter(|_| self.state.step > 0) {
            for wanted in pieces(of, apart.outer.flat().len()) {
                apart.hand_out(&wanted, files.get(i), engine, world)?;
            }
        }
        self.apart = Some(apart);
        Ok(())
    }

    /// Takes the outer step with all other ranks, unless one of them has skipped too many updates.
    pub(super) fn sync(&mut self) -> Result<()> {
        let Some(apart) = &mut self.apart else { return Ok(()) };
        let clock = Stopwatch::start();
        let skipped = mem::take(&mut apart.most_skipped);
        let all = self.world.gather(&[u64::from(skipped)])?;
        if let Some(rank) = all.iter().position(|words| words[0] >= u64::from(MAX_SKIPPED)) {
            return Err(self.diverged(&format!(
                "the loss or gradient was not finite on rank {rank} in {} updates in a row, seen at the sync after step {}",
                all[rank][0], self.state.step
            )));
        }
        apart.outer.step(&mut self.engine, &mut *self.world)?;
        self.spend(clock.seconds());
        Ok(())
    }

    /// Gathers the counters of all devices into the state that is saved.
    pub(super) fn gather_words(&mut self) -> Result<()> {
        if self.apart.is_none() {
            return Ok(());
        }
        let own: Vec<u64> = self.state.device_words.iter().copied().map(u64::from).collect();
        let all = self.world.gather(&own)?;
        let words = |words: &Vec<u64>| words.iter().map(|word| *word as u32).collect();
        self.state.words_of_others = all[1..].iter().map(words).collect();
        Ok(())
    }

    /// Writes the files of a checkpoint that local training needs, on rank 0; the other ranks [help](Trainer::help_to_save).
    pub(super) fn write_ranks(
        apart: &mut Option<Apart>,
        world: &mut dyn World,
        files: &[RankFile],
        dir: &Path,
    ) -> Result<()> {
        let Some(apart) = apart else { return Ok(()) };
        let fill = &mut |rank, name: &str, start, out: &mut [f32]| {
            apart.ask(world, (rank, name), start, out)
        };
        checkpoint::write_rank_files(dir, files, fill)
    }

    /// Answers rank 0, which saves, until it wants nothing more.
    pub(super) fn help_to_save(&mut self) -> Result<()> {
        let Some(apart) = &mut self.apart else { return Ok(()) };
        while let Some(wanted) = Wanted::of_words(&self.world.gather(&[])?[0]) {
            apart.answer(&wanted, &mut self.engine, &mut *self.world)?;
        }
        self.saved = true;
        Ok(())
    }
}
