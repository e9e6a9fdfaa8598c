//! `wgpt tune`: times the variants of every kernel of a model on a GPU, and remembers the fastest.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wgpt::backend::Device;
use wgpt::backend::gpu::{GpuDevice, Peak, class};
use wgpt::config::{Optimizer, Precision};
use wgpt::model::{Program, Uses};
use wgpt::plan::{Dispatch, Plan};
use wgpt::profile;
use wgpt::tune::{Effort, tune};
use wgpt::{Error, Result};

use super::options::{BatchArgs, DeviceArgs, ModelArgs, PrecisionArgs, open};
use super::outcome::Outcome;
use super::output;
use super::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  wgpt tune --size medium --batch-size 4
  wgpt tune --size smollm2-135m --context 2048
  wgpt tune --size gpt2 --device gpu:1 --json";

/// Time the variants of a model's kernels on a GPU again, and remember the fastest
///
/// Training does this by itself at its first start, for kernels and sizes that it has not seen yet.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    batch: BatchArgs,
}

/// One class of dispatches and the times of its variants.
struct Row<'a> {
    kernel: &'static str,
    shape: String,
    ms: &'a BTreeMap<String, f64>,
    taken: &'a str,
    /// The speed of the selected variant.
    gflops: f64,
}

/// Tunes the kernels.
///
/// # Errors
///
/// If the device is no GPU, cannot hold the kernels' buffers, or is lost.
pub fn run(args: &Args) -> Result<Outcome> {
    let config = args.model.config()?;
    let (batch, seq) = args.batch.shape(&args.model, &config)?;
    let device = open(args.device.device)?;
    let Device::Gpu(gpu) = &device else {
        return Err(Error::usage("the kernels of the CPU have no variants to choose from")
            .hint("give --device gpu or gpu:N; `wgpt devices` lists them"));
    };
    let precision = args.precision.on(&device)?;
    let uses = Uses {
        batch,
        seq,
        training: Some(Optimizer::Adamw),
        generation: Some(1),
        precision,
        ..Uses::default()
    };
    let plan = Program::record(&config, uses, gpu.limits()).plan;
    let mut progress = Progress::new();
    tune(gpu, &plan, Effort::All, &mut |notice| progress.tuning(&notice))?;
    progress.end();
    let peak = profile::peak(&device, precision == Precision::Mixed)?;
    show(gpu, &plan, peak, args.json);
    Ok(Outcome::Good)
}

fn show(gpu: &GpuDevice, plan: &Plan, peak: Peak, as_json: bool) {
    let measured = gpu.measured();
    let by_class: BTreeMap<String, &Dispatch> =
        plan.dispatches.iter().map(|d| (class(d), d)).collect();
    let row = |(class, dispatch): (&String, &&Dispatch)| {
        let timing = measured.timing(dispatch, gpu.has())?;
        let (taken, name) = (timing.best()?, dispatch.kernel.name);
        Some(Row {
            kernel: name,
            shape: class[name.len()..].trim().to_owned(),
            ms: &timing.ms,
            taken,
            gflops: (dispatch.kernel.flops)(&dispatch.dims) as f64 / (timing.ms[taken] * 1e6),
        })
    };
    let rows: Vec<Row<'_>> = by_class.iter().filter_map(row).collect();
    if as_json {
        let value = |row: &Row<'_>| {
            json!({
                "kernel": row.kernel, "shape": row.shape, "taken": row.taken,
                "ms": row.ms, "gflops": row.gflops,
            })
        };
        let classes: Vec<Value> = rows.iter().map(value).collect();
        let refused: Vec<&String> = measured
            .verdicts
            .iter()
            .filter(|(_, v)| v.fault.is_some())
            .map(|(name, _)| name)
            .collect();
        return output::json(&json!({
            "device": gpu.name(), "classes": classes, "refused": refused, "cache": gpu.cache(), "peak": peak,
        }));
    }
    let line = |row: &Row<'_>| {
        let all: Vec<String> =
            row.ms.iter().map(|(variant, ms)| format!("{} {ms:.3}", shown(variant))).collect();
        [
            row.kernel.to_owned(),
            row.shape.clone(),
            shown(row.taken).to_owned(),
            all.join(", "),
            format!("{:.1}", row.gflops),
        ]
    };
    output::line(&format!("on {}", gpu.name()));
    let head = ["kernel", "shape, up to", "taken", "ms", "GFLOP/s"];
    output::line(&output::table(head, &[0, 1, 2, 3], rows.iter().map(line).collect()));
    output::line(&super::profile::best(&peak));
}

/// Returns the name of a variant as shown in a table.
fn shown(variant: &str) -> &str {
    if variant.is_empty() { "portable" } else { variant }
}
