//! The place of a run's token ids: its folder, or, if they are many, the cache folder, to which a reference points.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{self, Encoded, EncodedCache, EncodedKey, Fill, Sources, TokenWriter, Tokens};
use crate::disk::{self, File};
use crate::error::{Error, Kind, Result, field};
use crate::files;
use crate::tokenizer::{AddedAs, Tokenizer};
use crate::train::report::Event;

/// The token file in a run's folder.
pub(super) const TOKENS_FILE: &str = "tokens.bin";
/// The file that refers to a token file elsewhere.
pub(super) const REFERENCE_FILE: &str = "tokens.json";

/// The largest token file that is copied into a run's folder, in bytes.
const LARGEST_COPY: u64 = 64 << 20;

/// The folders in which a run may keep its data; without both, the data stay in memory.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// The run's folder.
    pub run: Option<&'a Path>,
    /// The cache folder.
    pub cache: Option<&'a Path>,
}

/// A token file outside the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reference {
    path: PathBuf,
    /// The hash of its bytes, see [`data::hash_file`].
    xxh3: String,
}

impl Reference {
    /// Returns the reference in a run's folder, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn of(run: &Path) -> Result<Option<Reference>> {
        let path = run.join(REFERENCE_FILE);
        let text = match disk::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(Error::io("reading", &path, &cause)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|cause| {
            Error::input(format!("{}: {cause}", path.display()))
                .hint(format!("remove it: {} encodes the data again", field("resume")))
        })
    }

    /// Opens the ids; `None` if the file is gone or has changed.
    ///
    /// # Errors
    ///
    /// As [`Tokens::open`].
    pub(super) fn open(&self) -> Result<Option<Tokens>> {
        let found = Encoded::open(&self.path).filter(|found| found.xxh3 == self.xxh3);
        found.map(|found| Tokens::open(&found.path)).transpose()
    }

    /// Returns the note that the data are gone and can be made again.
    pub(super) fn note(&self) -> String {
        format!("the encoded data in {} are gone: they are made again", self.path.display())
    }

    /// Returns the error for data that are gone and cannot be made again.
    pub(super) fn lost(&self, error: &Error) -> Error {
        let what = format!(
            "the run's encoded data in {} are gone and cannot be made again",
            self.path.display()
        );
        error.clone().of_kind(Kind::Input).at(what).hint(format!(
            "put the data that the run was trained on back where they were; or begin another run from this one by {}",
            field("init")
        ))
    }

    /// Checks that data that were made again are the same as before.
    fn check(&self, xxh3: &str, name: &str) -> Result<()> {
        if self.xxh3 == xxh3 {
            return Ok(());
        }
        Err(Error::input(format!(
            "{name} is not what the run was trained on so far: it was changed, and the encoded data in {} are gone",
            self.path.display()
        ))
        .hint(put_back()))
    }
}

/// Returns the hint for a run whose data were changed.
pub(super) fn put_back() -> String {
    format!("put the data back; or begin another run from the last checkpoint by {}", field("init"))
}

/// Data to encode, with the settings of the encoding.
pub(super) struct Work<'a> {
    pub sources: &'a Sources,
    /// The validation split, if it comes from data of its own. Then only the run's folder has the ids.
    pub validation: Option<&'a Sources>,
    pub tokenizer: &'a Tokenizer,
    /// The token between documents.
    pub end_of_text: Option<u32>,
    /// The reference that the result must match, if the data were encoded before.
    pub wanted: Option<&'a Reference>,
}

impl Work<'_> {
    /// Returns the ids: found in the cache folder or written there, else written to the run's folder, else in memory.
    ///
    /// # Errors
    ///
    /// If the data cannot be read, the run's folder cannot be written, or the ids differ from the wanted ones.
    pub(super) fn run(&self, places: Places, on_event: &mut dyn FnMut(&Event)) -> Result<Tokens> {
        let name = self.sources.name();
        let is_kept = self.validation.is_none();
        if let Some(kept) = places.cache.filter(|_| is_kept).map(EncodedCache::new) {
            if let Some(encoded) = self.cached(&kept, on_event)? {
                self.wanted.map_or(Ok(()), |wanted| wanted.check(&encoded.xxh3, name))?;
                return Ok(settle(&encoded, places.run)?.named(name));
            }
            on_event(&Event::Note(format!(
                "the encoded data could not be kept in {} for later runs",
                kept.folder().display()
            )));
        }
        let Some(run) = places.run else {
            let ids = |sources, on_event: &mut dyn FnMut(&Event)| {
                let mut ids = vec![];
                let mut push = |more: &[u32]| {
                    ids.extend_from_slice(more);
                    Ok(())
                };
                self.fill_from(sources, &mut push, on_event)?;
                Ok::<_, Error>(Tokens::from_ids(ids))
            };
            let tokens = ids(self.sources, on_event)?;
            let validation = self.validation.map(|sources| ids(sources, on_event)).transpose()?;
            let tokens = match validation {
                Some(validation) => tokens.with_validation(validation)?,
                None => tokens,
            };
            return Ok(tokens.named(name));
        };
        let path = run.join(TOKENS_FILE);
        let vocab = self.tokenizer.vocab_size();
        let mut writer = match self.validation {
            Some(_) => TokenWriter::create_split(&path, vocab)?,
            None => TokenWriter::create(&path, vocab)?,
        };
        self.fill(&mut |more| writer.push(more), on_event)?;
        if let Some(sources) = self.validation {
            writer.begin_validation();
            self.fill_from(sources, &mut |more| writer.push(more), on_event)?;
        }
        let tokens = writer.finish()?;
        if let Some(wanted) = self.wanted {
            wanted.check(&data::hash_file(&path)?, name).inspect_err(|_| {
                // The next resume must not take these ids for the run's own data.
                let _ = disk::remove_file(&path);
            })?;
        }
        Ok(tokens.named(name))
    }

    /// Encodes the data.
    fn fill(
        &self,
        push: &mut dyn FnMut(&[u32]) -> Result<()>,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        self.fill_from(self.sources, push, on_event)
    }

    fn fill_from(
        &self,
        sources: &Sources,
        push: &mut dyn FnMut(&[u32]) -> Result<()>,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let total = sources.bytes();
        let mut progress = |done: u64| {
            on_event(&Event::Preparing { what: "encoding the data".into(), done, total });
        };
        let encoder = self.tokenizer.encoder(AddedAs::Tokens);
        data::encode(sources.documents(), encoder, self.end_of_text, push, &mut progress)
    }

    /// Returns the data in the cache folder, encoded if they are not there; `None` if they cannot be kept there.
    fn cached(
        &self,
        kept: &EncodedCache,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Option<Encoded>> {
        let key = |progress: &mut dyn FnMut(u64)| {
            EncodedKey::new(self.sources, self.tokenizer, self.end_of_text, progress)
        };
        let total = self.sources.bytes();
        let first = key(&mut |done| {
            on_event(&Event::Preparing { what: "reading the data".into(), done, total });
        })?;
        if let Some(encoded) = kept.find(first) {
            let folder = encoded.path.parent().unwrap_or(&encoded.path).display();
            on_event(&Event::Note(format!("found the encoded data in {folder}")));
            return Ok(Some(encoded));
        }
        let about = (self.sources.name(), self.tokenizer.vocab_size());
        let fill: &mut Fill = &mut |push| self.fill(push, on_event);
        // If a text grew while it was encoded, the result must not be found under the key of the earlier text.
        kept.make(first, about, fill, || Ok(key(&mut |_| {})? == first))
    }
}

/// Gives a run its data, as a copy, or as a reference if a copy would be large; returns the ids.
fn settle(encoded: &Encoded, run: Option<&Path>) -> Result<Tokens> {
    let Some(run) = run else { return Tokens::open(&encoded.path) };
    if encoded.bytes > LARGEST_COPY {
        let reference = Reference { path: encoded.path.clone(), xxh3: encoded.xxh3.clone() };
        let text = serde_json::to_vec_pretty(&reference).expect("plain data");
        files::write_bytes(&run.join(REFERENCE_FILE), &text)?;
        return Tokens::open(&encoded.path);
    }
    let path = run.join(TOKENS_FILE);
    let refused = |cause| Error::io("copying", &encoded.path, &cause);
    let mut from = File::open(&encoded.path).map_err(refused)?;
    files::write_file(&path, |out| std::io::copy(&mut from, out).map(|_| ()).map_err(refused))?;
    Tokens::open(&path)
}
