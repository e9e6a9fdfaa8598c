//! Models by name: Hugging Face's hub, its cache on this machine, its conventions.
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
//! What is in the cache is used without asking the hub whether there is something newer. The crate hf-hub has the same
//! layout; its version 1 needs tokio, reqwest and 284 crates in all, and version 0.5 neither checks what it
//! brings nor knows `HF_TOKEN`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE`.

mod snapshot;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use snapshot::Snapshot;

const ENDPOINT: &str = "https://huggingface.co";
/// The branch that is meant where no revision is named.
const MAIN: &str = "main";
/// The longest name of a repository, in bytes.
const LONGEST_NAME: usize = 96;
/// What can stand where a model is asked for.
const CHOICES: &str = "a model is a folder, a run's folder, a .safetensors file, or a name on the hub such as gpt2 or org/name";

/// How far the download of one file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file's name in the repository.
    pub file: String,
    /// Bytes on this machine.
    pub done_bytes: u64,
    /// Bytes of the whole file, if the server said.
    pub total_bytes: Option<u64>,
}

/// The files of the model that somebody named: a model folder, a run's folder (its best model, or else its last), a
/// safetensors file with config.json beside it, or a name on the hub, whose files are downloaded unless they are on this
/// machine; so is the model of a folder of adapters. What exists here goes before what the hub has.
///
/// # Errors
///
/// If there is no such path, the run has no model yet, or as [`Hub::fetch`].
pub fn find_model(named: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
    if named.exists() {
        let found = checkpoint::model_at(named)?;
        checkpoint::fetch_model(&found, progress)?;
        return Ok(found);
    }
    let absent = || Error::input(format!("{} does not exist", named.display())).hint(CHOICES);
    if is_path(named) {
        return Err(absent());
    }
    let name = named.to_str().and_then(ModelName::parse).ok_or_else(absent)?;
    Hub::from_env()?.fetch(&name, progress)
}

/// Whether this is written as a path, or stands in a folder that is there, so that no repository is meant.
fn is_path(named: &Path) -> bool {
    let text = named.to_string_lossy();
    let parent = named.parent().filter(|parent| !parent.as_os_str().is_empty());
    text.starts_with(['.', '/', '~'])
        || text.ends_with(['/', '\\'])
        || text.contains('\\')
        || text.ends_with(".safetensors")
        || !text.contains('@') && parent.is_some_and(Path::is_dir)
}

/// Whether this is a name on the hub, and no path.
pub(crate) fn is_name(text: &str) -> bool {
    !is_path(Path::new(text)) && ModelName::parse(text).is_some()
}

/// The repository and the commit whose files lie in this folder of the cache, if it is one.
///
/// ```
/// use std::path::Path;
/// let commit = "0123456789abcdef0123456789abcdef01234567";
/// let folder = format!("hub/models--org--name/snapshots/{commit}");
/// let found = wgpt::hub::name_of(Path::new(&folder));
/// assert_eq!(found, Some(("org/name".to_string(), commit.to_string())));
/// assert_eq!(wgpt::hub::name_of(Path::new("runs/mine/best")), None);
/// ```
pub fn name_of(folder: &Path) -> Option<(String, String)> {
    let text = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
    let (commit, snapshots) = (text(folder)?, folder.parent()?);
    let repository = text(snapshots.parent()?)?.strip_prefix("models--")?.replace("--", "/");
    (text(snapshots)? == "snapshots" && snapshot::is_commit(&commit))
        .then_some((repository, commit))
}

/// A repository of the hub and a revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    repository: String,
    revision: String,
}

impl ModelName {
    /// `NAME`, `ORG/NAME`, either with `@REVISION`: a branch, a tag or a commit. `None` if it cannot be one.
    ///
    /// ```
    /// use wgpt::hub::ModelName;
    /// assert_eq!(ModelName::parse("gpt2").unwrap().to_string(), "gpt2");
    /// assert_eq!(ModelName::parse("org/name@v1").unwrap().to_string(), "org/name@v1");
    /// assert_eq!(ModelName::parse("a/b/c"), None);
    /// ```
    pub fn parse(text: &str) -> Option<ModelName> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let parts: Vec<&str> = repository.split('/').collect();
        let word = |part: &&str| {
            let marks = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let ends = ['-', '.'];
            !part.is_empty()
                && part.chars().all(marks)
                && !part.starts_with(ends)
                && !part.ends_with(ends)
        };
        let marks = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let revision_is_safe = revision.chars().all(marks)
            && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
        let good = parts.len() <= 2
            && parts.iter().all(word)
            && !repository.contains("--")
            && !repository.contains("..")
            && repository.len() <= LONGEST_NAME
            && revision_is_safe;
        let name = ModelName { repository: repository.to_owned(), revision: revision.to_owned() };
        good.then_some(name)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

/// The hub as this machine sees it.
#[derive(Clone)]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// By the variables that Hugging Face's tools have: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN` (or the
    /// file that `HF_TOKEN_PATH` names, or `token` in `HF_HOME`) and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    ///
    /// If the user has no home folder and no variable says where the cache is.
    pub fn from_env() -> Result<Hub> {
        let folder = |name| variable(name).map(PathBuf::from);
        let cache_home =
            folder("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
        let home = folder("HF_HOME").or_else(|| Some(cache_home?.join("huggingface")));
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| {
            Error::input("the user has no home folder to keep models in")
                .hint("set HF_HOME to a folder")
        })?;
        let token_file = folder("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
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

    /// The model folder of a repository, whose files are downloaded if they are not in the cache: the configuration
    /// first, so that what is no GPT-2 is refused before gigabytes of it are here.
    ///
    /// # Errors
    ///
    /// If there is no such repository or it may not be read, it has no GPT-2 in safetensors, the hub cannot be
    /// reached, what comes is not what the hub announced, or the cache cannot be written.
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
        Ok(folder.to_owned())
    }
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name)
        .map(|value| value.to_string_lossy().into_owned())
        .filter(|value| !value.is_empty())
}
