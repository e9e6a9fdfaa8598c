//! Passes over a pipeline: each rank has some of the layers, and micro-batches go from stage to stage and back.

use std::ops::Range;

use crate::dist::{Link, Pending, World};
use crate::engine::{Engine, Finals, FromAfter, FromBefore, MicroBatch, StreamTicket};
use crate::error::Result;
use crate::kernel::{Feed, Step};
use crate::pipeline::Task::{self, Backward, Forward};

/// The stages beside one, to which it sends streams and gradients.
pub(super) struct Neighbours<'a> {
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
    pub(super) fn new(link: &'a Link, engine: &Engine) -> Neighbours<'a> {
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
    fn send(&mut self) {
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
    pub(super) fn finish(mut self) -> Result<()> {
        self.send();
        for sending in self.sending {
            self.link.take(sending)?;
        }
        Ok(())
    }

    /// The forward pass of a batch that is not trained on; `batch` has its tokens.
    pub(super) fn forward_batch(&mut self, engine: &mut Engine, tokens: &[u32]) -> Result<()> {
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

    /// Extends a sequence by the tokens of a feed, which the first stage has.
    pub(super) fn extend(&mut self, engine: &mut Engine, feed: Feed) -> Result<()> {
        match self.before {
            None => engine.extend(&[feed]),
            Some(before) => {
                let len = feed.count * engine.program().config.n_embd;
                let rows = self.receive_some(before, len)?;
                engine.extend_received(&[feed], &rows);
            }
        }
        if let Some(after) = self.after {
            let ticket = engine.request_rows(feed.count);
            self.keep(engine, after, ticket)?;
            self.send();
        }
        Ok(())
    }

    /// The forward pass of a micro-batch.
    fn forward(
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
    fn backward(
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
    fn receives(&self, engine: &Engine, task: Option<&Task>) -> bool {
        match task {
            Some(Forward(_)) => self.before.is_some(),
            Some(Backward(_)) => self.after.is_some() && engine.needs_gradients(),
            None => false,
        }
    }
}

/// An update on a stage.
pub(super) struct Pipeline<'a> {
    pub engine: &'a mut Engine,
    pub link: &'a Link,
    /// The buffers of a micro-batch.
    pub batch: &'a mut MicroBatch,
    /// Makes a micro-batch.
    pub fill: &'a mut dyn FnMut(usize, &mut MicroBatch) -> Result<()>,
    /// The dropout and the optimiser's values.
    pub step: Step,
}

impl Pipeline<'_> {
    /// Forward and backward over the micro-batches `share` of an update in which `all` targets count, in the order of the
    /// pipeline. `key` makes the key of a micro-batch's random numbers.
    pub(super) fn train(
        &mut self,
        share: Range<usize>,
        all: usize,
        key: &dyn Fn(usize) -> [u32; 2],
        mut finals: Option<Finals<'_>>,
    ) -> Result<()> {
        let Pipeline { engine, link, batch, fill, step } = self;
        let stage = link.grid().stage();
        let tasks = stage.schedule(share.len());
        engine.begin_micro_batches(share.clone(), all);
        let mut neighbours = Neighbours::new(link, engine);
        for (task, next) in tasks.iter().zip(tasks.iter().skip(1).map(Some).chain([None])) {
            match *task {
                Forward(task) => {
                    let micro = share.start + task;
                    // The layers between need neither tokens nor targets.
                    if stage.is_first() || stage.is_last() {
                        fill(micro, batch)?;
                    }
                    let step = Step { seed: key(micro), ..*step };
                    neighbours.forward(engine, micro, &batch.tokens, step)?;
                }
                Backward(task) => {
                    let micro = share.start + task;
                    neighbours.backward(engine, micro, &batch.targets, finals.as_mut())?;
                }
            }
            if !neighbours.receives(engine, next) {
                neighbours.send();
            }
        }
        neighbours.finish()
    }
}

/// What is sent, as [`World::exchange`] takes it.
fn borrowed(sent: &[(usize, Vec<f32>)]) -> Vec<(usize, &[f32])> {
    sent.iter().map(|(to, numbers)| (*to, &numbers[..])).collect()
}
