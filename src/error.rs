//! The crate's only error type: a description of the error, and advice.
//!
//! A message names a setting by [`field`]. The code that shows the error decides the setting's name: the library uses
//! its field, the command line its flag ([`Error::with_names`]), and file readers the name in the file
//! ([`Error::as_written`]).

use std::fmt;
use std::path::Path;

/// The kind of an error; `main` derives the exit code from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line or an option's value is wrong (exit code 2).
    Usage,
    /// A file, a text or a setting is wrong (exit code 1).
    Input,
    /// The device does not support the request (exit code 1).
    Device,
    /// Training cannot continue, for example after several non-finite losses (exit code 1).
    Training,
}

/// The characters around the name of a field in a message. Both are Unicode noncharacters, which do not occur in texts
/// and may be used internally by a program.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// A setting in a message: see [`field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(&'static str);

/// Returns the setting that the library calls `name`, for a message or a hint: a field, an argument or a function.
///
/// ```
/// use wgpt::error::{Error, field};
/// let error = Error::usage(format!("{} is 0", field("max_iters")));
/// assert_eq!(error.to_string(), "max_iters is 0");
/// assert_eq!(error.with_names(|name| format!("<{name}>")).to_string(), "<max_iters> is 0");
/// ```
pub const fn field(name: &'static str) -> Field {
    Field(name)
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OPEN}{}{CLOSE}", self.0)
    }
}

/// Replaces the fields in a text by the names that `name` returns for them.
fn named(text: &str, name: impl Fn(&str) -> String) -> String {
    let mut parts = text.split(OPEN);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(CLOSE) {
            Some((field, rest)) => shown += &(name(field) + rest),
            None => shown += part,
        }
    }
    shown
}

/// An error for people: one sentence with the problem, its place, the actual and the expected value, and a hint that
/// says what to do.
///
/// ```
/// let error = wgpt::Error::input("config.json: n_head is 0").hint("give a model at least one head");
/// assert_eq!(error.to_string(), "config.json: n_head is 0");
/// ```
#[derive(Clone, thiserror::Error)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// A result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates an error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None }
    }

    /// Creates an error about a wrong file, text or setting.
    pub fn input(message: impl Into<String>) -> Error {
        Error::new(Kind::Input, message)
    }

    /// Creates an error about a wrong command line.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// Creates an error about a device that does not support the request.
    pub fn device(message: impl Into<String>) -> Error {
        Error::new(Kind::Device, message)
    }

    /// Creates an error about a training run that cannot continue.
    pub fn training(message: impl Into<String>) -> Error {
        Error::new(Kind::Training, message)
    }

    /// Creates an error about a failed operation on `path`: `reading PATH: No such file or directory`.
    pub fn io(doing: &str, path: &Path, cause: &std::io::Error) -> Error {
        Error::input(format!("{doing} {}: {cause}", path.display()))
    }

    /// Adds advice to the error.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the place of the error in front of its message: `WHERE: message`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Changes the kind of the error.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// Replaces the fields in the error by the names that `name` returns for them.
    #[must_use]
    pub fn with_names(&self, name: impl Fn(&str) -> String) -> Error {
        Error {
            kind: self.kind,
            message: named(&self.message, &name),
            hint: self.hint.as_deref().map(|hint| named(hint, &name)),
        }
    }

    /// Replaces the fields in the error by their own names for good: these are the names in the file with the settings.
    #[must_use]
    pub fn as_written(self) -> Error {
        self.with_names(str::to_owned)
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the advice, if there is some.
    pub fn advice(&self) -> Option<String> {
        self.hint.as_deref().map(|hint| named(hint, str::to_owned))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&named(&self.message, str::to_owned))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, hint) = (self.to_string(), self.advice());
        let mut shown = f.debug_struct("Error");
        shown.field("kind", &self.kind).field("message", &message).field("hint", &hint).finish()
    }
}
