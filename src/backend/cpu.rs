//! The CPU backend: calls each kernel's CPU implementation, or its twin, in order.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::interface::{
    Backend, FILLED, Given, Memory, Out, Ticket, answer_bytes, check_request, copy_out,
    fill_by_writing,
};
use super::packed::{Packed, WRITE_PART, as_f32, is_packed};
use super::zeroed::Zeroed;
use crate::disk;
use crate::error::{Error, Result, field};
use crate::kernel::{Format, Io, Real, Step};
use crate::math::stored::{self, Stored};
use crate::plan::{BufferSpec, Dispatch, Plan, Role, View};

/// Returns the bytes of memory that this process may use, swap included; `None` if the system does not report it.
pub fn memory_bytes() -> Option<u64> {
    let meminfo = disk::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let machine = (kib("MemTotal:")? + kib("SwapTotal:").unwrap_or(0)) << 10;
    let container = disk::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse().ok());
    let limits = disk::read_to_string("/proc/self/limits").unwrap_or_default();
    let limits = ["Max data size", "Max address space"].map(|name| limit(&limits, name));
    let all = limits.into_iter().chain([container]).flatten();
    Some(all.fold(machine, u64::min))
}

/// Returns the limit of this name that `ulimit` has set for a process, in bytes.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the bytes of memory that are free or can be freed; `None` if the system does not report it.
pub fn available_bytes() -> Option<u64> {
    let text = disk::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Refuses a size that the host cannot hold: otherwise the system would kill the process later, without a message.
///
/// # Errors
///
/// If `bytes` are more than [`memory_bytes`].
pub fn check_memory(bytes: u64) -> Result<()> {
    let Some(most) = memory_bytes().filter(|most| bytes > *most) else { return Ok(()) };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(Error::device(format!(
        "the model and its batches take {:.2} GiB of memory, this process may have {:.2} GiB",
        gib(bytes),
        gib(most)
    ))
    .hint(format!(
        "take a smaller {}, {} or {}, for which {} makes up; or more ranks with {}",
        field("size"),
        field("seq_len"),
        field("batch_size"),
        field("grad_accum"),
        field("pipeline")
    )))
}

/// Returns the sets of instructions of this processor that make a difference here, by their names.
pub fn features() -> Vec<&'static str> {
    stored::features()
}

/// Returns for each format of matrices how this processor multiplies by them in generation.
pub fn products() -> [(&'static str, &'static str); 4] {
    let [halves, blocks] = stored::ways();
    let plain = "in vectors, as wide as the processor has them";
    [("f32", plain), ("f16", halves), ("bf16", halves), ("q8_0", blocks)]
}

/// The implementations that the CPU backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// CPU kernels where they exist.
    Kernels,
    /// Only twins: the specification.
    Twins,
}

/// A plan's buffers in the host's memory.
enum Buffer<F> {
    Real(Zeroed<F>),
    Packed(Packed),
    U32(Zeroed<u32>),
}

impl<F: Real> Buffer<F> {
    /// Makes a buffer in large pages if all of it is in use as long as it is there.
    fn zeroed(role: Role, format: Format, len: usize) -> Buffer<F> {
        let all = matches!(role, Role::Parameters | Role::Moments);
        match format {
            Format::F32 if all => Buffer::Real(Zeroed::in_large_pages(len)),
            Format::F32 => Buffer::Real(Zeroed::new(len)),
            Format::U32 => Buffer::U32(Zeroed::new(len)),
            _ => Buffer::Packed(Packed::zeroed(all, format, len)),
        }
    }

    fn format(&self) -> Format {
        match self {
            Buffer::Real(_) => Format::F32,
            Buffer::U32(_) => Format::U32,
            Buffer::Packed(data) => data.format(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Buffer::Real(data) => data.len(),
            Buffer::U32(data) => data.len(),
            Buffer::Packed(data) => data.stored().len(),
        }
    }
}

/// Runs a plan on the CPU, in f32 for use and in f64 for tests.
pub struct Cpu<F> {
    plan: Arc<Plan>,
    buffers: Vec<Buffer<F>>,
    mode: Use,
}

impl<F: Real> Cpu<F> {
    /// Creates all buffers, zeroed; the system allocates memory when it is first accessed.
    pub fn new(plan: Arc<Plan>, mode: Use) -> Cpu<F> {
        Cpu::with(plan, mode, vec![])
    }

    /// Does the same as [`Cpu::new`], with some buffers that another backend gave up.
    pub(super) fn with(plan: Arc<Plan>, mode: Use, given: Vec<Given>) -> Cpu<F> {
        let mut given: HashMap<usize, Memory> =
            given.into_iter().map(|given| (given.buffer, given.memory)).collect();
        let make = |(index, spec): (usize, &BufferSpec)| match given.remove(&index) {
            Some(memory) => {
                let buffer = memory.downcast::<Buffer<F>>().expect("a buffer of this backend");
                assert_eq!(
                    (buffer.len(), buffer.format()),
                    (spec.len, spec.format),
                    "{}",
                    spec.name
                );
                *buffer
            }
            None => Buffer::zeroed(spec.role, spec.format, spec.len),
        };
        let buffers = plan.buffers.iter().enumerate().map(make).collect();
        let mut cpu = Cpu { plan, buffers, mode };
        cpu.write_constants();
        cpu
    }

    /// Sets whether CPU kernels or only twins run from now on.
    pub fn set_use(&mut self, mode: Use) {
        self.mode = mode;
    }

    /// Returns a view of real numbers.
    ///
    /// # Panics
    ///
    /// If the view holds integers or packed numbers.
    pub fn reals(&self, view: View) -> &[F] {
        match &self.buffers[view.buffer] {
            Buffer::Real(data) => &data[view.range()],
            Buffer::Packed(_) | Buffer::U32(_) => panic!("a view of {}", view.format),
        }
    }

    /// Returns a view of real numbers, to be changed.
    ///
    /// # Panics
    ///
    /// If the view holds integers or packed numbers.
    pub fn reals_mut(&mut self, view: View) -> &mut [F] {
        match &mut self.buffers[view.buffer] {
            Buffer::Real(data) => &mut data[view.range()],
            Buffer::Packed(_) | Buffer::U32(_) => panic!("a view of {}", view.format),
        }
    }

    /// Returns the numbers of a view of packed ones, in the precision in which kernels compute.
    fn widened(&self, view: View) -> Vec<F> {
        match &self.buffers[view.buffer] {
            Buffer::Packed(data) => {
                let numbers = data.stored().part(view.range()).widened();
                numbers.iter().map(|x| F::of(f64::from(*x))).collect()
            }
            Buffer::Real(_) | Buffer::U32(_) => panic!("a view of {}", view.format),
        }
    }

    /// Overwrites a view of packed numbers with rounded ones.
    fn narrow(&mut self, view: View, numbers: &[F]) {
        match &mut self.buffers[view.buffer] {
            Buffer::Packed(data) => data.narrow(view.start, &numbers[..view.len]),
            Buffer::Real(_) | Buffer::U32(_) => panic!("a view of {}", view.format),
        }
    }

    fn words(&self, view: View) -> &[u32] {
        match &self.buffers[view.buffer] {
            Buffer::U32(data) => &data[view.range()],
            Buffer::Real(_) | Buffer::Packed(_) => panic!("a view of {}", view.format),
        }
    }

    fn words_mut(&mut self, view: View) -> &mut [u32] {
        match &mut self.buffers[view.buffer] {
            Buffer::U32(data) => &mut data[view.range()],
            Buffer::Real(_) | Buffer::Packed(_) => panic!("a view of {}", view.format),
        }
    }

    /// Runs one dispatch. Kernels compute only in F: packed numbers are widened before and rounded after, except for the
    /// matrix that a CPU kernel takes as it is stored.
    fn dispatch(&mut self, dispatch: &Dispatch, step: &Step) {
        let kernel = dispatch.kernel;
        let cpu = F::cpu(kernel.cpu).filter(|_| self.mode == Use::Kernels);
        let stored = kernel.args.iter().position(|arg| arg.is_stored && cpu.is_some());
        let args = || kernel.args.iter().zip(&dispatch.args).enumerate();
        let is_widened = |at: usize, view: &View| is_packed(view.format) && stored != Some(at);
        let mut wide: Vec<Vec<F>> = args()
            .filter(|(at, (_, view))| is_widened(*at, view))
            .map(|(_, (_, view))| self.widened(*view))
            .collect();
        let io = borrow(&mut self.buffers, &mut wide, dispatch, stored);
        match cpu {
            Some(cpu) => cpu(&dispatch.dims, step, io),
            None => F::twin(&kernel.twin)(&dispatch.dims, step, io),
        }
        let widened = args().filter(|(at, (_, view))| is_widened(*at, view));
        for ((_, (arg, view)), numbers) in widened.zip(&wide) {
            if arg.is_written() {
                self.narrow(*view, numbers);
            }
        }
    }
}

/// Returns the slices that a dispatch reads and writes; those of packed numbers are in `wide`, in order, but for the
/// argument `stored`.
///
/// A dispatch of a plan either reads or writes a buffer, never both, and the ranges that it writes are
/// disjoint; so the borrow checker accepts that all slices exist at once.
fn borrow<'a, F: Real>(
    buffers: &'a mut [Buffer<F>],
    wide: &'a mut [Vec<F>],
    dispatch: &Dispatch,
    stored: Option<usize>,
) -> Io<'a, F> {
    let signature = || dispatch.kernel.args.iter().zip(&dispatch.args);
    let is_written = |buffer: usize| signature().any(|(a, v)| a.is_written() && v.buffer == buffer);
    let mut read: Vec<Option<&Buffer<F>>> = Vec::with_capacity(buffers.len());
    let mut written: Vec<(View, WrittenSlice<'a, F>)> = vec![];
    for (index, buffer) in buffers.iter_mut().enumerate() {
        if !is_written(index) {
            read.push(Some(buffer));
            continue;
        }
        read.push(None);
        let mut views: Vec<View> =
            signature().map(|(_, v)| *v).filter(|v| v.buffer == index).collect();
        views.sort_by_key(|v| v.start);
        match buffer {
            Buffer::Real(data) => written
                .extend(split(data, &views).into_iter().map(|(v, s)| (v, WrittenSlice::Real(s)))),
            Buffer::U32(data) => written
                .extend(split(data, &views).into_iter().map(|(v, s)| (v, WrittenSlice::U32(s)))),
            Buffer::Packed(_) => {}
        }
    }
    let mut wide = wide.iter_mut();
    let mut io = Io::default();
    for (at, (arg, view)) in signature().enumerate() {
        if stored == Some(at) {
            io.stored = match read[view.buffer].expect("a stored matrix is read") {
                Buffer::Real(data) => as_f32(&data[view.range()]).map(Stored::F32),
                Buffer::Packed(data) => Some(data.stored().part(view.range())),
                Buffer::U32(_) => unreachable!("a matrix is of real numbers"),
            };
        } else if is_packed(view.format) {
            let numbers = wide.next().expect("every other view of packed numbers was widened");
            if arg.is_written() {
                io.outputs.push(numbers);
            } else {
                io.inputs.push(numbers);
            }
        } else if arg.is_written() {
            let at = written.iter().position(|(v, _)| v == view).expect("every view was split off");
            match written.swap_remove(at).1 {
                WrittenSlice::Real(slice) => io.outputs.push(slice),
                WrittenSlice::U32(slice) => io.words_out.push(slice),
            }
        } else {
            match read[view.buffer].expect("a dispatch reads or writes a buffer") {
                Buffer::Real(data) => io.inputs.push(&data[view.range()]),
                Buffer::U32(data) => io.words.push(&data[view.range()]),
                Buffer::Packed(_) => unreachable!("it was widened"),
            }
        }
    }
    io
}

enum WrittenSlice<'a, F> {
    Real(&'a mut [F]),
    U32(&'a mut [u32]),
}

/// Returns disjoint slices of one buffer, for views in ascending order.
fn split<'a, T>(mut rest: &'a mut [T], views: &[View]) -> Vec<(View, &'a mut [T])> {
    let mut at = 0;
    let mut slices = vec![];
    for view in views {
        let (slice, after) = rest[view.start - at..].split_at_mut(view.len);
        slices.push((*view, slice));
        rest = after;
        at = view.range().end;
    }
    slices
}

impl<F: Real> Backend for Cpu<F> {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write(&mut self, view: View, data: &[f32]) {
        assert_eq!(view.len, data.len(), "what is written has the view's length");
        if let Buffer::Packed(packed) = &mut self.buffers[view.buffer] {
            return packed.write(view.start, data);
        }
        let out = self.reals_mut(view);
        // On all threads, because the first write to a model's parameters is when the system allocates their memory.
        let parts = out.par_chunks_mut(WRITE_PART).zip(data.par_chunks(WRITE_PART));
        parts.for_each(|(out, data)| {
            out.iter_mut().zip(data).for_each(|(out, &x)| *out = F::of(f64::from(x)));
        });
    }

    /// In single precision the numbers are produced directly in the buffer.
    fn fill(
        &mut self,
        view: View,
        fill: &mut dyn FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let buffer: &mut dyn Any = &mut self.buffers[view.buffer];
        if let Some(Buffer::Real(data)) = buffer.downcast_mut::<Buffer<f32>>() {
            let pieces = data[view.range()].chunks_mut(FILLED).enumerate();
            return pieces.into_iter().try_for_each(|(i, piece)| fill(i * FILLED, piece));
        }
        fill_by_writing(self, view, fill)
    }

    fn write_u32(&mut self, view: View, data: &[u32]) {
        self.words_mut(view).copy_from_slice(data);
    }

    /// All earlier work has already run, so the answer is available at once.
    fn request(&mut self, views: &[View]) -> Ticket {
        check_request(views);
        let mut bytes = Vec::with_capacity(views.iter().map(|view| answer_bytes(*view)).sum());
        for &view in views {
            match &self.buffers[view.buffer] {
                Buffer::Real(data) => match as_f32(&data[view.range()]) {
                    Some(data) => bytes.extend_from_slice(bytemuck::cast_slice(data)),
                    None => {
                        let data = data[view.range()].iter().map(|x| x.f64() as f32);
                        bytes.extend(data.flat_map(f32::to_ne_bytes));
                    }
                },
                Buffer::Packed(data) => bytes.extend_from_slice(data.bytes(view.range())),
                Buffer::U32(data) => {
                    bytes.extend_from_slice(bytemuck::cast_slice(&data[view.range()]))
                }
            }
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        Ticket { views: views.to_vec(), answer: Arc::new(OnceLock::from(bytes)) }
    }

    fn is_ready(&mut self, _: &Ticket) -> bool {
        true
    }

    fn take(&mut self, ticket: Ticket, out: &mut [Out<'_>]) -> Result<()> {
        copy_out(&ticket.views, ticket.answer.get().expect("it was answered at once"), out);
        Ok(())
    }

    fn give_up(&mut self, buffer: usize) -> Memory {
        let (role, format) = (self.plan.buffers[buffer].role, self.buffers[buffer].format());
        let nothing = Buffer::<F>::zeroed(role, format, 0);
        Box::new(std::mem::replace(&mut self.buffers[buffer], nothing))
    }

    fn run(&mut self, range: Range<usize>, step: &Step) {
        let plan = Arc::clone(&self.plan);
        for dispatch in &plan.dispatches[range] {
            self.dispatch(dispatch, step);
        }
    }

    fn read(&mut self, view: View, out: &mut [f32]) -> Result<()> {
        let widened;
        let data = if is_packed(view.format) {
            widened = self.widened(view);
            &widened
        } else {
            self.reals(view)
        };
        assert_eq!(out.len(), data.len(), "what is read has the view's length");
        for (out, x) in out.iter_mut().zip(data) {
            *out = x.f64() as f32;
        }
        Ok(())
    }

    fn read_u32(&mut self, view: View, out: &mut [u32]) -> Result<()> {
        out.copy_from_slice(self.words(view));
        Ok(())
    }

    fn describe(&self) -> String {
        format!("CPU, {} threads", rayon::current_num_threads())
    }
}
