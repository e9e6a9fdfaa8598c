//! `wgpt eval`: honest measures of a model, and of text.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use wgpt::data::{self, Sources, Tokens};
use wgpt::eval::{
    Bleu, BleuCounts, LeftOut, Perplexity, Prepared, Score, Windows, continue_and_score, cut,
    default_batch, read_questions,
};
use wgpt::tokenizer::AddedAs;
use wgpt::{Error, GenerateOptions, Gpt, Result};

use super::options::{
    ChoiceArgs, DeviceArgs, PrecisionArgs, PrecisionChoice, check_shape, device_name, find_model,
    load, open,
};
use super::outcome::Outcome;
use super::progress::{Bar, Progress};
use super::{number, output, tokenizer};

const EXAMPLES: &str = "\
How it is counted:
  perplexity: exp(sum of -ln p / scored tokens), over all tokens but the first, before which there is nothing.
  bits per byte: sum of -log2 p / bytes of the scored tokens' text. An end-of-text token has no bytes, but its -log2 p counts.
  windows: without --stride, one after the other, as training measures its loss; each token is predicted from those before it \
in its window. With --stride N, they begin N tokens apart and score what no window before has scored: slower, and each token has \
more before it. With N the whole window, a window's first token is not scored.
  documents: a text file ends one at <|endoftext|>, a JSON file at each object. Between two stands the end-of-text token, as in \
training.

Examples:
  wgpt eval held-out.txt                        perplexity of the newest run's best model
  wgpt eval --model gpt2 a.txt b.jsonl --stride 512
  wgpt eval --model folder tokens.bin --json
  wgpt eval continuations held-out.txt          what it writes, against how the text goes on
  wgpt eval choices hellaswag_val.jsonl --model gpt2
  wgpt eval bleu hypotheses.txt references.txt  BLEU of any text; no model needed";

/// Measure a model: perplexity and bits per byte of a text, BLEU, multiple choice
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    perplexity: PerplexityArgs,
}

#[derive(clap::Subcommand)]
enum Command {
    Bleu(BleuArgs),
    Continuations(ContinuationsArgs),
    Choices(ChoicesArgs),
}

/// Which model, where, and how the results are printed.
#[derive(clap::Args)]
struct Common {
    /// A model folder, a run (its best model), a .safetensors file, or a name on Hugging Face's hub [default: the newest run in runs/]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// f32, mixed (half precision but for weights, sums and the residual stream), or auto: mixed on a GPU that has it
    #[arg(long, value_name = "PRECISION", default_value = "f32", hide_possible_values = true)]
    precision: PrecisionChoice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct PerplexityArgs {
    /// Text files, JSON files with a "text" a line or an object, folders of these, token files (.bin), or a corpus: stories, shakespeare,
    /// tinystories
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Let windows overlap: each begins so many tokens after the one before [default: one after the other]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Tokens a window [default: the model's context]
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    /// Windows a batch; changes how fast it is, not what comes out [default: what is fast here]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Only the first so many tokens of each file [default: all]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

const BLEU_EXAMPLES: &str = "\
The score is sacrebleu's with its defaults: 13a tokens, exponential smoothing, the closest reference's length.

Examples:
  wgpt eval bleu hypotheses.txt references.txt
  wgpt eval bleu hypotheses.txt first.txt second.txt --json";

/// BLEU of lines of text against one or more references, as sacrebleu scores it
#[derive(clap::Args)]
#[command(after_help = BLEU_EXAMPLES)]
struct BleuArgs {
    /// The text to score, a line a segment
    #[arg(value_name = "HYP")]
    hypotheses: PathBuf,
    /// References, each with as many lines
    #[arg(value_name = "REF", required = true)]
    references: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const CONTINUATIONS_EXAMPLES: &str = "\
The text is cut into pieces of a prompt and a reference, one after the other within its documents, of which as many as --samples \
are taken, spread evenly. The same command gives the same text.

Examples:
  wgpt eval continuations held-out.txt
  wgpt eval continuations held-out.txt --model runs/NAME/best --samples 500 --temperature 0.8 --json";

/// BLEU of what a model writes after the beginnings of held-out text, against how the text goes on
#[derive(clap::Args)]
#[command(after_help = CONTINUATIONS_EXAMPLES)]
struct ContinuationsArgs {
    /// Text the model has not seen: as for wgpt eval
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Tokens of a prompt [default: 32, or half the context]
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Tokens of a reference, and of what is written [default: 32, or half the context]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// The most pieces to take
    #[arg(long, value_name = "N", default_value_t = 100)]
    samples: usize,
    /// Below 1 more likely, above 1 more surprising; 0: always the likeliest token
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    temperature: f64,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// What is drawn follows from it [default: 1337]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

const CHOICES_EXAMPLES: &str = "\
A line of FILE is {\"context\": \"...\", \"choices\": [\"...\", \"...\"], \"answer\": 0}, or one of HellaSwag's own files: ctx, endings, \
label; of these, activity_label, ctx_a and ctx_b are put together and cleaned as lm-evaluation-harness does it.

How it is scored, as the harness scores HellaSwag:
  acc: the right choice has the largest sum of log-probabilities, given the context.
  acc_norm: the same, each sum divided by the choice's characters, without the blank before it.
A context and a choice, a blank between them, are encoded together; the tokens beyond as many as the context has alone are the \
choice's; where there are none, both are encoded for themselves. Of equal choices the first counts. A context that is too long \
loses its beginning. A question that cannot be scored (a single or an empty choice, or one longer than the model's context) is \
left out and counted.

Examples:
  wgpt eval choices hellaswag_val.jsonl --model gpt2
  wgpt eval choices questions.jsonl --limit 100 --json";

/// Multiple choice by log-likelihood: accuracy, by token sum and by character
#[derive(clap::Args)]
#[command(after_help = CHOICES_EXAMPLES)]
struct ChoicesArgs {
    /// A .jsonl file with a question a line
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    common: Common,
    /// Only the first so many questions [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// What stands between a context and a choice
    #[arg(long, value_name = "TEXT", default_value = " ")]
    delimiter: String,
    /// Choices a batch; changes how fast it is, not what comes out [default: what is fast here]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
}

/// Measures.
///
/// # Errors
///
/// If the model, or what it is measured on, cannot be read; if an option is out of range.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        None => perplexity(&args.perplexity)?,
        Some(Command::Bleu(args)) => bleu(args)?,
        Some(Command::Continuations(args)) => continuations(args)?,
        Some(Command::Choices(args)) => choices(args)?,
    }
    Ok(Outcome::Good)
}

impl Common {
    /// The model and its folder.
    fn load(&self) -> Result<(PathBuf, Gpt)> {
        let dir = find_model(self.model.as_deref())?;
        let device = open(self.device.device)?;
        let precision = PrecisionArgs { precision: self.precision }.on(&device);
        let mut gpt = load(&dir, device)?;
        gpt.set_precision(precision);
        Ok((dir, gpt))
    }
}

fn perplexity(args: &PerplexityArgs) -> Result<()> {
    let mut texts = vec![];
    for file in &args.files {
        let sources = tokenizer::sources(std::slice::from_ref(file), &mut Progress::new())?;
        texts.extend(sources.each());
    }
    let most = args.max_tokens.unwrap_or(usize::MAX);
    // About four bytes a token.
    let about = |text: &Sources| text.bytes().min(4_u64.saturating_mul(most as u64));
    let total_bytes = texts.iter().map(about).sum::<u64>();

    let (dir, mut gpt) = args.common.load()?;
    let seq = args.seq_len.unwrap_or(gpt.config().n_positions);
    let (_, seq) = check_shape(1, seq, gpt.config())?;
    let batch = args.batch_size.unwrap_or_else(|| {
        default_batch(&gpt, seq).min((total_bytes as usize).div_ceil(seq).max(1))
    });
    let (batch, seq) = check_shape(batch, seq, gpt.config())?;
    let windows = args.stride.map_or(Windows::NonOverlapping, Windows::Sliding);
    let (tokenizer, end) = (gpt.tokenizer().cloned(), gpt.end_of_text().clone());
    let device = device_name(gpt.device());
    let engine = gpt.batch_engine(batch, seq)?;

    let began = Instant::now();
    let bar = Bar::new("evaluating", total_bytes);
    let mut scores = vec![];
    for text in &texts {
        let width = text.tokens()?.map(|tokens| tokens.width());
        let texts = tokenizer.as_ref().map(|tokenizer| (tokenizer, &end));
        let row = Perplexity::new(engine, texts, windows)?.on_window(|window| {
            bar.add(width.map_or(window.bytes, |width| (window.scored * width) as u64));
        });
        scores.push((text.name().to_owned(), row.score(text, most)?));
    }
    drop(bar);
    let seconds = began.elapsed().as_secs_f64();
    let mut total = Score::default();
    scores.iter().for_each(|(_, score)| total.add(score));
    if args.common.json {
        let named = |(name, score): &(String, Score)| {
            let mut object = json!({ "name": name });
            object.as_object_mut().expect("an object").extend(score_json(score));
            object
        };
        output::json(&json!({
            "model": dir.to_string_lossy(),
            "device": device,
            "windows": if args.stride.is_some() { "sliding" } else { "non_overlapping" },
            "stride": args.stride.unwrap_or(seq),
            "seq_len": seq,
            "batch_size": batch,
            "files": scores.iter().map(named).collect::<Vec<_>>(),
            "total": score_json(&total),
            "seconds": seconds,
            "tokens_per_s": total.tokens as f64 / seconds,
        }));
        return Ok(());
    }
    if scores.len() > 1 {
        scores.push(("total".to_owned(), total));
    }
    let head = ["text", "tokens", "bytes", "loss", "perplexity", "bits per byte"];
    output::line(&output::table(head, &[0], scores.iter().map(score_row).collect()));
    let rate = number::rate(total.tokens as f64 / seconds);
    output::log(&format!("{} on {device}, {rate} tokens/s", number::seconds(seconds)));
    Ok(())
}

fn score_json(score: &Score) -> serde_json::Map<String, Value> {
    let value = json!({
        "tokens": score.tokens,
        "bytes": (score.bytes > 0).then_some(score.bytes),
        "windows": score.windows,
        "nll_sum": score.nll,
        "mean_nll": score.mean_nll(),
        "perplexity": score.perplexity(),
        "bits_per_byte": score.bits_per_byte(),
    });
    match value {
        Value::Object(object) => object,
        _ => unreachable!("an object"),
    }
}

fn score_row((name, score): &(String, Score)) -> [String; 6] {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        name.clone(),
        number::thousands(score.tokens),
        known((score.bytes > 0).then(|| number::thousands(score.bytes))),
        format!("{:.4}", score.mean_nll()),
        format!("{:.4}", score.perplexity()),
        known(score.bits_per_byte().map(|bits| format!("{bits:.4}"))),
    ]
}

fn bleu(args: &BleuArgs) -> Result<()> {
    let read = |path: &PathBuf| -> Result<String> {
        let bytes = std::fs::read(path).map_err(|e| {
            Error::io("reading", path, &e).hint("give the paths of texts with a line a segment")
        })?;
        String::from_utf8(bytes).map_err(|error| {
            let byte = error.utf8_error().valid_up_to();
            let name = path.display();
            Error::input(format!("{name} is not UTF-8 text: byte {byte} begins no character"))
                .hint("convert the file to UTF-8, for example with iconv")
        })
    };
    let texts = args.references.iter().map(read).collect::<Result<Vec<_>>>()?;
    let references: Vec<Vec<&str>> = texts.iter().map(|text| text.lines().collect()).collect();
    let hypotheses = read(&args.hypotheses)?;
    let hypotheses: Vec<&str> = hypotheses.lines().collect();
    let name = args.hypotheses.display();
    if hypotheses.is_empty() {
        return Err(Error::input(format!("{name} has no lines: there is nothing to score"))
            .hint("give a text with a line a segment"));
    }
    for (lines, path) in references.iter().zip(&args.references) {
        if lines.len() != hypotheses.len() {
            let (hyp, reference, path) = (hypotheses.len(), lines.len(), path.display());
            return Err(Error::input(format!("{name} has {hyp} lines, {path} has {reference}"))
                .hint("each line is compared with the same line of every reference"));
        }
    }
    let mut counts = BleuCounts::default();
    for (i, hypothesis) in hypotheses.iter().enumerate() {
        let references: Vec<&str> = references.iter().map(|lines| lines[i]).collect();
        counts.add(hypothesis, &references);
    }
    let bleu = counts.bleu();
    if args.json {
        output::json(&bleu);
    } else {
        output::line(&bleu_table(&bleu, &[("segments", hypotheses.len())]));
    }
    Ok(())
}

fn bleu_table(bleu: &Bleu, counts: &[(&str, usize)]) -> String {
    let precisions: Vec<String> =
        bleu.precisions.iter().map(|precision| format!("{precision:.1}")).collect();
    let counts = counts.iter().map(|(name, n)| [(*name).to_owned(), number::thousands(*n as u64)]);
    let rows = [
        ["precisions of 1- to 4-grams, %".to_owned(), precisions.join(" / ")],
        ["brevity penalty".to_owned(), format!("{:.4}", bleu.bp)],
        ["tokens".to_owned(), number::thousands(bleu.sys_len)],
        ["tokens of the references".to_owned(), number::thousands(bleu.ref_len)],
        ["signature".to_owned(), bleu.signature.clone()],
    ];
    let score = format!("{:.2}", bleu.score);
    output::table(["BLEU", &score], &[0], counts.chain(rows).collect())
}

impl ContinuationsArgs {
    fn options(&self) -> GenerateOptions {
        let default = GenerateOptions::default();
        GenerateOptions {
            temperature: self.temperature,
            seed: self.seed.unwrap_or(default.seed),
            ..self.choice.options()
        }
    }

    /// Tokens of a prompt and of a reference, for a model of `context` positions.
    fn lens(&self, context: usize) -> Result<(usize, usize)> {
        let default = 32.min(context / 2).max(1);
        let lens = (self.prompt_tokens.unwrap_or(default), self.max_tokens.unwrap_or(default));
        let sum = lens.0.saturating_add(lens.1);
        if lens.0 == 0 || lens.1 == 0 || self.samples == 0 {
            return Err(Error::usage(
                "--prompt-tokens, --max-tokens and --samples must be at least 1",
            ));
        }
        if sum > context {
            return Err(Error::usage(format!(
                "--prompt-tokens and --max-tokens are {} and {}, together above the model's context, {context}",
                lens.0, lens.1
            )));
        }
        Ok(lens)
    }
}

fn continuations(args: &ContinuationsArgs) -> Result<()> {
    let options = args.options();
    options.validate()?;
    let sources = tokenizer::sources(&args.files, &mut Progress::new())?;
    let (dir, mut gpt) = args.common.load()?;
    let lens = args.lens(gpt.config().n_positions)?;
    let tokenizer = gpt.tokenizer().cloned().ok_or_else(|| {
        Error::input(format!("{} has no tokenizer to read words with", dir.display()))
            .hint("put the tokenizer.json that it was trained with there")
    })?;
    let end = gpt.end_of_text().clone();
    let tokens = match sources.tokens()? {
        Some(tokens) => tokens,
        None => {
            let mut ids = vec![];
            let mut push = |more: &[u32]| {
                ids.extend_from_slice(more);
                Ok(())
            };
            let encoder = tokenizer.encoder(AddedAs::Tokens);
            data::encode(sources.documents(), encoder, end.separator(), &mut push, &mut |_| {})?;
            Tokens::from_ids(ids).named(sources.name())
        }
    };
    tokens.check(gpt.config().vocab_size)?;
    let cuts = cut(&tokens, lens, args.samples, end.ids())?;

    let began = Instant::now();
    let bar = Bar::new("writing", cuts.len() as u64);
    let (bleu, written) = continue_and_score(&mut gpt, &cuts, &options, &mut |_| bar.add(1))?;
    drop(bar);
    if args.common.json {
        output::json(&json!({
            "model": dir.to_string_lossy(),
            "device": device_name(gpt.device()),
            "prompt_tokens": lens.0,
            "max_tokens": lens.1,
            "temperature": options.temperature,
            "seed": options.seed,
            "samples": cuts.len(),
            "bleu": bleu,
            "examples": written,
            "seconds": began.elapsed().as_secs_f64(),
        }));
        return Ok(());
    }
    for example in written.iter().take(3) {
        let show = |what: &str, text: &str| output::line(&format!("{what:<10}{text:?}"));
        show("prompt", &example.prompt);
        show("written", &example.hypothesis);
        show("the text", &example.reference);
        output::line("");
    }
    output::line(&bleu_table(&bleu, &[("continuations", cuts.len())]));
    Ok(())
}

/// Says which questions are left out, and why; of many, the first few.
fn tell_left_out(file: &str, left_out: &[LeftOut]) {
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

fn choices(args: &ChoicesArgs) -> Result<()> {
    let file = File::open(&args.file).map_err(|e| {
        Error::io("opening", &args.file, &e).hint("give a .jsonl file with a question a line")
    })?;
    let name = args.file.display().to_string();
    let mut questions = read_questions(BufReader::new(file), &name)?;
    if args.limit == Some(0) {
        return Err(Error::usage("--limit is 0, must be at least 1"));
    }
    questions.truncate(args.limit.unwrap_or(usize::MAX));
    let (dir, mut gpt) = args.common.load()?;
    let no_tokenizer = || {
        Error::input(format!("{} has no tokenizer to read the questions with", dir.display()))
            .hint("put the tokenizer.json that it was trained with there")
    };
    let tokenizer = gpt.tokenizer().ok_or_else(no_tokenizer)?;
    let context = gpt.config().n_positions;
    let prepared =
        Prepared::new(&questions, tokenizer, gpt.end_of_text(), context, &args.delimiter)
            .map_err(|error| error.at(&name))?;
    tell_left_out(&name, prepared.left_out());
    let seq = prepared.longest();
    let batch = args.batch_size.unwrap_or_else(|| default_batch(&gpt, seq).min(prepared.len()));
    let (batch, seq) = check_shape(batch, seq, gpt.config())?;
    let device = device_name(gpt.device());

    let began = Instant::now();
    let bar = Bar::new("choosing", prepared.len() as u64);
    let report = prepared.choose(gpt.batch_engine(batch, seq)?, &mut |_| bar.add(1))?;
    drop(bar);
    let seconds = began.elapsed().as_secs_f64();
    if args.common.json {
        output::json(&json!({
            "model": dir.to_string_lossy(),
            "device": device,
            "file": name,
            "n": report.n,
            "acc": report.acc,
            "acc_stderr": report.acc_stderr,
            "acc_norm": report.acc_norm,
            "acc_norm_stderr": report.acc_norm_stderr,
            "cut": report.cut,
            "left_out": prepared.left_out().len(),
            "left_out_lines": prepared.left_out().iter().map(|left| left.line).collect::<Vec<_>>(),
            "seconds": seconds,
        }));
        return Ok(());
    }
    let row = |what: &str, value: f64, stderr: f64| {
        [
            what.to_owned(),
            format!("{value:.4}"),
            format!("± {stderr:.4}"),
            number::thousands(report.n as u64),
        ]
    };
    let rows = vec![
        row("acc", report.acc, report.acc_stderr),
        row("acc_norm", report.acc_norm, report.acc_norm_stderr),
    ];
    output::line(&output::table(["measure", "value", "stderr", "questions"], &[0], rows));
    if report.cut > 0 {
        let cut = number::thousands(report.cut as u64);
        output::log(&format!(
            "{cut} choices lost the beginning of their context to fit {context} tokens"
        ));
    }
    output::log(&format!("{} on {device}", number::seconds(seconds)));
    Ok(())
}
