//! `wgpt train`: trains a model, shows its progress, and reports where it is and what to do next.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ArgMatches;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::parser::ValueSource;
use wgpt::backend::Device;
use wgpt::checkpoint;
use wgpt::config::Optimizer;
use wgpt::dist::World;
use wgpt::fit::Programs;
use wgpt::model::{Uses, check_finetune};
use wgpt::train::{self, Resumed, RunSettings, TokenizerChoice};
use wgpt::{
    Error, Event, GenerateOptions, Gpt, GptConfig, Result, Summary, Tokenizer, TrainConfig, Trainer,
};

use super::interrupt::{self, Running, set_running};
use super::launch::status::{Status, watched};
use super::options::{
    BatchSize, DeviceArgs, FineTuneArgs, ModelArgs, PrecisionArgs, RecomputeArgs, SumArgs,
    ValTokens, find_model, open, resolve,
};
use super::outcome::Outcome;
use super::profile::{self, ProfileArgs};
use super::progress::Progress;
use super::ranks::{self, Ranks};
use super::{flags, number, output};

const EXAMPLES: &str = "\
Examples:
  wgpt train                                             little stories, a small model
  wgpt train --data book.txt notes/ --size medium        files and folders of text
  wgpt train --data shakespeare --tokenizer bytes --max-iters 2000 --seq-len 64 --batch-size 12
  wgpt train --config run.toml --lr 5e-4                 options from a file, one of them changed
  wgpt train --resume runs/stories-small-20260101-120000 continue after Ctrl-C or a crash
  wgpt train --init runs/NAME --data more.txt --lr 1e-4         start from a trained model
  wgpt train --init gpt2 --data my.txt --lr 3e-5 --freeze 'w?e.*' 'h.[0-7].*'
  wgpt train --init gpt2 --data my.txt --lr 3e-4 --lora-rank 8 --lora-targets c_attn,c_proj

A file of options has one line per option, by its long name: batch-size = 8. Ctrl-C finishes the step and saves.

Encoded data are kept for later runs under tokens/ in the cache folder (WGPT_CACHE, or the system's folder for caches), which may \
be removed at any time. A run's folder holds a copy of at most 64 MiB, or a reference, tokens.json, if the data are larger.";

/// Train a model on text; writes a folder with the model, its checkpoints and its metrics
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Train on stories, shakespeare, tinystories, or files and folders of text, of JSON with a "text" per object, or of token ids:
    /// .bin files of `wgpt tokenizer encode`, nanoGPT or llm.c, which are joined to one row [default: stories]
    #[arg(long, value_name = "DATA", num_args = 1..)]
    data: Vec<String>,
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
    /// Start from a model and keep its sizes: a folder, a run, a .safetensors file, or a name on Hugging Face's hub
    #[arg(long, value_name = "MODEL")]
    #[arg(conflicts_with_all = ["size", "layers", "heads", "embd", "vocab", "context"])]
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

/// The fields of [`TrainConfig`] as options.
#[derive(clap::Args)]
#[command(next_help_heading = "Training")]
struct StepArgs {
    /// Make N updates
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().max_iters)]
    max_iters: usize,
    /// Sequences per batch, or auto: as many as fit
    #[arg(long, value_name = "N", default_value_t = BatchSize::Of(TrainConfig::default().batch_size))]
    batch_size: BatchSize,
    /// Tokens per sequence [default: the model's context]
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    #[command(flatten)]
    sum: SumArgs,
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
        let default = TrainConfig::for_model(model);
        TrainConfig {
            max_iters: self.max_iters,
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
            save_every: self.save_every,
            log_every: self.log_every,
            keep: self.keep,
            optimizer: self.optimizer,
            out: Some(out),
            ..self.sum.of(ranks, default)
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

/// Checks that `--resume` comes only with options that a run does not store.
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
        given(id) && !group && !["resume", "threads", "json", "profile", "trace"].contains(id)
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
    fn fit(&self, settings: &mut RunSettings, device: &Device) -> Programs {
        let RunSettings { model, train, .. } = settings;
        train.precision = self.precision.on(device);
        let mut programs = Programs::default();
        let fits =
            |uses| device.fits(&programs.of(model, uses, &train.finetune, device.limits()).plan);
        let uses =
            self.recompute.fit(Uses::training(train, model), Some(self.steps.batch_size), fits);
        (train.recompute, train.batch_size) = (uses.recompute, uses.batch);
        programs
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
        let size = if init.is_some() { "tuned" } else { self.model.size() };
        let out = self.out.clone().unwrap_or_else(|| new_run(&data[0], size));
        let finetune = self.finetune.config();
        let train = TrainConfig { finetune, ..self.steps.config(&model, out, ranks) };
        train.validate(&model)?;
        check_finetune(&model, &train.finetune)?;
        check_given(self, &train)?;
        Ok(RunSettings {
            data,
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

/// The number of updates that `--profile` times.
const PROFILED: u32 = 5;

/// Trains a model.
///
/// # Errors
///
/// As [`train::start`] and [`Trainer::run`].
pub fn run(args: &Args, threads: Option<usize>) -> Result<Outcome> {
    let ranks = Ranks::begin()?;
    let world = ranks.world();
    let several = world.size() > 1;
    let status = Status::begin(world.rank())?;
    // A signal that comes before there is a trainer must not end the process.
    let told = Arc::new(AtomicBool::new(false));
    interrupt::stop_by_signal(&told)?;
    let world = watched(world, status.as_ref());
    let result = match world.rank() {
        0 => run_first(args, threads, world, &told, status.as_deref()),
        _ => run_other(args, world, &told, status.as_deref()),
    };
    if several && let Err(error) = result {
        // The other ranks must not be waited for: the launcher ends them.
        output::error(&error);
        if let Some(status) = status {
            status.end(true);
        }
        std::process::exit(1);
    }
    if let (Ok(_), Some(status)) = (&result, &status) {
        status.end(false);
    }
    ranks.end();
    result
}

/// Trains as a rank that is not the first: it shows nothing and writes nothing.
fn run_other(
    args: &Args,
    world: Box<dyn World>,
    told: &AtomicBool,
    status: Option<&Status>,
) -> Result<Outcome> {
    interrupt::catch()?;
    // A run that goes on keeps to the kind of device that it has.
    let device = |first_on_cpu| match args.resume.is_some() && first_on_cpu {
        true => Ok(Device::Cpu),
        false => open(ranks::device(args.device.device)),
    };
    let Some(mut trainer) = train::join(world, device)? else { return Ok(Outcome::Good) };
    heed(&trainer, told)?;
    trainer.run(&mut |event| note(status, event))?;
    Ok(Outcome::Good)
}

/// Makes the signals stop a trainer from now on, or at once if one has come before.
fn heed(trainer: &Trainer, told: &AtomicBool) -> Result<()> {
    let flag = trainer.stop_flag();
    interrupt::stop_by_signal(&flag)?;
    flag.fetch_or(told.load(Ordering::Relaxed), Ordering::Relaxed);
    set_running(Running::Training(flag));
    Ok(())
}

/// Tells `wgpt launch` of an event, if it started this rank.
fn note(status: Option<&Status>, event: &Event) {
    if let Some(status) = status {
        status.note(event);
    }
}

/// Trains as the first rank, or as the only one.
fn run_first(
    args: &Args,
    threads: Option<usize>,
    mut world: Box<dyn World>,
    told: &AtomicBool,
    status: Option<&Status>,
) -> Result<Outcome> {
    interrupt::catch()?;
    let mut progress = Progress::new();
    let opened = open_run(args, threads, world.size(), &mut progress);
    let mut trainer = match opened {
        Ok(Some(trainer)) => trainer,
        Ok(None) => {
            train::finished(&mut *world)?;
            return Ok(Outcome::Good);
        }
        Err(error) => {
            train::give_up(&mut *world);
            return Err(error);
        }
    };
    trainer.lead(world)?;
    if args.profile.profile {
        trainer.begin_profile(PROFILED);
    }
    heed(&trainer, told)?;
    let result = trainer.run(&mut |event| {
        progress.show(event);
        note(status, event);
    });
    set_running(Running::Nothing);
    progress.end();
    let summary = result?;
    if let Some((profile, report)) = trainer.end_profile()? {
        args.profile.write_trace(&profile)?;
        let say = if args.json { output::log } else { output::line };
        say(&profile::table(&report));
    }
    if !summary.finished {
        stopped(&summary, args.json);
        return Ok(Outcome::Good);
    }
    // The run is finished and saved, even if the sample fails.
    if !args.json
        && let Err(error) = sample(trainer)
    {
        output::log(&format!("no sample could be drawn: {}", error.with_names(flags::name)));
    }
    finish(&summary, args.json);
    Ok(Outcome::Good)
}

/// Opens the run that the arguments name; `None` if it is finished, which is said.
fn open_run(
    args: &Args,
    threads: Option<usize>,
    ranks: usize,
    progress: &mut Progress,
) -> Result<Option<Trainer>> {
    let trainer = match &args.resume {
        Some(dir) => {
            set_running(Running::Preparing(dir.clone()));
            if checkpoint::has_adapters(dir) {
                // Their model may be one of the hub that is no longer on this machine.
                find_model(Some(dir))?;
            }
            let device = |settings: &RunSettings| open(settings.device);
            match train::resume_on(dir, ranks, device, &mut |event| progress.show(event))? {
                Resumed::Running(trainer) => *trainer,
                Resumed::Finished(summary) => {
                    let (dir, steps) = (output::path(dir), summary.steps);
                    output::log(&format!(
                        "the run in {dir} is finished: all its {steps} updates were made"
                    ));
                    finish(&summary, args.json);
                    return Ok(None);
                }
            }
        }
        None => {
            let mut settings = args.settings(threads, ranks)?;
            set_running(settings.train.out.clone().map_or(Running::Nothing, Running::Preparing));
            let device = open(settings.device)?;
            let mut programs = args.fit(&mut settings, &device);
            train::start_with(&settings, device, &mut programs, &mut |event| progress.show(event))?
        }
    };
    Ok(Some(trainer))
}

/// Says how to go on with a run that was stopped.
fn stopped(summary: &Summary, json: bool) {
    if json {
        output::json(summary);
    }
    if let Some(dir) = &summary.run_dir {
        let say = if json { output::log } else { output::line };
        say(&format!("stopped after update {}, everything is saved; to go on:", summary.steps));
        say(&format!("  wgpt train --resume {}", output::quoted(dir)));
    }
}

/// Prints a text of the trained model: a new text, or, if no token begins texts, one that begins with the first token
/// of the data.
fn sample(trainer: Trainer) -> Result<()> {
    let first = trainer.first_token();
    let mut gpt: Gpt = trainer.into_model();
    let Some(tokenizer) = gpt.tokenizer() else { return Ok(()) };
    let opening = gpt.end_of_text().opening();
    let shown = match opening {
        Some(_) => String::new(),
        None => tokenizer.decode_lossy(&[first])?,
    };
    let options =
        GenerateOptions { max_tokens: 200, temperature: 0.7, ..GenerateOptions::default() };
    output::line("A sample:\n");
    output::text(&shown);
    gpt.generate_stream_after(&[opening.unwrap_or(first)], &options, &mut output::text)?;
    output::line("\n");
    Ok(())
}

/// Prints the results and the next command to run.
fn finish(summary: &Summary, json: bool) {
    if json {
        return output::json(summary);
    }
    let loss =
        |loss: Option<f64>| loss.map_or("not finite".to_owned(), |loss| format!("{loss:.4}"));
    let rows = [
        (
            "validation loss",
            format!("{} (best {})", loss(summary.val_loss), loss(summary.best_val_loss)),
        ),
        ("training loss", loss(summary.train_loss)),
        (
            "updates",
            format!(
                "{} in {}, {} tokens/s",
                number::thousands(summary.steps as u64),
                number::seconds(summary.seconds),
                number::rate(summary.tokens_per_s)
            ),
        ),
    ];
    for (name, value) in rows {
        output::line(&format!("{name:<16} {value}"));
    }
    if summary.skipped > 0 {
        let skipped = number::thousands(summary.skipped.into());
        output::line(&format!(
            "{:<16} {skipped} updates, whose loss or gradient was not finite",
            "left out"
        ));
    }
    if let Some(dir) = &summary.run_dir {
        output::line(&format!("{:<16} {}", "run", output::path(dir)));
        output::line("\nTo let the model write:");
        let best = dir.join("best");
        let prompt = match Tokenizer::exists(&best) {
            true => "--prompt \"Once upon a time\"",
            // The tokenizer of these token ids is not known.
            false => "--prompt-ids 0",
        };
        output::line(&format!("  wgpt generate --model {} {prompt}", output::quoted(&best)));
    }
}
