//! A folder of low-rank adapters in PEFT's format, which names the model that they belong to.
//!
//! ```text
//! adapter_config.json  adapter_model.safetensors  [tokenizer.json  tokenizer_config.json]
//! ```
//!
//! A run that trains adapters writes such folders and not whole models: they are small, and others' tools
//! take them as they are. Read as a model, the folder is the model that it names with the adapters merged
//! into its weights, so that whatever takes a model takes it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::save::write_json;
use super::tensor_file::{Fill, Float, TensorFile, list, write_tensors};
use super::{NamedShape, weights};
use crate::config::GptConfig;
use crate::error::{Error, Result};
use crate::finetune::{Lora, merge};
use crate::hub;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The names of the files of a folder of adapters.
pub(super) const ADAPTER_FILES: [&str; 2] = [CONFIG, WEIGHTS];
const PREFIX: &str = "base_model.model.transformer.";
const B: &str = ".lora_B.weight";

/// What a folder of adapters says beside their weights.
#[derive(Clone, Copy, Debug)]
pub struct AdapterFiles<'a> {
    /// The adapters.
    pub lora: &'a Lora,
    /// The folder of the model that they belong to.
    pub base: &'a Path,
}

/// The adapters of a folder: their weights, each (rank, channels), by the parameters' names.
#[derive(Clone, Debug)]
pub struct Adapter {
    lora: Lora,
    tensors: HashMap<String, Vec<f32>>,
}

impl Adapter {
    /// Reads the adapters of a folder, for a model of these sizes.
    ///
    /// # Errors
    ///
    /// Names the setting that is not supported, or the tensor that is missing, of another shape, not finite,
    /// or one too many.
    pub fn open(dir: &Path, model: &GptConfig) -> Result<Adapter> {
        let (lora, _) = read_config(dir)?;
        let config = dir.join(CONFIG);
        lora.validate(model).map_err(|e| in_file(&e).at(config.display()))?;
        let file = TensorFile::open(&dir.join(WEIGHTS))?;
        let fault = |what: String| Error::input(what).at(file.path().display());
        let hint = "adapter_config.json, the adapters and the model must belong together";
        let mut tensors = HashMap::new();
        for (name, shape) in lora.parameters(model) {
            let stored = format!("{PREFIX}{name}");
            let wanted = stored_shape(&name, &shape);
            match file.shape(&stored) {
                None => return Err(fault(format!("{stored} is missing")).hint(hint)),
                Some(got) if got != wanted => {
                    let what = format!("{stored} has shape {got:?}, should be {wanted:?}");
                    return Err(fault(what).hint(hint));
                }
                Some(_) => {}
            }
            let mut data = vec![0.0; shape.iter().product()];
            file.read(&stored, 0, &mut data)?;
            if let Some(at) = data.iter().position(|x| !x.is_finite()) {
                return Err(fault(format!("{stored} is {} at element {at}", data[at])));
            }
            if name.ends_with(B) {
                data = transposed(&data, shape[0]);
            }
            tensors.insert(name, data);
        }
        let known =
            |name: &&str| name.strip_prefix(PREFIX).is_some_and(|n| tensors.contains_key(n));
        let mut more: Vec<String> =
            file.names().filter(|name| !known(name)).map(str::to_owned).collect();
        more.sort();
        if !more.is_empty() {
            return Err(fault(format!("unexpected tensors {}", list(&more))).hint(hint));
        }
        Ok(Adapter { lora, tensors })
    }

    /// Reads elements of a part of an adapter, as [`Lora::parameters`] names and shapes it.
    ///
    /// # Errors
    ///
    /// If there is no such part, or it ends before.
    pub fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let data = self.tensors.get(name).and_then(|data| data.get(start..start + out.len()));
        let data = data.ok_or_else(|| Error::input(format!("the adapters have no such {name}")))?;
        out.copy_from_slice(data);
        Ok(())
    }

    /// Adds what adapts the weight called `name` to its elements from `start` on.
    pub(super) fn merge(&self, name: &str, start: usize, out: &mut [f32]) {
        let Some(layer) = name.strip_suffix(".weight") else { return };
        let part = |part: &str| self.tensors.get(&format!("{layer}.{part}.weight"));
        if let (Some(a), Some(b)) = (part("lora_A"), part("lora_B")) {
            merge(self.lora.scale(), [a, b], b.len() / self.lora.rank, start, out);
        }
    }
}

/// An error about an option, in a file that has no options.
fn in_file(error: &Error) -> Error {
    let names = [
        ("--lora-rank", "r"),
        ("--lora-alpha", "lora_alpha"),
        ("--lora-targets", "target_modules"),
    ];
    let text = names.iter().fold(error.to_string(), |text, (from, to)| text.replace(from, to));
    match error.advice() {
        Some(hint) => Error::input(text).hint(hint),
        None => Error::input(text),
    }
}

/// The shape that a tensor has in the file: B is (out, rank) there.
fn stored_shape(name: &str, shape: &[usize]) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if name.ends_with(B) {
        shape.reverse();
    }
    shape
}

/// A matrix of `columns` columns, with rows and columns exchanged.
fn transposed(data: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| data.iter().skip(c).step_by(columns)).copied().collect()
}

/// Whether a folder holds adapters and no whole model.
pub(super) fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).is_file() && !weights::is_there(dir)
}

/// The folder whose files have a model's sizes: `dir` itself, or that of the model which its adapters belong to,
/// which may be one on the hub.
///
/// # Errors
///
/// If adapters name no model that is there.
pub(super) fn model_folder(dir: &Path) -> Result<PathBuf> {
    fetch_model(dir, &mut |_| ())
}

/// [`model_folder`], which tells how far the download of a model on the hub is.
///
/// # Errors
///
/// As [`model_folder`].
pub(crate) fn fetch_model(dir: &Path, progress: &mut dyn FnMut(hub::Progress)) -> Result<PathBuf> {
    if !is_adapter(dir) {
        return Ok(dir.to_owned());
    }
    let (_, name) = read_config(dir)?;
    // A name that is not absolute may be meant from here, or from the adapters' folder.
    let places = [PathBuf::from(&name), dir.join(&name)];
    let base = match places.into_iter().find(|place| place.exists()) {
        Some(base) => base,
        None if hub::is_name(&name) => hub::find_model(Path::new(&name), progress)
            .map_err(|error| error.at(format!("the model of the adapters in {}", dir.display())))?,
        None => {
            return Err(Error::input(format!(
                "{} holds adapters of the model {name}, which is not there",
                dir.display()
            ))
            .hint(format!(
                "put the model back, or name its folder as base_model_name_or_path in {CONFIG}"
            )));
        }
    };
    if is_adapter(&base) {
        return Err(Error::input(format!(
            "{} holds adapters of {}, which holds adapters, too, and no model",
            dir.display(),
            base.display()
        ))
        .hint(format!("name a whole model as base_model_name_or_path in {CONFIG}")));
    }
    Ok(base)
}

/// Settings of PEFT that change the arithmetic, each with the values supported.
const SETTINGS: &[(&str, &[&str])] = &[
    ("peft_type", &["\"LORA\""]),
    ("bias", &["\"none\""]),
    ("use_dora", &["false", "null"]),
    ("use_rslora", &["false", "null"]),
    ("lora_bias", &["false", "null"]),
    ("rank_pattern", &["{}", "null"]),
    ("alpha_pattern", &["{}", "null"]),
    ("modules_to_save", &["null", "[]"]),
    ("layers_to_transform", &["null", "[]"]),
    ("layer_replication", &["null", "[]"]),
    ("exclude_modules", &["null", "[]"]),
    ("target_parameters", &["null", "[]"]),
    ("trainable_token_indices", &["null", "[]"]),
    // Others change the model that the adapters belong to, or where they apply.
    ("init_lora_weights", &["true", "false", "\"gaussian\"", "null"]),
    ("alora_invocation_tokens", &["null", "[]"]),
    ("use_qalora", &["false", "null"]),
];

/// What a folder's adapters are, and the name of the model that they belong to.
fn read_config(dir: &Path) -> Result<(Lora, String)> {
    let path = dir.join(CONFIG);
    let text = std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
    let fields: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    parse(&fields).map_err(|e| e.at(path.display()))
}

fn parse(fields: &Map<String, Value>) -> Result<(Lora, String)> {
    for (name, supported) in SETTINGS {
        let Some(value) = fields.get(*name) else { continue };
        let value = value.to_string();
        if !supported.contains(&value.as_str()) {
            return Err(Error::input(format!(
                "{name} is {value}, only {} is supported",
                supported[0]
            ))
            .hint("merge the adapters into their model with the program that made them"));
        }
    }
    let null = Value::Null;
    let field = |name: &str| fields.get(name).unwrap_or(&null);
    let wrong = |name: &str, wanted: &str| {
        Error::input(format!("{name} is {}, must be {wanted}", field(name)))
    };
    let rank = field("r").as_u64().ok_or_else(|| wrong("r", "a whole number"))?;
    let alpha = field("lora_alpha").as_f64().ok_or_else(|| wrong("lora_alpha", "a number"))?;
    let name = |value: &Value| value.as_str().map(str::to_owned);
    let targets = field("target_modules").as_array();
    let targets = targets.and_then(|targets| targets.iter().map(name).collect());
    let targets = targets.ok_or_else(|| wrong("target_modules", "a list of layers' names"))?;
    let base = name(field("base_model_name_or_path"));
    let base = base.ok_or_else(|| wrong("base_model_name_or_path", "a model's folder or name"))?;
    let base = match name(field("revision")) {
        Some(revision) if hub::is_name(&base) => format!("{base}@{revision}"),
        _ => base,
    };
    Ok((Lora { rank: usize::try_from(rank).unwrap_or(usize::MAX), alpha, targets }, base))
}

/// adapter_config.json as PEFT saves it.
fn config_json(adapter: &AdapterFiles) -> Value {
    let Lora { rank, alpha, targets } = adapter.lora;
    // PEFT has a whole number there.
    let alpha = match alpha.fract() == 0.0 && *alpha < 1e15 {
        true => json!(*alpha as u64),
        false => json!(alpha),
    };
    // What came from the hub is found there by others, too.
    let (base, revision) = match hub::name_of(adapter.base) {
        Some((repository, commit)) => (repository, Some(commit)),
        None => (adapter.base.to_string_lossy().into_owned(), None),
    };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": true,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": revision,
        // PEFT looks for the ends of names that have a prefix of its own.
        "target_modules": targets.iter().map(|t| t.trim_start_matches("transformer.")).collect::<Vec<_>>(),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    })
}

/// Writes the two files; `fill` gives the adapters' parts as [`Lora::parameters`] names and shapes them.
pub(super) fn write_adapter(
    dir: &Path,
    adapter: &AdapterFiles,
    model: &GptConfig,
    fill: &mut Fill,
) -> Result<()> {
    write_json(&dir.join(CONFIG), &config_json(adapter))?;
    let parts = adapter.lora.parameters(model);
    let stored = |(name, shape): &NamedShape| (name.clone(), stored_shape(name, shape));
    let mut turned = |name: &str, start: usize, out: &mut [f32]| {
        let Some((_, shape)) = parts.iter().find(|(known, _)| known == name && known.ends_with(B))
        else {
            return fill(name, start, out);
        };
        let mut whole = vec![0.0; shape.iter().product()];
        fill(name, 0, &mut whole)?;
        out.copy_from_slice(&transposed(&whole, shape[1])[start..start + out.len()]);
        Ok(())
    };
    let tensors: Vec<NamedShape> = parts.iter().map(stored).collect();
    write_tensors(&dir.join(WEIGHTS), PREFIX, &tensors, Float::F32, &mut turned)
}
