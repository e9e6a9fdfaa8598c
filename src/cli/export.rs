//! `wgpt export`: writes a model for other programs, as a folder for Hugging Face's library or a file for llama.cpp.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde_json::json;
use wgpt::backend::Device;
use wgpt::checkpoint::{Float, Layout};
use wgpt::export;
use wgpt::export::gguf::{self, Kind};
use wgpt::{Error, Gpt, Result};

use super::options::{find_model, load};
use super::outcome::Outcome;
use super::{number, output};

const EXAMPLES: &str = "\
Examples:
  wgpt export --out my-model                                      the newest run's best model, with a card
  wgpt export --model runs/NAME/best --out my-model --dtype f16   in half the bytes
  wgpt export --model gpt2-folder --out shards --max-shard-size 100MB
  wgpt export --model runs/NAME/best --gguf my-model.gguf --dtype q8_0
  llama-completion -m my-model.gguf -p \"Once upon a time\"

In Python: transformers.AutoModelForCausalLM.from_pretrained(\"my-model\"). The folder can be uploaded to a hub as it is.";

/// Write a model for other programs: as a folder for Hugging Face's transformers, or as a GGUF file for llama.cpp
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Export this model: a model folder, a run (its best model), a .safetensors or .gguf file, or a name on Hugging Face's hub [default: the newest run in runs/]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Hold weights in f32, f16 (up to 65504), bf16; for --gguf also q8_0 (blocks of 32 bytes with a scale)
    #[arg(long, value_name = "DTYPE", default_value = "f32", hide_possible_values = true)]
    dtype: Dtype,
    /// Split weights into files of at most SIZE, such as 500MB, 5GB or 2GiB, with an index [default: 5GB]
    #[arg(long, value_name = "SIZE", value_parser = number::parse_bytes, conflicts_with = "gguf")]
    max_shard_size: Option<u64>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Write a new folder: config.json, model.safetensors, the tokenizer's files and README.md
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write a new GGUF file
    #[arg(long, value_name = "FILE.gguf")]
    gguf: Option<PathBuf>,
}

/// The values of `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Dtype {
    /// As they are.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of f32.
    Bf16,
    /// Blocks of bytes.
    #[value(name = "q8_0")]
    Q8_0,
}

impl Dtype {
    fn kind(self) -> Kind {
        match self {
            Dtype::F32 => Kind::Float(Float::F32),
            Dtype::F16 => Kind::Float(Float::F16),
            Dtype::Bf16 => Kind::Float(Float::Bf16),
            Dtype::Q8_0 => Kind::Q8_0,
        }
    }

    /// Returns the type of numbers in a folder of safetensors files.
    fn float(self) -> Result<Float> {
        match self.kind() {
            Kind::Float(float) => Ok(float),
            Kind::Q8_0 => Err(Error::usage("--dtype q8_0 is for --gguf alone")
                .hint("a folder takes f32, f16 or bf16; or write a file: --gguf FILE.gguf")),
        }
    }
}

/// The largest size of a file if `--max-shard-size` is not given: 5 GB.
const SHARD_BYTES: u64 = 5_000_000_000;

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Returns a progress bar of parameters on a terminal; Ctrl-C ends the export at the next slice, so that no partial
/// file remains.
fn progress() -> Result<impl FnMut(u64, u64) -> Result<()>> {
    ctrlc::set_handler(|| STOPPED.store(true, Ordering::Relaxed))
        .map_err(|e| Error::input(format!("listening for Ctrl-C: {e}")))?;
    let style = "writing  {bar:24}  {percent} %  {elapsed}  ETA {eta}";
    let style = ProgressStyle::with_template(style).expect("a template of ours");
    // The bar is hidden if stderr is no terminal.
    let bar = ProgressBar::new(0).with_style(style.progress_chars("━╸─"));
    let bar = bar.with_finish(ProgressFinish::AndClear);
    Ok(move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        match STOPPED.load(Ordering::Relaxed) {
            true => Err(Error::input("stopped by Ctrl-C: nothing was written")),
            false => Ok(()),
        }
    })
}

/// Exports the model.
///
/// # Errors
///
/// If there is no model, the target already exists, or a weight does not fit the type.
pub fn run(args: &Args) -> Result<Outcome> {
    let began = Instant::now();
    let float = args.target.out.as_ref().map(|_| args.dtype.float()).transpose()?;
    let dir = find_model(args.model.as_deref())?;
    // Nothing is computed: the parameters are copied from one file to the other.
    let mut gpt = load(&dir, Device::Cpu)?;
    let mut progress = progress()?;
    let target = match (&args.target.out, float) {
        (Some(out), Some(float)) => {
            let max_shard_bytes = args.max_shard_size.unwrap_or(SHARD_BYTES);
            let layout = Layout { float, max_shard_bytes };
            export::folder(&mut gpt, &dir, out, layout, &mut progress)?;
            out
        }
        _ => {
            let path = args.target.gguf.as_ref().expect("one of the two is required");
            let others = export::gguf::write(&mut gpt, path, args.dtype.kind(), &mut progress)?;
            gguf::notes(&gpt).iter().for_each(|note| output::log(note));
            if others > 0 {
                output::log(&format!(
                    "{others} matrices are in f16: their rows are no multiple of 32"
                ));
            }
            path
        }
    };
    drop(progress);
    report(args, &gpt, &dir, target, began.elapsed().as_secs_f64())
}

/// Reports the written files and the next command to run.
fn report(args: &Args, gpt: &Gpt, model: &Path, target: &Path, seconds: f64) -> Result<Outcome> {
    let files = files(target)?;
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let parameters = export::parameter_count(gpt);
    if args.json {
        let files: serde_json::Map<_, _> =
            files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        output::json(&json!({
            "model": model.to_string_lossy(),
            "out": target.to_string_lossy(),
            "dtype": format!("{:?}", args.dtype).to_lowercase(),
            "parameters": parameters,
            "bytes": bytes,
            "files": files,
            "seconds": seconds,
        }));
        return Ok(Outcome::Good);
    }
    output::line(&format!(
        "{}: {} parameters, {}",
        output::path(target),
        number::millions(parameters),
        number::bytes(bytes)
    ));
    for (name, bytes) in files.iter().filter(|_| args.target.out.is_some()) {
        output::line(&format!("  {name:<34} {:>10}", number::bytes(*bytes)));
    }
    if gpt.tokenizer().is_none() {
        output::log("the model has no tokenizer: whoever loads it gives it token ids");
    }
    Ok(Outcome::Good)
}

/// Returns the files of a folder by name, or the single file; with their sizes in bytes.
fn files(target: &Path) -> Result<Vec<(String, u64)>> {
    let failed = |e| Error::io("reading", target, &e);
    let about = |path: &Path| -> Result<(String, u64)> {
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes))
    };
    if !target.is_dir() {
        return Ok(vec![about(target)?]);
    }
    let entries = std::fs::read_dir(target).map_err(failed)?;
    let mut files =
        entries.map(|entry| about(&entry.map_err(failed)?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
