//! Where training text comes from: the argument of `--data`, and the documents behind it.

use std::fs;
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
use crate::error::{Error, Result};
use crate::tokenizer::Cutter;

/// One thing that `--data` names, with folders already opened up into files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The `stories` corpus: so many stories of [`stories::DEFAULT_SEED`].
    Stories(u64),
    /// A published data set; [`Sources::fetch`] makes it a text file.
    Dataset(&'static Dataset),
    /// A text file, in UTF-8, or in UTF-16 with a byte order mark.
    Text(PathBuf),
    /// A file of JSON objects with a string `text`: one a line, one array of them or of strings, or one object.
    Json(PathBuf),
    /// A token file, see [`super::Tokens`].
    Tokens(PathBuf),
}

impl Source {
    /// The kind of a file, by the ending of its name.
    fn file(path: &Path) -> Source {
        let is_tokens = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("bin"));
        let owned = path.to_owned();
        match () {
            () if json::is_json(path) => Source::Json(owned),
            () if is_tokens => Source::Tokens(owned),
            () => Source::Text(owned),
        }
    }

    /// What messages call it.
    fn name(&self) -> String {
        match self {
            Source::Stories(_) => "stories".to_owned(),
            Source::Dataset(dataset) => dataset.name.to_owned(),
            Source::Text(path) | Source::Json(path) | Source::Tokens(path) => {
                path.display().to_string()
            }
        }
    }

    /// About how many bytes of text there are, for evenness and progress; 0 if nothing is known yet.
    fn bytes(&self) -> u64 {
        match self {
            Source::Stories(count) => count * 520,
            Source::Dataset(_) => 0,
            Source::Text(path) | Source::Json(path) | Source::Tokens(path) => {
                fs::metadata(path).map_or(0, |file| file.len())
            }
        }
    }

    /// Adds to a hash what the documents follow from; `progress` is given how many more bytes are done.
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

/// A file of a folder that is no part of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path.
    pub path: PathBuf,
    /// Why, in words.
    pub why: String,
}

/// All that one run is trained on, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    sources: Vec<Source>,
    left_out: Vec<LeftOut>,
    name: String,
    /// Whether a text file ends a document where it says `<|endoftext|>`.
    divided: bool,
}

impl Sources {
    /// What the arguments of `--data` mean: `stories`, `shakespeare`, `tinystories`, or paths of files and folders.
    ///
    /// A folder stands for its files, and those of the folders in it, sorted by path. Links to folders are not followed. Empty
    /// and binary files are left out, and those ending in `.json` whose beginning holds no text, such as settings: see
    /// [`Sources::left_out`]. Hidden files are not looked at. Of a file called like a corpus, write `./stories`. Nothing is
    /// downloaded.
    ///
    /// # Errors
    ///
    /// If a path is not there, is empty, or holds no files; if token files stand beside other data.
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

    /// The same sources, each text file one document, whatever it says.
    #[must_use]
    pub fn undivided(self) -> Sources {
        Sources { divided: false, ..self }
    }

    /// Each source on its own, under its own name.
    pub fn each(&self) -> impl Iterator<Item = Sources> + '_ {
        self.sources.iter().map(|source| {
            let (sources, name) = (vec![source.clone()], source.name());
            Sources { sources, left_out: vec![], name, divided: self.divided }
        })
    }

    /// What was asked for, as it was written: for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sources, folders opened up.
    pub fn list(&self) -> &[Source] {
        &self.sources
    }

    /// The files of the folders that are no part of the data, hidden ones aside.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// What was left out, in a few lines.
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

    /// The token files, if that is what the data is: they need no tokenizer to be read, and [`Sources::documents`] fails.
    pub fn shards(&self) -> Option<Shards> {
        self.token_files().map(|paths| Shards::new(&paths))
    }

    /// The row of all ids of the token files, if that is what the data is.
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

    /// About how many bytes of text there are; what is yet to be downloaded counts nothing.
    pub fn bytes(&self) -> u64 {
        self.sources.iter().map(Source::bytes).sum()
    }

    /// Adds to a hash what all documents follow from: contents and kinds, no names. `progress` is given how many bytes are done.
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

    /// Downloads what is not on this machine yet.
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

    /// Every document, always in the same order; long ones in pieces, so that no file stands in memory whole.
    ///
    /// Each item may be an error: a file that cannot be read or is no Unicode (with the byte), a JSON value without a text
    /// (with the line), a data set that was not fetched. A source ends at its first error.
    pub fn documents(&self) -> impl Iterator<Item = Result<Document>> + Send + '_ {
        self.sources.iter().flat_map(|source| {
            let (documents, error) = match source.documents(self.divided) {
                Ok(documents) => (Some(documents), None),
                Err(error) => (None, Some(Err(error))),
            };
            documents.into_iter().flatten().chain(error)
        })
    }

    /// At most about `limit` bytes of the text, in slices spread evenly over all of it: what a tokenizer is trained on.
    ///
    /// # Errors
    ///
    /// The first error of [`Sources::documents`]; or that there is no text.
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

/// The bytes of a slice of [`Sources::sample`].
const SLICE_BYTES: usize = 16 << 10;

/// Checks that there are token files alone, or none.
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
    let found = fs::metadata(path)
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
    for entry in fs::read_dir(folder).map_err(refused)? {
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

/// Why a file of a folder is no data: where one is named by itself it is meant, and refused.
fn why_not(source: &Source, path: &Path) -> Result<Option<String>> {
    let why = match fs::metadata(path) {
        Err(cause) => Some(cause.to_string()),
        Ok(found) if found.is_dir() => Some("a link to a folder".to_owned()),
        Ok(found) if !found.is_file() => Some("no regular file".to_owned()),
        // A shard without tokens is a damaged one.
        Ok(_) if matches!(source, Source::Tokens(_)) => None,
        Ok(found) if found.len() == 0 => Some("empty".to_owned()),
        Ok(_) => why_no_text(path)?,
    };
    // JSON lines are data by their name; what is called .json may be anything.
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

/// Why a file among others is no text: it has a zero byte near its beginning, by which grep and git tell, too, and no byte
/// order mark before which there are such bytes in UTF-16.
fn why_no_text(path: &Path) -> Result<Option<String>> {
    let mut start = vec![];
    let file = fs::File::open(path).map_err(|cause| Error::io("opening", path, &cause))?;
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
