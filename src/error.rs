//! The one error type: what went wrong, and what to do about it.

use std::fmt;
use std::path::Path;

/// What an error is about; `main` derives the exit code from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line or an option's value is wrong (exit code 2).
    Usage,
    /// A file, a text or a setting is wrong (exit code 1).
    Input,
    /// The device cannot do what is asked (exit code 1).
    Device,
    /// Training cannot go on, for example after several non-finite losses (exit code 1).
    Training,
}

/// An error for people: one sentence with what, where, got and wanted, and a hint with the way out.
///
/// ```
/// let error = wgpt::Error::input("config.json: n_head is 0").hint("give a model at least one head");
/// assert_eq!(error.to_string(), "config.json: n_head is 0");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// A result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None }
    }

    /// A wrong file, text or setting.
    pub fn input(message: impl Into<String>) -> Error {
        Error::new(Kind::Input, message)
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// A device that cannot do what is asked.
    pub fn device(message: impl Into<String>) -> Error {
        Error::new(Kind::Device, message)
    }

    /// A training run that cannot go on.
    pub fn training(message: impl Into<String>) -> Error {
        Error::new(Kind::Training, message)
    }

    /// An operation on `path` that the system refused: `reading PATH: No such file or directory`.
    pub fn io(doing: &str, path: &Path, cause: &std::io::Error) -> Error {
        Error::input(format!("{doing} {}: {cause}", path.display()))
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, its message led by where it happened: `WHERE: message`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What the error is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do about it, if there is something to say.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
