//! The one error type: what went wrong, and what to do about it.
//!
//! A message names a setting by [`field`]. Who shows the error decides how the setting is called: the library by its field,
//! the command line by its flag ([`Error::with_names`]), what reads a file by the name in the file ([`Error::as_written`]).

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

/// The characters around the name of a field in a message. Both are among Unicode's noncharacters, which no text has and a
/// program may use within itself.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// A setting in a message: see [`field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(&'static str);

/// The setting that the library calls `name`, for the text of a message or of a hint: a field, an argument or a function.
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

/// A text with its fields under the names that `name` gives them.
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

/// An error for people: one sentence with what, where, got and wanted, and a hint with the way out.
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

    /// The same error about something else.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// The same error, with its fields under the names that `name` gives them.
    #[must_use]
    pub fn with_names(&self, name: impl Fn(&str) -> String) -> Error {
        Error {
            kind: self.kind,
            message: named(&self.message, &name),
            hint: self.hint.as_deref().map(|hint| named(hint, &name)),
        }
    }

    /// The same error, with its fields under their own names for good: those of the file that has the settings.
    #[must_use]
    pub fn as_written(self) -> Error {
        self.with_names(str::to_owned)
    }

    /// What the error is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do about it, if there is something to say.
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
