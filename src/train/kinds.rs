//! The variants of kernels that the ranks take: those that the run has for their kind of adapter, or that the first rank of the
//! kind chooses.

use std::sync::Arc;

use super::agree::{check_all, gather_bytes};
use super::report::Event;
use crate::backend::Device;
use crate::backend::gpu::{Choices, GpuDevice, Kinds};
use crate::dist::World;
use crate::error::Result;
use crate::plan::Plan;
use crate::tune::{Effort, tune};

/// Chooses the variants for a plan, from measurements if there is a place to keep them.
pub(super) fn choose(
    gpu: &Arc<GpuDevice>,
    plan: &Plan,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Choices> {
    match gpu.cache() {
        Some(_) => tune(gpu, plan, Effort::Missing, &mut |notice| on_event(&Event::Tuning(notice))),
        None => Ok(gpu.choices(plan)),
    }
}

/// Returns the choices of all kinds among the ranks: those of `kinds`, which is the same on all of them; of other kinds, those
/// that `choose` makes on the kind's first rank.
///
/// # Errors
///
/// If a rank is gone, or cannot choose.
pub(super) fn agree(
    world: &mut dyn World,
    mut kinds: Kinds,
    own: Option<&str>,
    choose: impl FnOnce() -> Result<Choices>,
) -> Result<Kinds> {
    let names = gather_bytes(world, own.unwrap_or_default().as_bytes())?;
    let is_new = |name: &str| kinds.of(name).is_none();
    let first = names.iter().position(|name| Some(name.as_slice()) == own.map(str::as_bytes));
    let chooses = own.is_some_and(is_new) && first == Some(world.rank());
    let chosen = if chooses { choose().map(Some) } else { Ok(None) };
    let chosen = check_all(world, chosen)?;
    let bytes = chosen.map(|choices| serde_json::to_vec(&choices).expect("choices are JSON"));
    let all = gather_bytes(world, &bytes.unwrap_or_default())?;
    for (name, bytes) in names.iter().zip(&all).filter(|(_, bytes)| !bytes.is_empty()) {
        let choices = serde_json::from_slice(bytes).expect("ranks of one version");
        kinds.put(&String::from_utf8_lossy(name), choices);
    }
    Ok(kinds)
}

/// The device with the variants of its kind.
pub(super) fn settle(device: Device, kinds: &Kinds) -> Device {
    match device {
        Device::Gpu(gpu) => match kinds.of(gpu.name()) {
            Some(choices) => Device::Gpu(gpu.with_choices(choices.clone())),
            None => Device::Gpu(gpu),
        },
        Device::Cpu => Device::Cpu,
    }
}

/// The name of a device's kind, if its kernels have variants.
pub(super) fn name_of(device: &Device) -> Option<&str> {
    match device {
        Device::Gpu(gpu) => Some(gpu.name()),
        Device::Cpu => None,
    }
}
