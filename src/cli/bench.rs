//! `wgpt bench`: how fast training, generation and every kernel are on this machine.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::Subcommand;
use serde_json::{Value, json};
use wgpt::backend::Device;
use wgpt::config::Optimizer;
use wgpt::engine::Engine;
use wgpt::kernel::{Dims, Step};
use wgpt::model::{Program, Uses};
use wgpt::plan::Dispatch;
use wgpt::profile::{Report, moved_bytes, peak};
use wgpt::tune::{Effort, tune};
use wgpt::{GenerateOptions, Result};

use super::options::{BatchArgs, DeviceArgs, ModelArgs, PrecisionArgs, open};
use super::outcome::Outcome;
use super::profile::{self, ProfileArgs};
use super::{number, output};

const EXAMPLES: &str = "\
Examples:
  wgpt bench train --size medium --threads 2
  wgpt bench generate --size gpt2 --json
  wgpt bench kernels --size small --device gpu";

/// Measure the speed of training, generation or single kernels
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Whole training steps: forward, backward, clipping, AdamW; random ids
    #[command(after_help = "Example:\n  wgpt bench train --size small --steps 50 --json")]
    Train {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        batch: BatchArgs,
        #[command(flatten)]
        profile: ProfileArgs,
        /// Steps to time
        #[arg(long, value_name = "N", default_value_t = 20)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        steps: u32,
        /// Steps before those
        #[arg(long, value_name = "N", default_value_t = 3)]
        warmup: u32,
    },
    /// Generation with the cache, greedy, the prompt's time included; a step is one whole continuation
    #[command(
        after_help = "Example:\n  wgpt bench generate --size gpt2 --prompt-tokens 16 --max-tokens 64"
    )]
    Generate {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        profile: ProfileArgs,
        /// Tokens of the prompt
        #[arg(long, value_name = "N", default_value_t = 16)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        prompt_tokens: u32,
        /// New tokens
        #[arg(long, value_name = "N", default_value_t = 64)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        max_tokens: u32,
        /// Continuations to time
        #[arg(long, value_name = "N", default_value_t = 5)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        steps: u32,
        /// Continuations before those
        #[arg(long, value_name = "N", default_value_t = 1)]
        warmup: u32,
    },
    /// Every kernel of a training step by itself
    #[command(after_help = "Example:\n  wgpt bench kernels --size gpt2 --json")]
    Kernels {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        batch: BatchArgs,
        /// Runs of each kernel to time
        #[arg(long, value_name = "N", default_value_t = 20)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        steps: u32,
        /// Runs before those
        #[arg(long, value_name = "N", default_value_t = 2)]
        warmup: u32,
    },
}

#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const SEED: u64 = 1337;

impl Common {
    fn engine(&self, uses: Uses, batch: Option<&BatchArgs>) -> Result<Engine> {
        let (config, device) = (self.model.config()?, open(self.device.device)?);
        let mut uses = Uses { precision: self.precision.on(&device), ..uses };
        if let Some(batch) = batch {
            uses = batch.recompute.fit(uses, batch.batch_size, |uses| {
                device.fits(&Program::record(&config, uses, device.limits()).plan)
            });
        }
        if let Device::Gpu(gpu) = &device {
            let plan = Program::record(&config, uses, gpu.limits()).plan;
            tune(gpu, &plan, Effort::Missing, &mut |notice| output::log(&notice.to_string()))?;
        }
        let mut engine = Engine::new(&config, uses, &device)?;
        engine.initialize(SEED);
        Ok(engine)
    }
}

/// Random ids: a linear congruential generator is random enough to keep a cache from helping.
fn random_ids(vocab: usize, count: usize) -> Vec<u32> {
    let mut state = SEED;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab as u64) as u32
    };
    (0..count).map(|_| next()).collect()
}

/// Runs the benchmark.
///
/// # Errors
///
/// If the sizes do not make a model, or the device cannot hold it.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Train { common, batch, profile, steps, warmup } => {
            bench_train(common, batch, profile, (*warmup, *steps))?;
        }
        Command::Generate { common, profile, prompt_tokens, max_tokens, steps, warmup } => {
            bench_generate(common, profile, [*prompt_tokens, *max_tokens], (*warmup, *steps))?;
        }
        Command::Kernels { common, batch, steps, warmup } => {
            bench_kernels(common, batch, (*warmup, *steps))?;
        }
    }
    Ok(Outcome::Good)
}

fn training(batch: (usize, usize)) -> Uses {
    Uses { batch: batch.0, seq: batch.1, training: Some(Optimizer::Adamw), ..Uses::default() }
}

/// The settings of a step like any other.
fn step() -> Step {
    Step {
        seed: [1, 2],
        learning_rate: 3e-4,
        beta2: 0.95,
        weight_decay: 0.1,
        grad_clip: 1.0,
        ..Step::default()
    }
}

/// Milliseconds of each of `steps` runs, after `warmup` others.
fn time((warmup, steps): (u32, u32), mut run: impl FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
    let mut times_ms = vec![];
    for i in 0..warmup + steps {
        let began = Instant::now();
        run(i as usize)?;
        if i >= warmup {
            times_ms.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times_ms)
}

fn bench_train(
    common: &Common,
    batch: &BatchArgs,
    profile: &ProfileArgs,
    rounds: (u32, u32),
) -> Result<()> {
    let config = common.model.config()?;
    let shape = batch.shape(&common.model, &config)?;
    let mut engine = common.engine(training(shape), Some(batch))?;
    let shape = (engine.program().uses.batch, shape.1);
    let rows = shape.0 * shape.1;
    // Four batches in turn.
    let ids = random_ids(config.vocab_size, 4 * rows + 1);
    let one = |engine: &mut Engine, i: usize| {
        let start = i % 4 * rows;
        let (x, y) = (&ids[start..start + rows], &ids[start + 1..start + rows + 1]);
        engine.train_batch(x, y, (0, rows), step());
        engine.update(&step());
        engine.read_update().map(drop)
    };
    let measured = measure(&mut engine, profile, rounds, one)?;
    let what = format!("training on {} x {} tokens", shape.0, shape.1);
    report(common, &engine, &what, rows, measured);
    Ok(())
}

fn bench_generate(
    common: &Common,
    profile: &ProfileArgs,
    [prompt, new]: [u32; 2],
    rounds: (u32, u32),
) -> Result<()> {
    let mut engine = common.engine(Uses { generation: true, ..Uses::default() }, None)?;
    let ids = random_ids(engine.program().config.vocab_size, prompt as usize);
    let options = GenerateOptions {
        max_tokens: new as usize,
        temperature: 0.0,
        ..GenerateOptions::default()
    };
    let one = |engine: &mut Engine, _| {
        wgpt::generate::generate(engine, &ids, &options, &[], |_| Ok(true)).map(drop)
    };
    let measured = measure(&mut engine, profile, rounds, one)?;
    let what = format!("generation of {new} tokens after {prompt}");
    report(common, &engine, &what, new as usize, measured);
    Ok(())
}

/// What a benchmark found: the times of its steps in milliseconds, sorted, and where they went.
struct Measured {
    times_ms: Vec<f64>,
    profile: Option<Report>,
}

/// Times steps, and then the kernels of as many more, where that is wanted.
fn measure(
    engine: &mut Engine,
    profile: &ProfileArgs,
    rounds: (u32, u32),
    mut step: impl FnMut(&mut Engine, usize) -> Result<()>,
) -> Result<Measured> {
    let mut times_ms = time(rounds, |i| step(engine, i))?;
    times_ms.sort_by(f64::total_cmp);
    if !profile.profile {
        return Ok(Measured { times_ms, profile: None });
    }
    engine.begin_profile();
    (0..rounds.1 as usize).try_for_each(|i| step(engine, i))?;
    let Some(found) = engine.end_profile() else { return Ok(Measured { times_ms, profile: None }) };
    profile.write_trace(&found)?;
    let peak = peak(engine.device())?;
    let report = found.report(rounds.1, median(&times_ms), peak);
    Ok(Measured { times_ms, profile: Some(report) })
}

/// The median of what is sorted.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])
}

fn report(common: &Common, engine: &Engine, what: &str, tokens: usize, measured: Measured) {
    let Measured { times_ms, profile } = measured;
    let n = times_ms.len();
    let (least, most, median) = (times_ms[0], times_ms[n - 1], median(&times_ms));
    let tokens_per_s = tokens as f64 * 1e3 / median;
    let device_bytes = engine.program().plan.total_bytes();
    let peak_host_bytes = peak_host_bytes();
    if common.json {
        output::json(&json!({
            "tokens_per_s": tokens_per_s,
            "step_ms": { "median": median, "min": least, "max": most },
            "steps": n,
            "parameters": engine.program().parameter_count(),
            "peak_host_bytes": peak_host_bytes,
            "device_bytes": device_bytes,
            "device": engine.describe(),
            "precision": engine.program().uses.precision.name(),
            "recompute": engine.program().uses.recompute.name(),
            "profile": profile,
        }));
        return;
    }
    let row = |name: &str, value: String| [name.to_owned(), value];
    let rows = vec![
        row("device", engine.describe()),
        row("precision", engine.program().uses.precision.name().to_owned()),
        row("parameters", number::thousands(engine.program().parameter_count() as u64)),
        row("tokens/s", number::rate(tokens_per_s)),
        row("step, median", format!("{median:.2} ms")),
        row("step, min to max", format!("{least:.2} to {most:.2} ms")),
        row("steps", n.to_string()),
        row("buffers", number::bytes(device_bytes)),
        row("peak host memory", peak_host_bytes.map_or("not known".into(), number::bytes)),
    ];
    output::line(&output::table([what, ""], &[0], rows));
    if let Some(report) = profile {
        output::line(&profile::table(&report));
    }
}

/// The most memory that this process has had, in bytes; `None` where the system does not say.
fn peak_host_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// One kind of dispatch: kernel and shape, where one is, and how many there are in a step.
struct Kind {
    dispatch: usize,
    calls: usize,
}

fn bench_kernels(common: &Common, batch: &BatchArgs, rounds: (u32, u32)) -> Result<()> {
    let config = common.model.config()?;
    let shape = batch.shape(&common.model, &config)?;
    let mut engine = common.engine(training(shape), Some(batch))?;
    let rows = engine.program().uses.batch * shape.1;
    let ids = random_ids(config.vocab_size, rows + 1);
    // A whole step first, so that every buffer holds what it would hold.
    engine.train_batch(&ids[..rows], &ids[1..], (0, rows), step());
    engine.update(&step());
    let plan = engine.program().plan.clone();
    let mut kinds: BTreeMap<(&str, String), Kind> = BTreeMap::new();
    for (index, dispatch) in plan.dispatches.iter().enumerate() {
        let key = (dispatch.kernel.name, shape_of(dispatch));
        kinds.entry(key).or_insert(Kind { dispatch: index, calls: 0 }).calls += 1;
    }
    let mut results: Vec<(Value, [String; 7])> = vec![];
    for ((name, shape), kind) in kinds {
        let (warmup, steps) = rounds;
        let index = kind.dispatch;
        let run = |engine: &mut Engine, count: u32| -> Result<()> {
            (0..count).for_each(|_| engine.backend().run(index..index + 1, &step()));
            engine.read_state()?;
            Ok(())
        };
        run(&mut engine, warmup)?;
        let began = Instant::now();
        run(&mut engine, steps)?;
        let ms = began.elapsed().as_secs_f64() * 1e3 / f64::from(steps);
        let dispatch = &plan.dispatches[index];
        let per_second = |count: u64| count as f64 / (ms * 1e6);
        let gflops = per_second((dispatch.kernel.flops)(&dispatch.dims));
        let gb_per_s = per_second(moved_bytes(dispatch));
        results.push((
            json!({
                "name": name, "shape": shape, "calls": kind.calls,
                "ms": ms, "gflops": gflops, "gb_per_s": gb_per_s,
            }),
            [
                name.to_owned(),
                shape.clone(),
                kind.calls.to_string(),
                format!("{ms:.4}"),
                format!("{:.3}", ms * kind.calls as f64),
                format!("{gflops:.1}"),
                format!("{gb_per_s:.1}"),
            ],
        ));
    }
    if common.json {
        let kernels: Vec<Value> = results.into_iter().map(|(value, _)| value).collect();
        output::json(&json!({
            "kernels": kernels,
            "steps": rounds.1,
            "peak_host_bytes": peak_host_bytes(),
            "device_bytes": plan.total_bytes(),
            "device": engine.describe(),
            "precision": engine.program().uses.precision.name(),
            "recompute": engine.program().uses.recompute.name(),
        }));
        return Ok(());
    }
    let rows = results.into_iter().map(|(_, row)| row).collect();
    let head = ["kernel", "shape", "calls", "ms", "ms a step", "GFLOP/s", "GB/s"];
    output::line(&format!("{}, {}", engine.describe(), engine.program().uses.precision.name()));
    output::line(&output::table(head, &[0, 1], rows));
    Ok(())
}

/// The sizes that a dispatch has, in their letters; of one without, the length of its first buffer.
fn shape_of(dispatch: &Dispatch) -> String {
    let Dims { B, T, C, OC, NH, V, S, M, K, N, .. } = dispatch.dims;
    let sizes = [("B", B), ("T", T), ("C", C), ("OC", OC), ("NH", NH), ("V", V), ("S", S)];
    let sizes = sizes.into_iter().chain([("M", M), ("K", K), ("N", N)]);
    let words: Vec<String> =
        sizes.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}")).collect();
    if words.is_empty() { format!("n={}", dispatch.args[0].len) } else { words.join(" ") }
}
