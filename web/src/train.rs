//! Training: the same runs as on a computer, in the tree of files.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};
use wgpt::backend::gpu::DeviceChoice;
use wgpt::config::Precision;
use wgpt::generate::generate;
use wgpt::train::{Resumed, RunSettings, TokenizerChoice, resume, start};
use wgpt::{Event, GenerateOptions, Result, Summary, TrainConfig, Trainer, arch, checkpoint};

use crate::call::{Tell, is_stopped};
use crate::device::open;
use crate::sizes::Size;

/// The new tokens of a sample.
const SAMPLE_TOKENS: usize = 80;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    run: PathBuf,
    resume: bool,
    data: Vec<String>,
    size: Size,
    arch: Option<String>,
    init: Option<PathBuf>,
    vocab: Option<usize>,
    context: Option<usize>,
    batch: Option<usize>,
    steps: Option<usize>,
    lr: Option<f64>,
    seed: Option<u64>,
    device: Option<DeviceChoice>,
    precision: Option<Precision>,
    save_every: usize,
    eval_every: usize,
    sample_every: usize,
    /// The most tokens to validate on at the end: a page does not let anybody wait for all of a large text.
    val_tokens: usize,
    prompt: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            run: PathBuf::from("/runs/run"),
            resume: false,
            data: vec!["stories".to_owned()],
            size: Size::Named("tiny".to_owned()),
            arch: None,
            init: None,
            vocab: None,
            context: None,
            batch: None,
            steps: None,
            lr: None,
            seed: None,
            device: None,
            precision: None,
            save_every: 200,
            eval_every: 200,
            sample_every: 200,
            val_tokens: 16_384,
            prompt: String::new(),
        }
    }
}

/// Starts a run or goes on with one, until its end or a stop.
pub fn train(options: &Options, tell: &Tell) -> Result<Value> {
    let mut said = Said { tell, has_started: false, stop: None };
    let mut trainer = match open_run(options, &mut said)? {
        Resumed::Running(trainer) => *trainer,
        Resumed::Finished(summary) => return Ok(shown(&summary)),
    };
    said.stop = Some(trainer.stop_flag());
    loop {
        // A run is saved where it stops; so a sample comes right after a save, and costs no other one.
        let every = options.sample_every.max(1);
        let next = (trainer.steps_made() / every + 1) * every;
        trainer.stop_after(if options.sample_every == 0 { usize::MAX } else { next });
        let summary = trainer.run(&mut |event| said.hear(event))?;
        let ends = summary.finished || is_stopped();
        if options.sample_every > 0 && !is_stopped() {
            let text = sample(&mut trainer, &options.prompt)?;
            tell.say(&json!({ "event": "sample", "step": summary.steps, "text": text }));
        }
        if ends {
            return Ok(shown(&summary));
        }
    }
}

fn open_run(options: &Options, said: &mut Said) -> Result<Resumed> {
    if options.resume {
        let device = |settings: &RunSettings| open(options.device.or(Some(settings.device)));
        return resume(&options.run, device, &mut |event| said.hear(event));
    }
    let device = open(options.device)?;
    let model = match &options.init {
        Some(init) => checkpoint::read_config(&checkpoint::model_at(init)?)?,
        None => {
            let mut model = options.size.config(options.arch.as_deref())?;
            model.vocab_size = options.vocab.unwrap_or(model.vocab_size);
            model.n_positions = options.context.unwrap_or(model.n_positions);
            arch::presets::complete(&model)?
        }
    };
    let default = TrainConfig::for_model(&model);
    let train = TrainConfig {
        max_iters: options.steps.unwrap_or(default.max_iters),
        batch_size: options.batch.unwrap_or(default.batch_size),
        seq_len: options.context.or(default.seq_len),
        learning_rate: options.lr.unwrap_or(default.learning_rate),
        seed: options.seed.unwrap_or(default.seed),
        precision: options.precision.unwrap_or_else(|| device.best_precision()),
        eval_every: options.eval_every,
        save_every: options.save_every,
        log_every: 1,
        val_tokens: Some(options.val_tokens),
        keep: 1,
        out: Some(options.run.clone()),
        ..default
    };
    let settings = RunSettings {
        data: options.data.clone(),
        val_data: vec![],
        long: wgpt::chat::Long::default(),
        tokenizer: TokenizerChoice::default(),
        model,
        train,
        device: options.device.unwrap_or_default(),
        threads: None,
        init: options.init.as_deref().map(checkpoint::model_at).transpose()?,
        cache: None,
    };
    let trainer = start(&settings, device, &mut |event| said.hear(event))?;
    Ok(Resumed::Running(Box::new(trainer)))
}

/// Continues a prompt with the model as it is now.
fn sample(trainer: &mut Trainer, prompt: &str) -> Result<String> {
    let prompt = match trainer.model().encode_prompt(prompt)? {
        ids if ids.is_empty() => vec![trainer.first_token()],
        ids => ids,
    };
    let tokenizer = trainer.model().tokenizer().cloned();
    let ends = trainer.model().end_of_text().ids().to_vec();
    let options = GenerateOptions {
        max_tokens: SAMPLE_TOKENS,
        temperature: 0.8,
        ..GenerateOptions::default()
    };
    let mut ids = prompt.clone();
    ids.extend(generate(trainer.engine(), &prompt, &options, &ends, |_| Ok(!is_stopped()))?);
    tokenizer.map_or(Ok(String::new()), |tokenizer| tokenizer.decode_lossy(&ids))
}

fn shown(summary: &Summary) -> Value {
    serde_json::to_value(summary).expect("a summary is JSON")
}

/// What is told of a run.
struct Said<'a> {
    tell: &'a Tell<'a>,
    has_started: bool,
    stop: Option<Arc<AtomicBool>>,
}

impl Said<'_> {
    fn hear(&mut self, event: &Event) {
        let value = match event {
            Event::Preparing { what, done, total } => {
                json!({ "event": "preparing", "what": what, "done": done, "total": total })
            }
            Event::Note(text) => json!({ "event": "note", "text": text }),
            Event::Tuning(notice) => json!({ "event": "tuning", "text": notice.to_string() }),
            Event::Started { .. } if self.has_started => return,
            Event::Started {
                parameters,
                device,
                plan_bytes,
                first_step,
                train_tokens,
                val_tokens,
                ..
            } => {
                self.has_started = true;
                json!({
                    "event": "started", "parameters": parameters, "device": device, "plan_bytes": plan_bytes,
                    "first_step": first_step, "train_tokens": train_tokens, "val_tokens": val_tokens,
                })
            }
            Event::Step(step) => json!({
                "event": "step", "step": step.step, "steps": step.steps, "loss": step.loss,
                "tokens_per_s": step.tokens_per_s, "grad_norm": step.grad_norm, "lr": step.learning_rate,
                "skipped": step.skipped,
            }),
            Event::NothingToLearn { step } => {
                json!({ "event": "note", "text": format!("update {step} had nothing to learn") })
            }
            Event::Evaluating { done, total } => {
                json!({ "event": "evaluating", "done": done, "total": total })
            }
            Event::Evaluated { step, val_loss, best, whole } => json!({
                "event": "evaluated", "step": step, "val_loss": val_loss, "best": best, "whole": whole,
            }),
            Event::Saving { step } => json!({ "event": "saving", "step": step }),
            Event::Saved { step, path } => json!({ "event": "saved", "step": step, "path": path }),
        };
        self.tell.say(&value);
        if is_stopped()
            && let Some(stop) = &self.stop
        {
            stop.store(true, Ordering::Relaxed);
        }
    }
}
