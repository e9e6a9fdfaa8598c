//! Parts that the benchmarks share: the engine, the ids, timing, and the report.

use std::time::Instant;

use serde::Serialize;
use wgpt::backend::Device;
use wgpt::config::{Optimizer, Precision};
use wgpt::engine::Engine;
use wgpt::kernel::Step;
use wgpt::model::{Program, Uses};
use wgpt::profile::{self, peak};
use wgpt::tune::{Effort, tune};
use wgpt::{FineTune, GptConfig, Result};

use crate::cli::options::{
    BatchArgs, BatchSize, DeviceArgs, ModelArgs, PrecisionArgs, RecomputeArgs, open,
};
use crate::cli::profile::{ProfileArgs, table as profile_table};
use crate::cli::progress::Progress;
use crate::cli::{number, output};

/// Which model, where it runs, and how the results are printed.
#[derive(clap::Args)]
pub struct Common {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
}

/// The seed of random weights and ids.
const SEED: u64 = 1337;

impl Common {
    /// Returns an engine for a new model on the device, with every `auto` setting resolved.
    pub fn engine(&self, uses: Uses, batch: Option<&BatchArgs>) -> Result<Engine> {
        let (config, device) = (self.model.config()?, open(self.device.device)?);
        let uses = Uses { precision: self.precision.on(&device)?, ..uses };
        let on = On { config: &config, finetune: &FineTune::default(), device };
        prepare(on, uses, batch.map(|batch| (&batch.recompute, batch.batch_size)))
    }
}

/// A model on a device, and which part of it is trained.
pub struct On<'a> {
    pub config: &'a GptConfig,
    pub finetune: &'a FineTune,
    pub device: Device,
}

/// Returns an engine for a new model, with every `auto` setting of `fit` resolved, and its kernels tuned.
pub fn prepare(
    on: On<'_>,
    mut uses: Uses,
    fit: Option<(&RecomputeArgs, Option<BatchSize>)>,
) -> Result<Engine> {
    let On { config, finetune, device } = on;
    let record = |uses, limits| Program::record_tuning(config, uses, finetune, limits);
    if let Some((recompute, batch)) = fit {
        let fits = |uses| device.fits(&record(uses, device.limits()).plan);
        uses = recompute.fit(uses, finetune, batch, fits);
    }
    let device = match device {
        Device::Gpu(gpu) => {
            let plan = record(uses, gpu.limits()).plan;
            let mut progress = Progress::new();
            let notice = &mut |notice| progress.tuning(&notice);
            let choices = tune(&gpu, &plan, Effort::Missing, notice)?;
            progress.end();
            Device::Gpu(gpu.with_choices(choices))
        }
        Device::Cpu => device,
    };
    let mut engine = Engine::tuning(config, uses, finetune, &device)?;
    engine.initialize(SEED);
    engine.initialize_adapters(SEED);
    Ok(engine)
}

/// Returns what draws numbers below a bound: a linear congruential generator is random enough to defeat caches.
pub fn random() -> impl FnMut(u64) -> u64 {
    let mut state = SEED;
    move |bound| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}

/// Returns random ids.
pub fn random_ids(vocab: usize, count: usize) -> Vec<u32> {
    let mut next = random();
    (0..count).map(|_| next(vocab as u64) as u32).collect()
}

/// Returns the uses of training with AdamW on batches of this shape.
pub fn training((batch, seq): (usize, usize)) -> Uses {
    Uses { batch, seq, training: Some(Optimizer::Adamw), ..Uses::default() }
}

/// Returns the settings of a typical step.
pub fn step() -> Step {
    Step {
        seed: [1, 2],
        learning_rate: 3e-4,
        beta2: 0.95,
        weight_decay: 0.1,
        grad_clip: 1.0,
        ..Step::default()
    }
}

/// The numbers of timed steps and of warm-up steps before them.
#[derive(Clone, Copy)]
pub struct Rounds {
    pub warmup: u32,
    pub steps: u32,
}

/// The result of a benchmark: the times of its steps in milliseconds, sorted, and the profile, if there is one.
pub struct Measured {
    times_ms: Vec<f64>,
    profile: Option<profile::Report>,
}

/// Times steps, and then, if a profile is requested, the kernels of as many more.
pub fn measure(
    engine: &mut Engine,
    profile: &ProfileArgs,
    rounds: Rounds,
    mut step: impl FnMut(&mut Engine, usize) -> Result<()>,
) -> Result<Measured> {
    let mut times_ms = time(rounds, |i| step(engine, i))?;
    times_ms.sort_by(f64::total_cmp);
    if !profile.profile {
        return Ok(Measured { times_ms, profile: None });
    }
    engine.begin_profile();
    (0..rounds.steps as usize).try_for_each(|i| step(engine, i))?;
    let Some(found) = engine.end_profile() else { return Ok(Measured { times_ms, profile: None }) };
    profile.write_trace(&found, &[])?;
    let half = engine.program().uses.precision == Precision::Mixed;
    let peak = peak(engine.device(), half)?;
    let report = found.report(rounds.steps, median(&times_ms), peak);
    Ok(Measured { times_ms, profile: Some(report) })
}

/// Returns the milliseconds of each step, without the warm-up steps.
pub fn time(rounds: Rounds, mut run: impl FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
    let mut times_ms = vec![];
    let Rounds { warmup, steps } = rounds;
    for i in 0..u64::from(warmup) + u64::from(steps) {
        let began = Instant::now();
        run(i as usize)?;
        if i >= u64::from(warmup) {
            times_ms.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times_ms)
}

/// Returns the median of sorted numbers.
pub fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])
}

/// The printed report of a benchmark of steps.
#[derive(Serialize)]
struct Report {
    tokens_per_s: f64,
    step_ms: StepTimes,
    steps: usize,
    parameters: usize,
    #[serde(flatten)]
    memory: Memory,
    #[serde(flatten)]
    setup: Setup,
    profile: Option<profile::Report>,
}

/// The times of a step in milliseconds.
#[derive(Serialize)]
struct StepTimes {
    median: f64,
    min: f64,
    max: f64,
}

/// Memory in bytes.
#[derive(Serialize)]
pub struct Memory {
    peak_host_bytes: Option<u64>,
    pub device_bytes: u64,
}

impl Memory {
    /// Returns the peak memory of this process, and the engine's memory on its device.
    pub fn of(engine: &Engine) -> Memory {
        let device_bytes = engine.program().plan.total_bytes();
        Memory { peak_host_bytes: peak_host_bytes(), device_bytes }
    }
}

/// The device and the settings of a computation.
#[derive(Serialize)]
pub struct Setup {
    pub device: String,
    pub precision: &'static str,
    recompute: &'static str,
}

impl Setup {
    /// Returns the setup of an engine.
    pub fn of(engine: &Engine) -> Setup {
        let uses = &engine.program().uses;
        Setup {
            device: engine.describe(),
            precision: uses.precision.name(),
            recompute: uses.recompute.name(),
        }
    }
}

/// Returns the peak memory of this process, in bytes; `None` if the system does not report it.
fn peak_host_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Prints the measurements of steps of `tokens` tokens each.
pub fn show(common: &Common, engine: &Engine, what: &str, tokens: usize, measured: Measured) {
    let Measured { times_ms, profile } = measured;
    let (n, median) = (times_ms.len(), median(&times_ms));
    let report = Report {
        tokens_per_s: tokens as f64 * 1e3 / median,
        step_ms: StepTimes { median, min: times_ms[0], max: times_ms[n - 1] },
        steps: n,
        parameters: engine.program().parameter_count(),
        memory: Memory::of(engine),
        setup: Setup::of(engine),
        profile,
    };
    if common.json {
        return output::json(&report);
    }
    output::line(&table(what, &report));
    if let Some(profile) = &report.profile {
        output::line(&profile_table(profile));
    }
}

fn table(what: &str, report: &Report) -> String {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let (StepTimes { median, min, max }, memory) = (&report.step_ms, &report.memory);
    let peak = memory.peak_host_bytes.map_or("not known".into(), number::bytes);
    let rows = vec![
        row("device", report.setup.device.clone()),
        row("precision", report.setup.precision.to_owned()),
        row("parameters", number::thousands(report.parameters as u64)),
        row("tokens/s", number::rate(report.tokens_per_s)),
        row("step, median", format!("{median:.2} ms")),
        row("step, min to max", format!("{min:.2} to {max:.2} ms")),
        row("steps", report.steps.to_string()),
        row("buffers", number::bytes(memory.device_bytes)),
        row("peak host memory", peak),
    ];
    output::table([what, ""], &[0], rows)
}
