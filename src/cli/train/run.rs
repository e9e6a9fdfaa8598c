//! The run itself: opened, trained on one rank or on several, and reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wgpt::backend::Device;
use wgpt::checkpoint;
use wgpt::dist::{LinkSpeed, Throttled, World};
use wgpt::generate::Request;
use wgpt::train::{self, Changes, Resumed, RunSettings};
use wgpt::{Event, GenerateOptions, Gpt, Result, Summary, Tokenizer, Trainer};

use super::Args;
use crate::cli::interrupt::{self, Running, set_running};
use crate::cli::launch::status::{Status, watched};
use crate::cli::options::{find_model, open};
use crate::cli::outcome::Outcome;
use crate::cli::progress::Progress;
use crate::cli::ranks::{self, Ranks};
use crate::cli::{flags, number, output, profile};

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
    let world: Box<dyn World> = match args.throttle.filter(|_| several) {
        None => world,
        Some(bytes_per_s) => {
            Box::new(Throttled::new(world, LinkSpeed { bytes_per_s, latency_s: 0.0 }))
        }
    };
    let result = match world.rank() {
        0 => run_first(args, threads, world, &told, status.as_deref()),
        _ => run_other(args, world, &told, status.as_deref()),
    };
    if let Some(status) = status {
        status.end(result.is_err());
    }
    if several && let Err(error) = result {
        // The other ranks must not be waited for: the launcher ends them.
        output::error(&error);
        std::process::exit(1);
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
    if args.profile.profile {
        trainer.begin_profile(PROFILED);
    }
    heed(&trainer, told)?;
    let summary = trainer.run(&mut |event| note(status, event))?;
    if args.profile.profile {
        trainer.times_of_ranks()?;
        trainer.spans_of_ranks()?;
    }
    if summary.finished && shows_sample(args, &trainer) && trainer.is_in_stages() {
        trainer.help_to_generate()?;
    }
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
    let say = if args.json { output::log } else { output::line };
    if args.profile.profile {
        let times = trainer.times_of_ranks()?;
        let spans = trainer.spans_of_ranks()?;
        if let Some((profile, report)) = trainer.end_profile()? {
            args.profile.write_trace(&profile, &spans)?;
            say(&profile::table(&report));
        }
        if times.len() > 1 {
            say(&profile::table_of_ranks(&times));
        }
    }
    if !summary.finished {
        stopped(&summary, args.json);
        return Ok(Outcome::Good);
    }
    // The run is finished and saved, even if the sample fails.
    if shows_sample(args, &trainer)
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
            let changes =
                Changes { pipeline: args.steps.sum.pipeline(), max_iters: args.steps.max_iters };
            match train::resume_on(dir, ranks, changes, device, &mut |event| progress.show(event))?
            {
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
            let mut programs = args.fit(&mut settings, &device)?;
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

/// Whether a text of the model is shown at the end. One that has learned conversations is talked to.
fn shows_sample(args: &Args, trainer: &Trainer) -> bool {
    !args.json && !trainer.learns_conversations()
}

/// Prints a text of the trained model: a new text, or, if no token begins texts, one that begins with the first token
/// of the data.
fn sample(mut trainer: Trainer) -> Result<()> {
    let first = trainer.first_token();
    let options =
        GenerateOptions { max_tokens: 200, temperature: 0.7, ..GenerateOptions::default() };
    if trainer.is_in_stages() {
        return sample_on_stages(&mut trainer, first, options);
    }
    let mut gpt: Gpt = trainer.into_model();
    let Some(tokenizer) = gpt.tokenizer() else { return Ok(()) };
    let opening = gpt.end_of_text().opening();
    let shown = match opening {
        Some(_) => String::new(),
        None => tokenizer.decode_lossy(&[first])?,
    };
    output::line("A sample:\n");
    output::text(&shown);
    gpt.generate_stream_after(&[opening.unwrap_or(first)], &options, &mut output::text)?;
    output::line("\n");
    Ok(())
}

/// Does the same where the layers lie on several ranks.
fn sample_on_stages(trainer: &mut Trainer, first: u32, options: GenerateOptions) -> Result<()> {
    let gpt = trainer.model();
    let (opening, ends) = (gpt.end_of_text().opening(), gpt.end_of_text().ids().to_vec());
    let tokenizer = gpt.tokenizer().cloned();
    // The others wait for a text, so that one is made in any case.
    let options = GenerateOptions {
        max_tokens: if tokenizer.is_some() { options.max_tokens } else { 0 },
        ..options
    };
    let mut ids: Vec<u32> = opening.is_none().then_some(first).into_iter().collect();
    let mut seen = |token| {
        if !ends.contains(&token) {
            ids.push(token);
        }
        Ok(())
    };
    let prompt = &[opening.unwrap_or(first)];
    trainer.generate_on_stages(Request { prompt, options: &options }, &ends, &mut seen)?;
    if let Some(tokenizer) = tokenizer {
        output::line("A sample:\n");
        output::line(&tokenizer.decode_lossy(&ids)?);
    }
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
    if summary.ended_early {
        output::line(&format!("{:<16} before all updates: --patience", "ended"));
    }
    if let Some(conversations) = &summary.conversations {
        output::line(&format!("{:<16} {}", "trained on", conversations.training));
        if let Some(validation) = &conversations.validation {
            output::line(&format!("{:<16} {validation}", "validated on"));
        }
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
        let best = dir.join("best");
        if summary.conversations.is_some() {
            output::line("\nTo talk to the model:");
            output::line(&format!("  wgpt chat --model {}", output::quoted(&best)));
            return;
        }
        output::line("\nTo let the model write:");
        let prompt = match Tokenizer::exists(&best) {
            true => "--prompt \"Once upon a time\"",
            // The tokenizer of these token ids is not known.
            false => "--prompt-ids 0",
        };
        output::line(&format!("  wgpt generate --model {} {prompt}", output::quoted(&best)));
    }
}
