//! `wgpt devices`: lists the devices, and the one that auto selects.

mod links;

use serde_json::json;
use wgpt::Result;
use wgpt::backend::gpu::{self, AdapterReport, DeviceChoice};

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
            "adapters": adapters,
            "cpu": { "threads": threads },
            "auto": { "device": auto, "reason": picked.reason },
        }));
        return Ok(Outcome::Good);
    }
    output::line(&format!("cpu    the CPU backend, {threads} threads"));
    adapters.iter().for_each(show);
    output::line(&format!("\nauto takes {auto}. {}", picked.reason));
    Ok(Outcome::Good)
}

fn show(adapter: &AdapterReport) {
    output::line(&format!("gpu:{}  {} ({})", adapter.index, adapter.name, adapter.kind));
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let [least, most] = adapter.subgroup_sizes;
    let subgroups = match adapter.subgroups {
        true => format!("{least} to {most}"),
        false => "no".to_owned(),
    };
    let rows = [
        ("API, driver", format!("{}, {}", adapter.backend, adapter.driver)),
        ("largest buffer", number::bytes(adapter.buffer_bytes)),
        ("largest binding", number::bytes(adapter.binding_bytes)),
        ("workgroup memory", number::bytes(u64::from(adapter.workgroup_bytes))),
        ("half precision", yes(adapter.shader_f16)),
        ("subgroups", subgroups),
        ("matrix units", yes(adapter.cooperative_matrix)),
        ("clocks", yes(adapter.timestamps)),
    ];
    for (name, value) in rows {
        output::line(&format!("       {name:<17} {value}"));
    }
}
