//! The sources of training text: the argument of `--data`, and the documents behind it.

use std::io::Read;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::download::{DATASETS, Dataset, Downloads, Progress};
use super::json::{self, JsonFile};
use super::kept::hash_bytes;
use super::shards::Shards;
use super::stories;
use super::text::{CutText, Document, TextFile};
use super::tokens::Tokens;
use super::unicode::{HEAD_BYTES, Unicode};
use crate::disk;
use crate::error::{Error, Result};
use crate::tokenizer::Cutter;

/// One source that `--data` names; folders are already expanded into files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The `stories` corpus: this number of stories with [`stories::DEFAULT_SEED`].
    Stories(u64),
    /// A published data set; [`Sources::fetch`] makes it a text file.
    Dataset(&'static Dataset),
    /// A text file, in UTF-8, or in UTF-16 with a byte order mark.
    Text(PathBuf),
    /// A file of JSON objects with a string `text`: one per line, one array of them or of strings, or one object.
    Json(PathBuf),
    /// A token file, see [`super::Tokens`].
    Tokens(PathBuf),
}

impl Source {
    /// Returns the kind of a file, judged by the ending of its name.
    fn file(path: &Path) -> Source {
        let is_tokens = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("bin"));
        let owned = path.to_owned();
        match () {
            () if json::is_json(path) => Source::Json(owned),
            () if is_tokens => Source::Tokens(owned),
            () => Source::Text(owned),
        }
    }

    /// Returns the name for messages.
    pub(super) fn name(&self) -> String {
        match self {
            Source::Stories(_) => "stories".to_owned(),
            Source::Dataset(dataset) => dataset.name.to_owned(),
            Source::Text(path) | Source::Json(path) | Source::Tokens(path) => {
                path.display().to_string()
            }
        }
    }

    /// Returns the approximate bytes of text, for even sampling and progress; 0 if they are not known yet.
    fn bytes(&self) -> u64 {
        match self {
            Source::Stories(count) => count * 520,
            Source::Dataset(_) => 0,
            Source::Text(path) | Source::Json(path) | Source::Tokens(path) => {
                disk::metadata(path).map_or(0, |file| file.len())
            }
        }
    }

    /// Adds everything that determines the documents to a hash; `progress` is called with the number of further
    /// processed bytes.
    fn hash(&self, hash: &mut Xxh3, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let kind: u8 = match self {
            Source::Text(_) => 0,
            Source::Json(path) => 1 + u8::from(json::has_lines(path)),
            Source::Tokens(_) => 3,
            Source::Stories(_) => 4,
            Source::Dataset(dataset) => return Err(not_downloaded(dataset)),
        };
        hash.update(&[kind]);
        match self {
            Source::Text(path) | Source::Json(path) | Source::Tokens(path) => {
                hash.update(&hash_bytes(path, progress)?.to_le_bytes());
            }
            Source::Stories(_) | Source::Dataset(_) => {
                for document in self.documents(true)? {
                    let text = document?.text;
                    hash.update(&text.len().to_le_bytes());
                    hash.update(text.as_bytes());
                    progress(text.len() as u64);
                }
            }
        }
        Ok(())
    }

    fn documents(
        &self,
        divided: bool,
    ) -> Result<Box<dyn Iterator<Item = Result<Document>> + Send>> {
        Ok(match self {
            Source::Stories(count) => Box::new(
                stories::stories(stories::DEFAULT_SEED, *count)
                    .map(|story| Ok(Document::whole(story))),
            ),
            Source::Text(path) => Box::new(TextFile::open(path, divided)?),
            Source::Json(path) => Box::new(JsonFile::open(path)?),
            Source::Tokens(path) => {
                return Err(Error::input(format!("{} holds tokens, not text", path.display()))
                    .hint("the tokenizer that made them reads the text"));
            }
            Source::Dataset(dataset) => return Err(not_downloaded(dataset)),
        })
    }
}

fn not_downloaded(dataset: &Dataset) -> Error {
    Error::input(format!("{} is not downloaded yet", dataset.name))
}

/// A file in a folder that is not part of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path.
    pub path: PathBuf,
    /// The reason, in words.
    pub why: String,
}

/// All data of one run, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    sources: Vec<Source>,
    left_out: Vec<LeftOut>,
    name: String,
    /// Whether a document of a text file ends at `<|endoftext|>`.
    divided: bool,
}

impl Sources {
    /// Parses the arguments of `--data`: `stories`, `shakespeare`, `tinystories`, or paths of files and folders.
    ///
    /// A folder stands for its files, and those of the folders in it, sorted by path. Links to folders are not
    /// followed. Empty and binary files are left out, and so are `.json` files whose beginning holds no text, such as
    /// settings: see [`Sources::left_out`]. Hidden files are ignored. For a file with the name of a corpus, write
    /// `./stories`. Nothing is downloaded.
    ///
    /// # Errors
    ///
    /// If a path does not exist, is empty, or holds no files; or if token files are mixed with other data.
    pub fn parse(arguments: &[String]) -> Result<Sources> {
        let (mut sources, mut left_out) = (Vec::new(), Vec::new());
        for argument in arguments {
            if argument == "stories" {
                sources.push(Source::Stories(stories::DEFAULT_STORIES));
            } else if let Some(dataset) = DATASETS.iter().find(|set| set.name == argument) {
                sources.push(Source::Dataset(dataset));
            } else {
                open_path(Path::new(argument), &mut sources, &mut left_out)?;
            }
        }
        if sources.is_empty() {
            return Err(Error::usage("there is no data").hint(CHOICES));
        }
        check_kinds(&sources)?;
        Ok(Sources { sources, left_out, name: arguments.join(" "), divided: true })
    }

    /// Treats each text file as one document, even if it contains separators.
    #[must_use]
    pub fn undivided(self) -> Sources {
        Sources { divided: false, ..self }
    }

    /// Returns each source separately, with its own name.
    pub fn each(&self) -> impl Iterator<Item = Sources> + '_ {
        self.sources.iter().map(|source| {
            let (sources, name) = (vec![source.clone()], source.name());
            Sources { sources, left_out: vec![], name, divided: self.divided }
        })
    }

    /// Returns the arguments as they were written, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the sources, with folders expanded.
    pub fn list(&self) -> &[Source] {
        &self.sources
    }

    /// Returns the files in the folders that are not part of the data, except hidden ones.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Returns a few lines about the files that were left out.
    pub fn notes(&self) -> Vec<String> {
        const MOST: usize = 5;
        let named = self.left_out.iter().take(MOST);
        let mut notes: Vec<String> =
            named.map(|file| format!("left out: {}: {}", file.path.display(), file.why)).collect();
        if self.left_out.len() > MOST {
            notes.push(format!("left out: {} files more", self.left_out.len() - MOST));
        }
        notes
    }

    /// Returns the token files, if the data consist of them: they are read without a tokenizer, and
    /// [`Sources::documents`] fails.
    pub fn shards(&self) -> Option<Shards> {
        self.token_files().map(|paths| Shards::new(&paths))
    }

    /// Opens all ids of the token files as one sequence, if the data consist of token files.
    ///
    /// # Errors
    ///
    /// As [`Tokens::open_all`].
    pub fn tokens(&self) -> Result<Option<Tokens>> {
        self.token_files().as_deref().map(Tokens::open_all).transpose()
    }

    fn token_files(&self) -> Option<Vec<PathBuf>> {
        let path = |source: &Source| match source {
            Source::Tokens(path) => Some(path.clone()),
            _ => None,
        };
        self.sources.iter().map(path).collect()
    }

    /// Returns the approximate bytes of text; data that must still be downloaded count as 0.
    pub fn bytes(&self) -> u64 {
        self.sources.iter().map(Source::bytes).sum()
    }

    /// Adds to a hash everything that determines the documents: contents and kinds, no names. `progress` is called with
    /// the number of processed bytes.
    pub(super) fn hash(&self, hash: &mut Xxh3, progress: &mut dyn FnMut(u64)) -> Result<()> {
        hash.update(&[self.divided.into()]);
        let mut done = 0;
        for source in &self.sources {
            source.hash(hash, &mut |more| {
                done += more;
                progress(done);
            })?;
        }
        Ok(())
    }

    /// Downloads the data sets that are not on this machine yet.
    ///
    /// # Errors
    ///
    /// As [`Downloads::fetch`].
    pub fn fetch(&mut self, from: &Downloads, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        for source in &mut self.sources {
            if let Source::Dataset(dataset) = *source {
                *source = Source::Text(from.fetch(dataset, progress)?);
            }
        }
        Ok(())
    }

    /// Returns all documents, always in the same order; long ones in pieces, so that no file is in memory as a whole.
    ///
    /// Each item may be an error: a file that cannot be read or is not Unicode (with the byte), a JSON value without a
    /// text (with the line), a data set that was not downloaded. A source ends at its first error.
    pub fn documents(&self) -> impl Iterator<Item = Result<Document>> + Send + '_ {
        self.sources.iter().flat_map(|source| {
            let (documents, error) = match source.documents(self.divided) {
                Ok(documents) => (Some(documents), None),
                Err(error) => (None, Some(Err(error))),
            };
            documents.into_iter().flatten().chain(error)
        })
    }

    /// Returns at most about `limit` bytes of the text to train a tokenizer on, in slices spread evenly over all of it.
    ///
    /// # Errors
    ///
    /// The first error of [`Sources::documents`]; or if there is no text.
    pub fn sample(&self, limit: u64) -> Result<Vec<String>> {
        let total = u128::from(self.bytes().max(1));
        let (mut seen, mut kept) = (0_u128, 0_u128);
        let mut sample = Vec::new();
        let cutter = Cutter::plain();
        for document in CutText::new(self.documents(), cutter.clone()) {
            let text = document?.text;
            if u128::from(limit) >= total && kept + (text.len() as u128) <= u128::from(limit) {
                (seen, kept) = (seen + text.len() as u128, kept + text.len() as u128);
                sample.push(text);
                continue;
            }
            for slice in cutter.slices(&text, SLICE_BYTES) {
                if kept * total <= seen * u128::from(limit) && kept < u128::from(limit) {
                    kept += slice.len() as u128;
                    sample.push(slice.to_owned());
                }
                seen += slice.len() as u128;
            }
        }
        if sample.is_empty() {
            return Err(Error::input(format!("{} has no text: no data to learn from", self.name)));
        }
        Ok(sample)
    }
}

const CHOICES: &str = "data are stories, shakespeare, tinystories, or paths of files and folders";

/// The number of bytes of a slice in [`Sources::sample`].
const SLICE_BYTES: usize = 16 << 10;

/// Checks that either all sources or none are token files.
fn check_kinds(sources: &[Source]) -> Result<()> {
    let is_tokens = |source: &&Source| matches!(source, Source::Tokens(_));
    let (tokens, other) =
        (sources.iter().find(is_tokens), sources.iter().find(|source| !is_tokens(source)));
    let (Some(tokens), Some(other)) = (tokens, other) else { return Ok(()) };
    Err(Error::input(format!(
        "{} is a token file and cannot be mixed with text, such as {}",
        tokens.name(),
        other.name()
    ))
    .hint("name the token files alone, such as FOLDER/*.bin, or the text alone"))
}

/// Adds the file, or the files of the folder, at `path`.
fn open_path(path: &Path, sources: &mut Vec<Source>, left_out: &mut Vec<LeftOut>) -> Result<()> {
    let found = disk::metadata(path)
        .map_err(|cause| Error::io("opening the data", path, &cause).hint(CHOICES))?;
    if found.is_dir() {
        let before = (sources.len(), left_out.len());
        open_folder(path, sources, left_out)?;
        if sources.len() == before.0 {
            let mut message = format!("the folder {} has no data", path.display());
            if let Some(file) = left_out.get(before.1) {
                message += &format!("; left out: {}: {}", file.path.display(), file.why);
            }
            return Err(Error::input(message)
                .hint("hidden, empty and binary files are left out, and JSON without texts"));
        }
    } else if !found.is_file() {
        return Err(Error::input(format!("{} is neither a file nor a folder", path.display()))
            .hint("write what it gives to a file first"));
    } else if found.len() == 0 {
        return Err(Error::input(format!("{} is empty: there is no data in it", path.display()))
            .hint("give a file with some text"));
    } else {
        sources.push(Source::file(path));
    }
    Ok(())
}

/// Adds the files under `folder`, sorted by path.
fn open_folder(
    folder: &Path,
    sources: &mut Vec<Source>,
    left_out: &mut Vec<LeftOut>,
) -> Result<()> {
    let refused = |cause: std::io::Error| Error::io("reading the folder", folder, &cause);
    let mut paths = Vec::new();
    for entry in disk::read_dir(folder).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push((entry.path(), entry.file_type().map_err(refused)?));
        }
    }
    paths.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (path, kind) in paths {
        if kind.is_dir() {
            open_folder(&path, sources, left_out)?;
            continue;
        }
        let source = Source::file(&path);
        match why_not(&source, &path)? {
            None => sources.push(source),
            Some(why) => left_out.push(LeftOut { path, why }),
        }
    }
    Ok(())
}

/// Returns the reason why a file in a folder is not data. A file that the user named directly is rejected instead.
fn why_not(source: &Source, path: &Path) -> Result<Option<String>> {
    let why = match disk::metadata(path) {
        Err(cause) => Some(cause.to_string()),
        Ok(found) if found.is_dir() => Some("a link to a folder".to_owned()),
        Ok(found) if !found.is_file() => Some("no regular file".to_owned()),
        // A shard without tokens is damaged, and not left out.
        Ok(_) if matches!(source, Source::Tokens(_)) => None,
        Ok(found) if found.len() == 0 => Some("empty".to_owned()),
        Ok(_) => why_no_text(path)?,
    };
    // JSON lines are data because of their name; a file called .json may contain anything.
    if why.is_some() || !matches!(source, Source::Json(_)) || json::has_lines(path) {
        return Ok(why);
    }
    Ok(match JsonFile::open(path).map(|mut documents| documents.next()) {
        Ok(Some(Ok(_))) => None,
        Ok(None) => Some("JSON without a text".to_owned()),
        Ok(Some(Err(error))) | Err(error) => {
            let text = error.to_string();
            let place = format!("{}, ", path.display());
            Some(format!("JSON without a text ({})", text.strip_prefix(&place).unwrap_or(&text)))
        }
    })
}

/// Returns the reason why a file in a folder is not text: it has a zero byte near its beginning, as grep and git check,
/// too, and no byte order mark, which would allow such bytes in UTF-16.
fn why_no_text(path: &Path) -> Result<Option<String>> {
    let mut start = vec![];
    let file = disk::File::open(path).map_err(|cause| Error::io("opening", path, &cause))?;
    let read = file.take(HEAD_BYTES as u64).read_to_end(&mut start);
    read.map_err(|cause| Error::io("reading", path, &cause))?;
    if !start.contains(&0) {
        return Ok(None);
    }
    Ok(match Unicode::new(start.as_slice(), "it") {
        Ok(text) if text.is_utf16() => None,
        Ok(_) => Some("binary".to_owned()),
        Err(error) => Some(error.to_string()),
    })
}
