//! Backends: the same plan, replayed on the CPU or on a GPU. They know no op.

pub mod cpu;
pub mod gpu;

use std::ops::Range;
use std::sync::Arc;

use crate::backend::cpu::{Cpu, Use};
use crate::backend::gpu::{DeviceChoice, Gpu, GpuDevice, Wanted};
use crate::error::{Error, Result};
use crate::kernel::Step;
use crate::plan::{Limits, Plan, View};

/// What runs a plan. Views are the plan's.
pub trait Backend: Send {
    /// The plan that it runs.
    fn plan(&self) -> &Plan;

    /// Overwrites a view of real numbers.
    fn write(&mut self, view: View, data: &[f32]);

    /// Overwrites a view of integers.
    fn write_u32(&mut self, view: View, data: &[u32]);

    /// Runs some dispatches of the plan, by index; returns before a GPU has done them.
    fn run(&mut self, range: Range<usize>, step: &Step);

    /// Reads a view of real numbers, after everything before has run.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    fn read(&mut self, view: View, out: &mut [f32]) -> Result<()>;

    /// Reads a view of integers, after everything before has run.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    fn read_u32(&mut self, view: View, out: &mut [u32]) -> Result<()>;

    /// What it runs on, in words: `CPU, 2 threads`, or the adapter's name.
    fn describe(&self) -> String;

    /// Replays to put in flight between two reads: 1 where waiting costs nothing.
    fn run_ahead(&self) -> usize {
        1
    }
}

/// Where a model lives.
#[derive(Clone)]
pub enum Device {
    /// The host.
    Cpu,
    /// A GPU.
    Gpu(Arc<GpuDevice>),
}

impl Device {
    /// What it allows.
    pub fn limits(&self) -> Limits {
        match self {
            Device::Cpu => Limits::NONE,
            Device::Gpu(device) => device.limits(),
        }
    }

    /// The device that a choice means, opened.
    ///
    /// # Errors
    ///
    /// If there is no such device, or its driver refuses.
    pub fn open(choice: DeviceChoice) -> Result<Device> {
        if choice == DeviceChoice::Cpu {
            return Ok(Device::Cpu);
        }
        match gpu::pick(choice, &gpu::adapters())?.index {
            None => Ok(Device::Cpu),
            Some(index) => GpuDevice::open(index, Wanted::All).map(Device::Gpu),
        }
    }

    /// Checks that a plan can be held and bound here, as far as that is known before it is tried.
    ///
    /// # Errors
    ///
    /// Names what is too large.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        match self {
            Device::Cpu => cpu::check_memory(plan.total_bytes()),
            Device::Gpu(device) => match plan.exceeds(device.limits()) {
                None => Ok(()),
                Some(what) => Err(Error::device(format!("{}: {what}", device.name()))
                    .hint("take a smaller --batch-size or --seq-len, or --device cpu")),
            },
        }
    }

    /// A backend that runs a plan here.
    ///
    /// # Errors
    ///
    /// If the device cannot hold or bind what the plan needs.
    pub fn backend(&self, plan: Arc<Plan>) -> Result<Box<dyn Backend>> {
        match self {
            Device::Cpu => Ok(Box::new(Cpu::<f32>::new(plan, Use::Kernels))),
            Device::Gpu(device) => Ok(Box::new(Gpu::new(device, plan)?)),
        }
    }
}
