//! What a kernel is: a name, a signature, a CPU twin, and the WGSL variants that obey both.

use bytemuck::{Pod, Zeroable};

/// The sizes of one dispatch, in the letters used throughout: every kernel reads this one struct.
///
/// `shaders/shared/dims.wgsl` declares the same fields; a test compares the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(non_snake_case, reason = "the letters of the papers and of the shaders")]
pub struct Dims {
    /// Batch size: sequences.
    pub B: u32,
    /// Time: positions a sequence.
    pub T: u32,
    /// Channels of the input.
    pub C: u32,
    /// Channels of the output.
    pub OC: u32,
    /// Attention heads.
    pub NH: u32,
    /// Vocabulary: rows of the slice of the token table, or columns of the logits.
    pub V: u32,
    /// Positions of the context: rows of the position table and of a cache.
    pub S: u32,
    /// Rows of a matrix product's output.
    pub M: u32,
    /// Length of a matrix product's sums.
    pub K: u32,
    /// Columns of a matrix product's output.
    pub N: u32,
    /// Elements from one row of the logits to the next.
    pub LD: u32,
    /// Where a slice begins: its first row of the token table, or its first column of the logits.
    pub START: u32,
    /// What happens to what an [`Access::Acc`] holds; one of [`Accumulate`], as a number.
    pub ACC: u32,
    /// Tells apart what draws random numbers, or names a [`Decay`] or a [`LossScale`].
    pub ID: u32,
    /// What layer normalisation adds to the variance.
    pub EPS: f32,
    /// What low-rank adapters multiply by.
    pub SCALE: f32,
    /// Where the part of a grid that a GPU computes at once begins: its first column and its first row.
    pub FIRST: [u32; 2],
    /// Unused: WGSL wants a uniform's size to be a multiple of 16 bytes.
    pub PAD: [u32; 2],
}

impl Dims {
    /// The rows of an activation: one for each position of each sequence.
    pub fn rows(&self) -> usize {
        self.B as usize * self.T as usize
    }
}

impl std::fmt::Display for Dims {
    /// Every size that is not 0, as ` B=2 T=3 EPS=1e-5`. [`Dims::FIRST`] is left out: a plan does not have it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Dims { B, T, C, OC, NH, V, S, M, K, N, LD, START, ACC, ID, EPS, SCALE, .. } = *self;
        let sizes = [("B", B), ("T", T), ("C", C), ("OC", OC), ("NH", NH), ("V", V), ("S", S)];
        let product = [("M", M), ("K", K), ("N", N), ("LD", LD), ("START", START)];
        let words = sizes.into_iter().chain(product).chain([("ACC", ACC), ("ID", ID)]);
        for (name, word) in words.filter(|(_, word)| *word != 0) {
            write!(f, " {name}={word}")?;
        }
        for (name, real) in [("EPS", EPS), ("SCALE", SCALE)].into_iter().filter(|x| x.1 != 0.0) {
            write!(f, " {name}={real:?}")?;
        }
        Ok(())
    }
}

/// Whether an [`Access::Acc`] is added to or starts afresh: [`Dims::ACC`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Accumulate {
    /// Adds to what is there.
    Add = 0,
    /// Overwrites: the first contribution in a phase.
    Set = 1,
    /// Overwrites in the first micro-batch of an update ([`Step::accumulate`] 0), adds in the others.
    SetFirst = 2,
}

/// Which weight decay an update applies: [`Dims::ID`] of the optimiser's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Decay {
    /// None.
    Off = 0,
    /// Decoupled: the parameter shrinks by lr · decay.
    Decoupled = 1,
    /// Coupled: decay · parameter joins the gradient.
    Coupled = 2,
}

/// Whether the loss scale changes: [`Dims::ID`] of the norm's last kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LossScale {
    /// It stays as it is.
    Fixed = 0,
    /// It grows and falls: [`crate::ops::global_norm`].
    Dynamic = 1,
}

/// What the host knows and changes between two replays of a phase.
///
/// The CPU backend reads it as it is; a GPU gets [`Step::words`], a uniform.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// 0 in the first micro-batch of an update, else 1: see [`Accumulate::SetFirst`].
    pub accumulate: u32,
    /// The position of the first row, in generation.
    pub position: u32,
    /// Valid rows a sequence; the rest is masked.
    pub count: u32,
    /// The key of this replay's random numbers.
    pub seed: [u32; 2],
    /// The share of activations that dropout drops, of 2³²; 0: none.
    pub dropout: u32,
    /// Tokens that top-k keeps; 0: all.
    pub top_k: u32,
    /// What each row's loss counts: 1 / (targets that count in all micro-batches of an update).
    pub loss_scale: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Adam's decay of the second moment.
    pub beta2: f64,
    /// Adam's term beside the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The largest norm of the gradient; 0: no clipping.
    pub grad_clip: f64,
    /// Divides the logits; 0: greedy.
    pub temperature: f64,
    /// Nucleus sampling's mass; 1: all.
    pub top_p: f64,
    /// The least probability relative to the largest; 0: all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens seen before; 1: none.
    pub repetition_penalty: f64,
}

impl Default for Step {
    fn default() -> Step {
        Step {
            accumulate: 0,
            position: 0,
            count: u32::MAX,
            seed: [0; 2],
            dropout: 0,
            top_k: 0,
            loss_scale: 1.0,
            learning_rate: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            grad_clip: 0.0,
            temperature: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

/// [`Step`] as `shaders/shared/step.wgsl` declares it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are Step's, and two logarithms")]
pub struct StepWords {
    pub accumulate: u32,
    pub position: u32,
    pub count: u32,
    pub seed_0: u32,
    pub seed_1: u32,
    pub dropout: u32,
    pub top_k: u32,
    pub loss_scale: f32,
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub ln_beta1: f32,
    pub ln_beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub grad_clip: f32,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
}

impl Step {
    /// The uniform that a GPU reads.
    pub fn words(&self) -> StepWords {
        StepWords {
            accumulate: self.accumulate,
            position: self.position,
            count: self.count,
            seed_0: self.seed[0],
            seed_1: self.seed[1],
            dropout: self.dropout,
            top_k: self.top_k,
            loss_scale: self.loss_scale as f32,
            learning_rate: self.learning_rate as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            ln_beta1: self.beta1.ln() as f32,
            ln_beta2: self.beta2.ln() as f32,
            eps: self.eps as f32,
            weight_decay: self.weight_decay as f32,
            grad_clip: self.grad_clip as f32,
            temperature: self.temperature as f32,
            top_p: self.top_p as f32,
            min_p: self.min_p as f32,
            repetition_penalty: self.repetition_penalty as f32,
        }
    }

    /// Whether an [`Access::Acc`] of a dispatch with these sizes is overwritten in this replay.
    pub fn overwrites(&self, dims: &Dims) -> bool {
        dims.ACC == Accumulate::Set as u32
            || (dims.ACC == Accumulate::SetFirst as u32 && self.accumulate == 0)
    }
}

/// The element type of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// A floating-point number: f32, or f64 in the CPU backend's proofs.
    Real,
    /// A half-precision number.
    F16,
    /// A 32-bit unsigned integer.
    U32,
}

impl Elem {
    /// Bytes an element on a device.
    pub fn bytes(self) -> u64 {
        match self {
            Elem::Real | Elem::U32 => 4,
            Elem::F16 => 2,
        }
    }
}

/// What happens to a buffer of a kernel's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    In,
    /// Every element is overwritten; what was there is not read.
    Out,
    /// The part that the sizes name is overwritten, the rest stays.
    Part,
    /// Every element is added to, or overwritten where [`Step::overwrites`] says so.
    Acc,
    /// Every element is read and then overwritten.
    Mut,
}

/// One buffer of a kernel's signature: what it is called, what it holds and what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The name in the shader.
    pub name: &'static str,
    /// What happens to it.
    pub access: Access,
    /// What it holds.
    pub elem: Elem,
    /// Whether a plan may give it half-precision numbers in the place of real ones.
    pub half: bool,
}

impl Arg {
    const fn new(name: &'static str, access: Access, elem: Elem) -> Arg {
        Arg { name, access, elem, half: false }
    }

    /// The same, of half precision too where a plan has it so.
    ///
    /// In the shader its elements are of the type `NAME_elem`, which is f32 or f16.
    pub const fn or_half(self) -> Arg {
        Arg { half: true, ..self }
    }

    /// Whether a view with these elements fits.
    pub fn takes(self, elem: Elem) -> bool {
        elem == self.elem || (self.half && elem == Elem::F16)
    }

    /// Whether the kernel writes it.
    pub fn is_written(self) -> bool {
        self.access != Access::In
    }
}

/// Real numbers that are read.
pub const fn reads(name: &'static str) -> Arg {
    Arg::new(name, Access::In, Elem::Real)
}

/// Integers that are read.
pub const fn reads_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::In, Elem::U32)
}

/// Real numbers that are all overwritten.
pub const fn writes(name: &'static str) -> Arg {
    Arg::new(name, Access::Out, Elem::Real)
}

/// Real numbers of which a part is overwritten.
pub const fn writes_part(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, Elem::Real)
}

/// Integers of which a part is overwritten.
pub const fn writes_part_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Part, Elem::U32)
}

/// Real numbers that are added to: see [`Access::Acc`].
pub const fn adds(name: &'static str) -> Arg {
    Arg::new(name, Access::Acc, Elem::Real)
}

/// Real numbers that are changed in place.
pub const fn changes(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, Elem::Real)
}

/// Integers that are changed in place.
pub const fn changes_u32(name: &'static str) -> Arg {
    Arg::new(name, Access::Mut, Elem::U32)
}

/// A kernel: `args[i]` is `@group(0) @binding(i + 1)`; binding 0 is [`Dims`].
///
/// What is read comes first, then what is written. Bind group 1 holds [`Step`].
pub struct Kernel {
    /// The stem of the WGSL file, the pipeline's label, the profiler's and the benchmark's row.
    pub name: &'static str,
    /// The buffers.
    pub args: &'static [Arg],
    /// The specification: plain loops.
    pub twin: Twin,
    /// The CPU kernel where speed matters; without one the twin runs.
    pub cpu: Option<fn(&Dims, &Step, Io<'_, f32>)>,
    /// Floating-point operations of one dispatch.
    pub flops: fn(&Dims) -> u64,
    /// WGSL implementations: the portable one first, which runs everywhere; without a measurement the
    /// last that an adapter can run is taken.
    pub variants: &'static [Variant],
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The plain loops of a kernel, for both precisions.
#[derive(Clone, Copy)]
pub struct Twin {
    /// In single precision.
    pub f32: fn(&Dims, &Step, Io<'_, f32>),
    /// In double precision, for proofs.
    pub f64: fn(&Dims, &Step, Io<'_, f64>),
}

/// The [`Twin`] of a generic function `fn name<F: Real>(&Dims, &Step, Io<F>)`.
macro_rules! twin {
    ($function:ident) => {
        crate::kernel::Twin { f32: $function::<f32>, f64: $function::<f64> }
    };
}
pub(crate) use twin;

/// One WGSL implementation of a kernel.
#[derive(Clone, Copy)]
pub struct Variant {
    /// What it does differently; empty for the portable one. Its file is `KERNEL_WORD.wgsl` after the
    /// name's first word, or the portable one's where only texts of `shaders/shared/` differ.
    pub name: &'static str,
    /// The text of its file.
    pub wgsl: &'static str,
    /// The texts of `shaders/shared/` that it uses beside those of every kernel.
    pub shared: &'static [&'static str],
    /// What it needs of an adapter beyond WebGPU's defaults.
    pub needs: Needs,
    /// Whether it computes a dispatch with these sizes, whose arguments hold these elements.
    pub fits: fn(&Dims, &[Elem]) -> bool,
    /// Workgroups a dispatch, as a function of the sizes and the lengths of the arguments.
    pub grid: fn(&Dims, &[usize]) -> [u32; 3],
}

impl Variant {
    /// The whole WGSL text for arguments that hold `elems`. What is not of the file comes last, so that
    /// line numbers stay the file's own.
    pub fn source(&self, kernel: &Kernel, elems: &[Elem]) -> String {
        const EVERY: &str = concat!(
            include_str!("../shaders/shared/dims.wgsl"),
            include_str!("../shaders/shared/step.wgsl"),
        );
        let half = self.needs.f16 || elems.contains(&Elem::F16);
        let matrices = self.needs.matrix_tiles != 0;
        let mut text = String::new();
        for (enable, wanted) in [("f16", half), ("wgpu_cooperative_matrix", matrices)] {
            if wanted {
                text += &format!("enable {enable}; ");
            }
        }
        text += &format!("{}\n{EVERY}{}\n", self.wgsl, self.shared.concat());
        for (arg, elem) in kernel.args.iter().zip(elems).filter(|(arg, _)| arg.half) {
            let wgsl = if *elem == Elem::F16 { "f16" } else { "f32" };
            text += &format!("alias {}_elem = {wgsl};\n", arg.name);
        }
        text
    }
}

/// What a variant needs of an adapter beyond WebGPU's defaults, or what an adapter has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Arithmetic in half precision.
    pub f16: bool,
    /// Operations within a subgroup of exactly this size; 0: none. An adapter has it if all its
    /// subgroups are of this size.
    pub subgroup: u32,
    /// Operations within subgroups of any size from 8 to 64.
    pub subgroups: bool,
    /// The edges of the square tiles of cooperative matrices, f16 with f32 sums: 8, 16, 8 + 16 or 0.
    pub matrix_tiles: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations a workgroup.
    pub invocations: u32,
}

impl Needs {
    /// Nothing beyond what WebGPU guarantees.
    pub const NOTHING: Needs = Needs {
        f16: false,
        subgroup: 0,
        subgroups: false,
        matrix_tiles: 0,
        workgroup_bytes: 16 << 10,
        invocations: 256,
    };

    /// Operations within subgroups of 8.
    pub const SUBGROUPS_OF_8: Needs = Needs { subgroup: 8, ..Needs::NOTHING };
    /// Operations within subgroups.
    pub const SUBGROUPS: Needs = Needs { subgroups: true, ..Needs::NOTHING };

    /// Whether an adapter that has `has` can run it.
    pub fn within(&self, has: &Needs) -> bool {
        (has.f16 || !self.f16)
            && (self.subgroup == 0 || self.subgroup == has.subgroup)
            && (has.subgroups || !self.subgroups)
            && self.matrix_tiles & has.matrix_tiles == self.matrix_tiles
            && self.workgroup_bytes <= has.workgroup_bytes
            && self.invocations <= has.invocations
    }
}

/// [`Variant::fits`] of what computes any sizes and elements.
pub fn always(_: &Dims, _: &[Elem]) -> bool {
    true
}

/// [`Variant::fits`] of what works on four channels at a time.
pub fn four_channels(dims: &Dims, _: &[Elem]) -> bool {
    dims.C > 0 && dims.C.is_multiple_of(4)
}

/// Texts of `shaders/shared/`, for [`Variant::shared`].
pub mod shared {
    /// Sums and maxima over a workgroup.
    pub const REDUCE: &str = include_str!("../shaders/shared/reduce.wgsl");
    /// Rows that are a subgroup's work each.
    pub const SUBGROUP_ROWS: &str = include_str!("../shaders/shared/subgroup_rows.wgsl");
    /// What layer normalisation does with the statistics of a row.
    pub const NORM: &str = include_str!("../shaders/shared/norm.wgsl");
    /// Rows of logits in vectors of four.
    pub const LOGITS: &str = include_str!("../shaders/shared/logits.wgsl");
    /// How they become their gradients.
    pub const LOGITS_GRADIENT: &str = include_str!("../shaders/shared/logits_gradient.wgsl");
    /// Matrices from one lane of a subgroup of 8 to all.
    pub const BROADCAST: &str = include_str!("../shaders/shared/broadcast.wgsl");
    /// The tanh form of GELU.
    pub const GELU: &str = include_str!("../shaders/shared/gelu.wgsl");
    /// What the engines of a matrix product have in common.
    pub const PRODUCT: &str = include_str!("../shaders/shared/product.wgsl");
    /// For products that do not want the sums of the second operand's columns.
    pub const PRODUCT_NO_SUMS: &str = include_str!("../shaders/shared/product_no_sums.wgsl");
    /// The engine of a matrix product that every device runs.
    pub const PRODUCT_TILES: &str = include_str!("../shaders/shared/product_tiles.wgsl");
    /// The engine for small products of long sums.
    pub const PRODUCT_SLICED: &str = include_str!("../shaders/shared/product_sliced.wgsl");
    /// The engine for a few rows.
    pub const PRODUCT_ROWS: &str = include_str!("../shaders/shared/product_rows.wgsl");
    /// The engine for subgroups of 8.
    pub const PRODUCT_BROADCAST: &str = include_str!("../shaders/shared/product_broadcast.wgsl");
    /// The engine for matrix units.
    pub const PRODUCT_COOP: &str = include_str!("../shaders/shared/product_coop.wgsl");
    /// Its tiles of vectors.
    pub const COOP_VECTORS: &str = include_str!("../shaders/shared/coop_vectors.wgsl");
    /// Its tiles of numbers.
    pub const COOP_NUMBERS: &str = include_str!("../shaders/shared/coop_numbers.wgsl");
    /// Its matrices of 8 x 8.
    pub const COOP_8X8: &str = include_str!("../shaders/shared/coop_8x8.wgsl");
    /// Its matrices of 16 x 16.
    pub const COOP_16X16: &str = include_str!("../shaders/shared/coop_16x16.wgsl");
    /// What attention's kernels on matrix units have in common.
    pub const ATTENTION_COOP: &str = include_str!("../shaders/shared/attention_coop.wgsl");
    /// Adam's constants.
    pub const ADAM: &str = include_str!("../shaders/shared/adam.wgsl");
    /// Counter-based random numbers.
    pub const THREEFRY: &str = include_str!("../shaders/shared/threefry.wgsl");
}

/// Grids: how many workgroups a dispatch has.
pub mod grid {
    use super::Dims;

    /// What WebGPU guarantees of each dimension of a grid.
    pub const LARGEST: u32 = 65_535;

    /// `groups` workgroups in rows of at most [`LARGEST`]; `group_index` in WGSL undoes it.
    pub fn fold(groups: u32) -> [u32; 3] {
        [groups.clamp(1, LARGEST), groups.div_ceil(LARGEST).max(1), 1]
    }

    /// Cuts a grid into about `parts` parts of whole rows (of a single row: of columns): each with
    /// [`Dims::FIRST`] and its size.
    ///
    /// ```
    /// use wgpt::kernel::grid::split;
    /// assert_eq!(split([7, 5, 2], 2), [([0, 0], [7, 3, 2]), ([0, 3], [7, 2, 2])]);
    /// assert_eq!(split([7, 1, 2], 2), [([0, 0], [4, 1, 2]), ([4, 0], [3, 1, 2])]);
    /// ```
    pub fn split([x, y, z]: [u32; 3], parts: u32) -> Vec<([u32; 2], [u32; 3])> {
        let len = if y > 1 { y } else { x };
        let most = len.div_ceil(parts.clamp(1, len.max(1)));
        let part = |first| match most.min(len - first) {
            rows if y > 1 => ([0, first], [x, rows, z]),
            columns => ([first, 0], [columns, y, z]),
        };
        (0..len).step_by(most as usize).map(part).collect()
    }

    /// B · T.
    pub fn row_count(dims: &Dims) -> u32 {
        dims.B * dims.T
    }

    /// One workgroup a row of B · T.
    pub fn rows(dims: &Dims, _: &[usize]) -> [u32; 3] {
        fold(dims.B * dims.T)
    }

    /// One workgroup 8 of `rows` rows.
    pub fn eight_rows(rows: u32) -> [u32; 3] {
        fold(rows.div_ceil(8))
    }

    /// One workgroup 1024 elements of the last argument.
    pub fn vectors(_: &Dims, lens: &[usize]) -> [u32; 3] {
        fold(lens.last().map_or(1, |&len| len.div_ceil(1024)) as u32)
    }

    /// One invocation of 256 an element of the last argument.
    pub fn elements(_: &Dims, lens: &[usize]) -> [u32; 3] {
        fold(lens.last().map_or(1, |&len| len.div_ceil(256)) as u32)
    }

    /// One workgroup a tile of a matrix, both in rows and columns.
    pub fn tiles(matrix: [u32; 2], tile: [u32; 2]) -> [u32; 3] {
        [matrix[1].div_ceil(tile[1]), matrix[0].div_ceil(tile[0]), 1]
    }
}

/// The buffers of one dispatch as the CPU sees them, each kind in signature order.
pub struct Io<'a, F> {
    /// Real numbers that are read.
    pub inputs: Vec<&'a [F]>,
    /// Real numbers that are written.
    pub outputs: Vec<&'a mut [F]>,
    /// Integers that are read.
    pub words: Vec<&'a [u32]>,
    /// Integers that are written.
    pub words_out: Vec<&'a mut [u32]>,
}

/// Real numbers in signature order: read, then written.
type Reals<'a, F, const I: usize, const O: usize> = ([&'a [F]; I], [&'a mut [F]; O]);

impl<'a, F> Io<'a, F> {
    /// The buffers of a kernel without integers: `let ([x, weight], [out]) = io.reals();`
    ///
    /// # Panics
    ///
    /// If the numbers are not the signature's.
    pub fn reals<const I: usize, const O: usize>(self) -> Reals<'a, F, I, O> {
        let (reals, [], []) = self.split();
        reals
    }

    /// All buffers: `let (([dout], [dx]), [tokens], []) = io.split();`
    ///
    /// # Panics
    ///
    /// If the numbers are not the signature's.
    pub fn split<const I: usize, const O: usize, const W: usize, const WO: usize>(
        self,
    ) -> (Reals<'a, F, I, O>, [&'a [u32]; W], [&'a mut [u32]; WO]) {
        let wrong = "a kernel takes the buffers of its signature";
        let inputs = self.inputs.try_into().ok().expect(wrong);
        let outputs = self.outputs.try_into().ok().expect(wrong);
        let words = self.words.try_into().expect(wrong);
        let words_out = self.words_out.try_into().expect(wrong);
        ((inputs, outputs), words, words_out)
    }
}

/// f32 or f64: what twins are generic over.
pub trait Real: num_traits::Float + std::iter::Sum + Default + Send + Sync + Pod {
    /// The nearest number to `x`.
    fn of(x: f64) -> Self;
    /// The number in double precision.
    fn f64(self) -> f64;
    /// This precision's function of a twin.
    fn twin(twin: &Twin) -> fn(&Dims, &Step, Io<'_, Self>);
    /// The CPU kernel for this precision, if there is one.
    fn cpu(kernel: &Kernel) -> Option<fn(&Dims, &Step, Io<'_, Self>)>;
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }

    fn f64(self) -> f64 {
        f64::from(self)
    }

    fn twin(twin: &Twin) -> fn(&Dims, &Step, Io<'_, f32>) {
        twin.f32
    }

    fn cpu(kernel: &Kernel) -> Option<fn(&Dims, &Step, Io<'_, f32>)> {
        kernel.cpu
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }

    fn f64(self) -> f64 {
        self
    }

    fn twin(twin: &Twin) -> fn(&Dims, &Step, Io<'_, f64>) {
        twin.f64
    }

    fn cpu(_: &Kernel) -> Option<fn(&Dims, &Step, Io<'_, f64>)> {
        None
    }
}

/// Adds to or overwrites `old`, as [`Step::overwrites`] says.
pub fn accumulate<F: Real>(old: &mut F, new: F, overwrite: bool) {
    *old = if overwrite { new } else { *old + new };
}
