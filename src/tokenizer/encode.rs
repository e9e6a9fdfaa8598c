//! Encodes text to ids: it is cut into pieces, whose pairs are merged lowest rank first, leftmost first among equals.
//!
//! In a vocabulary of characters, a piece is a part of a text that no merge crosses.
//!
//! Long texts are cut into chunks that are encoded in parallel; the ids do not depend on the chunks or the threads.
//! Each thread keeps the pieces that it has seen in a cache, also for the next text: the ids of most words are copied
//! from it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::bpe::Tokenizer;
use super::cut::AddedAs;
use super::merge::Merger;
use super::pretokenizer::{BATCH, PreTokenizer, Prefix};

/// The number of bytes that one thread encodes at a time.
const CHUNK_BYTES: usize = 256 << 10;

impl Tokenizer {
    /// Returns the ids of `text`. Special tokens are ordinary text here, so text written by users cannot end a
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

    /// Returns the ids of several documents, each followed by the end of text (if the
    /// vocabulary has it). This is faster than [`encode`](Tokenizer::encode) for each document, since the threads and
    /// their caches are shared.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// assert_eq!(tokenizer.encode_documents(["!", "!!"]), [1, 0, 1, 1, 0]);
    /// ```
    pub fn encode_documents<'a>(&self, documents: impl IntoIterator<Item = &'a str>) -> Vec<u32> {
        let end = self.end_of_text();
        let parts =
            documents.into_iter().flat_map(|document| self.parts(document, Place::Text, end));
        self.encode_parts(&parts.collect::<Vec<_>>())
    }

    /// Returns the ids of `text`, in which the added tokens (`<|endoftext|>` and others of the tokenizer)
    /// stand for their own ids. If several begin at the same place, the longest is used; white space and
    /// words around them are treated as their file says. These are the ids that Hugging Face's `tokenizers`
    /// return without `add_special_tokens`.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// assert_eq!(tokenizer.encode_with_special("!<|endoftext|>!"), [1, 0, 1]);
    /// ```
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        self.encode_stretch(text, AddedAs::Tokens, true)
    }

    /// Returns the ids of `text` as a model is given a whole text: those of
    /// [`encode_with_special`](Tokenizer::encode_with_special) between the tokens that the tokenizer's post-processor puts
    /// around a text, such as the token that begins one ([`template`](Tokenizer::template)). These are the ids that
    /// Hugging Face's `tokenizers` return with `add_special_tokens`.
    pub fn encode_whole(&self, text: &str) -> Vec<u32> {
        self.rules.template.put_around(self.encode_with_special(text))
    }

    /// Returns the ids of a text, or of a stretch that was cut at safe places; `begins` is whether a text begins there.
    pub(super) fn encode_stretch(&self, text: &str, added: AddedAs, begins: bool) -> Vec<u32> {
        let (mut all, mut place) = (Vec::new(), if begins { Place::Text } else { Place::Within });
        let mut visit = |stretch, then: Option<u32>| {
            match added {
                AddedAs::Tokens => self.stretch_parts(stretch, place, then, &mut all),
                AddedAs::Text => all.extend(self.parts(stretch, place, then)),
            }
            place = Place::Stretch;
        };
        match added {
            AddedAs::Tokens => self.added.split(text, &mut visit),
            AddedAs::Text => visit(text, None),
        }
        self.encode_parts(&all)
    }

    /// Appends the parts of a stretch between two added tokens that are found before normalisation.
    fn stretch_parts<'a>(
        &self,
        stretch: &'a str,
        mut place: Place,
        then: Option<u32>,
        all: &mut Vec<Part<'a>>,
    ) {
        if !self.added.are_normalized() {
            self.added.split_normalized(stretch, then, &mut |stretch, then| {
                all.extend(self.parts(stretch, place, then));
                place = Place::Stretch;
            });
            return;
        }
        let normalizer = &self.rules.normalizer;
        let normal = match place {
            Place::Within => normalizer.within(stretch),
            Place::Text | Place::Stretch => normalizer.whole(stretch),
        };
        // What the normalizer puts in front is there.
        let is_prefixed = !normalizer.prepend.is_empty();
        self.added.split_normalized(&normal, then, &mut |stretch, then| {
            let before = if is_prefixed { Place::Within } else { place };
            all.extend(self.parts(stretch, before, then).map(|part| part.into_owned()));
            place = Place::Stretch;
        });
    }

    /// Cuts the text between two added tokens into parts for the threads; `then` is the token after the last part.
    fn parts<'a>(
        &self,
        text: &'a str,
        place: Place,
        then: Option<u32>,
    ) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let mut prefix = if text.is_empty() { None } else { self.prefix(text, place) };
        let chunks = self.places().chunks(text, CHUNK_BYTES).into_iter();
        let parts = chunks.map(move |text| match prefix.take() {
            Some(prefix) => Part { text: Cow::Owned(prefix + text), then: None },
            None => Part { text: Cow::Borrowed(text), then: None },
        });
        parts.chain(then.map(|id| Part { text: "".into(), then: Some(id) }))
    }

    /// Returns what is put in front of a stretch of text.
    fn prefix(&self, stretch: &str, place: Place) -> Option<String> {
        let begins =
            || self.rules.normalizer.form.map_or(stretch.into(), |form| form.beginning(stretch));
        match &self.characters {
            _ if place == Place::Within => None,
            None => {
                let wanted = self.rules.pre_tokenizer.prefix == Prefix::Stretches;
                (wanted && !begins().starts_with(' ')).then(|| " ".to_owned())
            }
            Some(characters) => match self.rules.normalizer.prepend.as_str() {
                "" => characters.prefix(&begins(), place == Place::Text).map(String::from),
                prepend => Some(prepend.to_owned()),
            },
        }
    }

    /// Returns the ids of `parts`, encoded by the threads in groups of about [`CHUNK_BYTES`].
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

    /// Returns the ids of `parts`, encoded by one thread.
    fn encode_group(&self, parts: &[Part<'_>]) -> Vec<u32> {
        let mut encoder = self.encoders.take();
        let bytes: usize = parts.iter().map(|part| part.text.len()).sum();
        let mut ids = Vec::with_capacity(bytes / 3 + parts.len());
        for part in parts {
            let text = self.rules.normalizer.form.map(|form| form.apply(&part.text));
            encoder.encode(self, text.as_deref().unwrap_or(&part.text), &mut ids);
            ids.extend(part.then);
        }
        self.encoders.give_back(encoder);
        ids
    }

    /// Returns the rank of the pair in the order of merges, or [`NONE`](super::ranks::NONE).
    #[inline]
    pub(super) fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.get(left, right)
    }

    /// Returns the rank of the pair of two single-byte tokens.
    #[inline]
    pub(super) fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_ranks[usize::from(left) << 8 | usize::from(right)]
    }
}

/// What is before a stretch of text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing.
    Text,
    /// An added token.
    Stretch,
    /// Text from which it was cut.
    Within,
}

/// A stretch of text whose pieces do not depend on the text around it, and the special token after
/// it.
struct Part<'a> {
    text: Cow<'a, str>,
    then: Option<u32>,
}

impl Part<'_> {
    fn into_owned(self) -> Part<'static> {
        Part { text: Cow::Owned(self.text.into_owned()), then: self.then }
    }
}

/// Unused encoders with their caches. They are not part of a tokenizer's identity.
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

/// The state that one thread needs to encode texts: a cache of fixed size of the pieces that it has seen, and buffers.
#[derive(Default)]
struct Encoder {
    /// The cache: a power of two of entries, each with two pieces, the newer one first.
    seen: Vec<[Seen; 2]>,
    /// The number of pieces added since the table was created.
    added: usize,
    merger: Merger<u8>,
    character_merger: Merger<u32>,
    /// The tokens of a piece's characters.
    letters: Vec<u32>,
}

/// A piece and its ids.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The key, see [`short_key`]; 0 if the entry is empty.
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

/// The longest piece that is cached, in bytes: with its length it fills 128 bits.
const LONGEST_SEEN: usize = 15;
/// The key of a piece that is too long. No cached piece has it.
const TOO_LONG: u128 = u128::MAX;
/// The maximum number of ids of a cached piece, so that two pieces fill one cache line of the processor.
const MOST_IDS: usize = 5;
/// The initial and the maximum size of a table, in entries of 64 bytes with two pieces.
const SMALLEST_TABLE: usize = 1 << 8;
const LARGEST_TABLE: usize = 1 << 15;

impl Encoder {
    /// Appends the ids of `text` to `ids`.
    fn encode(&mut self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
        if self.seen.is_empty() {
            self.seen.resize(SMALLEST_TABLE, Default::default());
        }
        match (&tokenizer.characters, tokenizer.rules.pre_tokenizer) {
            (Some(characters), _) => {
                let mut start = 0;
                while start < text.len() {
                    let end = characters.piece_end(text, start);
                    self.encode_piece(tokenizer, text.as_bytes(), start..end, ids);
                    start = end;
                }
            }
            (None, PreTokenizer { prefix: Prefix::Parts, .. }) => {
                self.encode_with_prefixes(tokenizer, text, ids);
            }
            (None, pre_tokenizer) => self.encode_pieces(tokenizer, pre_tokenizer, text, ids),
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

    /// Appends the ids of `text`, after putting a space in front of each of its parts that has none.
    fn encode_with_prefixes(&mut self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
        let pre_tokenizer = tokenizer.rules.pre_tokenizer;
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

    /// Appends the ids of a piece and adds them to the cache.
    #[inline(never)]
    fn encode_new(&mut self, tokenizer: &Tokenizer, piece: &[u8], key: u128, ids: &mut Vec<u32>) {
        let start = ids.len();
        self.merge(tokenizer, piece, ids);
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

    /// Appends the ids of a piece, merged.
    fn merge(&mut self, tokenizer: &Tokenizer, piece: &[u8], ids: &mut Vec<u32>) {
        let Some(characters) = &tokenizer.characters else {
            match tokenizer.whole.get(piece) {
                Some(&id) => ids.push(id),
                None => self.merger.merge(tokenizer, piece, ids),
            }
            return;
        };
        let piece = String::from_utf8_lossy(piece);
        let whole = || tokenizer.whole.get(characters.folded(&piece).as_bytes());
        if let Some(&id) = (!tokenizer.whole.is_empty()).then(whole).flatten() {
            ids.push(id);
            return;
        }
        self.letters.clear();
        characters.append_letters(&piece, &mut self.letters);
        self.character_merger.merge(tokenizer, &self.letters, ids);
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

/// Returns the bytes of a short piece with its length in the highest byte; [`TOO_LONG`] for a longer piece.
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

/// Returns the index of a key's entry in a table of `size`, a power of two: the product of the key's halves, with its
/// high and low halves folded together.
#[inline(always)]
fn slot(key: u128, size: usize) -> usize {
    const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
    let product = u128::from(key as u64 ^ ODD[0]) * u128::from((key >> 64) as u64 ^ ODD[1]);
    (product as u64 ^ (product >> 64) as u64) as usize & (size - 1)
}
