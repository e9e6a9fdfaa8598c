//! The files of one repository at one commit: found in the cache, or downloaded from the hub.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::{Hub, Progress};
use crate::checkpoint;
use crate::download::{Failure, Remote, agent, open_alone, patiently};
use crate::error::{Error, Result};
use crate::files::{self, sha256};
use crate::repository::{ModelName, is_commit};

/// The maximum number of redirections within the hub, for a renamed repository or a moved file.
const MOST_REDIRECTIONS: usize = 5;

/// The hub's information about a file before it is downloaded.
struct About {
    /// The commit of the revision.
    commit: String,
    /// The file's hash, which names it in the cache: SHA-256 for large files, git's hash for small ones.
    etag: String,
    /// The file's length, if the hub announced it.
    bytes: Option<u64>,
}

/// A repository at a commit, which is known after the first file.
pub(super) struct Snapshot<'a> {
    hub: &'a Hub,
    name: &'a ModelName,
    progress: &'a mut dyn FnMut(Progress),
    agent: Agent,
    authorization: Option<String>,
    /// The repository's folder in the cache.
    folder: PathBuf,
    commit: Option<String>,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(
        hub: &'a Hub,
        name: &'a ModelName,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Snapshot<'a> {
        let folder = name.folder(&hub.cache);
        let commit = name.commit(&folder);
        let authorization = hub.token.as_ref().map(|token| format!("Bearer {token}"));
        let agent = agent(&hub.endpoint);
        Snapshot { hub, name, progress, agent, authorization, folder, commit }
    }

    /// Returns a file that the model requires.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::get`]; or if the repository does not have the file.
    pub(super) fn need(&mut self, file: &str) -> Result<PathBuf> {
        self.get(file)?.ok_or_else(|| self.without(file))
    }

    /// Gets model.safetensors, or the shards of its index.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::get`]; or if the repository has neither.
    pub(super) fn weights(&mut self, folder: &Path) -> Result<()> {
        if self.get(checkpoint::WEIGHTS)?.is_some() {
            return Ok(());
        }
        if self.get(checkpoint::WEIGHTS_INDEX)?.is_some() {
            for shard in checkpoint::shards(folder)? {
                self.need(&shard)?;
            }
            return Ok(());
        }
        for pickled in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
            if !self.hub.offline && self.ask(pickled)?.is_some() {
                return Err(Error::input(format!(
                    "{} on the hub has only {pickled}, which cannot be read safely, no {}",
                    self.name,
                    checkpoint::WEIGHTS
                ))
                .hint(checkpoint::SAVE_AS_SAFETENSORS));
            }
        }
        Err(self.without(checkpoint::WEIGHTS))
    }

    /// Returns a file's path in the cache, and downloads the file if it is not there; `None` if the repository does not
    /// have it, or requests to the hub are forbidden.
    ///
    /// # Errors
    ///
    /// If the hub cannot be reached or refuses the request, the download differs from the announcement, another process
    /// is downloading it, or the cache cannot be written.
    pub(super) fn get(&mut self, file: &str) -> Result<Option<PathBuf>> {
        if let Some(commit) = &self.commit {
            let path = self.folder.join("snapshots").join(commit).join(file);
            if path.exists() {
                return Ok(Some(path));
            }
            if self.folder.join(".no_exist").join(commit).join(file).exists() {
                return Ok(None);
            }
        }
        if self.hub.offline {
            return Ok(None);
        }
        let Some(about) = self.ask(file)? else {
            if let Some(commit) = &self.commit {
                write(&self.folder.join(".no_exist").join(commit).join(file), b"")?;
            }
            return Ok(None);
        };
        let blob = self.folder.join("blobs").join(&about.etag);
        if !blob.exists() {
            self.download(file, &about, &blob)?;
        }
        let path = self.folder.join("snapshots").join(&about.commit).join(file);
        link(&blob, &path)?;
        if self.commit.is_none() {
            let reference = self.folder.join("refs").join(&self.name.revision);
            write(&reference, about.commit.as_bytes())?;
            self.commit = Some(about.commit);
        }
        Ok(Some(path))
    }

    /// Downloads a file to `blob` completely.
    fn download(&mut self, file: &str, about: &About, blob: &Path) -> Result<()> {
        make_parent(blob)?;
        let part_path = blob.with_file_name(format!("{}.incomplete", about.etag));
        let refused = |cause: std::io::Error| Error::io("writing", &part_path, &cause);
        let mut part = open_alone(&format!("{} of {}", file, self.name), &part_path)?;
        if blob.exists() {
            // Another process has downloaded it since the check.
            return fs::remove_file(&part_path).map_err(refused);
        }
        let url = self.url(file);
        let (agent, authorization) = (&self.agent, self.authorization.as_deref());
        let progress = &mut *self.progress;
        let mut on_bytes = |done_bytes, total: Option<u64>| {
            let total_bytes = total.or(about.bytes);
            progress(Progress { file: file.to_owned(), done_bytes, total_bytes });
        };
        let result = Remote { agent, url: &url, authorization }.download(&mut part, &mut on_bytes);
        result.map_err(|cause| self.failed(file, &cause))?;
        part.sync_all().map_err(refused)?;
        if let Err(error) = self.check(file, about, (&mut part, &part_path)) {
            fs::remove_file(&part_path).map_err(refused)?;
            return Err(error);
        }
        files::rename(&part_path, blob).map_err(refused)
    }

    /// Checks a file's length, and also its hash if that depends only on the file's bytes.
    fn check(&self, file: &str, about: &About, (part, path): (&mut File, &Path)) -> Result<()> {
        let wrong = |what: String| {
            self.failed(file, &what)
                .hint("it was removed; try again, and if it stays so, another HF_ENDPOINT")
        };
        let length = part.metadata().map_err(|e| Error::io("reading", path, &e))?.len();
        if let Some(wanted) = about.bytes.filter(|wanted| *wanted != length) {
            return Err(wrong(format!("{length} bytes came, the hub announced {wanted}")));
        }
        if about.etag.len() == 64 {
            let got = sha256(part, path)?;
            if got != about.etag {
                return Err(wrong(format!(
                    "the SHA-256 is {got}, the hub announced {}",
                    about.etag
                )));
            }
        }
        Ok(())
    }

    /// Requests the hub's information about a file; `None` if the repository does not have it.
    fn ask(&self, file: &str) -> Result<Option<About>> {
        let response = patiently(|| self.head(file));
        let response = response.map_err(|cause| self.failed(file, &cause))?;
        let headers = response.headers();
        match (response.status().as_u16(), text(headers, "X-Error-Code")) {
            (200..=399, _) => {}
            (404, Some("RepoNotFound" | "RevisionNotFound")) => return Err(self.unknown(404)),
            (404, _) => return Ok(None),
            (status @ (401 | 403), _) => return Err(self.unknown(status)),
            (status, _) => {
                return Err(self.failed(file, &format!("the server answered {status}")));
            }
        }
        let about = About {
            commit: text(headers, "X-Repo-Commit").unwrap_or_default().to_owned(),
            etag: text(headers, "X-Linked-Etag")
                .or_else(|| text(headers, "ETag"))
                .map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned())
                .unwrap_or_default(),
            bytes: text(headers, "X-Linked-Size")
                .or_else(|| text(headers, "Content-Length").filter(|_| response.status() == 200))
                .and_then(|bytes| bytes.parse().ok()),
        };
        let is_name = !about.etag.is_empty() && about.etag.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_commit(&about.commit) || !is_name {
            let what = "the answer has no X-Repo-Commit and ETag, so this is not a hub";
            return Err(self.failed(file, what).hint("is HF_ENDPOINT right?"));
        }
        Ok(Some(about))
    }

    /// Returns the headers of the hub's answer about a file, not of the server to which downloads are redirected.
    fn head(&self, file: &str) -> Result<Response<Body>, Failure> {
        let mut url = self.url(file);
        for _ in 0..MOST_REDIRECTIONS {
            let mut request = self.agent.head(&url);
            if let Some(value) = &self.authorization {
                request = request.header("Authorization", value);
            }
            let request = request.config().max_redirects(0).build();
            let response = request.call().map_err(|cause| Failure::Final(cause.to_string()))?;
            let location = text(response.headers(), "Location").filter(|to| to.starts_with('/'));
            match (response.status().as_u16(), location) {
                (300..=399, Some(path)) if !path.starts_with("//") => {
                    url = format!("{}{path}", self.origin());
                }
                (status @ (429 | 500..), _) => return Err(Failure::of_status(status)),
                _ => return Ok(response),
            }
        }
        Err(Failure::Final("the server redirects in circles".to_owned()))
    }

    /// Returns the hub's scheme and host, without the path of a mirror.
    fn origin(&self) -> &str {
        let endpoint = self.hub.endpoint.as_str();
        let host = endpoint.find("://").map_or(0, |at| at + 3);
        endpoint[host..].find('/').map_or(endpoint, |end| &endpoint[..host + end])
    }

    fn url(&self, file: &str) -> String {
        let revision = self.commit.as_ref().unwrap_or(&self.name.revision).replace('/', "%2F");
        format!("{}/{}/resolve/{revision}/{file}", self.hub.endpoint, self.name.repository)
    }

    /// Returns the error for a failed download.
    fn failed(&self, file: &str, cause: &str) -> Error {
        Error::input(format!("downloading {}: {cause}", self.url(file))).hint(format!(
            "run it again to go on where it stopped; HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 takes what is in the \
             cache; or put the files of {} into a folder and give that",
            self.name
        ))
    }

    /// Returns the error for an answer of the hub that does not tell whether the repository exists.
    fn unknown(&self, status: u16) -> Error {
        let (name, endpoint) = (self.name, &self.hub.endpoint);
        let error = Error::input(format!(
            "{name} is no path here, and {endpoint} answered {status}: there is no such model, or it is private or gated"
        ));
        let page = format!("{endpoint}/{}", name.repository);
        error.hint(match self.hub.token {
            None => format!("check the name; if the model is private or gated, ask for access at {page} and set HF_TOKEN"),
            Some(_) => format!("check the name; if the model is private or gated, see at {page} whether your token may read it"),
        })
    }

    /// Returns the error for a missing file, on this machine or on the hub.
    fn without(&self, file: &str) -> Error {
        let name = self.name;
        if self.hub.offline {
            let folder = self.hub.cache.display();
            return Error::input(format!(
                "{name} is no path here, and its {file} is not in the cache, {folder}"
            ))
            .hint("HF_HUB_OFFLINE is set: unset it to download the model, or give a folder");
        }
        let endpoint = &self.hub.endpoint;
        Error::input(format!("there is no {file} in {name} on {endpoint}"))
            .hint("check the name: a GPT-2 has config.json and model.safetensors there")
    }
}

/// Returns a header that is text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn make_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io("making the folder", folder, &e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    files::write_bytes(path, bytes)
}

/// Gives a blob its name in a snapshot: creates a link, or if the system has none, moves the file itself.
fn link(blob: &Path, path: &Path) -> Result<()> {
    make_parent(path)?;
    let target = target(blob);
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(target, path).is_ok();
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(target, path).is_ok();
    // Wine says that it has made a link, and has not.
    if path.exists() || linked && path.symlink_metadata().is_ok() {
        return Ok(());
    }
    files::rename(blob, path).map_err(|e| Error::io("writing", path, &e))
}

/// Returns a blob's path as a link in a snapshot has it. Windows follows no link whose target has another system's separators.
fn target(blob: &Path) -> PathBuf {
    let name = blob.file_name().unwrap_or_default();
    ["..", "..", "blobs"].iter().collect::<PathBuf>().join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_this_system_s_separators() {
        let target = target(Path::new("cache/blobs/0123"));
        let separated = target.to_str().unwrap().split(std::path::MAIN_SEPARATOR);
        assert_eq!(separated.collect::<Vec<_>>(), ["..", "..", "blobs", "0123"]);
    }
}
