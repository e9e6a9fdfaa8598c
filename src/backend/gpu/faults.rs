//! What goes wrong on a device, kept for the next read.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu::Device;

use crate::error::Error;

/// The way out of too little memory.
const OUT_OF_MEMORY: &str = "take a smaller --batch-size, --recompute block or --precision mixed (`wgpt plan` \
    tells the bytes), or --device cpu";

/// What a mutex holds, also after a thread panicked with it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error of the device called `name`, with the way out.
pub(super) fn device_error(name: &str, cause: impl fmt::Display) -> Error {
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
pub(super) fn watch(device: &Device, name: &str) -> Arc<Mutex<Option<Error>>> {
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
