//! wgpt in a browser: what the worker of a page calls. docs/browser.md describes it.
//!
//! The functions that compute return promises (JSPI, `wgpt::wait`), take their options as JSON, tell events as JSON, and run one
//! at a time. Files lie in a tree in memory (`wgpt::disk`), which the page fills and keeps.
#![cfg(target_family = "wasm")]
#![allow(deprecated, reason = "wasm-bindgen calls exports that may wait experimental in this way")]

mod archive;
mod call;
mod device;
mod prove;
mod sizes;
mod train;
mod write;

use std::path::Path;

use js_sys::Function;
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;
use web_sys::Blob;
use wgpt::backend::gpu::{DeviceChoice, adapters, pick};
use wgpt::{Result, checkpoint, disk};

use call::{answer, failed};

/// Sets the name of the adapter, which a browser tells the page alone; called once, before anything else.
#[wasm_bindgen]
pub fn name_adapter(name: &str) {
    std::panic::set_hook(Box::new(|info| {
        web_sys::console::error_1(&JsValue::from_str(&info.to_string()));
    }));
    wgpt::backend::gpu::name_adapter(name);
}

/// Returns the adapters, and what a computation takes by itself.
#[wasm_bindgen(jspi)]
pub fn devices() -> std::result::Result<String, JsValue> {
    call::alone(|| {
        let found = adapters();
        let picked = pick(DeviceChoice::Auto, &found)?;
        let auto = if picked.index.is_some() { "gpu" } else { "cpu" };
        Ok(json!({ "adapters": found, "auto": auto, "reason": picked.reason }))
    })
}

/// Returns the named sizes of new models, with the memory that training takes.
#[wasm_bindgen]
pub fn sizes(options: &str) -> std::result::Result<String, JsValue> {
    answer(call::options(options).and_then(|options| sizes::all(&options)))
}

/// Trains a model, or goes on with a run.
#[wasm_bindgen(jspi)]
pub fn train(options: &str, tell: &Function) -> std::result::Result<String, JsValue> {
    call::alone(|| train::train(&call::options(options)?, &call::Tell(tell)))
}

/// Continues a text.
#[wasm_bindgen(jspi)]
pub fn generate(options: &str, tell: &Function) -> std::result::Result<String, JsValue> {
    call::alone(|| write::generate(&call::options(options)?, &call::Tell(tell)))
}

/// Tells what the tokens of a text cost a model.
#[wasm_bindgen(jspi)]
pub fn score(options: &str, tell: &Function) -> std::result::Result<String, JsValue> {
    call::alone(|| write::score(&call::options(options)?, &call::Tell(tell)))
}

/// Compares every kernel with its twin.
#[wasm_bindgen(jspi)]
pub fn verify(options: &str, tell: &Function) -> std::result::Result<String, JsValue> {
    call::alone(|| prove::verify(&call::options(options)?, &call::Tell(tell)))
}

/// Returns what lies at a path: a model or a run.
#[wasm_bindgen(jspi)]
pub fn model(path: &str) -> std::result::Result<String, JsValue> {
    call::alone(|| about(Path::new(path)))
}

fn about(path: &Path) -> Result<Value> {
    let folder = checkpoint::model_at(path)?;
    let config = checkpoint::read_config(&folder)?;
    let parameters = wgpt::model::schema(&config, &wgpt::FineTune::default()).parameters;
    Ok(json!({
        "path": path,
        "family": config.blocks.family,
        "parameters": parameters.iter().map(wgpt::params::ParamInfo::len).sum::<usize>(),
        "context": config.n_positions,
        "vocab": config.vocab_size,
    }))
}

/// Stops the computation that runs: training saves what it has and returns, a text ends. It may be called at any time.
#[wasm_bindgen]
pub fn stop() {
    call::stop();
}

/// Adds or replaces a file; it is read in pieces, when it is needed.
#[wasm_bindgen]
pub fn put(path: &str, blob: Blob) -> std::result::Result<(), JsValue> {
    disk::browser::put(Path::new(path), blob).map_err(|error| failed(&format!("{path}: {error}")))
}

/// Returns the files below a folder, with their sizes in bytes.
#[wasm_bindgen]
pub fn list(folder: &str) -> String {
    let files = disk::browser::list(Path::new(folder));
    let file = |(path, size)| json!({ "path": path, "size": size });
    files.into_iter().map(file).collect::<Value>().to_string()
}

/// Returns a file's contents.
#[wasm_bindgen]
pub fn blob(path: &str) -> std::result::Result<Blob, JsValue> {
    disk::browser::blob(Path::new(path)).map_err(|error| failed(&format!("{path}: {error}")))
}

/// Removes a file or a folder.
#[wasm_bindgen]
pub fn remove(path: &str) {
    disk::browser::remove(Path::new(path));
}

/// Returns a ZIP archive of the model at a path.
#[wasm_bindgen]
pub fn pack(path: &str) -> std::result::Result<Blob, JsValue> {
    archive::pack(Path::new(path)).map_err(|error| call::thrown(&error))
}

/// Puts the files of a ZIP archive below a folder, without the folder that they share in the archive.
#[wasm_bindgen]
pub fn unpack(archive: Blob, folder: &str) -> std::result::Result<(), JsValue> {
    archive::unpack(archive, Path::new(folder)).map_err(|error| call::thrown(&error))
}
