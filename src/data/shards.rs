//! Token files that together are one data set.

use std::path::{Path, PathBuf};

use super::tokens::Tokens;
use crate::error::Result;

/// Token files, divided by their names.
///
/// Files with a word `val`, `valid` or `validation` in their names or in the names of the folders that are not common
/// to all files (`fineweb_val_000000.bin`, nanoGPT's `val.bin`, `val/0.bin`) are the validation split, and those with a
/// word `test` are left out, if there are other files. Otherwise all files form one token sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// The training files, in order; their last part is the validation split if `validation` is empty.
    pub training: Vec<PathBuf>,
    /// The validation split.
    pub validation: Vec<PathBuf>,
    /// The files that are in neither.
    pub left_out: Vec<PathBuf>,
}

impl Shards {
    /// Divides token files.
    pub fn new(paths: &[PathBuf]) -> Shards {
        let shared = shared_folders(paths);
        let named = |words: &[&str]| {
            let named = paths.iter().filter(|path| has_word(path, shared, words)).cloned();
            named.collect::<Vec<PathBuf>>()
        };
        let (validation, left_out) = (named(&["val", "valid", "validation"]), named(&["test"]));
        let mut training = paths.to_vec();
        training.retain(|path| !validation.contains(path) && !left_out.contains(path));
        if training.is_empty() {
            return Shards { training: paths.to_vec(), validation: vec![], left_out: vec![] };
        }
        Shards { training, validation, left_out }
    }

    /// Opens all ids except those in files that are left out, as one sequence.
    ///
    /// # Errors
    ///
    /// As [`Tokens::open_all`].
    pub fn open(&self) -> Result<Tokens> {
        let tokens = Tokens::open_all(&self.training)?;
        match self.validation.as_slice() {
            [] => Ok(tokens),
            paths => tokens.with_validation(Tokens::open_all(paths)?),
        }
    }

    /// Returns notes about the division by names, if there is one.
    pub fn notes(&self) -> Vec<String> {
        let said = [("to validate on", &self.validation), ("left out", &self.left_out)];
        let said = said.iter().filter(|(_, paths)| !paths.is_empty());
        said.map(|(what, paths)| {
            let first = paths[0].display();
            match paths.len() - 1 {
                0 => format!("{what}, by its name: {first}"),
                more => format!("{what}, by their names: {first} and {more} more"),
            }
        })
        .collect()
    }
}

/// Returns the number of leading folders that all paths have in common.
fn shared_folders(paths: &[PathBuf]) -> usize {
    let Some((first, more)) = paths.split_first() else { return 0 };
    let folders = first.components().count().saturating_sub(1);
    let same = |path: &PathBuf| {
        let pairs = path.components().zip(first.components());
        pairs.take_while(|(a, b)| a == b).count()
    };
    more.iter().map(same).fold(folders, usize::min)
}

/// Whether the path has one of these words after its first `shared` parts, with no letters directly around it.
fn has_word(path: &Path, shared: usize, words: &[&str]) -> bool {
    let own = path.components().skip(shared);
    let own = own.map(|part| part.as_os_str().to_string_lossy().to_lowercase());
    own.collect::<Vec<String>>()
        .iter()
        .flat_map(|part| part.split(|c: char| !c.is_alphabetic()))
        .any(|word| words.contains(&word))
}
