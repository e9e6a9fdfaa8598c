//! Reads the documents of JSON files.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::text::{Document, PIECE_BYTES, not_utf8};
use crate::error::{Error, Result};

/// The longest line of a `.jsonl` file, in bytes: more is a sign of another format.
const LONGEST_LINE_BYTES: usize = 256 << 20;

/// The documents of a `.jsonl` file: the field `text` of each line.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: BufReader<File>,
    line: usize,
    offset: u64,
    failed: bool,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

impl JsonLines {
    pub(crate) fn open(path: &Path) -> Result<JsonLines> {
        let file = File::open(path).map_err(|cause| Error::io("opening", path, &cause))?;
        let file = BufReader::with_capacity(PIECE_BYTES, file);
        Ok(JsonLines { path: path.to_owned(), file, line: 0, offset: 0, failed: false })
    }

    /// The text of the next line; `None` at the end of the file.
    fn text(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let read = (&mut self.file)
            .take(LONGEST_LINE_BYTES as u64)
            .read_until(b'\n', &mut bytes)
            .map_err(|cause| Error::io("reading", &self.path, &cause))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let place = format!("{}, line {}", self.path.display(), self.line);
        if read == LONGEST_LINE_BYTES && bytes.last() != Some(&b'\n') {
            return Err(Error::input(format!("{place}: longer than {LONGEST_LINE_BYTES} bytes"))
                .hint("a .jsonl file has one JSON object a line"));
        }
        let start = self.offset;
        self.offset += read as u64;
        let line = std::str::from_utf8(&bytes)
            .map_err(|cause| not_utf8(&place, start + cause.valid_up_to() as u64))?;
        // Windows' editors begin a file with a byte order mark.
        let line = if start == 0 { line.trim_start_matches('\u{feff}') } else { line };
        if line.trim().is_empty() {
            return Ok(Some(String::new()));
        }
        let parsed: Line = serde_json::from_str(line).map_err(|cause| {
            Error::input(format!("{place}: {}", without_line(&cause)))
                .hint("each line of a .jsonl file is an object with a string \"text\"")
        })?;
        Ok(Some(parsed.text))
    }
}

/// What serde_json says, without its own "line 1", which would be read as the file's.
fn without_line(cause: &serde_json::Error) -> String {
    let message = cause.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    format!("{} at column {}", &message[..end], cause.column())
}

impl Iterator for JsonLines {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        while !self.failed {
            match self.text().transpose()? {
                Ok(text) if text.is_empty() => {}
                other => {
                    self.failed = other.is_err();
                    return Some(other.map(Document::whole));
                }
            }
        }
        None
    }
}
