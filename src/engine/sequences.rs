//! Sequences on an engine, one per slot: prefill, extension, sampling.

use std::ops::Range;

use super::{Engine, Gradients};
use crate::backend::{MOST_REQUESTED, Out, Ticket};
use crate::error::Result;
use crate::kernel::rows::{NONE, slot};
use crate::kernel::{Draw, Feed, Step};
use crate::model::{EXTENDS, GenerationViews, ServingViews, replay_rows};
use crate::plan::{Phase, View};

/// The range of drawn tokens in a slot: `count` tokens of its sequence from position `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The slot.
    pub slot: usize,
    /// The position of the first token.
    pub start: usize,
    /// The number of tokens.
    pub count: usize,
}

/// Drawn tokens that were requested from an engine; only that engine can return them.
#[must_use = "what was requested is to be taken"]
#[derive(Debug)]
pub struct DrawnTicket {
    /// The number of tokens of each slot.
    counts: Vec<usize>,
    ids: Ticket,
    /// Logits, each view with the index of its slot in `counts` and its length.
    logits: Vec<(Ticket, Vec<(usize, usize)>)>,
}

/// The tokens that were drawn in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnTokens {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Whether all logits that the last token was drawn from are finite.
    pub finite: bool,
}

/// Returns the feeds of a prompt of `count` tokens to a slot, from position 0 on, each for a replay of its own; after the
/// last one a token is drawn.
pub fn prompt_feeds(slot: usize, count: usize, draw: Draw) -> Vec<Feed> {
    let mut feeds = vec![];
    let mut position = 0;
    while position < count {
        let left = count - position;
        let rows = left.min(replay_rows(left));
        let draw = (rows == left).then_some(draw);
        feeds.push(Feed { slot, position, count: rows, draw });
        position += rows;
    }
    feeds
}

impl Engine {
    pub(super) fn generation_views(&self) -> GenerationViews {
        self.program.generation.expect("the program was recorded for generation")
    }

    /// Returns the largest number of sequences at once; 0 if the program was not recorded for generation.
    pub fn slots(&self) -> usize {
        self.program.uses.generation.unwrap_or(0)
    }

    /// Returns one slot's part of a view that has a part per slot.
    fn of_slot(&self, view: View, slot: usize) -> View {
        assert!(slot < self.slots(), "slot {slot} of {}", self.slots());
        let len = view.len / self.slots();
        view.slice(slot * len, len)
    }

    /// Panics if gradients are still needed: the caches of keys and values lie in the same memory.
    fn check_gradients(&self) {
        assert!(
            self.gradients == Gradients::Free,
            "sequences are kept in the memory of the gradients, which an update is still to use: \
             call `Engine::update` between `train_batch` and generation"
        );
    }

    /// Starts a sequence in a slot: clears its tokens and its marks of seen tokens.
    ///
    /// # Panics
    ///
    /// If there is no such slot, or between [`Engine::train_batch`] and [`Engine::update`].
    pub fn begin_sequence(&mut self, slot: usize) {
        self.begin_sequence_after(slot, 0, &[]);
    }

    /// Starts a sequence in a slot that begins with the first `kept` positions of the one that was there, and in which
    /// these tokens have been seen.
    ///
    /// # Panics
    ///
    /// As [`Engine::begin_sequence`], and if the slot holds fewer positions, or an id is not in the vocabulary.
    pub fn begin_sequence_after(&mut self, slot: usize, kept: usize, seen: &[u32]) {
        self.check_gradients();
        self.check_tokens(seen);
        let held = self.lengths[slot];
        assert!(kept <= held, "{kept} positions of slot {slot} are kept, which holds {held}");
        let view = self.of_slot(self.generation_views().seen, slot);
        let mut marks = vec![0; view.len];
        seen.iter().for_each(|id| marks[*id as usize] = 1);
        self.backend.write_u32(view, &marks);
        self.lengths[slot] = kept;
    }

    fn serving_views(&self) -> ServingViews {
        self.generation_views().serving.expect("the program was recorded to serve")
    }

    /// Lets the sequence of slot `to` begin with the first `count` positions of that of slot `from`: their keys and values
    /// are copied. The tokens and the marks of seen tokens are not: the caller writes them.
    ///
    /// # Panics
    ///
    /// If there is no such slot, `from` holds fewer positions, or the program was not recorded to serve.
    pub fn copy_sequence(&mut self, from: usize, to: usize, count: usize) {
        self.check_gradients();
        let held = self.lengths[from];
        assert!(count <= held, "{count} positions of slot {from} are copied, which holds {held}");
        let words = [from, to, count].map(|n| n as u32);
        self.backend.write_u32(self.serving_views().copied, &words);
        self.run(Phase::Copy, &Step::default());
        self.lengths[to] = count;
    }

    /// Computes the logits of some rows of the last [`Engine::extend`], each (V), with the bits that a draw after the row
    /// would see; waits for the device. Rows count from 0 through the tokens of all feeds.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the last replay had fewer rows, or the program was not recorded to serve.
    pub fn row_logits(&mut self, rows: Range<usize>) -> Result<Vec<Vec<f32>>> {
        let ServingViews { scored, scores, .. } = self.serving_views();
        let n = self.extended as usize;
        assert!(rows.end <= n, "the rows {rows:?} of {n}");
        let mut words = vec![NONE; n * slot::WORDS];
        for row in rows.clone() {
            let draw = Draw::default().words(row as u32);
            words[row * slot::WORDS..][..slot::WORDS].copy_from_slice(&draw);
        }
        self.backend.write_u32(scored.slice(0, words.len()), &words);
        self.run(Phase::Score(self.extended), &Step::default());
        let v = self.program.config.vocab_size;
        let mut logits = vec![0.0; rows.len() * v];
        self.backend.read(scores.slice(rows.start * v, logits.len()), &mut logits)?;
        Ok(logits.chunks(v).map(<[f32]>::to_vec).collect())
    }

    /// Marks tokens as seen in a slot, for the repetition penalty.
    ///
    /// # Panics
    ///
    /// If there is no such slot, or an id is not in the vocabulary.
    pub fn mark_seen(&mut self, slot: usize, ids: &[u32]) {
        self.check_tokens(ids);
        let view = self.of_slot(self.generation_views().seen, slot);
        for &id in ids {
            self.backend.write_u32(view.slice(id as usize, 1), &[1]);
        }
    }

    /// Writes tokens of a slot's sequence from `position` on, for [`Engine::extend`] to feed.
    ///
    /// # Panics
    ///
    /// If there is no such slot, the tokens exceed the context, or an id is not in the vocabulary.
    pub fn write_sequence(&mut self, slot: usize, position: usize, ids: &[u32]) {
        self.check_positions(position, ids.len());
        self.check_tokens(ids);
        let view = self.of_slot(self.generation_views().sequence, slot);
        self.backend.write_u32(view.slice(position, ids.len()), ids);
    }

    /// Feeds tokens to a slot from position 0 on, and computes the logits after the last one: [`Engine::sample`] then
    /// draws the next token.
    ///
    /// # Panics
    ///
    /// If there are no tokens, and as [`Engine::write_sequence`] and [`Engine::extend`].
    pub fn prefill(&mut self, slot: usize, ids: &[u32], draw: Draw) {
        assert!(!ids.is_empty(), "there is nothing to begin with");
        self.write_sequence(slot, 0, ids);
        for feed in prompt_feeds(slot, ids.len(), draw) {
            self.extend(&[feed]);
        }
    }

    /// Panics unless `count` positions from `position` on lie within the context.
    fn check_positions(&self, position: usize, count: usize) {
        let context = self.program.context();
        let fits = position.checked_add(count).is_some_and(|end| end <= context);
        assert!(fits, "{count} tokens from position {position} on exceed the context of {context}");
    }

    /// Feeds tokens to some slots in one replay, the smallest that has room for them, and computes the logits of the
    /// slots that draw. The bits of logits and caches do not depend on the tokens of other slots.
    ///
    /// # Panics
    ///
    /// If a slot is fed twice or does not exist; if a feed has no tokens, exceeds the context, or skips positions that
    /// were not fed; if the tokens exceed the largest of [`EXTENDS`]; or if gradients are still needed, between
    /// [`Engine::train_batch`] and [`Engine::update`].
    pub fn extend(&mut self, feeds: &[Feed]) {
        let n = self.write_feeds(feeds);
        self.extended = n;
        self.run(Phase::Extend(n), &Step::default());
    }

    /// Writes the tables of a replay over these feeds; returns the number of its rows.
    pub(super) fn write_feeds(&mut self, feeds: &[Feed]) -> u32 {
        self.check_gradients();
        let mut fed = vec![false; self.slots()];
        for Feed { slot, position, count, .. } in feeds.iter().copied() {
            assert!(!std::mem::replace(&mut fed[slot], true), "slot {slot} is fed twice");
            assert!(count > 0, "slot {slot} is fed nothing");
            self.check_positions(position, count);
            let length = &mut self.lengths[slot];
            assert!(
                position <= *length,
                "slot {slot} is fed from position {position} on, but holds {length} positions: training \
                 since then, or a new sequence, has cleared it"
            );
            *length = position + count;
        }
        let count: usize = feeds.iter().map(|feed| feed.count).sum();
        let n = EXTENDS.into_iter().rev().find(|n| *n as usize >= count);
        let n =
            n.unwrap_or_else(|| panic!("{count} rows in one replay, of {} at most", EXTENDS[0]));
        for (view, words) in self.generation_views().tables(n, feeds) {
            self.backend.write_u32(view, &words);
        }
        n
    }

    /// Draws the next token of every slot for which the last [`Engine::extend`] computed logits, and appends it to the
    /// slot's sequence.
    pub fn sample(&mut self) {
        self.run(Phase::Sample, &Step::default());
    }

    /// Requests tokens that were drawn in some slots, and the logits of each slot's last token, for
    /// [`Engine::take_drawn`]; does not wait for the device, so that more tokens can be drawn meanwhile.
    ///
    /// # Panics
    ///
    /// If there is no such slot, or more tokens are requested than a slot holds.
    pub fn request_drawn(&mut self, drawn: &[Drawn]) -> DrawnTicket {
        let GenerationViews { sequence, logits, .. } = self.generation_views();
        let ids = |d: &Drawn| self.of_slot(sequence, d.slot).slice(d.start, d.count);
        let ids: Vec<View> = drawn.iter().map(ids).collect();
        let mut pieces: Vec<(usize, View)> = vec![];
        for (index, drawn) in drawn.iter().enumerate() {
            let logits = self.of_slot(logits, drawn.slot);
            let piece = |at| logits.slice(at, MOST_REQUESTED.min(logits.len - at));
            pieces.extend((0..logits.len).step_by(MOST_REQUESTED).map(|at| (index, piece(at))));
        }
        // The requests are as few as possible, since a backend can have only a few of one size pending at a time.
        let mut groups: Vec<Vec<(usize, View)>> = vec![];
        let mut room = 0;
        for piece in pieces {
            if piece.1.len > room {
                groups.push(vec![]);
                room = MOST_REQUESTED;
            }
            room -= piece.1.len;
            groups.last_mut().expect("one was begun").push(piece);
        }
        let request = |group: Vec<(usize, View)>| {
            let views: Vec<View> = group.iter().map(|(_, view)| *view).collect();
            let pieces = group.into_iter().map(|(index, view)| (index, view.len)).collect();
            (self.backend.request(&views), pieces)
        };
        let logits = groups.into_iter().map(request).collect();
        let counts = drawn.iter().map(|drawn| drawn.count).collect();
        DrawnTicket { counts, ids: self.backend.request(&ids), logits }
    }

    /// Returns the requested tokens, slot by slot; waits for the device if necessary.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the ticket belongs to another engine.
    pub fn take_drawn(&mut self, ticket: DrawnTicket) -> Result<Vec<DrawnTokens>> {
        let DrawnTicket { counts, ids, logits } = ticket;
        let mut tokens: Vec<Vec<u32>> = counts.into_iter().map(|count| vec![0; count]).collect();
        let out = tokens.iter_mut().map(|ids| Out::Words(ids));
        self.backend.take(ids, &mut out.collect::<Vec<_>>())?;
        let mut finite = vec![true; tokens.len()];
        for (ticket, pieces) in logits {
            let mut numbers: Vec<Vec<f32>> =
                pieces.iter().map(|(_, len)| vec![0.0; *len]).collect();
            let out = numbers.iter_mut().map(|numbers| Out::Reals(numbers));
            self.backend.take(ticket, &mut out.collect::<Vec<_>>())?;
            for ((index, _), numbers) in pieces.into_iter().zip(numbers) {
                finite[index] &= numbers.into_iter().all(f32::is_finite);
            }
        }
        let drawn = |(ids, finite)| DrawnTokens { ids, finite };
        Ok(tokens.into_iter().zip(finite).map(drawn).collect())
    }

    /// Returns the logits (V) from which a slot's last token was drawn.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_logits(&mut self, slot: usize) -> Result<Vec<f32>> {
        self.read_of_slot(self.generation_views().logits, slot)
    }

    /// Returns the probabilities (V) from which a slot's last token was drawn.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_probs(&mut self, slot: usize) -> Result<Vec<f32>> {
        self.read_of_slot(self.generation_views().probs, slot)
    }

    fn read_of_slot(&mut self, view: View, slot: usize) -> Result<Vec<f32>> {
        let view = self.of_slot(view, slot);
        let mut numbers = vec![0.0; view.len];
        self.backend.read(view, &mut numbers)?;
        Ok(numbers)
    }
}
