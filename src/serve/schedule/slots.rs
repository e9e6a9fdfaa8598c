//! The slots: what each holds, and what a new prompt can take from them.
//!
//! A slot holds the keys and values of the first tokens of a sequence. It keeps them when its task has ended, until
//! another task takes the slot: the one that has been free for the longest time. A prompt that begins like the sequence of
//! some slot takes the common part over: in place if all of that slot is part of the prompt, otherwise by a copy. If an earlier
//! prompt that is still being read has more in common with it, it waits for that one.

use super::task::{Finish, Task};
use crate::kernel::Feed;
use crate::scored::Scored;

/// The least number of tokens that are worth a copy.
const LEAST_COPIED: usize = 8;

/// A task in a slot.
pub struct Running {
    pub task: Task,
    /// The number of new tokens.
    new: usize,
    /// The log-probabilities of the prompt's tokens so far, from the second one on.
    pub scores: Vec<Scored>,
}

impl Running {
    /// Returns the tokens that must be in the cache before the task can go on, or end; `ids` are those of its sequence.
    fn target(&self, ids: &[u32]) -> usize {
        // What comes after the prompt's last token is not wanted if no token is.
        ids.len() - usize::from(self.task.options.max_tokens == 0)
    }

    /// Returns the number of tokens that are still to be fed, of which `fed` have been.
    pub fn left(&self, fed: usize) -> usize {
        self.task.prompt.len() + self.new - usize::from(self.task.options.max_tokens == 0) - fed
    }
}

/// A slot.
#[derive(Default)]
struct Slot {
    /// The tokens of its sequence.
    ids: Vec<u32>,
    /// How many of them have their keys and values here.
    fed: usize,
    /// When its task began or ended, in turns.
    since: u64,
    /// When it was last fed, in turns.
    last_fed: u64,
    running: Option<Running>,
}

impl Slot {
    /// Returns how many tokens of a prompt it holds.
    fn common(&self, prompt: &[u32]) -> usize {
        common(&self.ids[..self.fed], prompt)
    }

    /// Returns the number of tokens of its sequence that it needs, without the last one, whose row gives the logits.
    fn needed(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.target(&self.ids).saturating_sub(1))
    }
}

/// Returns how many tokens two sequences begin with in common.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// What comes before the next tokens of a prompt are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// The first `count` positions of slot `from` are copied.
    Copy { from: usize, count: usize },
    /// Another prompt is read, of which more can be copied.
    Wait,
}

/// All slots.
pub struct Slots {
    all: Vec<Slot>,
    turn: u64,
}

impl Slots {
    pub fn new(count: usize) -> Slots {
        Slots { all: (0..count).map(|_| Slot::default()).collect(), turn: 0 }
    }

    /// Returns the free slots.
    pub fn free(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.all.len()).filter(|slot| self.all[*slot].running.is_none())
    }

    /// Returns the slots with a task.
    pub fn running(&self) -> impl Iterator<Item = (usize, &Running)> + '_ {
        self.all.iter().enumerate().filter_map(|(i, slot)| Some((i, slot.running.as_ref()?)))
    }

    pub fn running_mut(&mut self, slot: usize) -> Option<&mut Running> {
        self.all[slot].running.as_mut()
    }

    pub fn is_running(&self, slot: usize) -> bool {
        self.all[slot].running.is_some()
    }

    /// Returns the number of tokens that a slot holds.
    pub fn fed(&self, slot: usize) -> usize {
        self.all[slot].fed
    }

    /// Returns when a slot was last fed, in turns.
    pub fn last_fed(&self, slot: usize) -> u64 {
        self.all[slot].last_fed
    }

    /// Chooses the slot for a task, and how many of its positions the task keeps.
    ///
    /// # Panics
    ///
    /// If no slot is free.
    pub fn choose(&self, task: &Task) -> (usize, usize) {
        // The last token's row is always computed, for its logits; a prompt that is scored needs those of all rows.
        let most = if task.scores.is_some() { 0 } else { task.prompt.len() - 1 };
        let kept = |slot: &usize| self.all[*slot].common(&task.prompt).min(most);
        let is_whole = |slot: &usize| kept(slot) > 0 && kept(slot) == self.all[*slot].fed;
        let oldest = self.free().min_by_key(|slot| self.all[*slot].since);
        let slot = self.free().filter(is_whole).max_by_key(kept).or(oldest);
        let slot = slot.expect("a slot is free");
        (slot, kept(&slot))
    }

    /// Gives a slot to a task that keeps its first `kept` positions.
    pub fn begin(&mut self, slot: usize, kept: usize, task: Task) {
        self.turn += 1;
        let ids = task.prompt.clone();
        let running = Some(Running { task, new: 0, scores: vec![] });
        self.all[slot] = Slot { ids, fed: kept, since: self.turn, last_fed: self.turn, running };
    }

    /// Takes the task away from a slot, which keeps its sequence.
    pub fn end(&mut self, slot: usize) -> Option<Running> {
        self.turn += 1;
        self.all[slot].since = self.turn;
        self.all[slot].running.take()
    }

    /// Forgets what a slot holds.
    pub fn forget(&mut self, slot: usize) {
        self.all[slot].fed = 0;
    }

    /// Returns the slots that have more than one token to read, those that began first in front.
    pub fn reading(&self) -> Vec<usize> {
        let is_reading = |(slot, running): &(usize, &Running)| running.left(self.fed(*slot)) > 1;
        let mut all: Vec<usize> = self.running().filter(is_reading).map(|(slot, _)| slot).collect();
        all.sort_by_key(|slot| self.all[*slot].since);
        all
    }

    /// Returns what comes before a slot reads more of its prompt.
    pub fn before(&self, slot: usize) -> Before {
        let own = &self.all[slot];
        let Some(running) = &own.running else { return Before::Nothing };
        if running.task.scores.is_some() || own.fed >= own.needed() {
            return Before::Nothing;
        }
        let wanted = &own.ids[..own.needed()];
        let worth = |count: usize| count >= own.fed + LEAST_COPIED;
        let others = || (0..self.all.len()).filter(|other| *other != slot);
        let held = others().map(|other| (self.all[other].common(wanted), other)).max();
        let (count, from) = held.unwrap_or((0, slot));
        let is_earlier = |other: &usize| {
            let other = &self.all[*other];
            other.since < own.since && other.running.is_some() && other.fed < other.needed()
        };
        let to_come = |other: usize| {
            let other = &self.all[other];
            common(&other.ids[..other.needed()], wanted)
        };
        let later = others().filter(is_earlier).map(to_come).max().unwrap_or(0);
        match () {
            () if later > count && worth(later) => Before::Wait,
            () if worth(count) => Before::Copy { from, count },
            () => Before::Nothing,
        }
    }

    /// Notes that a slot holds its first `count` tokens; returns how many more that are.
    pub fn read_up_to(&mut self, slot: usize, count: usize) -> usize {
        let more = count - self.all[slot].fed;
        self.all[slot].fed = count;
        more
    }

    /// Feeds the next `count` tokens of a slot; after the last one the next is drawn, if the task wants it.
    pub fn feed(&mut self, slot: usize, count: usize) -> Feed {
        self.turn += 1;
        let own = &mut self.all[slot];
        own.last_fed = self.turn;
        let position = own.fed;
        own.fed += count;
        let running = own.running.as_ref().expect("a task feeds its slot");
        let draws = own.fed == own.ids.len();
        let draw = draws.then(|| running.task.options.draw(running.new));
        Feed { slot, position, count, draw }
    }

    /// Returns the tokens after the rows of a feed that are to be scored, and with how many alternatives; `None` if there are
    /// none. The first of them belongs to the feed's first row.
    pub fn to_score(&self, feed: &Feed) -> Option<(Vec<u32>, usize)> {
        let running = self.all[feed.slot].running.as_ref()?;
        let top = running.task.scores?;
        let prompt = &running.task.prompt;
        let start = feed.position + 1;
        let end = (start + feed.count).min(prompt.len());
        (start < end).then(|| (prompt[start..end].to_vec(), top))
    }

    /// Adds log-probabilities of a prompt's tokens; returns whether it now has all.
    pub fn add_scores(&mut self, slot: usize, scores: Vec<Scored>) -> bool {
        let Some(running) = &mut self.all[slot].running else { return false };
        running.scores.extend(scores);
        running.scores.len() + 1 == running.task.prompt.len()
    }

    /// Whether a task wants no new tokens.
    pub fn wants_no_tokens(&self, slot: usize) -> bool {
        let running = self.all[slot].running.as_ref();
        running.is_some_and(|running| running.task.options.max_tokens == 0)
    }

    /// Returns how many alternatives a task wants with each new token; `None`: no log-probabilities.
    pub fn scores(&self, slot: usize) -> Option<usize> {
        self.all[slot].running.as_ref()?.task.top
    }

    /// Adds a token that was drawn; returns the end of the text, if it is the last one.
    pub fn draw(&mut self, slot: usize, id: u32, context: usize) -> Option<Finish> {
        let Slot { ids, running, .. } = &mut self.all[slot];
        let running = running.as_mut()?;
        ids.push(id);
        running.new += 1;
        if running.task.ends.contains(&id) {
            return Some(Finish::Stop);
        }
        let is_full = ids.len() > context;
        (running.new == running.task.options.max_tokens || is_full).then_some(Finish::Length)
    }
}
