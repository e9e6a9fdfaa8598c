//! Models in llama.cpp's files, GGUF: what such a file says of a model is written down as the small files of a model folder, in the
//! cache. The weights stay where they are; a file in that folder tells their place.
//!
//! ```text
//! cache/gguf/NAME-SUM/   config.json  generation_config.json  [tokenizer.json  tokenizer_config.json  chat_template.jinja]
//!                        weights.gguf.json   the path of the GGUF file
//! ```

mod file;
mod kind;
mod order;
mod tensors;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub(crate) use file::{GgufFile, GgufTensor};
pub use kind::Kind;
pub(crate) use order::Order;
pub(crate) use tensors::GgufTensors;

use crate::arch::{Described, Family};
use crate::config::GptConfig;
use crate::disk;
use crate::error::{Error, Result};
use crate::files;
use crate::tokenizer::Tokenizer;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// The alignment of the data, in bytes, if the file does not say it.
pub(crate) const ALIGNMENT: usize = 32;
/// The name of the tensor by which llama.cpp divides the frequencies of rotary embeddings.
pub(crate) const DIVISORS: &str = "rope_freqs.weight";

/// The file in the cache that tells where the weights are.
const PLACE: &str = "weights.gguf.json";
/// Is part of the folders' names, so that what another version wrote is not used.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " 1");
/// The entries for tokens that end a text.
const ENDS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];

/// Whether a path is that of a GGUF file, judged by its name.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
        && disk::is_file(path)
}

/// Returns the name of the folder for a GGUF file: that of the file with a sum of where it is, how long, and how old, so that one
/// that was changed has another folder.
fn name_for(path: &Path) -> std::io::Result<String> {
    let about = disk::metadata(path)?;
    let state = format!("{VERSION} {} {} {:?}", path.display(), about.len(), about.modified().ok());
    let sum = Sha256::digest(state.as_bytes());
    let sum: String = sum.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{sum}", path.file_stem().unwrap_or_default().to_string_lossy()))
}

/// Returns the folder in a cache for a GGUF file, which is written if it is not there.
///
/// # Errors
///
/// If the file is no model of a known family, has a tokenizer of another kind, or the cache cannot be written.
pub fn folder_for(path: &Path, cache: &Path) -> Result<PathBuf> {
    let failed = |e| Error::io("reading", path, &e);
    let whole = std::path::absolute(path).map_err(failed)?;
    let folder = cache.join("gguf").join(name_for(&whole).map_err(failed)?);
    if !disk::is_file(&folder.join(PLACE)) {
        let file = GgufFile::open(path)?;
        let unpacked = unpack(&file).map_err(|error| error.as_written().at(path.display()))?;
        crate::cache::make_parent(&folder)?;
        files::write_folder(&folder, |folder| {
            let all = unpacked.iter().try_for_each(|(name, text)| {
                files::write_bytes(&folder.join(name), text.as_bytes())
            });
            all.and_then(|()| files::write_json(&folder.join(PLACE), &json!({ "path": whole })))
        })?;
    }
    Ok(folder)
}

/// Whether a folder is that of a GGUF file, whose weights lie elsewhere.
pub(super) fn is_folder_of_gguf(folder: &Path) -> bool {
    disk::is_file(&folder.join(PLACE))
}

/// Returns the GGUF file that a folder in the cache belongs to; `None` for other folders.
///
/// # Errors
///
/// If the file is not the one that the folder was made for: it was changed or is gone, or the folder is not ours.
pub(super) fn file_of(folder: &Path) -> Result<Option<PathBuf>> {
    if !is_folder_of_gguf(folder) {
        return Ok(None);
    }
    let place = folder.join(PLACE);
    let text = disk::read(&place).map_err(|e| Error::io("reading", &place, &e))?;
    let told: Option<PathBuf> = serde_json::from_slice::<Value>(&text)
        .ok()
        .and_then(|told| serde_json::from_value(told.get("path")?.clone()).ok());
    let is_ours = |path: &PathBuf| {
        let name = name_for(path).ok();
        name.is_some() && folder.file_name().and_then(|own| own.to_str()) == name.as_deref()
    };
    told.clone().filter(is_ours).map(Some).ok_or_else(|| {
        let told = told.map_or("a GGUF file".to_owned(), |path| path.display().to_string());
        Error::input(format!(
            "{} was made for {told}, which was changed or is gone",
            folder.display()
        ))
        .hint("name the GGUF file itself as the model")
    })
}

/// Returns the family of a file's model, its config.json, and the sizes that this gives.
pub(super) fn model_of(
    file: &GgufFile,
) -> Result<(&'static Family, Map<String, Value>, GptConfig)> {
    let name = file.entries.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let (family, gguf) = Family::in_gguf(name)?;
    let tensors = file.tensors.iter().map(|one| (one.name.as_str(), one.shape.as_slice()));
    let described = Described {
        entries: &file.entries,
        architecture: gguf.architecture,
        tensors: tensors.collect(),
        divisors: tensors::divisors(file)?,
    };
    let Value::Object(fields) = (gguf.config)(&described)? else {
        unreachable!("config.json is an object")
    };
    let config = (family.read_config)(&fields)?;
    Ok((family, fields, config))
}

/// Returns the small files of a model folder, by name.
fn unpack(file: &GgufFile) -> Result<Vec<(&'static str, String)>> {
    let (_, mut fields, sizes) = model_of(file)?;
    let entry = |key: &str| file.entries.get(&format!("tokenizer.ggml.{key}"));
    let id = |key: &str| entry(key).filter(|id| id.is_u64()).cloned();
    let ends: Vec<Value> = ENDS.iter().filter_map(|key| id(key)).collect();
    let mut ids = Map::new();
    ids.insert("eos_token_id".to_owned(), Value::from(ends));
    ids.insert("bos_token_id".to_owned(), id("bos_token_id").unwrap_or(Value::Null));
    fields.extend(ids.clone());
    let mut all = vec![
        ("config.json", Value::Object(fields).to_string()),
        ("generation_config.json", Value::Object(ids).to_string()),
    ];
    if let Some(json) = Tokenizer::json_of_gguf(&file.entries, sizes.vocab_size)? {
        let text = json.to_string();
        Tokenizer::from_json(&text, "its tokenizer")?;
        let named = |key: &str| {
            let id = id(key)?.as_u64()?;
            entry("tokens")?.as_array()?.get(usize::try_from(id).ok()?).cloned()
        };
        let names = json!({ "bos_token": named("bos_token_id"), "eos_token": named(ENDS[0]) });
        all.push(("tokenizer.json", text));
        all.push(("tokenizer_config.json", names.to_string()));
    }
    let template = file.entries.get("tokenizer.chat_template").and_then(Value::as_str);
    all.extend(template.map(|text| ("chat_template.jinja", text.to_owned())));
    Ok(all)
}
