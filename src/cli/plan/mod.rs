//! `wgpt plan`: shows the exact needs of a run, before anything is allocated.

mod forecast;
mod measure;

use serde::Serialize;
use serde_json::{Map, Value};
use wgpt::arch::Family;
use wgpt::backend::{Device, cpu};
use wgpt::config::{Optimizer, WeightFormat};
use wgpt::dist::{LinkSpeed, Outer};
use wgpt::model::{Program, Uses, check_finetune, schema};
use wgpt::params::ParamInfo;
use wgpt::plan::{Limits, Plan, Role};
use wgpt::{GptConfig, Result, TrainConfig};

use crate::cli::options::{
    BatchSize, DeviceArgs, FineTuneArgs, ModelArgs, NamedLimits, PrecisionArgs, RecomputeArgs,
    SumArgs, check_shape, check_weights, device_name, with_default,
};
use crate::cli::outcome::Outcome;
use crate::cli::{number, output};

const EXAMPLES: &str = "\
Examples:
  wgpt plan --size gpt2 --batch-size 4 --seq-len 512
  wgpt plan --size qwen3-0.6b --context 8192 --batch-size 1
  wgpt plan --size gpt2 --freeze 'h.[0-7].*'             what freezing the lower blocks saves
  wgpt plan --size gpt2 --ranks 4 --grad-accum 16        what one of four ranks takes
  wgpt plan --size gpt2 --ranks 4 --grad-accum 16 --rank-batch auto   the same with the share that needs the most
  wgpt plan --size gpt2 --ranks 4 --sync-every 50        the same with an outer step now and then
  wgpt plan --size gpt2-xl --ranks 4 --pipeline 4        what each of four stages takes
  wgpt plan --size gpt2 --ranks 4 --link 10Gbit          how long an update takes, from a measurement
  wgpt plan --size gpt2 --limits webgpu                  on a device with WebGPU's default limits
  wgpt plan --layers 1 --embd 16 --heads 2 --dispatches  every kernel, in order, with its buffers
  wgpt plan --size gpt2 --generation --weights q8_0 --device cpu   the bytes of matrices in blocks
  wgpt plan --size gpt2-xl --generation --json";

/// Seconds until the first byte arrives over a link between machines: that of ethernet.
const LATENCY_S: f64 = 1e-4;

/// Show what training needs: parameters, exact bytes by role, and whether the device allows it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[arg(long, value_name = "N", help = with_default("Sequences per batch, or auto: as many as fit", TrainConfig::default().batch_size))]
    batch_size: Option<BatchSize>,
    /// Tokens per sequence [default: the model's context]
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    /// Update parameters by adamw, adam or sgd
    #[arg(long, value_name = "OPTIMIZER", default_value = "adamw", hide_possible_values = true)]
    optimizer: Optimizer,
    #[command(flatten)]
    sum: SumArgs,
    /// Plan for one of N ranks that train together
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    ranks: u32,
    /// Measure an update on this device, and forecast what it takes on --ranks over a link of this rate, such as 10Gbit
    #[arg(long, value_name = "RATE", value_parser = number::parse_link, conflicts_with_all = ["limits", "pipeline", "sync_every"])]
    link: Option<f64>,
    /// How many of the ranks are on this machine: so many are measured at once [default: all on a CPU, 1 on a GPU]
    #[arg(long, value_name = "N", requires = "link")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    ranks_here: Option<u32>,
    /// Plan for training with dropout
    #[arg(long)]
    dropout: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    recompute: RecomputeArgs,
    /// Plan for generation only, without training
    #[arg(long, conflicts_with_all = ["batch_size", "seq_len", "optimizer", "dropout", "recompute", "grad_accum", "sum", "rank_batch", "sync_every", "ranks", "link", "zero", "pipeline", "freeze", "train_only", "lora_rank"])]
    generation: bool,
    /// With --generation, store matrices in f32, f16, bf16 or q8_0, as wgpt generate --weights does
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "f32",
        hide_possible_values = true,
        requires = "generation"
    )]
    weights: WeightFormat,
    /// List every dispatch of every phase
    #[arg(long)]
    dispatches: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Plan within these limits instead of a device's: webgpu, which every device has
    #[arg(long, value_name = "LIMITS", conflicts_with = "device", hide_possible_values = true)]
    limits: Option<NamedLimits>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    finetune: FineTuneArgs,
}

/// The printed report.
#[derive(Serialize)]
struct Report {
    model: GptConfig,
    batch_size: usize,
    seq_len: usize,
    precision: &'static str,
    recompute: &'static str,
    parameters: usize,
    trained: usize,
    /// Bytes of the buffers, by role.
    bytes: Map<String, Value>,
    total_bytes: u64,
    /// What a rank keeps for the outer step in the host's memory, beside the buffers.
    #[serde(skip_serializing_if = "Option::is_none")]
    outer_bytes: Option<u64>,
    dispatch_count: usize,
    device: String,
    /// The limits; `None` for a device without limits.
    limits: Option<DeviceLimits>,
    /// The machine's free memory for a plan on the CPU, if the system reports it.
    available_bytes: Option<u64>,
    fits: bool,
    /// Whether a rank may take less, because the ranks' shares are measured when the run starts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_most: bool,
    /// The limit that the plan exceeds.
    exceeds: Option<String>,
    /// The stages of a pipeline, this plan's among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<StagePlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast: Option<forecast::Report>,
    dispatches: Option<Vec<String>>,
}

/// What one stage of a pipeline takes.
#[derive(Serialize)]
struct StagePlan {
    layers: [usize; 2],
    parameters: usize,
    /// Micro-batches between their forward and their backward pass.
    in_flight: usize,
    total_bytes: u64,
    fits: bool,
}

/// The largest binding and buffer of a device, in bytes.
#[derive(Serialize)]
struct DeviceLimits {
    binding_bytes: u64,
    buffer_bytes: u64,
}

/// Plans the run.
///
/// # Errors
///
/// If the sizes do not form a model, or there is no such device.
pub fn run(args: &Args, threads: Option<usize>) -> Result<Outcome> {
    let config = args.model.config()?;
    let (train, finetune) = (args.training(&config)?, args.finetune.config(&config));
    check_finetune(&config, &finetune)?;
    let training = Uses::training(&train, &config);
    let (limits, precision, device) = match args.limits {
        Some(NamedLimits::Webgpu) => (Limits::WEBGPU, args.precision.anywhere(), None),
        None => {
            let device = Device::open(args.device.device)?;
            (device.limits(), args.precision.on(&device)?, Some(device))
        }
    };
    let record = |uses| Program::record_tuning(&config, uses, &finetune, limits);
    let fits = |plan: &Plan| match &device {
        Some(device) => device.fits(plan),
        None => plan.exceeds(limits).is_none(),
    };
    let uses = match args.generation {
        true => {
            check_weights(args.weights, precision, device.as_ref())?;
            Uses { generation: Some(1), precision, weights: args.weights, ..Uses::default() }
        }
        false => {
            let training = Uses { precision, ..training };
            let fits = |uses| fits(&record(uses).plan);
            args.recompute.fit(training, &finetune, args.batch_size, fits)
        }
    };
    let program = record(uses);
    let stage = |rank| {
        let staged = Uses::training(&TrainConfig { rank, ..train.clone() }, &config);
        let program = record(Uses { stage: staged.stage, in_flight: staged.in_flight, ..uses });
        StagePlan::of(&program, fits(&program.plan))
    };
    let stages = match train.pipeline {
        1 => vec![],
        _ => (0..train.ranks).step_by(train.grid().replicas()).map(stage).collect(),
    };
    let forecast = match (args.link, &device) {
        (Some(bytes_per_s), Some(device)) => {
            let link = LinkSpeed { bytes_per_s, latency_s: LATENCY_S };
            let here = forecast::here(&train, args.ranks_here, threads, device)?;
            Some(forecast::of(&program, &train, device, here, link)?)
        }
        _ => None,
    };
    let outer_bytes = || Outer::bytes(program.trained_count(), train.ranks);
    let outer_bytes = train.local.is_some().then(outer_bytes);
    let device = device.as_ref().map_or("WebGPU's default limits".to_owned(), device_name);
    let report = Report::new(&program, device, limits, args.dispatches);
    let at_most = train.is_unmeasured() && !args.generation;
    let report = Report { stages, forecast, outer_bytes, at_most, ..report };
    if args.json {
        output::json(&report);
        return Ok(Outcome::Good);
    }
    show(&report);
    if args.dispatches {
        output::text(&format!("\n{}", program.plan));
    }
    Ok(Outcome::Good)
}

impl Args {
    /// Returns the settings that `wgpt train` would have.
    fn training(&self, config: &GptConfig) -> Result<TrainConfig> {
        let train = TrainConfig::for_model(config);
        let batch = self.batch_size.map_or(train.batch_size, |size| size.or(train.batch_size));
        let seq = self.seq_len.or(train.seq_len).unwrap_or(config.n_positions);
        let (batch_size, seq) = check_shape(batch, seq, config)?;
        let ranks = self.ranks as usize;
        let train = TrainConfig {
            batch_size,
            seq_len: Some(seq),
            optimizer: self.optimizer,
            dropout: if self.dropout { 0.1 } else { 0.0 },
            // They need no memory, whatever --sync-every is.
            eval_every: 0,
            save_every: 0,
            ..self.sum.of(ranks, train)
        };
        train.validate(config)?;
        Ok(train)
    }
}

impl Report {
    fn new(program: &Program, device: String, limits: Limits, dispatches: bool) -> Report {
        let (plan, uses) = (&program.plan, &program.uses);
        let all = schema(&program.config, &program.finetune).parameters;
        let is_trained = |info: &&ParamInfo| {
            uses.training.is_some() && program.finetune.trains(&info.name, info.role)
        };
        let trained = all.iter().filter(is_trained);
        let total_bytes = plan.total_bytes();
        let exceeds = plan.exceeds(limits);
        let available_bytes = (limits == Limits::CPU).then(cpu::available_bytes).flatten();
        let bytes = Role::ALL.iter().map(|r| (r.name().to_owned(), plan.bytes(*r).into()));
        let Limits { binding_bytes, buffer_bytes, .. } = limits;
        Report {
            model: program.config.clone(),
            batch_size: uses.batch,
            seq_len: uses.seq,
            precision: uses.precision.name(),
            recompute: uses.recompute.name(),
            parameters: all.iter().map(ParamInfo::len).sum(),
            trained: trained.map(ParamInfo::len).sum(),
            bytes: bytes.collect(),
            total_bytes,
            outer_bytes: None,
            dispatch_count: plan.dispatches.len(),
            device,
            limits: (limits != Limits::CPU).then_some(DeviceLimits { binding_bytes, buffer_bytes }),
            available_bytes,
            fits: exceeds.is_none() && available_bytes.is_none_or(|free| total_bytes <= free),
            at_most: false,
            exceeds,
            stages: vec![],
            forecast: None,
            dispatches: dispatches.then(|| plan.to_string().lines().map(str::to_owned).collect()),
        }
    }
}

impl StagePlan {
    fn of(program: &Program, fits: bool) -> StagePlan {
        let layers = program.uses.stage.layers(program.config.n_layer);
        StagePlan {
            layers: [layers.start, layers.end - 1],
            parameters: program.parameter_count(),
            in_flight: program.uses.in_flight,
            total_bytes: program.plan.total_bytes(),
            fits,
        }
    }
}

/// Returns the table of the stages.
fn stages(report: &Report) -> String {
    let row = |(i, stage): (usize, &StagePlan)| {
        [
            format!("stage {i}"),
            format!("{} to {}", stage.layers[0], stage.layers[1]),
            number::thousands(stage.parameters as u64),
            stage.in_flight.to_string(),
            number::bytes(stage.total_bytes),
            if stage.fits { "fits".to_owned() } else { "does not fit".to_owned() },
        ]
    };
    let rows = report.stages.iter().enumerate().map(row).collect();
    output::table(["pipeline", "layers", "parameters", "in flight", "memory", ""], &[0, 5], rows)
}

/// Prints the report as text.
fn show(report: &Report) {
    let model = &report.model;
    output::line(&format!(
        "{} parameters: {}, {} layers, {} heads, {} wide, vocabulary {}, context {}",
        number::thousands(report.parameters as u64),
        Family::of(model).title,
        model.n_layer,
        model.n_head,
        model.n_embd,
        model.vocab_size,
        model.n_positions
    ));
    let Report { batch_size, seq_len, precision, recompute, .. } = report;
    if *batch_size > 0 && report.trained < report.parameters {
        output::line(&format!("{} of them are trained", number::thousands(report.trained as u64)));
    }
    output::line(&match batch_size {
        0 => format!("for generation alone, in {precision}"),
        _ => format!(
            "for training on {batch_size} x {seq_len} tokens, in {precision}, recompute {recompute}"
        ),
    });
    output::line(&table(report));
    if report.at_most {
        output::line(
            "the ranks' shares are measured when the run starts: this is what a rank takes with the share that needs the most",
        );
    }
    if let Some(bytes) = report.outer_bytes {
        let bytes = number::bytes(bytes);
        output::line(&format!("and {bytes} of the host's memory for the outer step"));
    }
    if !report.stages.is_empty() {
        output::line(&stages(report));
    }
    if let Some(report) = &report.forecast {
        forecast::show(report);
    }
    let available = report.available_bytes.map(number::bytes);
    let verdict = match (&report.exceeds, available) {
        (Some(what), _) => format!("does not fit: {what}"),
        (None, Some(free)) if !report.fits => format!("does not fit: {free} are available"),
        (None, Some(free)) => format!("fits, {free} are available"),
        (None, None) => "every buffer and binding is within the limits".to_owned(),
    };
    output::line(&format!("{}: {verdict}", report.device));
}

/// Returns the table of the bytes of each role, and of their sum.
fn table(report: &Report) -> String {
    let row =
        |name: &str, bytes: u64| [name.to_owned(), number::thousands(bytes), number::bytes(bytes)];
    let roles = report.bytes.iter();
    let mut rows: Vec<_> =
        roles.map(|(name, bytes)| row(name, bytes.as_u64().unwrap_or_default())).collect();
    rows.push(row("total", report.total_bytes));
    output::table(["memory", "bytes", ""], &[0], rows)
}
