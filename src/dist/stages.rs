//! Generation and evaluation of a model whose layers lie on several ranks: rank 0, which has the first layers, says what is
//! fed or scored, the streams go from stage to stage, and what the last stage draws or measures comes back to rank 0.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::link::Link;
use super::neighbours::Neighbours;
use super::world::World;
use crate::engine::{Drawn, DrawnTokens, Engine};
use crate::error::Result;
use crate::kernel::{Draw, Feed};
use crate::model::Program;
use crate::runner::Runner;

/// How many batches go through the stages in a row, for each stage: all stages but one are idle while the first of them comes
/// in and the last one goes out.
const IN_A_ROW: usize = 8;

/// What all stages do next.
#[derive(Serialize, Deserialize)]
enum Command {
    /// A sequence begins in a slot, in which these tokens were seen.
    Begin(usize, Vec<u32>),
    /// Tokens of some slots go through the stages.
    Feed(Vec<Fed>),
    /// Batches with these targets (B,T) go through the stages, one after the other.
    Score(Vec<Vec<u32>>),
    /// There is no more to do.
    End,
}

/// A [`Feed`], as it is sent.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Fed {
    slot: usize,
    position: usize,
    count: usize,
    draw: Option<HowToDraw>,
}

/// A [`Draw`], with the bits of its numbers.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct HowToDraw {
    seed: [u32; 2],
    top_k: u32,
    /// Temperature, top-p, min-p, repetition penalty.
    bits: [u64; 4],
}

impl From<&Feed> for Fed {
    fn from(&Feed { slot, position, count, draw }: &Feed) -> Fed {
        Fed { slot, position, count, draw: draw.map(HowToDraw::of) }
    }
}

impl From<&Fed> for Feed {
    fn from(&Fed { slot, position, count, draw }: &Fed) -> Feed {
        Feed { slot, position, count, draw: draw.map(HowToDraw::draw) }
    }
}

impl HowToDraw {
    fn of(draw: Draw) -> HowToDraw {
        let Draw { seed, top_k, temperature, top_p, min_p, repetition_penalty } = draw;
        let bits = [temperature, top_p, min_p, repetition_penalty].map(f64::to_bits);
        HowToDraw { seed, top_k, bits }
    }

    fn draw(self) -> Draw {
        let HowToDraw { seed, top_k, bits } = self;
        let [temperature, top_p, min_p, repetition_penalty] = bits.map(f64::from_bits);
        Draw { seed, top_k, temperature, top_p, min_p, repetition_penalty }
    }
}

/// The stages of a pipeline, as one of its ranks sees them: rank 0 uses them as a [`Runner`] and then calls [`Stages::end`],
/// the others call [`Stages::follow`] meanwhile.
///
/// Where there are several pipelines beside each other, all do the same, and the first one's results count.
pub struct Stages<'a> {
    engine: &'a mut Engine,
    link: &'a Link,
    /// The slots that drew in the last replay, with what they drew.
    drawn: Vec<(usize, DrawnTokens)>,
    /// Batches, tokens and targets, that wait until enough of them can go through the stages in a row.
    waiting: Vec<[Vec<u32>; 2]>,
    /// The losses of the batches before them that were not taken yet.
    losses: VecDeque<Vec<f32>>,
}

impl<'a> Stages<'a> {
    /// This rank's stage on an engine, and its link to the other ranks.
    pub fn new(engine: &'a mut Engine, link: &'a Link) -> Stages<'a> {
        Stages { engine, link, drawn: vec![], waiting: vec![], losses: VecDeque::new() }
    }

    /// Tells the other ranks that there is no more to do.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn end(self) -> Result<()> {
        self.tell(&Command::End)
    }

    /// Does what rank 0 says, until it calls [`Stages::end`].
    ///
    /// # Errors
    ///
    /// If a device is lost, or a rank is gone.
    pub fn follow(mut self) -> Result<()> {
        loop {
            let bytes = self.link.call(|world| {
                let mut bytes = vec![];
                world.broadcast(&mut bytes).map(|()| bytes)
            })?;
            match serde_json::from_slice(&bytes).expect("a command of rank 0") {
                Command::Begin(slot, seen) => self.engine.begin(slot, &seen)?,
                Command::Feed(feeds) => {
                    self.pass(&feeds.iter().map(Feed::from).collect::<Vec<_>>()).map(drop)?;
                }
                Command::Score(targets) => self.score(&[], &targets).map(drop)?,
                Command::End => return Ok(()),
            }
        }
    }

    fn tell(&self, command: &Command) -> Result<()> {
        let mut bytes = serde_json::to_vec(command).expect("a command is JSON");
        self.link.call(move |world| world.broadcast(&mut bytes))
    }

    /// Sends tokens through the stages. Returns the slots that draw, with what they draw.
    fn pass(&mut self, feeds: &[Feed]) -> Result<Vec<(usize, DrawnTokens)>> {
        let grid = self.link.grid();
        let mut neighbours = Neighbours::new(self.link, self.engine);
        neighbours.extend(self.engine, feeds)?;
        neighbours.finish()?;
        let drawn = |Feed { slot, position, count, .. }: &Feed| Drawn {
            slot: *slot,
            start: position + count,
            count: 1,
        };
        let draw = feeds.iter().filter(|feed| feed.draw.is_some()).map(drawn);
        let draw: Vec<Drawn> = draw.collect();
        if draw.is_empty() {
            return Ok(vec![]);
        }
        let mut own = vec![];
        if grid.stage().is_last() {
            self.engine.sample();
            let ticket = self.engine.request_drawn(&draw);
            let words = |drawn: DrawnTokens| [u64::from(drawn.ids[0]), u64::from(drawn.finite)];
            own.extend(self.engine.take_drawn(ticket)?.into_iter().flat_map(words));
        }
        let all = self.link.call(move |world| world.gather(&own))?;
        let last = &all[grid.size - grid.replicas()];
        let token =
            |words: &[u64]| DrawnTokens { ids: vec![words[0] as u32], finite: words[1] == 1 };
        let slots = draw.into_iter().map(|drawn| drawn.slot);
        Ok(slots.zip(last.chunks_exact(2).map(token)).collect())
    }

    /// Sends batches through the stages: tokens, which the first one has, and targets. Returns the losses (B,T) of each on
    /// rank 0.
    fn score(&mut self, tokens: &[Vec<u32>], targets: &[Vec<u32>]) -> Result<VecDeque<Vec<f32>>> {
        let grid = self.link.grid();
        let (mut unread, mut losses) = (VecDeque::new(), vec![]);
        for (i, targets) in targets.iter().enumerate() {
            let mut neighbours = Neighbours::new(self.link, self.engine);
            let tokens = tokens.get(i).map_or(&[][..], |tokens| tokens);
            neighbours.forward_batch(self.engine, tokens)?;
            neighbours.finish()?;
            if !grid.stage().is_last() {
                continue;
            }
            unread.push_back(self.engine.request_losses(targets));
            while unread.len() > self.engine.reads_ahead()
                && let Some(ticket) = unread.pop_front()
            {
                losses.extend(self.engine.take_row_losses(ticket)?);
            }
        }
        for ticket in unread {
            losses.extend(self.engine.take_row_losses(ticket)?);
        }
        let rows = targets.first().map_or(1, Vec::len);
        let (last, len) = (grid.size - grid.replicas(), targets.len() * rows);
        let all = self.link.call(move |world| to_first(world, last, losses, len))?;
        Ok(all.chunks_exact(rows).map(<[f32]>::to_vec).collect())
    }
}

/// Brings `len` numbers from a rank to rank 0, which gets them.
fn to_first(
    world: &mut dyn World,
    from: usize,
    mut numbers: Vec<f32>,
    len: usize,
) -> Result<Vec<f32>> {
    match world.rank() {
        rank if from == 0 || ![0, from].contains(&rank) => {}
        0 => {
            numbers.resize(len, 0.0);
            world.exchange(&[], &mut [(from, &mut numbers)])?;
        }
        _ => world.exchange(&[(0, &numbers)], &mut [])?,
    }
    Ok(numbers)
}

/// On rank 0.
impl Runner for Stages<'_> {
    /// The slots.
    type Drawn = Vec<usize>;
    /// The losses are taken in the order of the requests.
    type Losses = ();

    fn program(&self) -> &Program {
        self.engine.program()
    }

    /// The first stage must know a token that the last one has drawn.
    fn draws_ahead(&self) -> usize {
        0
    }

    fn batches_ahead(&self) -> usize {
        IN_A_ROW * self.link.grid().stages - 1
    }

    fn begin(&mut self, slot: usize, seen: &[u32]) -> Result<()> {
        self.tell(&Command::Begin(slot, seen.to_vec()))?;
        self.engine.begin(slot, seen)
    }

    fn write_sequence(&mut self, slot: usize, position: usize, ids: &[u32]) {
        self.engine.write_sequence(slot, position, ids);
    }

    fn feed(&mut self, feeds: &[Feed]) -> Result<()> {
        self.tell(&Command::Feed(feeds.iter().map(Fed::from).collect()))?;
        self.drawn = self.pass(feeds)?;
        for feed in feeds {
            let position = feed.position + feed.count;
            let drawn = self.drawn.iter().find(|(slot, _)| *slot == feed.slot);
            // After the last position the window moves, and all its tokens are written again.
            if let Some((slot, drawn)) = drawn
                && position < self.engine.program().context()
            {
                self.engine.write_sequence(*slot, position, &drawn.ids);
            }
        }
        Ok(())
    }

    /// # Panics
    ///
    /// By `take_drawn`, unless each slot's only token is that of the last replay.
    fn request_drawn(&mut self, drawn: &[Drawn]) -> Vec<usize> {
        drawn.iter().map(|drawn| drawn.slot).collect()
    }

    fn take_drawn(&mut self, slots: Vec<usize>) -> Result<Vec<DrawnTokens>> {
        let of = |slot| {
            let drawn = self.drawn.iter().find(|(of, _)| *of == slot);
            drawn.expect("the slot drew in the last replay").1.clone()
        };
        Ok(slots.into_iter().map(of).collect())
    }

    fn request_row_losses(&mut self, tokens: &[u32], targets: &[u32]) {
        self.waiting.push([tokens.to_vec(), targets.to_vec()]);
    }

    fn take_row_losses(&mut self, (): ()) -> Result<Vec<f32>> {
        if self.losses.is_empty() {
            let (tokens, targets): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.waiting).into_iter().map(|[x, y]| (x, y)).unzip();
            let command = Command::Score(targets);
            self.tell(&command)?;
            let Command::Score(targets) = command else { unreachable!("it was just made") };
            self.losses = self.score(&tokens, &targets)?;
        }
        Ok(self.losses.pop_front().expect("a batch was requested"))
    }
}
