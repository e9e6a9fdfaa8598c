//! A plan on a device: buffers, pipelines and bind groups are created once, then the plan is replayed.

mod reads;
mod timer;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use wgpu::{BindGroup, Buffer, BufferUsages};

use reads::{Reads, Source};

use crate::backend::gpu::device::GpuDevice;
use crate::backend::gpu::faults::too_large;
use crate::backend::gpu::pipelines::Pipeline;
use crate::backend::gpu::variants::{Choice, choose};
use crate::backend::interface::{
    Backend, Given, Memory, Out, Ticket, answer_bytes, check_request, copy_out,
};
use crate::backend::packed::{Packed, is_packed};
use crate::error::{Error, Result, field};
use crate::kernel::{Dims, Format, Step, StepWords, Variant, grid};
use crate::plan::{BufferSpec, Dispatch, Plan, View};

/// The bytes from one dispatch's sizes to the next: WebGPU's alignment of uniforms.
const DIMS_STRIDE: u64 = 256;
/// The bytes that writes move before the host waits for the device: until then, a second copy exists.
const WRITE_BYTES: usize = 32 << 20;
/// The largest number of parts of dispatches in one submission.
const SUBMIT_PARTS: usize = 2048;

/// Runs a plan on a GPU.
pub struct Gpu {
    device: Arc<GpuDevice>,
    plan: Arc<Plan>,
    buffers: Vec<Buffer>,
    /// In the order of the dispatches.
    parts: Vec<Prepared>,
    step: Buffer,
    step_group: BindGroup,
    reads: Reads,
    /// The bytes written since the last submission, which releases the staging copies.
    written_bytes: usize,
}

/// The part of a dispatch that goes into one submission: all of it, unless it takes too long.
struct Part {
    /// The index of the dispatch.
    dispatch: usize,
    dims: Dims,
    grid: [u32; 3],
    /// The estimated time.
    ms: f64,
}

/// A part, ready to be replayed.
struct Prepared {
    part: Part,
    pipeline: Arc<Pipeline>,
    group: BindGroup,
}

impl Gpu {
    /// Creates all buffers (zeroed), pipelines and bind groups of a plan.
    ///
    /// # Errors
    ///
    /// If the plan exceeds the device's limits or memory, or the driver refuses a shader.
    pub fn new(device: &Arc<GpuDevice>, plan: Arc<Plan>) -> Result<Gpu> {
        Gpu::taking_over(device, plan, vec![])
    }

    /// Does the same as [`Gpu::new`], with some buffers that another backend gave up.
    pub(in crate::backend) fn taking_over(
        device: &Arc<GpuDevice>,
        plan: Arc<Plan>,
        given: Vec<Given>,
    ) -> Result<Gpu> {
        let choices = device.choices(&plan);
        let gpu = Gpu::make(device, plan, Choice::Chosen(&choices), given)?;
        // A cache that cannot be written only costs time at the next start.
        let _ = device.pipelines().save();
        Ok(gpu)
    }

    /// Does the same as [`Gpu::new`], with the variants that `choice` selects; what it compiles is not kept for the next
    /// process.
    ///
    /// # Errors
    ///
    /// As [`Gpu::new`].
    pub fn with(device: &Arc<GpuDevice>, plan: Arc<Plan>, choice: Choice<'_>) -> Result<Gpu> {
        Gpu::make(device, plan, choice, vec![])
    }

    fn make(
        device: &Arc<GpuDevice>,
        plan: Arc<Plan>,
        choice: Choice<'_>,
        given: Vec<Given>,
    ) -> Result<Gpu> {
        if let Some(what) = plan.exceeds(device.limits()) {
            return Err(Error::device(format!("{}: {what}", device.name())).hint(too_large()));
        }
        if !device.has().f16 && plan.buffers.iter().any(|buffer| buffer.format == Format::F16) {
            return Err(Error::device(format!(
                "{}: it has no arithmetic in half precision, which mixed precision needs",
                device.name()
            ))
            .hint(format!("take {} f32", field("precision"))));
        }
        let is_bf16 = |view: &View| view.format == Format::BF16;
        let written = |d: &&Dispatch| {
            d.kernel.args.iter().zip(&d.args).any(|(a, v)| a.is_written() && is_bf16(v))
        };
        if let Some(dispatch) = plan.dispatches.iter().find(written) {
            let (name, kernel) = (device.name(), dispatch.kernel.name);
            return Err(Error::device(format!(
                "{name}: {kernel} writes bf16, which no GPU computes in"
            )));
        }
        let choose = |dispatch| choose(choice, device.has(), dispatch);
        let variants: Vec<_> = plan.dispatches.iter().map(choose).collect();
        check_grids(device, &plan, &variants)?;
        let buffers = device.checked(|| make_buffers(device, &plan, given)).map_err(|error| {
            let gib = plan.total_bytes() as f64 / f64::from(1 << 30);
            error.at(format_args!("buffers of {gib:.1} GiB"))
        })?;
        let mut gpu = device.checked(|| {
            let parts = parts(device, &plan, &variants);
            let dims = make_dims(device, &parts);
            let step = device.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("step"),
                size: size_of::<StepWords>() as u64,
                usage: BufferUsages::UNIFORM | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let step_group = device.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("step"),
                layout: device.pipelines().step_layout(),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: step.as_entire_binding() }],
            });
            let reads = Reads::new(device);
            let parts = prepare(device, &plan, &variants, parts, &buffers, &dims);
            let device = Arc::clone(device);
            Gpu { device, plan, buffers, parts, step, step_group, reads, written_bytes: 0 }
        })?;
        gpu.write_constants();
        Ok(gpu)
    }

    /// Waits until the device has completed all work.
    ///
    /// # Errors
    ///
    /// If a fault occurred on the device since the last read.
    pub fn wait(&mut self) -> Result<()> {
        self.device.wait()
    }

    fn write_bytes(&mut self, view: View, bytes: &[u8]) {
        let whole = whole_words(view.bytes());
        assert_eq!(bytes.len() as u64, whole, "what is written has the view's length");
        let buffer = &self.buffers[view.buffer];
        for (i, part) in bytes.chunks(WRITE_BYTES).enumerate() {
            let offset = view.offset() + (i * WRITE_BYTES) as u64;
            self.device.queue().write_buffer(buffer, offset, part);
            self.written_bytes += part.len();
            if self.written_bytes >= WRITE_BYTES {
                self.written_bytes = 0;
                self.device.queue().submit([]);
                self.device.catch(self.device.wait());
            }
        }
    }

    /// Returns the parts of some dispatches.
    fn parts_of(&self, dispatches: Range<usize>) -> Range<usize> {
        let first = |dispatch| self.parts.partition_point(|p| p.part.dispatch < dispatch);
        first(dispatches.start)..first(dispatches.end)
    }

    /// Returns the end of the parts from `range.start` on that go into one submission.
    fn submission_end(&self, range: Range<usize>) -> usize {
        let (mut ms, most_ms) = (0.0, self.device.submission_ms());
        let fits = |i: &usize| {
            ms += self.parts[*i].part.ms;
            *i == range.start || ms <= most_ms
        };
        let most = range.end.min(range.start + SUBMIT_PARTS);
        range.start + (range.start..most).take_while(fits).count()
    }

    fn submit(&self, parts: Range<usize>) {
        let mut encoder = self.device.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        self.record(&mut pass, parts);
        drop(pass);
        self.device.queue().submit([encoder.finish()]);
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>, parts: Range<usize>) {
        pass.set_bind_group(1, &self.step_group, &[]);
        for Prepared { part, pipeline, group } in &self.parts[parts] {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            let [x, y, z] = part.grid;
            pass.dispatch_workgroups(x, y, z);
        }
    }

    fn write_step(&self, step: &Step) {
        self.device.queue().write_buffer(&self.step, 0, bytemuck::bytes_of(&step.words()));
    }
}

/// Rounds up to vectors of 16 bytes, the unit of bindings; tensors end there or are followed by unused bytes.
fn whole_vectors(bytes: u64) -> u64 {
    bytes.next_multiple_of(16)
}

/// Rounds up to words of 4 bytes, the unit of copies; tensors end there or are followed by unused bytes.
fn whole_words(bytes: u64) -> u64 {
    bytes.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT)
}

/// Creates the buffers of a plan, except those that were given.
fn make_buffers(device: &GpuDevice, plan: &Plan, given: Vec<Given>) -> Vec<Buffer> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let mut given: HashMap<usize, Memory> =
        given.into_iter().map(|given| (given.buffer, given.memory)).collect();
    let make = |(index, spec): (usize, &BufferSpec)| {
        let size = whole_vectors(spec.bytes().max(1));
        if let Some(memory) = given.remove(&index) {
            let buffer = memory.downcast::<Buffer>().expect("a buffer of this backend");
            assert_eq!(buffer.size(), size, "{}", spec.name);
            return *buffer;
        }
        device.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(&spec.name),
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    plan.buffers.iter().enumerate().map(make).collect()
}

/// Whether a device can allocate the buffers of a plan that is within its limits.
pub(in crate::backend) fn has_room(device: &GpuDevice, plan: &Plan) -> bool {
    let made = device.checked(|| make_buffers(device, plan, vec![])).is_ok();
    // Dropped buffers are freed once the device has been waited for.
    device.wait().is_ok() && made
}

/// Refuses a grid beyond the limit of every device.
fn check_grids(device: &GpuDevice, plan: &Plan, variants: &[&Variant]) -> Result<()> {
    for (dispatch, variant) in plan.dispatches.iter().zip(variants) {
        let grid = (variant.grid)(&dispatch.dims, &dispatch.lens());
        if grid.iter().any(|groups| *groups > grid::LARGEST) {
            return Err(Error::device(format!(
                "{}: {} would take {grid:?} workgroups, a device allows {} a dimension",
                device.name(),
                dispatch.kernel.name,
                grid::LARGEST
            ))
            .hint(format!(
                "take a smaller {}, for which {} makes up",
                field("batch_size"),
                field("grad_accum")
            )));
        }
    }
    Ok(())
}

/// Returns the parts of all dispatches: a system may reset a GPU that works for seconds, even on one dispatch.
fn parts(device: &GpuDevice, plan: &Plan, variants: &[&Variant]) -> Vec<Part> {
    let of_one = |(index, (dispatch, variant)): (usize, (&Dispatch, &&Variant))| {
        let ms = device.estimate_ms(dispatch, variant);
        let grid = (variant.grid)(&dispatch.dims, &dispatch.lens());
        let parts = grid::split(grid, (ms / device.submission_ms()).ceil() as u32);
        let (ms, dims) = (ms / parts.len() as f64, dispatch.dims);
        let part = move |(first, grid)| Part {
            dispatch: index,
            dims: Dims { FIRST: first, ..dims },
            grid,
            ms,
        };
        parts.into_iter().map(part)
    };
    plan.dispatches.iter().zip(variants).enumerate().flat_map(of_one).collect()
}

/// Creates one buffer with the sizes of every part.
fn make_dims(device: &GpuDevice, parts: &[Part]) -> Buffer {
    let mut bytes = vec![0; DIMS_STRIDE as usize * parts.len().max(1)];
    for (part, slot) in parts.iter().zip(bytes.chunks_mut(DIMS_STRIDE as usize)) {
        slot[..size_of::<Dims>()].copy_from_slice(bytemuck::bytes_of(&part.dims));
    }
    let buffer = device.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("dims"),
        size: bytes.len() as u64,
        usage: BufferUsages::UNIFORM | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    device.queue().write_buffer(&buffer, 0, &bytes);
    buffer
}

/// Compiles the pipelines of the dispatches, on all threads, and binds their buffers.
fn prepare(
    device: &GpuDevice,
    plan: &Plan,
    variants: &[&'static Variant],
    parts: Vec<Part>,
    buffers: &[Buffer],
    dims: &Buffer,
) -> Vec<Prepared> {
    let binding = |binding: u32, buffer, offset, size| wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer,
            offset,
            size: NonZeroU64::new(size),
        }),
    };
    let compile = |(dispatch, variant): (&Dispatch, &&'static Variant)| {
        device.pipelines().get(dispatch.kernel, variant, &dispatch.formats())
    };
    let pipelines: Vec<_> = plan.dispatches.par_iter().zip(variants).map(compile).collect();
    let make = |(index, part): (usize, Part)| {
        let (dispatch, pipeline) = (&plan.dispatches[part.dispatch], &pipelines[part.dispatch]);
        let mut entries =
            vec![binding(0, dims, index as u64 * DIMS_STRIDE, size_of::<Dims>() as u64)];
        entries.extend(dispatch.args.iter().zip(1..).map(|(view, i)| {
            let size = whole_vectors(view.bytes());
            binding(i, &buffers[view.buffer], view.offset(), size)
        }));
        let group = device.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(dispatch.kernel.name),
            layout: &pipeline.layout,
            entries: &entries,
        });
        Prepared { part, pipeline: Arc::clone(pipeline), group }
    };
    parts.into_iter().enumerate().map(make).collect()
}

impl Backend for Gpu {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write(&mut self, view: View, data: &[f32]) {
        if !is_packed(view.format) {
            return self.write_bytes(view, bytemuck::cast_slice(data));
        }
        let mut packed = Packed::zeroed(false, view.format, view.len);
        packed.write(0, data);
        let mut bytes = packed.bytes(0..view.len).to_vec();
        bytes.resize(whole_words(view.bytes()) as usize, 0);
        self.write_bytes(view, &bytes);
    }

    fn write_u32(&mut self, view: View, data: &[u32]) {
        self.write_bytes(view, bytemuck::cast_slice(data));
    }

    /// Long ranges are split into several submissions: a system may reset a GPU that works on one for
    /// seconds.
    fn run(&mut self, range: Range<usize>, step: &Step) {
        self.write_step(step);
        self.written_bytes = 0;
        let mut parts = self.parts_of(range);
        while !parts.is_empty() {
            let end = self.submission_end(parts.clone());
            self.submit(parts.start..end);
            parts.start = end;
        }
        self.device.catch(self.device.poll());
    }

    fn request(&mut self, views: &[View]) -> Ticket {
        check_request(views);
        let source = |view: &View| Source {
            buffer: &self.buffers[view.buffer],
            offset: view.offset(),
            bytes: answer_bytes(*view) as u64,
        };
        let sources: Vec<_> = views.iter().map(source).collect();
        let encoder = self.device.device().create_command_encoder(&Default::default());
        let answer = self.reads.begin(&self.device, encoder, &sources);
        Ticket { views: views.to_vec(), answer }
    }

    fn is_ready(&mut self, ticket: &Ticket) -> bool {
        self.reads.is_ready(&self.device, &ticket.answer)
    }

    fn take(&mut self, ticket: Ticket, out: &mut [Out<'_>]) -> Result<()> {
        let Ticket { views, answer } = ticket;
        self.reads.take(&self.device, &answer, |bytes| copy_out(&views, bytes, out))
    }

    fn give_up(&mut self, buffer: usize) -> Memory {
        Box::new(self.buffers[buffer].clone())
    }

    fn run_timed(&mut self, range: Range<usize>, step: &Step) -> Vec<f64> {
        let (parts, mut parts_ms) = (self.parts_of(range), vec![]);
        let result = self.time(parts.clone(), step, &mut parts_ms);
        self.device.catch(result);
        let parts: Vec<_> = self.parts[parts].iter().zip(parts_ms).collect();
        let dispatches = parts.chunk_by(|(a, _), (b, _)| a.part.dispatch == b.part.dispatch);
        dispatches.map(|parts| parts.iter().map(|(_, ms)| ms).sum()).collect()
    }

    fn describe(&self) -> String {
        self.device.name().to_owned()
    }

    fn run_ahead(&self) -> usize {
        8
    }
}
