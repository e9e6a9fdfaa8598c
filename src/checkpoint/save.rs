//! A model folder as Hugging Face's `save_pretrained` writes it.

use std::path::Path;

use serde_json::{Value, json};

use super::adapter::{ADAPTER_FILES, AdapterFiles, write_adapter};
use super::config_json::{config_json, generation_config_json};
use super::tensor_file::{Fill, write_tensors};
use super::{files, parameters};
use crate::config::GptConfig;
use crate::error::{Error, Result};

/// What a model folder says beside its weights.
#[derive(Clone, Copy, Debug)]
pub struct ModelFiles<'a> {
    /// The sizes.
    pub config: &'a GptConfig,
    /// The dropout that it was trained with.
    pub dropout: f64,
    /// The tokenizer's file; `None`: a model of bare token ids.
    pub tokenizer_json: Option<&'a str>,
    /// The id of `<|endoftext|>`, if the vocabulary has it.
    pub end_of_text: Option<u32>,
    /// `None`: the whole model; else the folder holds these adapters of another one.
    pub adapter: Option<AdapterFiles<'a>>,
}

/// The names of the files of a model folder.
pub(super) const MODEL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    ADAPTER_FILES[0],
    ADAPTER_FILES[1],
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Writes a model folder, each file as a whole; `fill` gives the parameters, named as in
/// [`parameters`] (or the adapters, as in [`crate::finetune::Lora::parameters`]), in slices of at most 4 MiB, so that no second copy of the model is held.
///
/// The folder is made if it is not there. The weights come last but for the tokenizer, so an
/// existing model of another size is best replaced with [`files::write_folder`] around this.
///
/// # Errors
///
/// What `fill` returns, or what the system refused.
pub fn write_model(dir: &Path, model: &ModelFiles, fill: &mut Fill) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, &e))?;
    if let Some(adapter) = &model.adapter {
        write_adapter(dir, adapter, model.config, fill)?;
    } else {
        let config = config_json(model.config, model.dropout, model.end_of_text);
        write_json(&dir.join("config.json"), &config)?;
        let generation = generation_config_json(model.end_of_text);
        write_json(&dir.join("generation_config.json"), &generation)?;
        let parameters = parameters(model.config);
        write_tensors(&dir.join("model.safetensors"), "transformer.", &parameters, fill)?;
    }
    if let Some(tokenizer) = model.tokenizer_json {
        files::write_bytes(&dir.join("tokenizer.json"), tokenizer.as_bytes())?;
        write_json(&dir.join("tokenizer_config.json"), &tokenizer_config(model))?;
    }
    Ok(())
}

/// tokenizer_config.json, by which Hugging Face's AutoTokenizer finds its class.
fn tokenizer_config(model: &ModelFiles) -> Value {
    let mut config = json!({
        "clean_up_tokenization_spaces": false,
        "model_max_length": model.config.n_positions,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    if model.end_of_text.is_some() {
        for role in ["bos_token", "eos_token", "unk_token"] {
            config[role] = json!("<|endoftext|>");
        }
    }
    config
}

/// Writes a value as indented JSON with a newline at the end, as a whole.
pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::input(format!("writing {}: {e}", path.display())))?;
    text.push('\n');
    files::write_bytes(path, text.as_bytes())
}
