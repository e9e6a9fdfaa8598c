//! The model as a list of ops, with the buffers that they need.
//!
//! [`Graph`] is used as one writes a model down: every op's method (in the op's file) finds or allocates its
//! parameters, under the names that the checkpoint has for them, and its output, and adds the op to the list. The same
//! model is written once and built several times over the same parameters: for training, for evaluation, and for
//! generation with 1, 8 and 64 new tokens. The graph itself knows no op.

mod memory;
mod params;
mod record;
mod var;

use std::collections::HashMap;
use std::rc::Rc;

use crate::config::{Precision, Recompute};
use crate::finetune::FineTune;
use crate::kernel::{Dims, Format, rows};
use crate::params::Init;
use crate::plan::{BINDING_ALIGNMENT, Limits, Phase, Plan, Role, View};

pub(crate) use memory::Sharing;
use params::Arena;
pub use params::{Param, Slice, Slot, Wanted};
pub use record::{Op, Recorder};
pub use var::{Joins, Var, any_grad};

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Activations of every layer are kept for the backward pass.
    Training,
    /// Layers share their activations.
    Inference,
    /// Sequences grow by some tokens, their past in caches.
    Extend,
}

/// A block of the model under construction.
struct Block {
    /// The number of ops before it.
    first: usize,
    /// What finds its activations again.
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
    recompute: Recompute,
    finetune: FineTune,
    mode: Mode,
    /// B, T and SLOTS of what is being built.
    dims: Dims,
    ops: Vec<Rc<dyn Op>>,
    block: Option<Block>,
    arenas: Vec<Arena>,
    with_moments: bool,
    /// Buffers of what is being built, by name.
    buffers: HashMap<String, View>,
    /// Activations of training, each a whole buffer, which generation uses for its own.
    spare: Vec<View>,
    /// Gradients, parts of which generation uses as caches.
    spare_gradients: Vec<View>,
    dropouts: u32,
    epsilon: f32,
    /// The block that is being built: what its names begin with, and its number.
    scope: Option<(String, usize)>,
    /// What matrices begin with.
    matrix_init: Init,
}

impl Graph {
    /// An empty graph within the limits of a device.
    ///
    /// `moments`: whether the optimiser keeps two moments a parameter. `epsilon`: what layer
    /// normalisation adds to the variance.
    pub fn new(limits: Limits, moments: bool, epsilon: f64) -> Graph {
        Graph {
            plan: Plan::default(),
            params: vec![],
            limits,
            precision: Precision::F32,
            recompute: Recompute::None,
            finetune: FineTune::default(),
            mode: Mode::Inference,
            dims: Dims::default(),
            ops: vec![],
            block: None,
            arenas: vec![],
            with_moments: moments,
            buffers: HashMap::new(),
            spare: vec![],
            spare_gradients: vec![],
            dropouts: 0,
            epsilon: epsilon as f32,
            scope: None,
            matrix_init: Init::Normal(0.02),
        }
    }

    /// The same, still empty, in another precision than f32.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Graph {
        Graph { precision, ..self }
    }

    /// The same, still empty, with a backward pass that computes some activations again.
    #[must_use]
    pub fn recomputing(self, recompute: Recompute) -> Graph {
        Graph { recompute, ..self }
    }

    /// The same, still empty, with a training that changes but a part of the parameters.
    #[must_use]
    pub fn fine_tuning(self, finetune: &FineTune) -> Graph {
        Graph { finetune: finetune.clone(), ..self }
    }

    /// The format of activations that are not of the residual stream.
    pub fn format(&self) -> Format {
        match self.precision {
            Precision::F32 => Format::F32,
            Precision::Mixed => Format::F16,
        }
    }

    /// Parts of a matrix come in multiples of this many rows, so that a part of any width begins at an
    /// offset that every device can bind.
    pub fn slice_rows(&self) -> usize {
        self.format().elements_per(BINDING_ALIGNMENT)
    }

    /// Starts a list of ops over B sequences of T tokens whose backward pass will be recorded.
    pub fn begin_training(&mut self, b: usize, t: usize) {
        self.begin(Mode::Training, b, t);
    }

    /// Starts a list of ops without a backward pass.
    pub fn begin_inference(&mut self, b: usize, t: usize) {
        self.begin(Mode::Inference, b, t);
    }

    /// Starts a list of ops that extend the sequences of `slots` slots by up to `t` tokens in all.
    ///
    /// The first such list is the longest: the others use its buffers.
    pub fn begin_extend(&mut self, t: usize, slots: usize) {
        if self.mode != Mode::Extend {
            self.collect_spare();
        }
        self.begin(Mode::Extend, 1, t);
        self.dims.SLOTS = slots as u32;
    }

    /// The table (T,[`rows::ROW_WORDS`]) of the rows that generation works on: [`crate::kernel::rows`].
    pub fn rows_table(&mut self) -> View {
        let len = self.rows() * rows::ROW_WORDS;
        self.buffer(Role::Staging, "rows", len, Format::U32)
    }

    /// The table (SLOTS,[`rows::slot::WORDS`]) of what slots draw by: [`crate::kernel::rows`].
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
        self.scope = None;
        self.dims = Dims { B: b as u32, T: t as u32, EPS: self.epsilon, ..Dims::default() };
    }

    /// Whether sequences are being extended.
    pub fn extends(&self) -> bool {
        self.mode == Mode::Extend
    }

    /// B · T.
    pub fn rows(&self) -> usize {
        self.dims.rows()
    }

    /// B, T and SLOTS of what is being built.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// Whether what is computed from nothing else has a gradient.
    pub(crate) fn trains(&self) -> bool {
        self.mode == Mode::Training
    }

    /// Records what is being built as a phase.
    pub fn record_forward(&mut self, phase: Phase) {
        let start = self.plan.dispatches.len();
        self.ops.iter().for_each(|op| op.forward(&mut self.plan));
        self.plan.end_phase(phase, start);
    }

    /// Records the backward pass as a phase: first `last`, whose backward pass begins it, then the
    /// list in reverse.
    pub fn record_backward(&mut self, phase: Phase, last: Option<&dyn Op>) {
        let start = self.plan.dispatches.len();
        let mut recorder = Recorder::new(&mut self.plan);
        last.into_iter().for_each(|op| op.backward(&mut recorder));
        self.ops.iter().rev().for_each(|op| op.backward(&mut recorder));
        self.plan.end_phase(phase, start);
    }

    /// Starts the block number `layer`: what ops are called from now on is within it, as `BLOCKS.LAYER.NAME`, and
    /// activations of the same name in several blocks may share their memory.
    pub fn enter_layer(&mut self, blocks: &str, layer: usize) {
        self.scope = Some((format!("{blocks}.{layer}."), layer));
    }

    /// Ends the blocks: names stand for themselves again.
    pub fn leave_layers(&mut self) {
        self.scope = None;
    }

    /// The number of the block that is being built.
    pub fn layer(&self) -> Option<usize> {
        self.scope.as_ref().map(|(_, layer)| *layer)
    }

    /// A name within the block that is being built, as a whole.
    pub(crate) fn full_name(&self, name: &str) -> String {
        match &self.scope {
            Some((outer, _)) => format!("{outer}{name}"),
            None => name.to_owned(),
        }
    }

    /// The matrices that ops ask for from now on begin with normal numbers of this deviation.
    pub fn begin_matrices_with(&mut self, deviation: f32) {
        self.matrix_init = Init::Normal(deviation);
    }

    /// What the matrix of an op begins with.
    pub(crate) fn matrix_init(&self) -> Init {
        self.matrix_init
    }

    /// What the backward pass computes again.
    pub fn recompute(&self) -> Recompute {
        self.recompute
    }

    /// What activations and the weights of products are held in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What is trained of the model.
    pub fn finetune(&self) -> &FineTune {
        &self.finetune
    }

    /// The number of the next op that drops activations.
    pub(crate) fn next_dropout(&mut self) -> u32 {
        self.dropouts += 1;
        self.dropouts - 1
    }

    /// Whether a block is being built.
    pub(crate) fn is_in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Starts a block; `again` computes what it begins with again.
    pub(crate) fn open_block(&mut self, again: Vec<Rc<dyn Op>>) {
        self.block = Some(Block { first: self.ops.len(), again });
    }

    /// An op that the backward pass of the block runs forwards once more, besides all of the block's where whole
    /// blocks are computed again.
    pub(crate) fn compute_again(&mut self, op: impl Op + 'static) {
        let block = self.block.as_mut().expect("a block was begun");
        block.again.push(Rc::new(op));
    }

    /// Ends a block; returns the ops that compute its activations again.
    pub(crate) fn close_block(&mut self) -> Vec<Rc<dyn Op>> {
        let Block { first, mut again } = self.block.take().expect("a block was begun");
        if self.recompute == Recompute::Block {
            again.extend_from_slice(&self.ops[first..]);
        }
        again
    }

    /// Adds an op that the other methods do not make.
    pub fn push(&mut self, op: impl Op + 'static) {
        self.ops.push(Rc::new(op));
    }
}
