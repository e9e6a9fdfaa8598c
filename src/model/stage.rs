//! A stage of a pipeline as a part of the model: what it receives, what it sends, and what came before it.

use super::Uses;
use super::decoder::{Input, Output, decoder};
use crate::config::GptConfig;
use crate::finetune::FineTune;
use crate::graph::{Graph, Op, Recorder, Sharing, Var};
use crate::kernel::Format;
use crate::plan::{Limits, Phase, Plan, Role, View};

/// The views of one of the micro-batches that a stage keeps at once.
///
/// A stage has its tokens, the starts of documents and the received stream for each of them. The stream that is sent, and the gradients of both
/// streams, are the same memory for all: they are to be read before the next pass.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// (B,T): the tokens, on the first stage.
    pub tokens: Option<View>,
    /// (B,T): where the document of each row begins.
    pub starts: View,
    /// (B,T,C): the stream from the stage before; its gradient, which it has if anything before is trained, goes back.
    pub received: Option<Var>,
    /// (B,T,C): the stream for the stage after; its gradient, which it has if anything so far is trained, comes back.
    pub sent: Option<Var>,
}

/// What the layers before a stage leave to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    /// How many of their ops drop activations: the stage goes on counting, so that its masks are the whole model's.
    dropouts: u32,
    /// Whether any of their parameters is trained, so that the stream has a gradient.
    is_trained: bool,
}

impl Before {
    /// Builds the layers before the stage, to see what they are.
    pub(super) fn of(config: &GptConfig, uses: Uses, finetune: &FineTune) -> Before {
        let layers = 0..uses.stage.layers(config.n_layer).start;
        if uses.stage.is_first() || uses.training.is_none() {
            return Before::default();
        }
        let mut g = Graph::new(Limits::NONE, false, config.layer_norm_epsilon);
        g = g.fine_tuning(finetune);
        g.begin_training(1, 1);
        let tokens = g.buffer(Role::Staging, "tokens", 1, Format::U32);
        match decoder(&mut g, config, layers, Input::Tokens(tokens), uses.dropout) {
            Output::Stream(stream) => {
                Before { dropouts: g.dropouts(), is_trained: stream.has_grad() }
            }
            Output::Normed(..) => unreachable!("the stage has layers of its own"),
        }
    }
}

/// Builds another stage of the same pipeline, to see what its parameters are.
pub(super) fn list(g: &Graph, config: &GptConfig, uses: Uses, finetune: &FineTune) -> Graph {
    let mut other = Graph::new(g.limits(), false, config.layer_norm_epsilon);
    other = other.in_precision(g.precision()).fine_tuning(finetune);
    other.begin_training(1, 1);
    build(&mut other, config, uses, Before::of(config, uses, finetune));
    other
}

/// Builds the stage's layers over a micro-batch.
pub(super) fn build(
    g: &mut Graph,
    config: &GptConfig,
    uses: Uses,
    before: Before,
) -> (Flight, Output) {
    let (mut tokens, mut received_stream) = (None, None);
    g.skip_dropouts(before.dropouts);
    let input = match uses.stage.is_first() {
        true => {
            let name = g.name_in_flight("tokens");
            Input::Tokens(*tokens.insert(tokens_of(g, &name)))
        }
        false => {
            let stream = received(g, config, before.is_trained);
            Input::Stream(*received_stream.insert(stream))
        }
    };
    let dropout = uses.dropout && uses.training.is_some();
    let output = decoder(g, config, uses.stage.layers(config.n_layer), input, dropout);
    let sent = match &output {
        Output::Stream(stream) => Some(*stream),
        Output::Normed(..) => None,
    };
    // The ops have made it.
    let starts = g.document_starts();
    (Flight { tokens, starts, received: received_stream, sent }, output)
}

/// Returns the tokens (B,T).
pub(super) fn tokens_of(g: &mut Graph, name: &str) -> View {
    let rows = g.rows();
    g.buffer(Role::Staging, name, rows, Format::U32)
}

/// Returns the stream (B,T,C) from the stage before.
pub(super) fn received(g: &mut Graph, config: &GptConfig, has_grad: bool) -> Var {
    g.stream_of("received", config.n_embd, Sharing::InBlocks, has_grad)
}

/// Records both passes of a stage that sends the stream on.
pub(super) fn record(g: &mut Graph, uses: Uses, number: usize, sent: Var) {
    g.record_forward(Phase::forward_of(number));
    if uses.training.is_some() {
        g.record_backward(Phase::backward_of(number), Some(&Returned(sent)));
    }
}

/// Records both passes over the other micro-batches in flight.
pub(super) fn record_others(
    g: &mut Graph,
    config: &GptConfig,
    uses: Uses,
    before: Before,
) -> Vec<Flight> {
    let others = 1..uses.flights();
    let record_one = |number| {
        g.begin_flight(number, uses.batch, uses.seq);
        let (flight, _) = build(g, config, uses, before);
        record(g, uses, number, flight.sent.expect("the last stage has one micro-batch at a time"));
        flight
    };
    others.map(record_one).collect()
}

/// The gradient of the stream that a stage has sent, which comes back before its backward pass.
struct Returned(Var);

impl Op for Returned {
    fn forward(&self, _: &mut Plan) {}

    fn backward(&self, recorder: &mut Recorder<'_>) {
        recorder.contribution(self.0.grad);
    }
}
