//! `wgpt eval choices`: multiple choice by log-likelihood.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use wgpt::eval::{
    ChoiceReport, LeftOut, Prepared, Question, busy_batch, default_batch, read_questions,
};
use wgpt::staged::Staged;
use wgpt::{Error, Result};

use super::common::{self, Common};
use crate::cli::options::{check_shape, device_name};
use crate::cli::progress::Bar;
use crate::cli::ranks::Others;
use crate::cli::{number, output};

const EXAMPLES: &str = "\
A line of FILE is {\"context\": \"...\", \"choices\": [\"...\", \"...\"], \"answer\": 0}, or one of HellaSwag's own files: ctx, endings, \
label; of these, activity_label, ctx_a and ctx_b are put together and cleaned as lm-evaluation-harness does it.

How it is scored, as the harness scores HellaSwag:
  acc: the right choice has the largest sum of log-probabilities, given the context.
  acc_norm: the same, each sum divided by the choice's characters, without the blank before it.
A context and a choice, with a blank between them, are encoded together. The choice's tokens are those after as many tokens as the \
context alone has; if there are none, both are encoded separately. Among equal choices the first one counts. A context that is too \
long loses its beginning. A question that cannot be scored (a single or an empty choice, or one longer than the model's context) \
is left out and counted.

Examples:
  wgpt eval choices hellaswag_val.jsonl --model gpt2
  wgpt eval choices questions.jsonl --limit 100 --json";

/// Multiple choice by log-likelihood: accuracy, by token sum and by character
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A .jsonl file with one question per line
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    pub common: Common,
    /// Ask only the first N questions [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The text between a context and a choice
    #[arg(long, value_name = "TEXT", default_value = " ")]
    delimiter: String,
    /// Choices per batch; this changes the speed, not the result [default: what is fast here]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
}

/// The printed report.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    file: String,
    #[serde(flatten)]
    found: ChoiceReport,
    left_out: usize,
    left_out_lines: Vec<usize>,
    seconds: f64,
}

/// Runs the questions.
pub fn run(args: &Args, others: &mut Others) -> Result<()> {
    let name = args.file.display().to_string();
    let questions = args.questions(&name)?;
    let (dir, mut gpt) = args.common.load()?;
    let tokenizer = common::tokenizer(&gpt, &dir, "the questions")?;
    let context = gpt.config().n_positions;
    let prepared =
        Prepared::new(&questions, &tokenizer, gpt.end_of_text(), context, &args.delimiter)
            .map_err(|error| error.at(&name))?;
    report_left_out(&name, prepared.left_out());
    let seq = prepared.longest();
    let batch = args.batch_size.unwrap_or_else(|| {
        let batch = match others.are_there() {
            true => busy_batch(gpt.device(), seq),
            false => default_batch(&gpt, seq),
        };
        batch.min(prepared.len())
    });
    let (batch, seq) = check_shape(batch, seq, gpt.config())?;
    let device = device_name(gpt.device());

    let uses = gpt.uses_of_batches(batch, seq);
    let mut staged = others.take(&mut gpt, uses, args.batch_size.is_none())?;
    let began = Instant::now();
    let bar = Bar::new("choosing", prepared.len() as u64);
    let progress = &mut |_| bar.add(1);
    let found = match &mut staged {
        None => prepared.choose(gpt.batch_engine(batch, seq)?, progress)?,
        Some(staged) => prepared.choose(&mut staged.stages(), progress)?,
    };
    drop(bar);
    staged.map_or(Ok(()), Staged::end)?;
    let report = Report {
        model: dir.to_string_lossy().into_owned(),
        device,
        file: name,
        found,
        left_out: prepared.left_out().len(),
        left_out_lines: prepared.left_out().iter().map(|left| left.line).collect(),
        seconds: began.elapsed().as_secs_f64(),
    };
    if args.common.json {
        output::json(&report);
        return Ok(());
    }
    output::line(&table(&report.found));
    if report.found.cut > 0 {
        let cut = number::thousands(report.found.cut as u64);
        output::log(&format!(
            "{cut} choices lost the beginning of their context to fit {context} tokens"
        ));
    }
    output::log(&format!("{} on {}", number::seconds(report.seconds), report.device));
    Ok(())
}

impl Args {
    fn questions(&self, name: &str) -> Result<Vec<Question>> {
        let file = File::open(&self.file).map_err(|e| {
            Error::io("opening", &self.file, &e)
                .hint("give a .jsonl file with one question per line")
        })?;
        let mut questions = read_questions(BufReader::new(file), name)?;
        if self.limit == Some(0) {
            return Err(Error::usage("--limit is 0, must be at least 1"));
        }
        questions.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(questions)
    }
}

/// Reports which questions are left out, and why; if there are many, only the first few.
fn report_left_out(file: &str, left_out: &[LeftOut]) {
    const FEW: usize = 5;
    for LeftOut { line, reason } in left_out.iter().take(FEW) {
        output::log(&format!("{file}, line {line}: the question is left out: {reason}"));
    }
    if left_out.len() > FEW {
        let (all, more) = (left_out.len() as u64, (left_out.len() - FEW) as u64);
        let (all, more) = (number::thousands(all), number::thousands(more));
        output::log(&format!("and {more} more: {all} questions in all are left out"));
    }
}

fn table(found: &ChoiceReport) -> String {
    let row = |what: &str, value: f64, stderr: f64| {
        [
            what.to_owned(),
            format!("{value:.4}"),
            format!("± {stderr:.4}"),
            number::thousands(found.n as u64),
        ]
    };
    let rows = vec![
        row("acc", found.acc, found.acc_stderr),
        row("acc_norm", found.acc_norm, found.acc_norm_stderr),
    ];
    output::table(["measure", "value", "stderr", "questions"], &[0], rows)
}
