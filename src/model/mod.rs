//! A model as a list of ops, and the program that is recorded from it.
//!
//! Read [`decoder()`] first: it is the model. [`Program::record`] builds it for training, evaluation and
//! generation over the same memory; [`parameters()`] lists the tensors that are saved and loaded.

mod decoder;
mod parameters;

use std::sync::Arc;

use crate::config::{GptConfig, Optimizer, Precision, Recompute, Sum, TrainConfig};
use crate::finetune::FineTune;
use crate::graph::{Graph, Op, Param, Slot};
use crate::kernel::{Dims, Feed, Format, LossScale, rows, state};
use crate::ops::head::{Head, HeadExtend, row_stride};
use crate::ops::{global_norm, optimizer, sample};
use crate::plan::{Limits, Phase, Plan, Role, View};
use crate::tree;

pub use decoder::decoder;
pub use parameters::{
    Schema, adapters, check_finetune, moments, open, open_weights, parameters, schema, trained,
};

/// The numbers of rows of the replays of generation, the longest first.
pub const EXTENDS: [u32; 3] = [64, 8, 1];

/// Returns the number of rows that a replay should feed at most, with `pending` tokens left: the bits are the same in
/// any replay, and up to about 24 rows take less time in replays of 8.
pub fn replay_rows(pending: usize) -> usize {
    let [large, small, _] = EXTENDS.map(|n| n as usize);
    if pending <= 3 * small { small } else { large }
}

/// The uses that a program is recorded for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Uses {
    /// Sequences per micro-batch; 0: no batches, only generation.
    pub batch: usize,
    /// Tokens per sequence.
    pub seq: usize,
    /// Whether and how parameters are updated.
    pub training: Option<Optimizer>,
    /// How many nodes of the sum over an update's micro-batches wait for others at once: 0 where micro-batches are added to
    /// each other in place.
    pub nodes: usize,
    /// Whether training drops activations.
    pub dropout: bool,
    /// Whether the logits of all rows of a batch are needed.
    pub logits: bool,
    /// The number of slots, that is, of sequences that are generated at once; `None`: no generation.
    pub generation: Option<usize>,
    /// The precision of activations and of the weights of products.
    pub precision: Precision,
    /// The activations that the backward pass recomputes.
    pub recompute: Recompute,
}

impl Uses {
    /// Returns the uses of a training run: training, and generation in the same memory.
    pub fn training(config: &TrainConfig, model: &GptConfig) -> Uses {
        Uses {
            batch: config.batch_size,
            seq: config.seq_len.unwrap_or(model.n_positions),
            training: Some(config.optimizer),
            nodes: nodes(config),
            dropout: config.dropout > 0.0,
            logits: false,
            generation: Some(1),
            precision: config.precision,
            recompute: config.recompute,
        }
    }

    /// Returns these uses, plus those of `others` that can be combined with them: one engine scores and generates.
    #[must_use]
    pub(crate) fn beside(self, others: Uses) -> Uses {
        let from = if self.batch > 0 { self } else { others };
        let generation = self.generation.max(others.generation);
        Uses { batch: from.batch, seq: from.seq, generation, ..self }
    }

    /// Whether the loss scale changes: in half precision small gradients would be lost without scaling.
    pub fn loss_scale(&self) -> LossScale {
        match self.precision {
            Precision::F32 => LossScale::Fixed,
            Precision::Mixed => LossScale::Dynamic,
        }
    }
}

/// How many nodes of the sum over an update's micro-batches wait at once, on the rank where they are most. Several ranks
/// that add their gradients always do so along the tree.
fn nodes(config: &TrainConfig) -> usize {
    let TrainConfig { sum, ranks, grad_accum, local, .. } = *config;
    if sum == Sum::Fast && (ranks == 1 || local.is_some()) {
        return 0;
    }
    let shares = (0..ranks).map(|rank| tree::share(grad_accum, rank, ranks));
    shares.map(tree::most_open).max().unwrap_or(0)
}

/// The views for batches.
#[derive(Clone, Copy, Debug)]
pub struct BatchViews {
    /// (B,T)
    pub tokens: View,
    /// (B,T); [`crate::ops::cross_entropy::IGNORE`] where there is no target.
    pub targets: View,
    /// (B,T)
    pub row_loss: View,
    /// (1)
    pub loss: View,
    /// (B,T,V), if needed.
    pub logits: Option<View>,
}

/// The views for updates.
#[derive(Clone, Copy, Debug)]
pub struct UpdateViews {
    /// (2): the norm, -1 if not finite, and the clipping factor.
    pub norm: View,
    /// The state that only the device knows: [`crate::kernel::state`].
    pub state: View,
}

/// The views for generation.
#[derive(Clone, Copy, Debug)]
pub struct GenerationViews {
    /// (R,2): the rows of a replay, of which the shorter ones use the first: [`crate::kernel::rows`].
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
}

impl GenerationViews {
    /// Returns the contents of the tables for a replay of `n` rows with these feeds.
    pub fn tables(&self, n: u32, feeds: &[Feed]) -> Vec<(View, Vec<u32>)> {
        let [rows, slots] = rows::tables(feeds, n as usize, self.slots.len / rows::slot::WORDS);
        vec![(self.rows.slice(0, rows.len()), rows), (self.slots, slots)]
    }
}

/// A model as a plan: recorded once, replayed by any backend.
#[derive(Clone, Debug)]
pub struct Program {
    /// The sizes.
    pub config: GptConfig,
    /// The uses that it was recorded for.
    pub uses: Uses,
    /// The part of the model that is trained.
    pub finetune: FineTune,
    /// The limits of the device that it was recorded for.
    pub limits: Limits,
    /// Buffers, dispatches and phases.
    pub plan: Arc<Plan>,
    /// The parameters and their places.
    pub params: Arc<[Param]>,
    /// The arenas in slices, with gradients and moments.
    pub slots: Vec<Slot>,
    /// Views for batches, unless the program only generates.
    pub batch: Option<BatchViews>,
    /// Views for updates, in training.
    pub update: Option<UpdateViews>,
    /// Gradients and loss, which nodes of the sum over an update's micro-batches keep.
    pub summed: Vec<View>,
    /// Where each node keeps them: [`Uses::nodes`].
    pub nodes: Vec<Vec<View>>,
    /// Views of generation, if text is generated.
    pub generation: Option<GenerationViews>,
}

impl Program {
    /// Records the phases that `uses` asks for, within the limits of a device.
    ///
    /// # Panics
    ///
    /// If the configuration is not valid ([`GptConfig::validate`]).
    pub fn record(config: &GptConfig, uses: Uses, limits: Limits) -> Program {
        Program::record_tuning(config, uses, &FineTune::default(), limits)
    }

    /// Records the same, but training changes only a part of the model.
    ///
    /// # Panics
    ///
    /// As [`Program::record`], and if nothing is trained ([`check_finetune`]).
    pub fn record_tuning(
        config: &GptConfig,
        uses: Uses,
        finetune: &FineTune,
        limits: Limits,
    ) -> Program {
        let moments = uses.training.is_some_and(|optimizer| optimizer != Optimizer::Sgd);
        let mut g = Graph::new(limits, moments, config.layer_norm_epsilon);
        g = g.in_precision(uses.precision).recomputing(uses.recompute).fine_tuning(finetune);
        let batch = (uses.batch > 0).then(|| record_batch(&mut g, config, uses, limits));
        let update = uses.training.map(|optimizer| record_update(&mut g, optimizer, uses, batch));
        let summed = summed(&g, batch.filter(|_| uses.training.is_some()));
        let nodes = g.record_nodes(&summed, uses.nodes);
        let generation = uses.generation.map(|slots| record_generation(&mut g, config, slots));
        g.record_cast();
        let slots = g.slots();
        let (plan, params) = (Arc::new(g.plan), g.params.into());
        let (config, finetune) = (config.clone(), finetune.clone());
        Program {
            config,
            uses,
            finetune,
            limits,
            plan,
            params,
            slots,
            batch,
            update,
            summed,
            nodes,
            generation,
        }
    }

    /// Returns the number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.params.iter().map(|param| param.len()).sum()
    }

    /// Returns the number of parameters that training changes.
    pub fn trained_count(&self) -> usize {
        self.params.iter().filter(|param| param.is_trained()).map(|param| param.len()).sum()
    }

    /// Returns the parameter called `name`.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }
}

fn record_batch(g: &mut Graph, config: &GptConfig, uses: Uses, limits: Limits) -> BatchViews {
    let (b, t, v) = (uses.batch, uses.seq, config.vocab_size);
    match uses.training {
        Some(_) => g.begin_training(b, t),
        None => g.begin_inference(b, t),
    }
    let rows = b * t;
    let tokens = g.buffer(Role::Staging, "tokens", rows, Format::U32);
    let targets = g.buffer(Role::Staging, "targets", rows, Format::U32);
    let row_loss = g.buffer(Role::Staging, "row_loss", rows, Format::F32);
    let loss = g.buffer(Role::Staging, "loss", 1, Format::F32);
    let (x, table) = decoder(g, config, tokens, uses.dropout && uses.training.is_some());
    let chunk = chunk_rows(g, rows, v, limits);
    let logits = g.buffer(Role::Logits, "logits", chunk * row_stride(v), g.format());
    let dims = Dims { C: config.n_embd as u32, V: v as u32, ..g.dims() };
    let state = uses.training.map(|_| state_view(g));
    let head = Head { dims, x, table, targets, logits, row_loss, loss, state };

    g.record_forward(Phase::Forward);
    let start = g.plan.dispatches.len();
    head.forward(&mut g.plan);
    g.plan.end_phase(Phase::Evaluate, start);
    if uses.training.is_some() {
        g.record_backward(Phase::Backward, Some(&head));
    }
    let all = uses.logits.then(|| {
        let out = g.buffer(Role::Logits, "all_logits", rows * v, Format::F32);
        let start = g.plan.dispatches.len();
        head.logits(&mut g.plan, out);
        g.plan.end_phase(Phase::Logits, start);
        out
    });
    BatchViews { tokens, targets, row_loss, loss, logits: all }
}

/// Returns how many of `rows` rows of logits are in memory at once.
fn chunk_rows(g: &Graph, rows: usize, v: usize, limits: Limits) -> usize {
    let row_bytes = g.format().bytes(row_stride(v));
    let most = (limits.logits_bytes.min(limits.binding_bytes) / row_bytes) as usize;
    let unit = g.slice_rows();
    if most >= rows { rows } else { (most / unit * unit).max(unit.min(rows)) }
}

/// Returns the view of the state that only the device knows; creates it at the first call.
fn state_view(g: &mut Graph) -> View {
    g.buffer(Role::Staging, "state", state::LEN, Format::U32)
}

fn record_update(
    g: &mut Graph,
    optimizer: Optimizer,
    uses: Uses,
    batch: Option<BatchViews>,
) -> UpdateViews {
    let loss = batch.expect("training has batches").loss;
    let slots = g.slots();
    let grads: Vec<View> = slots.iter().map(|slot| slot.grads).collect();
    let len = global_norm::partials_len(&grads);
    let partials = g.buffer(Role::Staging, "norm.partials", len, Format::F32);
    let norm = g.buffer(Role::Staging, "norm", 2, Format::F32);
    let state = state_view(g);
    let start = g.plan.dispatches.len();
    let views = global_norm::NormViews { partials, loss, norm, state };
    global_norm::record(&mut g.plan, &grads, views, uses.loss_scale());
    for slot in &slots {
        optimizer::record(&mut g.plan, optimizer, slot, norm, state);
    }
    g.plan.end_phase(Phase::Update, start);
    UpdateViews { norm, state }
}

/// What is summed over the micro-batches of an update.
fn summed(g: &Graph, batch: Option<BatchViews>) -> Vec<View> {
    let grads = g.slots().into_iter().map(|slot| slot.grads);
    batch.map_or(vec![], |batch| grads.chain([batch.loss]).collect())
}

fn record_generation(g: &mut Graph, config: &GptConfig, count: usize) -> GenerationViews {
    let GptConfig { n_embd: c, vocab_size: v, n_positions: s, .. } = *config;
    let mut views = None;
    for n in EXTENDS {
        g.begin_extend(n as usize, count);
        let (rows, slots) = (g.rows_table(), g.slots_table());
        let sequence = g.buffer(Role::Staging, "sequence", count * (s + 1), Format::U32);
        let (x, table) = decoder(g, config, sequence, false);
        let logits = g.buffer(Role::Logits, "last_logits", count * v, Format::F32);
        let dims = Dims { C: c as u32, LD: v as u32, ..g.dims() };
        g.push(HeadExtend { dims, slots, x: x.value, table, logits });
        g.record_forward(Phase::Extend(n));
        let dims = Dims { V: v as u32, S: s as u32, ..g.dims() };
        views = views.or(Some((dims, rows, slots, sequence, logits)));
    }
    let (dims, rows, slots, sequence, logits) = views.expect("EXTENDS is not empty");
    let seen = g.buffer(Role::Staging, "seen", count * v, Format::U32);
    let probs = g.buffer(Role::Logits, "probs", count * v, Format::F32);
    let start = g.plan.dispatches.len();
    g.plan.push(&sample::FILTER, dims, &[slots, seen, logits, probs]);
    g.plan.push(&sample::DRAW, dims, &[slots, rows, probs, sequence, seen]);
    g.plan.end_phase(Phase::Sample, start);
    GenerationViews { rows, slots, sequence, seen, logits, probs }
}
