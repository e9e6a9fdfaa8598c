//! `wgpt eval FILE...`: perplexity and bits per byte of texts.

use std::time::Instant;

use serde::Serialize;
use wgpt::checkpoint::EndOfText;
use wgpt::data::Sources;
use wgpt::eval::{Perplexity, Score, Windows, busy_batch, default_batch};
use wgpt::runner::Runner;
use wgpt::staged::Staged;
use wgpt::{Gpt, Result, Tokenizer};

use super::common::Common;
use crate::cli::options::{check_shape, device_name};
use crate::cli::progress::{Bar, Progress};
use crate::cli::ranks::Others;
use crate::cli::{number, output, tokenizer};

#[derive(clap::Args)]
pub struct PerplexityArgs {
    /// Text files, JSON files with a "text" per line or object, folders of these, token files (.bin), or a corpus: stories, shakespeare,
    /// tinystories
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    pub common: Common,
    /// Let windows overlap: begin each N tokens after the one before [default: one after the other]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Tokens per window [default: the model's context]
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    /// Windows per batch; this changes the speed, not the result [default: what is fast here]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Score only the first N tokens of each file [default: all]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

/// The printed report.
#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    windows: &'static str,
    stride: usize,
    seq_len: usize,
    batch_size: usize,
    files: Vec<FileScore>,
    total: Figures,
    seconds: f64,
    tokens_per_s: f64,
}

/// The figures of one file.
#[derive(Serialize)]
struct FileScore {
    name: String,
    #[serde(flatten)]
    figures: Figures,
}

/// The figures of a score.
#[derive(Serialize)]
struct Figures {
    tokens: u64,
    /// The bytes of the scored tokens' text, which are not known without a tokenizer.
    bytes: Option<u64>,
    windows: u64,
    nll_sum: f64,
    mean_nll: f64,
    perplexity: f64,
    bits_per_byte: Option<f64>,
}

impl From<&Score> for Figures {
    fn from(score: &Score) -> Figures {
        Figures {
            tokens: score.tokens,
            bytes: (score.bytes > 0).then_some(score.bytes),
            windows: score.windows,
            nll_sum: score.nll,
            mean_nll: score.mean_nll(),
            perplexity: score.perplexity(),
            bits_per_byte: score.bits_per_byte(),
        }
    }
}

/// Scores the files.
pub fn run(args: &PerplexityArgs, others: &mut Others) -> Result<()> {
    let mut texts = vec![];
    for file in &args.files {
        let sources = tokenizer::sources(std::slice::from_ref(file), &mut Progress::new())?;
        texts.extend(sources.each());
    }
    let most = args.max_tokens.unwrap_or(usize::MAX);
    // A token has about four bytes.
    let about = |text: &Sources| text.bytes().min(4_u64.saturating_mul(most as u64));
    let total_bytes = texts.iter().map(about).sum::<u64>();

    let (dir, mut gpt) = args.common.load()?;
    let (mut batch, seq) = args.shape(&gpt, total_bytes, others.are_there())?;
    let device = device_name(gpt.device());
    let uses = gpt.uses_of_batches(batch, seq);
    let mut staged = others.take(&mut gpt, uses, args.batch_size.is_none())?;
    let began = Instant::now();
    let (tokenizer, end) = (gpt.tokenizer().cloned(), gpt.end_of_text().clone());
    let read_with = tokenizer.as_ref().map(|tokenizer| (tokenizer, &end));
    let scores = match &mut staged {
        None => {
            let engine = gpt.batch_engine(batch, seq)?;
            args.score(engine, read_with, &texts, total_bytes)?
        }
        Some(staged) => {
            batch = staged.program().uses.batch;
            args.score(&mut staged.stages(), read_with, &texts, total_bytes)?
        }
    };
    staged.map_or(Ok(()), Staged::end)?;
    let seconds = began.elapsed().as_secs_f64();
    let mut total = Score::default();
    scores.iter().for_each(|(_, score)| total.add(score));
    let file = |(name, score): (String, Score)| FileScore { name, figures: (&score).into() };
    let report = Report {
        model: dir.to_string_lossy().into_owned(),
        device,
        windows: if args.stride.is_some() { "sliding" } else { "non_overlapping" },
        stride: args.stride.unwrap_or(seq),
        seq_len: seq,
        batch_size: batch,
        files: scores.into_iter().map(file).collect(),
        total: (&total).into(),
        seconds,
        tokens_per_s: total.tokens as f64 / seconds,
    };
    if args.common.json {
        output::json(&report);
        return Ok(());
    }
    output::line(&table(&report));
    let (device, rate) = (&report.device, number::rate(report.tokens_per_s));
    output::log(&format!("{} on {device}, {rate} tokens/s", number::seconds(seconds)));
    Ok(())
}

impl PerplexityArgs {
    /// Returns windows per batch and tokens per window; `total_bytes` is the size of the text. On several ranks it is not known
    /// yet how many windows fit.
    fn shape(&self, gpt: &Gpt, total_bytes: u64, on_ranks: bool) -> Result<(usize, usize)> {
        let seq = self.seq_len.unwrap_or(gpt.config().n_positions);
        let (_, seq) = check_shape(1, seq, gpt.config())?;
        let batch = self.batch_size.unwrap_or_else(|| {
            let batch = match on_ranks {
                true => busy_batch(gpt.device(), seq),
                false => default_batch(gpt, seq),
            };
            batch.min((total_bytes as usize).div_ceil(seq).max(1))
        });
        check_shape(batch, seq, gpt.config())
    }

    /// Returns the name and the score of each text, with a progress bar.
    fn score(
        &self,
        runner: &mut impl Runner,
        read_with: Option<(&Tokenizer, &EndOfText)>,
        texts: &[Sources],
        total_bytes: u64,
    ) -> Result<Vec<(String, Score)>> {
        let most = self.max_tokens.unwrap_or(usize::MAX);
        let windows = self.stride.map_or(Windows::NonOverlapping, Windows::Sliding);
        let bar = Bar::new("evaluating", total_bytes);
        let mut scores = vec![];
        for text in texts {
            let width = text.tokens()?.map(|tokens| tokens.width());
            let row = Perplexity::new(runner, read_with, windows)?.on_window(|window| {
                bar.add(width.map_or(window.bytes, |width| (window.scored * width) as u64));
            });
            scores.push((text.name().to_owned(), row.score(text, most)?));
        }
        Ok(scores)
    }
}

/// Returns the table: a row per file, and one for all files if there are several.
fn table(report: &Report) -> String {
    let mut rows: Vec<[String; 6]> =
        report.files.iter().map(|file| row(&file.name, &file.figures)).collect();
    if rows.len() > 1 {
        rows.push(row("total", &report.total));
    }
    let head = ["text", "tokens", "bytes", "loss", "perplexity", "bits per byte"];
    output::table(head, &[0], rows)
}

fn row(name: &str, figures: &Figures) -> [String; 6] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        name.to_owned(),
        number::thousands(figures.tokens),
        known(figures.bytes.map(number::thousands)),
        format!("{:.4}", figures.mean_nll),
        format!("{:.4}", figures.perplexity),
        known(figures.bits_per_byte.map(|bits| format!("{bits:.4}"))),
    ]
}
