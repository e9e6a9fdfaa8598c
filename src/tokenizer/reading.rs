//! Reads text files and JSON, with errors that say what is wrong.

use std::path::Path;

use serde::Deserialize;

use crate::disk;
use crate::error::{Error, Result};

/// Reads a UTF-8 file; only regular files are accepted, since a device may have no end.
pub(super) fn read(path: &Path) -> Result<String> {
    let io = |error| Error::io("reading", path, &error);
    if !disk::metadata(path).map_err(io)?.is_file() {
        return Err(Error::input(format!("{} is not a file", path.display())));
    }
    let bytes = disk::read(path).map_err(io)?;
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Error::input(format!("{} is not UTF-8: the first wrong byte is at {place}", path.display()))
    })
}

/// Parses JSON.
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::input(error.to_string()))
}
