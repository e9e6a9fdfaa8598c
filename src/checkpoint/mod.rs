//! Files of a model and of a run: Hugging Face model folders, train states, run folders.
//!
//! ```text
//! model folder   config.json  generation_config.json  model.safetensors  [tokenizer.json  tokenizer_config.json]
//!                or adapters of another one: adapter_config.json  adapter_model.safetensors  [the tokenizer]
//!                or both: the model with these adapters
//! run folder     run.json  variants.json  metrics.jsonl  best/ (a model folder)  the last step's model files
//!                checkpoints/step-N/ (a model folder, train_state.json, train_state.safetensors)
//! ```
//!
//! Reading trusts nothing: a header is checked against the file's length before anything of its
//! size is allocated, and every tensor against the configuration. Writing is whole or not at all:
//! see [`files`]. Tensors pass through here in slices, so that no second copy of a model is held.

pub mod files;

mod adapter;
mod config_json;
mod end_of_text;
mod peft;
mod run;
mod save;
mod state;
mod tensor_file;
mod weights;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub(crate) use adapter::fetch_model;
pub use adapter::{Adapter, AdapterFiles};
pub use config_json::read_config;
pub use end_of_text::{EndOfText, TextFiles};
pub use run::{CHOICES, RunDir, newest_run};
pub(crate) use save::write_json;
pub use save::{Layout, ModelFiles, write_model, write_model_as};
pub(crate) use state::without;
pub use state::{TrainState, moments, open_state, write_state};
pub use tensor_file::{Fill, Float, TensorFile};
pub(crate) use tensor_file::{SLICE, coordinates};
pub use weights::Weights;
pub(crate) use weights::{INDEX as WEIGHTS_INDEX, SAVE_AS_SAFETENSORS, SINGLE as WEIGHTS, shards};

use crate::config::GptConfig;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A tensor's name and shape.
pub type NamedShape = (String, Vec<usize>);

/// Every parameter of a model: name without the files' prefix `transformer.`, and shape, in the
/// order of the forward pass. This is the one list of GPT-2's names here.
///
/// ```
/// use wgpt::{GptConfig, checkpoint::parameters};
/// let list = parameters(&GptConfig::gpt2());
/// assert_eq!(list[0], ("wte.weight".to_string(), vec![50257, 768]));
/// assert_eq!(list.len(), 2 + 12 * 12 + 2);
/// ```
pub fn parameters(config: &GptConfig) -> Vec<NamedShape> {
    each_parameter(config).collect()
}

/// [`parameters`] one by one, for a configuration that is not yet known to fit its file.
fn each_parameter(config: &GptConfig) -> impl Iterator<Item = NamedShape> + use<> {
    let (channels, inner) = (config.n_embd, config.n_inner());
    let named = |(name, shape): (&str, Vec<usize>)| (name.to_string(), shape);
    let first = [
        ("wte.weight", vec![config.vocab_size, channels]),
        ("wpe.weight", vec![config.n_positions, channels]),
    ];
    let last = [("ln_f.weight", vec![channels]), ("ln_f.bias", vec![channels])];
    let layers = (0..config.n_layer).flat_map(move |layer| {
        let layer_tensors = [
            ("ln_1.weight", vec![channels]),
            ("ln_1.bias", vec![channels]),
            ("attn.c_attn.weight", vec![channels, 3 * channels]),
            ("attn.c_attn.bias", vec![3 * channels]),
            ("attn.c_proj.weight", vec![channels, channels]),
            ("attn.c_proj.bias", vec![channels]),
            ("ln_2.weight", vec![channels]),
            ("ln_2.bias", vec![channels]),
            ("mlp.c_fc.weight", vec![channels, inner]),
            ("mlp.c_fc.bias", vec![inner]),
            ("mlp.c_proj.weight", vec![inner, channels]),
            ("mlp.c_proj.bias", vec![channels]),
        ];
        layer_tensors.map(|(name, shape)| (format!("h.{layer}.{name}"), shape))
    });
    first.map(named).into_iter().chain(layers).chain(last.map(named))
}

/// The model at a path that is there: a model folder, a run's folder (its best model, or else its last), or a weights
/// file, which is taken for its folder if it bears the usual name.
///
/// # Errors
///
/// If it is a run that has no model yet.
pub fn model_at(path: &Path) -> Result<PathBuf> {
    let is_usual = |name: &OsStr| name == WEIGHTS || name == adapter::ADAPTER_FILES[1];
    if path.file_name().is_some_and(is_usual) && path.is_file() {
        return Ok(folder_of(path).to_owned());
    }
    if !run::is_run(path) {
        return Ok(path.to_owned());
    }
    run::model_of(path).ok_or_else(|| {
        Error::input(format!("the run in {} has not saved a model yet", path.display()))
            .hint("wait for its first save, or go on with it by wgpt train --resume")
    })
}

/// The folder with what belongs to a model beside its weights: the model folder itself, or that of a weights file.
pub(crate) fn folder_of(model: &Path) -> &Path {
    if !model.is_file() {
        return model;
    }
    match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether a folder holds adapters of a model, and not the model.
pub fn is_adapter(dir: &Path) -> bool {
    adapter::is_adapter(dir)
}

/// Whether a folder holds adapters, be it of the model beside them or of another one.
pub fn has_adapters(dir: &Path) -> bool {
    adapter::is_there(dir)
}

/// The folder of a model's tokenizer, if it has one: the model's own, or else, of adapters, that of the model
/// which they belong to.
///
/// # Errors
///
/// If adapters name no model that is there.
pub fn tokenizer_folder(model: &Path) -> Result<Option<PathBuf>> {
    let dir = folder_of(model);
    let base = adapter::model_folder(dir)?;
    let folders = [dir.to_owned(), folder_of(&base).to_owned()];
    Ok(folders.into_iter().find(|folder| Tokenizer::exists(folder)))
}

/// Opens a model folder, or a weights file with its config.json beside it: the configuration, then the weights
/// (shapes, then NaN and infinity). Of a folder of adapters it is the model that they belong to, with the adapters merged.
///
/// # Errors
///
/// The first fault in that order.
pub fn open_model(model: &Path) -> Result<(GptConfig, Weights)> {
    let config = read_config(model)?;
    let weights = Weights::open(model, &config)?;
    weights.check_finite()?;
    Ok((config, weights))
}
