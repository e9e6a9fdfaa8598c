//! Repositories of Hugging Face's hub: their names, and the places of their files on this machine.
//!
//! The layout of the cache is that of Hugging Face's own tools, see [`crate::hub`], which downloads the files to it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Error, Result};

/// The default branch if no revision is given.
const MAIN: &str = "main";
/// The longest name of a repository, in bytes.
const LONGEST_NAME: usize = 96;
/// Whether the text is written as a path, or lies in an existing folder, so that it does not mean a repository.
pub(crate) fn is_path(named: &Path) -> bool {
    let text = named.to_string_lossy();
    let parent = named.parent().filter(|parent| !parent.as_os_str().is_empty());
    text.starts_with(['.', '/', '~'])
        || text.ends_with(['/', '\\'])
        || text.contains('\\')
        || text.ends_with(".safetensors")
        || !text.contains('@') && parent.is_some_and(Path::is_dir)
}

/// Returns the name on the hub, if the text is one and not a path.
pub(crate) fn hub_name(text: &str) -> Option<ModelName> {
    if is_path(Path::new(text)) { None } else { ModelName::parse(text) }
}

/// Returns the repository and the commit whose files are in this folder of the cache, if it is such a folder.
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
    (text(snapshots)? == "snapshots" && is_commit(&commit)).then_some((repository, commit))
}

/// A repository of the hub and a revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    pub(crate) repository: String,
    pub(crate) revision: String,
}

impl ModelName {
    /// Parses `NAME` or `ORG/NAME`, with an optional `@REVISION`: a branch, a tag or a commit. `None` if it is invalid.
    ///
    /// ```
    /// use wgpt::hub::ModelName;
    /// assert_eq!(ModelName::parse("gpt2").unwrap().to_string(), "gpt2");
    /// assert_eq!(ModelName::parse("org/name@v1").unwrap().to_string(), "org/name@v1");
    /// assert_eq!(ModelName::parse("a/b/c"), None);
    /// assert_eq!(ModelName::parse("a..b"), None);
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

    /// Returns the repository's folder within the cache.
    pub(crate) fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.repository.replace('/', "--")))
    }

    /// Returns the commit of the revision, as it was when last requested; `folder` is the repository's.
    pub(crate) fn commit(&self, folder: &Path) -> Option<String> {
        if is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let named = disk::read_to_string(folder.join("refs").join(&self.revision));
        named.ok().map(|commit| commit.trim().to_owned()).filter(|commit| is_commit(commit))
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

/// Whether this is a commit hash, which never changes its meaning and is a safe folder name.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Returns the folder of a repository's files in the cache, if its configuration is there.
///
/// # Errors
///
/// As [`folders`].
pub(crate) fn cached(name: &ModelName) -> Result<Option<PathBuf>> {
    let (_, cache) = folders()?;
    let folder = name.folder(&cache);
    let snapshot = name.commit(&folder).map(|commit| folder.join("snapshots").join(commit));
    Ok(snapshot.filter(|snapshot| disk::is_file(&snapshot.join("config.json"))))
}

/// Returns the home folder of Hugging Face's tools, if there is one, and the folder where they store models.
///
/// # Errors
///
/// If the user has no home folder and no variable sets the cache folder.
pub(crate) fn folders() -> Result<(Option<PathBuf>, PathBuf)> {
    let folder = |name| variable(name).map(PathBuf::from);
    let cache_home =
        folder("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let home = folder("HF_HOME").or_else(|| Some(cache_home?.join("huggingface")));
    let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
    let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| {
        Error::input("the user has no home folder to keep models in")
            .hint("set HF_HOME to a folder")
    })?;
    Ok((home, cache))
}

/// Returns an environment variable if it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name)
        .map(|value| value.to_string_lossy().into_owned())
        .filter(|value| !value.is_empty())
}
