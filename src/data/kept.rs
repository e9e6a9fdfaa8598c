//! Encoded data in the cache folder, so that the same text is encoded only once per tokenizer.
//!
//! An entry is a folder `tokens/KEY` with the token file and a short description. KEY is a hash of everything that
//! determines the ids: the contents of all files, the tokenizer, the division into documents. Names and times of files
//! are not part of it, so a moved file is found again, and a changed file never is, even if its time is unchanged.
//! Hashing reads a gigabyte in about a second; encoding takes at least twenty times as long. Removing an entry costs
//! only time.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::source::Sources;
use super::tokens::TokenWriter;
use crate::disk::{self, File};
use crate::error::{Error, Result};
use crate::files;
use crate::tokenizer::Tokenizer;

/// Incremented when the same text and tokenizer give other ids than before.
const ENCODING: u32 = 1;

/// The folder of the entries within the cache folder.
const FOLDER: &str = "tokens";
const TOKENS_FILE: &str = "tokens.bin";
const ABOUT_FILE: &str = "about.json";

/// Incomplete entries of killed processes are removed after this time.
const STALE: Duration = Duration::from_hours(24);

/// Passes all ids, piece by piece, to the given function.
pub type Fill<'a> = dyn FnMut(&mut dyn FnMut(&[u32]) -> Result<()>) -> Result<()> + 'a;

/// A number that identifies everything that determines the encoded data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedKey(u128);

impl EncodedKey {
    /// Reads all sources and computes their key; `progress` is called with the number of processed bytes.
    ///
    /// # Errors
    ///
    /// If a source cannot be read or is not downloaded.
    pub fn new(
        sources: &Sources,
        tokenizer: &Tokenizer,
        end_of_text: Option<u32>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<EncodedKey> {
        let mut hash = Xxh3::new();
        let how = (ENCODING, env!("CARGO_PKG_VERSION"), end_of_text, tokenizer.vocab_size());
        let tokenizer = tokenizer.to_json();
        hash.update(format!("{how:?} {} {tokenizer}", tokenizer.len()).as_bytes());
        sources.hash(&mut hash, progress)?;
        Ok(EncodedKey(hash.digest128()))
    }
}

/// The encoded data in a cache folder.
#[derive(Clone, Debug)]
pub struct EncodedCache {
    folder: PathBuf,
}

/// Complete encoded data on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The token file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The hash of its bytes, see [`hash_file`].
    pub xxh3: String,
}

/// The description in an entry.
#[derive(Serialize, Deserialize)]
struct About {
    /// The argument of `--data`.
    data: String,
    /// The hash, see [`Encoded::xxh3`].
    xxh3: String,
}

impl EncodedCache {
    /// Uses the encoded data within the folder `cache`, such as the user's cache folder.
    pub fn new(cache: &Path) -> EncodedCache {
        EncodedCache { folder: cache.join(FOLDER) }
    }

    /// Returns the folder of the entries.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn entry(&self, key: EncodedKey) -> PathBuf {
        self.folder.join(format!("{:032x}", key.0))
    }

    /// Returns the data if they were encoded before; `None` if there are none, or they are damaged.
    pub fn find(&self, key: EncodedKey) -> Option<Encoded> {
        let entry = self.entry(key);
        let about: About =
            serde_json::from_slice(&disk::read(entry.join(ABOUT_FILE)).ok()?).ok()?;
        Encoded::open(&entry.join(TOKENS_FILE)).filter(|found| found.xxh3 == about.xxh3)
    }

    /// Writes encoded data; `None` if the cache folder cannot be written, or if `is_same` finds at the end that the
    /// data have changed meanwhile. Another process may do the same at the same time.
    ///
    /// # Errors
    ///
    /// If `fill` or `is_same` fails. Errors of writing the cache folder are ignored.
    pub fn make(
        &self,
        key: EncodedKey,
        (name, vocab_size): (&str, usize),
        fill: &mut Fill,
        is_same: impl FnOnce() -> Result<bool>,
    ) -> Result<Option<Encoded>> {
        if disk::create_dir_all(&self.folder).is_err() {
            return Ok(None);
        }
        self.remove_stale();
        let (mut refused, mut is_changed) = (None, false);
        // If writing fails, the entry is not found later.
        let _ = files::write_folder(&self.entry(key), |folder| {
            let path = folder.join(TOKENS_FILE);
            let mut writer = TokenWriter::create(&path, vocab_size)?;
            let mut is_full = false;
            let filled = fill(&mut |ids| writer.push(ids).inspect_err(|_| is_full = true));
            let filled = filled.inspect_err(|error| {
                refused = (!is_full).then(|| error.clone());
            });
            filled?;
            drop(writer.finish()?);
            let same = is_same().inspect_err(|error| refused = Some(error.clone()))?;
            if !same {
                is_changed = true;
                return Err(Error::input(format!("{name} was changed while it was encoded")));
            }
            let about = About { data: name.to_owned(), xxh3: hash_file(&path)? };
            let about = serde_json::to_vec_pretty(&about).expect("plain data");
            files::write_bytes(&folder.join(ABOUT_FILE), &about)
        });
        match refused {
            Some(error) => Err(error),
            None if is_changed => Ok(None),
            // The entry exists if this process wrote it, or if another process was faster.
            None => Ok(self.find(key)),
        }
    }

    /// Removes incomplete entries of killed processes. Failures are ignored.
    fn remove_stale(&self) {
        let entries = disk::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let modified = entry.metadata().and_then(|about| about.modified()).ok();
            let is_old = modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > STALE);
            if is_old && files::is_temporary(&entry.file_name().to_string_lossy()) {
                let _ = disk::remove_dir_all(entry.path());
            }
        }
    }
}

impl Encoded {
    /// Opens the token file at `path`; `None` if it cannot be read.
    pub fn open(path: &Path) -> Option<Encoded> {
        let bytes = disk::metadata(path).ok().filter(disk::Metadata::is_file)?.len();
        Some(Encoded { xxh3: hash_file(path).ok()?, path: path.to_owned(), bytes })
    }
}

/// Returns the 128-bit XXH3 hash of a file's bytes in hexadecimal.
///
/// # Errors
///
/// If the file cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    Ok(format!("{:032x}", hash_bytes(path, &mut |_| {})?))
}

/// Returns the XXH3 hash of a file's bytes; `progress` is called with the number of further processed bytes.
pub(super) fn hash_bytes(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<u128> {
    let refused = |cause| Error::io("reading", path, &cause);
    let mut file = File::open(path).map_err(refused)?;
    let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(refused)? {
            0 => return Ok(hash.digest128()),
            read => {
                hash.update(&buffer[..read]);
                progress(read as u64);
            }
        }
    }
}
