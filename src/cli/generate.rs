//! `wgpt generate`: lets a model go on with a text, or with a row of token ids.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use wgpt::{Error, GenerateOptions, Gpt, Result};

use super::options::{ChoiceArgs, DeviceArgs, PrecisionArgs, find_model, load, open, with_default};
use super::outcome::Outcome;
use super::output;

const EXAMPLES: &str = "\
Examples:
  wgpt generate --prompt \"The cat\" --temperature 0.8 --top-k 40 --top-p 0.9 --max-tokens 100
  wgpt generate --model runs/NAME/best --prompt-file start.txt --num-samples 3
  wgpt generate --model gpt2 --prompt \"Q: why?\" --greedy --stop \"Q:\"
  wgpt generate --model org/name@revision --prompt \"Dear\"        downloaded once; HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are read
  wgpt generate --model folder-without-tokenizer --prompt-ids 464,3797";

/// Continue a text with a model; the new text is streamed
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Use this model: a model folder, a run (its best model), a .safetensors file, or a name on Hugging Face's hub [default: the newest run in runs/]
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

/// A token id, with blanks around it or without.
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

    /// The prompt as text; `None` if it is ids.
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

/// Generates.
///
/// # Errors
///
/// If there is no model, it is damaged, or an option is out of range.
pub fn run(args: &Args) -> Result<Outcome> {
    let mut options = args.options();
    options.validate()?;
    let prompt = args.text()?;
    let dir = find_model(args.model.as_deref())?;
    let device = open(args.device.device)?;
    let precision = args.precision.on(&device);
    let mut gpt = load(&dir, device)?;
    gpt.set_precision(precision);
    if prompt.is_some() && gpt.tokenizer().is_none() {
        return Err(Error::input(format!(
            "{} has no tokenizer to read the prompt with",
            dir.display()
        ))
        .hint("give token ids instead: --prompt-ids 1,2,3; or put a tokenizer.json there"));
    }
    let mut samples = vec![];
    for sample in 0..args.num_samples {
        options.sample = sample;
        if args.num_samples > 1 && !args.json {
            let gap = if sample > 0 { "\n" } else { "" };
            output::line(&format!("{gap}--- sample {} of {} ---", sample + 1, args.num_samples));
        }
        samples.push(match &prompt {
            Some(prompt) => continue_text(&mut gpt, prompt, &options, args.json)?,
            None => continue_ids(&mut gpt, &args.prompt.prompt_ids, &options, args.json)?,
        });
    }
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
    Ok(Outcome::Good)
}

fn continue_text(
    gpt: &mut Gpt,
    prompt: &str,
    options: &GenerateOptions,
    json: bool,
) -> Result<serde_json::Value> {
    let began = Instant::now();
    let mut text = String::new();
    if !json {
        output::text(prompt);
    }
    let tokens = gpt.generate_stream(prompt, options, &mut |piece| match json {
        true => text.push_str(piece),
        false => output::text(piece),
    })?;
    if !json {
        output::line("");
    }
    Ok(json!({ "text": text, "tokens": tokens, "seconds": began.elapsed().as_secs_f64() }))
}

fn continue_ids(
    gpt: &mut Gpt,
    prompt: &[u32],
    options: &GenerateOptions,
    json: bool,
) -> Result<serde_json::Value> {
    let began = Instant::now();
    let ids = gpt.generate_ids(prompt, options)?;
    if !json {
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        output::line(&words.join(","));
    }
    Ok(json!({ "ids": ids, "tokens": ids.len(), "seconds": began.elapsed().as_secs_f64() }))
}
