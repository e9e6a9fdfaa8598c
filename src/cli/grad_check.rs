//! `wgpt grad-check`: compares finite differences with backpropagation.

use serde_json::{Value, json};
use wgpt::Result;
use wgpt::backend::Device;
use wgpt::backend::gpu::DeviceChoice;
use wgpt::check::grad::{Row, grad_check, grad_check_device};

use super::options::device_name;
use super::outcome::Outcome;
use super::{number, output};

const EXAMPLES: &str = "\
Examples:
  wgpt grad-check                 every op and whole tiny models, in double precision
  wgpt grad-check --device gpu    a GPU's gradients too, in single precision";

/// The variable that names a kernel whose twin is made wrong, so that a test can see the checks fail.
pub const SABOTAGE: &str = "WGPT_SABOTAGE";

/// Check every gradient against finite differences; exit code 1 if one is wrong
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Also compare the gradients of this device: auto, cpu, gpu or gpu:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Checks the gradients.
///
/// # Errors
///
/// If there is no such device, or it fails.
pub fn run(args: &Args) -> Result<Outcome> {
    let device = args.device.map(Device::open).transpose()?;
    let spoil = std::env::var(SABOTAGE).ok();
    let mut rows: Vec<(String, Row)> =
        grad_check(spoil.as_deref())?.into_iter().map(|row| ("twins, f64".into(), row)).collect();
    if let Some(device) = &device {
        let found = grad_check_device(device, spoil.as_deref())?;
        rows.extend(found.into_iter().map(|row| (format!("{}, f32", device_name(device)), row)));
    }
    let failed = rows.iter().filter(|(_, row)| !row.passed).count();
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|(on, row)| to_json(on, row)).collect();
        output::json(&json!({ "passed": failed == 0, "failed": failed, "rows": rows }));
    } else {
        show(&rows, failed);
    }
    Ok(if failed == 0 { Outcome::Good } else { Outcome::Bad })
}

fn to_json(on: &str, row: &Row) -> Value {
    json!({
        "on": on, "what": row.what, "checked": row.checked, "worst": row.worst,
        "place": row.place, "bound": row.bound, "passed": row.passed,
    })
}

fn show(rows: &[(String, Row)], failed: usize) {
    let line = |(on, row): &(String, Row)| {
        [
            row.what.clone(),
            on.clone(),
            number::thousands(row.checked as u64),
            format!("{:.1e}", row.worst),
            format!("{:.0e}", row.bound),
            if row.passed { "ok" } else { "FAILED" }.to_owned(),
        ]
    };
    let head = ["gradient of", "on", "checked", "worst error", "bound", ""];
    output::line(&output::table(head, &[0, 1, 5], rows.iter().map(line).collect()));
    for (_, row) in rows.iter().filter(|(_, row)| !row.passed) {
        output::line(&format!("{}: {}", row.what, row.place));
    }
    output::line(&match failed {
        0 => format!("all {} gradients are right", rows.len()),
        _ => format!("{failed} of {} gradients are wrong", rows.len()),
    });
}
