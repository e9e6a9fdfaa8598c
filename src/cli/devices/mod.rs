//! `wgpt devices`: lists the devices, and the one that auto selects.

mod links;
mod paths;

use serde_json::{Value, json};
use wgpt::Result;
use wgpt::backend::cpu;
use wgpt::backend::gpu::{self, AdapterReport, DeviceChoice, Measured};

use crate::cli::outcome::Outcome;
use crate::cli::{number, output};

/// List GPU adapters with drivers, limits and features, and which device auto takes
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  wgpt devices\n  wgpt devices --json\n  mpirun -n 4 wgpt devices --ranks    the device of each rank, and the links between them"
)]
pub struct Args {
    /// Show the device of each rank that mpirun or srun has started, and measure the link from the first one to it
    #[arg(long)]
    ranks: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Lists the devices.
///
/// # Errors
///
/// If no device is usable.
pub fn run(args: &Args) -> Result<Outcome> {
    if args.ranks {
        return links::run(args.json);
    }
    let adapters = gpu::adapters();
    let picked = gpu::pick(DeviceChoice::Auto, &adapters)?;
    let auto = picked.index.map_or(DeviceChoice::Cpu, DeviceChoice::GpuIndex).to_string();
    let threads = rayon::current_num_threads();
    if args.json {
        output::json(&json!({
            "adapters": adapters.iter().map(report).collect::<Vec<_>>(),
            "cpu": {
                "threads": threads,
                "has": cpu::features(),
                "precision": cpu::precision(),
                "products": cpu_products(),
            },
            "auto": { "device": auto, "reason": picked.reason },
        }));
        return Ok(Outcome::Good);
    }
    output::line(&format!("cpu    the CPU backend, {threads} threads"));
    let has = match &cpu::features()[..] {
        [] => "nothing that is used".to_owned(),
        all => all.join(", "),
    };
    output::line(&format!("       {:<17} {has}", "instructions"));
    output::line(&format!("       {:<17} {}", "precision", cpu::precision()));
    for (format, way) in cpu::products() {
        output::line(&format!("       {:<17} {way}", format!("{format} matrices")));
    }
    adapters.iter().for_each(show);
    output::line(&format!("\nauto takes {auto}. {}", picked.reason));
    Ok(Outcome::Good)
}

/// How the CPU multiplies by matrices of each format, as JSON.
fn cpu_products() -> Value {
    cpu::products().into_iter().map(|(format, way)| (format.to_owned(), json!(way))).collect()
}

/// An adapter as JSON, with the matrix units that its kernels use.
fn report(adapter: &AdapterReport) -> Value {
    let mut report = json!(adapter);
    let (units, reason) = match paths::matrix_units(adapter) {
        Ok(units) => (Some(units), None),
        Err(reason) => (None, Some(reason)),
    };
    report["precision"] = json!(precision(adapter));
    report["refused"] = json!(refused(adapter));
    report["matrix_units"] = json!({ "kernels": units, "why_none": reason });
    report
}

/// The variants of kernels that are known to be wrong on an adapter or to crash its driver, and why.
fn refused(adapter: &AdapterReport) -> Vec<String> {
    let Ok(folder) = wgpt::cache::folder() else { return vec![] };
    let (measured, _) = Measured::load(&folder, &adapter.key());
    let faults = measured.verdicts.iter().filter_map(|(name, verdict)| {
        verdict.fault.as_ref().map(|fault| format!("{name}: {fault}"))
    });
    faults.collect()
}

/// The best precision of training on an adapter.
fn precision(adapter: &AdapterReport) -> &'static str {
    match adapter.shader_f16 {
        true => "mixed: half precision with sums in single precision",
        false => "f32: the driver has no half precision in shaders",
    }
}

fn show(adapter: &AdapterReport) {
    output::line(&format!("gpu:{}  {} ({})", adapter.index, adapter.name, adapter.kind));
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let [least, most] = adapter.subgroup_sizes;
    let subgroups = match adapter.subgroups {
        true => format!("{least} to {most}"),
        false => "no".to_owned(),
    };
    let units = match paths::matrix_units(adapter) {
        Ok(units) => units,
        Err(reason) => format!("no: {reason}"),
    };
    let rows = [
        ("API, driver", format!("{}, {}", adapter.backend, adapter.driver)),
        ("largest buffer", number::bytes(adapter.buffer_bytes)),
        ("largest binding", number::bytes(adapter.binding_bytes)),
        ("workgroup memory", number::bytes(u64::from(adapter.workgroup_bytes))),
        ("precision", precision(adapter).to_owned()),
        ("subgroups", subgroups),
        ("matrix units", units),
        ("clocks", yes(adapter.timestamps)),
    ];
    for (name, value) in rows {
        output::line(&format!("       {name:<17} {value}"));
    }
    for refused in refused(adapter) {
        output::line(&format!("       {:<17} {refused}", "never used"));
    }
}
