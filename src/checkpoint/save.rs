//! Writes a model folder like Hugging Face's `save_pretrained`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::adapter::{ADAPTER_FILES, AdapterFiles, write_adapter};
use super::config_json::{config_json, generation_config_json};
use super::end_of_text::{EndOfText, TextFiles};
use super::float::Float;
use super::tensor_file::{Fill, write_tensors};
use super::weights::{INDEX, SINGLE};
use crate::arch::{Family, Schema};
use crate::config::GptConfig;
use crate::disk;
use crate::error::{Error, Result};
use crate::files::{self, write_json};
use crate::params::{NamedShape, ParamInfo};
use crate::tokenizer::Tokenizer;

/// The contents of a model folder besides its weights.
#[derive(Clone, Debug)]
pub struct ModelFiles<'a> {
    /// The sizes.
    pub config: &'a GptConfig,
    /// The parameters.
    pub schema: Schema,
    /// The dropout rate of the training.
    pub dropout: f64,
    /// `None`: a model of bare token ids.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The settings of the original files for where texts end and begin. They are kept.
    pub text_files: &'a TextFiles,
    /// The adapters that the folder holds for another model; `None`: the folder holds the whole model.
    pub adapter: Option<AdapterFiles<'a>>,
}

/// The names of the files in a model folder.
pub(super) const MODEL_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    ADAPTER_FILES[0],
    ADAPTER_FILES[1],
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// The layout of a model folder's weights on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The number format of the weights.
    pub float: Float,
    /// The maximum size of a weights file in bytes; a single larger tensor may exceed it. Several files get an index.
    pub max_shard_bytes: u64,
}

impl Default for Layout {
    /// Returns the layout with one file of f32.
    fn default() -> Layout {
        Layout { float: Float::F32, max_shard_bytes: u64::MAX }
    }
}

/// Writes a model folder, each file as a whole. `fill` provides the parameters, named as in
/// the schema (for adapters, only their parts), in slices of at most
/// 4 MiB, so that no second copy of the model is held.
///
/// The folder is created if it does not exist. The weights are written last, except for the tokenizer. To replace an
/// existing model of another size, call this inside [`files::write_folder`].
///
/// # Errors
///
/// If `fill` or a file operation fails.
pub fn write_model(dir: &Path, model: &ModelFiles, fill: &mut Fill) -> Result<()> {
    write_model_as(dir, model, Layout::default(), fill)
}

/// Like [`write_model`], in the given layout.
///
/// # Errors
///
/// As [`write_model`]; names the parameter with a number that does not fit the layout's number format.
pub fn write_model_as(
    dir: &Path,
    model: &ModelFiles,
    layout: Layout,
    fill: &mut Fill,
) -> Result<()> {
    disk::create_dir_all(dir).map_err(|e| Error::io("creating", dir, &e))?;
    let (end, _) = model.text_files.end_of_text(model.tokenizer);
    if let Some(adapter) = &model.adapter {
        write_adapter(dir, adapter, &model.schema, fill)?;
    } else {
        write_json(&dir.join("config.json"), &config_json(model, &end, layout.float))?;
        write_json(&dir.join("generation_config.json"), &generation_config_json(&end))?;
        let own: Vec<NamedShape> = model.schema.own().map(ParamInfo::named_shape).collect();
        write_weights(dir, model.schema.family, &own, layout, fill)?;
    }
    if let Some(tokenizer) = model.tokenizer {
        files::write_bytes(&dir.join("tokenizer.json"), tokenizer.to_json().as_bytes())?;
        let described = tokenizer_config(model.config, tokenizer, &end);
        write_json(&dir.join("tokenizer_config.json"), &described)?;
    }
    if let (Some(_), Some((name, bytes))) = (model.tokenizer, model.text_files.kept_template()) {
        files::write_bytes(&dir.join(name), bytes)?;
    }
    for (name, bytes) in model.text_files.kept() {
        if disk::is_file(&dir.join(name)) {
            files::write_bytes(&dir.join(name), bytes)?;
        }
    }
    Ok(())
}

/// Writes model.safetensors, or several shards and their index if it would exceed the maximum file size.
fn write_weights(
    dir: &Path,
    family: &Family,
    parameters: &[NamedShape],
    layout: Layout,
    fill: &mut Fill,
) -> Result<()> {
    let shards = shards(parameters, layout);
    let rename = |name: &str| family.file_name(name);
    if let [all] = shards.as_slice() {
        return write_tensors(&dir.join(SINGLE), &rename, all, layout.float, &[], fill);
    }
    let name = |i: usize| format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
    let mut map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        write_tensors(&dir.join(name(i)), &rename, shard, layout.float, &[], fill)?;
        map.extend(shard.iter().map(|(tensor, _)| (rename(tensor), name(i).into())));
    }
    map.sort_keys();
    let elements: usize = parameters.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let index = json!({
        "metadata": {
            "total_parameters": elements,
            "total_size": elements * layout.float.bytes(),
        },
        "weight_map": map,
    });
    write_json(&dir.join(INDEX), &index)
}

/// Divides the parameters into consecutive files, starting a new one before each parameter that would make the file
/// too large. A parameter that is too large for any file gets its own file.
fn shards(parameters: &[NamedShape], layout: Layout) -> Vec<&[NamedShape]> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, (_, shape)) in parameters.iter().enumerate() {
        let more = (shape.iter().product::<usize>() * layout.float.bytes()) as u64;
        if i > start && bytes + more > layout.max_shard_bytes {
            shards.push(&parameters[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += more;
    }
    shards.push(&parameters[start..]);
    shards
}

/// Returns tokenizer_config.json, which tells Hugging Face's AutoTokenizer the class. Only added tokens are written as
/// special tokens: a text there is read back as an added token, so a learned token would no longer be found within
/// others, and a token whose spelling differs from its text would become a new one.
fn tokenizer_config(model: &GptConfig, tokenizer: &Tokenizer, end: &EndOfText) -> Value {
    let mut config = json!({
        "clean_up_tokenization_spaces": false,
        "model_max_length": model.n_positions,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    if tokenizer.adds_prefix_space() {
        config["add_prefix_space"] = true.into();
    }
    let roles = [
        ("bos_token", end.opening()),
        ("eos_token", end.separator()),
        ("unk_token", end.separator()),
    ];
    for (role, id) in roles {
        let is_this = |(_, added): &(&str, u32)| Some(*added) == id;
        if let Some((text, _)) = tokenizer.special_tokens().find(is_this) {
            config[role] = json!(text);
        }
    }
    config
}
