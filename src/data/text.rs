//! Reads text as a stream of documents, so that a file larger than memory never stands in memory whole.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::unicode::{self, Unicode};
use crate::error::{Error, Result};

/// What parts the documents of a text file: GPT-2's end-of-text token, written out.
pub const SEPARATOR: &str = "<|endoftext|>";

/// The longest piece of a text file that is read at once, in bytes.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// A text, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text; never empty.
    pub text: String,
    /// Whether a document begins here; otherwise the text goes on with the one before.
    pub begins: bool,
}

impl Document {
    /// A whole document.
    pub fn whole(text: String) -> Document {
        Document { text, begins: true }
    }
}

/// The pieces of a text file, in order.
///
/// Documents end at [`SEPARATOR`] (and lose the line ends around it). A long document is cut between two words where
/// GPT-2's pre-tokenisation cuts too, so that the pieces have the same tokens as the whole; only a text without single
/// spaces or line ends is cut elsewhere.
pub(crate) struct TextFile {
    path: PathBuf,
    file: Unicode<File>,
    buffer: Vec<u8>,
    /// How much of the buffer was given out.
    start: usize,
    /// Where the buffer begins in the file, in bytes.
    offset: u64,
    at_end: bool,
    begins: bool,
    /// Whether documents end at [`SEPARATOR`], or only where the file does.
    divided: bool,
    after_separator: bool,
    failed: bool,
}

impl TextFile {
    pub(crate) fn open(path: &Path, divided: bool) -> Result<TextFile> {
        let file = Unicode::open(path)?;
        Ok(TextFile {
            path: path.to_owned(),
            buffer: Vec::new(),
            start: 0,
            offset: file.mark_bytes(),
            file,
            at_end: false,
            begins: true,
            divided,
            after_separator: false,
            failed: false,
        })
    }

    /// Drops what was given out and reads on, to two pieces at most.
    fn refill(&mut self) -> Result<()> {
        self.offset += self.start as u64;
        self.buffer.drain(..self.start);
        self.start = 0;
        let wanted = 2 * PIECE_BYTES - self.buffer.len();
        let read = (&mut self.file)
            .take(wanted as u64)
            .read_to_end(&mut self.buffer)
            .map_err(|cause| unicode::refused(&self.path, &cause))?;
        self.at_end = read < wanted;
        Ok(())
    }

    /// The next `length` bytes as text.
    fn take(&mut self, length: usize) -> Result<String> {
        let bytes = &self.buffer[self.start..self.start + length];
        let text = std::str::from_utf8(bytes).map_err(|cause| {
            let byte = self.offset + (self.start + cause.valid_up_to()) as u64;
            not_utf8(&self.path.display(), byte)
        })?;
        self.start += length;
        Ok(text.to_owned())
    }

    /// The next piece, whose text may be empty; `None` at the end of the file.
    fn piece(&mut self) -> Result<Option<Document>> {
        let (mut text, ends) = loop {
            let rest = &self.buffer[self.start..];
            let separator = if self.divided { find(rest, SEPARATOR.as_bytes()) } else { None };
            if let Some(length) = separator {
                let text = self.take(length)?;
                self.start += SEPARATOR.len();
                break (text, true);
            } else if self.at_end && rest.is_empty() {
                return Ok(None);
            } else if self.at_end && rest.len() <= PIECE_BYTES {
                break (self.take(rest.len())?, false);
            } else if rest.len() >= PIECE_BYTES {
                break (self.take(cut(&rest[..PIECE_BYTES]))?, false);
            }
            self.refill()?;
        };
        let line_ends = ['\n', '\r'];
        if ends {
            text.truncate(text.trim_end_matches(line_ends).len());
        }
        if self.after_separator {
            text.drain(..text.len() - text.trim_start_matches(line_ends).len());
        }
        let begins = self.begins;
        self.begins = ends || (begins && text.is_empty());
        self.after_separator = ends;
        Ok(Some(Document { text, begins }))
    }
}

impl Iterator for TextFile {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        while !self.failed {
            match self.piece().transpose()? {
                Ok(piece) if piece.text.is_empty() => {}
                other => {
                    self.failed = other.is_err();
                    return Some(other);
                }
            }
        }
        None
    }
}

/// The error for bytes that are no text.
pub(crate) fn not_utf8(place: &dyn std::fmt::Display, byte: u64) -> Error {
    Error::input(format!("{place} is not UTF-8 text: byte {byte} begins no character"))
        .hint("convert the file to UTF-8, for example with iconv, or leave it out")
}

/// Where `needle` begins in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == needle[0]) {
        from += at;
        if bytes[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
    None
}

/// Where to cut a long text: after a single line end, else before a single space, each between visible ASCII; else
/// after any white space; else between two characters, before anything that may become a separator.
fn cut(bytes: &[u8]) -> usize {
    let half = bytes.len() / 2;
    let single = |wanted: u8| {
        (half.max(1)..bytes.len() - 1).rev().find(|&at| {
            bytes[at] == wanted
                && bytes[at - 1].is_ascii_graphic()
                && bytes[at + 1].is_ascii_graphic()
        })
    };
    if let Some(at) = single(b'\n') {
        return at + 1;
    }
    if let Some(at) = single(b' ') {
        return at;
    }
    if let Some(at) = (half..bytes.len()).rev().find(|&at| bytes[at].is_ascii_whitespace()) {
        return at + 1;
    }
    let latest = bytes.len() - SEPARATOR.len();
    let begins_character = |at: &usize| bytes[*at] & 0xC0 != 0x80;
    (latest - 3..=latest).rev().find(begins_character).unwrap_or(latest)
}
