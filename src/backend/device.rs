//! A device: the CPU or a GPU.

use std::path::PathBuf;
use std::sync::Arc;

use super::cpu::{self, Cpu, Use};
use super::gpu::{self, DeviceChoice, Gpu, GpuDevice, Setup};
use super::interface::{Backend, Given};
use crate::config::Precision;
use crate::error::{Error, Result, field};
use crate::plan::{Limits, Phase, Plan};

/// The device that a model is on.
#[derive(Clone)]
pub enum Device {
    /// The host.
    Cpu,
    /// A GPU.
    Gpu(Arc<GpuDevice>),
}

impl Device {
    /// Returns its limits.
    pub fn limits(&self) -> Limits {
        match self {
            Device::Cpu => Limits::CPU,
            Device::Gpu(device) => device.limits(),
        }
    }

    /// Whether it computes in mixed precision: a GPU in f16, a CPU in bf16.
    pub fn has_half(&self) -> bool {
        match self {
            Device::Cpu => cpu::has_bf16(),
            Device::Gpu(device) => device.has().f16,
        }
    }

    /// Refuses a precision in which a processor does not train: [`cpu::has_bf16`]. What a GPU lacks, its backend refuses.
    ///
    /// # Errors
    ///
    /// Says what is missing.
    pub fn check_precision(&self, precision: Precision) -> Result<()> {
        match self {
            Device::Cpu => cpu::check_precision(precision),
            Device::Gpu(_) => Ok(()),
        }
    }

    /// Returns the precision that suits it: mixed if the hardware of a GPU has half-precision arithmetic. On a CPU mixed precision
    /// is not chosen before its speed is measured.
    pub fn best_precision(&self) -> Precision {
        match self {
            Device::Gpu(device) if device.is_real() && device.has().f16 => Precision::Mixed,
            Device::Gpu(_) | Device::Cpu => Precision::F32,
        }
    }

    /// Whether a plan's buffers fit now: within the limits and in memory.
    ///
    /// No API reports how much memory a GPU has left, so all buffers are allocated at once on a hardware GPU
    /// and then freed.
    pub fn fits(&self, plan: &Plan) -> bool {
        let host = || cpu::available_bytes().is_none_or(|free| plan.total_bytes() <= free);
        match self {
            Device::Cpu => host(),
            Device::Gpu(device) if plan.exceeds(device.limits()).is_some() => false,
            Device::Gpu(device) if device.is_real() => gpu::has_room(device, plan),
            Device::Gpu(_) => host(),
        }
    }

    /// Opens the device that a choice selects; nothing is stored on disk.
    ///
    /// # Errors
    ///
    /// If there is no such device, or its driver refuses.
    pub fn open(choice: DeviceChoice) -> Result<Device> {
        Device::with(choice, Setup::default())
    }

    /// Does the same as [`Device::open`], with compiled shaders and timings kept in a folder, usually
    /// [`crate::cache::folder`]'s.
    ///
    /// # Errors
    ///
    /// As [`Device::open`].
    pub fn open_cached(choice: DeviceChoice, folder: PathBuf) -> Result<Device> {
        Device::with(choice, Setup { cache: Some(folder), ..Setup::default() })
    }

    fn with(choice: DeviceChoice, setup: Setup) -> Result<Device> {
        if choice == DeviceChoice::Cpu {
            return Ok(Device::Cpu);
        }
        match gpu::pick(choice, &gpu::adapters())?.index {
            None => Ok(Device::Cpu),
            Some(index) => GpuDevice::with(index, setup).map(Device::Gpu),
        }
    }

    /// Checks that a plan can be held and bound here, as far as that is known before an attempt.
    ///
    /// # Errors
    ///
    /// Names the part that is too large.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        match self {
            Device::Cpu => cpu::check_memory(plan.total_bytes()).map_err(|error| {
                // The batches' sizes, which the error advises, are those of training.
                match plan.phases.contains_key(&Phase::Update) {
                    true => error,
                    false => error.hint(format!(
                        "take a smaller model, or more ranks with {}",
                        field("pipeline")
                    )),
                }
            }),
            Device::Gpu(device) => match plan.exceeds(device.limits()) {
                None => Ok(()),
                Some(what) => {
                    Err(Error::device(format!("{}: {what}", device.name())).hint(gpu::too_large()))
                }
            },
        }
    }

    /// Creates a backend that runs a plan here.
    ///
    /// # Errors
    ///
    /// If the device cannot hold or bind the buffers of the plan.
    pub fn backend(&self, plan: Arc<Plan>) -> Result<Box<dyn Backend>> {
        self.backend_with(plan, vec![])
    }

    /// Creates a backend that runs a plan here, with some buffers taken over from another backend of this device.
    ///
    /// # Errors
    ///
    /// As [`Device::backend`].
    ///
    /// # Panics
    ///
    /// If a buffer in `given` belongs to another device, or has another length or type.
    pub fn backend_with(&self, plan: Arc<Plan>, given: Vec<Given>) -> Result<Box<dyn Backend>> {
        match self {
            Device::Cpu => Ok(Box::new(Cpu::<f32>::with(plan, Use::Kernels, given))),
            Device::Gpu(device) => Ok(Box::new(Gpu::taking_over(device, plan, given)?)),
        }
    }
}
