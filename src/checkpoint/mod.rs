//! Files of a model and of a run: Hugging Face model folders, train states and run folders.
//!
//! ```text
//! model folder   config.json  generation_config.json  model.safetensors  [tokenizer.json  tokenizer_config.json]
//!                or adapters of another one: adapter_config.json  adapter_model.safetensors  [the tokenizer]
//!                or both: the model with these adapters
//! run folder     run.json  variants.json  metrics.jsonl  best/ (a model folder)  the last step's model files
//!                checkpoints/step-N/ (a model folder, train_state.json, train_state.safetensors; where ranks train on
//!                their own, train_state.outer.safetensors and train_state.RANK.safetensors)
//! ```
//!
//! Nothing in a file is trusted: a header is checked against the file's length before memory of its size is allocated,
//! and every tensor is checked against the configuration. Files and folders are written completely or not at all: see
//! [`crate::files`]. Tensors are processed in slices, so no second copy of a model is held in memory.

mod adapter;
mod base_sample;
mod config_json;
mod end_of_text;
mod float;
pub(crate) mod gguf;
mod location;
mod metrics;
mod pattern;
mod peft;
mod ranks;
mod run;
mod save;
mod state;
mod tensor_file;
mod weights;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub(crate) use adapter::model_folder;
pub use adapter::{Adapter, AdapterFiles, base_on_hub};
pub use base_sample::{BaseSample, Closeness};
pub use config_json::read_config;
pub use end_of_text::{EndOfText, TextFiles};
pub use float::Float;
pub use gguf::folder_for as gguf_folder;
pub(crate) use location::folder_of;
pub use metrics::{Exchange, Metrics, read_metrics};
pub use ranks::{OUTER_MOMENTUM, RankFile, open_rank_files, rank_files, write_rank_files};
pub use run::{CHOICES, RunDir, newest_run};
pub use save::{Layout, ModelFiles, write_model, write_model_as};
pub(crate) use state::without;
pub use state::{TrainState, moments, open_state, write_state};
pub use tensor_file::{Fill, TensorFile};
pub(crate) use tensor_file::{SLICE, coordinates};
pub use weights::{
    INDEX as WEIGHTS_INDEX, SAVE_AS_SAFETENSORS, SINGLE as WEIGHTS, WeightFiles, Weights, shards,
};

use crate::cache;
use crate::disk;
use crate::error::{Error, Result, field};
use crate::tokenizer::Tokenizer;

/// Returns the model at an existing path: a model folder, a run's folder (its best model, or else its last), or a
/// weights file. A weights file with the usual name stands for its folder, a GGUF file is a model by itself.
///
/// # Errors
///
/// If it is a run without a model, or a GGUF file of another kind of model.
pub fn model_at(path: &Path) -> Result<PathBuf> {
    let is_usual = |name: &OsStr| name == WEIGHTS || name == adapter::ADAPTER_FILES[1];
    if path.file_name().is_some_and(is_usual) && disk::is_file(path) {
        return Ok(folder_of(path).to_owned());
    }
    if gguf::is_gguf(path) {
        return gguf::folder_for(path, &cache::folder()?);
    }
    if !run::is_run(path) {
        return Ok(path.to_owned());
    }
    run::model_of(path).ok_or_else(|| {
        Error::input(format!("the run in {} has not saved a model yet", path.display())).hint(
            format!("wait for its first save, or go on with it by {}", field("train::resume")),
        )
    })
}

/// Whether a folder holds adapters of a model, and not the model.
pub fn is_adapter(dir: &Path) -> bool {
    adapter::is_adapter(dir)
}

/// Whether a folder holds adapters, for the model beside them or for another one.
pub fn has_adapters(dir: &Path) -> bool {
    adapter::is_there(dir)
}

/// Returns the folder of a model's tokenizer, if there is one: the model's own folder, or for adapters without a
/// tokenizer the folder of the model that they belong to.
///
/// # Errors
///
/// If the adapters name no model that exists.
pub fn tokenizer_folder(model: &Path) -> Result<Option<PathBuf>> {
    let dir = folder_of(model);
    let base = adapter::model_folder(dir)?;
    let folders = [dir.to_owned(), folder_of(&base).to_owned()];
    Ok(folders.into_iter().find(|folder| Tokenizer::exists(folder)))
}
