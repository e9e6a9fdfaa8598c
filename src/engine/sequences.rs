//! A sequence on an engine: prefilled, extended, drawn from.

use super::Engine;
use crate::error::Result;
use crate::kernel::Step;
use crate::model::{EXTENDS, GenerationViews};
use crate::plan::Phase;

impl Engine {
    fn generation_views(&self) -> GenerationViews {
        self.program.generation.expect("the program was recorded for generation")
    }

    /// Starts a sequence: forgets which tokens were seen.
    pub fn begin_sequence(&mut self) {
        let view = self.generation_views().seen;
        self.backend.write_u32(view, &vec![0; view.len]);
    }

    /// Marks tokens as seen, for the repetition penalty.
    ///
    /// # Panics
    ///
    /// If an id is not of the vocabulary.
    pub fn mark_seen(&mut self, ids: &[u32]) {
        self.check_tokens(ids);
        let view = self.generation_views().seen;
        for &id in ids {
            self.backend.write_u32(view.slice(id as usize, 1), &[1]);
        }
    }

    /// Feeds tokens at positions from 0 on, after which [`Engine::sample`] draws the next one.
    ///
    /// # Panics
    ///
    /// If there are none, or more than the context, or one is not of the vocabulary.
    pub fn prefill(&mut self, ids: &[u32]) {
        assert!(!ids.is_empty(), "there is nothing to begin with");
        self.check_positions(0, ids.len());
        self.check_tokens(ids);
        let sequence = self.generation_views().sequence;
        self.backend.write_u32(sequence.slice(0, ids.len()), ids);
        let mut position = 0;
        while position < ids.len() {
            let left = (ids.len() - position) as u32;
            // The smallest replay that takes all that is left, else the largest.
            let n = EXTENDS.into_iter().rev().find(|n| *n >= left).unwrap_or(EXTENDS[0]);
            self.extend(n, position, left.min(n));
            position += left.min(n) as usize;
        }
    }

    /// Panics unless `count` positions from `position` on are of the context.
    fn check_positions(&self, position: usize, count: usize) {
        let context = self.program.config.n_positions;
        let fits = position.checked_add(count).is_some_and(|end| end <= context);
        assert!(fits, "{count} tokens from position {position} on exceed the context of {context}");
    }

    /// Computes the logits after `count` tokens of the sequence from `position` on, in a replay of `n`.
    ///
    /// # Panics
    ///
    /// If `n` is none of [`EXTENDS`], `count` is not within 1 to `n`, or the tokens exceed the context.
    pub fn extend(&mut self, n: u32, position: usize, count: u32) {
        assert!((1..=n).contains(&count), "{count} tokens in a replay of {n}");
        self.check_positions(position, count as usize);
        let step = Step { position: position as u32, count, ..Step::default() };
        self.run(Phase::Extend(n), &step);
    }

    /// Draws the token at `position` from the last logits and appends it to the sequence.
    ///
    /// # Panics
    ///
    /// If `position` is 0 or beyond the place after the context.
    pub fn sample(&mut self, position: usize, step: &Step) {
        assert!(position > 0, "a token is drawn after another");
        self.check_positions(position - 1, 1);
        let step = Step { position: position as u32 - 1, count: 1, ..*step };
        self.run(Phase::Sample, &step);
    }

    /// Tokens of the sequence; waits for the device.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_sequence(&mut self, start: usize, out: &mut [u32]) -> Result<()> {
        let view = self.generation_views().sequence;
        self.backend.read_u32(view.slice(start, out.len()), out)
    }

    /// The logits of the last row (V).
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_last_logits(&mut self) -> Result<Vec<f32>> {
        let view = self.generation_views().logits;
        let mut logits = vec![0.0; view.len];
        self.backend.read(view, &mut logits)?;
        Ok(logits)
    }

    /// What the last token was drawn from (V).
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_probs(&mut self) -> Result<Vec<f32>> {
        let view = self.generation_views().probs;
        let mut probs = vec![0.0; view.len];
        self.backend.read(view, &mut probs)?;
        Ok(probs)
    }
}
