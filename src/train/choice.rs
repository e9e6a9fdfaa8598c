//! The source of a run's tokenizer.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The source of a run's tokenizer: `train`, `bytes` or a folder, on the command line and in run.json.
///
/// ```
/// use wgpt::train::TokenizerChoice;
/// assert_eq!(TokenizerChoice::from("bytes"), TokenizerChoice::Bytes);
/// assert_eq!(TokenizerChoice::from("./bytes"), TokenizerChoice::Folder("./bytes".into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// It is trained on the data; a run that starts from a model takes the model's tokenizer.
    #[default]
    Train,
    /// A token per byte.
    Bytes,
    /// It is read from this folder.
    Folder(PathBuf),
}

impl TokenizerChoice {
    /// Returns the folder, if the tokenizer is read from one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            TokenizerChoice::Folder(folder) => Some(folder),
            TokenizerChoice::Train | TokenizerChoice::Bytes => None,
        }
    }
}

impl From<PathBuf> for TokenizerChoice {
    fn from(text: PathBuf) -> TokenizerChoice {
        match text.to_str() {
            Some("train") => TokenizerChoice::Train,
            Some("bytes") => TokenizerChoice::Bytes,
            _ => TokenizerChoice::Folder(text),
        }
    }
}

impl From<&str> for TokenizerChoice {
    fn from(text: &str) -> TokenizerChoice {
        PathBuf::from(text).into()
    }
}

impl fmt::Display for TokenizerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenizerChoice::Train => f.write_str("train"),
            TokenizerChoice::Bytes => f.write_str("bytes"),
            TokenizerChoice::Folder(folder) => folder.display().fmt(f),
        }
    }
}

impl Serialize for TokenizerChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TokenizerChoice::Folder(folder) => folder.serialize(serializer),
            name => serializer.collect_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for TokenizerChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TokenizerChoice, D::Error> {
        PathBuf::deserialize(deserializer).map(TokenizerChoice::from)
    }
}
