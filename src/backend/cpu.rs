//! The CPU backend: calls each kernel's CPU implementation, or its twin, in order.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::interface::{
    Backend, FILLED, Given, Memory, Out, Ticket, answer_bytes, check_request, copy_out,
    fill_by_writing,
};
use super::packed::{Packed, WRITE_PART, as_f32, is_packed};
use super::zeroed::Zeroed;
use crate::config::Precision;
use crate::disk;
use crate::error::{Error, Result, field};
use crate::kernel::{Access, Arg, Format, Io, Real, Step};
use crate::math::bf16;
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

/// The variable by which a test of the program replaces what this processor has for bf16: `loops` or `none`.
const BF16: &str = "WGPT_BF16";

/// Whether loops will do.
static LOOPS_WILL_DO: AtomicBool = AtomicBool::new(false);

/// Lets this process compute in bf16 by loops where the processor has no instruction for it. They have the bits of the
/// instruction, and are slower than single precision: this is for tests.
pub fn allow_loops_for_bf16() {
    LOOPS_WILL_DO.store(true, Ordering::Relaxed);
}

/// Whether mixed precision computes here: in bf16.
pub fn has_bf16() -> bool {
    match std::env::var(BF16).as_deref() {
        Ok("loops") => true,
        Ok("none") => false,
        _ => bf16::is_fast() || LOOPS_WILL_DO.load(Ordering::Relaxed),
    }
}

/// Returns the precisions of training on this processor, in words.
pub fn precision() -> &'static str {
    match has_bf16() {
        true => "f32, or mixed: bf16 with sums in single precision",
        false => "f32: the processor has no AVX-512 BF16, which mixed precision needs",
    }
}

/// Refuses mixed precision where the processor has no instruction for it.
///
/// # Errors
///
/// Says what is missing.
pub(super) fn check_precision(precision: Precision) -> Result<()> {
    if precision == Precision::F32 || has_bf16() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} mixed computes in bf16 on a CPU, and this processor has no AVX-512 BF16",
        field("precision")
    ))
    .hint(format!(
        "take {} f32; or a GPU; or a processor that has it, such as AMD's since Zen 4",
        field("precision")
    )))
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
    /// Room for the packed numbers of a dispatch in the precision in which it computes, kept from one to the next.
    wide: Vec<Vec<F>>,
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
        let mut cpu = Cpu { plan, buffers, mode, wide: vec![] };
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

    /// Writes the numbers of a view of packed ones, in the precision in which kernels compute.
    fn widen(&self, view: View, numbers: &mut [F]) {
        match &self.buffers[view.buffer] {
            Buffer::Packed(data) => data.widen(view.start, numbers),
            Buffer::Real(_) | Buffer::U32(_) => panic!("a view of {}", view.format),
        }
    }

    /// Makes room for what a kernel computes with in place of a view of packed numbers: the numbers themselves, unless it
    /// overwrites them all without reading them.
    fn prepare(&self, arg: &Arg, view: View, room: &mut Vec<F>) {
        if room.len() < view.len {
            room.resize(view.len, F::zero());
        }
        let numbers = &mut room[..view.len];
        match arg.access {
            // A number that is left out shall be seen.
            Access::Out if cfg!(debug_assertions) => numbers.fill(F::nan()),
            Access::Out => {}
            Access::In | Access::Part | Access::Acc | Access::Mut => self.widen(view, numbers),
        }
    }

    /// Overwrites a view of packed numbers with rounded ones.
    fn narrow(&mut self, view: View, numbers: &[F]) {
        match &mut self.buffers[view.buffer] {
            Buffer::Packed(data) => data.narrow(view.start, numbers),
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

    /// Runs one dispatch. Kernels compute only in F: packed numbers are widened before and rounded after, except for what a CPU
    /// kernel takes as it is stored.
    fn dispatch(&mut self, dispatch: &Dispatch, step: &Step) {
        let kernel = dispatch.kernel;
        let cpu = F::cpu(kernel.cpu).filter(|_| self.mode == Use::Kernels);
        let is_stored = |arg: &Arg| cpu.is_some() && arg.comes_as_stored();
        let args = || kernel.args.iter().zip(&dispatch.args);
        let widened = || args().filter(|(arg, view)| is_packed(view.format) && !is_stored(arg));
        let mut wide = std::mem::take(&mut self.wide);
        wide.resize_with(wide.len().max(widened().count()), Vec::new);
        widened().zip(&mut wide).for_each(|((arg, view), room)| self.prepare(arg, *view, room));
        let io = borrow(&mut self.buffers, &mut wide, dispatch, cpu.is_some());
        match cpu {
            Some(cpu) => cpu(&dispatch.dims, step, io),
            None => F::twin(&kernel.twin)(&dispatch.dims, step, io),
        }
        for ((_, view), numbers) in widened().zip(&wide).filter(|((arg, _), _)| arg.is_written()) {
            self.narrow(*view, &numbers[..view.len]);
        }
        self.wide = wide;
    }
}

/// Returns the slices that a dispatch reads and writes; those of packed numbers are in `wide`, in order, but for those that a
/// CPU kernel takes as they are stored.
///
/// A dispatch of a plan either reads or writes a buffer, never both, and the ranges that it writes are
/// disjoint; so the borrow checker accepts that all slices exist at once.
fn borrow<'a, F: Real>(
    buffers: &'a mut [Buffer<F>],
    wide: &'a mut [Vec<F>],
    dispatch: &Dispatch,
    is_cpu_kernel: bool,
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
    for (arg, view) in signature() {
        if is_cpu_kernel && arg.comes_as_stored() {
            io.stored.push(match read[view.buffer].expect("a factor is read") {
                Buffer::Real(data) => {
                    Stored::F32(as_f32(&data[view.range()]).expect("CPU kernels compute in f32"))
                }
                Buffer::Packed(data) => data.stored().part(view.range()),
                Buffer::U32(_) => unreachable!("a factor is of real numbers"),
            });
        } else if is_packed(view.format) {
            let numbers = wide.next().expect("every other view of packed numbers was widened");
            let numbers = &mut numbers[..view.len];
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
        assert_eq!(out.len(), view.len, "what is read has the view's length");
        match &self.buffers[view.buffer] {
            Buffer::Packed(data) => data.widen(view.start, out),
            Buffer::Real(_) | Buffer::U32(_) => {
                let numbers = out.iter_mut().zip(self.reals(view));
                numbers.for_each(|(out, x)| *out = x.f64() as f32);
            }
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
