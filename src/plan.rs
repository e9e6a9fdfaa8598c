//! A plan: buffers, dispatches and phases, recorded once as plain data and replayed by any backend.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::kernel::{Access, Dims, Format, Kernel};

/// The `min_storage_buffer_offset_alignment` that WebGPU guarantees, in bytes.
pub const BINDING_ALIGNMENT: u64 = 256;

/// A range of one buffer, in elements: the range of one binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Index into [`Plan::buffers`].
    pub buffer: usize,
    /// The first element.
    pub start: usize,
    /// The number of elements.
    pub len: usize,
    /// The storage format; a view begins and ends at block boundaries.
    pub format: Format,
}

impl View {
    /// Returns the range of elements within the buffer.
    pub fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// Returns the `len` elements from `start`, counted within this view.
    ///
    /// # Panics
    ///
    /// If they reach beyond its end, or begin or end within a block.
    pub fn slice(self, start: usize, len: usize) -> View {
        assert!(start + len <= self.len, "slice {start}+{len} of a view of {}", self.len);
        let whole = self.format.is_whole(start) && self.format.is_whole(len);
        assert!(whole, "slice {start}+{len} cuts a block of {}", self.format);
        View { start: self.start + start, len, ..self }
    }

    /// Returns the bytes on a device.
    pub fn bytes(self) -> u64 {
        self.format.bytes(self.len)
    }

    /// Returns the byte offset in its buffer on a device.
    pub fn offset(self) -> u64 {
        self.format.bytes(self.start)
    }

    /// Returns the same range of another buffer.
    pub fn of(self, buffer: usize) -> View {
        View { buffer, ..self }
    }

    /// Whether the two have an element in common.
    pub(crate) fn overlaps(self, other: View) -> bool {
        let (a, b) = (self.range(), other.range());
        self.buffer == other.buffer && a.start < b.end && b.start < a.end
    }
}

/// The purpose of a buffer: the rows of `wgpt plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The parameters.
    Parameters,
    /// Their gradients.
    Gradients,
    /// The optimiser's moments.
    Moments,
    /// The values that the forward pass keeps for the backward pass, and the gradients of activations.
    Activations,
    /// The logits of one row chunk, and their gradients.
    Logits,
    /// Keys and values of past positions, and other data of generation.
    Cache,
    /// Tokens, targets, statistics and other data that moves between host and device.
    Staging,
}

impl Role {
    /// All roles, in the order of `wgpt plan`.
    pub const ALL: [Role; 7] = [
        Role::Parameters,
        Role::Gradients,
        Role::Moments,
        Role::Activations,
        Role::Logits,
        Role::Cache,
        Role::Staging,
    ];

    /// Returns the name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Role::Parameters => "parameters",
            Role::Gradients => "gradients",
            Role::Moments => "moments",
            Role::Activations => "activations",
            Role::Logits => "logits",
            Role::Cache => "cache",
            Role::Staging => "staging",
        }
    }
}

/// A buffer that the backend will create.
#[derive(Clone, Debug)]
pub struct BufferSpec {
    /// Its label.
    pub name: String,
    /// The number of elements.
    pub len: usize,
    /// The storage format.
    pub format: Format,
    /// Its purpose.
    pub role: Role,
}

impl BufferSpec {
    /// Returns the bytes on a device.
    pub fn bytes(&self) -> u64 {
        self.format.bytes(self.len)
    }
}

/// One kernel over some views.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Its sizes.
    pub dims: Dims,
    /// Its buffers, in signature order.
    pub args: Vec<View>,
}

impl Dispatch {
    /// Returns the formats of the arguments.
    pub fn formats(&self) -> Vec<Format> {
        self.args.iter().map(|view| view.format).collect()
    }

    /// Returns the lengths of the arguments.
    pub fn lens(&self) -> Vec<usize> {
        self.args.iter().map(|view| view.len).collect()
    }

    /// Whether any argument holds numbers of half precision.
    pub fn has_half(&self) -> bool {
        self.args.iter().any(|view| view.format == Format::F16)
    }

    /// Returns the format of its stored matrix, if shaders read that through integers.
    pub fn coded(&self) -> Option<Format> {
        self.args.iter().map(|view| view.format).find(|format| format.is_coded())
    }
}

/// A range of a plan that is run as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Copies of the parameters in the precision that products read, if that differs from their own: to be
    /// run after a change of the parameters, before they are read.
    Cast,
    /// From the tokens to the last layer normalisation.
    Forward,
    /// Head and loss, without gradients.
    Evaluate,
    /// Head, loss and all gradients.
    Backward,
    /// [`Phase::Forward`] of another micro-batch in flight, from 1: [`Phase::forward_of`].
    ForwardOf(u32),
    /// [`Phase::Backward`] of another micro-batch in flight, from 1: [`Phase::backward_of`].
    BackwardOf(u32),
    /// Keeps gradients and loss as this node of the sum over an update's micro-batches.
    Keep(u32),
    /// Adds to gradients and loss those that this node keeps.
    Join(u32),
    /// The partials of the norm that this rank computes, where ranks split the optimiser's state.
    Norm,
    /// Norm, clipping and the optimiser.
    Update,
    /// The logits of every row.
    Logits,
    /// Extends the sequences of the slots by up to this many tokens in total.
    Extend(u32),
    /// The logits of the rows of the last [`Phase::Extend`] of the same size.
    Score(u32),
    /// Copies the beginning of one slot's sequence to another slot.
    Copy,
    /// Draws the next token of every slot that draws one, from its logits.
    Sample,
}

impl Phase {
    /// Returns the forward pass of the micro-batch in flight number `flight`.
    pub fn forward_of(flight: usize) -> Phase {
        if flight == 0 { Phase::Forward } else { Phase::ForwardOf(flight as u32) }
    }

    /// Returns the backward pass of the micro-batch in flight number `flight`.
    pub fn backward_of(flight: usize) -> Phase {
        if flight == 0 { Phase::Backward } else { Phase::BackwardOf(flight as u32) }
    }
}

/// The limits of a device, and the format in which it has numbers of half the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest binding, in bytes.
    pub binding_bytes: u64,
    /// The largest buffer, in bytes.
    pub buffer_bytes: u64,
    /// The largest useful amount of logits in memory at once, in bytes: with fewer chunks, the token table and its
    /// gradient are read fewer times; with smaller ones, less memory is used.
    pub logits_bytes: u64,
    /// The format of activations, and of the copies of matrices, in mixed precision.
    pub half: Format,
}

impl Limits {
    /// Bytes of logits on a GPU: the head of GPT-2 then does 240 FLOPs (in mixed precision 640) per byte of the
    /// token table and its gradient, about the ratio of a GPU's arithmetic to its memory bandwidth.
    pub const GPU_LOGITS_BYTES: u64 = 128 << 20;
    /// The limits that every WebGPU device supports.
    pub const WEBGPU: Limits = Limits {
        binding_bytes: 128 << 20,
        buffer_bytes: 256 << 20,
        logits_bytes: Limits::GPU_LOGITS_BYTES,
        half: Format::F16,
    };
    /// No limits but those of host memory; a CPU can do about 10 FLOPs per byte of memory traffic.
    pub const NONE: Limits = Limits {
        binding_bytes: u64::MAX,
        buffer_bytes: u64::MAX,
        logits_bytes: 16 << 20,
        half: Format::F16,
    };
    /// Those of a CPU, which multiplies numbers of bf16 where a GPU multiplies those of half precision.
    pub const CPU: Limits = Limits { half: Format::BF16, ..Limits::NONE };
}

/// Buffers, dispatches and phases.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The buffers, in the order of their creation.
    pub buffers: Vec<BufferSpec>,
    /// The dispatches of all phases.
    pub dispatches: Vec<Dispatch>,
    /// The dispatches that each phase runs.
    pub phases: BTreeMap<Phase, Range<usize>>,
    /// Integers that a backend writes when it is built, and nothing changes after that.
    pub constants: Vec<(View, Vec<u32>)>,
}

impl Plan {
    /// Adds a buffer of `len` elements and returns a view of the whole.
    ///
    /// # Panics
    ///
    /// If the elements are not a whole number of blocks.
    pub fn buffer(&mut self, role: Role, name: &str, len: usize, format: Format) -> View {
        assert!(format.is_whole(len), "{name}: {len} elements end within a block of {format}");
        self.buffers.push(BufferSpec { name: name.to_owned(), len, format, role });
        View { buffer: self.buffers.len() - 1, start: 0, len, format }
    }

    /// Returns a buffer that always holds these integers; equal ones share it.
    pub fn constant(&mut self, name: &str, words: Vec<u32>) -> View {
        if let Some((view, _)) = self.constants.iter().find(|(_, same)| *same == words) {
            return *view;
        }
        let view = self.buffer(Role::Staging, name, words.len(), Format::U32);
        self.constants.push((view, words));
        view
    }

    /// Returns where the next tensor of an arena begins: at an offset that every device can bind.
    pub fn next_start(&self, buffer: usize) -> usize {
        let spec = &self.buffers[buffer];
        spec.len.next_multiple_of(spec.format.elements_per(BINDING_ALIGNMENT))
    }

    /// Extends an arena by `len` elements from [`Plan::next_start`].
    ///
    /// # Panics
    ///
    /// If they are not a whole number of blocks.
    pub fn grow(&mut self, buffer: usize, len: usize) -> View {
        let start = self.next_start(buffer);
        let spec = &mut self.buffers[buffer];
        assert!(spec.format.is_whole(len), "{len} elements end within a block of {}", spec.format);
        spec.len = start + len;
        View { buffer, start, len, format: spec.format }
    }

    /// Records one dispatch.
    ///
    /// # Panics
    ///
    /// If the arguments do not fit the kernel's signature, or break a rule that wgpu enforces late
    /// or not at all: in one dispatch a buffer is either read or written, and writes are disjoint.
    pub fn push(&mut self, kernel: &'static Kernel, dims: Dims, args: &[View]) {
        let name = kernel.name;
        assert_eq!(args.len(), kernel.args.len(), "{name}: number of arguments");
        for (i, (a, arg)) in args.iter().zip(kernel.args).enumerate() {
            let spec = &self.buffers[a.buffer];
            assert!(a.range().end <= spec.len, "{name}: {} reaches past {}", arg.name, spec.name);
            assert!(a.len > 0, "{name}: {} is empty", arg.name);
            let whole = a.format.is_whole(a.start) && a.format.is_whole(a.len);
            assert!(whole, "{name}: {} cuts a block of {}", arg.name, a.format);
            assert_eq!(a.format, spec.format, "{name}: format of {} and its buffer", arg.name);
            assert!(arg.accepts(a.format), "{name}: {} does not take {}", arg.name, a.format);
            for (b, other) in args.iter().zip(kernel.args).skip(i + 1) {
                let mixed = a.buffer == b.buffer && arg.is_written() != other.is_written();
                assert!(
                    !mixed,
                    "{name}: {} and {} read and write {}",
                    arg.name, other.name, spec.name
                );
                let clash = arg.is_written() && a.overlaps(*b);
                assert!(!clash, "{name}: {} and {} overlap in {}", arg.name, other.name, spec.name);
            }
        }
        self.dispatches.push(Dispatch { kernel, dims, args: args.to_vec() });
    }

    /// Returns the same plan with numbers of half the size, in this format, in every buffer whose kernels all accept it, for tests.
    pub fn halved(&self, half_format: Format) -> Plan {
        let mut plan = self.clone();
        let mut half: Vec<bool> = plan.buffers.iter().map(|b| b.format == Format::F32).collect();
        for dispatch in &plan.dispatches {
            for (arg, view) in dispatch.kernel.args.iter().zip(&dispatch.args) {
                let aligned = half_format.bytes(view.start).is_multiple_of(BINDING_ALIGNMENT);
                half[view.buffer] &= arg.accepts(half_format) && aligned;
            }
        }
        let buffers = plan.buffers.iter_mut().zip(&half).filter(|(_, half)| **half);
        buffers.for_each(|(buffer, _)| buffer.format = half_format);
        let views = plan.dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.args);
        views.filter(|view| half[view.buffer]).for_each(|view| view.format = half_format);
        plan
    }

    /// Makes a phase of the dispatches from `start` on.
    pub fn end_phase(&mut self, phase: Phase, start: usize) {
        self.phases.insert(phase, start..self.dispatches.len());
    }

    /// Returns the dispatches of a phase.
    ///
    /// # Panics
    ///
    /// If the plan was recorded without this phase.
    pub fn phase(&self, phase: Phase) -> Range<usize> {
        self.phases.get(&phase).unwrap_or_else(|| panic!("no {phase:?} was recorded")).clone()
    }

    /// Returns the bytes of all buffers of a role.
    pub fn bytes(&self, role: Role) -> u64 {
        self.buffers.iter().filter(|b| b.role == role).map(BufferSpec::bytes).sum()
    }

    /// Returns the bytes of all buffers.
    pub fn total_bytes(&self) -> u64 {
        self.buffers.iter().map(BufferSpec::bytes).sum()
    }

    /// Describes the first argument of any dispatch that a device with these limits cannot bind.
    pub fn exceeds(&self, limits: Limits) -> Option<String> {
        let too_large = self.buffers.iter().find(|b| b.bytes() > limits.buffer_bytes);
        if let Some(b) = too_large {
            let (bytes, most) = (b.bytes(), limits.buffer_bytes);
            return Some(format!("buffer {} has {bytes} bytes, the device allows {most}", b.name));
        }
        self.dispatches.iter().find_map(|d| {
            let (arg, view) = d
                .kernel
                .args
                .iter()
                .zip(&d.args)
                .find(|(_, view)| view.bytes() > limits.binding_bytes)?;
            let bytes = view.bytes();
            Some(format!(
                "{}.{} binds {bytes} bytes of {}, the device allows {}",
                d.kernel.name, arg.name, self.buffers[view.buffer].name, limits.binding_bytes
            ))
        })
    }
}

impl fmt::Display for Plan {
    /// Writes one line per dispatch with the kernel, its sizes and its arguments: the whole graph, as text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut phases: Vec<_> = self.phases.iter().collect();
        phases.sort_by_key(|(_, range)| range.start);
        for (phase, range) in phases {
            writeln!(f, "{phase:?}")?;
            for dispatch in &self.dispatches[range.clone()] {
                write!(f, "  {}{}", dispatch.kernel.name, dispatch.dims)?;
                for (arg, view) in dispatch.kernel.args.iter().zip(&dispatch.args) {
                    let buffer = &self.buffers[view.buffer].name;
                    let mark = match arg.access {
                        Access::In => "",
                        Access::Out => "=",
                        Access::Part => "~",
                        Access::Acc => "+",
                        Access::Mut => "!",
                    };
                    let Range { start, end } = view.range();
                    write!(f, " {}{mark} {buffer}[{start}..{end}]", arg.name)?;
                    if view.format != arg.usual_format() {
                        write!(f, ":{}", view.format)?;
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
