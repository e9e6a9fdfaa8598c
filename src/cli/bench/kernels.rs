//! `wgpt bench kernels`: every kernel of a training step on its own.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use wgpt::Result;
use wgpt::engine::Engine;
use wgpt::kernel::Dims;
use wgpt::plan::{Dispatch, Plan};
use wgpt::profile::moved_bytes;

use super::common::{Common, Memory, Rounds, Setup, random_ids, step, training};
use crate::cli::options::BatchArgs;
use crate::cli::output;

/// Every kernel of a training step by itself
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wgpt bench kernels --size gpt2 --json")]
pub struct Args {
    /// Time N runs of each kernel
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Make N runs before those
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: u32,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    batch: BatchArgs,
}

/// The printed report.
#[derive(Serialize)]
struct Report {
    kernels: Vec<KernelTime>,
    steps: u32,
    #[serde(flatten)]
    memory: Memory,
    #[serde(flatten)]
    setup: Setup,
}

/// The speed of one kernel on one shape.
#[derive(Serialize)]
struct KernelTime {
    name: &'static str,
    shape: String,
    /// Dispatches of this kind per step.
    calls: usize,
    /// Milliseconds per dispatch.
    ms: f64,
    gflops: f64,
    gb_per_s: f64,
}

/// One kind of dispatch: kernel and shape, the index of one such dispatch, and their number in a step.
struct Kind {
    name: &'static str,
    shape: String,
    dispatch: usize,
    calls: usize,
}

/// Times the kernels.
pub fn run(args: &Args) -> Result<()> {
    let common = &args.common;
    let config = common.model.config()?;
    let shape = args.batch.shape(&common.model, &config)?;
    let mut engine = common.engine(training(shape), Some(&args.batch))?;
    let rows = engine.program().uses.batch * shape.1;
    let ids = random_ids(config.vocab_size, rows + 1);
    // A whole step runs first, so that every buffer holds realistic values.
    engine.train_batch(&ids[..rows], &ids[1..], (0, rows), step());
    engine.update(&step());
    let rounds = Rounds { warmup: args.warmup, steps: args.steps };
    let kinds = kinds(&engine.program().plan).into_iter();
    let report = Report {
        kernels: kinds.map(|kind| time(&mut engine, kind, rounds)).collect::<Result<_>>()?,
        steps: args.steps,
        memory: Memory::of(&engine),
        setup: Setup::of(&engine),
    };
    if common.json {
        output::json(&report);
        return Ok(());
    }
    output::line(&format!("{}, {}", report.setup.device, report.setup.precision));
    output::line(&table(&report.kernels));
    Ok(())
}

/// Returns the kinds of dispatches of a plan, by kernel and shape.
fn kinds(plan: &Plan) -> Vec<Kind> {
    let mut kinds: BTreeMap<(&str, String), Kind> = BTreeMap::new();
    for (index, dispatch) in plan.dispatches.iter().enumerate() {
        let (name, shape) = (dispatch.kernel.name, shape_of(dispatch));
        let new = Kind { name, shape: shape.clone(), dispatch: index, calls: 0 };
        kinds.entry((name, shape)).or_insert(new).calls += 1;
    }
    kinds.into_values().collect()
}

/// Times the dispatches of one kind.
fn time(engine: &mut Engine, kind: Kind, rounds: Rounds) -> Result<KernelTime> {
    let Kind { name, shape, dispatch: index, calls } = kind;
    let run = |engine: &mut Engine, count: u32| -> Result<()> {
        (0..count).for_each(|_| engine.backend().run(index..index + 1, &step()));
        engine.read_state()?;
        Ok(())
    };
    run(engine, rounds.warmup)?;
    let began = Instant::now();
    run(engine, rounds.steps)?;
    let ms = began.elapsed().as_secs_f64() * 1e3 / f64::from(rounds.steps);
    let dispatch = &engine.program().plan.dispatches[index];
    let per_second = |count: u64| count as f64 / (ms * 1e6);
    let gflops = per_second((dispatch.kernel.flops)(&dispatch.dims));
    Ok(KernelTime { name, shape, calls, ms, gflops, gb_per_s: per_second(moved_bytes(dispatch)) })
}

fn table(kernels: &[KernelTime]) -> String {
    let row = |kernel: &KernelTime| {
        [
            kernel.name.to_owned(),
            kernel.shape.clone(),
            kernel.calls.to_string(),
            format!("{:.4}", kernel.ms),
            format!("{:.3}", kernel.ms * kernel.calls as f64),
            format!("{:.1}", kernel.gflops),
            format!("{:.1}", kernel.gb_per_s),
        ]
    };
    let head = ["kernel", "shape", "calls", "ms", "ms per step", "GFLOP/s", "GB/s"];
    output::table(head, &[0, 1], kernels.iter().map(row).collect())
}

/// Returns the sizes of a dispatch, with their letters; if it has none, the length of its first buffer.
fn shape_of(dispatch: &Dispatch) -> String {
    let Dims { B, T, C, OC, NH, V, S, M, K, N, .. } = dispatch.dims;
    let sizes = [("B", B), ("T", T), ("C", C), ("OC", OC), ("NH", NH), ("V", V), ("S", S)];
    let sizes = sizes.into_iter().chain([("M", M), ("K", K), ("N", N)]);
    let words: Vec<String> =
        sizes.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}")).collect();
    if words.is_empty() { format!("n={}", dispatch.args[0].len) } else { words.join(" ") }
}
