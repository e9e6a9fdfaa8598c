//! Models by name: Hugging Face's hub, its cache on this machine, and its conventions.
//!
//! ```text
//! gpt2   openai-community/gpt2-medium   ORG/REPOSITORY@REVISION
//!
//! HF_HUB_CACHE, or hub/ in HF_HOME, or ~/.cache/huggingface/hub, shared with Python:
//!   models--ORG--REPOSITORY/refs/main            the commit that main was when it was asked for
//!                           snapshots/COMMIT/    a model folder, of links
//!                           blobs/               the files, by their hashes; .incomplete while they come
//!                           .no_exist/COMMIT/    files that the repository does not have
//! ```
//!
//! Files in the cache are used without checking the hub for newer ones. The crate hf-hub has the same
//! layout; its version 1 needs tokio, reqwest and 284 crates in all, and version 0.5 neither verifies its
//! downloads nor supports `HF_TOKEN`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE`.

mod snapshot;

use std::path::{Path, PathBuf};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::repository::{self, is_path, variable};
use crate::tokenizer::Tokenizer;
use snapshot::Snapshot;

pub use crate::repository::{ModelName, name_of};

const ENDPOINT: &str = "https://huggingface.co";
/// The accepted forms of a model's name, for hints.
const CHOICES: &str = "a model is a folder, a run's folder, a .safetensors or .gguf file, or a name on the hub such as gpt2 or org/name";

/// The progress of the download of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file's name in the repository.
    pub file: String,
    /// Bytes on this machine.
    pub done_bytes: u64,
    /// Bytes of the whole file, if the server said.
    pub total_bytes: Option<u64>,
}

/// Finds the files of a named model: a model folder, a run's folder (its best model, or else its last), a safetensors
/// file with config.json beside it, a GGUF file, or a name on the hub, whose files are downloaded unless they are on this machine.
/// For a folder of adapters, their model is downloaded too. A local path takes precedence over a hub name.
///
/// # Errors
///
/// If there is no such path, the run has no model yet, or [`Hub::fetch`] fails.
pub fn find_model(named: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
    if named.exists() {
        let found = checkpoint::model_at(named)?;
        fetch_base(&found, progress)?;
        return Ok(found);
    }
    let absent = || Error::input(format!("{} does not exist", named.display())).hint(CHOICES);
    if is_path(named) {
        return Err(absent());
    }
    let name = named.to_str().and_then(ModelName::parse).ok_or_else(absent)?;
    Hub::from_env()?.fetch(&name, progress)
}

/// Downloads the model that the adapters in a folder belong to, if it is a hub model and not on this machine.
fn fetch_base(found: &Path, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    if let Some(name) = checkpoint::base_on_hub(found)? {
        let fetched = Hub::from_env().and_then(|hub| hub.fetch(&name, progress));
        fetched.map_err(|e| e.at(format!("the model of the adapters in {}", found.display())))?;
    }
    checkpoint::model_folder(found).map(drop)
}

/// The hub with this machine's settings.
#[derive(Clone)]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// Uses the variables of Hugging Face's tools: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN` (or the
    /// file that `HF_TOKEN_PATH` names, or `token` in `HF_HOME`) and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    ///
    /// If the user has no home folder and no variable sets the cache folder.
    pub fn from_env() -> Result<Hub> {
        let (home, cache) = repository::folders()?;
        let token_file = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let token_file = token_file.or_else(|| Some(home?.join("token")));
        let token = variable("HF_TOKEN")
            .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| std::fs::read_to_string(token_file?).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let is_set = |name| {
            let value = variable(name).unwrap_or_default().to_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Hub {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token,
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
        })
    }

    /// Returns the model folder of a repository, and downloads its files if they are not in the cache. The
    /// configuration comes first, so that a model other than a GPT-2 is rejected before gigabytes of it are downloaded.
    ///
    /// # Errors
    ///
    /// If there is no such repository or access is denied, it has no GPT-2 in safetensors, the hub cannot be
    /// reached, a download differs from the hub's announcement, or the cache cannot be written.
    pub fn fetch(&self, name: &ModelName, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let mut snapshot = Snapshot::new(self, name, progress);
        let config = snapshot.need("config.json")?;
        let folder = config.parent().unwrap_or(&config);
        checkpoint::read_config(folder).map_err(|error| error.at(format!("{name} on the hub")))?;
        snapshot.weights(folder)?;
        snapshot.get("generation_config.json")?;
        let has_tokenizer = if snapshot.get("tokenizer.json")?.is_some() {
            true
        } else if snapshot.get("vocab.json")?.is_some() {
            snapshot.need("merges.txt")?;
            true
        } else {
            false
        };
        for beside in Tokenizer::BESIDE.into_iter().filter(|_| has_tokenizer) {
            snapshot.get(beside)?;
        }
        if has_tokenizer {
            snapshot.get("chat_template.jinja")?;
        }
        Ok(folder.to_owned())
    }
}
