//! Downloads of published data sets, kept in the user's cache folder.
//!
//! A download goes to a file named `.part`, which a later try continues where it stopped, and gets its name when it is
//! whole: as long as the server said, and of the right SHA-256 where that is known. (For `tinystories` none is pinned.)

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cache;
use crate::error::{Error, Result};

/// A published text.
#[derive(Debug, PartialEq, Eq)]
pub struct Dataset {
    /// What `--data` calls it.
    pub name: &'static str,
    /// The name of its file in the cache folder and on a mirror.
    pub file: &'static str,
    /// Where it is published.
    pub url: &'static str,
    /// The SHA-256 of the file in hexadecimal, where it is known.
    pub sha256: Option<&'static str>,
}

/// The data sets that `--data` knows by name.
pub static DATASETS: &[Dataset] = &[
    // Andrej Karpathy's "tiny Shakespeare" (2015), 1,115,394 bytes.
    Dataset {
        name: "shakespeare",
        file: "tinyshakespeare.txt",
        url: "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256: Some("86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
    },
    // TinyStories (Eldan & Li 2023, arXiv:2305.07759), the stories that GPT-4 wrote; about 2.2 GB.
    Dataset {
        name: "tinystories",
        file: "TinyStoriesV2-GPT4-train.txt",
        url: "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
        sha256: None,
    },
];

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The data set's name.
    pub name: &'static str,
    /// Bytes on this machine.
    pub done_bytes: u64,
    /// Bytes of the whole file, if the server said.
    pub total_bytes: Option<u64>,
}

/// Where downloads are kept, and where they come from.
#[derive(Clone, Debug)]
pub struct Downloads {
    folder: PathBuf,
    base_url: Option<String>,
}

/// Why one try did not bring the whole file.
enum Failure {
    /// The connection broke off; the next try goes on from there.
    Cut(String),
    /// No second try will do better.
    Final(String),
}

impl Downloads {
    /// Keeps files in `folder`; gets them from `base_url`/FILE, or else from where each is published.
    pub fn new(folder: impl Into<PathBuf>, base_url: Option<String>) -> Downloads {
        Downloads { folder: folder.into(), base_url }
    }

    /// The user's cache folder and the publishers, or what the variables `WGPT_CACHE` (a folder) and `WGPT_DATA_URL` (the
    /// address of a mirror, which has the files under the names of [`Dataset::file`]) say instead.
    ///
    /// # Errors
    ///
    /// If the system names no home folder for the user.
    pub fn from_env() -> Result<Downloads> {
        let base_url = std::env::var_os("WGPT_DATA_URL").filter(|url| !url.is_empty());
        let base_url = base_url.map(|url| url.to_string_lossy().into_owned());
        Ok(Downloads::new(cache::folder()?, base_url))
    }

    /// Where `dataset` is kept once it is whole.
    pub fn path(&self, dataset: &Dataset) -> PathBuf {
        self.folder.join(dataset.file)
    }

    /// Where `dataset` comes from.
    pub fn url(&self, dataset: &Dataset) -> String {
        match &self.base_url {
            Some(base) => format!("{}/{}", base.trim_end_matches('/'), dataset.file),
            None => dataset.url.to_owned(),
        }
    }

    /// The path of `dataset` on this machine, downloaded if need be; `progress` hears of every piece.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or has no such file, if the connection breaks off twice at the same place, if the
    /// file's SHA-256 is not the known one (the download is then removed), if another process is downloading it, or if the
    /// cache folder cannot be written. The hint says how to get the file by hand.
    pub fn fetch(
        &self,
        dataset: &'static Dataset,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf> {
        let path = self.path(dataset);
        if path.exists() {
            check_sha256(dataset, &path)?;
            return Ok(path);
        }
        fs::create_dir_all(&self.folder)
            .map_err(|cause| Error::io("making the cache folder", &self.folder, &cause))?;
        let part_path = self.folder.join(format!("{}.part", dataset.file));
        let refused = |cause: std::io::Error| Error::io("writing", &part_path, &cause);
        let mut part = open_alone(dataset, &part_path)?;
        if path.exists() {
            // Another process brought it since we looked.
            fs::remove_file(&part_path).map_err(refused)?;
            return Ok(path);
        }
        self.download(dataset, &mut part, progress).inspect_err(|_| {
            // A try that brought nothing leaves nothing; if that fails, an empty file is no harm.
            if part.metadata().is_ok_and(|file| file.len() == 0) {
                let _ = fs::remove_file(&part_path);
            }
        })?;
        part.sync_all().map_err(refused)?;
        if let Err(error) = check_sha256(dataset, &part_path) {
            fs::remove_file(&part_path).map_err(refused)?;
            return Err(error);
        }
        fs::rename(&part_path, &path).map_err(refused)?;
        Ok(path)
    }

    /// Tries until the file is whole, as long as every try brings some of it.
    fn download(
        &self,
        dataset: &'static Dataset,
        part: &mut File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let url = self.url(dataset);
        let failed = |cause: String| {
            Error::input(format!("downloading {} from {url}: {cause}", dataset.name)).hint(format!(
                "download {url} by other means, then pass its path as --data PATH or put it at {}; \
                 WGPT_DATA_URL names a mirror; --data stories needs no network",
                self.path(dataset).display()
            ))
        };
        let agent = agent(&url);
        let mut last_length = None;
        loop {
            match attempt(&agent, &url, dataset.name, part, progress) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(cause)) => return Err(failed(cause)),
                Err(Failure::Cut(cause)) => {
                    let length = part.metadata().ok().map(|file| file.len());
                    if length == last_length || length == Some(0) {
                        return Err(failed(cause));
                    }
                    last_length = length;
                }
            }
        }
    }
}

/// Opens a `.part` file for this process alone.
fn open_alone(dataset: &Dataset, path: &Path) -> Result<File> {
    let refused = |cause| Error::io("writing", path, &cause);
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(false).open(path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(cause)) => Err(refused(cause)),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{} is being downloaded by another process", dataset.name);
            Err(Error::input(message).hint("wait until it is done"))
        }
    }
}

/// The HTTP client: patient with long files, not with silence.
fn agent(url: &str) -> ureq::Agent {
    let silence = Some(Duration::from_secs(30));
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("wgpt/", env!("CARGO_PKG_VERSION")))
        // A range of a compressed file would not be a range of the file.
        .accept_encoding("identity")
        .timeout_connect(silence)
        .timeout_recv_response(silence)
        .timeout_per_read(silence);
    if url.starts_with("http://127.0.0.1") || url.starts_with("http://localhost") {
        // A proxy does not reach this machine's own servers.
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// One request, for what `part` does not have yet.
fn attempt(
    agent: &ureq::Agent,
    url: &str,
    name: &'static str,
    part: &mut File,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Failure> {
    let unwritable =
        |cause: std::io::Error| Failure::Final(format!("the file in the cache: {cause}"));
    let mut done_bytes = part.metadata().map_err(unwritable)?.len();
    let mut request = agent.get(url);
    if done_bytes > 0 {
        request = request.header("Range", format!("bytes={done_bytes}-"));
    }
    let mut response = request.call().map_err(|cause| Failure::Cut(cause.to_string()))?;
    let range = response.headers().get("Content-Range").and_then(|value| value.to_str().ok());
    let (first, total_bytes) = match (response.status().as_u16(), range.map(content_range)) {
        (200, _) => (0, response.body().content_length()),
        (206, Some(Some((Some(first), total)))) if first <= done_bytes => (first, total),
        (416, Some(Some((None, total)))) if total == Some(done_bytes) => return Ok(()),
        // What we have is no part of what is there: from the beginning.
        (206 | 416, _) if done_bytes > 0 => {
            part.set_len(0).map_err(unwritable)?;
            return attempt(agent, url, name, part, progress);
        }
        (status, _) => return Err(Failure::Final(format!("the server answered {status}"))),
    };
    if first < done_bytes {
        part.set_len(first).map_err(unwritable)?;
        done_bytes = first;
    }
    part.seek(SeekFrom::End(0)).map_err(unwritable)?;
    progress(Progress { name, done_bytes, total_bytes });
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = body.read(&mut buffer).map_err(|cause| Failure::Cut(cause.to_string()))?;
        if read == 0 {
            break;
        }
        part.write_all(&buffer[..read]).map_err(unwritable)?;
        done_bytes += read as u64;
        progress(Progress { name, done_bytes, total_bytes });
    }
    match total_bytes {
        Some(total) if total != done_bytes => {
            Err(Failure::Cut(format!("the connection ended after {done_bytes} of {total} bytes")))
        }
        _ => Ok(()),
    }
}

/// The first byte and the length of the whole in a Content-Range: `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
fn content_range(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let first = match range {
        "*" => None,
        range => Some(range.split_once('-')?.0.parse().ok()?),
    };
    Some((first, total))
}

/// Compares the file at `path` with the SHA-256 that is known of `dataset`, if one is.
fn check_sha256(dataset: &Dataset, path: &Path) -> Result<()> {
    let Some(wanted) = dataset.sha256 else { return Ok(()) };
    let refused = |cause| Error::io("reading", path, &cause);
    let mut file = File::open(path).map_err(refused)?;
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(refused)? {
            0 => break,
            read => sha256.update(&buffer[..read]),
        }
    }
    let got: String = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if got == wanted {
        return Ok(());
    }
    Err(Error::input(format!("{}: the SHA-256 is {got}, wanted {wanted}", path.display()))
        .hint(format!("delete the file if it is there, and download {} again", dataset.name)))
}
