//! Faults of a device, which are stored for the next read to report.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu::Device;

use crate::error::{Error, field};

/// Returns the hint of errors about too little memory.
fn out_of_memory() -> String {
    format!(
        "take a smaller {}, {} block or {} mixed (`wgpt plan` tells the bytes), or {} cpu",
        field("batch_size"),
        field("recompute"),
        field("precision"),
        field("device")
    )
}

/// Returns the hint of errors about a plan that is larger than a device can bind.
pub(crate) fn too_large() -> String {
    format!(
        "take a smaller {} or {}, or {} cpu",
        field("batch_size"),
        field("seq_len"),
        field("device")
    )
}

/// Locks a mutex, even if a thread panicked while it held the lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates an error of the device called `name`, with a hint.
pub(super) fn device_error(name: &str, cause: impl fmt::Display) -> Error {
    Error::device(format!("{name}: {cause}")).hint(format!(
        "`wgpt tune` leaves out the kernels that this device does not run right, `wgpt verify` shows them; \
         {} cpu needs none",
        field("device")
    ))
}

/// Creates the error for a wgpu error of the device called `name`, with a hint.
pub(super) fn reported(name: &str, error: &wgpu::Error) -> Error {
    let found = device_error(name, error);
    if matches!(error, wgpu::Error::OutOfMemory { .. }) {
        found.hint(out_of_memory())
    } else {
        found
    }
}

/// Creates the error for the loss of the device called `name`. wgpu reports the cause only as text, even for too little
/// memory.
fn lost(name: &str, message: &str) -> Error {
    let found = device_error(name, format!("the device was lost: {message}"));
    if message.contains("Not enough memory") { found.hint(out_of_memory()) } else { found }
}

/// Stores the first fault; without a handler wgpu would panic.
pub(super) fn watch(device: &Device, name: &str) -> Arc<Mutex<Option<Error>>> {
    let fault = Arc::new(Mutex::new(None));
    let (seen, owner) = (Arc::clone(&fault), name.to_owned());
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        lock(&seen).get_or_insert_with(|| reported(&owner, &error));
    }));
    let (seen, owner) = (Arc::clone(&fault), name.to_owned());
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            lock(&seen).get_or_insert_with(|| lost(&owner, &message));
        }
    });
    fault
}
