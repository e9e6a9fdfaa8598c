//! Options that the measures of a model share: the model, the device, and the form of the output.

use std::path::{Path, PathBuf};

use wgpt::backend::gpu::DeviceChoice;
use wgpt::{Error, Gpt, Result, Tokenizer};

use crate::cli::options::{
    DeviceArgs, PipelineArgs, PrecisionArgs, PrecisionChoice, WeightsArgs, find_model, load, open,
};
use crate::cli::ranks::{self, Others};

/// Which model, where it runs, and how the results are printed.
#[derive(clap::Args)]
pub struct Common {
    /// Measure this model: a model folder, a run (its best model), a .safetensors or .gguf file, or a name on Hugging Face's hub [default: the newest run in runs/]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Compute in f32, mixed (half precision, on a CPU bf16, except for weights, sums and the residual stream), or auto: mixed on a GPU that has it
    #[arg(long, value_name = "PRECISION", default_value = "f32", hide_possible_values = true)]
    precision: PrecisionChoice,
    #[command(flatten)]
    weights: WeightsArgs,
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// Runs a measure on the first of the ranks that `--pipeline` asks for, the others of which have their stages of its model.
    pub fn on_ranks(&self, measure: impl FnOnce(&mut Others) -> Result<()>) -> Result<()> {
        self.weights.check_stages(self.pipeline.stages())?;
        ranks::on_stages(self.pipeline.stages(), self.device.device, measure)
    }

    fn device_of_rank(&self) -> DeviceChoice {
        match self.pipeline.stages() {
            Some(_) => ranks::device(self.device.device),
            None => self.device.device,
        }
    }

    /// Loads the model; returns it with its folder.
    pub fn load(&self) -> Result<(PathBuf, Gpt)> {
        let dir = find_model(self.model.as_deref())?;
        let device = open(self.device_of_rank())?;
        let precision = PrecisionArgs { precision: self.precision }.on(&device)?;
        let mut gpt = load(&dir, device)?;
        self.weights.set(&mut gpt, precision)?;
        Ok((dir, gpt))
    }
}

/// Returns the tokenizer of the model in `dir`, which is needed to read `what`.
pub fn tokenizer(gpt: &Gpt, dir: &Path, what: &str) -> Result<Tokenizer> {
    gpt.tokenizer().cloned().ok_or_else(|| {
        Error::input(format!("{} has no tokenizer to read {what} with", dir.display()))
            .hint("put the tokenizer.json that it was trained with there")
    })
}
