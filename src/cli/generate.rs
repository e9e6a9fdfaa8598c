//! `wgpt generate`: continues a text, or a sequence of token ids, with a model.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use wgpt::gpt::SampleEvent;
use wgpt::staged::Staged;
use wgpt::{Error, GenerateOptions, Gpt, Result};

use super::options::{
    ChoiceArgs, DeviceArgs, PipelineArgs, PrecisionArgs, WeightsArgs, find_model, load, open,
    with_default,
};
use super::outcome::Outcome;
use super::output;
use super::ranks::{self, Others};

const EXAMPLES: &str = "\
Examples:
  wgpt generate --prompt \"The cat\" --temperature 0.8 --top-k 40 --top-p 0.9 --max-tokens 100
  wgpt generate --model runs/NAME/best --prompt-file start.txt --num-samples 3
  wgpt generate --model gpt2 --prompt \"Q: why?\" --greedy --stop \"Q:\"
  wgpt generate --model org/name@revision --prompt \"Dear\"        downloaded once; HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are read
  wgpt generate --model folder-without-tokenizer --prompt-ids 464,3797
  mpirun -n 2 wgpt generate --model folder --pipeline 2 --prompt \"Dear\"   a model that does not fit on one rank";

/// Continue a text with a model; the new text is streamed
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Use this model: a model folder, a run (its best model), a .safetensors or .gguf file, or a name on Hugging Face's hub [default: the newest run in runs/]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    prompt: Prompt,
    #[arg(long, value_name = "N", help = with_default("Add at most N tokens", GenerateOptions::default().max_tokens))]
    max_tokens: Option<usize>,
    #[arg(long, value_name = "X", help = with_default("Below 1: more likely tokens; above 1: more surprising ones", GenerateOptions::default().temperature))]
    temperature: Option<f64>,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Always take the most likely token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    greedy: bool,
    #[arg(long, value_name = "N", help = with_default("Seed of the random draws", GenerateOptions::default().seed))]
    seed: Option<u64>,
    /// Write N continuations
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    num_samples: u32,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Print one JSON object at the end instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    weights: WeightsArgs,
    #[command(flatten)]
    pipeline: PipelineArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// Continue this text; an empty one begins a new text
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Continue the text of this file; a line end at its end is left out
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Continue these token ids, for a folder without a tokenizer; the new ids are printed
    #[arg(long, value_name = "IDS", value_delimiter = ',', num_args = 1, value_parser = id)]
    prompt_ids: Vec<u32>,
}

/// Parses a token id, which may have blanks around it.
fn id(text: &str) -> std::result::Result<u32, std::num::ParseIntError> {
    text.trim().parse()
}

impl Args {
    fn options(&self) -> GenerateOptions {
        let default = GenerateOptions::default();
        let temperature = if self.greedy { Some(0.0) } else { self.temperature };
        GenerateOptions {
            max_tokens: self.max_tokens.unwrap_or(default.max_tokens),
            temperature: temperature.unwrap_or(default.temperature),
            seed: self.seed.unwrap_or(default.seed),
            stop: self.stop.clone(),
            ..self.choice.options()
        }
    }

    /// Returns the prompt as text; `None` if it is ids.
    fn text(&self) -> Result<Option<String>> {
        let Some(path) = &self.prompt.prompt_file else { return Ok(self.prompt.prompt.clone()) };
        let bytes = std::fs::read(path).map_err(|e| Error::io("reading", path, &e))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::input(format!("{} is not UTF-8 text", path.display())))?;
        let text =
            text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        Ok(Some(text.to_owned()))
    }
}

/// Generates the continuations.
///
/// # Errors
///
/// If there is no model, it is damaged, or an option is out of range.
pub fn run(args: &Args) -> Result<Outcome> {
    let stages = args.pipeline.stages();
    args.weights.check_stages(stages)?;
    ranks::on_stages(stages, args.device.device, |others| generate(args, others))?;
    Ok(Outcome::Good)
}

fn generate(args: &Args, others: &mut Others) -> Result<()> {
    let options = args.options();
    options.validate()?;
    let prompt = args.text()?;
    let dir = find_model(args.model.as_deref())?;
    let choice = args.device.device;
    let device = open(if others.are_there() { ranks::device(choice) } else { choice })?;
    let precision = args.precision.on(&device)?;
    let mut gpt = load(&dir, device)?;
    args.weights.set(&mut gpt, precision)?;
    if prompt.is_some() && gpt.tokenizer().is_none() {
        return Err(Error::input(format!(
            "{} has no tokenizer to read the prompt with",
            dir.display()
        ))
        .hint("give token ids instead: --prompt-ids 1,2,3; or put a tokenizer.json there"));
    }
    let ids = match &prompt {
        Some(prompt) => gpt.encode_prompt(prompt)?,
        None => args.prompt.prompt_ids.clone(),
    };
    // Caches need no more room than these texts; a power of two, so that lengths share their measurements.
    gpt.set_context(ids.len().saturating_add(options.max_tokens).checked_next_power_of_two());
    let uses = gpt.uses_of_samples(args.num_samples as usize);
    let mut staged = others.take(&mut gpt, uses, true)?;
    let samples = args.write(&mut gpt, staged.as_mut(), prompt.as_deref(), &ids, &options)?;
    staged.map_or(Ok(()), Staged::end)?;
    if args.json {
        let ids = prompt.is_none().then_some(&args.prompt.prompt_ids);
        output::json(&json!({
            "model": dir.to_string_lossy(),
            "prompt": prompt,
            "prompt_ids": ids,
            "seed": options.seed,
            "samples": samples,
        }));
    }
    Ok(())
}

impl Args {
    /// Prints the continuations of a prompt, of which `ids` are the tokens; returns them for the JSON object.
    fn write(
        &self,
        gpt: &mut Gpt,
        staged: Option<&mut Staged>,
        prompt: Option<&str>,
        ids: &[u32],
        options: &GenerateOptions,
    ) -> Result<Vec<Value>> {
        let mut printer = Printer::new(prompt, self.num_samples, self.json);
        let count = self.num_samples;
        let see = &mut |sample: u32, event: SampleEvent<'_>| printer.see(sample, event);
        if prompt.is_some() {
            let tokens = match staged {
                None => gpt.sample_texts(ids, options, count, see)?,
                Some(staged) => {
                    gpt.sampler(&mut staged.stages()).texts(ids, options, count, see)?
                }
            };
            return Ok(printer.report(tokens.into_iter().map(|tokens| (None, tokens))));
        }
        let new = match staged {
            None => gpt.sample_ids(ids, options, count, see)?,
            Some(staged) => gpt.sampler(&mut staged.stages()).ids(ids, options, count, see)?,
        };
        Ok(printer.report(new.into_iter().map(|new| (Some(json!(new)), new.len()))))
    }
}

/// Prints samples that are generated at the same time one after the other: each as it is generated, when those before
/// it have ended.
struct Printer<'a> {
    prompt: Option<&'a str>,
    json: bool,
    samples: Vec<Sample>,
    /// The index of the sample that is being printed.
    due: usize,
}

/// The state of a sample.
#[derive(Default)]
struct Sample {
    began: Option<Instant>,
    text: String,
    seconds: Option<f64>,
}

impl Printer<'_> {
    fn new(prompt: Option<&str>, count: u32, json: bool) -> Printer<'_> {
        let samples = (0..count).map(|_| Sample::default()).collect();
        Printer { prompt, json, samples, due: 0 }
    }

    fn see(&mut self, sample: u32, event: SampleEvent<'_>) {
        let index = sample as usize;
        match event {
            SampleEvent::Begins => {
                self.samples[index].began = Some(Instant::now());
                if index == self.due {
                    self.open();
                }
            }
            SampleEvent::Text(piece) => self.add(index, piece),
            SampleEvent::Id(id) if self.samples[index].text.is_empty() => {
                self.add(index, &id.to_string());
            }
            SampleEvent::Id(id) => self.add(index, &format!(",{id}")),
            SampleEvent::Ends => {
                let sample = &mut self.samples[index];
                sample.seconds = sample.began.map(|began| began.elapsed().as_secs_f64());
                if index == self.due {
                    self.close();
                }
            }
        }
    }

    fn add(&mut self, index: usize, piece: &str) {
        self.samples[index].text.push_str(piece);
        if index == self.due {
            self.print(piece);
        }
    }

    fn print(&self, text: &str) {
        if !self.json {
            output::text(text);
        }
    }

    /// Prints the text so far of the sample that is due.
    fn open(&self) {
        let (index, count) = (self.due, self.samples.len());
        if count > 1 && !self.json {
            let gap = if index > 0 { "\n" } else { "" };
            output::line(&format!("{gap}--- sample {} of {count} ---", index + 1));
        }
        self.print(self.prompt.unwrap_or_default());
        self.print(&self.samples[index].text);
    }

    /// Ends the sample that is due, and prints the text so far of those after it.
    fn close(&mut self) {
        while self.samples.get(self.due).is_some_and(|sample| sample.seconds.is_some()) {
            if !self.json {
                output::line("");
            }
            self.due += 1;
            if self.samples.get(self.due).is_some_and(|sample| sample.began.is_some()) {
                self.open();
            }
        }
    }

    /// Returns the samples as JSON: their ids if requested, else their text, and their numbers of tokens.
    fn report(&self, found: impl Iterator<Item = (Option<Value>, usize)>) -> Vec<Value> {
        let of_one = |(sample, (ids, tokens)): (&Sample, (Option<Value>, usize))| match ids {
            Some(ids) => json!({ "ids": ids, "tokens": tokens, "seconds": sample.seconds }),
            None => json!({ "text": sample.text, "tokens": tokens, "seconds": sample.seconds }),
        };
        self.samples.iter().zip(found).map(of_one).collect()
    }
}
