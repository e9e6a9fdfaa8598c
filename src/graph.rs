//! The model as a list of ops, with the buffers that they need.
//!
//! [`Graph`] is used as one writes a model down: every call finds or allocates its parameters (under
//! the names that the checkpoint has for them) and its output, and adds one op. The same model is
//! written once and built several times over the same parameters: for training, for evaluation, and
//! for generation with 1, 8 and 64 new tokens.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::config::{Precision, Recompute};
use crate::finetune::FineTune;
use crate::kernel::{Accumulate, Dims, Elem};
use crate::ops::Op;
use crate::ops::attention::{Attention, AttentionExtend};
use crate::ops::cast;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::{Embedding, Slice};
use crate::ops::gelu::Gelu;
use crate::ops::layernorm::LayerNorm;
use crate::ops::linear::{Linear, LinearGelu};
use crate::ops::lora::Lora;
use crate::ops::matmul::{Layout, MatMul};
use crate::ops::optimizer::Slot;
use crate::ops::recompute;
use crate::ops::residual::Residual;
use crate::ops::residual_layernorm::ResidualLayerNorm;
use crate::ops::softmax::CausalSoftmax;
use crate::plan::{BINDING_ALIGNMENT, Limits, Phase, Plan, Role, View};

/// A value and its gradient, of one shape.
///
/// Without a backward pass, and where nothing that a value depends on is trained, the gradient is the
/// value's own view and is not used.
#[derive(Clone, Copy, Debug)]
pub struct Var {
    /// Where the value is.
    pub value: View,
    /// Where its gradient is.
    pub grad: View,
}

impl Var {
    /// A value without a gradient.
    fn constant(value: View) -> Var {
        Var { value, grad: value }
    }

    /// Whether the backward pass is to find a gradient.
    pub fn has_grad(self) -> bool {
        self.grad != self.value
    }
}

/// A parameter: its name in the checkpoint (without `transformer.`), its shape and its place.
#[derive(Clone, Debug)]
pub struct Param {
    /// For example `h.3.attn.c_attn.weight`.
    pub name: String,
    /// For example (C,3C).
    pub shape: Vec<usize>,
    /// The rows; more than one slice where the whole exceeds what a device can bind.
    pub slices: Vec<Slice>,
}

impl Param {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether weight decay applies: to two-dimensional parameters.
    pub fn decays(&self) -> bool {
        self.shape.len() == 2
    }

    /// Whether it has a gradient and is updated: in training, unless it is frozen.
    pub fn is_trained(&self) -> bool {
        self.slices.iter().all(|slice| slice.var.has_grad())
    }
}

/// One buffer of parameters, with those of the same layout for gradients and moments.
#[derive(Clone, Copy, Debug)]
struct Arena {
    params: usize,
    /// `None` for what is not trained.
    grads: Option<usize>,
    moments: Option<[usize; 2]>,
    /// What products read, in mixed precision.
    copy: Option<usize>,
    decays: bool,
}

impl Arena {
    fn is_of(&self, decays: bool, trained: bool) -> bool {
        self.decays == decays && self.grads.is_some() == trained
    }
}

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Activations of every layer are kept for the backward pass.
    Training,
    /// Layers share their activations.
    Inference,
    /// One sequence grows by some tokens, its past in a cache.
    Extend,
}

/// Which buffers of activations layers share in training; in every other mode they share them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Those that no backward pass reads, and those that it finds again in any case.
    Always,
    /// Those within blocks that are computed again.
    InBlocks,
    /// Those that are computed again with a block, wherever they are made.
    WithBlocks,
}

/// A block of the model under construction.
struct Block {
    /// The number of ops before it.
    first: usize,
    /// What finds its activations again.
    again: Vec<Rc<dyn Op>>,
}

/// Records the backward pass, and knows which gradients have been written in it.
pub struct Recorder<'a> {
    /// Where dispatches go.
    pub plan: &'a mut Plan,
    written: HashSet<View>,
}

impl Recorder<'_> {
    /// [`Dims::ACC`] of the next contribution to an activation's gradient.
    pub fn contribution(&mut self, grad: View) -> u32 {
        let first = self.written.insert(grad);
        (if first { Accumulate::Set } else { Accumulate::Add }) as u32
    }

    /// [`Dims::ACC`] of the next contribution to the gradients of those parameters that are trained, which
    /// live on over the micro-batches of an update; `None` if none is.
    ///
    /// # Panics
    ///
    /// If only some of the gradients have been written: one dispatch treats all of them alike.
    pub fn parameters(&mut self, params: &[Var]) -> Option<u32> {
        let grads: Vec<View> = params.iter().filter(|p| p.has_grad()).map(|p| p.grad).collect();
        let first = grads.iter().filter(|grad| self.written.insert(**grad)).count();
        assert!(first == 0 || first == grads.len(), "one kernel's parameters are written together");
        let acc = if first > 0 { Accumulate::SetFirst } else { Accumulate::Add };
        (!grads.is_empty()).then_some(acc as u32)
    }
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
    /// B, T and NH of what is being built.
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

    /// What activations hold that are not of the residual stream.
    pub fn elem(&self) -> Elem {
        match self.precision {
            Precision::F32 => Elem::Real,
            Precision::Mixed => Elem::F16,
        }
    }

    /// Parts of a matrix come in multiples of this many rows, so that a part of any width begins at an
    /// offset that every device can bind.
    pub fn slice_rows(&self) -> usize {
        (BINDING_ALIGNMENT / self.elem().bytes()) as usize
    }

    /// Starts a list of ops over B sequences of T tokens whose backward pass will be recorded.
    pub fn begin_training(&mut self, b: usize, t: usize) {
        self.begin(Mode::Training, b, t);
    }

    /// Starts a list of ops without a backward pass.
    pub fn begin_inference(&mut self, b: usize, t: usize) {
        self.begin(Mode::Inference, b, t);
    }

    /// Starts a list of ops that extend one sequence by up to `t` tokens.
    ///
    /// The first such list is the longest: the others use its buffers.
    pub fn begin_extend(&mut self, t: usize) {
        if self.mode != Mode::Extend {
            self.collect_spare();
        }
        self.begin(Mode::Extend, 1, t);
    }

    /// What training leaves unused between two updates: whole activations, and gradients.
    fn collect_spare(&mut self) {
        let activations = self.plan.buffers.iter().enumerate();
        let activations = activations.filter(|(_, spec)| spec.role == Role::Activations);
        let whole = activations.map(|(buffer, spec)| View {
            buffer,
            start: 0,
            len: spec.len,
            elem: spec.elem,
        });
        self.spare = whole.collect();
        self.spare.sort_by_key(|view| std::cmp::Reverse(view.len));
        let params = self.params.iter().flat_map(|param| &param.slices).map(|s| s.var);
        self.spare_gradients = params.filter(|var| var.has_grad()).map(|var| var.grad).collect();
        self.spare_gradients.sort_by_key(|view| std::cmp::Reverse(view.len));
    }

    fn begin(&mut self, mode: Mode, b: usize, t: usize) {
        if self.mode != mode {
            self.buffers.clear();
        }
        self.mode = mode;
        self.ops.clear();
        self.dropouts = 0;
        self.dims = Dims { B: b as u32, T: t as u32, EPS: self.epsilon, ..Dims::default() };
    }

    /// Whether one sequence is being extended.
    pub fn extends(&self) -> bool {
        self.mode == Mode::Extend
    }

    /// B · T.
    pub fn rows(&self) -> usize {
        self.dims.rows()
    }

    /// B and T of what is being built.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// A buffer of what is being built, made at its first use.
    pub fn buffer(&mut self, role: Role, name: &str, len: usize, elem: Elem) -> View {
        if let Some(view) = self.buffers.get(name) {
            return view.slice(0, len);
        }
        let view = self.place(role, name, len, elem);
        self.buffers.insert(name.to_owned(), view);
        view
    }

    /// A buffer of activations, which all layers share, or which each has for itself.
    fn activations(&mut self, name: &str, len: usize, elem: Elem, sharing: Sharing) -> View {
        let shared = match sharing {
            Sharing::Always => true,
            _ if self.mode != Mode::Training => true,
            Sharing::InBlocks => self.recompute == Recompute::Block && self.block.is_some(),
            Sharing::WithBlocks => self.recompute == Recompute::Block,
        };
        let name = if shared { slot(name) } else { name };
        self.buffer(Role::Activations, name, len, elem)
    }

    /// A spare place that is large enough, the smallest such, or a new buffer.
    ///
    /// Caches go into gradients and activations into whole buffers of activations, so that no kernel
    /// reads and writes one buffer.
    fn place(&mut self, role: Role, name: &str, len: usize, elem: Elem) -> View {
        let fits = |view: &View| view.len >= len && view.elem == elem;
        if role == Role::Cache
            && let Some(i) = self.spare_gradients.iter().rposition(fits)
        {
            let whole = self.spare_gradients.remove(i);
            let used = len.next_multiple_of(self.slice_rows()).min(whole.len);
            if used < whole.len {
                self.spare_gradients.push(whole.slice(used, whole.len - used));
                self.spare_gradients.sort_by_key(|view| std::cmp::Reverse(view.len));
            }
            return whole.slice(0, len);
        }
        match self.spare.iter().rposition(fits) {
            Some(i) if role == Role::Activations => self.spare.remove(i).slice(0, len),
            _ => self.plan.buffer(role, name, len, elem),
        }
    }

    /// An activation with its gradient, if it has one; layers share that of a name, since one is at work
    /// at a time.
    fn var(&mut self, name: &str, value: View, elem: Elem, has_grad: bool) -> Var {
        if !has_grad {
            return Var::constant(value);
        }
        let name = format!("{}.grad", slot(name));
        Var { value, grad: self.buffer(Role::Activations, &name, value.len, elem) }
    }

    /// Whether what is computed from nothing else has a gradient.
    fn trains(&self) -> bool {
        self.mode == Mode::Training
    }

    /// An activation (B,T,channels) with a gradient of its slot, both of the graph's precision.
    pub fn activation(&mut self, name: &str, channels: usize) -> Var {
        self.activation_of(name, channels, Sharing::InBlocks, self.trains())
    }

    fn activation_of(
        &mut self,
        name: &str,
        channels: usize,
        sharing: Sharing,
        has_grad: bool,
    ) -> Var {
        let value = self.activations(name, self.rows() * channels, self.elem(), sharing);
        self.var(name, value, value.elem, has_grad)
    }

    /// An activation of the residual stream (B,T,C): all of them share one gradient.
    pub fn stream(&mut self, name: &str, channels: usize) -> Var {
        self.stream_of(name, channels, self.trains())
    }

    fn stream_of(&mut self, name: &str, channels: usize, has_grad: bool) -> Var {
        let len = self.rows() * channels;
        let value = self.activations(name, len, Elem::Real, Sharing::InBlocks);
        self.var("stream", value, Elem::Real, has_grad)
    }

    /// What joins the residual stream (B,T,C): its gradient is the stream's, and no backward pass reads
    /// its value.
    fn branch(&mut self, name: &str, channels: usize, elem: Elem, has_grad: bool) -> Var {
        let len = self.rows() * channels;
        let value = self.activations(name, len, elem, Sharing::Always);
        self.var("stream", value, Elem::Real, has_grad)
    }

    /// The table (rows, channels) called `name`, allocated at its first use, in slices of rows that the
    /// device can bind.
    ///
    /// # Panics
    ///
    /// If it was used before with another shape.
    pub fn param(&mut self, name: &str, shape: &[usize]) -> Vec<Slice> {
        let width: usize = shape[1..].iter().product();
        let most = usize::try_from(self.limits.binding_bytes / 4).unwrap_or(usize::MAX) / width;
        let rows = self.slice_rows();
        let most = if most >= shape[0] { shape[0] } else { most / rows * rows };
        self.param_in_slices(name, shape, most.max(rows.min(shape[0])))
    }

    /// A parameter of one slice; [`Plan::exceeds`] tells if the device cannot bind it.
    fn whole(&mut self, name: &str, shape: &[usize]) -> Var {
        self.param_in_slices(name, shape, shape[0])[0].var
    }

    fn param_in_slices(&mut self, name: &str, shape: &[usize], most: usize) -> Vec<Slice> {
        if let Some(param) = self.params.iter().find(|p| p.name == name) {
            assert_eq!(param.shape, shape, "the shape of {name}");
            return param.slices.clone();
        }
        let width: usize = shape[1..].iter().product();
        let starts = (0..shape[0]).step_by(most);
        let slices = starts
            .map(|start| {
                let rows = most.min(shape[0] - start);
                Slice { start, rows, var: self.place_param(name, rows * width, shape.len() == 2) }
            })
            .collect::<Vec<_>>();
        let param = Param { name: name.to_owned(), shape: shape.to_vec(), slices: slices.clone() };
        self.params.push(param);
        slices
    }

    /// A parameter as products read it: in mixed precision its copy, whose gradient is its own.
    fn operand(&self, param: Var) -> Var {
        let arena = self.arenas.iter().find(|arena| arena.params == param.value.buffer);
        match arena.and_then(|arena| arena.copy) {
            None => param,
            Some(copy) => {
                let value = View { elem: Elem::F16, ..param.value.of(copy) };
                if param.has_grad() { Var { value, ..param } } else { Var::constant(value) }
            }
        }
    }

    /// The table (rows, channels) called `name` as products read it.
    pub fn table(&mut self, name: &str, shape: &[usize]) -> Vec<Slice> {
        let slices = self.param(name, shape).into_iter();
        slices.map(|slice| Slice { var: self.operand(slice.var), ..slice }).collect()
    }

    /// Room in the last arena of its kind, or in a new one if a buffer would become too large.
    fn place_param(&mut self, name: &str, len: usize, decays: bool) -> Var {
        let trained = self.trains() && self.finetune.trains(name);
        // A copy lies where its parameter lies, which must suit the copy's alignment.
        let room = match self.precision {
            Precision::F32 => len,
            Precision::Mixed => len.next_multiple_of(self.slice_rows()),
        };
        let fits = |arena: &Arena| {
            let end = (self.plan.next_start(arena.params) + room) as u64;
            end * Elem::Real.bytes() <= self.limits.buffer_bytes
        };
        let last = self.arenas.iter().rfind(|arena| arena.is_of(decays, trained));
        let arena = match last {
            Some(arena) if fits(arena) => *arena,
            _ => self.open_arena(decays, trained),
        };
        let value = self.plan.grow(arena.params, room).slice(0, len);
        let others = arena.moments.into_iter().flatten().chain(arena.copy).chain(arena.grads);
        others.for_each(|buffer| {
            self.plan.grow(buffer, room);
        });
        arena.grads.map_or(Var::constant(value), |grads| Var { value, grad: value.of(grads) })
    }

    fn open_arena(&mut self, decays: bool, trained: bool) -> Arena {
        let kind = if decays { "matrices" } else { "vectors" };
        let frozen = if self.trains() && !trained { "frozen." } else { "" };
        let number = self.arenas.iter().filter(|arena| arena.is_of(decays, trained)).count();
        let number = if number == 0 { String::new() } else { format!(".{number}") };
        let mut open = |role, name, elem| {
            self.plan.buffer(role, &format!("{name}.{frozen}{kind}{number}"), 0, elem).buffer
        };
        let params = open(Role::Parameters, "params", Elem::Real);
        let grads = trained.then(|| open(Role::Gradients, "grads", Elem::Real));
        let moments = (trained && self.with_moments)
            .then(|| ["adam.m", "adam.v"].map(|name| open(Role::Moments, name, Elem::Real)));
        let copy = (decays && self.precision == Precision::Mixed)
            .then(|| open(Role::Parameters, "halves", Elem::F16));
        let arena = Arena { params, grads, moments, copy, decays };
        self.arenas.push(arena);
        arena
    }

    /// The parameters of an arena in slices that one binding can hold.
    fn bindable(&self, arena: &Arena) -> impl Iterator<Item = View> + use<> {
        let most = usize::try_from(self.limits.binding_bytes / 4).unwrap_or(usize::MAX);
        let rows = self.slice_rows();
        let most = (most / rows * rows).max(rows);
        let (buffer, end) = (arena.params, self.plan.buffers[arena.params].len);
        let slice = move |start| {
            let len = most.min(end - start);
            View { buffer, start, len, elem: Elem::Real }
        };
        (0..end).step_by(most).map(slice)
    }

    /// What is trained, in slices that one binding can hold, for the norm and the optimiser.
    pub fn slots(&self) -> Vec<Slot> {
        let of = |arena: &Arena| {
            let Arena { grads, moments, decays, .. } = *arena;
            let slot = move |params: View| {
                let moments = moments.map(|buffers| buffers.map(|buffer| params.of(buffer)));
                Some(Slot { params, grads: params.of(grads?), moments, decays })
            };
            self.bindable(arena).filter_map(slot)
        };
        self.arenas.iter().flat_map(of).collect()
    }

    /// Records the copies of all parameters that products read, in mixed precision.
    pub fn record_cast(&mut self) {
        if self.precision == Precision::F32 {
            return;
        }
        let start = self.plan.dispatches.len();
        let params: Vec<View> = self.arenas.iter().flat_map(|a| self.bindable(a)).collect();
        for params in params {
            let copy = self.operand(Var::constant(params)).value;
            if copy != params {
                cast::record(&mut self.plan, params, copy);
            }
        }
        self.plan.end_phase(Phase::Cast, start);
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
        let mut recorder = Recorder { plan: &mut self.plan, written: HashSet::new() };
        last.into_iter().for_each(|op| op.backward(&mut recorder));
        self.ops.iter().rev().for_each(|op| op.backward(&mut recorder));
        self.plan.end_phase(phase, start);
    }

    /// The embeddings (B,T,C) of `tokens` from tables (V,C) and (S,C).
    pub fn embedding(&mut self, tokens: View, v: usize, s: usize, c: usize, stream: bool) -> Var {
        let wte = self.param("wte.weight", &[v, c]);
        let wpe = self.whole("wpe.weight", &[s, c]);
        let value = self.activations("embedding", self.rows() * c, Elem::Real, Sharing::InBlocks);
        let has_grad = wpe.has_grad() || wte.iter().any(|slice| slice.var.has_grad());
        let grad = if stream { "stream" } else { "embedding" };
        let out = self.var(grad, value, Elem::Real, has_grad);
        let dims = Dims { C: c as u32, S: s as u32, ..self.dims };
        self.push(Embedding { dims, tokens, wte, wpe, out });
        out
    }

    /// `x` with a share of its elements dropped; the output begins or joins the stream if `stream`.
    pub fn dropout(&mut self, name: &str, x: Var, stream: bool) -> Var {
        let c = x.value.len / self.rows();
        let out = match stream {
            true => self.branch(name, c, Elem::Real, x.has_grad()),
            false => self.activation_of(name, c, Sharing::InBlocks, x.has_grad()),
        };
        let dims = Dims { C: c as u32, ID: self.dropouts, ..self.dims };
        self.dropouts += 1;
        self.push(Dropout { dims, x, out });
        out
    }

    /// The parts of a layer normalisation of `x`.
    fn norm(&mut self, name: &str, x: Var) -> LayerNorm {
        let c = x.value.len / self.rows();
        let weight = self.whole(&format!("{name}.weight"), &[c]);
        let bias = self.whole(&format!("{name}.bias"), &[c]);
        let rows = self.rows();
        // A mean has two parts.
        let [mean, rstd] = [("mean", 2 * rows), ("rstd", rows)].map(|(part, len)| {
            let name = format!("{name}.{part}");
            self.activations(&name, len, Elem::Real, Sharing::WithBlocks)
        });
        let has_grad = any_grad(&[x, weight, bias]);
        let out = self.activation_of(name, c, Sharing::WithBlocks, has_grad);
        let unused = (weight.has_grad() != bias.has_grad())
            .then(|| self.buffer(Role::Activations, "unused.grad", c, Elem::Real));
        let dims = Dims { C: c as u32, ..self.dims };
        LayerNorm { dims, x, weight, bias, out, mean, rstd, unused }
    }

    /// `x` (B,T,C), normalised.
    pub fn layernorm(&mut self, name: &str, x: Var) -> Var {
        let norm = self.norm(name, x);
        let out = norm.out;
        self.push(norm);
        out
    }

    /// Starts a block of the model, which begins with the layer normalisation `norm` of `stream`.
    ///
    /// What is built until [`Graph::end_block`] is where activations may be computed again.
    pub fn begin_block(&mut self, norm: &str, stream: Var) {
        let mut again: Vec<Rc<dyn Op>> = vec![];
        if self.recompute == Recompute::Block {
            again.push(Rc::new(self.norm(norm, stream)));
        }
        self.block = Some(Block { first: self.ops.len(), again });
    }

    /// Ends a block before the op that reads its last activation; returns what finds its activations
    /// again, to be pushed after that op, unless they are still there.
    ///
    /// # Panics
    ///
    /// If no block was begun.
    pub fn end_block(&mut self) -> recompute::Recompute {
        let Block { first, mut again } = self.block.take().expect("a block was begun");
        if self.recompute == Recompute::Block {
            again.extend_from_slice(&self.ops[first..]);
        }
        recompute::Recompute(again)
    }

    /// The stream after `branch` joined it, and the same normalised.
    pub fn residual_layernorm(&mut self, name: &str, stream: Var, branch: Var) -> (Var, Var) {
        let c = stream.value.len / self.rows();
        let sum = self.stream_of(&format!("{name}.sum"), c, any_grad(&[stream, branch]));
        let norm = self.norm(name, sum);
        let out = norm.out;
        self.push(ResidualLayerNorm { stream, branch, norm });
        (sum, out)
    }

    /// The stream after a branch joined it.
    pub fn residual(&mut self, name: &str, stream: Var, branch: Var) -> Var {
        let c = stream.value.len / self.rows();
        let out = self.stream_of(name, c, any_grad(&[stream, branch]));
        let dims = Dims { C: c as u32, ..self.dims };
        self.push(Residual { dims, stream, branch, out });
        out
    }

    /// The parts of a linear layer from `x` (B,T,C) into what `out` makes of whether it has a gradient.
    fn linear_into(
        &mut self,
        name: &str,
        x: Var,
        oc: usize,
        out: impl FnOnce(&mut Graph, bool) -> Var,
    ) -> Linear {
        let c = x.value.len / self.rows();
        let weight = self.whole(&format!("{name}.weight"), &[c, oc]);
        let weight = self.operand(weight);
        let bias = self.whole(&format!("{name}.bias"), &[oc]);
        let lora = self.lora(name, x, oc);
        let adapted = lora.as_ref().is_some_and(|lora| lora.low.has_grad());
        let out = out(self, adapted || any_grad(&[x, weight, bias]));
        let dims = Dims { C: c as u32, OC: oc as u32, ..self.dims };
        // Matrix units take operands of one precision, and the stream's gradient has the other.
        let differs = out.has_grad() && out.grad.elem != x.value.elem;
        let rounded_dout = differs
            .then(|| self.buffer(Role::Activations, "rounded_dout", out.grad.len, x.value.elem));
        Linear { dims, x, weight, bias, out, rounded_dout, lora }
    }

    /// The adapter of the linear layer called `name`, if it has one.
    fn lora(&mut self, name: &str, x: Var, oc: usize) -> Option<Lora> {
        let lora = self.finetune.lora.as_ref().filter(|lora| lora.adapts(name))?;
        let (r, scale) = (lora.rank, lora.scale());
        let c = x.value.len / self.rows();
        let [a, b] = [("lora_A", c), ("lora_B", oc)].map(|(part, width)| {
            let param = self.whole(&format!("{name}.{part}.weight"), &[r, width]);
            self.operand(param)
        });
        let (len, elem, has_grad) = (self.rows() * r, self.elem(), self.trains());
        let part = format!("{name}.lora_product");
        let product = self.activations(&part, len, Elem::Real, Sharing::Always);
        let product = self.var(&part, product, elem, has_grad);
        let part = format!("{name}.lora_low");
        let low = self.activations(&part, len, elem, Sharing::InBlocks);
        let low = self.var(&part, low, Elem::Real, has_grad);
        Some(Lora { a, b, product, low, scale })
    }

    /// `x` (B,T,C) times a weight (C,`oc`), plus a bias (`oc`).
    pub fn linear(&mut self, name: &str, x: Var, oc: usize) -> Var {
        let linear = self.linear_into(name, x, oc, |g, has_grad| {
            g.activation_of(name, oc, Sharing::InBlocks, has_grad)
        });
        let out = linear.out;
        self.push(linear);
        out
    }

    /// A linear layer whose output joins the stream next and so has the stream's gradient.
    pub fn linear_to_stream(&mut self, name: &str, x: Var, oc: usize) -> Var {
        let elem = self.elem();
        let linear =
            self.linear_into(name, x, oc, |g, has_grad| g.branch(name, oc, elem, has_grad));
        let out = linear.out;
        self.push(linear);
        out
    }

    /// GELU of a linear layer.
    ///
    /// Where it is computed again, all layers share its output.
    pub fn linear_gelu(&mut self, name: &str, x: Var, oc: usize) -> Var {
        let linear = self.linear_into(name, x, oc, |g, has_grad| {
            g.activation_of(&format!("{name}.pre"), oc, Sharing::InBlocks, has_grad)
        });
        let pre = linear.out;
        let again = self.recompute == Recompute::Gelu && self.block.is_some();
        let sharing = if again { Sharing::Always } else { Sharing::InBlocks };
        let out = self.activation_of(name, oc, sharing, pre.has_grad());
        self.push(LinearGelu { linear, out });
        if let Some(block) = self.block.as_mut().filter(|_| again) {
            let dims = Dims { C: oc as u32, ..self.dims };
            block.again.push(Rc::new(Gelu { dims, x: pre, out }));
        }
        out
    }

    /// GELU of `x`.
    pub fn gelu(&mut self, name: &str, x: Var) -> Var {
        let c = x.value.len / self.rows();
        let out = self.activation_of(name, c, Sharing::InBlocks, x.has_grad());
        let dims = Dims { C: c as u32, ..self.dims };
        self.push(Gelu { dims, x, out });
        out
    }

    /// Causal attention of `nh` heads over `qkv` (B,T,3C); `s` positions fit the cache of generation.
    pub fn attention(&mut self, name: &str, qkv: Var, nh: usize, s: usize) -> Var {
        let c = qkv.value.len / self.rows() / 3;
        let dims = Dims { C: c as u32, NH: nh as u32, S: s as u32, ..self.dims };
        let out = self.activation_of(name, c, Sharing::InBlocks, qkv.has_grad());
        if self.mode == Mode::Extend {
            // Beside training it lies in gradients, which are of single precision.
            let elem = if self.spare_gradients.is_empty() { self.elem() } else { Elem::Real };
            let cache = self.buffer(Role::Cache, &format!("{name}.cache"), 2 * s * c, elem);
            let (qkv, out) = (qkv.value, out.value);
            self.push(AttentionExtend { dims, qkv, cache, out });
        } else {
            let rows = self.rows() * nh;
            let lse = format!("{name}.lse");
            let lse = self.activations(&lse, rows, Elem::Real, Sharing::InBlocks);
            let delta = match qkv.has_grad() {
                true => {
                    let name = format!("{}.delta", slot(name));
                    self.buffer(Role::Activations, &name, rows, Elem::Real)
                }
                false => lse,
            };
            self.push(Attention { dims, qkv, out, lse, delta });
        }
        out
    }

    /// Causal softmax of scores (B,`nh`,T,T).
    pub fn softmax(&mut self, name: &str, s: Var, nh: usize) -> Var {
        let c = s.value.len / self.rows();
        let p = self.activation_of(name, c, Sharing::InBlocks, s.has_grad());
        let dims = Dims { NH: nh as u32, ..self.dims };
        self.push(CausalSoftmax { dims, s, p });
        p
    }

    /// A product of two activations: `m`, `k` and `n` are the output's rows, the sums' length and the
    /// output's columns.
    pub fn matmul(
        &mut self,
        name: &str,
        layout: Layout,
        [m, k, n]: [usize; 3],
        a: Var,
        b: Var,
    ) -> Var {
        let out = self.input(name, m * n);
        let dims = Dims { M: m as u32, K: k as u32, N: n as u32, ..Dims::default() };
        self.push(MatMul { layout, dims, a, b, out });
        out
    }

    /// An activation of any length that no op writes: an input.
    pub fn input(&mut self, name: &str, len: usize) -> Var {
        let value = self.buffer(Role::Activations, name, len, Elem::Real);
        self.var(name, value, Elem::Real, self.trains())
    }

    /// Adds an op that the other methods do not make.
    pub fn push(&mut self, op: impl Op + 'static) {
        self.ops.push(Rc::new(op));
    }
}

/// Whether any of these has a gradient, and so has what is computed from them.
fn any_grad(from: &[Var]) -> bool {
    from.iter().any(|var| var.has_grad())
}

/// What a name is without its layer: `h.3.mlp.c_fc` is `mlp.c_fc` in every layer.
fn slot(name: &str) -> &str {
    let rest = name.strip_prefix("h.").and_then(|rest| rest.split_once('.'));
    rest.map_or(name, |(_, rest)| rest)
}
