//! What a stage of a pipeline says to the stages beside it: streams go forward, their gradients come back.

use super::link::{Link, Pending};
use super::world::World;
use crate::engine::{Engine, Finals, FromAfter, FromBefore, StreamTicket};
use crate::error::Result;
use crate::kernel::{Feed, Step};
use crate::pipeline::Task::{self, Backward, Forward};

/// The stages beside one, to which it sends streams and gradients.
pub(crate) struct Neighbours<'a> {
    link: &'a Link,
    before: Option<usize>,
    after: Option<usize>,
    /// The length of a stream, or of its gradient.
    len: usize,
    /// What waits to be sent, each to its rank.
    waiting: Vec<(usize, Vec<f32>)>,
    /// What is being sent.
    sending: Vec<Pending<Result<()>>>,
}

impl<'a> Neighbours<'a> {
    /// The neighbours of an engine's stage.
    pub(crate) fn new(link: &'a Link, engine: &Engine) -> Neighbours<'a> {
        let (grid, program) = (link.grid(), engine.program());
        let (stage, uses) = (grid.stage(), program.uses);
        let before = (!stage.is_first()).then(|| grid.in_stage(stage.index - 1));
        let after = (!stage.is_last()).then(|| grid.in_stage(stage.index + 1));
        let len = uses.batch * uses.seq * program.config.n_embd;
        Neighbours { link, before, after, len, waiting: vec![], sending: vec![] }
    }

    /// Receives from a rank. What waits is sent meanwhile: two ranks that both sent first would wait for each other.
    fn receive(&mut self, from: usize) -> Result<Vec<f32>> {
        self.receive_some(from, self.len)
    }

    fn receive_some(&mut self, from: usize, len: usize) -> Result<Vec<f32>> {
        let (waiting, mut numbers) = (std::mem::take(&mut self.waiting), vec![0.0; len]);
        self.link.call(move |world| {
            world.exchange(&borrowed(&waiting), &mut [(from, &mut numbers[..])])?;
            Ok(numbers)
        })
    }

    /// Begins to send what waits.
    pub(crate) fn send(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            let send = move |world: &mut dyn World| world.exchange(&borrowed(&waiting), &mut []);
            self.sending.push(self.link.start(send));
        }
    }

    /// Keeps what an engine was asked for until it is sent.
    fn keep(&mut self, engine: &mut Engine, to: usize, ticket: StreamTicket) -> Result<()> {
        let numbers = engine.take_stream(ticket)?;
        self.waiting.push((to, numbers));
        Ok(())
    }

    /// Waits until everything is sent.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.send();
        for sending in self.sending {
            self.link.take(sending)?;
        }
        Ok(())
    }

    /// The forward pass of a batch that is not trained on; `batch` has its tokens.
    pub(crate) fn forward_batch(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<()> {
        match self.before {
            None => engine.forward_batch(FromBefore::Tokens(tokens)),
            Some(before) => {
                let stream = self.receive(before)?;
                engine.forward_batch(FromBefore::Stream(&stream));
            }
        }
        if let Some(after) = self.after {
            let ticket = engine.request_sent();
            self.keep(engine, after, ticket)?;
            self.send();
        }
        Ok(())
    }

    /// Extends sequences by the tokens of feeds, which the first stage has.
    pub(crate) fn extend(&mut self, engine: &mut Engine, feeds: &[Feed]) -> Result<()> {
        let rows = feeds.iter().map(|feed| feed.count).sum();
        match self.before {
            None => engine.extend(feeds),
            Some(before) => {
                let len = rows * engine.program().config.n_embd;
                let stream = self.receive_some(before, len)?;
                engine.extend_received(feeds, &stream);
            }
        }
        if let Some(after) = self.after {
            let ticket = engine.request_rows(rows);
            self.keep(engine, after, ticket)?;
            self.send();
        }
        Ok(())
    }

    /// The forward pass of a micro-batch.
    pub(crate) fn forward(
        &mut self,
        engine: &mut Engine,
        micro: usize,
        tokens: &[u32],
        step: Step,
    ) -> Result<()> {
        match self.before {
            None => engine.forward_micro_batch(micro, FromBefore::Tokens(tokens), step),
            Some(before) => {
                let stream = self.receive(before)?;
                engine.forward_micro_batch(micro, FromBefore::Stream(&stream), step);
            }
        }
        match self.after {
            Some(after) => {
                let ticket = engine.request_sent();
                self.keep(engine, after, ticket)
            }
            None => Ok(()),
        }
    }

    /// The backward pass of a micro-batch.
    pub(crate) fn backward(
        &mut self,
        engine: &mut Engine,
        micro: usize,
        targets: &[u32],
        finals: Option<&mut Finals<'_>>,
    ) -> Result<()> {
        match self.after {
            None => engine.backward_micro_batch(micro, FromAfter::Targets(targets), finals)?,
            Some(after) if engine.needs_gradients() => {
                let gradient = self.receive(after)?;
                let from = FromAfter::Gradient(&gradient);
                engine.backward_micro_batch(micro, from, finals)?;
            }
            Some(_) => engine.backward_micro_batch(micro, FromAfter::Nothing, finals)?,
        }
        match self.before {
            Some(before) if engine.sends_gradients() => {
                let ticket = engine.request_sent_gradient();
                self.keep(engine, before, ticket)
            }
            _ => Ok(()),
        }
    }

    /// Whether a task begins with something that is received.
    pub(crate) fn receives(&self, engine: &Engine, task: Option<&Task>) -> bool {
        match task {
            Some(Forward(_)) => self.before.is_some(),
            Some(Backward(_)) => self.after.is_some() && engine.needs_gradients(),
            None => false,
        }
    }
}

/// What is sent, as [`World::exchange`] takes it.
fn borrowed(sent: &[(usize, Vec<f32>)]) -> Vec<(usize, &[f32])> {
    sent.iter().map(|(to, numbers)| (*to, &numbers[..])).collect()
}
