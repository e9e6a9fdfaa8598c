//! What generation and evaluation need of a model: an engine has it, and so have the stages of a pipeline together.

use crate::engine::{Drawn, DrawnTicket, DrawnTokens, Engine, LossesTicket};
use crate::error::Result;
use crate::kernel::Feed;
use crate::model::Program;

/// A model that is ready to generate and to be evaluated, as far as its program was recorded for it.
pub trait Runner {
    /// Drawn tokens that were requested.
    type Drawn;
    /// Losses that were requested.
    type Losses;

    /// Returns the recorded program; of a pipeline, that of this rank's stage.
    fn program(&self) -> &Program;

    /// Returns the largest number of sequences at once; 0 if the program was not recorded for generation.
    fn slots(&self) -> usize {
        self.program().uses.generation.unwrap_or(0)
    }

    /// Returns how many requests for drawn tokens may be pending while the next tokens are drawn; 0 where the tokens must
    /// be read first.
    fn draws_ahead(&self) -> usize;

    /// Returns how many requests for losses should be pending while the next batches are requested.
    fn batches_ahead(&self) -> usize;

    /// Starts a sequence in a slot, in which these tokens have been seen.
    ///
    /// # Errors
    ///
    /// If another rank is gone.
    fn begin(&mut self, slot: usize, seen: &[u32]) -> Result<()>;

    /// Writes tokens of a slot's sequence from `position` on, for [`Runner::feed`].
    fn write_sequence(&mut self, slot: usize, position: usize, ids: &[u32]);

    /// Feeds tokens to some slots in one replay; draws the next token of those that draw.
    ///
    /// # Errors
    ///
    /// If another rank is gone, or its device is lost.
    fn feed(&mut self, feeds: &[Feed]) -> Result<()>;

    /// Requests drawn tokens, as [`Engine::request_drawn`].
    fn request_drawn(&mut self, drawn: &[Drawn]) -> Self::Drawn;

    /// Returns the requested tokens, slot by slot.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    fn take_drawn(&mut self, ticket: Self::Drawn) -> Result<Vec<DrawnTokens>>;

    /// Requests the loss of each row of a batch: `tokens` and `targets` are (B,T).
    fn request_row_losses(&mut self, tokens: &[u32], targets: &[u32]) -> Self::Losses;

    /// Returns the requested losses (B,T) in nats, 0 for rows without a target. Requests are taken in their order.
    ///
    /// # Errors
    ///
    /// If a device is lost, or another rank is gone.
    fn take_row_losses(&mut self, ticket: Self::Losses) -> Result<Vec<f32>>;
}

impl Runner for Engine {
    type Drawn = DrawnTicket;
    type Losses = LossesTicket;

    fn program(&self) -> &Program {
        Engine::program(self)
    }

    fn draws_ahead(&self) -> usize {
        self.reads_ahead()
    }

    fn batches_ahead(&self) -> usize {
        self.reads_ahead()
    }

    fn begin(&mut self, slot: usize, seen: &[u32]) -> Result<()> {
        self.begin_sequence_after(slot, 0, seen);
        Ok(())
    }

    fn write_sequence(&mut self, slot: usize, position: usize, ids: &[u32]) {
        Engine::write_sequence(self, slot, position, ids);
    }

    fn feed(&mut self, feeds: &[Feed]) -> Result<()> {
        self.extend(feeds);
        if feeds.iter().any(|feed| feed.draw.is_some()) {
            self.sample();
        }
        Ok(())
    }

    fn request_drawn(&mut self, drawn: &[Drawn]) -> DrawnTicket {
        Engine::request_drawn(self, drawn)
    }

    fn take_drawn(&mut self, ticket: DrawnTicket) -> Result<Vec<DrawnTokens>> {
        Engine::take_drawn(self, ticket)
    }

    fn request_row_losses(&mut self, tokens: &[u32], targets: &[u32]) -> LossesTicket {
        Engine::request_row_losses(self, tokens, targets)
    }

    fn take_row_losses(&mut self, ticket: LossesTicket) -> Result<Vec<f32>> {
        Engine::take_row_losses(self, ticket)
    }
}
