//! Reads text as a stream of documents, so that a file larger than memory is never in memory as a whole.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::Utf8Error;

use super::unicode::{self, Unicode};
use crate::disk::File;
use crate::error::{Error, Result};
use crate::tokenizer::{Cutter, Held};

/// The separator of documents in a text file: GPT-2's end-of-text token, written out.
pub const SEPARATOR: &str = "<|endoftext|>";

/// The number of bytes of a text file that are read at once.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// A text, or a piece of a long text, which may end between any two characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text; never empty.
    pub text: String,
    /// Whether a document begins here; otherwise it continues the previous piece.
    pub begins: bool,
}

impl Document {
    /// Creates a whole document.
    pub fn whole(text: String) -> Document {
        Document { text, begins: true }
    }
}

/// Cuts text where its tokens allow it: turns documents, of which long ones come in pieces that end anywhere, into
/// pieces that can be encoded independently. See [`Cutter`]; a text without a safe place is kept in memory whole.
pub struct CutText<'t, D> {
    documents: D,
    held: Held<'t>,
    /// Whether a document begins with the held text.
    begins: bool,
}

/// The number of bytes beyond which a document is cut.
const LONG_BYTES: usize = PIECE_BYTES / 2;

impl<'t, D: Iterator<Item = Result<Document>>> CutText<'t, D> {
    /// Cuts `documents` at the places that `cutter` allows.
    pub fn new(documents: D, cutter: Cutter<'t>) -> CutText<'t, D> {
        CutText { documents, held: Held::new(cutter), begins: true }
    }

    /// Returns all held text, which ends here; `begins` is the flag of the next text.
    fn finish(&mut self, begins: bool) -> Option<Document> {
        let begun = std::mem::replace(&mut self.begins, begins);
        let text = self.held.finish();
        (!text.is_empty()).then_some(Document { text, begins: begun })
    }
}

impl<D: Iterator<Item = Result<Document>>> Iterator for CutText<'_, D> {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        loop {
            let ended = match self.documents.next() {
                None => return self.finish(true).map(Ok),
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(Document { text, begins: true })) => {
                    let ended = self.finish(true);
                    self.held.push(text);
                    ended
                }
                Some(Ok(Document { text, begins: false })) => {
                    self.held.push(text);
                    None
                }
            };
            if ended.is_some() {
                return ended.map(Ok);
            }
            if self.held.len() >= LONG_BYTES
                && let Some(text) = self.held.take()
            {
                let begins = std::mem::replace(&mut self.begins, false);
                return Some(Ok(Document { text, begins }));
            }
        }
    }
}

/// The pieces of a text file, in order.
///
/// Documents end at [`SEPARATOR`] (and lose the line ends around it). Pieces of a long document may end between any two
/// characters; only the tokenizer knows where a text may be cut.
pub(crate) struct TextFile {
    path: PathBuf,
    file: Unicode<File>,
    /// The number of bytes that are read at once.
    piece_bytes: usize,
    buffer: Vec<u8>,
    /// The number of bytes of the buffer that were already returned.
    start: usize,
    /// The number of bytes after `start` that are known to be line ends, so that a file of them is scanned only once.
    line_ends: usize,
    /// The offset of the buffer in the file, in bytes.
    offset: u64,
    at_end: bool,
    begins: bool,
    /// Whether documents end at [`SEPARATOR`], or only at the end of the file.
    divided: bool,
    /// Whether only line ends have come since a separator.
    after_separator: bool,
    failed: bool,
}

impl TextFile {
    pub(crate) fn open(path: &Path, divided: bool) -> Result<TextFile> {
        TextFile::with_pieces(path, divided, PIECE_BYTES)
    }

    /// Opens a file of which `piece_bytes` bytes are read at once.
    fn with_pieces(path: &Path, divided: bool, piece_bytes: usize) -> Result<TextFile> {
        let file = Unicode::open(path)?;
        Ok(TextFile {
            path: path.to_owned(),
            piece_bytes,
            buffer: Vec::new(),
            start: 0,
            line_ends: 0,
            offset: file.mark_bytes(),
            file,
            at_end: false,
            begins: true,
            divided,
            after_separator: false,
            failed: false,
        })
    }

    /// Removes the bytes that were returned and reads more.
    fn refill(&mut self) -> Result<()> {
        self.offset += self.start as u64;
        self.buffer.drain(..self.start);
        self.start = 0;
        let read = (&mut self.file)
            .take(self.piece_bytes as u64)
            .read_to_end(&mut self.buffer)
            .map_err(|cause| unicode::refused(&self.path, &cause))?;
        self.at_end = read < self.piece_bytes;
        Ok(())
    }

    /// Returns the next `length` bytes as text.
    fn take(&mut self, length: usize) -> Result<String> {
        self.line_ends = 0;
        let end = self.start + length;
        let not_text = |this: &TextFile, cause: Utf8Error| {
            let byte = this.offset + (this.start + cause.valid_up_to()) as u64;
            not_utf8(&this.path.display(), byte)
        };
        if self.start > 0 || length < self.piece_bytes / 2 {
            let text = std::str::from_utf8(&self.buffer[self.start..end]);
            let text = text.map_err(|cause| not_text(self, cause))?.to_owned();
            self.start = end;
            return Ok(text);
        }
        // A long text is returned without a copy, except for the few bytes that are held back.
        let rest = self.buffer.split_off(end);
        let taken = std::mem::replace(&mut self.buffer, rest);
        let text = String::from_utf8(taken);
        let text = text.map_err(|error| not_text(self, error.utf8_error()))?;
        self.offset += end as u64;
        Ok(text)
    }

    /// Returns how many of these bytes, which are followed by more, can be returned. An incomplete character is held
    /// back, and so are a possible beginning of a separator, and line ends, which would be removed with a separator.
    fn certain(&self, bytes: &[u8]) -> usize {
        let whole = &bytes[..bytes.len() - cut_character(bytes)];
        if !self.divided {
            return whole.len();
        }
        let begun = (1..SEPARATOR.len().min(whole.len() + 1))
            .rev()
            .find(|&length| whole.ends_with(&SEPARATOR.as_bytes()[..length]));
        let text = &whole[self.line_ends..whole.len() - begun.unwrap_or(0)];
        let last = text.iter().rposition(|byte| !b"\r\n".contains(byte));
        last.map_or(0, |last| self.line_ends + last + 1)
    }

    /// Returns the next piece, whose text may be empty; `None` at the end of the file.
    fn piece(&mut self) -> Result<Option<Document>> {
        let (mut text, ends) = loop {
            let rest = &self.buffer[self.start..];
            let separator =
                if self.divided { find(rest, SEPARATOR.as_bytes(), self.line_ends) } else { None };
            if let Some(length) = separator {
                let text = self.take(length)?;
                self.start += SEPARATOR.len();
                break (text, true);
            } else if self.at_end && rest.is_empty() {
                return Ok(None);
            } else if self.at_end {
                break (self.take(rest.len())?, false);
            }
            match self.certain(rest) {
                0 => {
                    let line_end = |byte: &&u8| b"\r\n".contains(byte);
                    let more = rest[self.line_ends..].iter().take_while(line_end).count();
                    self.line_ends += more;
                    self.refill()?;
                }
                length => break (self.take(length)?, false),
            }
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
        self.after_separator = ends || (self.after_separator && text.is_empty());
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

/// Returns the number of bytes at the end that begin an incomplete character.
fn cut_character(bytes: &[u8]) -> usize {
    let back = (1..=bytes.len().min(3)).find(|back| bytes[bytes.len() - back] & 0xC0 != 0x80);
    let width = |first: u8| match first {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0.. => 4,
        _ => 1,
    };
    back.filter(|back| width(bytes[bytes.len() - back]) > *back).unwrap_or(0)
}

/// Returns the error for bytes that are not text.
pub(crate) fn not_utf8(place: &dyn std::fmt::Display, byte: u64) -> Error {
    Error::input(format!("{place} is not UTF-8 text: byte {byte} begins no character"))
        .hint("convert the file to UTF-8, for example with iconv, or leave it out")
}

/// Returns the place of `needle` in `bytes`, at byte `from` or after it.
fn find(bytes: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let mut from = from;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == needle[0]) {
        from += at;
        if bytes[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the documents of a file that is read in pieces of this size, joined again.
    fn texts(path: &Path, divided: bool, piece_bytes: usize) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for piece in TextFile::with_pieces(path, divided, piece_bytes).unwrap() {
            let piece = piece.unwrap();
            if piece.begins {
                texts.push(String::new());
            }
            texts.last_mut().expect("the first piece begins").push_str(&piece.text);
        }
        texts
    }

    #[test]
    fn documents_are_the_same_in_pieces_of_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        let text = "\n\u{e9}\u{1f600} a\r\n\n<|endoftext|>\n\n\n\r\n\u{5929}\u{5730}\n\nb <|endof<|endoftext|>\n\
                    <|endoftext|><|<|endoftext|>\r\r\n last <|endoftext\n";
        std::fs::write(&path, text).unwrap();
        let expected =
            ["\n\u{e9}\u{1f600} a", "\u{5929}\u{5730}\n\nb <|endof", "<|", " last <|endoftext\n"];
        for piece_bytes in (1..40).chain([1000]) {
            assert_eq!(texts(&path, true, piece_bytes), expected, "{piece_bytes}");
            assert_eq!(texts(&path, false, piece_bytes), [text], "{piece_bytes}");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named_in_pieces_of_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.txt");
        // A byte that begins no character; a character that ends too early; one cut off by the end of the file.
        for (broken, at) in
            [(&b"ab \xff cd"[..], 3), (b"ab\n\xe4\xbdcd", 3), (b"abcd\xf0\x9f\x98", 4)]
        {
            std::fs::write(&path, broken).unwrap();
            for piece_bytes in 1..12 {
                let file = TextFile::with_pieces(&path, true, piece_bytes).unwrap();
                let error = file.last().unwrap().unwrap_err().to_string();
                assert!(error.contains(&format!("byte {at} ")), "{piece_bytes}: {error}");
            }
        }
    }
}
