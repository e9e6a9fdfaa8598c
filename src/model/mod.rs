//! A model as a list of ops, and the program that is recorded from it.
//!
//! Read [`decoder()`] first: it is the model. [`Program::record`] builds it for training, evaluation and
//! generation over the same memory; [`parameters()`] lists the tensors that are saved and loaded.

mod buckets;
mod decoder;
mod generation;
mod parameters;
mod split;
mod stage;

use std::ops::Range;
use std::sync::Arc;

use crate::config::{GptConfig, Optimizer, Precision, Recompute, Sum, TrainConfig, WeightFormat};
use crate::finetune::FineTune;
use crate::graph::{Graph, Op, Param, Slice, Slot, Var};
use crate::kernel::{Dims, Format, LossScale, state};
use crate::ops::global_norm::{self, NormViews};
use crate::ops::head::{Head, row_stride};
use crate::ops::optimizer;
use crate::pipeline::Stage;
use crate::plan::{Dispatch, Limits, Phase, Plan, Role, View};
use crate::tree;

pub use buckets::{BUCKET, Bucket, buckets};
pub use decoder::{Input, Output, decoder};
use generation::record_generation;
pub use generation::{EXTENDS, GenerationViews, ServingViews, replay_rows};
pub use parameters::{
    Schema, adapters, check_finetune, moments, open, open_weights, parameters, schema, trained,
};
use stage::Before;
pub use stage::Flight;

pub use split::{Part, Split};

/// The uses that a program is recorded for.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Which part of the optimiser's state this rank has, if ranks split it.
    pub part: Option<Part>,
    /// Whether training drops activations.
    pub dropout: bool,
    /// Whether the logits of all rows of a batch are needed.
    pub logits: bool,
    /// The number of slots, that is, of sequences that are generated at once; `None`: no generation.
    pub generation: Option<usize>,
    /// Whether generation serves others: sequences may begin with a copy of another slot's, and the logits of every row of a
    /// replay can be computed.
    pub serving: bool,
    /// The positions that each slot has room for, if they are fewer than the model's.
    pub context: Option<usize>,
    /// The precision of activations and of the weights of products.
    pub precision: Precision,
    /// The format in which matrices are stored, unless they are trained.
    pub weights: WeightFormat,
    /// The activations that the backward pass recomputes.
    pub recompute: Recompute,
    /// The part of the model, in a pipeline.
    pub stage: Stage,
    /// How many micro-batches are between their forward and their backward pass at once: [`Stage::in_flight`].
    pub in_flight: usize,
}

impl Default for Uses {
    /// No uses, in single precision, of the whole model.
    fn default() -> Uses {
        Uses {
            batch: 0,
            seq: 0,
            training: None,
            nodes: 0,
            part: None,
            dropout: false,
            logits: false,
            generation: None,
            serving: false,
            context: None,
            precision: Precision::default(),
            weights: WeightFormat::default(),
            recompute: Recompute::default(),
            stage: Stage::WHOLE,
            in_flight: 1,
        }
    }
}

impl Uses {
    /// Returns these uses on one stage of a pipeline, whose updates have `micro_batches` micro-batches.
    #[must_use]
    pub fn of_stage(self, stage: Stage, micro_batches: usize) -> Uses {
        Uses { stage, in_flight: stage.in_flight(micro_batches), ..self }
    }

    /// Returns the uses of a training run: training, and generation in the same memory.
    pub fn training(config: &TrainConfig, model: &GptConfig) -> Uses {
        let (grid, most) = (config.grid(), config.shares().iter().map(Range::len).max());
        let seq = config.seq_len.unwrap_or(model.n_positions);
        let uses = Uses {
            batch: config.batch_size,
            seq,
            training: Some(config.optimizer),
            nodes: nodes(config),
            part: (config.zero && grid.replicas() > 1)
                .then_some(Part { rank: grid.replica(), size: grid.replicas() }),
            dropout: config.dropout > 0.0,
            logits: false,
            generation: Some(1),
            // Caches for more than the sequences of training would take memory for samples alone.
            context: Some(seq).filter(|seq| *seq < model.n_positions),
            precision: config.precision,
            recompute: config.recompute,
            ..Uses::default()
        };
        uses.of_stage(grid.stage(), most.unwrap_or(1))
    }

    /// Returns these uses, plus those of `others` that can be combined with them: one engine scores and generates.
    #[must_use]
    pub(crate) fn beside(self, others: Uses) -> Uses {
        let from = if self.batch > 0 { self } else { others };
        let generation = self.generation.max(others.generation);
        let context = if self.generation.is_some() { self.context } else { others.context };
        Uses { batch: from.batch, seq: from.seq, generation, context, ..self }
    }

    /// Returns the positions that a slot of a model has room for.
    pub fn context(&self, config: &GptConfig) -> usize {
        self.context.map_or(config.n_positions, |context| context.min(config.n_positions))
    }

    /// Returns how many micro-batches the program has room for.
    fn flights(&self) -> usize {
        if self.training.is_some() { self.in_flight } else { 1 }
    }
}

/// How many nodes of the sum over an update's micro-batches wait at once, on the rank where they are most. Where the ranks'
/// shares are still to be measured, there is room for any.
fn nodes(config: &TrainConfig) -> usize {
    match config.sum {
        Sum::Fast => 0,
        Sum::Exact if config.is_unmeasured() => {
            tree::most_open_of_any(config.grad_accum, config.ranks)
        }
        Sum::Exact => config.shares().into_iter().map(tree::most_open).max().unwrap_or(0),
    }
}

/// The views for batches. In a pipeline the first stage uses the tokens, every stage the starts, the last one the others;
/// the update of every stage reads the loss.
#[derive(Clone, Copy, Debug)]
pub struct BatchViews {
    /// (B,T)
    pub tokens: View,
    /// (B,T): where the document of each row begins, a position of its sequence.
    pub starts: View,
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
    /// The trained parameters that this rank updates, in slices, with gradients and moments.
    pub slots: Vec<Slot>,
    /// Views for batches, unless the program only generates.
    pub batch: Option<BatchViews>,
    /// The views of each micro-batch that is in flight at once; of batches without training, one.
    pub flights: Vec<Flight>,
    /// Views for updates, in training.
    pub update: Option<UpdateViews>,
    /// What ranks tell each other in an update, if they split the optimiser's state.
    pub split: Option<Split>,
    /// Gradients and loss, which nodes of the sum over an update's micro-batches keep.
    pub summed: Vec<View>,
    /// Where each node keeps them: [`Uses::nodes`].
    pub nodes: Vec<Vec<View>>,
    /// Views of generation, if text is generated.
    pub generation: Option<GenerationViews>,
    /// Whether an update changes the loss scale.
    pub loss_scale: LossScale,
}

impl Program {
    /// Returns the positions that a slot has room for.
    pub fn context(&self) -> usize {
        self.uses.context(&self.config)
    }

    /// Records the phases that `uses` asks for, within the limits of a device.
    ///
    /// # Panics
    ///
    /// If the configuration is not valid ([`GptConfig::validate`]), or the stage has no layers
    /// ([`pipeline::check`](crate::pipeline::check)).
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
        let moments = moments && uses.part.is_none();
        let mut g = Graph::new(limits, moments, config.layer_norm_epsilon);
        g = g.in_precision(uses.precision).recomputing(uses.recompute).fine_tuning(finetune);
        let weights = if uses.training.is_some() { WeightFormat::F32 } else { uses.weights };
        g = g.storing(weights);
        g = g.with_flights(uses.flights()).splitting_weights(splits_weights(uses, finetune));
        let (batch, flights) = match uses.batch {
            0 => (None, vec![]),
            _ => {
                let (batch, flights) = record_batch(&mut g, config, uses, finetune);
                (Some(batch), flights)
            }
        };
        let update = uses.training.map(|optimizer| {
            let loss = batch.expect("training has batches").loss;
            record_update(&mut g, config, optimizer, uses, finetune, loss)
        });
        let (update, split, slots) = update
            .map_or((None, None, vec![]), |(update, split, slots)| (Some(update), split, slots));
        let summed = summed(&g, batch.filter(|_| uses.training.is_some()));
        let nodes = g.record_nodes(&summed, uses.nodes);
        let generation =
            uses.generation.map(|slots| record_generation(&mut g, config, uses, slots));
        g.record_cast();
        let loss_scale = LossScale::of(g.format());
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
            flights,
            update,
            split,
            summed,
            nodes,
            generation,
            loss_scale,
        }
    }

    /// Returns the format of numbers of half the size, if there are such activations.
    pub fn half(&self) -> Option<Format> {
        (self.uses.precision == Precision::Mixed).then_some(self.limits.half)
    }

    /// Returns the same program with a loss scale that changes or does not.
    #[must_use]
    pub fn with_loss_scale(self, loss_scale: LossScale) -> Program {
        let mut plan = Plan::clone(&self.plan);
        let finish = |dispatch: &&mut Dispatch| dispatch.kernel.name == global_norm::FINISH.name;
        let all = plan.dispatches.iter_mut().filter(finish);
        all.for_each(|dispatch| dispatch.dims.ID = loss_scale as u32);
        Program { plan: Arc::new(plan), loss_scale, ..self }
    }

    /// Returns the number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.params.iter().map(|param| param.len()).sum()
    }

    /// Returns the number of parameters that training changes.
    pub fn trained_count(&self) -> usize {
        self.params.iter().filter(|param| param.is_trained()).map(|param| param.len()).sum()
    }

    /// Whether each rank has only a part of the matrices in single precision, maybe none.
    pub fn splits_weights(&self) -> bool {
        splits_weights(self.uses, &self.finetune)
    }

    /// Returns the parameter called `name`.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }
}

/// Whether ranks split the trained matrices in single precision; adapters are too small for that.
fn splits_weights(uses: Uses, finetune: &FineTune) -> bool {
    uses.part.is_some() && uses.precision == Precision::Mixed && finetune.lora.is_none()
}

fn record_batch(
    g: &mut Graph,
    config: &GptConfig,
    uses: Uses,
    finetune: &FineTune,
) -> (BatchViews, Vec<Flight>) {
    let (b, t) = (uses.batch, uses.seq);
    match uses.training {
        Some(_) => g.begin_training(b, t),
        None => g.begin_inference(b, t),
    }
    let rows = b * t;
    let tokens = stage::tokens_of(g, "tokens");
    let targets = g.buffer(Role::Staging, "targets", rows, Format::U32);
    let row_loss = g.buffer(Role::Staging, "row_loss", rows, Format::F32);
    let loss = g.buffer(Role::Staging, "loss", 1, Format::F32);
    let before = Before::of(config, uses, finetune);
    let (first, output) = stage::build(g, config, uses, before);
    let starts = first.starts;
    let batch = BatchViews { tokens, starts, targets, row_loss, loss, logits: None };
    match output {
        Output::Normed(x, table) => {
            let logits = record_head(g, config, uses, batch, x, table);
            (BatchViews { logits, ..batch }, vec![first])
        }
        Output::Stream(sent) => {
            stage::record(g, uses, 0, sent);
            let others = stage::record_others(g, config, uses, before);
            (batch, [first].into_iter().chain(others).collect())
        }
    }
}

/// Records the phases of a list that ends with the head; returns the view of all logits, if they are needed.
fn record_head(
    g: &mut Graph,
    config: &GptConfig,
    uses: Uses,
    batch: BatchViews,
    x: Var,
    table: Vec<Slice>,
) -> Option<View> {
    let BatchViews { targets, row_loss, loss, .. } = batch;
    let (rows, v) = (g.rows(), config.vocab_size);
    let has_grad = table.iter().any(|slice| slice.var.has_grad());
    let chunk = chunk_rows(g, rows, v, uses.training.is_some() && !has_grad);
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
    uses.logits.then(|| {
        let out = g.buffer(Role::Logits, "all_logits", rows * v, Format::F32);
        let start = g.plan.dispatches.len();
        head.logits(&mut g.plan, out);
        g.plan.end_phase(Phase::Logits, start);
        out
    })
}

/// The most bytes of logits at once in training if the table is frozen: there is no gradient to which each chunk of rows adds,
/// so that more chunks cost little.
const LOGITS_OF_FROZEN: u64 = 32 << 20;

/// Returns how many of `rows` rows of logits are in memory at once.
fn chunk_rows(g: &Graph, rows: usize, v: usize, is_frozen: bool) -> usize {
    let (limits, row_bytes) = (g.limits(), g.format().bytes(row_stride(v)));
    let most = limits.logits_bytes.min(if is_frozen { LOGITS_OF_FROZEN } else { u64::MAX });
    let most = (most.min(limits.binding_bytes) / row_bytes) as usize;
    let unit = g.slice_rows();
    if most >= rows { rows } else { (most / unit * unit).max(unit.min(rows)) }
}

/// Returns the view of the state that only the device knows; creates it at the first call.
fn state_view(g: &mut Graph) -> View {
    g.buffer(Role::Staging, "state", state::LEN, Format::U32)
}

/// Records the update; returns what ranks tell each other in it, and the slots that this rank updates, too.
fn record_update(
    g: &mut Graph,
    config: &GptConfig,
    optimizer: Optimizer,
    uses: Uses,
    finetune: &FineTune,
    loss: View,
) -> (UpdateViews, Option<Split>, Vec<Slot>) {
    let scale = LossScale::of(g.format());
    if let Some(part) = uses.part {
        let (views, split, slots) = split::record_part(g, (optimizer, scale), part, loss);
        return (views, Some(split), slots);
    }
    if uses.stage != Stage::WHOLE {
        let (views, split) = split::record_stage(g, config, uses, finetune, loss);
        return (views, Some(split), g.slots());
    }
    let slots = g.slots();
    let grads: Vec<View> = slots.iter().map(|slot| slot.grads).collect();
    let len = global_norm::partials_len(&grads);
    let views = norm_views(g, len, loss);
    let start = g.plan.dispatches.len();
    global_norm::record(&mut g.plan, &grads, views, scale);
    let NormViews { norm, state, .. } = views;
    for slot in &slots {
        optimizer::record(&mut g.plan, optimizer, slot, norm, state);
    }
    g.plan.end_phase(Phase::Update, start);
    (UpdateViews { norm, state }, None, slots)
}

/// Creates the views of the norm, of so many numbers of partials.
fn norm_views(g: &mut Graph, partials: usize, loss: View) -> NormViews {
    let partials = g.buffer(Role::Staging, "norm.partials", partials, Format::F32);
    let norm = g.buffer(Role::Staging, "norm", 2, Format::F32);
    NormViews { partials, loss, norm, state: state_view(g) }
}

/// What is summed over the micro-batches of an update.
fn summed(g: &Graph, batch: Option<BatchViews>) -> Vec<View> {
    let grads = g.slots().into_iter().map(|slot| slot.grads);
    batch.map_or(vec![], |batch| grads.chain([batch.loss]).collect())
}
