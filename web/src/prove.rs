//! The proof that the kernels are right on this browser's GPU.

use serde::Deserialize;
use serde_json::{Value, json};
use wgpt::Result;
use wgpt::backend::gpu::DeviceChoice;
use wgpt::check::verify;
use wgpt::clock::Stopwatch;

use crate::call::{Tell, is_stopped};
use crate::device::open;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    device: Option<DeviceChoice>,
    /// A kernel whose twin is made wrong, to see that the error is found.
    spoil: Option<String>,
    /// The kernel that is compared alone.
    only: Option<String>,
}

/// Compares all kernels with their twins. Tells `progress` of the cases, then a `row` for each kernel.
pub fn verify(options: &Options, tell: &Tell) -> Result<Value> {
    let clock = Stopwatch::start();
    let device = open(options.device)?;
    let mut rows = verify::rows(&device);
    if let Some(only) = &options.only {
        rows.retain(|row| row.kernel == only);
    }
    let cases = verify::all_cases(&device);
    for (done, case) in cases.iter().enumerate() {
        tell.say(&json!({
            "event": "progress", "what": case.name, "done": done, "total": cases.len(),
        }));
        if is_stopped() {
            return Ok(json!({ "stopped": true }));
        }
        verify::run(case, &device, options.spoil.as_deref(), &mut rows)?;
    }
    for row in &rows {
        tell.say(&json!({
            "event": "row",
            "kernel": row.kernel,
            "variant": row.variant,
            "available": row.available,
            "passes": row.passes(),
            "dispatches": row.dispatches,
            "error": row.error,
            "tolerance": row.tolerance,
            "place": row.place,
        }));
    }
    let count = |which: fn(&verify::Row) -> bool| rows.iter().filter(|row| which(row)).count();
    Ok(json!({
        "compared": count(|row| row.dispatches > 0),
        "failed": count(|row| !row.passes()),
        "unavailable": count(|row| !row.available),
        "seconds": clock.seconds(),
        "stopped": false,
    }))
}
