//! Hugging Face's config.json: read strictly, since a setting that is passed over in silence
//! gives a model that computes something else.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::adapter;
use super::end_of_text::EndOfText;
use super::location::folder_of;
use super::save::ModelFiles;
use super::tensor_file::Float;
use crate::config::GptConfig;
use crate::error::{Error, Result};

/// Reads the sizes from the config.json of a model folder, or beside a weights file, or of the model that the adapters in
/// the folder belong to.
///
/// # Errors
///
/// Names the field that is missing or out of range, or the setting that changes what the model
/// computes and is not supported.
pub fn read_config(model: &Path) -> Result<GptConfig> {
    let model = adapter::model_folder(folder_of(model))?;
    let path = folder_of(&model).join("config.json");
    let text = std::fs::read(&path).map_err(|e| {
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
    refuse_unsupported(&fields).and_then(|()| sizes(&fields)).map_err(|e| e.at(path.display()))
}

/// Settings of GPT-2's configuration that change the arithmetic, each with the values supported
/// (the first is the default).
const SETTINGS: &[(&str, &[&str])] = &[
    ("model_type", &["\"gpt2\""]),
    // Two names of one function.
    ("activation_function", &["\"gelu_new\"", "\"gelu_pytorch_tanh\""]),
    ("scale_attn_weights", &["true"]),
    ("scale_attn_by_inverse_layer_idx", &["false"]),
    ("tie_word_embeddings", &["true"]),
    ("add_cross_attention", &["false"]),
    ("pruned_heads", &["{}", "null"]),
    ("quantization_config", &["null"]),
];

fn refuse_unsupported(fields: &Map<String, Value>) -> Result<()> {
    for (name, supported) in SETTINGS {
        let Some(value) = fields.get(*name) else { continue };
        let value = value.to_string();
        if !supported.contains(&value.as_str()) {
            let wanted = supported.join(" or ");
            return Err(Error::input(format!("{name} is {value}, only {wanted} is supported"))
                .hint("this model computes something other than GPT-2 does; use another one"));
        }
    }
    Ok(())
}

fn sizes(fields: &Map<String, Value>) -> Result<GptConfig> {
    // n_ctx is what early files call n_positions.
    let positions = if fields.contains_key("n_positions") { "n_positions" } else { "n_ctx" };
    let positions = if fields.contains_key(positions) { positions } else { "n_positions" };
    let size = |name: &str| whole(name, fields.get(name).unwrap_or(&Value::Null));
    let config = GptConfig {
        n_layer: size("n_layer")?,
        n_head: size("n_head")?,
        n_embd: size("n_embd")?,
        vocab_size: size("vocab_size")?,
        n_positions: size(positions)?,
        n_inner: match fields.get("n_inner") {
            None | Some(Value::Null) => None,
            Some(value) => Some(whole("n_inner", value)?),
        },
        layer_norm_epsilon: match fields.get("layer_norm_epsilon") {
            None => 1e-5,
            Some(value) => value.as_f64().ok_or_else(|| {
                Error::input(format!("layer_norm_epsilon is {value}, must be a number"))
            })?,
        },
    };
    config.validate()?;
    Ok(config)
}

/// A size: a whole number from 1 to 2^24 - 1, so that no product of a few sizes overflows.
fn whole(name: &str, value: &Value) -> Result<usize> {
    if value.is_null() {
        return Err(Error::input(format!("{name} is missing")));
    }
    match value.as_u64() {
        Some(number @ 1..0x100_0000) => Ok(number as usize),
        _ => Err(Error::input(format!(
            "{name} is {value}, must be a whole number from 1 to 16777215"
        ))),
    }
}

/// The version of Hugging Face's library whose files these are like.
const VERSION: &str = "5.23.0";

/// config.json as Hugging Face's library saves it: every setting of GPT-2, sorted by name.
///
/// Attention's own dropout is 0: dropout works in the embedding and before the residual sums.
pub(super) fn config_json(model: &ModelFiles, end: &EndOfText, float: Float) -> Value {
    let ModelFiles { config, dropout, .. } = model;
    let mut fields = json!({
        "activation_function": "gelu_new",
        "add_cross_attention": false,
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.0,
        "bos_token_id": null,
        "dtype": float.name(),
        "embd_pdrop": dropout,
        "eos_token_id": null,
        "initializer_range": 0.02,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "model_type": "gpt2",
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_inner": config.n_inner,
        "n_layer": config.n_layer,
        "n_positions": config.n_positions,
        "pad_token_id": null,
        "reorder_and_upcast_attn": false,
        "resid_pdrop": dropout,
        "scale_attn_by_inverse_layer_idx": false,
        "scale_attn_weights": true,
        "summary_activation": null,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true,
        "summary_type": "cls_index",
        "summary_use_proj": true,
        "tie_word_embeddings": true,
        "transformers_version": VERSION,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    for (name, ids) in model.text_files.config_ids(end) {
        fields[name] = ids;
    }
    fields
}

/// generation_config.json, which tells Hugging Face's `generate` where a text ends.
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
