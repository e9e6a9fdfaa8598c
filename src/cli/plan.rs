//! `wgpt plan`: what a run would take, exactly, before anything is allocated.

use serde_json::{Map, Value, json};
use wgpt::backend::{Device, cpu};
use wgpt::config::Optimizer;
use wgpt::model::{Program, Uses, check_finetune};
use wgpt::plan::{Limits, Plan, Role};
use wgpt::{Result, TrainConfig};

use super::options::{
    BatchSize, DeviceArgs, FineTuneArgs, ModelArgs, NamedLimits, PrecisionArgs, RecomputeArgs,
    check_shape, device_name, with_default,
};
use super::outcome::Outcome;
use super::{number, output};

const EXAMPLES: &str = "\
Examples:
  wgpt plan --size gpt2 --batch-size 4 --seq-len 512
  wgpt plan --size gpt2 --freeze 'h.[0-7].*'             what freezing the lower blocks saves
  wgpt plan --size gpt2 --limits webgpu                  on a device with WebGPU's default limits
  wgpt plan --layers 1 --embd 16 --heads 2 --dispatches  every kernel, in order, with its buffers
  wgpt plan --size gpt2-xl --generation --json";

/// Show what training takes: parameters, exact bytes by role, and whether the device allows it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[arg(long, value_name = "N", help = with_default("Sequences a batch, or auto: as many as fit", TrainConfig::default().batch_size))]
    batch_size: Option<BatchSize>,
    /// Tokens a sequence [default: the model's context]
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    /// How parameters are updated: adamw, adam or sgd
    #[arg(long, value_name = "OPTIMIZER", default_value = "adamw", hide_possible_values = true)]
    optimizer: Optimizer,
    /// Plan for training with dropout
    #[arg(long)]
    dropout: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    recompute: RecomputeArgs,
    #[command(flatten)]
    finetune: FineTuneArgs,
    /// Plan for generation alone, without training
    #[arg(long, conflicts_with_all = ["batch_size", "seq_len", "optimizer", "dropout", "recompute", "freeze", "train_only", "lora_rank"])]
    generation: bool,
    /// List every dispatch of every phase
    #[arg(long)]
    dispatches: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Plan within limits that go by a name instead of a device's: webgpu, what every device has
    #[arg(long, value_name = "LIMITS", conflicts_with = "device", hide_possible_values = true)]
    limits: Option<NamedLimits>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Plans.
///
/// # Errors
///
/// If the sizes do not make a model, or there is no such device.
pub fn run(args: &Args) -> Result<Outcome> {
    let config = args.model.config()?;
    let train = TrainConfig::for_model(&config);
    let batch = args.batch_size.map_or(train.batch_size, |size| size.or(train.batch_size));
    let seq = args.seq_len.or(train.seq_len).unwrap_or(config.n_positions);
    let (batch, seq) = check_shape(batch, seq, &config)?;
    let finetune = args.finetune.config();
    check_finetune(&config, &finetune)?;
    let (limits, precision, device) = match args.limits {
        Some(NamedLimits::Webgpu) => (Limits::WEBGPU, args.precision.anywhere(), None),
        None => {
            let device = Device::open(args.device.device)?;
            (device.limits(), args.precision.on(&device), Some(device))
        }
    };
    let fits = |plan: &Plan| match &device {
        Some(device) => device.fits(plan),
        None => plan.exceeds(limits).is_none(),
    };
    // What `wgpt train` records: it can generate, too, in training's memory.
    let training = Uses {
        batch,
        seq,
        training: Some(args.optimizer),
        dropout: args.dropout,
        generation: true,
        precision,
        ..Uses::default()
    };
    let uses = match args.generation {
        true => Uses { generation: true, precision, ..Uses::default() },
        false => args.recompute.fit(training, args.batch_size, |uses| {
            fits(&Program::record_tuning(&config, uses, &finetune, limits).plan)
        }),
    };
    let device = device.as_ref().map_or("WebGPU's default limits".to_owned(), device_name);
    let program = Program::record_tuning(&config, uses, &finetune, limits);
    let exceeds = program.plan.exceeds(limits);
    let available = (limits == Limits::NONE).then(cpu::available_bytes).flatten();
    if args.json {
        let bytes: Map<String, Value> = Role::ALL
            .iter()
            .map(|r| (r.name().to_owned(), program.plan.bytes(*r).into()))
            .collect();
        let dispatches = args.dispatches.then(|| program.plan.to_string());
        output::json(&json!({
            "model": config,
            "batch_size": uses.batch,
            "seq_len": uses.seq,
            "precision": uses.precision.name(),
            "recompute": uses.recompute.name(),
            "parameters": program.parameter_count(),
            "trained": program.trained_count(),
            "bytes": bytes,
            "total_bytes": program.plan.total_bytes(),
            "dispatch_count": program.plan.dispatches.len(),
            "device": device,
            "limits": (limits != Limits::NONE).then(|| json!({
                "binding_bytes": limits.binding_bytes, "buffer_bytes": limits.buffer_bytes,
            })),
            "available_bytes": available,
            "fits": exceeds.is_none() && available.is_none_or(|a| program.plan.total_bytes() <= a),
            "exceeds": exceeds,
            "dispatches": dispatches.map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()),
        }));
        return Ok(Outcome::Good);
    }
    show(&program, &device, exceeds, available);
    if args.dispatches {
        output::text(&format!("\n{}", program.plan));
    }
    Ok(Outcome::Good)
}

fn show(program: &Program, device: &str, exceeds: Option<String>, available: Option<u64>) {
    let (config, uses, plan) = (&program.config, &program.uses, &program.plan);
    output::line(&format!(
        "{} parameters: {} layers, {} heads, {} wide, vocabulary {}, context {}",
        number::thousands(program.parameter_count() as u64),
        config.n_layer,
        config.n_head,
        config.n_embd,
        config.vocab_size,
        config.n_positions
    ));
    let trained = program.trained_count();
    if uses.training.is_some() && trained < program.parameter_count() {
        output::line(&format!("{} of them are trained", number::thousands(trained as u64)));
    }
    let (precision, recompute) = (uses.precision.name(), uses.recompute.name());
    output::line(&match uses.batch {
        0 => format!("for generation alone, in {precision}"),
        batch => format!(
            "for training on {batch} x {} tokens, in {precision}, recompute {recompute}",
            uses.seq
        ),
    });
    let row =
        |name: &str, bytes: u64| [name.to_owned(), number::thousands(bytes), number::bytes(bytes)];
    let mut rows: Vec<_> =
        Role::ALL.iter().map(|role| row(role.name(), plan.bytes(*role))).collect();
    rows.push(row("total", plan.total_bytes()));
    output::line(&output::table(["memory", "bytes", ""], &[0], rows));
    let total = plan.total_bytes();
    output::line(&match (exceeds, available) {
        (Some(what), _) => format!("{device}: does not fit: {what}"),
        (None, Some(free)) if free < total => {
            format!("{device}: does not fit: {} are available", number::bytes(free))
        }
        (None, Some(free)) => format!("{device}: fits, {} are available", number::bytes(free)),
        (None, None) => format!("{device}: every buffer and binding is within the limits"),
    });
}
