//! Token ids in memory, or in a memory-mapped file, which may be larger than memory.
//!
//! The file format is little endian: the 8 bytes `wgpt.tok`, the version 1 (u32), the bytes per id, 2 or 4 (u32), the
//! number of ids (u64), then the ids. Version 2 has three more numbers in its header: where the validation split begins, or
//! the number of ids if the file does not define it (u64), whether the ids carry the [marks](super::marks) of conversations,
//! 1 or 0 (u32), and 0 (u32). llm.c's files are read too: 256 numbers of 32 bits, of which the first three are
//! a magic number, a version and the number of ids, then the ids. Any other file with the ending `.bin` is read as
//! plain 16-bit ids, which is nanoGPT's format.

use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::batches::split;
use super::marks::{ALL, BEGINS};
use super::random;
use super::text::{CutText, Document};
use crate::disk::{self, File, Map};
use crate::error::{Error, Result};
use crate::files::NewFile;
use crate::tokenizer::TextEncoder;

const MAGIC: &[u8; 8] = b"wgpt.tok";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
/// The version with a validation split or marks, and the length of its header.
const VERSION_2: u32 = 2;
const HEADER_2_BYTES: usize = 40;

/// A kind of llm.c's token files.
struct LlmC {
    magic: u32,
    version: u32,
    /// Bytes per id.
    width: usize,
}

const LLM_C_HEADER_BYTES: usize = 1024;
/// The formats of GPT-2's ids, and of Llama 3's.
const LLM_C: [LlmC; 2] = [
    LlmC { magic: 20_240_520, version: 1, width: 2 },
    LlmC { magic: 20_240_801, version: 7, width: 4 },
];
/// The magic number of llm.c's files of multiple-choice questions, which look similar and are not text.
const LLM_C_QUESTIONS: u32 = 20_240_522;

/// A sequence of token ids: in memory, in a file, or in several consecutive files.
pub struct Tokens {
    name: String,
    parts: Vec<Part>,
    /// The beginning of the validation split, if the files define it.
    validation: Option<usize>,
    /// Whether the ids carry the marks of conversations.
    is_marked: bool,
}

/// A part of the sequence.
struct Part {
    /// The name for messages.
    name: String,
    ids: Ids,
    /// The position of its beginning in the sequence.
    begin: usize,
}

enum Ids {
    Memory(Vec<u32>),
    File { map: Map, start: usize, width: usize, len: usize },
}

impl Ids {
    fn len(&self) -> usize {
        match self {
            Ids::Memory(ids) => ids.len(),
            Ids::File { len, .. } => *len,
        }
    }

    fn copy_to(&self, range: Range<usize>, out: &mut [u32]) {
        match self {
            Ids::Memory(ids) => out.copy_from_slice(&ids[range]),
            Ids::File { map, start, width, .. } => {
                let bytes = &map[start + range.start * width..start + range.end * width];
                match width {
                    2 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(id, bytes)| {
                        *id = u16::from_le_bytes(*bytes).into();
                    }),
                    _ => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(id, bytes)| {
                        *id = u32::from_le_bytes(*bytes);
                    }),
                }
            }
        }
    }
}

impl Part {
    /// Returns the position of its end in the sequence.
    fn end(&self) -> usize {
        self.begin + self.ids.len()
    }
}

impl Tokens {
    /// Uses ids in memory.
    pub fn from_ids(ids: Vec<u32>) -> Tokens {
        Tokens::of("the data".to_owned(), Ids::Memory(ids))
    }

    /// Uses the ids of conversations in memory, with their [marks](super::marks); `validation` is where those of the validation split
    /// begin, if they are told apart.
    pub fn from_conversations(ids: Vec<u32>, validation: Option<usize>) -> Tokens {
        let tokens = Tokens::of("the data".to_owned(), Ids::Memory(ids));
        Tokens { validation, is_marked: true, ..tokens }
    }

    fn of(name: String, ids: Ids) -> Tokens {
        let parts = vec![Part { name: name.clone(), ids, begin: 0 }];
        Tokens { parts, name, validation: None, is_marked: false }
    }

    /// Sets the name for messages; several files also keep their own names.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Tokens {
        self.name = name.into();
        if let [part] = self.parts.as_mut_slice() {
            part.name.clone_from(&self.name);
        }
        self
    }

    /// Maps a token file into memory. The file must not be changed while it is open.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is empty, or does not have the length in its header; if the version or the width is
    /// unknown; if a plain file has an odd number of bytes; if it holds llm.c's questions.
    pub fn open(path: &Path) -> Result<Tokens> {
        let refused = |cause| Error::io("opening the token file", path, &cause);
        let name = path.display().to_string();
        let file = File::open(path).map_err(refused)?;
        if file.metadata().map_err(refused)?.len() == 0 {
            return Err(Error::input(format!("{name} is empty: there are no tokens in it")));
        }
        let map = disk::map(&file).map_err(refused)?;
        let plain = |start, width| Header { start, width, ..Header::default() };
        let header = match llm_c(&map) {
            _ if map.starts_with(MAGIC) => read_header(&name, &map)?,
            Some(kind) => {
                let (start, width) = read_llm_c_header(&name, &map, kind)?;
                plain(start, width)
            }
            None => plain(0, 2),
        };
        let Header { start, width, validation, is_marked } = header;
        let bytes = map.len() - start;
        if !bytes.is_multiple_of(width) {
            return Err(Error::input(format!(
                "{name} holds {bytes} bytes, not a multiple of the {width} that an id has"
            ))
            .hint("a plain token file, as nanoGPT writes it, is 16-bit little-endian ids"));
        }
        let tokens = Tokens::of(name, Ids::File { len: bytes / width, map, start, width });
        Ok(Tokens { validation, is_marked, ..tokens })
    }

    /// Maps token files as one sequence, in this order; they may be of different formats and widths.
    ///
    /// # Errors
    ///
    /// As [`Tokens::open`], for the first file that is rejected.
    ///
    /// # Panics
    ///
    /// If there are no paths.
    pub fn open_all(paths: &[PathBuf]) -> Result<Tokens> {
        let (first, more) = paths.split_first().expect("a token file");
        let mut tokens = Tokens::open(first)?;
        for path in more {
            tokens.append(Tokens::open(path)?)?;
        }
        if !more.is_empty() {
            tokens.name = format!("{} and {} more token files", tokens.name, more.len());
        }
        Ok(tokens)
    }

    fn append(&mut self, more: Tokens) -> Result<()> {
        if self.is_marked != more.is_marked || self.validation.or(more.validation).is_some() {
            return Err(Error::input(format!(
                "{} and {} cannot be joined: one of them holds conversations, or has a validation split of its own",
                self.name, more.name
            ))
            .hint("name one of them alone"));
        }
        let begin = self.len();
        let moved = more.parts.into_iter().map(|part| Part { begin: begin + part.begin, ..part });
        self.parts.extend(moved);
        Ok(())
    }

    /// Appends `validation`, which becomes the validation split.
    ///
    /// # Errors
    ///
    /// If only one of the two holds conversations, or one has a validation split of its own.
    pub fn with_validation(mut self, validation: Tokens) -> Result<Tokens> {
        let at = self.len();
        self.append(validation)?;
        Ok(Tokens { validation: Some(at), ..self })
    }

    /// Sets where the validation split begins, for ids that come without the header of their file.
    #[must_use]
    pub(crate) fn validating_from(self, validation: Option<usize>) -> Tokens {
        Tokens { validation, ..self }
    }

    /// Whether these are the tokens of conversations, with [marks](super::marks).
    pub fn are_conversations(&self) -> bool {
        self.is_marked
    }

    /// Returns where the validation split begins, if the files define it.
    pub fn validation(&self) -> Option<usize> {
        self.validation
    }

    /// Returns the training and the validation split. The validation split is the last 10 %, but at most the last
    /// `most` tokens; or, if there are validation files, at most their first `most` tokens. Of conversations it is the last tenth of
    /// them, or the first ones of the validation files, but at most `most` tokens as long as there is one.
    pub fn split(&self, most: Option<usize>) -> (Range<usize>, Range<usize>) {
        let (len, most) = (self.len(), most.unwrap_or(usize::MAX));
        if self.is_marked {
            return self.split_conversations(most);
        }
        if let Some(at) = self.validation {
            return (0..at, at..at + most.min(len - at));
        }
        let at = len - split(len).1.len().min(most);
        (0..at, at..len)
    }

    fn split_conversations(&self, most: usize) -> (Range<usize>, Range<usize>) {
        let len = self.len();
        if let Some(at) = self.validation {
            let fit = |one: &&Range<usize>| one.end - at <= most;
            let all = self.conversations(&(at..len));
            let end = all.iter().take_while(fit).last().or(all.first()).map_or(at, |one| one.end);
            return (0..at, at..end);
        }
        let all = self.conversations(&(0..len));
        let tenth = &all[all.len() - all.len().div_ceil(10)..];
        let fits = tenth.iter().find(|one| len - one.start <= most);
        let at = fits.or(tenth.last()).map_or(len, |one| one.start);
        (0..at, at..len)
    }

    /// Returns the places of the conversations in a range that begins with one.
    pub(super) fn conversations(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let (mut begins, mut words) = (vec![], vec![]);
        for start in range.clone().step_by(BLOCK) {
            words.resize(BLOCK.min(range.end - start), 0);
            self.copy_marked(start..start + words.len(), &mut words);
            let found = words.iter().enumerate().filter(|(_, word)| **word & BEGINS != 0);
            begins.extend(found.map(|(i, _)| start + i));
        }
        let ends = begins.iter().skip(1).copied().chain([range.end]);
        begins.iter().copied().zip(ends).map(|(begin, end)| begin..end).collect()
    }

    /// Returns the name for messages: the file's path, or the name set by [`Tokens::named`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of ids.
    pub fn len(&self) -> usize {
        self.parts.last().map_or(0, Part::end)
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the stored bytes per id, 2 or 4; the maximum over all files.
    pub fn width(&self) -> usize {
        let width = |part: &Part| match &part.ids {
            Ids::Memory(_) => 4,
            Ids::File { width, .. } => *width,
        };
        self.parts.iter().map(width).max().unwrap_or(4)
    }

    /// Returns the index of the part that has the id at `position`.
    fn part(&self, position: usize) -> usize {
        self.parts.partition_point(|part| part.end() <= position)
    }

    /// Copies the ids of `range` to `out`, without marks.
    ///
    /// # Panics
    ///
    /// If the range is not within the ids, or its length differs from that of `out`.
    pub fn copy_to(&self, range: Range<usize>, out: &mut [u32]) {
        self.copy_marked(range, out);
        if self.is_marked {
            out.iter_mut().for_each(|word| *word &= !ALL);
        }
    }

    /// Copies the ids of `range` to `out`, with the [marks](super::marks) of conversations.
    ///
    /// # Panics
    ///
    /// As [`Tokens::copy_to`].
    pub fn copy_marked(&self, range: Range<usize>, out: &mut [u32]) {
        assert_eq!(range.len(), out.len(), "as many ids as places");
        assert!(range.end <= self.len(), "within the ids");
        let (mut at, mut out) = (range.start, out);
        for part in &self.parts[self.part(at)..] {
            let (now, later) = out.split_at_mut(out.len().min(part.end() - at));
            let from = at - part.begin;
            part.ids.copy_to(from..from + now.len(), now);
            at += now.len();
            out = later;
            if out.is_empty() {
                break;
            }
        }
    }

    /// Returns a hash of the number of ids and of a sample of them, to detect other data.
    pub fn fingerprint(&self) -> u64 {
        const SAMPLE: usize = 4096;
        let every = self.len().div_ceil(SAMPLE).max(1);
        let mut id = [0];
        let sample = (0..self.len()).step_by(every).map(|at| {
            self.copy_marked(at..at + 1, &mut id);
            u64::from(id[0])
        });
        random::hash(&[self.len() as u64].into_iter().chain(sample).collect::<Vec<_>>())
    }

    /// Checks that every id is in a vocabulary of `vocab_size`.
    ///
    /// # Errors
    ///
    /// Names the first id that is not, with its file and its position there.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        let bad = (0..self.len().div_ceil(BLOCK)).into_par_iter().find_map_first(|block| {
            let range = block * BLOCK..self.len().min((block + 1) * BLOCK);
            let mut ids = vec![0; range.len()];
            self.copy_to(range.clone(), &mut ids);
            let at = ids.iter().position(|&id| id as usize >= vocab_size)?;
            Some((range.start + at, ids[at]))
        });
        let Some((position, id)) = bad else { return Ok(()) };
        let part = &self.parts[self.part(position)];
        let position = position - part.begin;
        Err(Error::input(format!(
            "{}: token id {id} at position {position} is out of range: the vocabulary has {vocab_size}",
            part.name
        ))
        .hint("the ids must be those of the model's own tokenizer"))
    }
}

/// The number of ids that are looked at together.
const BLOCK: usize = 1 << 16;

/// What the header of a token file says.
#[derive(Default)]
struct Header {
    /// The offset of the ids.
    start: usize,
    /// The bytes per id.
    width: usize,
    /// Where the validation split begins, if the file defines it.
    validation: Option<usize>,
    is_marked: bool,
}

/// Returns the `i`th 32-bit number, if there are enough bytes.
fn number(bytes: &[u8], i: usize) -> Option<u32> {
    bytes.get(4 * i..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Returns the magic number of llm.c that a file begins with. Plain ids might begin the same way, but the rest of a
/// header is zero, which does not occur in text.
fn llm_c(bytes: &[u8]) -> Option<u32> {
    let magic = number(bytes, 0)?;
    let known = LLM_C.iter().any(|kind| kind.magic == magic) || magic == LLM_C_QUESTIONS;
    let rest = &bytes[16.min(bytes.len())..LLM_C_HEADER_BYTES.min(bytes.len())];
    (known && rest.iter().all(|&byte| byte == 0)).then_some(magic)
}

/// Returns the offset of the ids in a file of llm.c, and the bytes per id.
fn read_llm_c_header(name: &str, bytes: &[u8], magic: u32) -> Result<(usize, usize)> {
    let Some(kind) = LLM_C.iter().find(|kind| kind.magic == magic) else {
        return Err(Error::input(format!(
            "{name} holds llm.c's multiple-choice questions, not text"
        ))
        .hint("train on its token files, such as fineweb_train_000001.bin"));
    };
    let held = bytes.len().checked_sub(LLM_C_HEADER_BYTES).ok_or_else(|| {
        Error::input(format!("{name} is cut short within llm.c's header"))
            .hint("copy or download the file again")
    })?;
    let (version, count) = (number(bytes, 1), number(bytes, 2).unwrap_or(0) as usize);
    if version != Some(kind.version) {
        return Err(Error::input(format!(
            "{name} is a token file of llm.c's of version {}, known is {}",
            version.unwrap_or(0),
            kind.version
        ))
        .hint("write it again with llm.c's dev/data scripts, or give the text itself"));
    }
    if count.checked_mul(kind.width) != Some(held) {
        return Err(Error::input(format!(
            "{name}: llm.c's header says {count} tokens of {} bytes, it holds {held} bytes of them",
            kind.width
        ))
        .hint("the file was cut short or changed: copy or download it again"));
    }
    if count == 0 {
        return Err(Error::input(format!("{name} is empty: there are no tokens in it")));
    }
    Ok((LLM_C_HEADER_BYTES, kind.width))
}

/// Returns what the header of a file of wgpt's own format says.
fn read_header(name: &str, bytes: &[u8]) -> Result<Header> {
    let cut = || Error::input(format!("{name} is cut short within its header"));
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(cut)?;
    let version = number(header, 2).unwrap_or(0);
    if version != VERSION && version != VERSION_2 {
        return Err(Error::input(format!(
            "{name} is a token file of version {version}, known are {VERSION} and {VERSION_2}"
        ))
        .hint("encode the text again"));
    }
    let more: Option<&[u8; HEADER_2_BYTES]> = match version {
        VERSION => None,
        _ => Some(bytes.first_chunk().ok_or_else(cut)?),
    };
    let start = if more.is_some() { HEADER_2_BYTES } else { HEADER_BYTES };
    let width = number(header, 3).unwrap_or(0);
    if width != 2 && width != 4 {
        return Err(Error::input(format!("{name}: its ids have {width} bytes, wanted 2 or 4")));
    }
    let count = u64::from_le_bytes(*header[16..].first_chunk().expect("in header"));
    let held = (bytes.len() - start) as u64;
    if count.checked_mul(width.into()) != Some(held) {
        return Err(Error::input(format!(
            "{name}: its header says {count} tokens of {width} bytes, it holds {held} bytes of them"
        ))
        .hint("the file was cut short or changed: encode the text again"));
    }
    let number_64 = |at: usize, header: &[u8]| {
        u64::from_le_bytes(*header[at..].first_chunk().expect("in header"))
    };
    let validation = more.map(|header| number_64(HEADER_BYTES, header));
    if let Some(at) = validation.filter(|at| *at > count) {
        return Err(Error::input(format!(
            "{name}: its validation split begins at {at}, after its {count} tokens"
        ))
        .hint("the file was changed: encode the text again"));
    }
    let validation = validation.filter(|at| *at < count).map(|at| at as usize);
    let is_marked = more.is_some_and(|header| number(header, 8) == Some(1));
    Ok(Header { start, width: width as usize, validation, is_marked })
}

/// Writes a token file, which gets its name when it is complete.
pub struct TokenWriter {
    path: PathBuf,
    file: NewFile,
    wide: bool,
    count: u64,
    /// Whether the file is of version 2.
    has_more: bool,
    is_marked: bool,
    /// Where the validation split begins, if the file defines it.
    validation: Option<u64>,
}

impl TokenWriter {
    /// Creates a file at `path` for ids below `vocab_size`: 2 bytes each if they fit, else 4.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn create(path: &Path, vocab_size: usize) -> Result<TokenWriter> {
        TokenWriter::new(path, vocab_size > 1 << 16, false, false)
    }

    /// Creates a file that may define its validation split ([`TokenWriter::begin_validation`]).
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn create_split(path: &Path, vocab_size: usize) -> Result<TokenWriter> {
        TokenWriter::new(path, vocab_size > 1 << 16, true, false)
    }

    /// Creates such a file for the tokens of conversations, with their [marks](super::marks).
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn create_conversations(path: &Path) -> Result<TokenWriter> {
        TokenWriter::new(path, true, true, true)
    }

    fn new(path: &Path, wide: bool, has_more: bool, is_marked: bool) -> Result<TokenWriter> {
        let (path, file) = (path.to_owned(), NewFile::create(path)?);
        let mut writer =
            TokenWriter { path, file, wide, count: 0, has_more, is_marked, validation: None };
        writer
            .write(&[0; HEADER_2_BYTES][..if has_more { HEADER_2_BYTES } else { HEADER_BYTES }])?;
        Ok(writer)
    }

    /// Makes what comes from now on the validation split.
    ///
    /// # Panics
    ///
    /// If the file was not created for that.
    pub fn begin_validation(&mut self) {
        assert!(self.has_more, "the file defines no validation split");
        self.validation = Some(self.count);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.out.write_all(bytes).map_err(|cause| Error::io("writing", &self.path, &cause))
    }

    /// Appends ids.
    ///
    /// # Errors
    ///
    /// If the disk is full, or an id does not fit the width.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        self.count += ids.len() as u64;
        if self.wide {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            return self.write(&bytes);
        }
        let mut bytes = Vec::with_capacity(2 * ids.len());
        for &id in ids {
            let narrow = u16::try_from(id).map_err(|_| {
                Error::input(format!(
                    "{}: token id {id} is out of range of the vocabulary, whose ids fit 16 bits",
                    self.path.display()
                ))
            })?;
            bytes.extend(narrow.to_le_bytes());
        }
        self.write(&bytes)
    }

    /// Completes the file, waits until it is on the disk, renames it and opens it.
    ///
    /// # Errors
    ///
    /// If the disk is full or the file cannot be renamed.
    pub fn finish(self) -> Result<Tokens> {
        let TokenWriter { path, mut file, wide, count, has_more, is_marked, validation } = self;
        let refused = |cause| Error::io("writing", &path, &cause);
        let mut header = MAGIC.to_vec();
        header.extend(if has_more { VERSION_2 } else { VERSION }.to_le_bytes());
        header.extend(if wide { 4_u32 } else { 2 }.to_le_bytes());
        header.extend(count.to_le_bytes());
        if has_more {
            header.extend(validation.unwrap_or(count).to_le_bytes());
            header.extend(u32::from(is_marked).to_le_bytes());
            header.extend(0_u32.to_le_bytes());
        }
        file.out.seek(SeekFrom::Start(0)).map_err(refused)?;
        file.out.write_all(&header).map_err(refused)?;
        file.finish()?;
        Tokens::open(&path)
    }
}

/// The number of bytes of text that are encoded at once per thread.
const BYTES_A_THREAD: usize = 1 << 20;

/// Encodes documents on all threads and passes their ids to `push`, in order, with `end_of_text` between two documents.
///
/// `progress` is called with the number of processed bytes of text. The ids depend neither on the number of threads,
/// nor on how long documents are divided into pieces.
///
/// # Errors
///
/// The first error of the documents or of `push`.
pub fn encode(
    documents: impl Iterator<Item = Result<Document>>,
    encoder: TextEncoder,
    end_of_text: Option<u32>,
    push: &mut dyn FnMut(&[u32]) -> Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let together = rayon::current_num_threads() * BYTES_A_THREAD;
    let mut documents = CutText::new(documents, encoder.cutter()).peekable();
    let (mut done_bytes, mut first) = (0, true);
    while documents.peek().is_some() {
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        while bytes < together {
            let Some(document) = documents.next().transpose()? else { break };
            bytes += document.text.len();
            waiting.push(document);
        }
        let encode = |document: &Document| encoder.encode(&document.text, document.begins);
        let ids: Vec<Vec<u32>> = waiting.par_iter().map(encode).collect();
        for (document, ids) in waiting.iter().zip(&ids) {
            if let Some(id) = end_of_text.filter(|_| document.begins && !first) {
                push(&[id])?;
            }
            push(ids)?;
            first = false;
        }
        done_bytes += bytes as u64;
        progress(done_bytes);
    }
    Ok(())
}
