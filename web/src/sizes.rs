//! The sizes of new models.

use serde::Deserialize;
use serde_json::{Value, json};
use wgpt::arch::presets;
use wgpt::model::{Program, Uses, schema};
use wgpt::params::ParamInfo;
use wgpt::plan::Limits;
use wgpt::{FineTune, GptConfig, Result, TrainConfig};

/// The size that learns something within a minute on any device.
const TINY: [usize; 3] = [2, 64, 2];
/// The names of the sizes that a tab can train.
const NAMES: [&str; 4] = ["tiny", "small", "medium", "large"];

/// What determines the memory, besides the size.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    vocab: usize,
    context: usize,
    batch: usize,
    arch: Option<String>,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { vocab: 512, context: 128, batch: 8, arch: None }
    }
}

/// A size by name, or by its numbers.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Size {
    Named(String),
    Numbers { layers: usize, width: usize, heads: usize },
}

impl Size {
    /// Returns the model of this size.
    pub fn config(&self, arch: Option<&str>) -> Result<GptConfig> {
        let of = |[n_layer, n_embd, n_head]: [usize; 3]| {
            let small = presets::named("small", arch)?;
            Ok(GptConfig { n_layer, n_embd, n_head, ..small })
        };
        match self {
            Size::Named(name) if name == "tiny" => of(TINY),
            Size::Named(name) => presets::named(name, arch),
            Size::Numbers { layers, width, heads } => of([*layers, *width, *heads]),
        }
    }
}

/// Returns all sizes, with the bytes that training takes on a device with WebGPU's usual limits.
pub fn all(asked: &Asked) -> Result<Value> {
    let size = |name: &str| {
        let sized = Size::Named(name.to_owned()).config(asked.arch.as_deref())?;
        let (vocab_size, n_positions) = (asked.vocab, asked.context);
        let config = presets::complete(&GptConfig { vocab_size, n_positions, ..sized })?;
        config.validate()?;
        let train = TrainConfig { batch_size: asked.batch, ..TrainConfig::for_model(&config) };
        let program = Program::record(&config, Uses::training(&train, &config), Limits::WEBGPU);
        let parameters = schema(&config, &FineTune::default()).parameters;
        Ok(json!({
            "name": name,
            "parameters": parameters.iter().map(ParamInfo::len).sum::<usize>(),
            "bytes": program.plan.total_bytes(),
            "layers": config.n_layer,
            "width": config.n_embd,
            "heads": config.n_head,
        }))
    };
    NAMES.into_iter().map(size).collect()
}
