//! Training: updates from batches, evaluation, saves; a run that was killed goes on bit for bit.
//!
//! What a step does follows from the seed and its number alone (batches, dropout), so that parameters,
//! moments, the device's counters and a few numbers are the whole state.

mod choice;
pub mod curve;
mod encoded;
pub mod report;
mod saves;
pub mod settings;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::backend::Device;
use crate::backend::gpu::Peak;
use crate::checkpoint::{self, Metrics, RunDir, TrainState};
use crate::config::{GptConfig, TrainConfig};
use crate::data::{self, Place, Tokens};
use crate::engine::{Engine, MicroBatch, Update};
use crate::error::{Error, Kind, Result, field};
use crate::gpt::Gpt;
use crate::kernel::Step;
use crate::model::{self, Program, Uses};
use crate::ops::global_norm::state;
use crate::ops::{dropout, random};
use crate::plan::{Dispatch, Limits};
use crate::profile::{self, Profile, Report};
use crate::tokenizer::Tokenizer;
use crate::tune::{Effort, tune};

use saves::{draw_curve, moments};

pub use choice::TokenizerChoice;
pub use report::{Event, StepReport, Summary};
pub use settings::{Prepared, RunSettings, prepare};

/// Skipped updates in a row after which a run stops.
pub const MAX_SKIPPED: u32 = 10;

/// Sets the batches of evaluations apart from those of training.
const EVALUATION: u64 = 0x6576_616c;

/// A training run under way.
pub struct Trainer {
    gpt: Gpt,
    engine: Engine,
    tokens: Tokens,
    train: Range<usize>,
    val: Range<usize>,
    config: TrainConfig,
    /// B and T.
    shape: (usize, usize),
    run: Option<RunDir>,
    /// The model's folder that adapters belong to.
    base: Option<PathBuf>,
    state: TrainState,
    metrics: Vec<Metrics>,
    stop: Arc<AtomicBool>,
    /// Whether the newest checkpoint is of this very state.
    saved: bool,
    /// The tokens and targets of an evaluation's batch.
    batch: (Vec<u32>, Vec<u32>),
    /// The buffers of a micro-batch.
    micro_batch: MicroBatch,
    /// Seconds and tokens of training alone in this process, what is profiled left out.
    busy: (f64, u64),
    /// What the device does at its best, where it was measured.
    peak: Option<Peak>,
    profiling: Profiling,
}

/// A profile of some updates.
#[derive(Default)]
struct Profiling {
    /// Updates that are still to be timed.
    left: u32,
    /// Updates that were.
    done: u32,
    profile: Option<Profile>,
}

/// A run that was opened again.
pub enum Resumed {
    /// It goes on.
    Running(Box<Trainer>),
    /// All its updates were made already.
    Finished(Summary),
}

/// Begins a run: makes its folder, its data and tokenizer ready, and the model on the device.
///
/// # Errors
///
/// If a setting is out of range, the data cannot be had, the folder holds a run already, or the device
/// cannot hold the model. The folder is then as it was before.
pub fn start(
    settings: &RunSettings,
    device: Device,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Trainer> {
    let settings = &settings.absolute();
    // The first model's faults come before those of the tokenizer and the data.
    let sizes = match &settings.init {
        Some(init) => &model::open(init)?.0,
        None => &settings.model,
    };
    sizes.validate()?;
    settings.train.validate(sizes)?;
    model::check_finetune(sizes, &settings.train.finetune)?;
    settings.check_adapted()?;
    let Some(path) = &settings.train.out else {
        return open(settings, None, device, on_event);
    };
    let is_new = !path.exists();
    let run = RunDir::create(path, settings)?;
    // A run that could not begin leaves nothing, so that the same command can be given again.
    open(settings, Some(run), device, on_event).inspect_err(|_| {
        for name in settings::BEFORE_TRAINING {
            let _ = std::fs::remove_file(path.join(name));
        }
        if is_new {
            let _ = std::fs::remove_dir(path);
        }
    })
}

/// Opens a run's folder again: from its newest checkpoint, or from the beginning before the first.
///
/// `device` opens what the settings name, once it is known that there is something to do.
///
/// # Errors
///
/// If there is no run, another process works on it, or a file of it is damaged.
pub fn resume(
    dir: &Path,
    device: impl FnOnce(&RunSettings) -> Result<Device>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Resumed> {
    let run = RunDir::open(dir)?;
    let mut settings: RunSettings = run.settings()?;
    settings.train.out = Some(dir.to_owned());
    let newest = run.newest_checkpoint()?;
    if let Some((step, path)) = newest.filter(|(step, _)| *step >= settings.train.max_iters) {
        let config = checkpoint::read_config(&path)?;
        let (state, _) = checkpoint::open_state(&path, &moments(&config, &settings.train))?;
        if state.unevaluated.is_none() {
            // The process may have been killed between its last checkpoint and this.
            draw_curve(&run, &checkpoint::read_metrics(dir)?)?;
            let summary = summary(&state, step, &settings.train, Some(dir.to_owned()));
            return Ok(Resumed::Finished(summary));
        }
    }
    check_written(&run, &settings)?;
    let device = device(&settings)?;
    let trainer = open(&settings, Some(run), device, on_event)?;
    Ok(Resumed::Running(Box::new(trainer)))
}

/// Checks the settings that run.json has, under its names.
fn check_written(run: &RunDir, settings: &RunSettings) -> Result<()> {
    let sizes = match run.newest_checkpoint()? {
        Some((_, path)) => checkpoint::read_config(&path)?,
        None => settings.model.clone(),
    };
    let (train, valid) = (&settings.train, sizes.validate());
    let valid = valid.and_then(|()| train.validate(&sizes));
    let checked = valid.and_then(|()| model::check_finetune(&sizes, &train.finetune));
    let place = run.settings_path();
    checked.map_err(|error| error.as_written().of_kind(Kind::Input).at(place.display()))
}

/// The trainer of a run whose folder is made, at its newest checkpoint.
fn open(
    settings: &RunSettings,
    run: Option<RunDir>,
    device: Device,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Trainer> {
    let dir = run.as_ref().map(RunDir::path);
    let saved = run.as_ref().map(RunDir::newest_checkpoint).transpose()?.flatten();
    let saved_path = saved.as_ref().map(|(_, path)| path.as_path());
    check_fit(settings, saved_path, &device)?;
    let Prepared { model, tokenizer, text_files, tokens } =
        prepare(settings, dir, saved_path, on_event)?;
    let uses = Uses::training(&settings.train, &model);
    let finetune = &settings.train.finetune;
    let program = |limits| Program::record_tuning(&model, uses, finetune, limits);
    let device = settle(device, run.as_ref(), program, on_event)?;
    // On a GPU it takes a while, and so only where it is kept.
    let keeps = !matches!(&device, Device::Gpu(gpu) if gpu.cache().is_none());
    let peak = keeps.then(|| profile::peak(&device)).transpose()?;
    // Adapters are saved without their model.
    let whole = saved_path.filter(|_| finetune.lora.is_none());
    let mut gpt = match (whole, &settings.init) {
        (Some(saved), _) => {
            Gpt::load(saved, device).map_err(|error| error.hint(checkpoint::without(saved)))?
        }
        (None, Some(init)) => Gpt::load(init, device)?,
        (None, None) => Gpt::new(model, device, settings.train.seed)?,
    };
    gpt.set_text_files(text_files);
    if let Some(tokenizer) = tokenizer {
        gpt.set_tokenizer(tokenizer)?;
    }
    for notice in gpt.notices() {
        on_event(&Event::Note(notice.clone()));
    }
    let mut trainer = Trainer::new(gpt, tokens, settings.train.clone())?;
    if let Some(run) = &run {
        run.truncate_metrics(saved.as_ref().map_or(0, |(step, _)| *step))?;
        trainer.metrics = checkpoint::read_metrics(run.path())?;
    }
    (trainer.run, trainer.base) = (run, settings.init.clone());
    trainer.peak = peak;
    if let Some((step, path)) = saved {
        trainer.restore(step, &path)?;
    }
    Ok(trainer)
}

/// Checks that the device can hold the run, before the data are made ready, which may take long. Of a new model
/// the least is counted, since its vocabulary is not known yet.
fn check_fit(settings: &RunSettings, saved: Option<&Path>, device: &Device) -> Result<()> {
    let model = match saved.or(settings.init.as_deref()) {
        Some(dir) => checkpoint::read_config(dir)?,
        None => GptConfig {
            vocab_size: settings.model.vocab_size.min(Tokenizer::bytes().vocab_size()),
            ..settings.model.clone()
        },
    };
    let uses = Uses::training(&settings.train, &model);
    Engine::check(&model, uses, &settings.train.finetune, device)
}

fn summary(
    state: &TrainState,
    steps: usize,
    config: &TrainConfig,
    run_dir: Option<PathBuf>,
) -> Summary {
    Summary {
        steps,
        train_loss: state.train_loss,
        val_loss: state.val_loss,
        best_val_loss: state.best_val_loss,
        skipped: state.device_words.get(state::SKIPPED).copied().unwrap_or(0),
        tokens_per_s: if state.seconds > 0.0 { state.tokens as f64 / state.seconds } else { 0.0 },
        seconds: state.seconds,
        run_dir,
        finished: steps >= config.max_iters && state.unevaluated.is_none(),
    }
}

/// The device with the variants of kernels that the run takes from its beginning to its end, whatever is measured
/// later: another variant sums in another order, and a run that goes on must give the same bits.
fn settle(
    device: Device,
    run: Option<&RunDir>,
    program: impl FnOnce(Limits) -> Program,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Device> {
    let Device::Gpu(gpu) = device else { return Ok(device) };
    if let Some(choices) = run.map(RunDir::choices).transpose()?.flatten() {
        return Ok(Device::Gpu(gpu.with_choices(choices)));
    }
    let plan = program(gpu.limits()).plan;
    if gpu.cache().is_some() {
        tune(&gpu, &plan, Effort::Missing, &mut |notice| on_event(&Event::Tuning(notice)))?;
    }
    let choices = gpu.choices(&plan);
    if let Some(run) = run {
        run.keep_choices(&choices)?;
    }
    Ok(Device::Gpu(gpu.with_choices(choices)))
}

impl Trainer {
    /// A run over token ids, of which the last ones are for validation: a tenth, but at most `val_tokens`.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, there are too few tokens, an id is outside the model's vocabulary,
    /// or the device cannot hold the model.
    pub fn new(mut gpt: Gpt, tokens: Tokens, config: TrainConfig) -> Result<Trainer> {
        config.validate(gpt.config())?;
        model::check_finetune(gpt.config(), &config.finetune)?;
        tokens.check(gpt.config().vocab_size)?;
        let uses = Uses::training(&config, gpt.config());
        let shape = (uses.batch, uses.seq);
        let (train, val) = tokens.split(config.val_tokens);
        data::check_length(&tokens, &train, shape.1)?;
        data::check_length(&tokens, &val, 1)?;
        gpt.set_dropout(config.dropout);
        gpt.set_precision(config.precision);
        let mut engine = gpt.take_engine(uses, &config.finetune)?;
        engine.initialize_adapters(config.seed);
        let rows = shape.0 * shape.1;
        Ok(Trainer {
            gpt,
            engine,
            train,
            val,
            shape,
            run: None,
            base: None,
            state: TrainState {
                seed: config.seed,
                data_fingerprint: tokens.fingerprint(),
                ..TrainState::default()
            },
            tokens,
            metrics: vec![],
            stop: Arc::default(),
            saved: false,
            batch: (vec![0; rows], vec![0; rows]),
            micro_batch: MicroBatch {
                tokens: vec![0; rows],
                targets: vec![0; rows],
                ..MicroBatch::default()
            },
            busy: (0.0, 0),
            peak: None,
            profiling: Profiling::default(),
            config,
        })
    }

    /// Set it, from any thread, to end the run after the step under way; what is done is saved. An evaluation under way
    /// is left for the resumed run.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The engine, for a look at the parameters on the way.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The first token of the data, with which a text can begin where no token is meant for that.
    pub fn first_token(&self) -> u32 {
        let mut first = [0];
        self.tokens.copy_to(0..1, &mut first);
        first[0]
    }

    /// The trained model.
    pub fn into_model(self) -> Gpt {
        let mut gpt = self.gpt;
        gpt.put_engine(self.engine);
        gpt
    }

    /// Makes the updates that are left, evaluates and saves on the way, and at the end evaluates the
    /// whole validation split.
    ///
    /// # Errors
    ///
    /// If several updates in a row had to be skipped, the loss is not finite at the end, a file cannot be written, or the
    /// device is lost.
    pub fn run(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Summary> {
        let first_step = self.state.step as usize;
        on_event(&Event::Started {
            parameters: self.engine.program().parameter_count(),
            trained: self.engine.program().trained_count(),
            device: self.engine.describe(),
            plan_bytes: self.engine.program().plan.total_bytes(),
            run_dir: self.run.as_ref().map(|run| run.path().to_owned()),
            first_step,
            train_tokens: self.train.len(),
            val_tokens: self.val.len(),
        });
        if let Some(metrics) = self.state.unevaluated.take() {
            self.after_update(metrics, on_event)?;
        }
        for iter in first_step..self.config.max_iters {
            if self.stopped() {
                break;
            }
            self.step(iter, on_event)?;
        }
        if self.stopped() {
            self.save(on_event)?;
        }
        let path = self.run.as_ref().map(|run| run.path().to_owned());
        Ok(summary(&self.state, self.state.step as usize, &self.config, path))
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One update, and what is due after it.
    fn step(&mut self, iter: usize, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
        let (config, done) = (&self.config, iter + 1);
        let due = |every: usize| config.is_due(every, done);
        let logged = due(config.log_every) || done == 1;
        // Reading waits for the device, so a GPU is read only where somebody looks, or where enough is in flight.
        let full = done.is_multiple_of(self.engine.run_ahead().max(1));
        let reads = logged || due(config.eval_every) || due(config.save_every) || full;

        let learning_rate = config.learning_rate_at(iter);
        let profiles = self.profiling.left > 0 && self.busy.1 > 0;
        if profiles && self.profiling.done == 0 {
            self.engine.begin_profile();
        }
        let began = Instant::now();
        let applied = self.update(iter, learning_rate)?;
        let update = if reads && applied { Some(self.engine.read_update()?) } else { None };
        let tokens = self.tokens_an_update();
        let seconds = began.elapsed().as_secs_f64();
        if profiles {
            self.profiled();
        } else {
            self.busy = (self.busy.0 + seconds, self.busy.1 + tokens);
        }
        self.state.step = done as u64;
        self.state.data_position = done as u64;
        self.state.tokens += tokens;
        self.state.seconds += seconds;

        if !applied {
            on_event(&Event::NothingToLearn { step: done });
        }
        let report = self.report(update, learning_rate, logged);
        on_event(&Event::Step(report));
        if let Some(update) = update {
            self.state.device_words = update.state.to_vec();
            self.check(&update)?;
        }
        self.after_update(report.metrics(), on_event)
    }

    /// Evaluation, line of the log, save: where they are due. An evaluation that is cut short leaves them for later.
    fn after_update(
        &mut self,
        mut metrics: Metrics,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        self.saved = false;
        let (config, done) = (self.config.clone(), self.state.step as usize);
        let (last, evaluates) = (done == config.max_iters, config.is_due(config.eval_every, done));
        if evaluates {
            metrics.val_loss = self.evaluate(last, on_event)?;
            if metrics.val_loss.is_none() {
                self.state.unevaluated = Some(metrics);
                return Ok(());
            }
        }
        if evaluates || done == 1 || config.is_due(config.log_every, done) {
            self.log(metrics)?;
        }
        if last && self.state.val_loss.is_none() {
            return Err(self.diverged(&format!(
                "the validation loss is not finite after {done} updates, {} of them skipped since a loss or gradient was not",
                metrics.skipped
            )));
        }
        if config.is_due(config.save_every, done) {
            self.save(on_event)?;
        }
        Ok(())
    }

    /// Counts an update that was profiled; the last one ends the profile.
    fn profiled(&mut self) {
        let Profiling { left, done, profile } = &mut self.profiling;
        (*left, *done) = (*left - 1, *done + 1);
        if *left == 0 {
            *profile = self.engine.end_profile();
        }
    }

    /// Times every kernel of `updates` updates, after the first one of this process.
    pub fn begin_profile(&mut self, updates: u32) {
        self.profiling = Profiling { left: updates, ..Profiling::default() };
    }

    /// What was profiled, as a time line and as a table; `None` if the run ended before.
    ///
    /// # Errors
    ///
    /// If the device has no room to measure its best, or is lost.
    pub fn end_profile(&mut self) -> Result<Option<(Profile, Report)>> {
        let Profiling { done, profile, .. } = std::mem::take(&mut self.profiling);
        let Some(profile) = profile.or_else(|| self.engine.end_profile()) else { return Ok(None) };
        let peak = match self.peak {
            Some(peak) => peak,
            None => profile::peak(self.gpt.device())?,
        };
        let updates = self.busy.1 as f64 / self.tokens_an_update() as f64;
        let report = profile.report(done, self.busy.0 * 1e3 / updates, peak);
        Ok(Some((profile, report)))
    }

    fn tokens_an_update(&self) -> u64 {
        (self.shape.0 * self.shape.1 * self.config.grad_accum) as u64
    }

    /// The share of the device's best that so many tokens a second come to.
    fn mfu(&self, tokens_per_s: f64) -> Option<f64> {
        let program = self.engine.program();
        let half = program.plan.dispatches.iter().any(Dispatch::has_half);
        let parameters = program.params.iter().map(|param| &param.info);
        let flops = profile::flops_per_token(&program.config, parameters, self.shape.1);
        Some(tokens_per_s * flops / (self.peak?.of(half) * 1e9))
    }

    /// Makes an update, unless none of its targets counts; returns whether it did.
    fn update(&mut self, iter: usize, learning_rate: f64) -> Result<bool> {
        let config = &self.config;
        let step = Step {
            dropout: dropout::threshold(config.dropout),
            learning_rate,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
            grad_clip: config.grad_clip,
            ..Step::default()
        };
        let (seed, range, shape) = (config.seed, self.train.clone(), self.shape);
        let fill = |micro: usize, batch: &mut MicroBatch| {
            let place = Place { seed, step: iter as u64, micro: micro as u64 };
            let MicroBatch { tokens, targets, .. } = batch;
            batch.seed = random::key(seed, iter as u32, micro as u32);
            data::batch(&self.tokens, range.clone(), place, shape, tokens, targets)
        };
        let (count, batch) = (config.grad_accum, &mut self.micro_batch);
        Ok(self.engine.train_update(count, batch, fill, step)? > 0)
    }

    fn report(&self, update: Option<Update>, learning_rate: f64, logged: bool) -> StepReport {
        let tokens_per_s = self.busy.1 as f64 / self.busy.0.max(1e-9);
        StepReport {
            step: self.state.step as usize,
            steps: self.config.max_iters,
            tokens: self.state.tokens,
            loss: update.map(|update| update.loss),
            learning_rate,
            grad_norm: update.map(|update| update.grad_norm),
            tokens_per_s,
            mfu: self.mfu(tokens_per_s),
            logged,
            skipped: update.map_or(0, |update| update.state[state::SKIPPED]),
        }
    }

    /// Ends a run whose updates are all skipped.
    fn check(&self, update: &Update) -> Result<()> {
        let skipped = update.state[state::SKIPPED_IN_A_ROW];
        if skipped < MAX_SKIPPED {
            return Ok(());
        }
        let what = if update.loss.is_finite() { "gradient" } else { "loss" };
        Err(self.diverged(&format!(
            "the {what} was not finite in {skipped} updates in a row, up to step {}; the parameters are as before them",
            self.state.step
        )))
    }

    /// The error of a run that went astray, with the ways out that there are: a checkpoint may be astray too.
    fn diverged(&self, message: &str) -> Error {
        let best = self.run.as_ref().map(RunDir::best).filter(|best| best.exists());
        let more = best.map_or(String::new(), |best| {
            format!(
                "; or go on from the best model with other settings by {} {}",
                field("init"),
                best.display()
            )
        });
        Error::training(message).hint(format!(
            "lower {} or lengthen {}{more}",
            field("learning_rate"),
            field("warmup")
        ))
    }

    fn log(&mut self, metrics: Metrics) -> Result<()> {
        self.state.train_loss = metrics.loss.map(f64::from);
        self.metrics.push(metrics);
        match &self.run {
            Some(run) => run.append_metrics(&metrics),
            None => Ok(()),
        }
    }

    /// The validation loss: of the whole split, or of the same few batches each time; `None` if the run was stopped
    /// meanwhile. Keeps the best model.
    fn evaluate(&mut self, whole: bool, on_event: &mut dyn FnMut(&Event)) -> Result<Option<f64>> {
        let windows = data::windows(self.val.clone(), self.shape.1);
        let whole = whole || windows.len() <= self.config.eval_iters.saturating_mul(self.shape.0);
        let total =
            if whole { windows.len().div_ceil(self.shape.0) } else { self.config.eval_iters };
        on_event(&Event::Evaluating { done: 0, total });
        let (mut sum, mut count) = (0.0, 0);
        for i in 0..total {
            if self.stopped() {
                return Ok(None);
            }
            let (x, y) = &mut self.batch;
            if whole {
                count += windows.fill(&self.tokens, i * self.shape.0, x, y);
            } else {
                let place = Place { seed: self.config.seed ^ EVALUATION, step: 0, micro: i as u64 };
                data::batch(&self.tokens, self.val.clone(), place, self.shape, x, y)?;
                count += y.len();
            }
            sum += self.engine.evaluate(x, y)?;
            on_event(&Event::Evaluating { done: i + 1, total });
        }
        let val_loss = sum / count as f64;
        let best = val_loss.is_finite() && self.state.best_val_loss.is_none_or(|b| val_loss < b);
        self.state.val_loss = val_loss.is_finite().then_some(val_loss);
        if best {
            self.state.best_val_loss = Some(val_loss);
            self.state.best_step = Some(self.state.step);
            self.save_best()?;
        }
        on_event(&Event::Evaluated { step: self.state.step as usize, val_loss, best, whole });
        Ok(Some(val_loss))
    }
}
