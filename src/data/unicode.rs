//! Files of text in UTF-8, or in UTF-16 with a byte order mark. They are read as UTF-8 without the mark.

use std::io::{self, Cursor, ErrorKind, Read};
use std::path::Path;

use super::text::not_utf8;
use crate::disk::File;
use crate::error::{Error, Result};

/// The number of bytes of a file that are examined to detect its encoding.
pub(crate) const HEAD_BYTES: usize = 8 << 10;

/// The number of bytes of UTF-16 that are decoded at once.
const DECODED_BYTES: usize = 64 << 10;

/// A reader of text as UTF-8.
///
/// UTF-8 itself is passed on unchecked, since only the reader knows the position of an invalid byte in the text.
pub(crate) struct Unicode<R> {
    input: io::Chain<Cursor<Vec<u8>>, R>,
    /// The decoder; `None` for UTF-8.
    utf16: Option<Utf16>,
    mark_bytes: u64,
}

/// The text that is decoded and not yet read.
struct Utf16 {
    is_big_endian: bool,
    /// Bytes that were read and are not yet decoded: half a character.
    rest: Vec<u8>,
    decoded: Cursor<String>,
    /// The offset of `rest` in the file, in bytes.
    offset: u64,
}

impl Unicode<File> {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// As [`Unicode::new`], and if the file cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Unicode<File>> {
        let file = File::open(path).map_err(|cause| Error::io("opening", path, &cause))?;
        Unicode::new(file, &path.display().to_string())
    }
}

impl<R: Read> Unicode<R> {
    /// Detects the encoding of the text; messages call it `name`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is in UTF-32, or looks like UTF-16 but has no byte order mark.
    pub(crate) fn new(mut input: R, name: &str) -> Result<Unicode<R>> {
        let mut head = vec![];
        (&mut input)
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut head)
            .map_err(|cause| Error::input(format!("reading {name}: {cause}")))?;
        let (utf16, mark_bytes) = match head.as_slice() {
            [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => return Err(other(name, "UTF-32")),
            [0xFF, 0xFE, ..] => (Some(Utf16::new(false)), 2),
            [0xFE, 0xFF, ..] => (Some(Utf16::new(true)), 2),
            [0xEF, 0xBB, 0xBF, ..] => (None, 3),
            head if looks_like_utf16(head) => {
                return Err(other(name, "UTF-16 without a byte order mark"));
            }
            _ => (None, 0),
        };
        head.drain(..mark_bytes);
        Ok(Unicode { input: Cursor::new(head).chain(input), utf16, mark_bytes: mark_bytes as u64 })
    }

    /// Whether a byte order mark marks the text as UTF-16.
    pub(crate) fn is_utf16(&self) -> bool {
        self.utf16.is_some()
    }

    /// Returns the length of the mark in bytes, which is the offset of the text in the file.
    pub(crate) fn mark_bytes(&self) -> u64 {
        self.mark_bytes
    }
}

impl<R: Read> Read for Unicode<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(utf16) = &mut self.utf16 else { return self.input.read(out) };
        let read = utf16.decoded.read(out)?;
        if read > 0 || out.is_empty() {
            return Ok(read);
        }
        utf16.decode(&mut self.input)?;
        utf16.decoded.read(out)
    }
}

impl Utf16 {
    fn new(is_big_endian: bool) -> Utf16 {
        Utf16 { is_big_endian, rest: vec![], decoded: Cursor::default(), offset: 2 }
    }

    /// Decodes the next part of the text; the decoded part is empty only at its end.
    fn decode(&mut self, input: &mut impl Read) -> io::Result<()> {
        let wanted = DECODED_BYTES - self.rest.len();
        let read = input.take(wanted as u64).read_to_end(&mut self.rest)?;
        let at_end = read < wanted;
        let (units, odd) = self.rest.as_chunks();
        let unit = |bytes: &[u8; 2]| match self.is_big_endian {
            true => u16::from_be_bytes(*bytes),
            false => u16::from_le_bytes(*bytes),
        };
        // The other half of a character outside the basic plane may not have been read yet.
        let is_cut = !at_end && units.last().is_some_and(|last| unit(last) & 0xFC00 == 0xD800);
        let units = &units[..units.len() - usize::from(is_cut)];
        let (mut text, mut done) = (String::with_capacity(2 * units.len()), 0);
        for character in char::decode_utf16(units.iter().map(unit)) {
            let character = character.map_err(|_| not_utf16(self.offset + 2 * done))?;
            text.push(character);
            done += character.len_utf16() as u64;
        }
        if at_end && !odd.is_empty() {
            return Err(not_utf16(self.offset + 2 * done));
        }
        self.offset += 2 * done;
        self.rest.drain(..2 * done as usize);
        self.decoded = Cursor::new(text);
        Ok(())
    }
}

fn not_utf16(byte: u64) -> io::Error {
    let message = format!("it is not UTF-16 text: byte {byte} begins no character");
    io::Error::new(ErrorKind::InvalidData, message)
}

/// Reads all of a text in UTF-8, or in UTF-16 with a byte order mark; messages call it `name`.
///
/// # Errors
///
/// If it cannot be read or has another encoding.
pub fn read_text(input: impl Read, name: &str) -> Result<String> {
    let mut input = Unicode::new(input, name)?;
    let mut bytes = vec![];
    input.read_to_end(&mut bytes).map_err(|cause| refused(Path::new(name), &cause))?;
    String::from_utf8(bytes).map_err(|error| {
        let byte = input.mark_bytes + error.utf8_error().valid_up_to() as u64;
        not_utf8(&name, byte)
    })
}

/// Returns the error for a failed read from [`Unicode`].
pub(crate) fn refused(path: &Path, cause: &io::Error) -> Error {
    let error = Error::io("reading", path, cause);
    if cause.kind() == ErrorKind::InvalidData { error.hint(CONVERT) } else { error }
}

const CONVERT: &str = "convert the file to UTF-8, for example with iconv, or leave it out";

/// Returns the error for an unsupported encoding.
fn other(name: &str, encoding: &str) -> Error {
    Error::input(format!("{name} is not UTF-8 text: it looks like {encoding}")).hint(CONVERT)
}

/// Whether a text begins like UTF-16: with many zero bytes, all of them at even places or all at odd ones. If these are
/// the upper half of a unit, the unit is a Latin letter, a space or a line end.
fn looks_like_utf16(head: &[u8]) -> bool {
    let zeros = |parity: usize| head.iter().skip(parity).step_by(2).filter(|b| **b == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    even.min(odd) == 0 && 40 * even.max(odd) > head.len()
}
