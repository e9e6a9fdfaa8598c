//! Generation: replays of different numbers of rows over the same slots, the draws after them, and what a server needs besides.

use super::decoder::{Input, Output, decoder};
use super::{Uses, stage};
use crate::config::GptConfig;
use crate::graph::{Graph, Op, Slice};
use crate::kernel::{Dims, Feed, Format, rows};
use crate::ops::head::HeadExtend;
use crate::ops::{attention, sample};
use crate::plan::{Phase, Role, View};

/// The numbers of rows of the replays of generation, the longest first.
pub const EXTENDS: [u32; 4] = [64, 16, 8, 1];

/// Returns the number of rows that a replay should feed at most, with `pending` tokens left: the bits are the same in
/// any replay, and up to about 32 rows take less time in replays of 16 than in one of 64, most of which is masked.
pub fn replay_rows(pending: usize) -> usize {
    let [large, middle, small, _] = EXTENDS.map(|n| n as usize);
    match pending {
        _ if pending <= small => small,
        _ if pending <= 2 * middle => middle,
        _ => large,
    }
}

/// The views for generation. In a pipeline the first stage uses the sequences, the last one what tokens are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct GenerationViews {
    /// (R,[`ROW_WORDS`](crate::kernel::rows::ROW_WORDS)): the rows of a replay, of which the shorter ones use the first: [`crate::kernel::rows`].
    pub rows: View,
    /// (SLOTS,[`slot::WORDS`](crate::kernel::rows::slot)): how the slots draw tokens.
    pub slots: View,
    /// (SLOTS,S+1): the tokens of each slot's sequence.
    pub sequence: View,
    /// (SLOTS,V): 1 for tokens that have occurred so far.
    pub seen: View,
    /// (SLOTS,V): the logits from which each slot last drew.
    pub logits: View,
    /// (SLOTS,V): the probabilities from which each slot's next token is drawn.
    pub probs: View,
    /// (R,C): the stream of the rows from the stage before.
    pub received: Option<View>,
    /// (R,C): the stream of the rows for the stage after.
    pub sent: Option<View>,
    /// What only a server needs.
    pub serving: Option<ServingViews>,
}

/// The views for generation that serves others.
#[derive(Clone, Copy, Debug)]
pub struct ServingViews {
    /// ([`rows::COPY_WORDS`]): the copy that is made.
    pub copied: View,
    /// (R,[`slot::WORDS`](crate::kernel::rows::slot)): the rows of a replay whose logits are computed.
    pub scored: View,
    /// (R,V): the logits of each row.
    pub scores: View,
}

impl GenerationViews {
    /// Returns the contents of the tables for a replay of `n` rows with these feeds.
    pub fn tables(&self, n: u32, feeds: &[Feed]) -> Vec<(View, Vec<u32>)> {
        let [rows, slots] = rows::tables(feeds, n as usize, self.slots.len / rows::slot::WORDS);
        vec![(self.rows.slice(0, rows.len()), rows), (self.slots, slots)]
    }
}

/// Records the replays of generation in `count` slots, and the draws after them.
pub(super) fn record_generation(
    g: &mut Graph,
    config: &GptConfig,
    uses: Uses,
    count: usize,
) -> GenerationViews {
    let (c, v, s) = (config.n_embd, config.vocab_size, uses.context(config));
    let mut views = None;
    for n in EXTENDS {
        g.begin_extend(n as usize, count, s);
        let (rows, slots) = (g.rows_table(), g.slots_table());
        let sequence = g.buffer(Role::Staging, "sequence", count * (s + 1), Format::U32);
        let (input, received) = match uses.stage.is_first() {
            true => (Input::Tokens(sequence), None),
            false => {
                let stream = stage::received(g, config, false);
                (Input::Stream(stream), Some(stream.value))
            }
        };
        let output = decoder(g, config, uses.stage.layers(config.n_layer), input, false);
        let logits = g.buffer(Role::Logits, "last_logits", count * v, Format::F32);
        let dims = Dims { C: c as u32, LD: v as u32, ..g.dims() };
        let (sent, head) = match output {
            Output::Stream(stream) => (Some(stream.value), None),
            Output::Normed(x, table) => {
                g.push(HeadExtend { dims, slots, x: x.value, table: table.clone(), logits });
                (None, Some((x.value, table)))
            }
        };
        g.record_forward(Phase::Extend(n));
        let serving =
            head.filter(|_| uses.serving).map(|(x, table)| record_serving(g, dims, x, table));
        let dims = Dims { V: v as u32, S: s as u32, ..g.dims() };
        let seen = g.buffer(Role::Staging, "seen", count * v, Format::U32);
        let probs = g.buffer(Role::Logits, "probs", count * v, Format::F32);
        let these =
            GenerationViews { rows, slots, sequence, seen, logits, probs, received, sent, serving };
        views = views.or(Some((dims, these)));
    }
    let (dims, views) = views.expect("EXTENDS is not empty");
    if uses.stage.is_last() {
        record_sample(g, dims, &views);
    }
    views
}

/// Records what a server needs beside the replay of `dims.T` rows: the logits of every row of `x` (T,C), and once the
/// copies between slots.
fn record_serving(g: &mut Graph, dims: Dims, x: View, table: Vec<Slice>) -> ServingViews {
    let (n, v) = (dims.T as usize, dims.LD as usize);
    let copied = g.buffer(Role::Staging, "copied", rows::COPY_WORDS, Format::U32);
    let scored = g.buffer(Role::Staging, "scored", n * rows::slot::WORDS, Format::U32);
    let scores = g.buffer(Role::Logits, "scores", n * v, Format::F32);
    if !g.plan.phases.contains_key(&Phase::Copy) {
        attention::record_copies(&mut g.plan, Phase::Extend(dims.T), copied);
    }
    let start = g.plan.dispatches.len();
    let dims = Dims { SLOTS: dims.T, ..dims };
    HeadExtend { dims, slots: scored, x, table, logits: scores }.forward(&mut g.plan);
    g.plan.end_phase(Phase::Score(dims.T), start);
    ServingViews { copied, scored, scores }
}

fn record_sample(g: &mut Graph, dims: Dims, views: &GenerationViews) {
    let GenerationViews { rows, slots, sequence, seen, logits, probs, .. } = *views;
    let start = g.plan.dispatches.len();
    g.plan.push(&sample::FILTER, dims, &[slots, seen, logits, probs]);
    g.plan.push(&sample::DRAW, dims, &[slots, rows, probs, sequence, seen]);
    g.plan.end_phase(Phase::Sample, start);
}
