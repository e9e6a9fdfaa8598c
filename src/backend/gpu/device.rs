//! Adapters and devices: what there is, which one a run takes and why, and what went wrong on it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use wgpu::{Adapter, Backends, Device, DeviceType, Features, Queue};

use super::measured::Measured;
use super::pipelines::Pipelines;
use super::tune::Notice;
use super::variants::{Choices, class};
use crate::error::{Error, Result};
use crate::kernel::{Needs, Variant};
use crate::plan::{self, Dispatch, Plan};

/// The largest binding that is used of a device: kernels count bytes in 32 bits, some drivers with a
/// sign.
const LARGEST_BINDING: u64 = 1 << 31;

/// The way out of too little memory.
const OUT_OF_MEMORY: &str = "take a smaller --batch-size, --recompute block or --precision mixed (`wgpt plan` \
    tells the bytes), or --device cpu";

/// Floating-point operations a millisecond of a device that is slow, where nothing was measured.
const SLOW_FLOPS_PER_MS: f64 = 40e6;
/// The same of a GPU of its own.
const FAST_FLOPS_PER_MS: f64 = 4e9;

/// What is asked of an adapter that has it.
const USED: Features = Features::SHADER_F16
    .union(Features::SUBGROUP)
    .union(Features::TIMESTAMP_QUERY)
    .union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
    .union(Features::PIPELINE_CACHE)
    .union(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

/// Leave to use features that wgpu calls experimental, if there are any among these.
fn experimental(features: Features) -> wgpu::ExperimentalFeatures {
    if features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        // SAFETY: wgpu asks for this word because such features may have unsound corners. There is no
        // other way to matrix units; every kernel that uses them is compared with its twin.
        #[allow(unsafe_code, reason = "wgpu gives matrix units for this word alone")]
        unsafe {
            wgpu::ExperimentalFeatures::enabled()
        }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    }
}

/// What variants may need, of a device with these features and limits.
fn has(adapter: &Adapter, features: Features, limits: &wgpu::Limits) -> Needs {
    let info = adapter.get_info();
    let uniform = info.subgroup_min_size == info.subgroup_max_size;
    let subgroup = features.contains(Features::SUBGROUP) && uniform;
    // What wgpu calls 4 to 64 on Metal is 32 or 64 on every GPU that Metal drives.
    let least = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_min_size };
    let usable = least >= 8 && info.subgroup_max_size <= 64;
    Needs {
        f16: features.contains(Features::SHADER_F16),
        subgroup: if subgroup { info.subgroup_max_size } else { 0 },
        subgroups: features.contains(Features::SUBGROUP) && usable,
        matrix_tiles: if features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            matrix_tiles(adapter)
        } else {
            0
        },
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
    }
}

/// The edges of the adapter's square tiles, f16 with f32 sums: bits 8 and 16.
fn matrix_tiles(adapter: &Adapter) -> u32 {
    use wgpu::CooperativeScalarType::{F16, F32};
    let usable = |p: &&wgpu::CooperativeMatrixProperties| {
        let square = p.m_size == p.n_size && p.n_size == p.k_size;
        square && p.ab_type == F16 && p.cr_type == F32 && matches!(p.m_size, 8 | 16)
    };
    let properties = adapter.cooperative_matrix_properties();
    properties.iter().filter(usable).fold(0, |tiles, p| tiles | p.m_size)
}

/// Which device a run takes: `--device auto|cpu|gpu|gpu:N`.
///
/// ```
/// use wgpt::backend::gpu::DeviceChoice;
/// assert_eq!("gpu:1".parse::<DeviceChoice>().unwrap(), DeviceChoice::GpuIndex(1));
/// assert!("tpu".parse::<DeviceChoice>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A real GPU, else the CPU.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
    /// The best adapter, a software one too.
    Gpu,
    /// The adapter with this number in [`adapters`].
    GpuIndex(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceChoice> {
        let index = |text: &str| text.strip_prefix("gpu:").and_then(|n| n.parse().ok());
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "gpu" => Ok(DeviceChoice::Gpu),
            _ => index(text).map(DeviceChoice::GpuIndex).ok_or_else(|| {
                Error::usage(format!("there is no device {text:?}"))
                    .hint("--device takes auto, cpu, gpu or gpu:N; `wgpt devices` lists them")
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Gpu => f.write_str("gpu"),
            DeviceChoice::GpuIndex(n) => write!(f, "gpu:{n}"),
        }
    }
}

/// What `wgpt devices` says of an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterReport {
    /// Its number: `--device gpu:N`.
    pub index: usize,
    /// What the driver calls it.
    pub name: String,
    /// Vulkan, Metal or DX12.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// discrete, integrated, virtual, software or other.
    pub kind: &'static str,
    /// The largest buffer, in bytes.
    pub buffer_bytes: u64,
    /// The largest binding, in bytes.
    pub binding_bytes: u64,
    /// Workgroup memory, in bytes.
    pub workgroup_bytes: u32,
    /// The smallest and the largest subgroup.
    pub subgroup_sizes: [u32; 2],
    /// Arithmetic in half precision.
    pub shader_f16: bool,
    /// Operations within subgroups.
    pub subgroups: bool,
    /// Clocks on the device.
    pub timestamps: bool,
    /// Matrix units.
    pub cooperative_matrix: bool,
}

impl AdapterReport {
    fn new(index: usize, adapter: &Adapter) -> AdapterReport {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let driver = format!("{} {}", info.driver, info.driver_info);
        AdapterReport {
            index,
            backend: format!("{:?}", info.backend),
            driver: driver.trim().to_owned(),
            kind: kind(info.device_type),
            buffer_bytes: limits.max_buffer_size,
            binding_bytes: limits.max_storage_buffer_binding_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            shader_f16: features.contains(Features::SHADER_F16),
            subgroups: features.contains(Features::SUBGROUP),
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            cooperative_matrix: features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            name: info.name,
        }
    }
}

fn kind(device_type: DeviceType) -> &'static str {
    match device_type {
        DeviceType::DiscreteGpu => "discrete",
        DeviceType::IntegratedGpu => "integrated",
        DeviceType::VirtualGpu => "virtual",
        DeviceType::Cpu => "software",
        DeviceType::Other => "other",
    }
}

/// Whether it is hardware: a software adapter is slower than the CPU backend.
fn is_real(kind: &str) -> bool {
    rank(kind) >= rank("virtual")
}

/// How much a device is wanted: the higher the better.
fn rank(kind: &str) -> usize {
    let order = ["software", "other", "virtual", "integrated", "discrete"];
    order.iter().position(|k| *k == kind).unwrap_or(0)
}

fn enumerate() -> Vec<Adapter> {
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    let descriptor = wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends))
}

/// All adapters, under the numbers of `--device gpu:N`.
pub fn adapters() -> Vec<AdapterReport> {
    enumerate().iter().enumerate().map(|(i, adapter)| AdapterReport::new(i, adapter)).collect()
}

/// What [`pick`] took, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The adapter's number; `None`: the CPU backend.
    pub index: Option<usize>,
    /// The reason, in words.
    pub reason: String,
}

/// Which of the adapters a choice means.
///
/// # Errors
///
/// If a GPU is asked for and there is none, or none with that number.
pub fn pick(choice: DeviceChoice, adapters: &[AdapterReport]) -> Result<Picked> {
    // Of equals the first: later ones lose ties by their number.
    let best = adapters.iter().max_by_key(|a| (rank(a.kind), usize::MAX - a.index));
    let real = best.filter(|a| is_real(a.kind));
    let picked = |index, reason: String| Ok(Picked { index, reason });
    let taken =
        |a: &AdapterReport, why: &str| format!("{} ({}, {}): {why}", a.name, a.kind, a.backend);
    match (choice, best) {
        (DeviceChoice::Cpu, _) => picked(None, "the CPU: it was asked for".into()),
        (DeviceChoice::Auto, _) => match (real, best) {
            (Some(a), _) => picked(Some(a.index), taken(a, "the best GPU of this machine")),
            (None, Some(a)) => picked(
                None,
                format!("the CPU: {} is a {} adapter, slower than the CPU backend", a.name, a.kind),
            ),
            (None, None) => picked(None, "the CPU: there is no GPU adapter".into()),
        },
        (_, None) => Err(Error::device("there is no GPU adapter (Vulkan, Metal or DX12)")
            .hint("install the GPU's Vulkan driver, or run with --device cpu")),
        (DeviceChoice::Gpu, Some(a)) => {
            picked(Some(a.index), taken(a, "the best adapter of this machine"))
        }
        (DeviceChoice::GpuIndex(n), Some(_)) => match adapters.get(n) {
            Some(a) => picked(Some(n), taken(a, "it was asked for")),
            None => Err(Error::device(format!("there is no adapter {n}, but {}", adapters.len()))
                .hint("`wgpt devices` lists the adapters; they are counted from 0")),
        },
    }
}

/// What is asked of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Buffers and bindings as large as the adapter has them.
    #[default]
    All,
    /// What every WebGPU device has, for proofs.
    WebGpu,
}

/// Whether shaders check at run time where they read and write, how long they loop, and what they divide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// They do, and their workgroup memory begins as zeros.
    On,
    /// They do not: for speed.
    Off,
}

impl Default for Checks {
    /// Off where the crate is optimised for use, on where it is built for debugging.
    fn default() -> Checks {
        if cfg!(debug_assertions) { Checks::On } else { Checks::Off }
    }
}

/// How a device is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// What is asked of it.
    pub wanted: Wanted,
    /// What its shaders check.
    pub checks: Checks,
    /// The folder where compiled shaders and timings are kept from one process to the next; `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// How long one submission may take, roughly: what takes longer is cut into several.
    pub submission: Duration,
}

impl Default for Setup {
    /// Everything, kept nowhere. A system may reset a GPU that works on one submission for seconds, and one
    /// that also draws the screen should not be kept from it.
    fn default() -> Setup {
        Setup {
            wanted: Wanted::default(),
            checks: Checks::default(),
            cache: None,
            submission: Duration::from_millis(100),
        }
    }
}

/// A device with its queue and pipelines, which any number of plans share.
#[derive(Clone)]
pub struct GpuDevice {
    device: Device,
    queue: Queue,
    name: String,
    limits: plan::Limits,
    has: Needs,
    flops_per_ms: f64,
    submission: Duration,
    pipelines: Arc<Pipelines>,
    cache: Option<PathBuf>,
    measured: Arc<Mutex<Measured>>,
    /// Something that is wrong with the cache, to be told once.
    notice: Arc<Mutex<Option<Notice>>>,
    /// Choices that hold whatever is measured.
    chosen: Option<Arc<Choices>>,
    real: bool,
    fault: Arc<Mutex<Option<Error>>>,
}

impl fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl GpuDevice {
    /// Opens the adapter with the number `index` in [`adapters`]; nothing is kept of it.
    ///
    /// # Errors
    ///
    /// If there is no such adapter, or its driver refuses.
    pub fn open(index: usize, wanted: Wanted) -> Result<Arc<GpuDevice>> {
        GpuDevice::with(index, Setup { wanted, ..Setup::default() })
    }

    /// [`GpuDevice::open`] as `setup` says.
    ///
    /// # Errors
    ///
    /// As [`GpuDevice::open`].
    pub fn with(index: usize, setup: Setup) -> Result<Arc<GpuDevice>> {
        let Setup { wanted, checks, cache, submission } = setup;
        let adapter = enumerate().into_iter().nth(index).ok_or_else(|| {
            Error::device(format!("there is no adapter {index}"))
                .hint("install the GPU's Vulkan driver, or run with --device cpu")
        })?;
        let info = adapter.get_info();
        let name = format!("{} ({:?})", info.name, info.backend);
        let mut required = wgpu::Limits::default();
        let mut features = Features::empty();
        if wanted == Wanted::All {
            let has = adapter.limits();
            required = required.or_worse_values_from(&has);
            required.max_buffer_size = has.max_buffer_size;
            required.max_storage_buffer_binding_size = has.max_storage_buffer_binding_size;
            required.max_compute_workgroup_storage_size = has.max_compute_workgroup_storage_size;
            required.max_compute_invocations_per_workgroup =
                has.max_compute_invocations_per_workgroup;
            required.max_compute_workgroup_size_x = has.max_compute_workgroup_size_x;
            features = adapter.features() & USED;
        }
        let limits = plan::Limits {
            binding_bytes: required.max_storage_buffer_binding_size.min(LARGEST_BINDING),
            buffer_bytes: required.max_buffer_size,
            logits_bytes: plan::Limits::GPU_LOGITS_BYTES,
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpt"),
            required_features: features,
            required_limits: required.clone(),
            experimental_features: experimental(features),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::device(format!("{name}: {e}")).hint("run with --device cpu"))?;
        let fault = watch(&device, &name);
        let has = has(&adapter, features, &required);
        let pipelines = Arc::new(Pipelines::new(&device, checks, cache.as_deref()));
        let flops_per_ms = match info.device_type {
            DeviceType::DiscreteGpu => FAST_FLOPS_PER_MS,
            _ => SLOW_FLOPS_PER_MS,
        };
        let driver = format!("{name}, {} {}", info.driver, info.driver_info);
        let (measured, notice) = match &cache {
            Some(folder) => Measured::load(folder, driver.trim()),
            None => (Measured::new(driver), None),
        };
        let real = is_real(kind(info.device_type));
        Ok(Arc::new(GpuDevice {
            device,
            queue,
            name,
            limits,
            has,
            flops_per_ms,
            submission,
            pipelines,
            cache,
            measured: Arc::new(Mutex::new(measured)),
            notice: Arc::new(Mutex::new(notice)),
            chosen: None,
            real,
            fault,
        }))
    }

    /// The adapter's name and its API.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a plan for this device must keep to.
    pub fn limits(&self) -> plan::Limits {
        self.limits
    }

    /// What variants may need of it.
    pub fn has(&self) -> &Needs {
        &self.has
    }

    /// The folder where what takes long to find out is kept, if there is one.
    pub fn cache(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// Whether it is hardware, and not a program that stands in for it.
    pub fn is_real(&self) -> bool {
        self.real
    }

    /// Bytes that all buffers take of the device's memory, where wgpu can tell.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// Gives the device up as if its driver had lost it: for proofs.
    pub fn lose(&self) {
        self.device.destroy();
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn pipelines(&self) -> &Pipelines {
        &self.pipelines
    }

    /// The same device with variants that are chosen already, whatever is measured: for a run that goes on.
    #[must_use]
    pub fn with_choices(&self, choices: Choices) -> Arc<GpuDevice> {
        Arc::new(GpuDevice { chosen: Some(Arc::new(choices)), ..self.clone() })
    }

    /// Whether the variants are chosen already.
    pub(super) fn is_settled(&self) -> bool {
        self.chosen.is_some()
    }

    /// The variants that a plan's dispatches take: what was chosen, else what was measured, else a good guess.
    pub fn choices(&self, plan: &Plan) -> Choices {
        match &self.chosen {
            Some(chosen) => chosen.of(plan, &self.has),
            None => self.measured().choices(plan, &self.has),
        }
    }

    /// What was measured; it is kept by [`GpuDevice::save_measured`].
    pub fn measured(&self) -> MutexGuard<'_, Measured> {
        lock(&self.measured)
    }

    /// Keeps what was measured in the cache folder, if there is one.
    ///
    /// # Errors
    ///
    /// What the system refused.
    pub fn save_measured(&self) -> Result<()> {
        self.cache.as_ref().map_or(Ok(()), |folder| self.measured().save(folder))
    }

    /// What is wrong with the cache, told once.
    pub(super) fn cache_notice(&self) -> Option<Notice> {
        lock(&self.notice).take()
    }

    /// How many milliseconds one submission may take.
    pub(super) fn submission_ms(&self) -> f64 {
        self.submission.as_secs_f64() * 1e3
    }

    /// How long a dispatch will take, in milliseconds: as measured, else by its operations.
    pub(super) fn estimate_ms(&self, dispatch: &Dispatch, variant: &Variant) -> f64 {
        let measured = self.measured();
        let timing = measured.classes.get(&class(dispatch));
        let ms = timing.and_then(|timing| timing.ms.get(variant.name));
        // Most kernels do less well than the best one.
        let flops_per_ms = measured.peak.map_or(self.flops_per_ms, |peak| peak.gflops * 1e6 / 8.0);
        let flops = (dispatch.kernel.flops)(&dispatch.dims) as f64;
        ms.copied().unwrap_or(flops / flops_per_ms)
    }

    /// An error of this device.
    pub(super) fn error(&self, cause: impl fmt::Display) -> Error {
        device_error(&self.name, cause)
    }

    /// Whether nothing can be made on the device any more; forgets what went wrong before.
    pub(super) fn is_lost(&self) -> bool {
        let _ = self.fault();
        let descriptor = wgpu::BufferDescriptor {
            label: Some("alive"),
            size: 4,
            usage: wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        self.checked(|| self.device.create_buffer(&descriptor)).is_err()
    }

    /// Keeps an error for the next read.
    pub(super) fn catch(&self, result: Result<()>) {
        if let Err(error) = result {
            lock(&self.fault).get_or_insert(error);
        }
    }

    /// What went wrong since it was last asked.
    fn fault(&self) -> Result<()> {
        lock(&self.fault).take().map_or(Ok(()), Err)
    }

    /// Lets the device call back, without waiting.
    pub(super) fn poll(&self) -> Result<()> {
        self.device.poll(wgpu::PollType::Poll).map(drop).map_err(|e| self.error(e))
    }

    /// Waits for everything that was submitted.
    pub(super) fn wait(&self) -> Result<()> {
        let waited = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.fault()?;
        waited.map(drop).map_err(|e| self.error(e))
    }

    /// Makes something on the device, and turns what goes wrong into an error.
    pub(super) fn checked<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let scopes = [Validation, Internal, OutOfMemory].map(|f| self.device.push_error_scope(f));
        let made = make();
        let mut errors = vec![];
        for scope in scopes.into_iter().rev() {
            errors.extend(pollster::block_on(scope.pop()));
        }
        // What other threads did wrong meanwhile goes past the scopes, which are a thread's own.
        let fault = self.fault();
        match errors.first() {
            None => fault.map(|()| made),
            Some(e) => Err(self.error(e)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device_error(name: &str, cause: impl fmt::Display) -> Error {
    let cause = cause.to_string();
    // Of a buffer, and of a device that is lost by it.
    let hint = if ["Out of Memory", "Not enough memory"].iter().any(|text| cause.contains(text)) {
        OUT_OF_MEMORY
    } else {
        "`wgpt tune` leaves out the kernels that this device does not run right, `wgpt verify` shows them; \
         --device cpu needs none"
    };
    Error::device(format!("{name}: {cause}")).hint(hint)
}

/// Keeps the first thing that goes wrong: without it wgpu would panic.
fn watch(device: &Device, name: &str) -> Arc<Mutex<Option<Error>>> {
    let fault = Arc::new(Mutex::new(None));
    let (seen, owner) = (Arc::clone(&fault), name.to_owned());
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        lock(&seen).get_or_insert(device_error(&owner, error));
    }));
    let (seen, owner) = (Arc::clone(&fault), name.to_owned());
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            let cause = format!("the device was lost: {message}");
            lock(&seen).get_or_insert(device_error(&owner, cause));
        }
    });
    fault
}
