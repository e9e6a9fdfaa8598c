//! `wgpt verify`: checks that every kernel computes on this machine the same as its twin.

use serde_json::{Value, json};
use wgpt::backend::Device;
use wgpt::backend::gpu::{self, GpuDevice, Wanted};
use wgpt::check::step::compare_step;
use wgpt::check::verify;
use wgpt::ops::ALL;
use wgpt::{Error, Result};

use super::grad_check::SABOTAGE;
use super::options::{DeviceArgs, ModelArgs, NamedLimits, check_shape, device_name};
use super::outcome::Outcome;
use super::output;

const EXAMPLES: &str = "\
Examples:
  wgpt verify                           the device that auto takes
  wgpt verify --device gpu:1 --json
  wgpt verify --step --size gpt2 --seq-len 64 --limits webgpu --device gpu";

/// Compare every kernel of a device with its twin; exit code 1 if one differs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, mut_group("ModelArgs", |group| group.requires("step")))]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Hold a GPU to these limits: webgpu, which every device has
    #[arg(long, value_name = "LIMITS", hide_possible_values = true)]
    limits: Option<NamedLimits>,
    /// Compare the loss and the gradients of one training step with the CPU's instead, for the model that the options below describe
    #[arg(long)]
    step: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Sequences in the step's batch
    #[arg(long, value_name = "N", default_value_t = 1, requires = "step")]
    batch_size: usize,
    /// Tokens per sequence of the step's batch [default: the model's context]
    #[arg(long, value_name = "N", requires = "step")]
    seq_len: Option<usize>,
    #[command(flatten)]
    model: ModelArgs,
}

/// A line of the report.
struct Row {
    name: String,
    dispatches: Option<usize>,
    error: f32,
    tolerance: f32,
    place: String,
    /// Whether it passed; `None` if it was not run, because the device lacks a feature that it needs.
    passed: Option<bool>,
}

/// Verifies the kernels, or one training step.
///
/// # Errors
///
/// If there is no such device, or it fails.
pub fn run(args: &Args) -> Result<Outcome> {
    let device = open(args)?;
    let rows = if args.step { step(args, &device)? } else { kernels(&device)? };
    let count = |passed| rows.iter().filter(|row| row.passed == passed).count();
    let (failed, not_run) = (count(Some(false)), count(None));
    if args.json {
        let rows: Vec<Value> = rows.iter().map(to_json).collect();
        output::json(&json!({
            "device": device_name(&device), "passed": failed == 0, "failed": failed,
            "not_run": not_run, "rows": rows,
        }));
    } else {
        show(&rows, &device_name(&device), [failed, not_run]);
    }
    Ok(if failed == 0 { Outcome::Good } else { Outcome::Bad })
}

fn open(args: &Args) -> Result<Device> {
    if args.limits.is_none() {
        return Device::open(args.device.device);
    }
    match gpu::pick(args.device.device, &gpu::adapters())?.index {
        Some(index) => GpuDevice::open(index, Wanted::WebGpu).map(Device::Gpu),
        None => Err(Error::usage("--limits is for a GPU, and the device is the CPU")
            .hint("give --device gpu or gpu:N; `wgpt devices` lists them")),
    }
}

/// Compares every kernel with its twin.
fn kernels(device: &Device) -> Result<Vec<Row>> {
    let spoil = std::env::var(SABOTAGE).ok();
    if let Some(name) = spoil.as_deref().filter(|name| ALL.iter().all(|k| k.name != *name)) {
        return Err(Error::usage(format!("{SABOTAGE}: there is no kernel {name:?}")));
    }
    let rows = verify::verify(device, spoil.as_deref())?;
    let row = |row: &verify::Row| Row {
        name: row.name(),
        dispatches: row.available.then_some(row.dispatches),
        error: row.error,
        tolerance: row.tolerance,
        place: match (row.available, row.dispatches) {
            (false, _) if row.place.is_empty() => "not on this device".into(),
            (false, _) => row.place.clone(),
            (true, 0) => "it was not run".into(),
            _ => row.place.clone(),
        },
        passed: row.available.then(|| row.passes()),
    };
    Ok(rows.iter().map(row).collect())
}

/// Compares one training step with the CPU's.
fn step(args: &Args, device: &Device) -> Result<Vec<Row>> {
    if matches!(device, Device::Cpu) {
        return Err(Error::usage("--step compares a GPU with the CPU, and the device is the CPU")
            .hint("give --device gpu or gpu:N; `wgpt devices` lists them"));
    }
    let config = args.model.config()?;
    let shape = check_shape(args.batch_size, args.seq_len.unwrap_or(config.n_positions), &config)?;
    let mut rows = vec![];
    compare_step(&config, shape, 1337, &Device::Cpu, device, |row| {
        rows.push(Row {
            passed: Some(row.passed()),
            place: String::new(),
            dispatches: None,
            error: row.error,
            tolerance: row.tolerance,
            name: row.name,
        });
    })?;
    Ok(rows)
}

fn to_json(row: &Row) -> Value {
    json!({
        "name": row.name, "dispatches": row.dispatches, "error": row.error,
        "tolerance": row.tolerance, "place": row.place, "passed": row.passed,
    })
}

fn show(rows: &[Row], device: &str, [failed, not_run]: [usize; 2]) {
    let line = |row: &Row| {
        let number = |text: String| if row.passed.is_some() { text } else { String::new() };
        [
            row.name.clone(),
            row.dispatches.map_or(String::new(), |n| n.to_string()),
            number(format!("{:.1e}", row.error)),
            number(format!("{:.0e}", row.tolerance)),
            match row.passed {
                Some(true) => "ok".into(),
                Some(false) => "FAILED".into(),
                None => row.place.clone(),
            },
        ]
    };
    output::line(&format!("on {device}"));
    let head = ["", "dispatches", "worst error", "tolerance", ""];
    output::line(&output::table(head, &[0, 4], rows.iter().map(line).collect()));
    if not_run > 0 {
        output::line(&format!("{not_run} need what this device has not, and were not run"));
    }
    let run = rows.len() - not_run;
    if failed == 0 {
        return output::line(&format!("all {run} agree"));
    }
    for row in rows.iter().filter(|row| row.passed == Some(false) && !row.place.is_empty()) {
        output::line(&format!("{}: {}", row.name, row.place));
    }
    let version = env!("CARGO_PKG_VERSION");
    output::line(&format!(
        "{failed} of {run} differ. Please report this text (wgpt {version}) with what `wgpt devices` prints; until then, \
         --device cpu computes what it should.",
    ));
}
