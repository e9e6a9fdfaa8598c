//! The scheduler: it decides which rows each replay of the model processes.
//!
//! Every task has a slot of its own while it runs, and joins and leaves between any two replays. A replay has, in this
//! order: the next token of each sequence that has been read to its end, then a share of the rows for each prompt that is
//! still being read. So no prompt delays the others by more than one replay, and a short prompt does not wait for a long
//! one. The bits of a row do not depend on the rows beside it, and a token is drawn from its own seed: a task's text is
//! the same whatever else runs.
//!
//! A slot keeps its sequence when its task has ended (`slots.rs`), so that a prompt that begins alike need not be read
//! again.

mod slots;
mod task;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::{Drawn, DrawnTokens, Engine};
use crate::error::{Error, Result};
use crate::kernel::Feed;
use crate::model::{EXTENDS, replay_rows};
use crate::scored::Scored;
use crate::serve::metrics::Metrics;
use rayon::prelude::*;
use slots::{Before, Running, Slots};

pub use task::{Finish, Listener, News, Task};

/// The most sequences at once: each has at least one row of the longest replay.
pub const MOST_SLOTS: usize = EXTENDS[0] as usize;

/// Runs tasks on an engine, as many at once as it has slots.
pub struct Scheduler<'a> {
    engine: &'a mut Engine,
    slots: Slots,
    /// The number of replays so far; prompts take turns by it.
    replays: usize,
    metrics: &'a Metrics,
}

impl<'a> Scheduler<'a> {
    /// Creates a scheduler for an engine that was recorded to serve.
    pub fn new(engine: &'a mut Engine, metrics: &'a Metrics) -> Scheduler<'a> {
        let slots = Slots::new(engine.slots());
        metrics.slots.set(engine.slots() as i64);
        Scheduler { engine, slots, replays: 0, metrics }
    }

    /// Whether a task could begin now.
    pub fn has_room(&self) -> bool {
        self.slots.free().next().is_some()
    }

    /// Whether a task is running.
    pub fn is_busy(&self) -> bool {
        self.slots.running().next().is_some()
    }

    /// Begins a task in a free slot. A task whose listener is gone is dropped, and one that cannot begin fails by itself.
    ///
    /// # Panics
    ///
    /// If no slot is free.
    pub fn begin(&mut self, mut task: Task) {
        if task.listener.is_gone() {
            return;
        }
        if task.options.max_tokens == 0 && (task.scores.is_none() || task.prompt.len() == 1) {
            task.listener.hear(News::Ends(Finish::Length));
            return;
        }
        let (slot, kept) = self.slots.choose(&task);
        let begun = catch_unwind(AssertUnwindSafe(|| {
            self.engine.begin_sequence_after(slot, kept, &task.prompt);
            self.engine.write_sequence(slot, 0, &task.prompt);
        }));
        match begun {
            Ok(()) => {
                self.metrics.prompt_tokens.inc_by(task.prompt.len() as u64);
                self.metrics.reused_tokens.inc_by(kept as u64);
                self.slots.begin(slot, kept, task);
                // Now, since the next task may take the slot that has it.
                self.copy_beginning(slot);
            }
            Err(_) => {
                self.slots.forget(slot);
                task.listener.hear(News::Fails(failed()));
            }
        }
        self.metrics.running.set(self.slots.running().count() as i64);
    }

    /// Makes one replay: each sequence that runs gets a token, or a part of its prompt is read. If it panics, all tasks that
    /// run fail, and those that begin later do not notice.
    ///
    /// # Errors
    ///
    /// If the device is lost; all tasks have then failed.
    pub fn step(&mut self) -> Result<()> {
        self.leave_the_gone();
        if self.is_busy() {
            match catch_unwind(AssertUnwindSafe(|| self.replay())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.fail_all(&error);
                    return Err(error);
                }
                Err(_) => self.fail_all(&failed()),
            }
        }
        self.metrics.running.set(self.slots.running().count() as i64);
        Ok(())
    }

    /// Frees the slots of tasks to which nobody listens any more.
    fn leave_the_gone(&mut self) {
        let is_gone = |running: &Running| running.task.listener.is_gone();
        let gone: Vec<usize> =
            self.slots.running().filter(|(_, running)| is_gone(running)).map(|(i, _)| i).collect();
        for slot in gone {
            self.slots.end(slot);
        }
    }

    fn fail_all(&mut self, error: &Error) {
        let all: Vec<usize> = self.slots.running().map(|(slot, _)| slot).collect();
        for slot in all {
            if let Some(mut running) = self.slots.end(slot) {
                let error = News::Fails(error.clone());
                let _ = catch_unwind(AssertUnwindSafe(|| running.task.listener.hear(error)));
            }
            self.slots.forget(slot);
        }
    }

    fn replay(&mut self) -> Result<()> {
        self.copy_beginnings();
        let feeds = self.feeds();
        self.replays += 1;
        self.engine.extend(&feeds);
        let draws: Vec<Feed> = feeds.iter().filter(|feed| feed.draw.is_some()).copied().collect();
        if !draws.is_empty() {
            self.engine.sample();
        }
        self.score_prompts(&feeds)?;
        self.read_draws(&draws)
    }

    /// Copies what other slots have of the prompts that are being read.
    fn copy_beginnings(&mut self) {
        self.slots.reading().into_iter().for_each(|slot| self.copy_beginning(slot));
    }

    /// Copies what another slot has of the prompt of a slot, if that is worth it.
    fn copy_beginning(&mut self, slot: usize) {
        if let Before::Copy { from, count } = self.slots.before(slot) {
            self.engine.copy_sequence(from, slot, count);
            let read = self.slots.read_up_to(slot, count);
            self.metrics.reused_tokens.inc_by(read as u64);
        }
    }

    /// Chooses the rows of the next replay.
    fn feeds(&mut self) -> Vec<Feed> {
        let mut decoding = vec![];
        let mut prompts = vec![];
        for (slot, running) in self.slots.running() {
            match running.left(self.slots.fed(slot)) {
                1 => decoding.push(slot),
                _ if self.slots.before(slot) == Before::Wait => {}
                left => prompts.push((slot, left)),
            }
        }
        let pending = decoding.len() + prompts.iter().map(|(_, left)| left).sum::<usize>();
        let mut room = replay_rows(pending);
        // Sequences that decode must leave room for a prompt.
        if !prompts.is_empty() && decoding.len() >= room {
            room = replay_rows(usize::MAX);
        }
        // A few more than a small replay has rows for take less time in two of them: those go first that have waited longest.
        decoding.sort_by_key(|slot| self.slots.last_fed(*slot));
        decoding.truncate(room);
        let mut shares: Vec<(usize, usize)> = decoding.into_iter().map(|slot| (slot, 1)).collect();
        room -= shares.len();
        if !prompts.is_empty() {
            let turn = self.replays % prompts.len();
            prompts.rotate_left(turn);
            shares.extend(share(room, &prompts));
        }
        shares.into_iter().map(|(slot, count)| self.slots.feed(slot, count)).collect()
    }

    /// Computes the log-probabilities of the prompts' tokens in a replay, where a task wants them.
    fn score_prompts(&mut self, feeds: &[Feed]) -> Result<()> {
        let mut first = 0;
        let mut scored = vec![];
        for feed in feeds {
            let rows = first..first + feed.count;
            first = rows.end;
            if let Some((ids, top)) = self.slots.to_score(feed) {
                scored.push((feed.slot, rows, ids, top));
            }
        }
        let (Some(start), Some(end)) = (
            scored.iter().map(|(_, rows, ..)| rows.start).min(),
            scored.iter().map(|(_, rows, ..)| rows.end).max(),
        ) else {
            return Ok(());
        };
        let logits = self.engine.row_logits(start..end)?;
        for (slot, rows, ids, top) in scored {
            let logits = &logits[rows.start - start..][..ids.len()];
            if !logits.iter().flatten().all(|x| x.is_finite()) {
                self.leave(slot, News::Fails(not_finite()));
                continue;
            }
            let pairs = logits.par_iter().zip(ids.par_iter());
            let scores = pairs.map(|(logits, id)| Scored::of(logits, *id, top)).collect();
            if self.slots.add_scores(slot, scores) {
                self.tell(slot, |running| {
                    let scores = std::mem::take(&mut running.scores);
                    running.task.listener.hear(News::Prompt(scores));
                });
                if self.slots.wants_no_tokens(slot) {
                    self.leave(slot, News::Ends(Finish::Length));
                }
            }
        }
        Ok(())
    }

    /// Reads the tokens that were drawn, and tells the listeners.
    fn read_draws(&mut self, draws: &[Feed]) -> Result<()> {
        let drawn =
            |feed: &Feed| Drawn { slot: feed.slot, start: feed.position + feed.count, count: 1 };
        // A prompt whose scores could not be computed has left.
        let draws: Vec<&Feed> =
            draws.iter().filter(|feed| self.slots.is_running(feed.slot)).collect();
        if draws.is_empty() {
            return Ok(());
        }
        let ticket = self.engine.request_drawn(&draws.iter().map(|f| drawn(f)).collect::<Vec<_>>());
        let tokens = self.engine.take_drawn(ticket)?;
        for (feed, DrawnTokens { ids, finite }) in draws.into_iter().zip(tokens) {
            if !finite {
                self.leave(feed.slot, News::Fails(not_finite()));
                continue;
            }
            let (slot, id) = (feed.slot, ids[0]);
            let scored = match self.slots.scores(slot) {
                Some(top) => Some(Scored::of(&self.engine.read_logits(slot)?, id, top)),
                None => None,
            };
            self.metrics.generated_tokens.inc();
            let context = self.engine.program().context();
            let end = self.slots.draw(slot, id, context);
            self.tell(slot, |running| running.task.listener.hear(News::Token(id, scored)));
            if let Some(finish) = end {
                self.leave(slot, News::Ends(finish));
            }
        }
        Ok(())
    }

    /// Does something with a running task. If that panics, the task alone fails.
    fn tell(&mut self, slot: usize, tell: impl FnOnce(&mut Running)) {
        let Some(running) = self.slots.running_mut(slot) else { return };
        if catch_unwind(AssertUnwindSafe(|| tell(running))).is_err() {
            self.leave(slot, News::Fails(failed()));
        }
    }

    /// Ends a task with its last news.
    fn leave(&mut self, slot: usize, last: News) {
        if let Some(mut running) = self.slots.end(slot) {
            // There is nobody left to tell that telling it has failed.
            let _ = catch_unwind(AssertUnwindSafe(|| running.task.listener.hear(last)));
        }
    }
}

/// Shares `room` rows among prompts with so many tokens left, each in turn: `(slot, rows)` of those that get any.
fn share(mut room: usize, prompts: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut shares: Vec<(usize, usize)> = prompts.iter().map(|(slot, _)| (*slot, 0)).collect();
    while room > 0 {
        let hungry = |i: &usize| shares[*i].1 < prompts[*i].1;
        let hungry: Vec<usize> = (0..prompts.len()).filter(hungry).collect();
        if hungry.is_empty() {
            break;
        }
        let each = (room / hungry.len()).max(1);
        for i in hungry.into_iter().take(room) {
            let rows = each.min(prompts[i].1 - shares[i].1).min(room);
            shares[i].1 += rows;
            room -= rows;
        }
    }
    shares.retain(|(_, rows)| *rows > 0);
    shares
}

/// The error of a task that a fault in this program has ended.
fn failed() -> Error {
    Error::device("the server failed while it worked on this request")
        .hint("its log has the reason: please report it")
}

fn not_finite() -> Error {
    Error::input("the model's logits are not finite, so that no token can be drawn from them")
        .hint("its training diverged: serve an earlier checkpoint, or the best/ of its run")
}

#[cfg(test)]
mod tests;
