//! `wgpt bench lora`: fine-tuning by low-rank adapters on instructions.

use serde::Serialize;
use wgpt::backend::Device;
use wgpt::backend::gpu::DeviceChoice;
use wgpt::data::IGNORE;
use wgpt::engine::Engine;
use wgpt::finetune::Lora;
use wgpt::model::check_finetune;
use wgpt::{FineTune, Result};

use super::common::{Memory, On, Rounds, Setup, median, prepare, random, step, time, training};
use crate::cli::options::{BatchSize, ModelArgs, PrecisionArgs, RecomputeArgs, check_shape, open};
use crate::cli::{number, output};

const EXAMPLES: &str = "\
Weights are random. The examples are instructions with answers, of which the answers are trained; a token is a byte, and a
sequence is full of examples. tests/clients/bench_lora.py does the same with transformers and PEFT.

Examples:
  wgpt bench lora --size smollm2-135m
  wgpt bench lora --size smollm2-135m --device gpu --batch-sizes 4 --steps 10 --json";

/// Fine-tuning by low-rank adapters (LoRA): whole updates on instructions with answers
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Time N updates
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Make N updates before those
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: u32,
    /// Sequences per update, one benchmark each
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,4")]
    batch_sizes: Vec<usize>,
    /// Tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 512)]
    seq_len: usize,
    /// Rank of the adapters
    #[arg(long, value_name = "N", default_value_t = 8)]
    lora_rank: usize,
    /// Scale the adapters by X / rank
    #[arg(long, value_name = "X", default_value_t = 16.0)]
    lora_alpha: f64,
    /// Adapt these layers
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', default_value = "all-linear")]
    lora_targets: Vec<String>,
    /// Run on these devices: cpu, gpu, gpu:N [default: cpu, and gpu if there is one]
    #[arg(long, value_name = "DEVICE,DEVICE", value_delimiter = ',')]
    device: Vec<DeviceChoice>,
    #[command(flatten)]
    recompute: RecomputeArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Print one JSON list
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// The measurements of one batch size on one device.
#[derive(Serialize)]
struct Report {
    batch_size: usize,
    tokens_per_s: f64,
    step_ms: f64,
    steps: u32,
    trained_parameters: usize,
    #[serde(flatten)]
    memory: Memory,
    #[serde(flatten)]
    setup: Setup,
}

/// Times fine-tuning.
pub fn run(args: &Args) -> Result<()> {
    let config = args.model.config()?;
    let (rank, alpha) = (args.lora_rank, args.lora_alpha);
    let lora = Lora { rank, alpha, targets: args.lora_targets.clone() };
    let finetune = FineTune { lora: Some(lora), ..FineTune::default() };
    check_finetune(&config, &finetune)?;
    let mut reports = vec![];
    for device in devices(&args.device)? {
        for &batch in &args.batch_sizes {
            let shape = check_shape(batch, args.seq_len, &config)?;
            let mut uses = training(shape);
            uses.precision = args.precision.on(&device)?;
            let on = On { config: &config, finetune: &finetune, device: device.clone() };
            let fit = Some((&args.recompute, Some(BatchSize::Of(batch))));
            reports.push(measure(args, &mut prepare(on, uses, fit)?)?);
        }
    }
    if args.json {
        output::json(&reports);
    } else {
        output::line(&table(args, &reports));
    }
    Ok(())
}

/// Returns the devices that were asked for.
fn devices(asked: &[DeviceChoice]) -> Result<Vec<Device>> {
    if !asked.is_empty() {
        return asked.iter().map(|choice| open(*choice)).collect();
    }
    let gpu = open(DeviceChoice::Gpu).ok();
    Ok([Device::Cpu].into_iter().chain(gpu).collect())
}

fn measure(args: &Args, engine: &mut Engine) -> Result<Report> {
    let uses = engine.program().uses;
    let rows = uses.batch * uses.seq;
    // The updates use four batches in turn.
    let (ids, labels) = instructions(engine.program().config.vocab_size, 4 * rows + 1);
    let rounds = Rounds { warmup: args.warmup, steps: args.steps };
    let mut times_ms = time(rounds, |i| {
        let start = i % 4 * rows;
        let (x, y) = (&ids[start..start + rows], &labels[start + 1..start + rows + 1]);
        let count = y.iter().filter(|label| **label != IGNORE).count();
        engine.train_batch(x, y, (0, count), step());
        engine.update(&step());
        engine.read_update().map(drop)
    })?;
    times_ms.sort_by(f64::total_cmp);
    let program = engine.program();
    let trained = program.params.iter().filter(|param| param.is_trained());
    let step_ms = median(&times_ms);
    Ok(Report {
        batch_size: uses.batch,
        tokens_per_s: rows as f64 * 1e3 / step_ms,
        step_ms,
        steps: args.steps,
        trained_parameters: trained.map(|param| param.len()).sum(),
        memory: Memory::of(engine),
        setup: Setup::of(engine),
    })
}

/// Returns ids, and the same as labels, with [`IGNORE`] for those that are no part of an answer: instructions to add numbers,
/// with an input and an answer, a token for each byte.
fn instructions(vocab: usize, count: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut ids, mut labels) = (vec![], vec![]);
    let mut number = random();
    while ids.len() < count {
        let numbers: Vec<u64> = (0..2 + number(6)).map(|_| number(1000)).collect();
        let [listed, added] = [", ", " + "]
            .map(|with| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(with));
        let asked = format!(
            "### Instruction:\nAdd the numbers, and show how.\n\n### Input:\n{listed}\n\n### Response:\n"
        );
        let answer = format!("{added} = {}.\n\n", numbers.iter().sum::<u64>());
        let as_ids =
            |text: &str| text.bytes().map(|b| u32::from(b) % vocab as u32).collect::<Vec<_>>();
        let (asked, answer) = (as_ids(&asked), as_ids(&answer));
        labels.extend(vec![IGNORE; asked.len()]);
        labels.extend(&answer);
        ids.extend(asked.into_iter().chain(answer));
    }
    (ids, labels)
}

fn table(args: &Args, reports: &[Report]) -> String {
    let rows = reports.iter().map(|report| {
        [
            report.setup.device.clone(),
            report.setup.precision.to_owned(),
            report.batch_size.to_string(),
            number::rate(report.tokens_per_s),
            format!("{:.1} ms", report.step_ms),
            number::bytes(report.memory.device_bytes),
        ]
    });
    let head = ["device", "precision", "batch", "tokens/s", "update, median", "buffers"];
    let trained = reports.first().map_or(0, |report| report.trained_parameters);
    let what = format!(
        "{} updates of {} tokens per sequence; {} trained parameters of rank {} adapters\n",
        args.steps,
        args.seq_len,
        number::thousands(trained as u64),
        args.lora_rank
    );
    what + &output::table(head, &[0, 1], rows.collect())
}
