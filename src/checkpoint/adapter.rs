//! A folder of low-rank adapters in PEFT's format. It names the model that the adapters belong to.
//!
//! ```text
//! adapter_config.json  adapter_model.safetensors  [tokenizer.json  tokenizer_config.json]
//! ```
//!
//! A run that trains adapters writes such folders and not whole models: they are small, and other tools read them
//! as they are. Read as a model, the folder means the model that it names, with the adapters merged into its
//! weights, so every function that takes a model takes it. If a whole model lies beside the adapters, they belong to
//! that model. Parameters of the model that were trained with the adapters (`modules_to_save`, biases) replace the
//! model's own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::base_sample::{self, BaseSample};
use super::float::Float;
use super::gguf;
use super::location::folder_of;
use super::peft::{Adapted, BASE, PeftConfig};
use super::tensor_file::{Fill, TensorFile, list, write_tensors};
use super::weights;
use super::weights::pickled;
use crate::arch::{Family, Schema};
use crate::cache;
use crate::disk;
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::finetune::{ALL_LINEAR, Lora, merge};
use crate::params::{NamedShape, ParamInfo, ParamRole, WeightLayout};
use crate::repository::{self, ModelName};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The names of the files in a folder of adapters.
pub(super) const ADAPTER_FILES: [&str; 2] = [CONFIG, WEIGHTS];
/// Files with the adapters' weights in Python's own format.
const PICKLED: [&str; 3] = ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth"];
/// The prefix that PEFT adds to the names of the model's modules.
const PEFT_PREFIX: &str = "base_model.model.";
const TOGETHER: &str = "adapter_config.json, the adapters and the model must belong together";

/// The contents of a folder of adapters besides their weights.
#[derive(Clone, Copy, Debug)]
pub struct AdapterFiles<'a> {
    /// The adapters.
    pub lora: &'a Lora,
    /// The folder of the model that they belong to.
    pub base: &'a Path,
    /// A few numbers of that model, if they are known.
    pub sample: Option<&'a BaseSample>,
}

/// The adapters of a folder, and the model's own parameters that were trained with them.
pub struct Adapter {
    /// The low-rank updates that are added to weights.
    pub(super) low_rank: LowRanks,
    /// Parameters that replace the model's: their names in the model and in the file.
    pub(super) whole: Vec<(String, String)>,
    /// The file that holds these parameters.
    pub(super) file: TensorFile,
    /// A few numbers of the model that the adapters were trained on, if the file has them.
    pub(super) sample: Option<BaseSample>,
}

/// Low-rank adapters, by the names of the weights that they are added to.
pub(super) struct LowRanks(HashMap<String, LowRank>);

/// The adapter of one weight: `scale` · Aᵀ · B is added to the weight (in, out), or its transpose to one (out, in).
struct LowRank {
    scale: f32,
    rank: usize,
    /// (rank, in).
    a: Vec<f32>,
    /// (rank, out).
    b: Vec<f32>,
    layout: WeightLayout,
}

impl Adapter {
    /// Reads the adapters of a folder for a model with these parameters: the low-rank ones at once, whole parameters
    /// when they are requested.
    ///
    /// # Errors
    ///
    /// Names the setting that is not supported, or the tensor that is missing, has another shape or type, is not
    /// finite, or does not belong to the adapters.
    pub fn open(dir: &Path, model: &Schema) -> Result<Adapter> {
        let config = read_config(dir)?;
        let layers = config.adapted(model).map_err(|e| e.at(dir.join(CONFIG).display()))?;
        let path = dir.join(WEIGHTS);
        if !disk::exists(&path) {
            return Err(no_weights(dir));
        }
        let file = TensorFile::open(&path)?;
        Adapter::read_file(&config, &layers, model, file).map_err(|e| e.at(path.display()))
    }

    fn read_file(
        config: &PeftConfig,
        layers: &[Adapted],
        model: &Schema,
        file: TensorFile,
    ) -> Result<Adapter> {
        let mut stored = by_canonical_name(model.family, &file)?;
        let low_rank = layers
            .iter()
            .map(|layer| Ok((layer.weight.clone(), LowRank::read(layer, &file, &mut stored)?)))
            .collect::<Result<HashMap<_, _>>>()?;
        let whole = whole_parameters(config, model, &file, &mut stored)?;
        if !stored.is_empty() {
            let mut more: Vec<String> = stored.into_values().collect();
            more.sort();
            return Err(Error::input(format!(
                "unexpected tensors {}: by {CONFIG} they are not adapted",
                list(&more)
            ))
            .hint(TOGETHER));
        }
        let sample = file.metadata(base_sample::ENTRY).map(BaseSample::parse).transpose()?;
        Ok(Adapter { low_rank: LowRanks(low_rank), whole, file, sample })
    }

    /// Returns a few numbers of the model that the adapters were trained on, if their file has them.
    pub fn sample(&self) -> Option<&BaseSample> {
        self.sample.as_ref()
    }

    /// Reads elements of one part of an adapter.
    ///
    /// # Errors
    ///
    /// If there is no such part, or the range exceeds it.
    pub fn read(&self, part: &ParamInfo, start: usize, out: &mut [f32]) -> Result<()> {
        let low_rank = part.adapts.as_ref().and_then(|weight| self.low_rank.0.get(weight));
        let data = low_rank.map(|low_rank| match part.role {
            ParamRole::LoraA => &low_rank.a,
            _ => &low_rank.b,
        });
        let data = data.and_then(|data| data.get(start..start + out.len()));
        let absent = || Error::input(format!("the adapters have no such {}", part.name));
        out.copy_from_slice(data.ok_or_else(absent)?);
        Ok(())
    }
}

impl LowRank {
    /// Reads A and B, and removes their names from `stored`.
    fn read(
        layer: &Adapted,
        file: &TensorFile,
        stored: &mut HashMap<String, String>,
    ) -> Result<LowRank> {
        let Adapted { module, rank, shape: [inputs, outputs], layout, .. } = layer;
        let mut part = |part: &str, wanted: [usize; 2]| {
            let name = format!("{module}.{part}");
            let name = stored.remove(&name).ok_or_else(|| {
                Error::input(format!("{PEFT_PREFIX}{name}.weight is missing")).hint(TOGETHER)
            })?;
            check_shape(file, &name, &wanted)?;
            let mut data = vec![0.0; wanted.iter().product()];
            file.read(&name, 0, &mut data)?;
            match data.iter().position(|x| !x.is_finite()) {
                None => Ok(data),
                Some(at) => Err(Error::input(format!("{name} is {} at element {at}", data[at]))),
            }
        };
        let a = part("lora_A", [*rank, *inputs])?;
        let b = transposed(&part("lora_B", [*outputs, *rank])?, *rank);
        Ok(LowRank { scale: layer.scale as f32, rank: *rank, a, b, layout: *layout })
    }
}

impl LowRanks {
    /// Adds the adapter of the parameter called `name` to the parameter's elements from `start` on.
    pub(super) fn merge(&self, name: &str, start: usize, out: &mut [f32]) {
        if let Some(LowRank { scale, rank, a, b, layout }) = self.0.get(name) {
            merge(*scale, *rank, [a, b], *layout, start, out);
        }
    }
}

/// Returns the names of a file's tensors, keyed by canonical names that do not depend on the program that wrote them:
/// without PEFT's prefixes of the model and its layers, and without the name of the adapters, which PEFT omits and
/// other programs write.
///
/// With all biases, PEFT stores the biases of a module in `modules_to_save` three times: the model's own
/// (`original_module`), and the trained ones under two names, of which PEFT reads the shorter.
fn by_canonical_name(family: &Family, file: &TensorFile) -> Result<HashMap<String, String>> {
    let mut stored: HashMap<String, String> = HashMap::new();
    let is_copy = |name: &str| name.split('.').any(|part| part == "modules_to_save");
    for name in file.names() {
        if name.split('.').any(|part| part == "original_module") {
            continue;
        }
        let inner = name.strip_prefix(PEFT_PREFIX).unwrap_or(name);
        let parts = inner.split('.').filter_map(|part| match part {
            "base_layer" | "modules_to_save" | "default" => None,
            // The adapters of an embedding.
            "lora_embedding_A" => Some("lora_A"),
            "lora_embedding_B" => Some("lora_B"),
            part => Some(part),
        });
        let canonical = parts.collect::<Vec<_>>().join(".");
        let layer = canonical
            .strip_suffix(".weight")
            .filter(|layer| layer.ends_with(".lora_A") || layer.ends_with(".lora_B"));
        let canonical = layer.map(str::to_owned).unwrap_or(canonical);
        // Older versions of the library save the causal mask with the biases.
        if family.is_buffer(canonical.strip_prefix(family.prefix).unwrap_or(&canonical)) {
            continue;
        }
        match stored.get(&canonical) {
            Some(other) if is_copy(other) == is_copy(name) => {
                return Err(Error::input(format!("{other} and {name} are one tensor")));
            }
            Some(_) if is_copy(name) => {}
            _ => {
                stored.insert(canonical, name.to_owned());
            }
        }
    }
    Ok(stored)
}

/// Returns the model's own parameters in the adapters' file with their names there, which are removed from `stored`.
fn whole_parameters(
    config: &PeftConfig,
    model: &Schema,
    file: &TensorFile,
    stored: &mut HashMap<String, String>,
) -> Result<Vec<(String, String)>> {
    let mut table = match model.is_tied() {
        true => the_table(config, model.family, file, stored)?,
        false => None,
    };
    let mut whole = Vec::new();
    for param in model.own() {
        let (name, shape) = param.named_shape();
        let peft_name = model.family.file_name(&name);
        let found = match param.role {
            ParamRole::TokenTable if model.is_tied() => table.take(),
            _ if config.saves(&peft_name) => Some(need(stored, &peft_name)?),
            role if config.has_biases() && role.is_bias() => stored.remove(&peft_name),
            _ => None,
        };
        if let Some(found) = found {
            check_shape(file, &found, &shape)?;
            whole.push((name, found));
        }
    }
    Ok(whole)
}

/// Returns the name of a tensor that `modules_to_save` requires, and removes it from `stored`.
fn need(stored: &mut HashMap<String, String>, name: &str) -> Result<String> {
    stored.remove(name).ok_or_else(|| {
        let what = format!("{PEFT_PREFIX}{name} is missing, which modules_to_save names");
        Error::input(what).hint(TOGETHER)
    })
}

/// Returns the name of the tensor that replaces the token table, which is also the output head, and removes it from
/// `stored`, where it may have either name.
///
/// For a module in `modules_to_save`, PEFT makes a separate copy, which is no longer tied to the other one. Otherwise
/// the table is in the file because the user asked PEFT to save it, and loading either name changes both.
fn the_table(
    config: &PeftConfig,
    family: &Family,
    file: &TensorFile,
    stored: &mut HashMap<String, String>,
) -> Result<Option<String>> {
    let names = [&format!("{}{}", family.prefix, family.token_table()), family.head];
    let saved = names.map(|name| config.saves(name));
    let mut take = |name: &str, saved: bool| match saved {
        true => need(stored, name).map(Some),
        false => Ok(stored.remove(name)),
    };
    let what = match (take(names[0], saved[0])?, take(names[1], saved[1])?) {
        (None, None) => return Ok(None),
        (Some(table), Some(head)) => match file.has_same(&table, file, &head)? {
            true => return Ok(Some(table)),
            false => format!("{table} and {head} differ"),
        },
        (Some(one), None) | (None, Some(one)) if saved == [false, false] => return Ok(Some(one)),
        (Some(one), None) | (None, Some(one)) => {
            format!("{one} replaces one of the model's token table and its output head")
        }
    };
    Err(Error::input(format!("{what}: wgpt has one table for both")).hint(
        "train the adapters again with wte and lm_head in modules_to_save and ensure_weight_tying=True, or \
         without either",
    ))
}

fn check_shape(file: &TensorFile, name: &str, wanted: &[usize]) -> Result<()> {
    match file.shape(name) {
        Some(got) if got != wanted => {
            let what = format!("{name} has shape {got:?}, should be {wanted:?}");
            Err(Error::input(what).hint(TOGETHER))
        }
        _ => file.check_float(name),
    }
}

/// Returns the error for missing adapter weights, with advice if they are there in another format.
fn no_weights(dir: &Path) -> Error {
    if let Some(other) = PICKLED.iter().map(|name| dir.join(name)).find(|path| disk::exists(path)) {
        return pickled(&other);
    }
    let error = Error::input(format!("{} holds {CONFIG} and no {WEIGHTS}", dir.display()));
    error.hint(match weights::is_there(dir) {
        true => format!("add {WEIGHTS}; or remove {CONFIG}, to take the model without adapters"),
        false => format!("add {WEIGHTS}, which PEFT writes beside {CONFIG}"),
    })
}

/// Transposes a matrix of `columns` columns.
fn transposed(data: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| data.iter().skip(c).step_by(columns)).copied().collect()
}

/// Whether a folder holds adapters, alone or beside a model.
pub(super) fn is_there(dir: &Path) -> bool {
    disk::is_file(&dir.join(CONFIG))
}

/// Whether a folder holds adapters and no whole model.
pub(super) fn is_adapter(dir: &Path) -> bool {
    is_there(dir) && !weights::is_there(dir)
}

/// The place of the model that adapters belong to.
enum Base {
    Folder(PathBuf),
    OnHub(ModelName),
}

/// Finds the model of the adapters in `dir`, as their configuration names it.
///
/// # Errors
///
/// If the configuration names no model that exists.
fn base(dir: &Path) -> Result<Base> {
    let name = read_config(dir)?.base.ok_or_else(|| {
        let what = format!("base_model_name_or_path is null, must be {BASE}");
        Error::input(what)
            .at(dir.join(CONFIG).display())
            .hint("name the folder of the model that the adapters were trained on there")
    })?;
    // A relative name may be relative to the working directory or to the adapters' folder.
    let places = [PathBuf::from(&name), dir.join(&name)];
    let is_model = |place: &PathBuf| disk::is_file(&folder_of(place).join("config.json"));
    let known = places.iter().find(|place| is_model(place));
    if let Some(known) = known.or_else(|| places.iter().find(|place| disk::exists(place))) {
        return match gguf::is_gguf(known) {
            true => gguf::folder_for(known, &cache::folder()?).map(Base::Folder),
            false => Ok(Base::Folder(known.clone())),
        };
    }
    repository::hub_name(&name).map(Base::OnHub).ok_or_else(|| {
        Error::input(format!(
            "{} holds adapters of the model {name}, which is not there",
            dir.display()
        ))
        .hint(format!(
            "put the model back, or name its folder as base_model_name_or_path in {CONFIG}"
        ))
    })
}

/// Returns the hub name of the model that the adapters in `dir` belong to; `None` if there are none, or for a
/// local folder.
///
/// # Errors
///
/// If the adapters name no model that exists.
pub fn base_on_hub(dir: &Path) -> Result<Option<ModelName>> {
    if !is_adapter(dir) {
        return Ok(None);
    }
    Ok(match base(dir)? {
        Base::Folder(_) => None,
        Base::OnHub(name) => Some(name),
    })
}

/// Returns the folder whose files have a model's sizes: `dir` itself, or the folder of the model that its adapters
/// belong to, which may be a hub model that was downloaded before. Adapters beside a model belong to that model,
/// even if their configuration names another one, as for Hugging Face's `from_pretrained`.
///
/// # Errors
///
/// If the adapters name no model that exists.
pub(crate) fn model_folder(dir: &Path) -> Result<PathBuf> {
    if !is_adapter(dir) {
        return Ok(dir.to_owned());
    }
    let base = match base(dir)? {
        Base::Folder(folder) => folder,
        Base::OnHub(name) => repository::cached(&name)?.ok_or_else(|| {
            Error::input(format!(
                "{} holds adapters of the model {name}, which is not on this machine",
                dir.display()
            ))
            .hint("look the adapters up with `hub::find_model`, which downloads the model")
        })?,
    };
    if is_there(&base) {
        return Err(Error::input(format!(
            "{} holds adapters of {}, which holds adapters, too",
            dir.display(),
            base.display()
        ))
        .hint(format!("name a model without adapters as base_model_name_or_path in {CONFIG}")));
    }
    Ok(base)
}

fn read_config(dir: &Path) -> Result<PeftConfig> {
    let path = dir.join(CONFIG);
    let text = disk::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
    let fields: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    PeftConfig::parse(&fields).map_err(|e| e.at(path.display()))
}

/// Returns adapter_config.json as PEFT saves it.
fn config_json(adapter: &AdapterFiles, family: &Family) -> Value {
    let Lora { rank, alpha, targets } = adapter.lora;
    // PEFT expects a whole number here.
    let alpha = match alpha.fract() == 0.0 && *alpha < 1e15 {
        true => json!(*alpha as u64),
        false => json!(alpha),
    };
    // A model from the hub is named by its hub name, so that other users find it too.
    let (base, revision) = match repository::name_of(adapter.base) {
        Some((repository, commit)) => (repository, Some(commit)),
        None => {
            // The folder of a GGUF file in the cache may be removed, the file stays.
            let file = gguf::file_of(adapter.base).ok().flatten();
            let base = file.as_deref().unwrap_or(adapter.base);
            (base.to_string_lossy().into_owned(), None)
        }
    };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": family.layout == WeightLayout::InOut,
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
        "target_modules": target_modules(targets, family),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    })
}

/// Returns the adapted layers as PEFT names them: it matches the ends of names, which have a prefix of its own.
fn target_modules(targets: &[String], family: &Family) -> Value {
    if targets.iter().any(|target| target == ALL_LINEAR) {
        return ALL_LINEAR.into();
    }
    targets.iter().map(|target| target.trim_start_matches(family.prefix)).collect()
}

/// Writes the two files; `fill` provides the parts of the adapters.
pub(super) fn write_adapter(
    dir: &Path,
    adapter: &AdapterFiles,
    schema: &Schema,
    fill: &mut Fill,
) -> Result<()> {
    write_json(&dir.join(CONFIG), &config_json(adapter, schema.family))?;
    // In the file, B is (out, rank).
    let is_turned = |part: &&ParamInfo| part.role == ParamRole::LoraB;
    let stored = |part: &ParamInfo| {
        let (name, mut shape) = part.named_shape();
        if is_turned(&part) {
            shape.reverse();
        }
        (name, shape)
    };
    let mut turned = |name: &str, start: usize, out: &mut [f32]| {
        let Some(part) = schema.adapters().filter(is_turned).find(|part| part.name == name) else {
            return fill(name, start, out);
        };
        let mut whole = vec![0.0; part.len()];
        fill(name, 0, &mut whole)?;
        out.copy_from_slice(&transposed(&whole, part.shape[1])[start..start + out.len()]);
        Ok(())
    };
    let tensors: Vec<NamedShape> = schema.adapters().map(stored).collect();
    let rename = |name: &str| format!("{PEFT_PREFIX}{}", schema.family.file_name(name));
    let sample = adapter.sample.map(|sample| (base_sample::ENTRY, sample.to_json()));
    let metadata: Vec<_> = sample.into_iter().collect();
    write_tensors(&dir.join(WEIGHTS), &rename, &tensors, Float::F32, &metadata, &mut turned)
}
