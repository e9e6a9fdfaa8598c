//! Batches on an engine: training updates, evaluation, logits.

use std::ops::Range;

use super::{Engine, FromBefore, Gradients};
use crate::backend::{MOST_REQUESTED, Out, Ticket};
use crate::error::Result;
use crate::kernel::Step;
use crate::kernel::state;
use crate::model::{BatchViews, UpdateViews};
use crate::ops::cross_entropy::{IGNORE, counted};
use crate::plan::Phase;

/// The results of an update, read back from the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The mean loss over the targets that count in all of the update's micro-batches.
    pub loss: f32,
    /// The norm of the gradient before clipping; negative if it was not finite.
    pub grad_norm: f32,
    /// The values that only the device knows: the words of [`state`].
    pub state: [u32; state::LEN],
}

/// A part of an update: as many sequences as the device processes at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// (B,T)
    pub tokens: Vec<u32>,
    /// (B,T); [`IGNORE`] where there is none.
    pub targets: Vec<u32>,
    /// (B,T): where the document of each row begins, a position of its sequence. Empty: each sequence is one document, and
    /// the engine keeps the starts that it has.
    pub starts: Vec<u32>,
    /// The key of the micro-batch's random numbers.
    pub seed: [u32; 2],
}

/// Losses of a batch that were requested from an engine; only that engine can return them.
#[must_use = "what was requested is to be taken"]
#[derive(Debug)]
pub struct LossesTicket(Vec<Ticket>);

/// Returns the step of a micro-batch to which `before` have been added in place, of an update in which `all` targets
/// count.
pub(super) fn step_of(before: usize, all: usize, step: Step) -> Step {
    let loss_scale = 1.0 / all.max(1) as f64;
    Step { accumulate: u32::from(before > 0), loss_scale, ..step }
}

/// Returns the sum of losses, added in order.
pub fn sum(losses: &[f32]) -> f64 {
    losses.iter().copied().map(f64::from).sum()
}

/// How many targets count in some micro-batches.
///
/// # Errors
///
/// The first of `fill`.
pub(crate) fn count_targets(
    range: Range<usize>,
    batch: &mut MicroBatch,
    fill: &mut dyn FnMut(usize, &mut MicroBatch) -> Result<()>,
) -> Result<usize> {
    let mut all = 0;
    for micro in range {
        fill(micro, batch)?;
        all += counted(&batch.targets);
    }
    Ok(all)
}

impl Engine {
    pub(super) fn batch_views(&self) -> BatchViews {
        self.program.batch.expect("the program was recorded with batches")
    }

    fn update_views(&self) -> UpdateViews {
        self.program.update.expect("the program was recorded for training")
    }

    fn check_targets(&self, ids: &[u32]) {
        let vocab = self.program.config.vocab_size;
        let wrong = ids.iter().find(|id| **id as usize >= vocab && **id != IGNORE);
        assert!(wrong.is_none(), "target {wrong:?} is out of range: the vocabulary has {vocab}");
    }

    fn write_batch(&mut self, tokens: &[u32], targets: &[u32]) {
        self.check_tokens(tokens);
        let view = self.batch_views().tokens;
        self.backend.write_u32(view, tokens);
        self.write_targets(targets);
    }

    /// Overwrites where the document of each row (B,T) begins, a position of its sequence; at first it is 0 everywhere. A row
    /// sees nothing before its document, and its position counts from there. It holds until it is overwritten, for every
    /// batch.
    ///
    /// # Panics
    ///
    /// If `starts` is not (B,T).
    pub fn write_document_starts(&mut self, starts: &[u32]) {
        let view = self.batch_views().starts;
        self.backend.write_u32(view, starts);
    }

    pub(super) fn write_targets(&mut self, targets: &[u32]) {
        self.check_targets(targets);
        let view = self.batch_views().targets;
        self.backend.write_u32(view, targets);
    }

    /// Makes an update of `count` micro-batches; returns the number of targets that count in all of them. If no target
    /// counts, nothing changes: parameters, moments and the number of applied updates stay as they are.
    ///
    /// `fill` fills a micro-batch, given its number, in place of the previous one. If there are several, it is called
    /// twice for each, the first time to count the targets, so that only one is in memory at a time. `step` has the
    /// dropout and the optimiser's values.
    ///
    /// # Errors
    ///
    /// The first error of `fill`; the update has then changed nothing.
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn train_update(
        &mut self,
        count: usize,
        batch: &mut MicroBatch,
        mut fill: impl FnMut(usize, &mut MicroBatch) -> Result<()>,
        step: Step,
    ) -> Result<usize> {
        let all = count_targets(0..count, batch, &mut fill)?;
        if all > 0 {
            self.train_micro_batches(0..count, all, batch, &mut fill, step, None)?;
            self.update(&step);
        }
        Ok(all)
    }

    /// Runs forward and backward over micro-batch number `micro` of an update in which `all` targets count; `step` has
    /// the random key and the dropout. Gradients and loss are added up over the micro-batches of an update: each target
    /// has the same weight, however the targets are spread over the micro-batches.
    ///
    /// Sequences in generation are cleared: their keys and values belong to other parameters, and lie in the gradients'
    /// memory. [`Engine::update`] must use the gradients before the next sequence begins.
    ///
    /// # Panics
    ///
    /// If `tokens` or `targets` is not (B,T), a token is not in the vocabulary, or a target is neither in it nor
    /// [`IGNORE`].
    pub fn train_batch(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
        (micro, all): (usize, usize),
        step: Step,
    ) {
        let step = step_of(micro, all, step);
        self.train_forward(tokens, targets, &step);
        self.run(Phase::Backward, &step);
    }

    /// Runs forward and backward over a micro-batch, waits for them, and forgets the gradients: only to see how long it takes.
    /// Parameters, moments and the device's counters stay as they are.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn try_micro_batch(&mut self, tokens: &[u32], targets: &[u32], step: Step) -> Result<()> {
        self.train_batch(tokens, targets, (0, targets.len()), step);
        self.read_loss()?;
        self.gradients = Gradients::Free;
        Ok(())
    }

    /// The part of [`Engine::train_batch`] before the backward pass.
    pub(super) fn train_forward(&mut self, tokens: &[u32], targets: &[u32], step: &Step) {
        self.gradients = Gradients::InUse;
        self.lengths.fill(0);
        self.write_batch(tokens, targets);
        self.run(Phase::Forward, step);
    }

    /// Runs the norm, clipping and the optimiser.
    pub fn update(&mut self, step: &Step) {
        self.gradients = Gradients::Free;
        self.run(Phase::Update, step);
    }

    /// Requests the results of the last update for [`Engine::take_update`]; does not wait for the device, so that more
    /// updates can be made meanwhile.
    pub fn request_update(&mut self) -> Ticket {
        let (UpdateViews { norm, state }, loss) = (self.update_views(), self.batch_views().loss);
        self.backend.request(&[loss, norm, state])
    }

    /// Returns whether [`Engine::take_update`] would return at once.
    pub fn is_ready(&mut self, ticket: &Ticket) -> bool {
        self.backend.is_ready(ticket)
    }

    /// Returns the results of the update that was the last one when they were requested; waits for the device if
    /// necessary.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the ticket belongs to another engine or another request.
    pub fn take_update(&mut self, ticket: Ticket) -> Result<Update> {
        let (mut loss, mut norm, mut state) = ([0.0], [0.0; 2], [0; state::LEN]);
        let out = &mut [Out::Reals(&mut loss), Out::Reals(&mut norm), Out::Words(&mut state)];
        self.backend.take(ticket, out)?;
        Ok(Update { loss: loss[0], grad_norm: norm[0], state })
    }

    /// Returns the results of the last update; waits for the device.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_update(&mut self) -> Result<Update> {
        let ticket = self.request_update();
        self.take_update(ticket)
    }

    /// Reads the words that only the device knows.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_state(&mut self) -> Result<[u32; state::LEN]> {
        let mut words = [0; state::LEN];
        let view = self.update_views().state;
        self.backend.read_u32(view, &mut words)?;
        Ok(words)
    }

    /// Overwrites the words that only the device knows.
    pub fn write_state(&mut self, words: &[u32; state::LEN]) {
        let view = self.update_views().state;
        self.backend.write_u32(view, words);
    }

    /// Computes the loss of each row of a batch, and requests it for [`Engine::take_row_losses`]; does not wait for the
    /// device, so that the next batch can be prepared meanwhile.
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn request_row_losses(&mut self, tokens: &[u32], targets: &[u32]) -> LossesTicket {
        self.forward_batch(FromBefore::Tokens(tokens));
        self.request_losses(targets)
    }

    /// Does the same after the forward pass of the batch: [`Engine::forward_batch`].
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn request_losses(&mut self, targets: &[u32]) -> LossesTicket {
        self.write_targets(targets);
        self.run(Phase::Evaluate, &Step::default());
        let view = self.batch_views().row_loss;
        let starts = (0..view.len).step_by(MOST_REQUESTED);
        let piece = |start| view.slice(start, MOST_REQUESTED.min(view.len - start));
        LossesTicket(starts.map(|start| self.backend.request(&[piece(start)])).collect())
    }

    /// Returns the requested loss (natural logarithm) of each row (B,T), 0 for rows without a target; waits for the
    /// device if necessary.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the ticket belongs to another engine.
    pub fn take_row_losses(&mut self, ticket: LossesTicket) -> Result<Vec<f32>> {
        let mut losses = vec![0.0; self.batch_views().row_loss.len];
        for (ticket, out) in ticket.0.into_iter().zip(losses.chunks_mut(MOST_REQUESTED)) {
            self.backend.take(ticket, &mut [Out::Reals(out)])?;
        }
        Ok(losses)
    }

    /// Returns the loss of each row of a batch; waits for the device.
    ///
    /// # Errors
    ///
    /// As [`Engine::take_row_losses`].
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn row_losses(&mut self, tokens: &[u32], targets: &[u32]) -> Result<Vec<f32>> {
        let ticket = self.request_row_losses(tokens, targets);
        self.take_row_losses(ticket)
    }

    /// Returns the sum of the losses of all rows of a batch that have a target; waits for the device.
    ///
    /// # Errors
    ///
    /// As [`Engine::take_row_losses`].
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn evaluate(&mut self, tokens: &[u32], targets: &[u32]) -> Result<f64> {
        Ok(sum(&self.row_losses(tokens, targets)?))
    }

    /// Returns the logits (B,T,V) of a batch.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the program was recorded without logits, `tokens` is not (B,T), or a token is not in the vocabulary.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.check_tokens(tokens);
        let view = self.batch_views().tokens;
        self.backend.write_u32(view, tokens);
        self.run(Phase::Forward, &Step::default());
        self.run(Phase::Logits, &Step::default());
        let view = self.batch_views().logits.expect("the program was recorded with logits");
        let mut logits = vec![0.0; view.len];
        self.backend.read(view, &mut logits)?;
        Ok(logits)
    }
}
