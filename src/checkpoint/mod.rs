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
//! see [`crate::files`]. Tensors pass through here in slices, so that no second copy of a model is held.

mod adapter;
mod config_json;
mod end_of_text;
mod location;
mod metrics;
mod peft;
mod run;
mod save;
mod state;
mod tensor_file;
mod weights;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub(crate) use adapter::model_folder;
pub use adapter::{Adapter, AdapterFiles, base_on_hub};
pub use config_json::read_config;
pub use end_of_text::{EndOfText, TextFiles};
pub(crate) use location::folder_of;
pub use metrics::{Metrics, read_metrics};
pub use run::{CHOICES, RunDir, newest_run};
pub use save::{Layout, ModelFiles, write_model, write_model_as};
pub(crate) use state::without;
pub use state::{TrainState, moments, open_state, write_state};
pub use tensor_file::{Fill, Float, TensorFile};
pub(crate) use tensor_file::{SLICE, coordinates};
pub use weights::{
    INDEX as WEIGHTS_INDEX, SAVE_AS_SAFETENSORS, SINGLE as WEIGHTS, WeightFiles, Weights, shards,
};

use crate::error::{Error, Result, field};
use crate::tokenizer::Tokenizer;

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
        Error::input(format!("the run in {} has not saved a model yet", path.display())).hint(
            format!("wait for its first save, or go on with it by {}", field("train::resume")),
        )
    })
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
