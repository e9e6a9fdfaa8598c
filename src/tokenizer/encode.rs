//! Text to ids: pieces, whose pairs are merged lowest rank first, leftmost first among equals.
//!
//! Long texts are cut into chunks that are encoded in parallel; the ids do not depend on the chunks or the threads. What
//! a thread has seen it remembers, also for the next text: most words are copied from there.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::bpe::Tokenizer;
use super::cut::AddedAs;
use super::merge::Merger;
use super::pretokenizer::{BATCH, PreTokenizer, Prefix};

/// Bytes of text that one thread encodes at a time.
const CHUNK_BYTES: usize = 256 << 10;

impl Tokenizer {
    /// The ids of `text`. Special tokens are ordinary text here: what users write cannot end a
    /// document.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// assert_eq!(tokenizer.encode("!!"), [1, 1]);
    /// assert_eq!(tokenizer.encode("<|endoftext|>").len(), 13);
    /// ```
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_stretch(text, AddedAs::Text, true)
    }

    /// The ids of several documents one after the other, each followed by the end of text (if the
    /// vocabulary has it). Faster than [`encode`](Tokenizer::encode) for each, since threads and
    /// what was seen before are shared.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// assert_eq!(tokenizer.encode_documents(["!", "!!"]), [1, 0, 1, 1, 0]);
    /// ```
    pub fn encode_documents<'a>(&self, documents: impl IntoIterator<Item = &'a str>) -> Vec<u32> {
        let end = self.end_of_text();
        let parts = documents.into_iter().flat_map(|document| self.parts(document, true, end));
        self.encode_parts(&parts.collect::<Vec<_>>())
    }

    /// The ids of `text`, in which the added tokens (`<|endoftext|>` and others of the tokenizer)
    /// stand for their own ids. Where several begin at one place, the longest is taken; white space and
    /// words around them count as their file says. These are the ids that Hugging Face's `tokenizers`
    /// give without `add_special_tokens`.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// assert_eq!(tokenizer.encode_with_special("!<|endoftext|>!"), [1, 0, 1]);
    /// ```
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        self.encode_stretch(text, AddedAs::Tokens, true)
    }

    /// The ids of a text, or of a stretch of one that was cut where it may be; `begins` is whether a text begins there.
    pub(super) fn encode_stretch(&self, text: &str, added: AddedAs, begins: bool) -> Vec<u32> {
        let (mut all, mut begins) = (Vec::new(), begins);
        let mut visit = |text, then: Option<u32>| {
            all.extend(self.parts(text, begins, then));
            begins = true;
        };
        match added {
            AddedAs::Tokens => self.added.split(text, &mut visit),
            AddedAs::Text => visit(text, None),
        }
        self.encode_parts(&all)
    }

    /// Cuts what is between two added tokens for the threads; `then` follows the last part.
    fn parts<'a>(
        &self,
        text: &'a str,
        begins: bool,
        then: Option<u32>,
    ) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let blank = begins && self.pre_tokenizer.prefix == Prefix::Stretches;
        let chunks = self.pre_tokenizer.chunks(text, CHUNK_BYTES).into_iter().enumerate();
        let chunks = chunks.map(move |(i, text)| match text {
            _ if blank && i == 0 && !text.starts_with(' ') => Cow::Owned(format!(" {text}")),
            text => Cow::Borrowed(text),
        });
        let parts = chunks.map(|text| Part { text, then: None });
        parts.chain(then.map(|id| Part { text: "".into(), then: Some(id) }))
    }

    /// The ids of `parts`, in groups of about [`CHUNK_BYTES`] for the threads.
    fn encode_parts(&self, mut parts: &[Part<'_>]) -> Vec<u32> {
        let mut groups = Vec::new();
        while !parts.is_empty() {
            let mut bytes = 0;
            let full = parts.iter().position(|part| {
                bytes += part.text.len();
                bytes >= CHUNK_BYTES
            });
            let (group, rest) = parts.split_at(full.map_or(parts.len(), |last| last + 1));
            groups.push(group);
            parts = rest;
        }
        let encode = |group: &&[Part<'_>]| self.encode_group(group);
        match groups.as_slice() {
            [group] => encode(group),
            groups => groups.par_iter().map(encode).collect::<Vec<_>>().concat(),
        }
    }

    /// The ids of `parts`, by one thread.
    fn encode_group(&self, parts: &[Part<'_>]) -> Vec<u32> {
        let mut encoder = self.encoders.take();
        let bytes: usize = parts.iter().map(|part| part.text.len()).sum();
        let mut ids = Vec::with_capacity(bytes / 3 + parts.len());
        for part in parts {
            encoder.encode(self, &part.text, &mut ids);
            ids.extend(part.then);
        }
        self.encoders.give_back(encoder);
        ids
    }

    /// The rank of the pair in the order of merges, or [`NONE`](super::ranks::NONE).
    #[inline]
    pub(super) fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.get(left, right)
    }

    /// The rank of the pair of two bytes' tokens.
    #[inline]
    pub(super) fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_ranks[usize::from(left) << 8 | usize::from(right)]
    }
}

/// A stretch of text whose pieces do not depend on what surrounds it, and the special token after
/// it.
struct Part<'a> {
    text: Cow<'a, str>,
    then: Option<u32>,
}

/// Encoders that are not in use, with what they remember. They are no part of what a tokenizer is.
#[derive(Default)]
pub(super) struct Encoders(Mutex<Vec<Encoder>>);

impl Encoders {
    fn take(&self) -> Encoder {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, encoder: Encoder) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < rayon::current_num_threads() {
            idle.push(encoder);
        }
    }
}

impl Clone for Encoders {
    fn clone(&self) -> Encoders {
        Encoders::default()
    }
}

impl PartialEq for Encoders {
    fn eq(&self, _: &Encoders) -> bool {
        true
    }
}

impl Eq for Encoders {}

/// What one thread needs to encode texts: the pieces that it has seen, in a table of fixed size, and buffers.
#[derive(Default)]
struct Encoder {
    /// Two pieces each, the newer one first; a power of two of them.
    seen: Vec<[Seen; 2]>,
    /// How many were put in since the table was made.
    added: usize,
    merger: Merger,
}

/// A piece and its ids.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// See [`short_key`]; 0 if there is none.
    key: u128,
    ids: [[u8; 3]; MOST_IDS],
    count: u8,
}

impl Seen {
    #[inline(always)]
    fn ids(&self) -> [u32; MOST_IDS] {
        self.ids.map(|[low, middle, high]| u32::from_le_bytes([low, middle, high, 0]))
    }
}

/// The longest piece that is remembered, in bytes: with its length it fills 128 bits.
const LONGEST_SEEN: usize = 15;
/// No piece's key.
const TOO_LONG: u128 = u128::MAX;
/// The most ids of a piece that is remembered, so that two pieces fill a line of the processor's cache.
const MOST_IDS: usize = 5;
/// The size of a new table and the most it grows to, in pairs of pieces of 64 bytes.
const SMALLEST_TABLE: usize = 1 << 8;
const LARGEST_TABLE: usize = 1 << 15;

impl Encoder {
    /// Appends the ids of `text` to `ids`.
    fn encode(&mut self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
        if self.seen.is_empty() {
            self.seen.resize(SMALLEST_TABLE, Default::default());
        }
        match tokenizer.pre_tokenizer.prefix {
            Prefix::Parts => self.encode_with_prefixes(tokenizer, text, ids),
            _ => self.encode_pieces(tokenizer, tokenizer.pre_tokenizer, text, ids),
        }
    }

    /// Appends the ids of the pieces of `text`.
    fn encode_pieces(
        &mut self,
        tokenizer: &Tokenizer,
        pre_tokenizer: PreTokenizer,
        text: &str,
        ids: &mut Vec<u32>,
    ) {
        let mut pieces = pre_tokenizer.pieces(text);
        let (mut start, mut ends) = (0, [0; BATCH]);
        loop {
            let count = pieces.next_ends(&mut ends);
            for &end in &ends[..count] {
                self.encode_piece(tokenizer, text.as_bytes(), start..end, ids);
                start = end;
            }
            if count < BATCH {
                return;
            }
        }
    }

    /// Appends the ids of `text`, each of whose parts is given a blank in front if it has none.
    fn encode_with_prefixes(&mut self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
        let pre_tokenizer = tokenizer.pre_tokenizer;
        let within = PreTokenizer { numbers: None, ..pre_tokenizer };
        let mut prefixed = String::new();
        pre_tokenizer.for_each_part(text, |part| {
            prefixed.clear();
            prefixed.extend((!part.starts_with(' ')).then_some(' '));
            prefixed.push_str(part);
            if pre_tokenizer.numbers.is_some() {
                self.encode_pieces(tokenizer, within, &prefixed, ids);
            } else {
                self.encode_piece(tokenizer, prefixed.as_bytes(), 0..prefixed.len(), ids);
            }
        });
    }

    /// Appends the ids of a piece of `text`.
    #[inline(always)]
    fn encode_piece(
        &mut self,
        tokenizer: &Tokenizer,
        text: &[u8],
        piece: Range<usize>,
        ids: &mut Vec<u32>,
    ) {
        let key = short_key(text, piece.clone());
        let [newer, older] = &self.seen[slot(key, self.seen.len())];
        let seen = if newer.key == key { newer } else { older };
        if seen.key == key {
            let length = ids.len() + seen.count as usize;
            ids.extend_from_slice(&seen.ids());
            ids.truncate(length);
        } else {
            self.encode_new(tokenizer, &text[piece], key, ids);
        }
    }

    /// Appends the ids of a piece and remembers them.
    #[inline(never)]
    fn encode_new(&mut self, tokenizer: &Tokenizer, piece: &[u8], key: u128, ids: &mut Vec<u32>) {
        let start = ids.len();
        self.merger.merge(tokenizer, piece, ids);
        let new = &ids[start..];
        if key == TOO_LONG || new.len() > MOST_IDS || new.iter().any(|id| id >> 24 != 0) {
            return;
        }
        if self.added >= 2 * self.seen.len() && self.seen.len() < LARGEST_TABLE {
            self.grow();
        }
        let mut seen = Seen { key, ids: Default::default(), count: new.len() as u8 };
        for (seen, id) in seen.ids.iter_mut().zip(new) {
            seen.copy_from_slice(&id.to_le_bytes()[..3]);
        }
        self.put(seen);
    }

    fn put(&mut self, seen: Seen) {
        let size = self.seen.len();
        let [newer, older] = &mut self.seen[slot(seen.key, size)];
        *older = std::mem::replace(newer, seen);
        self.added += 1;
    }

    fn grow(&mut self) {
        let larger = vec![Default::default(); 4 * self.seen.len()];
        self.added = 0;
        for [newer, older] in std::mem::replace(&mut self.seen, larger) {
            for seen in [older, newer].into_iter().filter(|seen| seen.key != 0) {
                self.put(seen);
            }
        }
    }
}

/// The bytes of a short piece, and its length in the highest byte; [`TOO_LONG`] for others.
#[inline(always)]
fn short_key(text: &[u8], piece: Range<usize>) -> u128 {
    let length = piece.len();
    if length > LONGEST_SEEN {
        return TOO_LONG;
    }
    let bytes = match text[piece.start..].first_chunk() {
        Some(bytes) => u128::from_le_bytes(*bytes) & ((1 << (8 * length)) - 1),
        None => {
            let mut bytes = [0; 16];
            bytes[..length].copy_from_slice(&text[piece]);
            u128::from_le_bytes(bytes)
        }
    };
    bytes | (length as u128) << 120
}

/// Where a key's pieces are in a table of `size`, a power of two: the product of its halves, both ends of it folded
/// together.
#[inline(always)]
fn slot(key: u128, size: usize) -> usize {
    const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
    let product = u128::from(key as u64 ^ ODD[0]) * u128::from((key >> 64) as u64 ^ ODD[1]);
    (product as u64 ^ (product >> 64) as u64) as usize & (size - 1)
}
