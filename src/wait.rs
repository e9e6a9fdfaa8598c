//! The one place where the host waits: for a device, for a future, or for a while.
//!
//! Nothing above this module is async. Where a thread must not block, as in a browser, these functions are what hands the
//! thread back until the time has come.

use std::time::Duration;

use wgpu::{Device, PollError, PollType, SubmissionIndex};

use crate::clock::Stopwatch;

/// Waits for a future, which wgpu returns where it asks a driver for something.
pub(crate) fn for_future<T>(future: impl Future<Output = T>) -> T {
    pollster::block_on(future)
}

/// Waits for a while.
#[cfg_attr(not(feature = "download"), expect(dead_code, reason = "only a download waits its turn"))]
pub(crate) fn for_time(pause: Duration) {
    std::thread::sleep(pause);
}

/// Waits until something is so that another thread is about to bring about; returns whether it came so far.
pub(crate) fn until(is_so: impl Fn() -> bool, patience: Duration) -> bool {
    let clock = Stopwatch::start();
    while !is_so() && clock.elapsed() < patience {
        std::thread::yield_now();
    }
    is_so()
}

/// Waits until a device has completed a submission, or without one everything that was submitted, and has called
/// back whoever waits for that.
///
/// # Errors
///
/// If the device does not answer.
pub(crate) fn for_device(
    device: &Device,
    submission: Option<SubmissionIndex>,
) -> Result<(), PollError> {
    let until = PollType::Wait { submission_index: submission, timeout: None };
    device.poll(until).map(drop)
}

/// Lets a device call back whoever waits for what it has completed, and returns at once.
///
/// # Errors
///
/// If the device does not answer.
pub(crate) fn look_at(device: &Device) -> Result<(), PollError> {
    device.poll(PollType::Poll).map(drop)
}
