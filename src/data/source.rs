//! Where training text comes from: the argument of `--data`, and the documents behind it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::download::{DATASETS, Dataset, Downloads, Progress};
use super::json::JsonLines;
use super::stories;
use super::text::{Document, TextFile};
use crate::error::{Error, Result};

/// One thing that `--data` names, with folders already opened up into files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The `stories` corpus: so many stories of [`stories::DEFAULT_SEED`].
    Stories(u64),
    /// A published data set; [`Sources::fetch`] makes it a text file.
    Dataset(&'static Dataset),
    /// A UTF-8 text file.
    Text(PathBuf),
    /// A file with a JSON object a line, each with a string `text`.
    JsonLines(PathBuf),
    /// A token file, see [`super::Tokens`].
    Tokens(PathBuf),
}

impl Source {
    /// The kind of a file, by the ending of its name.
    fn file(path: &Path) -> Source {
        let ending = path.extension().unwrap_or_default();
        let path = path.to_owned();
        match () {
            () if ending.eq_ignore_ascii_case("jsonl") => Source::JsonLines(path),
            () if ending.eq_ignore_ascii_case("bin") => Source::Tokens(path),
            () => Source::Text(path),
        }
    }

    /// About how many bytes of text there are, for evenness and progress; 0 if nothing is known yet.
    fn bytes(&self) -> u64 {
        match self {
            Source::Stories(count) => count * 520,
            Source::Dataset(_) => 0,
            Source::Text(path) | Source::JsonLines(path) | Source::Tokens(path) => {
                fs::metadata(path).map_or(0, |file| file.len())
            }
        }
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
            Source::JsonLines(path) => Box::new(JsonLines::open(path)?),
            Source::Tokens(path) => {
                return Err(Error::input(format!("{} holds tokens, not text", path.display()))
                    .hint("the tokenizer that made them reads the text"));
            }
            Source::Dataset(dataset) => {
                return Err(Error::input(format!("{} is not downloaded yet", dataset.name)));
            }
        })
    }
}

/// All that one run is trained on, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    sources: Vec<Source>,
    name: String,
    /// Whether a text file ends a document where it says `<|endoftext|>`.
    divided: bool,
}

impl Sources {
    /// What the arguments of `--data` mean: `stories`, `shakespeare`, `tinystories`, or paths of files and folders.
    ///
    /// A folder stands for its files, and those of the folders in it, sorted by path; hidden, empty and binary ones are
    /// left out, and links to folders are not followed. Of a file called like a corpus, write `./stories`. Nothing is downloaded.
    ///
    /// # Errors
    ///
    /// If a path is not there, is empty, or holds no files; if a token file stands beside other data.
    pub fn parse(arguments: &[String]) -> Result<Sources> {
        let mut sources = Vec::new();
        for argument in arguments {
            if argument == "stories" {
                sources.push(Source::Stories(stories::DEFAULT_STORIES));
            } else if let Some(dataset) = DATASETS.iter().find(|set| set.name == argument) {
                sources.push(Source::Dataset(dataset));
            } else {
                open_path(Path::new(argument), &mut sources)?;
            }
        }
        if sources.is_empty() {
            return Err(Error::usage("there is no data").hint(CHOICES));
        }
        let tokens = sources.iter().find_map(|source| match source {
            Source::Tokens(path) => Some(path),
            _ => None,
        });
        if let Some(path) = tokens.filter(|_| sources.len() > 1) {
            return Err(Error::input(format!(
                "{} is a token file and cannot be mixed with other data",
                path.display()
            ))
            .hint("give one token file alone, or text"));
        }
        Ok(Sources { sources, name: arguments.join(" "), divided: true })
    }

    /// The same sources, each text file one document, whatever it says.
    #[must_use]
    pub fn undivided(self) -> Sources {
        Sources { divided: false, ..self }
    }

    /// Each source on its own, under its own name.
    pub fn each(&self) -> impl Iterator<Item = Sources> + '_ {
        self.sources.iter().map(|source| {
            let name = match source {
                Source::Stories(_) => "stories".to_owned(),
                Source::Dataset(dataset) => dataset.name.to_owned(),
                Source::Text(path) | Source::JsonLines(path) | Source::Tokens(path) => {
                    path.display().to_string()
                }
            };
            Sources { sources: vec![source.clone()], name, divided: self.divided }
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

    /// The token file, if that is what the data is; it needs no tokenizer to be read, and [`Sources::documents`] fails.
    pub fn token_file(&self) -> Option<&Path> {
        match &self.sources[..] {
            [Source::Tokens(path)] => Some(path),
            _ => None,
        }
    }

    /// About how many bytes of text there are; what is yet to be downloaded counts nothing.
    pub fn bytes(&self) -> u64 {
        self.sources.iter().map(Source::bytes).sum()
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
    /// Each item may be an error: a file that cannot be read or is no UTF-8 (with the byte), a line of JSON without a text
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
        for document in self.documents() {
            let text = document?.text;
            if u128::from(limit) >= total && kept + (text.len() as u128) <= u128::from(limit) {
                (seen, kept) = (seen + text.len() as u128, kept + text.len() as u128);
                sample.push(text);
                continue;
            }
            for slice in slices(&text) {
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

/// Cuts a text before spaces into slices of about [`SLICE_BYTES`].
fn slices(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let least = rest.ceil_char_boundary(SLICE_BYTES);
        let end = rest[least..].find([' ', '\n']).map_or(rest.len(), |at| least + at);
        let (slice, after) = rest.split_at(end);
        rest = after;
        (!slice.is_empty()).then_some(slice)
    })
}

/// Adds the file, or the files of the folder, at `path`.
fn open_path(path: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let found = fs::metadata(path)
        .map_err(|cause| Error::io("opening the data", path, &cause).hint(CHOICES))?;
    if found.is_dir() {
        let before = sources.len();
        open_folder(path, sources)?;
        if sources.len() == before {
            return Err(Error::input(format!("the folder {} has no data", path.display()))
                .hint("hidden, empty and binary files are left out"));
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
fn open_folder(folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
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
            open_folder(&path, sources)?;
        } else if fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() > 0) {
            let source = Source::file(&path);
            if matches!(source, Source::Tokens(_)) || !is_binary(&path)? {
                sources.push(source);
            }
        }
    }
    Ok(())
}

/// Whether a file among others is no text, such as a picture: as grep and git tell, by a zero byte near its beginning.
fn is_binary(path: &Path) -> Result<bool> {
    let mut start = vec![];
    let file = fs::File::open(path).map_err(|cause| Error::io("opening", path, &cause))?;
    let read = file.take(8 << 10).read_to_end(&mut start);
    read.map_err(|cause| Error::io("reading", path, &cause))?;
    Ok(start.contains(&0))
}
