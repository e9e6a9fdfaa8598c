//! What a rank of local training has, how rank 0 gets it to save it, and how it hands it out when a run goes on.

use std::ops::Range;

use crate::checkpoint::{OUTER_MOMENTUM, RankFile, TensorFile};
use crate::dist::{Flat, Group, Link, Outer, Part};
use crate::engine::{Engine, MOMENTS, Tensor};
use crate::error::Result;

/// Numbers that rank 0 hands out at a time, at most: 4 MiB.
const PIECE: usize = 1 << 20;

/// What a rank of local training has besides its engine.
pub(super) struct Apart {
    pub outer: Outer,
    /// The most updates in a row that this rank has skipped since the last sync.
    pub most_skipped: u32,
}

/// What goes from the ranks that have it to rank 0, or back.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The rank whose moment it is, and which moment; `None`: the outer momentum.
    moment: Option<(usize, usize)>,
    /// The range of the vector of all trained parameters.
    range: Range<usize>,
}

impl Wanted {
    /// All that a file has of the vector of `len` trained parameters, in pieces.
    fn all_of(file: &RankFile, len: usize) -> Vec<Wanted> {
        let moments = match file.rank {
            None => vec![None],
            Some(rank) => (0..MOMENTS.len()).map(|i| Some((rank, i))).collect(),
        };
        let range = |start: usize| start..len.min(start + PIECE);
        let of = |moment| {
            let starts = (0..len).step_by(PIECE);
            starts.map(move |start| Wanted { moment, range: range(start) })
        };
        moments.into_iter().flat_map(of).collect()
    }

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
    pub fn of_words(words: &[u64]) -> Option<Wanted> {
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
    pub fn ask(
        &mut self,
        link: &Link,
        (rank, name): (Option<usize>, &str),
        start: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let elements = start..start + out.len();
        let wanted = Wanted::of_tensor(self.outer.flat(), rank, name, elements);
        let words = wanted.words();
        link.call(move |world| world.gather(&words))?;
        let parts = wanted.parts(self.outer.shares());
        let own = match wanted.moment {
            None => self.outer.momentum(parts[0].clone()).to_vec(),
            Some(_) => vec![],
        };
        let lens: Vec<usize> = parts.iter().map(Range::len).collect();
        out.copy_from_slice(&to_first(own, lens, link)?);
        Ok(())
    }

    /// Sends rank 0 the part of what it wants that this rank has.
    pub fn answer(&mut self, wanted: &Wanted, engine: &mut Engine, link: &Link) -> Result<()> {
        let own = wanted.parts(self.outer.shares()).swap_remove(link.grid().rank);
        let mut numbers = vec![0.0; own.len()];
        match wanted.moment {
            None => numbers.copy_from_slice(self.outer.momentum(own)),
            Some((_, i)) => {
                self.outer.flat().read(engine, Tensor::Moment(i), own.start, &mut numbers)?;
            }
        }
        to_first(numbers, vec![0; link.grid().size], link).map(drop)
    }

    /// Gives the ranks what a file of a checkpoint has of them; rank 0 alone has it open.
    pub fn hand_out(
        &mut self,
        about: &RankFile,
        file: Option<&TensorFile>,
        engine: &mut Engine,
        link: &Link,
    ) -> Result<()> {
        let all = Wanted::all_of(about, self.outer.flat().len());
        all.iter().try_for_each(|wanted| self.hand_out_part(wanted, file, engine, link))
    }

    fn hand_out_part(
        &mut self,
        wanted: &Wanted,
        file: Option<&TensorFile>,
        engine: &mut Engine,
        link: &Link,
    ) -> Result<()> {
        let mut parts = wanted.parts(self.outer.shares());
        let mut sent = vec![vec![]; link.grid().size];
        if let Some(file) = file {
            let prefix = wanted.moment.map_or(OUTER_MOMENTUM, |(_, i)| MOMENTS[i]);
            for (sent, part) in sent.iter_mut().zip(&parts) {
                *sent = read(file, prefix, self.outer.flat(), part.clone())?;
            }
        }
        let own = parts.swap_remove(link.grid().rank);
        let mut lens = vec![0; link.grid().size];
        lens[0] = own.len();
        let got = each_to_each(sent, lens, link)?.swap_remove(0);
        match wanted.moment {
            None => self.outer.momentum(own).copy_from_slice(&got),
            Some((_, i)) => self.outer.flat().write(engine, Tensor::Moment(i), own.start, &got),
        }
        Ok(())
    }
}

/// Sends numbers to rank 0; returns there what all ranks have sent, in their order, of which the lengths are known.
fn to_first(numbers: Vec<f32>, lens: Vec<usize>, link: &Link) -> Result<Vec<f32>> {
    let mut sent = vec![vec![]; link.grid().size];
    sent[0] = numbers;
    Ok(each_to_each(sent, lens, link)?.concat())
}

/// Sends each rank its part, and returns what each of them sends to this one, which is `lens` long.
fn each_to_each(sent: Vec<Vec<f32>>, lens: Vec<usize>, link: &Link) -> Result<Vec<Vec<f32>>> {
    let all = Group::with_same_parameters(link.grid());
    link.call(move |world| all.each_to_each(world, sent, &lens))
}

/// Reads a range of the vector of all trained parameters from a file that has a tensor for each of them.
fn read(file: &TensorFile, prefix: &str, flat: &Flat, range: Range<usize>) -> Result<Vec<f32>> {
    let mut numbers = vec![0.0; range.len()];
    for Part { param, start, place } in flat.parts(range) {
        file.read(&format!("{prefix}.{}", param.name), start, &mut numbers[place])?;
    }
    Ok(numbers)
}
