//! Python's regular expressions, in the configurations of adapters.

#[cfg(feature = "regex")]
use fancy_regex::Regex;

use crate::error::{Error, Result};

/// What to do where an expression cannot be used.
const ADVICE: &str = "name the layers one by one instead";

/// A Python regular expression, with its text as the user wrote it.
#[derive(Debug)]
pub(super) struct Pattern {
    setting: &'static str,
    text: String,
    #[cfg(feature = "regex")]
    regex: Regex,
}

#[cfg(feature = "regex")]
impl Pattern {
    /// Reads `whole`, which was made of the user's `text` in this setting.
    pub(super) fn new(setting: &'static str, text: &str, whole: &str) -> Result<Pattern> {
        let regex = Regex::new(whole).map_err(|e| {
            Error::input(format!("{setting}: {text:?} cannot be read as a regular expression: {e}"))
                .hint(ADVICE)
        })?;
        Ok(Pattern { setting, text: text.to_owned(), regex })
    }

    pub(super) fn matches(&self, name: &str) -> Result<bool> {
        self.regex.is_match(name).map_err(|e| self.gave_up(name, &e))
    }

    /// Returns the number that the group `idx` matches in a name.
    pub(super) fn index(&self, name: &str) -> Result<Option<i64>> {
        let found = self.regex.captures(name).map_err(|e| self.gave_up(name, &e))?;
        let digits = found.and_then(|found| found.name("idx").map(|m| m.as_str().parse().ok()));
        Ok(digits.flatten())
    }

    fn gave_up(&self, name: &str, error: &fancy_regex::Error) -> Error {
        let Pattern { setting, text, .. } = self;
        Error::input(format!("{setting}: matching {text:?} against {name}: {error}")).hint(ADVICE)
    }
}

/// Without the crate for them every expression is refused when it is matched.
#[cfg(not(feature = "regex"))]
impl Pattern {
    pub(super) fn new(setting: &'static str, text: &str, _whole: &str) -> Result<Pattern> {
        Ok(Pattern { setting, text: text.to_owned() })
    }

    pub(super) fn matches(&self, _name: &str) -> Result<bool> {
        Err(self.refused())
    }

    pub(super) fn index(&self, _name: &str) -> Result<Option<i64>> {
        Err(self.refused())
    }

    fn refused(&self) -> Error {
        let Pattern { setting, text, .. } = self;
        let message =
            format!("{setting}: this build does not know regular expressions, such as {text:?}");
        Error::input(message).hint(ADVICE)
    }
}
