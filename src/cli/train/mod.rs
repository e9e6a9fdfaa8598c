//! `wgpt train`: trains a model, shows its progress, and reports where it is and what to do next.

mod run;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ArgMatches;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::parser::ValueSource;
use wgpt::backend::Device;
use wgpt::chat::Long;
use wgpt::checkpoint;
use wgpt::config::{Local, Optimizer};
use wgpt::fit::Programs;
use wgpt::model::{Uses, check_finetune};
use wgpt::train::{RunSettings, TokenizerChoice};
use wgpt::{Error, GptConfig, Result, Tokenizer, TrainConfig};

use super::options::{
    BatchSize, DeviceArgs, FineTuneArgs, ModelArgs, PrecisionArgs, RecomputeArgs, SumArgs,
    ValTokens, find_model, resolve,
};
use super::profile::ProfileArgs;
use super::{number, ranks};

pub use run::run;

const EXAMPLES: &str = "\
Examples:
  wgpt train                                             little stories, a small model
  wgpt train --data book.txt notes/ --size medium        files and folders of text
  wgpt train --data book.txt --arch llama --kv-heads 2   a small model of another family
  wgpt train --data ids.bin --size smollm2-135m --recompute auto
  wgpt train --data shakespeare --tokenizer bytes --max-iters 2000 --seq-len 64 --batch-size 12
  wgpt train --config run.toml --lr 5e-4                 options from a file, one of them changed
  mpirun -n 2 wgpt train --grad-accum 8 --rank-batch auto       two devices, each with as much as it can do
  wgpt train --resume runs/stories-small-20260101-120000 continue after Ctrl-C or a crash
  wgpt train --init runs/NAME --data more.txt --lr 1e-4         start from a trained model
  wgpt train --init gpt2 --data my.txt --lr 3e-5 --freeze 'w?e.*' 'h.[0-7].*'
  wgpt train --init gpt2 --data my.txt --lr 3e-4 --lora-rank 8 --lora-targets c_attn,c_proj
  wgpt train --init runs/NAME --data chats.jsonl --lr 1e-4 --patience 3     conversations; ends when it gets no better
  wgpt train --resume runs/NAME --max-iters 6000         make a run longer

A file of options has one line per option, by its long name: batch-size = 8. Ctrl-C finishes the step and saves.

Encoded data are kept for later runs under tokens/ in the cache folder (WGPT_CACHE, or the system's folder for caches), which may \
be removed at any time. A run's folder holds a copy of at most 64 MiB, or a reference, tokens.json, if the data are larger.";

/// The options that say what a new model is.
const MODEL_OPTIONS: [&str; 14] = [
    "arch",
    "size",
    "layers",
    "heads",
    "kv_heads",
    "head_size",
    "embd",
    "ffn",
    "vocab",
    "context",
    "rope_theta",
    "window",
    "norm_eps",
    "output_head",
];

/// Train a model on text; writes a folder with the model, its checkpoints and its metrics
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Train on stories, shakespeare, tinystories, or files and folders of text, of JSON with a "text" per object, or of token ids:
    /// .bin files of `wgpt tokenizer encode`, nanoGPT or llm.c, which are joined to one row; or on conversations: JSON lines with
    /// messages, with prompt and completion, or with conversations [default: stories]
    #[arg(long, value_name = "DATA", num_args = 1..)]
    data: Vec<String>,
    /// Validate on this instead of the last tenth of --data
    #[arg(long, value_name = "DATA", num_args = 1..)]
    val_data: Vec<String>,
    /// What to do with a conversation that is longer than the context: cut (after the last whole turn that fits), or drop [default: cut]
    #[arg(long, value_name = "HOW")]
    long: Option<Long>,
    /// Use this tokenizer: train (one is trained, with the vocabulary of the size), bytes, or a folder that has one [default: train]
    #[arg(long, value_name = "TOKENIZER", value_parser = PathBufValueParser::new().map(TokenizerChoice::from))]
    tokenizer: Option<TokenizerChoice>,
    /// Read options from a TOML file; the command line takes precedence
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the run to this new folder [default: runs/DATA-SIZE-DATE-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue a run, with all its settings
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Slow the exchange between ranks down to a link of this rate, such as 100Mbit, to see what it costs
    #[arg(long, value_name = "RATE", value_parser = crate::cli::number::parse_link, hide = true)]
    throttle: Option<f64>,
    /// Refused: it is an option of generation
    #[arg(long = "weights", value_name = "FORMAT", value_parser = refuse_weights, hide = true)]
    _weights: Option<Infallible>,
    /// Start from a model and keep its sizes: a folder, a run, a .safetensors or .gguf file, or a name on Hugging Face's hub
    #[arg(long, value_name = "MODEL")]
    #[arg(conflicts_with_all = MODEL_OPTIONS)]
    init: Option<PathBuf>,
    /// Print one JSON object at the end instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    recompute: RecomputeArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    steps: StepArgs,
    #[command(flatten)]
    finetune: FineTuneArgs,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Says why training takes no format of matrices.
fn refuse_weights(_: &str) -> std::result::Result<Infallible, String> {
    let why = "training updates matrices in f32, and so keeps them; --precision mixed multiplies by halves";
    Err(why.to_owned())
}

/// The fields of [`TrainConfig`] as options.
#[derive(clap::Args)]
#[command(next_help_heading = "Training")]
struct StepArgs {
    /// Make N updates; with --resume: lengthen the run to N [default: 3000]
    #[arg(long, value_name = "N")]
    max_iters: Option<usize>,
    /// Sequences per batch, or auto: as many as fit
    #[arg(long, value_name = "N", default_value_t = BatchSize::Of(TrainConfig::default().batch_size))]
    batch_size: BatchSize,
    /// Tokens per sequence [default: the model's context]
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    #[command(flatten)]
    sum: SumArgs,
    /// Rate of the outer step of --sync-every [default: 0.7]
    #[arg(long, value_name = "X", requires = "sync_every")]
    outer_rate: Option<f64>,
    /// Nesterov momentum of the outer step of --sync-every [default: 0.9]
    #[arg(long, value_name = "X", requires = "sync_every")]
    outer_momentum: Option<f64>,
    /// Highest learning rate; with --init about 3e-5, with --lora-rank about 3e-4 [default: 0.4 / the width, 6e-4 for gpt2]
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// Lowest learning rate, at the end [default: a tenth of --lr]
    #[arg(long, value_name = "X")]
    min_lr: Option<f64>,
    /// Updates of linear warm-up [default: a twentieth of --max-iters]
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,
    /// Weight decay of the matrices
    #[arg(long, value_name = "X", default_value_t = TrainConfig::default().weight_decay)]
    weight_decay: f64,
    /// Decay of Adam's first moment
    #[arg(long, value_name = "X", default_value_t = TrainConfig::default().beta1)]
    beta1: f64,
    /// Decay of Adam's second moment
    #[arg(long, value_name = "X", default_value_t = TrainConfig::default().beta2)]
    beta2: f64,
    /// Clip the gradient to norm X; 0: do not clip
    #[arg(long, value_name = "X", default_value_t = TrainConfig::default().grad_clip)]
    grad_clip: f64,
    /// Drop this share of the activations
    #[arg(long, value_name = "X", default_value_t = TrainConfig::default().dropout)]
    dropout: f64,
    /// Update parameters by adamw, adam or sgd
    #[arg(long, value_name = "OPTIMIZER", value_enum, default_value_t = TrainConfig::default().optimizer, hide_possible_values = true)]
    optimizer: Optimizer,
    /// Seed of initialisation, batches and dropout
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().seed)]
    seed: u64,
    /// Evaluate every N updates; 0: only at the end
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().eval_every)]
    eval_every: usize,
    /// Batches per evaluation, except the last
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().eval_iters)]
    eval_iters: usize,
    /// Validate on at most N tokens of the last tenth of the data; all: on the whole tenth
    #[arg(long, value_name = "N", default_value_t = ValTokens::from(TrainConfig::default().val_tokens))]
    val_tokens: ValTokens,
    /// End the run after N evaluations in a row without a better validation loss [default: make all updates]
    #[arg(long, value_name = "N")]
    patience: Option<usize>,
    /// Save every N updates; 0: only at the end
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().save_every)]
    save_every: usize,
    /// Log every N updates
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().log_every)]
    log_every: usize,
    /// Keep the N newest checkpoints
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().keep)]
    keep: usize,
}

impl StepArgs {
    fn config(&self, model: &GptConfig, out: PathBuf, ranks: usize) -> TrainConfig {
        let default = self.sum.of(ranks, TrainConfig::for_model(model));
        let local = default.local.map(|local| Local {
            outer_rate: self.outer_rate.unwrap_or(local.outer_rate),
            outer_momentum: self.outer_momentum.unwrap_or(local.outer_momentum),
            ..local
        });
        TrainConfig {
            max_iters: self.max_iters.unwrap_or(default.max_iters),
            batch_size: self.batch_size.or(default.batch_size),
            seq_len: self.seq_len.or(default.seq_len),
            learning_rate: self.lr.unwrap_or(default.learning_rate),
            min_learning_rate: self.min_lr.or(default.min_learning_rate),
            warmup: self.warmup.or(default.warmup),
            weight_decay: self.weight_decay,
            beta1: self.beta1,
            beta2: self.beta2,
            grad_clip: self.grad_clip,
            dropout: self.dropout,
            seed: self.seed,
            eval_every: self.eval_every,
            eval_iters: self.eval_iters,
            val_tokens: self.val_tokens.most(),
            patience: self.patience,
            save_every: self.save_every,
            log_every: self.log_every,
            keep: self.keep,
            optimizer: self.optimizer,
            local,
            out: Some(out),
            ..default
        }
    }
}

/// Checks for options that contradict each other, where both were given.
///
/// # Errors
///
/// Names the option that is at fault.
fn check_given(args: &Args, train: &TrainConfig) -> Result<()> {
    let StepArgs { min_lr, warmup, keep, .. } = &args.steps;
    if let Some(least) = min_lr.filter(|least| *least > train.learning_rate) {
        return Err(Error::usage(format!(
            "--min-lr is {least}, above the highest learning rate, {}",
            train.learning_rate
        ))
        .hint("raise --lr, or leave --min-lr out: it is a tenth of --lr"));
    }
    if let Some(warmup) = warmup.filter(|warmup| *warmup > train.max_iters) {
        return Err(Error::usage(format!(
            "--warmup is {warmup}, above --max-iters, {}: --lr would never be reached",
            train.max_iters
        )));
    }
    if *keep == 0 {
        return Err(Error::usage(
            "--keep is 0, must be at least 1: a run goes on from a checkpoint",
        ));
    }
    let (Some(vocab), Some(tokenizer)) = (args.model.vocab, &args.tokenizer) else { return Ok(()) };
    let has = match tokenizer {
        TokenizerChoice::Train => return Ok(()),
        TokenizerChoice::Bytes => Tokenizer::bytes().vocab_size(),
        TokenizerChoice::Folder(folder) => Tokenizer::load(folder)?.vocab_size(),
    };
    if vocab != has {
        return Err(Error::usage(format!(
            "--vocab is {vocab}, but the tokenizer {tokenizer} has {has} tokens"
        ))
        .hint("leave --vocab out: a model takes the vocabulary of its tokenizer"));
    }
    Ok(())
}

/// The options that may come with `--resume`.
const FREE: [&str; 8] =
    ["resume", "threads", "json", "profile", "trace", "pipeline", "throttle", "max_iters"];

/// Checks that `--resume` comes only with options that a run does not store, or that change its length.
///
/// # Errors
///
/// Names the option that is not allowed.
pub fn check_resume(train: &ArgMatches) -> Result<()> {
    let given = |id: &str| train.value_source(id) == Some(ValueSource::CommandLine);
    if !given("resume") {
        return Ok(());
    }
    let more = train.ids().map(clap::Id::as_str).find(|id| {
        let group = !matches!(train.try_contains_id(id), Ok(true)) || id.ends_with("Args");
        given(id) && !group && !FREE.contains(id)
    });
    match more {
        None => Ok(()),
        Some(id) => Err(Error::usage(format!(
            "--{} cannot be given with --resume: a run goes on with its own settings",
            id.replace('_', "-")
        ))
        .hint("leave it out; or begin another run from this one's model by --init")),
    }
}

impl Args {
    /// Returns the number of threads of the run to resume, if it has one.
    pub fn threads_of_resumed(&self) -> Option<usize> {
        // A fault in the file is reported when the run is opened.
        let text = std::fs::read(self.resume.as_deref()?.join("run.json")).ok()?;
        serde_json::from_slice::<RunSettings>(&text).ok()?.threads
    }

    /// Resolves the settings that depend on the device: precision, recomputation, batch size. Returns the recorded
    /// programs.
    ///
    /// # Errors
    ///
    /// If the device does not compute in the precision.
    fn fit(&self, settings: &mut RunSettings, device: &Device) -> Result<Programs> {
        let RunSettings { model, train, .. } = settings;
        train.precision = self.precision.on(device)?;
        let mut programs = Programs::default();
        let fits =
            |uses| device.fits(&programs.of(model, uses, &train.finetune, device.limits()).plan);
        let (uses, batch) = (Uses::training(train, model), Some(self.steps.batch_size));
        let uses = self.recompute.fit(uses, &train.finetune, batch, fits);
        (train.recompute, train.batch_size) = (uses.recompute, uses.batch);
        Ok(programs)
    }

    fn settings(&self, threads: Option<usize>, ranks: usize) -> Result<RunSettings> {
        let data = match self.data.as_slice() {
            [] => vec!["stories".to_owned()],
            data => data.to_vec(),
        };
        let init = self.init.as_deref().map(|init| find_model(Some(init))).transpose()?;
        let model = match &init {
            Some(init) => checkpoint::read_config(init)?,
            None => self.model.config()?,
        };
        let size = if init.is_some() { "tuned".to_owned() } else { self.model.name() };
        let out = self.out.clone().unwrap_or_else(|| new_run(&data[0], &size));
        let finetune = self.finetune.config(&model);
        let train = TrainConfig { finetune, ..self.steps.config(&model, out, ranks) };
        train.validate(&model)?;
        check_finetune(&model, &train.finetune)?;
        check_given(self, &train)?;
        Ok(RunSettings {
            data,
            val_data: self.val_data.clone(),
            long: self.long.unwrap_or_default(),
            tokenizer: self.tokenizer.clone().unwrap_or_default(),
            model,
            train,
            device: resolve(ranks::device(self.device.device))?,
            threads,
            init,
            // Without a home folder the data are just encoded again for each run.
            cache: wgpt::cache::folder().ok(),
        })
    }
}

/// Returns the name of a folder that does not exist yet: runs/DATA-SIZE-DATE-TIME.
fn new_run(data: &str, size: &str) -> PathBuf {
    let data = Path::new(data).file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_alphanumeric() || c == '_' { c } else { '-' };
    let data: String = data.chars().map(plain).take(40).collect();
    let data = data.trim_matches('-');
    let data = if data.is_empty() { "data" } else { data };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = format!("{data}-{size}-{}", number::timestamp(now));
    let mut names = (1..).map(|i| if i == 1 { name.clone() } else { format!("{name}-{i}") });
    let path = names.by_ref().map(|name| Path::new("runs").join(name)).find(|path| !path.exists());
    path.expect("there are many names")
}
