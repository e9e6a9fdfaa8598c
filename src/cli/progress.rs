//! Progress of a run on stderr: a bar on a terminal, otherwise plain lines.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wgpt::Event;
use wgpt::backend::gpu::Notice;
use wgpt::train::StepReport;

use super::{number, output};

/// The progress of a measurement and the remaining time; nothing is shown if there is no terminal.
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// Creates a bar for a total of `total` units.
    pub fn new(what: &str, total: u64) -> Bar {
        Bar(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix}  {bar:24}  {percent} %  ETA {eta}");
            bar.set_style(style.expect("a template of ours").progress_chars("━╸─"));
            bar.with_prefix(what.to_owned())
        }))
    }

    /// Adds completed units.
    pub fn add(&self, done: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows the events of a run.
pub struct Progress {
    terminal: bool,
    bar: Option<ProgressBar>,
    /// The work that is being prepared; empty if there is none.
    preparing: String,
    skipped: u32,
    /// The start of the current evaluation.
    evaluating: Option<Instant>,
}

impl Progress {
    /// Creates a display that shows nothing yet.
    pub fn new() -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { terminal, bar: None, preparing: String::new(), skipped: 0, evaluating: None }
    }

    /// Replaces the bar with a new one.
    fn open(&mut self, total: u64, template: &str) {
        self.end();
        if self.terminal {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(template).expect("a template of ours");
            bar.set_style(style.progress_chars("━╸─"));
            self.bar = Some(bar);
        }
    }

    /// Removes the bar.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Prints a permanent line above the bar.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::log(line)),
            None => output::log(line),
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Preparing { what, done, total } => self.prepare(what, *done, *total),
            Event::Note(note) => self.say(note),
            Event::Tuning(notice) => self.tuning(notice),
            Event::Started { first_step, .. } => self.start(event, *first_step),
            Event::Step(report) => self.step(report),
            Event::NothingToLearn { step } => self.say(&format!(
                "step {step}: none of its tokens has a target that counts; the update is left out"
            )),
            Event::Evaluating { done, total } => self.evaluate(*done, *total),
            Event::Evaluated { step, val_loss, best, whole } => {
                self.evaluating = None;
                if let Some(bar) = &self.bar {
                    bar.set_prefix("");
                }
                let what = if *whole { "over the whole validation split" } else { "sampled" };
                let best = if *best { ", the best so far" } else { "" };
                self.say(&format!("step {step}: validation loss {val_loss:.4} ({what}{best})"));
            }
            Event::Saving { .. } => {}
            Event::Saved { step, path } => {
                if !self.terminal {
                    self.say(&format!("step {step}: saved {}", output::path(path)));
                }
            }
        }
    }

    /// Shows the progress of an evaluation, within the bar of the updates; nothing if there is no terminal.
    fn evaluate(&mut self, done: usize, total: usize) {
        if done == 0 {
            self.evaluating = Some(Instant::now());
        }
        let (Some(bar), Some(began)) = (&self.bar, self.evaluating) else { return };
        bar.set_prefix(evaluation(done, total, began.elapsed().as_secs_f64()));
        bar.tick();
    }

    fn prepare(&mut self, what: &str, done: u64, total: u64) {
        if self.preparing != what && !self.terminal {
            self.say(what);
        }
        self.bytes(what, done, total);
    }

    /// Shows how many bytes are done, of `total` if that is not 0; nothing if there is no terminal.
    pub fn bytes(&mut self, what: &str, done: u64, total: u64) {
        let known = "{prefix}  {bar:24}  {bytes}/{total_bytes}  {bytes_per_sec}  ETA {eta}";
        self.part(what, done, total, known);
    }

    /// Does the same as [`bytes`](Progress::bytes), for things that are counted.
    pub fn count(&mut self, what: &str, done: u64, total: u64) {
        self.part(what, done, total, "{prefix}  {bar:24}  {human_pos}/{human_len}  ETA {eta}");
    }

    /// Shows a notice about kernels that are compared and timed: the work as a bar, everything else as a line.
    pub fn tuning(&mut self, notice: &Notice) {
        let Notice::Working { what, done, total } = notice else {
            return self.say(&notice.to_string());
        };
        let known = "{prefix}  {bar:24}  {human_pos}/{human_len}  ETA {eta}  {wide_msg}";
        self.part("tuning", *done as u64, *total as u64, known);
        if let Some(bar) = &self.bar {
            bar.set_message(what.clone());
        }
    }

    fn part(&mut self, what: &str, done: u64, total: u64, known: &str) {
        if self.preparing != what {
            self.preparing = what.to_owned();
            self.open(total, if total > 0 { known } else { "{prefix}  {spinner}" });
            if let Some(bar) = &self.bar {
                bar.set_prefix(what.to_owned());
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done.min(total));
        }
    }

    fn start(&mut self, event: &Event, first_step: usize) {
        let Event::Started {
            parameters,
            trained,
            device,
            plan_bytes,
            run_dir,
            train_tokens,
            val_tokens,
            ..
        } = event
        else {
            return;
        };
        self.end();
        let all = number::millions(*parameters as u64);
        let part = match trained < parameters {
            true => format!("{} of {all}", number::millions(*trained as u64)),
            false => all,
        };
        self.say(&format!(
            "{part} parameters on {device}, {} of memory",
            number::bytes(*plan_bytes)
        ));
        self.say(&format!(
            "{} tokens to train on, {} to validate",
            number::thousands(*train_tokens as u64),
            number::thousands(*val_tokens as u64)
        ));
        if let Some(dir) = run_dir {
            self.say(&format!("the run is in {}", output::path(dir)));
        }
        if first_step > 0 {
            self.say(&format!("going on after update {first_step}"));
        }
        self.open(0, "{bar:16}  {pos}/{len}  {prefix}{wide_msg}");
        if let Some(bar) = &self.bar {
            bar.set_position(first_step as u64);
        }
    }

    fn step(&mut self, report: &StepReport) {
        if report.skipped > self.skipped {
            self.skipped = report.skipped;
            let rank = report.broken_rank.map_or(String::new(), |rank| format!(" on rank {rank}"));
            self.say(&format!(
                "step {}: update left out, since its loss or gradient was not finite{rank} ({} so far)",
                report.step, report.skipped
            ));
        }
        let left = report.tokens as f64 / report.step.max(1) as f64
            * report.steps.saturating_sub(report.step) as f64
            / report.tokens_per_s.max(1e-9);
        let (rate, left) = (number::rate(report.tokens_per_s), number::seconds(left));
        let ranks = report.exchange.map_or(String::new(), |exchange| {
            let waiting = 100.0 * exchange.waited;
            format!("  {} ranks, {waiting:.0} % of the time waiting", exchange.ranks)
        });
        let loss = report.loss.map(|loss| format!("loss {loss:.4}  ")).unwrap_or_default();
        match &self.bar {
            Some(bar) => {
                bar.set_length(report.steps as u64);
                bar.set_position(report.step as u64);
                if !loss.is_empty() {
                    bar.set_message(format!("{loss}{rate} tokens/s  ETA {left}{ranks}"));
                }
            }
            None if report.logged => {
                let (step, steps, lr) = (report.step, report.steps, report.learning_rate);
                let mfu =
                    report.mfu.map_or(String::new(), |mfu| format!("  MFU {:.1} %", 100.0 * mfu));
                self.say(&format!(
                    "step {step}/{steps}  {loss}lr {lr:.2e}  {rate} tokens/s  ETA {left}{mfu}{ranks}"
                ));
            }
            None => {}
        }
    }
}

/// Formats the progress of an evaluation after so many seconds: a bar, the batches, and the remaining time, once it is
/// known.
fn evaluation(done: usize, total: usize, seconds: f64) -> String {
    const WIDTH: usize = 16;
    let full = WIDTH * done / total.max(1);
    let (full, rest) = ("━".repeat(full), "─".repeat(WIDTH - full));
    let counts = [done, total].map(|n| number::thousands(n as u64)).join("/");
    let eta = match done {
        0 => String::new(),
        _ => {
            let left = seconds / done as f64 * (total - done) as f64;
            format!("ETA {}  ", number::seconds(left))
        }
    };
    format!("evaluating {full}{rest}  {counts}  {eta}")
}

#[cfg(test)]
mod tests {
    use super::evaluation;

    #[test]
    fn an_evaluation_shows_its_share_and_the_time_that_is_left() {
        let bar = |full: usize| "━".repeat(full) + &"─".repeat(16 - full);
        assert_eq!(evaluation(0, 20, 0.0), format!("evaluating {}  0/20  ", bar(0)));
        let quarter = format!("evaluating {}  300/1,200  ETA 1 min 30 s  ", bar(4));
        assert_eq!(evaluation(300, 1200, 30.0), quarter);
        assert_eq!(evaluation(20, 20, 5.0), format!("evaluating {}  20/20  ETA 0.0 s  ", bar(16)));
    }
}
