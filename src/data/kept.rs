//! Encoded data in the cache folder, so that the same text with the same tokenizer is encoded once.
//!
//! An entry is a folder `tokens/KEY` with the token file and a few words on it. KEY is a hash of everything that the ids follow
//! from: the contents of all files, the tokenizer, how documents are divided. Names and times of files are no part of it: a
//! moved file is found again, and a changed one never is, whatever its time says. Hashing reads a gigabyte in about a second,
//! encoding takes twenty times as long or more. Whoever removes an entry loses nothing but time.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::source::Sources;
use super::tokens::TokenWriter;
use crate::error::{Error, Result};
use crate::files;
use crate::tokenizer::Tokenizer;

/// Counted up whenever the same text and tokenizer give other ids than before.
const ENCODING: u32 = 1;

/// The folder of the entries within the cache folder.
const FOLDER: &str = "tokens";
const TOKENS_FILE: &str = "tokens.bin";
const ABOUT_FILE: &str = "about.json";

/// After so long, what a killed process was writing is removed.
const STALE: Duration = Duration::from_hours(24);

/// Gives all ids, piece by piece, to the function that it is given.
pub type Fill<'a> = dyn FnMut(&mut dyn FnMut(&[u32]) -> Result<()>) -> Result<()> + 'a;

/// What encoded data follow from, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedKey(u128);

impl EncodedKey {
    /// Reads all sources; `progress` is given how many bytes of them are done.
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

/// Encoded data that are on the disk, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The token file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The hash of its bytes, see [`hash_file`].
    pub xxh3: String,
}

/// What an entry says of itself.
#[derive(Serialize, Deserialize)]
struct About {
    /// What `--data` named.
    data: String,
    /// See [`Encoded::xxh3`].
    xxh3: String,
}

impl EncodedCache {
    /// The encoded data within the user's cache folder, or another one.
    pub fn new(cache: &Path) -> EncodedCache {
        EncodedCache { folder: cache.join(FOLDER) }
    }

    /// The folder of the entries.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn entry(&self, key: EncodedKey) -> PathBuf {
        self.folder.join(format!("{:032x}", key.0))
    }

    /// The data that were encoded before; `None` if there are none, or they are damaged.
    pub fn find(&self, key: EncodedKey) -> Option<Encoded> {
        let entry = self.entry(key);
        let about: About = serde_json::from_slice(&fs::read(entry.join(ABOUT_FILE)).ok()?).ok()?;
        Encoded::open(&entry.join(TOKENS_FILE)).filter(|found| found.xxh3 == about.xxh3)
    }

    /// Writes encoded data; `None` if the cache folder cannot be written, or if `is_same` says at the end that the data
    /// were changed meanwhile. Another process may do the same.
    ///
    /// # Errors
    ///
    /// What `fill` or `is_same` returns, not what the cache folder's system refused.
    pub fn make(
        &self,
        key: EncodedKey,
        (name, vocab_size): (&str, usize),
        fill: &mut Fill,
        is_same: impl FnOnce() -> Result<bool>,
    ) -> Result<Option<Encoded>> {
        if fs::create_dir_all(&self.folder).is_err() {
            return Ok(None);
        }
        self.remove_stale();
        let (mut refused, mut is_changed) = (None, false);
        // What could not be written is not found.
        let _ = files::write_folder(&self.entry(key), |folder| {
            let path = folder.join(TOKENS_FILE);
            let mut writer = TokenWriter::create(&path, vocab_size)?;
            let mut is_full = false;
            let filled = fill(&mut |ids| writer.push(ids).inspect_err(|_| is_full = true));
            let filled = filled.inspect_err(|error| {
                refused = Some(error.clone()).filter(|_| !is_full);
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
            // Whether this process wrote it, or another one was faster.
            None => Ok(self.find(key)),
        }
    }

    /// Removes what processes that were killed left half written. That it cannot be removed is no reason to stop.
    fn remove_stale(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let modified = entry.metadata().and_then(|about| about.modified()).ok();
            let is_old = modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > STALE);
            if is_old && files::is_temporary(&entry.file_name().to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Encoded {
    /// The token file at `path`; `None` if it cannot be read.
    pub fn open(path: &Path) -> Option<Encoded> {
        let bytes = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
        Some(Encoded { xxh3: hash_file(path).ok()?, path: path.to_owned(), bytes })
    }
}

/// The XXH3 hash of a file's bytes, of 128 bits in hexadecimal.
///
/// # Errors
///
/// If the file cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    Ok(format!("{:032x}", hash_bytes(path, &mut |_| {})?))
}

/// The XXH3 hash of a file's bytes; `progress` is given how many more are done.
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
