//! The model as a list of ops, with the buffers that they use.
//!
//! A model is written as calls to the methods of [`Graph`]: every op's method (in the op's file) finds or allocates its
//! parameters, under their names in the checkpoint, and its output, and adds the op to the list. The same model is
//! written once and built several times over the same parameters: for training, for evaluation, and for generation
//! with 1, 8 and 64 new tokens. The graph itself knows no op.

mod memory;
mod params;
mod record;
mod var;

use std::collections::HashMap;
use std::rc::Rc;

use crate::config::{Precision, Recompute, WeightFormat};
use crate::finetune::FineTune;
use crate::kernel::{Dims, Format, rows};
use crate::params::Init;
use crate::plan::{BINDING_ALIGNMENT, Limits, Phase, Plan, Role, View};

pub(crate) use memory::Sharing;
use params::Arena;
pub use params::{Param, Slice, Slot, Wanted};
pub use record::{Op, Recorder};
pub use var::{Joins, Var, any_grad};

/// The purpose that a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Activations of every layer are kept for the backward pass.
    Training,
    /// Layers share their activations.
    Inference,
    /// Sequences grow by some tokens, with their past in caches.
    Extend,
}

/// A block of the model under construction.
struct Block {
    /// The number of ops before the block.
    first: usize,
    /// The ops that recompute its activations.
    again: Vec<Rc<dyn Op>>,
}

/// A model under construction.
pub struct Graph {
    /// Buffers, dispatches and phases so far.
    pub plan: Plan,
    /// The parameters so far, in the order of the model.
    pub params: Vec<Param>,
    limits: Limits,
    precision: Precision,
    weights: WeightFormat,
    recompute: Recompute,
    finetune: FineTune,
    mode: Mode,
    /// B, T and SLOTS of the list that is being built.
    dims: Dims,
    ops: Vec<Rc<dyn Op>>,
    block: Option<Block>,
    arenas: Vec<Arena>,
    with_moments: bool,
    /// Whether ranks split the trained matrices in single precision: the graph then has only the copies for products.
    splits_weights: bool,
    /// Buffers of the list that is being built, by role and name.
    buffers: HashMap<(Role, String), View>,
    /// Activations of training, each a whole buffer, which generation reuses.
    spare: Vec<View>,
    /// Gradients; generation reuses parts of them as caches.
    spare_gradients: Vec<View>,
    dropouts: u32,
    /// How many micro-batches are in flight at once, and the number of the one that is being built.
    flights: usize,
    flight: usize,
    epsilon: f32,
    /// The block that is being built: the prefix of its names, and its number.
    scope: Option<(String, usize)>,
    /// The initialisation of matrices.
    matrix_init: Init,
}

impl Graph {
    /// Creates an empty graph within the limits of a device.
    ///
    /// `moments`: whether the optimiser keeps two moments per parameter. `epsilon`: the number that layer
    /// normalisation adds to the variance.
    pub fn new(limits: Limits, moments: bool, epsilon: f64) -> Graph {
        Graph {
            plan: Plan::default(),
            params: vec![],
            limits,
            precision: Precision::F32,
            weights: WeightFormat::F32,
            recompute: Recompute::None,
            finetune: FineTune::default(),
            mode: Mode::Inference,
            dims: Dims::default(),
            ops: vec![],
            block: None,
            arenas: vec![],
            with_moments: moments,
            splits_weights: false,
            buffers: HashMap::new(),
            spare: vec![],
            spare_gradients: vec![],
            dropouts: 0,
            flights: 1,
            flight: 0,
            epsilon: epsilon as f32,
            scope: None,
            matrix_init: Init::Normal(0.02),
        }
    }

    /// Sets another precision than f32; the graph must still be empty.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Graph {
        Graph { precision, ..self }
    }

    /// Sets the format in which matrices that are not trained are stored; the graph must still be empty.
    #[must_use]
    pub fn storing(self, weights: WeightFormat) -> Graph {
        Graph { weights, ..self }
    }

    /// Sets which activations the backward pass recomputes; the graph must still be empty.
    #[must_use]
    pub fn recomputing(self, recompute: Recompute) -> Graph {
        Graph { recompute, ..self }
    }

    /// Sets which part of the parameters training changes; the graph must still be empty.
    #[must_use]
    pub fn fine_tuning(self, finetune: &FineTune) -> Graph {
        Graph { finetune: finetune.clone(), ..self }
    }

    /// Sets whether ranks split the trained matrices in single precision; the graph must still be empty.
    #[must_use]
    pub fn splitting_weights(self, splits_weights: bool) -> Graph {
        Graph { splits_weights, ..self }
    }

    /// Sets how many micro-batches are between their forward and their backward pass at once; the graph must still be
    /// empty.
    #[must_use]
    pub fn with_flights(self, flights: usize) -> Graph {
        Graph { flights, ..self }
    }

    /// Returns the limits of the device.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the format of activations outside of the residual stream.
    pub fn format(&self) -> Format {
        match self.precision {
            Precision::F32 => Format::F32,
            Precision::Mixed => self.limits.half,
        }
    }

    /// Returns the number of rows of which parts of a matrix are multiples, so that a part of any width begins at
    /// an offset that every device can bind.
    pub fn slice_rows(&self) -> usize {
        self.format().elements_per(BINDING_ALIGNMENT)
    }

    /// Starts a list of ops over B sequences of T tokens whose backward pass will be recorded.
    pub fn begin_training(&mut self, b: usize, t: usize) {
        self.begin(Mode::Training, b, t);
    }

    /// Starts the same list over another micro-batch in flight, the number `flight`: what the backward pass reads has
    /// memory of its own there; parameters, gradients and all else are shared.
    pub fn begin_flight(&mut self, flight: usize, b: usize, t: usize) {
        self.begin_training(b, t);
        self.flight = flight;
    }

    /// Starts a list of ops without a backward pass.
    pub fn begin_inference(&mut self, b: usize, t: usize) {
        self.begin(Mode::Inference, b, t);
    }

    /// Starts a list of ops that extend the sequences of `slots` slots by up to `t` tokens in total.
    ///
    /// The first such list must be the longest: the others use its buffers.
    pub fn begin_extend(&mut self, t: usize, slots: usize, positions: usize) {
        if self.mode != Mode::Extend {
            self.collect_spare();
        }
        self.begin(Mode::Extend, 1, t);
        (self.dims.SLOTS, self.dims.S) = (slots as u32, positions as u32);
    }

    /// Returns the positions of a sequence: in generation those of a slot, otherwise the model's, `all`.
    pub(crate) fn positions(&self, all: usize) -> usize {
        if self.extends() { self.dims.S as usize } else { all }
    }

    /// Returns the table (T,[`rows::ROW_WORDS`]) of the rows that generation processes: [`crate::kernel::rows`].
    pub fn rows_table(&mut self) -> View {
        let len = self.rows() * rows::ROW_WORDS;
        self.buffer(Role::Staging, "rows", len, Format::U32)
    }

    /// Returns where the document of each row (B,T) begins, a position of its sequence: 0 unless the host writes it. A row
    /// sees nothing before its document, and its position counts from there. The rows of a document lie side by side.
    pub fn document_starts(&mut self) -> View {
        let (name, len) = (self.name_in_flight("document_start"), self.rows());
        self.buffer(Role::Staging, &name, len, Format::U32)
    }

    /// Returns the table (SLOTS,[`rows::slot::WORDS`]) of the slots' draw settings: [`crate::kernel::rows`].
    pub fn slots_table(&mut self) -> View {
        let len = self.dims.SLOTS as usize * rows::slot::WORDS;
        self.buffer(Role::Staging, "slots", len, Format::U32)
    }

    fn begin(&mut self, mode: Mode, b: usize, t: usize) {
        if self.mode != mode {
            self.buffers.clear();
        }
        self.mode = mode;
        self.ops.clear();
        self.dropouts = 0;
        self.flight = 0;
        self.scope = None;
        self.dims = Dims { B: b as u32, T: t as u32, EPS: self.epsilon, ..Dims::default() };
    }

    /// Whether sequences are being extended.
    pub fn extends(&self) -> bool {
        self.mode == Mode::Extend
    }

    /// Returns B · T.
    pub fn rows(&self) -> usize {
        self.dims.rows()
    }

    /// Returns B, T and SLOTS of the list that is being built.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// Whether a value that depends on no other value has a gradient.
    pub(crate) fn trains(&self) -> bool {
        self.mode == Mode::Training
    }

    /// Records the forward pass of the list as a phase.
    pub fn record_forward(&mut self, phase: Phase) {
        let start = self.plan.dispatches.len();
        self.ops.iter().for_each(|op| op.forward(&mut self.plan));
        self.plan.end_phase(phase, start);
    }

    /// Records the backward pass as a phase: first that of `last`, if there is one, then the list in
    /// reverse.
    pub fn record_backward(&mut self, phase: Phase, last: Option<&dyn Op>) {
        let start = self.plan.dispatches.len();
        let mut recorder = Recorder::new(&mut self.plan);
        last.into_iter().for_each(|op| op.backward(&mut recorder));
        self.ops.iter().rev().for_each(|op| op.backward(&mut recorder));
        self.plan.end_phase(phase, start);
    }

    /// Starts the block number `layer`: ops called from now on are named within it, as `BLOCKS.LAYER.NAME`, and
    /// activations of the same name in several blocks may share their memory.
    pub fn enter_layer(&mut self, blocks: &str, layer: usize) {
        self.scope = Some((format!("{blocks}.{layer}."), layer));
    }

    /// Ends the blocks: names are full names again.
    pub fn leave_layers(&mut self) {
        self.scope = None;
    }

    /// Returns the number of the block that is being built.
    pub fn layer(&self) -> Option<usize> {
        self.scope.as_ref().map(|(_, layer)| *layer)
    }

    /// Returns the full name of a name within the block that is being built.
    pub(crate) fn full_name(&self, name: &str) -> String {
        match &self.scope {
            Some((outer, _)) => format!("{outer}{name}"),
            None => name.to_owned(),
        }
    }

    /// Sets the standard deviation of the normal numbers that initialise the matrices that ops request from now on.
    pub fn begin_matrices_with(&mut self, deviation: f32) {
        self.matrix_init = Init::Normal(deviation);
    }

    /// Returns the initialisation of an op's matrix.
    pub(crate) fn matrix_init(&self) -> Init {
        self.matrix_init
    }

    /// Returns which activations the backward pass recomputes.
    pub fn recompute(&self) -> Recompute {
        self.recompute
    }

    /// Returns the precision of activations and of the weights of products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns which part of the model is trained.
    pub fn finetune(&self) -> &FineTune {
        &self.finetune
    }

    /// Whether the activations of the last block are still in memory when the backward pass begins: no other micro-batch
    /// has been computed in between.
    pub(crate) fn keeps_last_block(&self) -> bool {
        self.flights == 1
    }

    /// Returns the name of what each micro-batch in flight has for itself.
    pub(crate) fn name_in_flight(&self, name: &str) -> String {
        match self.flight {
            0 => name.to_owned(),
            flight => format!("flight{flight}.{name}"),
        }
    }

    /// Returns how many ops of the list drop activations.
    pub(crate) fn dropouts(&self) -> u32 {
        self.dropouts
    }

    /// Continues the numbers of ops that drop activations after `count` of them, which are not in the list.
    pub(crate) fn skip_dropouts(&mut self, count: u32) {
        self.dropouts += count;
    }

    /// Returns the number of the next op that drops activations.
    pub(crate) fn next_dropout(&mut self) -> u32 {
        self.dropouts += 1;
        self.dropouts - 1
    }

    /// Whether a block is being built.
    pub(crate) fn is_in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Starts a block; `again` recomputes its first activations.
    pub(crate) fn open_block(&mut self, again: Vec<Rc<dyn Op>>) {
        self.block = Some(Block { first: self.ops.len(), again });
    }

    /// Adds an op whose forward pass the backward pass of the block runs again; if whole blocks are recomputed, all
    /// ops of the block are run again as well.
    pub(crate) fn compute_again(&mut self, op: impl Op + 'static) {
        let block = self.block.as_mut().expect("a block was begun");
        block.again.push(Rc::new(op));
    }

    /// Ends a block; returns the ops that recompute its activations.
    pub(crate) fn close_block(&mut self) -> Vec<Rc<dyn Op>> {
        let Block { first, mut again } = self.block.take().expect("a block was begun");
        if self.recompute == Recompute::Block {
            again.extend_from_slice(&self.ops[first..]);
        }
        again
    }

    /// Adds an op that no other method creates.
    pub fn push(&mut self, op: impl Op + 'static) {
        self.ops.push(Rc::new(op));
    }
}
