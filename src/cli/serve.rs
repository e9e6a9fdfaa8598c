//! `wgpt serve`: lets programs use a model over HTTP, by OpenAI's API.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wgpt::checkpoint::TextFiles;
use wgpt::serve::room::{CONTEXT, Room, SLOTS};
use wgpt::serve::{self, Key, Log, PORT, Ready, Settings};
use wgpt::{Error, Gpt, Result};

use super::number;
use super::options::{
    DeviceArgs, PrecisionArgs, WeightsArgs, device_name, find_model, load, open, with_default,
};
use super::outcome::Outcome;
use super::output;

const EXAMPLES: &str = "\
Examples:
  wgpt serve --model runs/NAME/best
  wgpt serve --model org/name --slots 16 --context 2048 --weights bf16
  wgpt serve --model gpt2 --host 0.0.0.0 --api-key-file key.txt --allow-host gpu.example

  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
       -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 50, \"stream\": true}'
  lm_eval --model local-completions --model_args model=gpt2,base_url=http://127.0.0.1:8000/v1/completions --tasks hellaswag

The key is read from --api-key-file, or else from the environment: WGPT_API_KEY.
Ctrl-C or SIGTERM answers the requests that are there, then ends; once more ends at once.";

/// The environment's name for a key.
const KEY: &str = "WGPT_API_KEY";

/// Let programs use a model over HTTP, by OpenAI's API
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Use this model: a model folder, a run (its best model), a .safetensors or .gguf file, or a name on Hugging Face's hub [default: the newest run in runs/]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Listen on this address; one that other machines reach needs a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = address)]
    host: IpAddr,
    /// Listen on this port; 0: on any that is free
    #[arg(long, value_name = "N", default_value_t = PORT)]
    port: u16,
    #[arg(long, value_name = "N", help = with_default("Generate up to N texts at once, 64 at most", SLOTS))]
    slots: Option<usize>,
    #[arg(long, value_name = "N", help = format!("Let texts have up to N tokens [default: the model's context, at most {CONTEXT}]"))]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Demand the key in this file from every request but those for /health
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Answer to this name too, besides the address and localhost; may be given several times
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    /// Let pages of this origin, such as https://chat.example, use the server from a browser; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Answer the page that trains in a browser at /train/, from this folder [default: the folder "web" beside the program, if there is one]
    #[arg(long, value_name = "DIR")]
    train_page: Option<PathBuf>,
    /// Write a line for every request on stderr
    #[arg(long)]
    log: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    weights: WeightsArgs,
}

/// Parses an address.
fn address(text: &str) -> std::result::Result<IpAddr, String> {
    let text = if text == "localhost" { "127.0.0.1" } else { text };
    text.parse().map_err(|_| "wanted an address such as 127.0.0.1, ::1 or 0.0.0.0".into())
}

/// Serves until the process is told to stop.
///
/// # Errors
///
/// If there is no model, it has no tokenizer, the slots do not fit, or the address cannot be listened on.
pub fn run(args: &Args) -> Result<Outcome> {
    let key = args.key()?;
    let folder = find_model(args.model.as_deref())?;
    let device = open(args.device.device)?;
    let precision = args.precision.on(&device)?;
    let mut gpt = load(&folder, device)?;
    args.weights.set(&mut gpt, precision)?;
    let template = template(&folder, &gpt)?;
    let settings = Settings {
        name: name(args.model.as_deref().unwrap_or(&folder)),
        host: args.host,
        port: args.port,
        slots: args.slots.unwrap_or(SLOTS),
        context: args.context.map(|context| context as usize),
        key,
        hosts: args.allow_host.clone(),
        origins: args.allow_origin.clone(),
        train_page: args.train_page.clone().or_else(page_beside),
        log: args.log.then(|| Arc::new(output::log) as Log),
    };
    let device = device_name(gpt.device());
    serve::run(&mut gpt, template, &settings, &mut |ready| report(&settings.name, &device, ready))?;
    Ok(Outcome::Good)
}

/// Returns the page's folder beside this program, if there is one.
fn page_beside() -> Option<PathBuf> {
    let folder = std::env::current_exe().ok()?.parent()?.join("web");
    folder.join("index.html").is_file().then_some(folder)
}

/// Says that the server is there.
fn report(name: &str, device: &str, ready: Ready) {
    let Room { slots, context, cache_bytes, total_bytes } = ready.room;
    let [caches, total] = [cache_bytes, total_bytes].map(number::bytes);
    output::log(&format!(
        "{name} on {device}: {slots} slots of {context} tokens take {caches}, all together {total}"
    ));
    output::line(&format!("listening on http://{}", ready.address));
}

impl Args {
    /// Reads the key, if there is one.
    fn key(&self) -> Result<Option<Key>> {
        let Some(path) = &self.api_key_file else {
            let key = std::env::var(KEY).ok().filter(|key| !key.is_empty());
            return Ok(key.map(|key| Key::new(key.trim())));
        };
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, &e))?;
        match text.trim() {
            "" => Err(Error::input(format!("{} has no key", path.display()))
                .hint("write a long random text into it")),
            key => Ok(Some(Key::new(key))),
        }
    }
}

/// Returns the chat template of a model: its own, or the plain one if it can be used.
fn template(folder: &Path, gpt: &Gpt) -> Result<Option<wgpt::chat::ChatTemplate>> {
    let Some(tokenizer) = gpt.tokenizer() else { return Ok(None) };
    let files = TextFiles::read(folder, gpt.config().vocab_size)?;
    if files.has_chat_template()? {
        return files.chat_template(tokenizer).map(Some);
    }
    let plain = files.chat_template(tokenizer).ok();
    output::log(match plain {
        Some(_) => "the model has no chat template: chats use the plain one, which it may not know",
        None => {
            "the model has no chat template, and no end-of-text token for the plain one: it cannot chat"
        }
    });
    Ok(plain)
}

/// Returns the name of a model for requests: as it was given, but of a path from the root only the last part.
fn name(model: &Path) -> String {
    let last = model.file_name().filter(|_| model.is_absolute());
    let name = last.map_or(model.to_string_lossy(), |last| last.to_string_lossy());
    name.trim_end_matches(['/', '\\']).trim_start_matches("./").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_nothing_about_the_machine() {
        let names = [("runs/a/best/", "runs/a/best"), ("./gpt2", "gpt2"), ("/home/x/m", "m")];
        names.into_iter().for_each(|(path, expected)| assert_eq!(name(Path::new(path)), expected));
        assert_eq!(name(Path::new("org/name@main")), "org/name@main");
    }
}
