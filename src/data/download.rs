//! Downloads published data sets and keeps them in the user's cache folder.
//!
//! A download goes to a file with the ending `.part`, which a later attempt continues. The file is renamed when it is
//! complete: it has the length announced by the server, and the right SHA-256 if that is known. (For `tinystories` none
//! is pinned.)

use std::path::{Path, PathBuf};

use crate::cache;
use crate::disk::{self, File};
use crate::error::{Error, Result};
use crate::files::sha256;

/// A published text.
#[derive(Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name in `--data`.
    pub name: &'static str,
    /// The name of its file in the cache folder and on a mirror.
    pub file: &'static str,
    /// The URL where it is published.
    pub url: &'static str,
    /// The SHA-256 of the file in hexadecimal, if it is known.
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

/// The progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The data set's name.
    pub name: &'static str,
    /// Bytes on this machine.
    pub done_bytes: u64,
    /// Bytes of the whole file, if the server said.
    pub total_bytes: Option<u64>,
}

/// The folder for downloads, and their origin.
#[derive(Clone, Debug)]
pub struct Downloads {
    folder: PathBuf,
    base_url: Option<String>,
}

impl Downloads {
    /// Keeps files in `folder`; downloads them from `base_url`/FILE, or else from where each is published.
    pub fn new(folder: impl Into<PathBuf>, base_url: Option<String>) -> Downloads {
        Downloads { folder: folder.into(), base_url }
    }

    /// Uses the user's cache folder and the publishers' URLs, unless the variables `WGPT_CACHE` (a folder) or
    /// `WGPT_DATA_URL` (the address of a mirror, which has the files under the names of [`Dataset::file`]) are set.
    ///
    /// # Errors
    ///
    /// If the system provides no home folder for the user.
    pub fn from_env() -> Result<Downloads> {
        let base_url = std::env::var_os("WGPT_DATA_URL").filter(|url| !url.is_empty());
        let base_url = base_url.map(|url| url.to_string_lossy().into_owned());
        Ok(Downloads::new(cache::folder()?, base_url))
    }

    /// Returns the path of `dataset` after it is complete.
    pub fn path(&self, dataset: &Dataset) -> PathBuf {
        self.folder.join(dataset.file)
    }

    /// Returns the URL that `dataset` is downloaded from.
    pub fn url(&self, dataset: &Dataset) -> String {
        match &self.base_url {
            Some(base) => format!("{}/{}", base.trim_end_matches('/'), dataset.file),
            None => dataset.url.to_owned(),
        }
    }

    /// Returns the path of `dataset` on this machine, and downloads it if necessary; calls `progress` for every piece.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or has no such file, if the connection breaks twice at the same place, if the
    /// file has the wrong SHA-256 (the download is then removed), if another process is downloading it, or if the
    /// cache folder cannot be written. The hint says how to get the file by hand.
    pub fn fetch(
        &self,
        dataset: &'static Dataset,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf> {
        let path = self.path(dataset);
        if disk::exists(&path) {
            let file = File::open(&path).map_err(|e| Error::io("reading", &path, &e));
            check_sha256(dataset, &mut file?, &path)?;
            return Ok(path);
        }
        self.bring(dataset, &path, progress)?;
        Ok(path)
    }

    #[cfg(not(feature = "download"))]
    fn bring(&self, dataset: &Dataset, path: &Path, _: &mut dyn FnMut(Progress)) -> Result<()> {
        Err(Error::input(format!("{} is not on this machine", dataset.name)).hint(format!(
            "this program was built without the feature `download`: put {} at {}",
            self.url(dataset),
            path.display()
        )))
    }
}

#[cfg(feature = "download")]
mod remote {
    use std::fs::{self, File};
    use std::path::Path;

    use super::{Dataset, Downloads, Progress, check_sha256};
    use crate::download::{Remote, agent, open_alone};
    use crate::error::{Error, Result, field};
    use crate::files;

    impl Downloads {
        /// Downloads a data set to `path` completely.
        pub(super) fn bring(
            &self,
            dataset: &'static Dataset,
            path: &Path,
            progress: &mut dyn FnMut(Progress),
        ) -> Result<()> {
            fs::create_dir_all(&self.folder)
                .map_err(|cause| Error::io("making the cache folder", &self.folder, &cause))?;
            let part_path = self.folder.join(format!("{}.part", dataset.file));
            let refused = |cause: std::io::Error| Error::io("writing", &part_path, &cause);
            let mut part = open_alone(dataset.name, &part_path)?;
            if path.exists() {
                // Another process has downloaded it since the check.
                fs::remove_file(&part_path).map_err(refused)?;
                return Ok(());
            }
            self.download(dataset, &mut part, progress).inspect_err(|_| {
                // An attempt without data removes its empty file. If that fails, the empty file does no harm.
                if part.metadata().is_ok_and(|file| file.len() == 0) {
                    let _ = fs::remove_file(&part_path);
                }
            })?;
            part.sync_all().map_err(refused)?;
            if let Err(error) = check_sha256(dataset, &mut part, &part_path) {
                fs::remove_file(&part_path).map_err(refused)?;
                return Err(error);
            }
            files::rename(&part_path, path).map_err(refused)
        }

        fn download(
            &self,
            dataset: &'static Dataset,
            part: &mut File,
            progress: &mut dyn FnMut(Progress),
        ) -> Result<()> {
            let url = self.url(dataset);
            let mut on_bytes = |done_bytes: u64, total_bytes: Option<u64>| {
                progress(Progress { name: dataset.name, done_bytes, total_bytes });
            };
            let remote = Remote { agent: &agent(&url), url: &url, authorization: None };
            remote.download(part, &mut on_bytes).map_err(|cause| {
                let data = field("data");
                let error = format!("downloading {} from {url}: {cause}", dataset.name);
                Error::input(error).hint(format!(
                    "download {url} by other means, then pass its path as {data} PATH or put it at {}; \
                     WGPT_DATA_URL names a mirror; {data} stories needs no network",
                    self.path(dataset).display()
                ))
            })
        }
    }
}

/// Compares the SHA-256 of an open file, which is at `path`, with the known one of `dataset`, if there is one.
fn check_sha256(dataset: &Dataset, file: &mut File, path: &Path) -> Result<()> {
    let Some(wanted) = dataset.sha256 else { return Ok(()) };
    let got = sha256(file, path)?;
    if got == wanted {
        return Ok(());
    }
    Err(Error::input(format!("{}: the SHA-256 is {got}, wanted {wanted}", path.display()))
        .hint(format!("delete the file if it is there, and download {} again", dataset.name)))
}
