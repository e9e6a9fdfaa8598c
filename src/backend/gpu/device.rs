//! An open device: its queue, its pipelines, and its measurements.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use wgpu::{Device, DeviceType, Features, PollError, Queue, SubmissionIndex};

use super::adapters::{self, AdapterKind, no_adapter, to_open};
use super::capabilities::{USED, experimental, has};
use super::checks::Checks;
use super::faults::{device_error, lock, reported, watch};
use super::measured::Measured;
use super::notice::Notice;
use super::pipelines::Pipelines;
use super::variants::{Choices, class};
use crate::error::{Error, Result, field};
use crate::kernel::{Format, Kernel, Needs, Variant};
use crate::plan::{self, Dispatch, Plan};
use crate::wait::{self, Signal};

/// The largest binding that is used on a device: kernels count bytes in 32 bits, some drivers in signed
/// integers.
const LARGEST_BINDING: u64 = 1 << 31;

/// The floating-point operations per millisecond of a slow device, if nothing was measured.
const SLOW_FLOPS_PER_MS: f64 = 40e6;
/// The same for a discrete GPU.
const FAST_FLOPS_PER_MS: f64 = 4e9;

/// The limits that are requested of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Buffers and bindings as large as the adapter allows.
    #[default]
    All,
    /// The limits that every WebGPU device has, for tests.
    WebGpu,
}

/// How a device is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The limits that are requested.
    pub wanted: Wanted,
    /// The run-time checks of its shaders.
    pub checks: Checks,
    /// The folder that keeps compiled shaders and timings between processes; `None`: they are not kept.
    pub cache: Option<PathBuf>,
    /// The approximate time that one submission may take: longer work is split into several.
    pub submission: Duration,
}

impl Default for Setup {
    /// Returns all limits and no cache folder. A system may reset a GPU that works on one submission for seconds, and
    /// a GPU that also draws the screen should not be blocked for long.
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
    index: usize,
    name: String,
    limits: plan::Limits,
    has: Needs,
    flops_per_ms: f64,
    submission: Duration,
    pipelines: Arc<Pipelines>,
    cache: Option<PathBuf>,
    measured: Arc<Mutex<Measured>>,
    /// A problem with the cache, to be reported once.
    notice: Arc<Mutex<Option<Notice>>>,
    /// Variants fixed for this run; later measurements do not change them.
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
    /// Opens the adapter with the number `index` in [`adapters`](super::adapters()); nothing is stored on disk.
    ///
    /// # Errors
    ///
    /// If there is no such adapter, or its driver refuses.
    pub fn open(index: usize, wanted: Wanted) -> Result<Arc<GpuDevice>> {
        GpuDevice::with(index, Setup { wanted, ..Setup::default() })
    }

    /// Does the same as [`GpuDevice::open`] with the options of `setup`.
    ///
    /// # Errors
    ///
    /// As [`GpuDevice::open`].
    pub fn with(index: usize, setup: Setup) -> Result<Arc<GpuDevice>> {
        let Setup { wanted, checks, cache, submission } = setup;
        let adapter = to_open(index).ok_or_else(|| {
            Error::device(format!("there is no adapter {index}")).hint(no_adapter())
        })?;
        let info = adapter.get_info();
        let name = format!("{} ({:?})", adapters::name(&info), info.backend);
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
            half: Format::F16,
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpt"),
            required_features: features,
            required_limits: required.clone(),
            experimental_features: experimental(features),
            ..Default::default()
        };
        let (device, queue) =
            wait::for_future(adapter.request_device(&descriptor)).map_err(|e| {
                Error::device(format!("{name}: {e}"))
                    .hint(format!("run with {} cpu", field("device")))
            })?;
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
        let real = AdapterKind::from(&info).is_real();
        Ok(Arc::new(GpuDevice {
            device,
            queue,
            index,
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

    /// Returns the adapter's number in [`adapters`](super::adapters()).
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the adapter's name and its API.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the limits that a plan for this device must not exceed.
    pub fn limits(&self) -> plan::Limits {
        self.limits
    }

    /// Returns the capabilities that variants may require.
    pub fn has(&self) -> &Needs {
        &self.has
    }

    /// Returns the folder that keeps compiled shaders and timings, if there is one.
    pub fn cache(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// Whether it is hardware and not a software implementation.
    pub fn is_real(&self) -> bool {
        self.real
    }

    /// Returns the bytes of device memory that all buffers occupy, if wgpu can report it.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }

    /// Destroys the device as if its driver had lost it, for tests.
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

    /// Compiles a kernel's variant for arguments of these formats, as a plan's first use of it does.
    ///
    /// # Errors
    ///
    /// If the driver refuses it.
    pub fn compile(
        &self,
        kernel: &'static Kernel,
        variant: &'static Variant,
        formats: &[Format],
    ) -> Result<()> {
        self.checked(|| self.pipelines.get(kernel, variant, formats)).map(drop)
    }

    /// Keeps what was compiled for the next process, if the device has a cache folder.
    ///
    /// # Errors
    ///
    /// If the system cannot write it.
    pub fn save_pipelines(&self) -> Result<()> {
        self.pipelines.save()
    }

    /// Returns the same device with fixed variants, which measurements do not change: for a run that is resumed.
    #[must_use]
    pub fn with_choices(&self, choices: Choices) -> Arc<GpuDevice> {
        Arc::new(GpuDevice { chosen: Some(Arc::new(choices)), ..self.clone() })
    }

    /// Whether the variants are fixed.
    pub(crate) fn is_settled(&self) -> bool {
        self.chosen.is_some()
    }

    /// Returns the variants that a plan's dispatches use: the fixed ones, else the measured ones, else a good guess.
    pub fn choices(&self, plan: &Plan) -> Choices {
        match &self.chosen {
            Some(chosen) => chosen.of(plan, &self.has),
            None => self.measured().choices(plan, &self.has),
        }
    }

    /// Returns the variants that a plan's dispatches use in a run that begins now: the fixed ones, else the fastest known and
    /// good guesses among those that were compared with their twins.
    pub fn compared_choices(&self, plan: &Plan) -> Choices {
        match &self.chosen {
            Some(chosen) => chosen.of(plan, &self.has),
            None => self.measured().compared_choices(plan, &self.has),
        }
    }

    /// Returns the measurements; [`GpuDevice::save_measured`] saves them.
    pub fn measured(&self) -> MutexGuard<'_, Measured> {
        lock(&self.measured)
    }

    /// Saves the measurements, and what was compiled for them, in the cache folder, if there is one.
    ///
    /// # Errors
    ///
    /// If the system cannot write them.
    pub fn save_measured(&self) -> Result<()> {
        self.pipelines.save()?;
        self.cache.as_ref().map_or(Ok(()), |folder| self.measured().save(folder))
    }

    /// Returns the problem with the cache, if there is one; it is reported only once.
    pub(crate) fn cache_notice(&self) -> Option<Notice> {
        lock(&self.notice).take()
    }

    /// Returns how many milliseconds one submission may take.
    pub(super) fn submission_ms(&self) -> f64 {
        self.submission.as_secs_f64() * 1e3
    }

    /// Estimates the time of a dispatch in milliseconds: as measured, otherwise from its operations.
    pub(super) fn estimate_ms(&self, dispatch: &Dispatch, variant: &Variant) -> f64 {
        let measured = self.measured();
        let timing = measured.classes.get(&class(dispatch));
        let ms = timing.and_then(|timing| timing.ms.get(variant.name));
        // The measurement of a generation kernel is for one row; eight rows take about as long.
        let rows = if dispatch.dims.SLOTS > 0 { dispatch.dims.T.max(dispatch.dims.M) } else { 1 };
        let ms = ms.map(|ms| ms * f64::from(rows.div_ceil(8)));
        // Most kernels are less efficient than the best one.
        let flops_per_ms = measured.best.single.as_ref();
        let flops_per_ms = flops_per_ms.map_or(self.flops_per_ms, |best| best.gflops * 1e6 / 8.0);
        let flops = (dispatch.kernel.flops)(&dispatch.dims) as f64;
        ms.unwrap_or(flops / flops_per_ms)
    }

    /// Creates an error of this device.
    pub(super) fn error(&self, cause: impl fmt::Display) -> Error {
        device_error(&self.name, cause)
    }

    /// Whether nothing can be created on the device any more; clears the earlier fault.
    pub fn is_lost(&self) -> bool {
        let _ = self.fault();
        let descriptor = wgpu::BufferDescriptor {
            label: Some("alive"),
            size: 4,
            usage: wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        self.checked(|| self.device.create_buffer(&descriptor)).is_err()
    }

    /// Stores an error for the next read to report.
    pub(super) fn catch(&self, result: Result<()>) {
        if let Err(error) = result {
            lock(&self.fault).get_or_insert(error);
        }
    }

    /// Returns the fault that occurred since the last call, if any.
    pub(super) fn fault(&self) -> Result<()> {
        lock(&self.fault).take().map_or(Ok(()), Err)
    }

    /// Lets the device run its callbacks, without waiting.
    pub(super) fn poll(&self) -> Result<()> {
        wait::look_at(&self.device).map_err(|e| self.error(e))
    }

    /// Waits for all submitted work.
    pub(super) fn wait(&self) -> Result<()> {
        self.after_wait(wait::for_device(&self.device, &self.queue, None))
    }

    /// Waits for a submission and all work before it, and for the signal of its callback.
    pub(super) fn wait_for(
        &self,
        submission: SubmissionIndex,
        signal: &Signal,
        patience: Duration,
    ) -> Result<bool> {
        self.after_wait(wait::for_signal(&self.device, submission, signal, patience))
    }

    fn after_wait<T>(&self, waited: std::result::Result<T, PollError>) -> Result<T> {
        self.fault()?;
        waited.map_err(|e| self.error(e))
    }

    /// Creates an object on the device, and returns failures as errors.
    pub(super) fn checked<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let scopes = [Validation, Internal, OutOfMemory].map(|f| self.device.push_error_scope(f));
        let made = make();
        let mut errors = vec![];
        for scope in scopes.into_iter().rev() {
            errors.extend(wait::for_future(scope.pop()));
        }
        // Errors of other threads are not caught by the error scopes, which are per thread.
        let fault = self.fault();
        match errors.first() {
            None => fault.map(|()| made),
            Some(e) => Err(reported(&self.name, e)),
        }
    }
}
