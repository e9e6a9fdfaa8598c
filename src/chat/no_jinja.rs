//! What stands for Jinja in a build without it: every template is refused.

use chrono::NaiveDateTime;
use serde::Serialize;

/// A template that cannot be made.
#[derive(Debug)]
pub(super) enum Jinja {}

impl Jinja {
    pub(super) fn compile(
        _source: String,
        _now: impl Fn() -> NaiveDateTime + Send + Sync + 'static,
    ) -> Result<Jinja, &'static str> {
        Err("this build of wgpt cannot render it: it was made without the feature `jinja`")
    }

    pub(super) fn render(&self, _names: &impl Serialize) -> Result<String, &'static str> {
        match *self {}
    }
}
