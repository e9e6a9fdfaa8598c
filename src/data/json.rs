//! Reads the documents of JSON files: one object per line, one array, or consecutive objects.
//!
//! The layout is detected from the beginning of the file, since all layouts are used in `.json` files, and arrays in
//! `.jsonl` files too. Only one value is in memory at a time.

use std::borrow::Cow;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, de::DeserializeSeed};
use serde_json::Value;
use serde_json::de::StrRead;

use super::text::{Document, PIECE_BYTES, not_utf8};
use super::unicode::{self, Unicode};
use crate::disk::File;
use crate::error::{Error, Result};

/// The longest value of a file, in bytes: a longer one suggests another format.
const LONGEST_VALUE_BYTES: usize = 256 << 20;

/// The endings of files with one JSON value per line.
const LINES: [&str; 2] = ["jsonl", "ndjson"];

/// The expected format, for hints.
const WANTED: &str = "a JSON file has one object per line, or one array of objects or of strings, or one object; each object with \
                      a string \"text\"; to train on the JSON itself, end its name in .txt";

/// Whether a file is read as JSON, judged by the ending of its name.
pub(crate) fn is_json(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ending.eq_ignore_ascii_case("json") || has_lines(path)
}

/// Whether a file has one value per line, judged by the ending of its name.
pub(crate) fn has_lines(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    LINES.iter().any(|lines| ending.eq_ignore_ascii_case(lines))
}

/// The layout of the values in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One object per line.
    Lines,
    /// One array that begins in this line; next comes its first value, or the comma before another one.
    Array { line: usize, is_first: bool },
    /// Consecutive objects, each over any number of lines.
    Objects,
    /// The end of the file has been reached.
    Ended,
}

/// Reads a value, which may be a string only in an array.
type Reader<T> = fn(&mut serde_json::Deserializer<StrRead<'_>>, Strings) -> serde_json::Result<T>;

/// The documents of a JSON file: each string `text` of an object, or each string of an array.
pub(crate) struct JsonFile {
    path: PathBuf,
    file: BufReader<Unicode<File>>,
    layout: Layout,
    /// The current line, from 1.
    line: usize,
    /// The number of bytes of the file before the current position.
    offset: u64,
    /// The current value, and its place below: the line and the byte at which it begins.
    value: Vec<u8>,
    begin: (usize, u64),
    /// The number of values of an array up to the current one; a line may hold them all.
    count: usize,
}

impl JsonFile {
    pub(crate) fn open(path: &Path) -> Result<JsonFile> {
        let file = Unicode::open(path)?;
        let offset = file.mark_bytes();
        let file = BufReader::with_capacity(PIECE_BYTES, file);
        let mut opened = JsonFile {
            path: path.to_owned(),
            file,
            layout: Layout::Lines,
            line: 1,
            offset,
            value: vec![],
            begin: (1, offset),
            count: 0,
        };
        match opened.skip_space()? {
            Some(b'[') => {
                opened.layout = Layout::Array { line: opened.line, is_first: true };
                opened.consume(1);
            }
            Some(b'{') if !has_lines(path) && opened.begins_with_part()? => {
                return Ok(JsonFile { layout: Layout::Objects, ..JsonFile::reopen(opened)? });
            }
            Some(b'{') if !has_lines(path) => return JsonFile::reopen(opened),
            _ => {}
        }
        Ok(opened)
    }

    /// Opens the same file again, at its beginning.
    fn reopen(opened: JsonFile) -> Result<JsonFile> {
        let file = Unicode::open(&opened.path)?;
        let offset = file.mark_bytes();
        let file = BufReader::with_capacity(PIECE_BYTES, file);
        Ok(JsonFile { file, line: 1, offset, ..opened })
    }

    /// Whether the next line holds only a part of a value.
    fn begins_with_part(&mut self) -> Result<bool> {
        self.read_line()?;
        let parsed = serde_json::from_slice::<IgnoredAny>(&self.value);
        Ok(parsed.is_err_and(|cause| cause.is_eof()))
    }

    /// Returns the buffered bytes that are not consumed; none at the end of the file.
    fn buffer(&mut self) -> Result<&[u8]> {
        // The buffer is requested twice, since the borrow of the first request would outlive the error.
        if let Err(cause) = self.file.fill_buf() {
            return Err(unicode::refused(&self.path, &cause));
        }
        Ok(self.file.buffer())
    }

    /// Skips bytes of the buffer.
    fn consume(&mut self, bytes: usize) {
        let passed = &self.file.buffer()[..bytes];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.offset += bytes as u64;
        self.file.consume(bytes);
    }

    /// Skips white space; returns the next byte.
    fn skip_space(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = self.buffer()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
                Some(at) => {
                    let byte = buffer[at];
                    self.consume(at);
                    return Ok(Some(byte));
                }
                None => {
                    let all = buffer.len();
                    self.consume(all);
                }
            }
        }
    }

    /// Reads a line; returns whether there is one.
    fn read_line(&mut self) -> Result<bool> {
        self.begin = (self.line, self.offset);
        self.value.clear();
        let read = (&mut self.file)
            .take(LONGEST_VALUE_BYTES as u64)
            .read_until(b'\n', &mut self.value)
            .map_err(|cause| unicode::refused(&self.path, &cause))?;
        self.line += 1;
        self.offset += read as u64;
        if read == LONGEST_VALUE_BYTES && self.value.last() != Some(&b'\n') {
            return Err(self.too_long());
        }
        // If a value is cut short, the error is reported for this line.
        self.value.pop_if(|last| *last == b'\n');
        Ok(read > 0)
    }

    /// Reads the value that begins with the next byte; brackets and quotes determine its end.
    fn read_value(&mut self) -> Result<()> {
        self.begin = (self.line, self.offset);
        self.value.clear();
        let mut scan = Scan::default();
        while !scan.is_done {
            let buffer = self.buffer()?;
            if buffer.is_empty() {
                break;
            }
            let length = scan.take(buffer);
            let part = &self.file.buffer()[..length];
            self.value.extend_from_slice(part);
            self.consume(length);
            if self.value.len() > LONGEST_VALUE_BYTES {
                return Err(self.too_long());
            }
        }
        Ok(())
    }

    /// Returns the file and a line of it, for messages.
    fn place(&self, line: usize) -> String {
        format!("{}, line {line}", self.path.display())
    }

    /// Returns the file, the line in which the current value begins, and its number in an array.
    pub(crate) fn place_of_value(&self) -> String {
        self.place_in_value(self.begin.0)
    }

    /// Does the same for a line of the current value.
    fn place_in_value(&self, line: usize) -> String {
        match self.layout {
            Layout::Array { .. } => format!("{}, value {}", self.place(line), self.count),
            _ => self.place(line),
        }
    }

    fn too_long(&self) -> Error {
        let place = self.place_of_value();
        Error::input(format!("{place}: a JSON value is longer than {LONGEST_VALUE_BYTES} bytes"))
            .hint(WANTED)
    }

    /// Returns an error about a line that is not an error of JSON itself.
    fn wrong(&self, line: usize, message: &str) -> Error {
        Error::input(format!("{}: {message}", self.place(line))).hint(WANTED)
    }

    /// Returns the value that was read.
    fn parse<T>(&self, read: Reader<T>, strings: Strings) -> Result<T> {
        let (first, offset) = self.begin;
        let value = std::str::from_utf8(&self.value).map_err(|cause| {
            let before = &self.value[..cause.valid_up_to()];
            let line = first + before.iter().filter(|byte| **byte == b'\n').count();
            not_utf8(&self.place_in_value(line), offset + before.len() as u64)
        })?;
        let mut json = serde_json::Deserializer::from_str(value);
        let parsed = read(&mut json, strings).and_then(|value| json.end().map(|()| value));
        parsed.map_err(|cause| {
            let line = first + cause.line().max(1) - 1;
            let place = self.place_in_value(line);
            Error::input(format!("{place}: {}", without_line(&cause))).hint(WANTED)
        })
    }

    /// Returns the next value, of any kind; `None` at the end of the file.
    pub(crate) fn next_json(&mut self) -> Result<Option<Value>> {
        self.next_value(|json, _| Value::deserialize(json))
    }

    /// Returns the number of bytes of the file before the current position.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next value; `None` at the end of the file. Empty lines are skipped.
    fn next_value<T>(&mut self, read: Reader<T>) -> Result<Option<T>> {
        match self.layout {
            Layout::Lines => {
                while self.read_line()? {
                    if !self.value.trim_ascii().is_empty() {
                        return self.parse(read, Strings::Refused).map(Some);
                    }
                }
                Ok(None)
            }
            Layout::Array { line, is_first } => self.next_of_array(read, line, is_first),
            Layout::Objects => {
                if self.skip_space()?.is_none() {
                    return Ok(None);
                }
                self.read_value()?;
                self.parse(read, Strings::Refused).map(Some)
            }
            Layout::Ended => Ok(None),
        }
    }

    /// Returns the next value of an array that begins in line `begin`.
    fn next_of_array<T>(
        &mut self,
        read: Reader<T>,
        begin: usize,
        is_first: bool,
    ) -> Result<Option<T>> {
        let mut next = self.skip_space()?;
        if next == Some(b']') {
            self.consume(1);
            return match self.skip_space()? {
                None => Ok(None),
                Some(_) => Err(self.wrong(
                    begin,
                    "it is an array, and not the whole file: where there is a value a line, each is an object",
                )),
            };
        }
        if next == Some(b',') && !is_first {
            self.consume(1);
            next = self.skip_space()?;
        } else if !is_first && next.is_some() {
            return Err(self.wrong(self.line, "a comma or ] is missing between two values"));
        }
        if next.is_none() {
            let message = format!("the file ends within the array that begins in line {begin}");
            return Err(self.wrong(self.line, &message));
        }
        self.layout = Layout::Array { line: begin, is_first: false };
        self.count += 1;
        self.read_value()?;
        self.parse(read, Strings::Allowed).map(Some)
    }
}

impl Iterator for JsonFile {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        loop {
            match self.next_value(|json, strings| strings.deserialize(json)).transpose()? {
                Ok(text) if text.is_empty() => {}
                other => {
                    if other.is_err() {
                        self.layout = Layout::Ended;
                    }
                    return Some(other.map(Document::whole));
                }
            }
        }
    }
}

/// Finds the end of a value; this is the state of the search.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Whether it is a number or a word, which has no closing character.
    is_bare: bool,
    is_done: bool,
}

impl Scan {
    /// Returns how many of the `bytes` belong to the value.
    fn take(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            let ends_bare = byte.is_ascii_whitespace() || b",:]}".contains(byte);
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 0 => self.depth -= 1,
                _ if self.depth > 0 => {}
                _ if ends_bare && self.is_bare => {
                    self.is_done = true;
                    return at;
                }
                _ => self.is_bare = true,
            }
            if self.depth == 0 && !self.in_string && !self.is_bare {
                self.is_done = true;
                return at + 1;
            }
        }
        bytes.len()
    }
}

/// Whether a value may be a string instead of an object with a string.
#[derive(Clone, Copy)]
enum Strings {
    Allowed,
    Refused,
}

impl<'de> DeserializeSeed<'de> for Strings {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<String, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strings {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with a string \"text\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        match self {
            Strings::Allowed => Ok(text.to_owned()),
            Strings::Refused => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<M: MapAccess<'de>>(self, mut object: M) -> Result<String, M::Error> {
        let mut text: Option<String> = None;
        while let Some(key) = object.next_key::<Cow<str>>()? {
            if key != "text" {
                object.next_value::<IgnoredAny>()?;
            } else if text.replace(object.next_value()?).is_some() {
                return Err(de::Error::duplicate_field("text"));
            }
        }
        text.ok_or_else(|| de::Error::missing_field("text"))
    }
}

/// Returns serde_json's message without its own "line 1", which would be mistaken for the file's line.
fn without_line(cause: &serde_json::Error) -> String {
    let message = cause.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    format!("{} at column {}", &message[..end], cause.column())
}
