//! The start and the resumption of a run: its folder, its data, its device, its model.

use std::path::Path;

use super::chats::Conversations;
use super::kinds::choose;
use super::saves::{draw_curve, moments};
use super::settings::{self, Prepared, RunSettings, prepare};
use super::{Base, Event, Summary, Trainer, summary};
use crate::backend::Device;
use crate::backend::gpu::Kinds;
use crate::checkpoint::{self, RunDir, TrainState, Weights};
use crate::config::{GptConfig, Precision};
use crate::disk;
use crate::error::{Error, Kind, Result, field};
use crate::fit::Programs;
use crate::gpt::Gpt;
use crate::model::{self, Program, Uses};
use crate::profile;
use crate::tokenizer::Tokenizer;

/// A run that was opened again.
pub enum Resumed {
    /// It continues.
    Running(Box<Trainer>),
    /// All its updates were already made.
    Finished(Summary),
}

/// Starts a run: makes its folder, prepares its data and tokenizer, and puts the model on the device.
///
/// # Errors
///
/// If a setting is out of range, the data cannot be obtained, the folder already holds a run, or the device cannot hold
/// the model. The folder is then left as it was before.
pub fn start(
    settings: &RunSettings,
    device: Device,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Trainer> {
    start_with(settings, device, &mut Programs::default(), on_event)
}

/// Does the same as [`start`], with the programs that were recorded to find out which settings fit the device: the
/// run's program is then not recorded again.
///
/// # Errors
///
/// As [`start`].
pub fn start_with(
    settings: &RunSettings,
    device: Device,
    programs: &mut Programs,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Trainer> {
    let settings = &settings.absolute();
    // Faults of the initial model take precedence over those of the tokenizer and the data.
    let first = settings.init.as_ref().map(|init| {
        let sizes = checkpoint::read_config(init)?;
        let weights = model::open_weights(init, &sizes)?;
        Ok::<_, Error>((sizes, weights))
    });
    let first = first.transpose()?;
    let sizes = first.as_ref().map_or(&settings.model, |(sizes, _)| sizes);
    sizes.validate()?;
    settings.train.validate(sizes)?;
    model::check_finetune(sizes, &settings.train.finetune)?;
    settings.check_adapted()?;
    let Some(path) = &settings.train.out else {
        return open(settings, None, first, device, programs, on_event);
    };
    let is_new = !disk::exists(path);
    let run = RunDir::create(path, settings)?;
    // A run that could not begin leaves nothing, so that the same command can be repeated.
    open(settings, Some(run), first, device, programs, on_event).inspect_err(|_| {
        for name in settings::BEFORE_TRAINING {
            let _ = disk::remove_file(path.join(name));
        }
        if is_new {
            let _ = disk::remove_dir(path);
        }
    })
}

/// Opens a run's folder again: from its newest checkpoint, or from the beginning if there is none yet.
///
/// `device` opens the device that the settings name; it is called only if the run is not finished.
///
/// # Errors
///
/// If there is no run, another process is using it, or one of its files is damaged.
pub fn resume(
    dir: &Path,
    device: impl FnOnce(&RunSettings) -> Result<Device>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Resumed> {
    resume_on(dir, 1, Changes::default(), device, on_event)
}

/// What changes when a run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The number of stages that the ranks form; `None`: as many as the run had.
    pub pipeline: Option<usize>,
    /// The number of updates, more than the run had: see [`TrainConfig::learning_rate_at`](crate::TrainConfig::learning_rate_at). run.json
    /// records it. A run that has ended early goes on, too.
    pub max_iters: Option<usize>,
}

/// [`resume`], for `ranks` ranks to go on with together, and with some changes: on the first rank, before [`Trainer::lead`].
///
/// # Errors
///
/// As [`resume`]; if it is not lengthened by [`Changes::max_iters`].
pub fn resume_on(
    dir: &Path,
    ranks: usize,
    changes: Changes,
    device: impl FnOnce(&RunSettings) -> Result<Device>,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Resumed> {
    let run = RunDir::open(dir)?;
    let mut settings: RunSettings = run.settings()?;
    (settings.train.out, settings.train.ranks) = (Some(dir.to_owned()), ranks);
    settings.train.pipeline = changes.pipeline.unwrap_or(settings.train.pipeline);
    if settings.train.rank_shares.len() != ranks {
        // Other ranks are measured anew.
        settings.train.rank_shares.clear();
    }
    let (train, length) = (&settings.train, changes.max_iters);
    let may_be_over = |step: usize| step >= train.max_iters || train.patience.is_some();
    let newest = run.newest_checkpoint()?;
    let newest = newest.filter(|(step, _)| may_be_over(*step) || length.is_some());
    let newest = newest.map(|(step, path)| {
        let config = checkpoint::read_config(&path)?;
        let (state, _) = checkpoint::open_state(&path, &moments(&config, &settings.train))?;
        Ok::<_, Error>((step, state))
    });
    let newest = newest.transpose()?;
    let is_over = |settings: &RunSettings, step: usize, state: &TrainState| {
        let is_complete = step >= settings.train.max_iters && state.unevaluated.is_none();
        is_complete || has_ended(settings, state)
    };
    if let Some(max_iters) = changes.max_iters {
        let at = newest.as_ref().map_or(0, |(step, _)| *step);
        let ended = newest.as_ref().is_some_and(|(_, state)| has_ended(&settings, state));
        settings.train.lengthen(at, max_iters, ended)?;
    } else if let Some((step, state)) =
        newest.filter(|(step, state)| is_over(&settings, *step, state))
    {
        // The process may have been killed between the last checkpoint and the drawing of the curve.
        draw_curve(&run, &checkpoint::read_metrics(dir)?)?;
        let summary = summary(&state, step, &settings.train, Some(dir.to_owned()));
        let conversations = Conversations::of_run(dir)?.map(Box::new);
        return Ok(Resumed::Finished(Summary { conversations, ..summary }));
    }
    settings.train.local.map_or(Ok(()), |local| local.check_ranks(ranks))?;
    check_written(&run, &settings)?;
    let device = device(&settings)?;
    device.check_precision(settings.train.precision).map_err(|error| {
        let init = field("init");
        error.hint(format!(
            "a run keeps its precision: go on with it on a GPU, or begin another one from its model with {init}"
        ))
    })?;
    let programs = &mut Programs::default();
    let trainer = open(&settings, Some(run), None, device, programs, on_event)?;
    // A run that cannot go on stays as it is.
    if let Some(run) = trainer.run.as_ref().filter(|_| changes.max_iters.is_some()) {
        let mut kept: RunSettings = run.settings()?;
        kept.train.max_iters = settings.train.max_iters;
        kept.train.lengthened.clone_from(&settings.train.lengthened);
        run.keep_settings(&kept)?;
    }
    Ok(Resumed::Running(Box::new(trainer)))
}

/// Whether a run has ended early, and was not lengthened since.
fn has_ended(settings: &RunSettings, state: &TrainState) -> bool {
    let last = settings.train.lengthened.last();
    state.ended && last.is_none_or(|change| change.at as u64 != state.step)
}

/// Checks the settings of run.json, under the names that run.json uses.
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

/// Returns the trainer of a run whose folder exists, at its newest checkpoint. `first` is the initial model, if it is
/// open already.
fn open(
    settings: &RunSettings,
    run: Option<RunDir>,
    first: Option<(GptConfig, Weights)>,
    device: Device,
    programs: &mut Programs,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Trainer> {
    let (train, dir) = (&settings.train, run.as_ref().map(RunDir::path));
    device.check_precision(train.precision)?;
    let saved = run.as_ref().map(RunDir::newest_checkpoint).transpose()?.flatten();
    let saved_path = saved.as_ref().map(|(_, path)| path.as_path());
    check_fit(settings, saved_path, &device, programs)?;
    let mut settled = |sizes: &GptConfig, on_event: &mut dyn FnMut(&Event)| {
        let uses = Uses::training(train, sizes);
        let program = programs.of(sizes, uses, &train.finetune, device.limits());
        let device = settle(device.clone(), run.as_ref(), program, on_event)?;
        Ok::<_, Error>((program.clone(), device))
    };
    // Faults of the parameters take precedence over those of the tokenizer and the data.
    let mut sample = None;
    let loaded = match parameters(settings, saved_path, first)? {
        Some((sizes, weights)) => {
            let adapts = train.finetune.lora.is_some();
            sample = adapts.then(|| weights.sample()).transpose()?;
            let (program, device) = settled(&sizes, on_event)?;
            let mut gpt = Gpt::of_weights(sizes, weights, device);
            gpt.load_into(program)?;
            Some(gpt)
        }
        None => None,
    };
    let Prepared { model: sizes, tokenizer, text_files, tokens, conversations } =
        prepare(settings, dir, saved_path, on_event)?;
    let mut gpt = match loaded {
        Some(gpt) => gpt,
        None => {
            let (_, device) = settled(&sizes, on_event)?;
            Gpt::new(sizes, device, train.seed)?
        }
    };
    // On a GPU the measurement takes a while, so it is made only if the result is kept, and nobody waits for it in a browser.
    let keeps = match gpt.device() {
        Device::Gpu(gpu) => gpu.cache().is_some() && !cfg!(target_family = "wasm"),
        Device::Cpu => true,
    };
    let half = train.precision == Precision::Mixed;
    let best_gflops = if keeps { profile::best_gflops(gpt.device(), half)? } else { None };
    gpt.set_text_files(text_files);
    if let Some(tokenizer) = tokenizer {
        gpt.set_tokenizer(tokenizer)?;
    }
    for notice in gpt.notices() {
        on_event(&Event::Note(notice.clone()));
    }
    let in_flight = train.grad_accum / train.grid().replicas();
    if in_flight < train.pipeline {
        on_event(&Event::Note(format!(
            "each pipeline has {in_flight} micro-batches per update for {} stages, so that some have no work: give {} more",
            train.pipeline,
            field("grad_accum")
        )));
    }
    let mut trainer = Trainer::with(gpt, tokens, train.clone(), programs)?;
    if let Some(run) = &run {
        run.truncate_metrics(saved.as_ref().map_or(0, |(step, _)| *step))?;
        trainer.metrics = checkpoint::read_metrics(run.path())?;
    }
    (trainer.run, trainer.base) =
        (run, settings.init.clone().map(|folder| Base { folder, sample }));
    trainer.conversations = conversations;
    trainer.best_gflops = best_gflops;
    if let Some((step, path)) = saved {
        trainer.restore(step, &path)?;
        if trainer.state.ended && !has_ended(settings, &trainer.state) {
            (trainer.state.ended, trainer.state.worse) = (false, 0);
        }
    }
    Ok(trainer)
}

/// Returns the sizes and the parameters that a run starts from: those of its checkpoint, or else of its initial model;
/// `None` if they are initialised at random.
fn parameters(
    settings: &RunSettings,
    saved: Option<&Path>,
    first: Option<(GptConfig, Weights)>,
) -> Result<Option<(GptConfig, Weights)>> {
    let open = |sizes_of: &Path, folder: &Path| {
        let sizes = checkpoint::read_config(sizes_of)?;
        let weights = model::open_weights(folder, &sizes)?;
        Ok((sizes, weights))
    };
    match (saved, &settings.init) {
        // Adapters are saved without their model.
        (Some(saved), Some(init)) if settings.train.finetune.lora.is_some() => {
            open(saved, init).map(Some)
        }
        (Some(saved), _) => {
            let advice = checkpoint::without(saved);
            let opened = open(saved, saved).map_err(|error: Error| error.hint(&advice));
            opened.map(|(sizes, weights)| Some((sizes, weights.advising(advice))))
        }
        (None, Some(init)) => first.map_or_else(|| open(init, init), Ok).map(Some),
        (None, None) => Ok(None),
    }
}

/// Checks that the device can hold the run, before the data are prepared, which may take long. For a new model the
/// smallest vocabulary is assumed, because its size is not known yet.
fn check_fit(
    settings: &RunSettings,
    saved: Option<&Path>,
    device: &Device,
    programs: &mut Programs,
) -> Result<()> {
    let sizes = match saved.or(settings.init.as_deref()) {
        Some(dir) => checkpoint::read_config(dir)?,
        None => GptConfig {
            vocab_size: settings.model.vocab_size.min(Tokenizer::bytes().vocab_size()),
            ..settings.model.clone()
        },
    };
    let uses = Uses::training(&settings.train, &sizes);
    let finetune = &settings.train.finetune;
    sizes.validate()?;
    model::check_finetune(&sizes, finetune)?;
    device.check(&programs.of(&sizes, uses, finetune, device.limits()).plan)
}

/// Fixes the variants of kernels for a run from its beginning to its end; later measurements do not change them.
/// Another variant sums in another order, and a resumed run must give the same bits.
fn settle(
    device: Device,
    run: Option<&RunDir>,
    program: &Program,
    on_event: &mut dyn FnMut(&Event),
) -> Result<Device> {
    let Device::Gpu(gpu) = device else { return Ok(device) };
    let mut kinds: Kinds = run.map(RunDir::choices).transpose()?.flatten().unwrap_or_default();
    kinds.name_unnamed(gpu.name());
    if let Some(choices) = kinds.of(gpu.name()) {
        return Ok(Device::Gpu(gpu.with_choices(choices.clone())));
    }
    let choices = choose(&gpu, &program.plan, on_event)?;
    kinds.put(gpu.name(), choices.clone());
    if let Some(run) = run {
        run.keep_choices(&kinds)?;
    }
    Ok(Device::Gpu(gpu.with_choices(choices)))
}
