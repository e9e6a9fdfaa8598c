//! Hugging Face's config.json. It is read strictly, since a model with a silently ignored setting
//! computes something else.

use std::path::Path;

use serde_json::{Value, json};

use super::adapter;
use super::end_of_text::EndOfText;
use super::float::Float;
use super::location::folder_of;
use super::save::ModelFiles;
use crate::arch::Family;
use crate::config::GptConfig;
use crate::disk;
use crate::error::{Error, Result};

/// Reads the sizes from the config.json of a model folder, of the folder of a weights file, or of the model that the
/// adapters in the folder belong to.
///
/// # Errors
///
/// Names the field that is missing or out of range, or the setting that changes what the model
/// computes and is not supported.
pub fn read_config(model: &Path) -> Result<GptConfig> {
    let model = adapter::model_folder(folder_of(model))?;
    let path = folder_of(&model).join("config.json");
    let text = disk::read(&path).map_err(|e| {
        Error::io("reading", &path, &e)
            .hint("a model folder holds config.json and model.safetensors; is this the right one?")
    })?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| {
        Error::input(format!("{} is not JSON: {e}", path.display()))
            .hint("the file is damaged or incomplete: copy or download it again")
    })?;
    let Value::Object(fields) = value else {
        return Err(Error::input(format!("{} is not a JSON object", path.display())));
    };
    let config = Family::named(&fields).and_then(|family| (family.read_config)(&fields));
    config.map_err(|e| e.as_written().at(path.display()))
}

/// The version of Hugging Face's library whose file format these files follow.
const VERSION: &str = "5.23.0";

/// Returns config.json as Hugging Face's library saves it: every setting, sorted by name.
pub(super) fn config_json(model: &ModelFiles, end: &EndOfText, float: Float) -> Value {
    let mut fields = (model.schema.family.write_config)(model.config, model.dropout);
    fields["dtype"] = json!(float.name());
    fields["transformers_version"] = json!(VERSION);
    for (name, ids) in model.text_files.config_ids(end) {
        fields[name] = ids;
    }
    fields
}

/// Returns generation_config.json, which tells Hugging Face's `generate` where a text ends.
pub(super) fn generation_config_json(end_of_text: &EndOfText) -> Value {
    json!({
        "_from_model_config": true,
        "bos_token_id": end_of_text.opening(),
        "eos_token_id": end_of_text.to_json(),
        "output_attentions": false,
        "output_hidden_states": false,
        "transformers_version": VERSION,
        "use_cache": true,
    })
}
