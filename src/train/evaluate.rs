//! Evaluation: the validation loss during a run and at its end.

use std::collections::VecDeque;

use super::{Event, Trainer};
use crate::data::{Place, Rows};
use crate::dist::Neighbours;
use crate::engine::{self, LossesTicket, MicroBatch};
use crate::error::Result;

/// A mask of the seed that separates the batches of evaluations from those of training.
const EVALUATION: u64 = 0x6576_616c;

impl Trainer {
    /// Computes the validation loss, over the whole split or over the same few batches each time; `None` if the run was
    /// stopped meanwhile. Saves the best model. If it was the last evaluation of the run's patience, the run ends, and the
    /// loss is that over the whole split.
    pub(super) fn evaluate(
        &mut self,
        last: bool,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Option<f64>> {
        let Some((val_loss, whole)) = self.loss(last, on_event)? else { return Ok(None) };
        let step = self.state.step;
        let best = val_loss.is_finite() && self.state.best_val_loss.is_none_or(|b| val_loss < b);
        self.state.val_loss = val_loss.is_finite().then_some(val_loss);
        self.state.worse = if best { 0 } else { self.state.worse + 1 };
        if best {
            self.state.best_val_loss = Some(val_loss);
            self.state.best_step = Some(step);
            self.save_best()?;
        }
        on_event(&Event::Evaluated { step: step as usize, val_loss, best, whole });
        if last || !self.is_out_of_patience() {
            return Ok(Some(val_loss));
        }
        on_event(&Event::Note(format!(
            "the last {} evaluations found no better loss than that of update {}: the run ends after update {step}",
            self.state.worse,
            self.state.best_step.unwrap_or(0)
        )));
        let val_loss = match whole {
            true => val_loss,
            false => {
                // It is another measure than those before, and does not make this model the best.
                let Some((val_loss, whole)) = self.loss(true, on_event)? else { return Ok(None) };
                let step = step as usize;
                on_event(&Event::Evaluated { step, val_loss, best: false, whole });
                val_loss
            }
        };
        self.state.val_loss = val_loss.is_finite().then_some(val_loss);
        self.state.ended = true;
        Ok(Some(val_loss))
    }

    /// Whether as many evaluations in a row as the run allows have found no better loss.
    fn is_out_of_patience(&self) -> bool {
        self.config.patience.is_some_and(|most| self.state.worse >= most as u64)
    }

    /// Returns the validation loss and whether it is over the whole split; `None` if the run was stopped meanwhile.
    fn loss(
        &mut self,
        whole: bool,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Option<(f64, bool)>> {
        let windows = self.val.windows_of_all();
        let whole = whole || windows <= self.config.eval_iters.saturating_mul(self.shape.0);
        let total = if whole { windows.div_ceil(self.shape.0) } else { self.config.eval_iters };
        on_event(&Event::Evaluating { done: 0, total });
        let words = self.own_losses(whole, total, on_event)?;
        let all = self.gather(words)?;
        if all.iter().any(|words| words[0] == 1) {
            self.stops = true;
            return Ok(None);
        }
        Ok(Some((self.mean_loss(&all, total), whole)))
    }

    /// Returns whether this rank was told to stop, then the sum of the losses and the targets of each of its batches: of
    /// the whole split, or else of random windows.
    fn own_losses(
        &mut self,
        whole: bool,
        total: usize,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Vec<u64>> {
        let grid = self.link.grid();
        let (replica, replicas) = (grid.replica(), grid.replicas());
        // The stages of a pipeline must agree on each batch.
        let may_stop = grid.stages == 1;
        let (mut unread, mut words) = (VecDeque::new(), vec![0]);
        for i in (replica..total).step_by(replicas) {
            if may_stop && self.stopped() {
                words[0] = 1;
                break;
            }
            unread.extend(self.request_losses(whole, i)?);
            let late = if i + replicas < total { self.engine.reads_ahead() } else { 0 };
            while unread.len() > late
                && let Some((count, ticket)) = unread.pop_front()
            {
                let sum = engine::sum(&self.engine.take_row_losses(ticket)?);
                words.extend([sum.to_bits(), count as u64]);
                let done = (words.len() / 2 * replicas).min(total);
                on_event(&Event::Evaluating { done, total });
            }
        }
        Ok(words)
    }

    /// Requests the losses of a batch, and returns the number of its targets, too; `None` on a stage that has no losses.
    fn request_losses(&mut self, whole: bool, i: usize) -> Result<Option<(usize, LossesTicket)>> {
        let MicroBatch { tokens: x, targets: y, starts, .. } = &mut self.batch;
        let rows = Rows { tokens: x, targets: y, starts };
        let count = match whole {
            true => self.val.fill(&self.tokens, i * self.shape.0, rows),
            false => {
                let place = Place { seed: self.config.seed ^ EVALUATION, step: 0, micro: i as u64 };
                self.val.draw(&self.tokens, place, self.config.eval_iters, rows)?
            }
        };
        if !starts.is_empty() {
            self.engine.write_document_starts(starts);
        }
        if self.link.grid().stages == 1 {
            return Ok(Some((count, self.engine.request_row_losses(x, y))));
        }
        let mut neighbours = Neighbours::new(&self.link, &self.engine);
        neighbours.forward_batch(&mut self.engine, x)?;
        neighbours.finish()?;
        let is_last = self.link.grid().stage().is_last();
        Ok(is_last.then(|| (count, self.engine.request_losses(y))))
    }

    /// The mean loss of all batches, of which the last stage has the losses: in the order of the batches, whoever had them.
    fn mean_loss(&self, all: &[Vec<u64>], total: usize) -> f64 {
        let (size, replicas) = (self.link.grid().size, self.link.grid().replicas());
        let last = &all[size - replicas..];
        let batch = |i: usize| &last[i % replicas][1 + i / replicas * 2..][..2];
        let (mut sum, mut count) = (0.0, 0);
        for i in 0..total {
            sum += f64::from_bits(batch(i)[0]);
            count += batch(i)[1];
        }
        sum / count as f64
    }
}
