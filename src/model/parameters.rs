//! The lists of a model's parameters: recording the model yields them; they describe the tensors saved and loaded.

use std::path::Path;

use super::decoder::{Input, decoder};
use crate::arch::Family;
use crate::checkpoint::{self, WeightFiles, Weights};
use crate::config::GptConfig;
use crate::error::Result;
use crate::finetune::{FineTune, Lora};
use crate::graph::Graph;
use crate::kernel::Format;
use crate::params::{NamedShape, ParamInfo};
use crate::plan::{Limits, Role};

pub use crate::arch::Schema;

/// Returns all parameters of a model, with those that training adds, in the order of the forward pass.
///
/// # Panics
///
/// If the configuration is not valid ([`GptConfig::validate`]).
pub fn schema(config: &GptConfig, finetune: &FineTune) -> Schema {
    let mut g = Graph::new(Limits::NONE, false, config.layer_norm_epsilon).fine_tuning(finetune);
    g.begin_inference(1, 1);
    let tokens = g.buffer(Role::Staging, "tokens", 1, Format::U32);
    decoder(&mut g, config, 0..config.n_layer, Input::Tokens(tokens), false);
    let parameters = g.params.into_iter().map(|param| param.info).collect();
    Schema { family: Family::of(config), parameters }
}

/// Returns every parameter of a model: its name without the files' prefix, and its shape, in forward-pass order.
///
/// ```
/// use wgpt::{GptConfig, model::parameters};
/// let list = parameters(&GptConfig::gpt2());
/// assert_eq!(list[0], ("wte.weight".to_string(), vec![50257, 768]));
/// assert_eq!(list.len(), 2 + 12 * 12 + 2);
/// ```
pub fn parameters(config: &GptConfig) -> Vec<NamedShape> {
    let all = schema(config, &FineTune::default()).parameters;
    all.iter().map(ParamInfo::named_shape).collect()
}

/// Returns the adapters of a model, A (rank, in) and B (rank, out), in the order of the forward pass.
///
/// ```
/// use wgpt::{GptConfig, finetune::Lora, model::adapters};
/// let adapters = adapters(&GptConfig::gpt2(), &Lora::of_rank(8));
/// assert_eq!(adapters[1], ("h.0.attn.c_attn.lora_B.weight".to_string(), vec![8, 3 * 768]));
/// ```
pub fn adapters(config: &GptConfig, lora: &Lora) -> Vec<NamedShape> {
    let finetune = FineTune { lora: Some(lora.clone()), ..FineTune::default() };
    trained(config, &finetune)
}

/// Returns the trained parameters of a model: names and shapes, in the order of the forward pass.
pub fn trained(config: &GptConfig, finetune: &FineTune) -> Vec<NamedShape> {
    let all = schema(config, finetune).parameters;
    let trained = all.iter().filter(|param| finetune.trains(&param.name, param.role));
    trained.map(ParamInfo::named_shape).collect()
}

/// Returns the moments that Adam keeps of a model's trained parameters.
pub fn moments(config: &GptConfig, finetune: &FineTune) -> Vec<NamedShape> {
    checkpoint::moments(&trained(config, finetune))
}

/// Checks which part of a model training changes.
///
/// # Errors
///
/// As [`FineTune::validate`].
pub fn check_finetune(config: &GptConfig, finetune: &FineTune) -> Result<()> {
    if *finetune == FineTune::default() {
        return Ok(());
    }
    finetune.validate(config, &schema(config, &FineTune::default()).parameters)
}

/// Opens a model's weights for these sizes, as [`Weights::open`] does.
///
/// # Errors
///
/// As [`Weights::open`].
pub fn open_weights(model: &Path, config: &GptConfig) -> Result<Weights> {
    let files = WeightFiles::open(model)?;
    // A block has several tensors, so one block more than there are tensors is enough to report a missing tensor, and a
    // configuration of millions of blocks costs no more than the length of its file.
    let n_layer = config.n_layer.min(files.tensor_count() + 1);
    Weights::open(files, schema(&GptConfig { n_layer, ..config.clone() }, &FineTune::default()))
}

/// Opens a model folder, or a weights file with its config.json beside it: the configuration, then the weights
/// (shapes, then NaN and infinity). For a folder of adapters, it opens their base model with the adapters merged.
///
/// # Errors
///
/// Returns the first fault in that order.
pub fn open(model: &Path) -> Result<(GptConfig, Weights)> {
    let config = checkpoint::read_config(model)?;
    let weights = open_weights(model, &config)?;
    weights.check_finite()?;
    Ok((config, weights))
}
