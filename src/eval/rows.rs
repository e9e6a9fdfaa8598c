//! Rows of tokens and targets, scored in batches.

use std::collections::VecDeque;

use crate::backend::Device;
use crate::engine;
use crate::error::{Error, Result};
use crate::fit::LARGEST_BATCH;
use crate::gpt::Gpt;
use crate::model::{Program, Uses};
use crate::ops::cross_entropy::IGNORE;
use crate::runner::Runner;

/// The approximate tokens per batch by default, on a CPU and on a GPU: neither gets much faster with more.
const BATCH_TOKENS: [usize; 2] = [512, 8192];

/// Returns the sequences per batch that keep a device busy, if there is memory for them.
pub fn default_batch(gpt: &Gpt, seq: usize) -> usize {
    let device = gpt.device();
    let fits = |batch| {
        let uses = gpt.uses_of_batches(batch, seq);
        device.fits(&Program::record(gpt.config(), uses, device.limits()).plan)
    };
    let mut batch = busy_batch(device, seq);
    while batch > 1 && !fits(batch) {
        batch /= 2;
    }
    batch
}

/// Returns the sequences per batch that keep a device busy, whatever memory it has.
pub fn busy_batch(device: &Device, seq: usize) -> usize {
    let tokens = BATCH_TOKENS[usize::from(matches!(device, Device::Gpu(_)))];
    (tokens / seq).clamp(1, LARGEST_BATCH)
}

/// Rows that wait to be scored together; `Tag` identifies a row.
pub(super) struct Rows<Tag, R: Runner> {
    seq: usize,
    batch: usize,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    tags: Vec<Tag>,
    /// Batches whose losses were requested and not yet read, with the tags of their rows.
    unread: VecDeque<(Vec<Tag>, R::Losses)>,
}

impl<Tag, R: Runner> Rows<Tag, R> {
    /// Creates an empty queue for an engine with batches.
    pub fn new(engine: &R) -> Rows<Tag, R> {
        let Uses { batch, seq, .. } = engine.program().uses;
        assert!(batch > 0, "the engine was recorded with batches");
        Rows { seq, batch, tokens: vec![], targets: vec![], tags: vec![], unread: VecDeque::new() }
    }

    /// Adds a row: tokens, and the targets of the last of them. A batch that it completes is submitted to the device;
    /// `scored` is called with the tag of each finished row, in order, and the sum of its negative log-likelihoods.
    pub fn push(
        &mut self,
        engine: &mut R,
        tag: Tag,
        tokens: &[u32],
        targets: &[u32],
        scored: &mut dyn FnMut(Tag, f64),
    ) -> Result<()> {
        assert!(targets.len() <= tokens.len() && tokens.len() <= self.seq, "a row is a sequence");
        let vocab = engine.program().config.vocab_size;
        check_ids(tokens, vocab)?;
        check_ids(targets, vocab)?;
        let end = (self.tags.len() + 1) * self.seq;
        self.tokens.extend_from_slice(tokens);
        self.tokens.resize(end, 0);
        self.targets.resize(end - self.seq + tokens.len() - targets.len(), IGNORE);
        self.targets.extend_from_slice(targets);
        self.targets.resize(end, IGNORE);
        self.tags.push(tag);
        if self.tags.len() < self.batch {
            return Ok(());
        }
        self.submit(engine);
        self.take(engine, engine.batches_ahead(), scored)
    }

    /// Scores the remaining rows, and waits for all results.
    pub fn flush(&mut self, engine: &mut R, scored: &mut dyn FnMut(Tag, f64)) -> Result<()> {
        if !self.tags.is_empty() {
            self.submit(engine);
        }
        self.take(engine, 0, scored)
    }

    /// Submits the waiting rows to the device.
    fn submit(&mut self, engine: &mut R) {
        self.tokens.resize(self.batch * self.seq, 0);
        self.targets.resize(self.batch * self.seq, IGNORE);
        let ticket = engine.request_row_losses(&self.tokens, &self.targets);
        self.unread.push_back((std::mem::take(&mut self.tags), ticket));
        self.tokens.clear();
        self.targets.clear();
    }

    /// Reads the losses of batches until at most `most` batches are pending.
    fn take(
        &mut self,
        engine: &mut R,
        most: usize,
        scored: &mut dyn FnMut(Tag, f64),
    ) -> Result<()> {
        while self.unread.len() > most
            && let Some((tags, ticket)) = self.unread.pop_front()
        {
            let losses = engine.take_row_losses(ticket)?;
            for (tag, losses) in tags.into_iter().zip(losses.chunks_exact(self.seq)) {
                let nll = engine::sum(losses);
                if !nll.is_finite() {
                    return Err(Error::input(
                        "the model's loss is not finite, so that there is nothing to measure",
                    )
                    .hint(
                        "its training diverged: take an earlier checkpoint, or the best/ of its run",
                    ));
                }
                scored(tag, nll);
            }
        }
        Ok(())
    }
}

/// Checks that ids are in the model's vocabulary.
pub(super) fn check_ids(ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        None => Ok(()),
        Some(id) => Err(Error::input(format!(
            "token {id} is out of range: the model's vocabulary has {vocab}"
        ))
        .hint("the tokens are of another tokenizer: encode the text with the model's own")),
    }
}
