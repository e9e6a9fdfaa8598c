//! Adapters: those that this machine has, and the one that a run uses and why.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wgpu::{Adapter, AdapterInfo, Backend, Backends, DeviceType, Features};

use super::capabilities::{USED, has, matrix_shapes, subgroup_sizes};
use crate::error::{Error, Result, field};
use crate::kernel::Needs;
use crate::wait;

/// The device that a run uses: `auto`, `cpu`, `gpu` or `gpu:N`, on the command line and in run.json.
///
/// ```
/// use wgpt::backend::gpu::DeviceChoice;
/// assert_eq!("gpu:1".parse::<DeviceChoice>().unwrap(), DeviceChoice::GpuIndex(1));
/// assert!("tpu".parse::<DeviceChoice>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A hardware GPU if there is one, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
    /// The best adapter, even if it is a software one.
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
                Error::usage(format!("there is no device {text:?}")).hint(format!(
                    "{} takes auto, cpu, gpu or gpu:N; `wgpt devices` lists them",
                    field("device")
                ))
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

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DeviceChoice, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The kind of device that an adapter is, in the order in which `auto` prefers them: the best one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A driver that computes on the CPU, slower than the CPU backend.
    Software,
    /// A kind that the driver does not report.
    Other,
    /// A GPU behind a browser, which does not report its kind.
    Browser,
    /// A GPU of a virtual machine.
    Virtual,
    /// A GPU that shares the CPU's memory.
    Integrated,
    /// A GPU with memory of its own.
    Discrete,
}

impl AdapterKind {
    /// Whether it is hardware.
    pub fn is_real(self) -> bool {
        self >= AdapterKind::Browser
    }
}

impl From<&AdapterInfo> for AdapterKind {
    fn from(info: &AdapterInfo) -> AdapterKind {
        match info.device_type {
            // A browser tells a software adapter from the others, and no more.
            DeviceType::Other if info.backend == Backend::BrowserWebGpu => AdapterKind::Browser,
            DeviceType::DiscreteGpu => AdapterKind::Discrete,
            DeviceType::IntegratedGpu => AdapterKind::Integrated,
            DeviceType::VirtualGpu => AdapterKind::Virtual,
            DeviceType::Cpu => AdapterKind::Software,
            DeviceType::Other => AdapterKind::Other,
        }
    }
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AdapterKind::Software => "software",
            AdapterKind::Other => "other",
            AdapterKind::Browser => "browser",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Discrete => "discrete",
        })
    }
}

/// The report of `wgpt devices` about an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterReport {
    /// Its number, N in `gpu:N`.
    pub index: usize,
    /// The name that the driver reports.
    pub name: String,
    /// Vulkan, Metal or DX12.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// The kind of device.
    pub kind: AdapterKind,
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
    /// The shapes (m, n, k) of their matrices, in half precision with sums in single precision.
    pub matrix_shapes: Vec<[u32; 3]>,
    /// What variants of kernels may require.
    #[serde(skip)]
    pub has: Needs,
}

impl AdapterReport {
    /// Returns the name under which [`Measured`](super::Measured) keeps what is known of the adapter with its driver.
    pub fn key(&self) -> String {
        format!("{} ({}), {}", self.name, self.backend, self.driver).trim().to_owned()
    }

    fn new(index: usize, adapter: &Adapter) -> AdapterReport {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let driver = format!("{} {}", info.driver, info.driver_info);
        AdapterReport {
            index,
            backend: format!("{:?}", info.backend),
            driver: driver.trim().to_owned(),
            kind: (&info).into(),
            buffer_bytes: limits.max_buffer_size,
            binding_bytes: limits.max_storage_buffer_binding_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            subgroup_sizes: subgroup_sizes(adapter),
            shader_f16: features.contains(Features::SHADER_F16),
            subgroups: features.contains(Features::SUBGROUP),
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            cooperative_matrix: features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            matrix_shapes: matrix_shapes(adapter),
            has: has(adapter, features & USED, &limits),
            name: name(&info),
        }
    }
}

/// The name of a browser's adapter, which wgpu does not report.
static NAME: OnceLock<String> = OnceLock::new();

/// Sets the name of an adapter whose driver reports none, as a browser's does; measurements are kept under it.
pub fn name_adapter(name: &str) {
    // A second name would part the measurements from their adapter.
    let _ = NAME.set(name.to_owned());
}

/// Returns an adapter's name.
pub(super) fn name(info: &AdapterInfo) -> String {
    let given = NAME.get().map_or("", String::as_str);
    match (info.name.as_str(), given) {
        ("", "") => "a GPU without a name".to_owned(),
        ("", name) | (name, _) => name.to_owned(),
    }
}

/// Returns the adapters of this machine. They are enumerated once per process, since drivers take long to load.
fn found() -> &'static [Adapter] {
    static FOUND: OnceLock<Vec<Adapter>> = OnceLock::new();
    FOUND.get_or_init(enumerate)
}

fn enumerate() -> Vec<Adapter> {
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12 | Backends::BROWSER_WEBGPU;
    let descriptor = wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let instance = wgpu::Instance::new(descriptor);
    if cfg!(target_family = "wasm") {
        // A browser shows one adapter: the one that suits what is asked for.
        let wanted = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..wgpu::RequestAdapterOptions::default()
        };
        return wait::for_future(instance.request_adapter(&wanted)).into_iter().collect();
    }
    wait::for_future(instance.enumerate_adapters(backends))
}

/// Returns the adapter with this number, to open a device on it.
pub(super) fn to_open(index: usize) -> Option<Adapter> {
    if cfg!(target_family = "wasm") {
        // A browser's adapter opens one device, and no other after that.
        return enumerate().into_iter().nth(index);
    }
    found().get(index).cloned()
}

/// Returns the hint of errors about a missing adapter.
pub(super) fn no_adapter() -> String {
    format!("install the GPU's Vulkan driver, or run with {} cpu", field("device"))
}

/// Returns all adapters, in the order of their numbers, N in `gpu:N`.
pub fn adapters() -> Vec<AdapterReport> {
    found().iter().enumerate().map(|(i, adapter)| AdapterReport::new(i, adapter)).collect()
}

/// The choice of [`pick`], and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The adapter's number; `None`: the CPU backend.
    pub index: Option<usize>,
    /// The reason, in words.
    pub reason: String,
}

/// Returns the adapter that a choice selects.
///
/// # Errors
///
/// If a GPU is requested and there is none, or none with that number.
pub fn pick(choice: DeviceChoice, adapters: &[AdapterReport]) -> Result<Picked> {
    // Among equal adapters the first one wins: a larger index loses ties.
    let best = adapters.iter().max_by_key(|a| (a.kind, usize::MAX - a.index));
    let real = best.filter(|a| a.kind.is_real());
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
        (_, None) => {
            Err(Error::device("there is no GPU adapter (Vulkan, Metal or DX12)").hint(no_adapter()))
        }
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
