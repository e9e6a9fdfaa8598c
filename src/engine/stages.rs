//! A stage of a pipeline on an engine: passes over micro-batches in flight, between which streams and their gradients
//! come from other stages and go to them. How they get there is the caller's business.
//!
//! An update is [`Engine::begin_micro_batches`], then the tasks of [`Stage::schedule`](crate::pipeline::Stage::schedule):
//!
//! ```text
//! Forward(m):  receive the stream    forward_micro_batch    request_sent, take_stream              send the stream
//! Backward(m): receive its gradient  backward_micro_batch   request_sent_gradient, take_stream     send the gradient
//! ```
//!
//! Before [`Engine::update`], the first and the last stage add up their gradients of the token table, and all stages get
//! the last one's loss and agree on the norm of all gradients.

use std::ops::Range;

use super::{Engine, Finals, Gradients};
use crate::backend::{MOST_REQUESTED, Out, Ticket};
use crate::error::Result;
use crate::kernel::{Feed, Step};
use crate::model::Flight;
use crate::plan::{Phase, View};

/// What a stage's forward pass begins with.
#[derive(Clone, Copy, Debug)]
pub enum FromBefore<'a> {
    /// The tokens (B,T), on the first stage.
    Tokens(&'a [u32]),
    /// The stream (B,T,C) that the stage before has sent.
    Stream(&'a [f32]),
}

/// What a stage's backward pass begins with.
#[derive(Clone, Copy, Debug)]
pub enum FromAfter<'a> {
    /// The targets (B,T), on the last stage.
    Targets(&'a [u32]),
    /// The gradient (B,T,C) of the stream that this stage has sent.
    Gradient(&'a [f32]),
    /// Nothing: neither this stage nor one before it trains anything.
    Nothing,
}

/// A stream, or the gradient of one, that was requested from an engine; only that engine can return it.
#[must_use = "what was requested is to be taken"]
#[derive(Debug)]
pub struct StreamTicket {
    len: usize,
    parts: Vec<Ticket>,
}

impl Engine {
    /// Returns the views of the micro-batch in flight number `flight`.
    fn flight(&self, flight: usize) -> Flight {
        let flights = &self.program.flights;
        assert!(!flights.is_empty(), "the program was recorded with batches");
        flights[flight]
    }

    /// Whether the stage before is to get a gradient after each backward pass.
    pub fn sends_gradients(&self) -> bool {
        self.flight(0).received.is_some_and(|stream| stream.has_grad())
    }

    /// Whether the stage after is to send a gradient before each backward pass: whether this stage or one before it trains
    /// anything.
    pub fn needs_gradients(&self) -> bool {
        self.flight(0).sent.is_some_and(|stream| stream.has_grad())
    }

    /// Begins the passes over the micro-batches `range` of an update in which `all` targets count.
    ///
    /// Their gradients are added as by [`Engine::train_micro_batches`], and [`Engine::update`] uses them.
    pub fn begin_micro_batches(&mut self, range: Range<usize>, all: usize) {
        self.begin_sum(range, all);
        self.flying = vec![None; self.program.flights.len()];
    }

    /// Runs the forward pass of micro-batch number `micro`, which stays in flight until its backward pass; `step` has
    /// its random key and the dropout. [`Engine::request_sent`] then gives the stream for the stage after.
    ///
    /// # Panics
    ///
    /// Before [`Engine::begin_micro_batches`], if more micro-batches would be in flight than were recorded, or if what
    /// comes from the stage before has another length than it should, or ids that are not in the vocabulary.
    pub fn forward_micro_batch(&mut self, micro: usize, from: FromBefore<'_>, step: Step) {
        self.gradients = Gradients::InUse;
        self.lengths.fill(0);
        let flight = self.flight_of(micro);
        if let Some((older, _)) = self.flying[flight].replace((micro, step)) {
            panic!("micro-batch {older} is still in flight: run its backward pass before {micro}");
        }
        self.write_before(self.flight(flight), from);
        self.run(Phase::forward_of(flight), &step);
    }

    /// Runs the backward pass of micro-batch number `micro`: that of the oldest in flight. Its gradients are added to
    /// those before it. [`Engine::request_sent_gradient`] then gives the gradient for the stage before.
    ///
    /// On the last stage the loss is added up, too, in the same way. `finals` are as in [`Engine::train_micro_batches`].
    ///
    /// # Errors
    ///
    /// The first of `finals`, or if the device is lost.
    ///
    /// # Panics
    ///
    /// If it is not the turn of this micro-batch, or if what comes from the stage after has another length than it
    /// should, or ids that are neither in the vocabulary nor [`IGNORE`](crate::ops::cross_entropy::IGNORE).
    pub fn backward_micro_batch(
        &mut self,
        micro: usize,
        from: FromAfter<'_>,
        finals: Option<&mut Finals<'_>>,
    ) -> Result<()> {
        let flight = self.flight_of(micro);
        let flying = self.flying[flight].take();
        let (of, step) = flying.unwrap_or_else(|| panic!("micro-batch {micro} is not in flight"));
        assert_eq!((of, self.sum.next()), (micro, micro), "backward passes come in order");
        self.write_after(self.flight(flight), from);
        let step = self.sum.step(step);
        self.backward_and_add(Phase::backward_of(flight), &step, finals)
    }

    /// Overwrites where the documents of micro-batch number `micro` begin: [`Engine::write_document_starts`]. On each stage it
    /// comes before the forward pass, whose micro-batch keeps it until its backward pass.
    ///
    /// # Panics
    ///
    /// Before [`Engine::begin_micro_batches`], or if `starts` is not (B,T).
    pub fn write_micro_batch_starts(&mut self, micro: usize, starts: &[u32]) {
        let view = self.flight(self.flight_of(micro)).starts;
        self.backend.write_u32(view, starts);
    }

    /// Runs the forward pass of a batch that is not trained on. On the last stage [`Engine::request_losses`] then
    /// computes its losses, on the others [`Engine::request_sent`] gives the stream for the stage after.
    ///
    /// # Panics
    ///
    /// While micro-batches are in flight, and as [`Engine::forward_micro_batch`].
    pub fn forward_batch(&mut self, from: FromBefore<'_>) {
        assert!(self.flying.iter().all(Option::is_none), "micro-batches are in flight");
        self.write_before(self.flight(0), from);
        self.run(Phase::Forward, &Step::default());
    }

    /// Requests the stream (B,T,C) that the last forward pass has made for the stage after; does not wait for the device.
    ///
    /// # Panics
    ///
    /// On the last stage.
    pub fn request_sent(&mut self) -> StreamTicket {
        let stream = self.flight(0).sent.expect("there is a stage after this one");
        self.request_stream(stream.value)
    }

    /// Requests the gradient (B,T,C) that the last backward pass has made for the stage before; does not wait for the
    /// device.
    ///
    /// # Panics
    ///
    /// Unless [`Engine::sends_gradients`].
    pub fn request_sent_gradient(&mut self) -> StreamTicket {
        let stream = self.flight(0).received.filter(|stream| stream.has_grad());
        self.request_stream(stream.expect("a stage before this one trains").grad)
    }

    /// Returns what was requested; waits for the device if necessary.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the ticket belongs to another engine.
    pub fn take_stream(&mut self, ticket: StreamTicket) -> Result<Vec<f32>> {
        let mut numbers = vec![0.0; ticket.len];
        let parts = ticket.parts.into_iter().zip(numbers.chunks_mut(MOST_REQUESTED));
        self.copies(|engine| {
            parts
                .into_iter()
                .try_for_each(|(part, out)| engine.backend.take(part, &mut [Out::Reals(out)]))
        })?;
        Ok(numbers)
    }

    /// Does the same as [`Engine::extend`] on a stage that is not the first: `stream` (rows,C) has the rows of the fed
    /// tokens, in order, as [`Engine::request_rows`] gave them on the stage before.
    ///
    /// # Panics
    ///
    /// As [`Engine::extend`], on the first stage, or if `stream` does not have a row for each token.
    pub fn extend_received(&mut self, feeds: &[Feed], stream: &[f32]) {
        let n = self.write_feeds(feeds);
        let (c, count) =
            (self.program.config.n_embd, feeds.iter().map(|feed| feed.count).sum::<usize>());
        assert_eq!(stream.len(), count * c, "a row of {c} channels for each of {count} tokens");
        let view = self.generation_views().received.expect("there is a stage before this one");
        // The rows after them are masked: they only must be numbers.
        let mut rows = stream.to_vec();
        rows.resize(n as usize * c, 0.0);
        self.backend.write(view.slice(0, rows.len()), &rows);
        self.run(Phase::Extend(n), &Step::default());
    }

    /// Requests the stream (rows,C) of the `rows` tokens that [`Engine::extend`] has fed, for the stage after; does not
    /// wait for the device.
    ///
    /// # Panics
    ///
    /// On the last stage.
    pub fn request_rows(&mut self, rows: usize) -> StreamTicket {
        let view = self.generation_views().sent.expect("there is a stage after this one");
        self.request_stream(view.slice(0, rows * self.program.config.n_embd))
    }

    fn request_stream(&mut self, view: View) -> StreamTicket {
        let starts = (0..view.len).step_by(MOST_REQUESTED);
        let part = |start| view.slice(start, MOST_REQUESTED.min(view.len - start));
        let request = |engine: &mut Engine| {
            starts.map(|start| engine.backend.request(&[part(start)])).collect()
        };
        let parts = self.copies(request);
        StreamTicket { len: view.len, parts }
    }

    /// Returns which of the micro-batches in flight at once `micro` is.
    fn flight_of(&self, micro: usize) -> usize {
        assert!(!self.flying.is_empty(), "`Engine::begin_micro_batches` comes first");
        micro % self.flying.len()
    }

    fn write_before(&mut self, flight: Flight, from: FromBefore<'_>) {
        match (from, flight) {
            (FromBefore::Tokens(tokens), Flight { tokens: Some(view), .. }) => {
                self.check_tokens(tokens);
                self.backend.write_u32(view, tokens);
            }
            (FromBefore::Stream(stream), Flight { received: Some(view), .. }) => {
                self.copies(|engine| engine.backend.write(view.value, stream));
            }
            _ => panic!("the first stage takes tokens, the others take the stream"),
        }
    }

    fn write_after(&mut self, flight: Flight, from: FromAfter<'_>) {
        match (from, flight.sent) {
            (FromAfter::Targets(targets), None) => self.write_targets(targets),
            (FromAfter::Gradient(gradient), Some(stream)) if stream.has_grad() => {
                self.copies(|engine| engine.backend.write(stream.grad, gradient));
            }
            (FromAfter::Nothing, Some(stream)) if !stream.has_grad() => {}
            _ => panic!("the last stage takes targets, the others a gradient if there is one"),
        }
    }
}
