//! Text to ids: pieces, whose pairs are merged lowest rank first, leftmost first among equals.
//!
//! A piece that was seen before is copied from where its ids already stand in the output. Of the
//! others, short ones are merged by looking for the best pair again after each merge; long ones
//! with a heap, in O(n log n). Long texts are cut into chunks that are encoded in parallel; the ids
//! do not depend on the chunks or the threads.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::pieces::{chunks, pieces};
use super::{Added, Tokenizer, pair_key};

/// Bytes of text that one thread encodes at a time: enough that most words are repetitions.
const CHUNK_BYTES: usize = 512 << 10;
/// Pieces up to this many bytes are remembered.
const REMEMBERED_BYTES: usize = 64;
/// Pieces of more symbols than this are merged with a heap.
const SHORT: usize = 48;
/// The rank of a pair that does not merge, and the symbol that another one has taken in; no id is
/// so large.
const NONE: u32 = u32::MAX;

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
        self.encode_parts(&parts(text, None).collect::<Vec<_>>())
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
        let parts = documents.into_iter().flat_map(|document| parts(document, end));
        self.encode_parts(&parts.collect::<Vec<_>>())
    }

    /// The ids of `text`, in which the added tokens (`<|endoftext|>` and others of the tokenizer)
    /// stand for their own ids. Where several begin at one place, the longest is taken.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// assert_eq!(tokenizer.encode_with_special("!<|endoftext|>!"), [1, 0, 1]);
    /// ```
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut all = Vec::new();
        let mut finder = Finder::new(&self.added, text);
        let mut at = 0;
        while let Some((start, added)) = finder.next_from(at) {
            all.extend(parts(&text[at..start], Some(added.id)));
            at = start + added.content.len();
        }
        all.extend(parts(&text[at..], None));
        self.encode_parts(&all)
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
        let encode = |group: &&[Part<'_>]| Encoder::new(self).encode(group);
        match groups.as_slice() {
            [group] => encode(group),
            groups => groups.par_iter().map(encode).collect::<Vec<_>>().concat(),
        }
    }

    /// The rank of the pair in the order of merges, or [`NONE`].
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.get(&pair_key(left, right)).copied().unwrap_or(NONE)
    }
}

/// A stretch of text whose pieces do not depend on what surrounds it, and the special token after
/// it.
struct Part<'a> {
    text: &'a str,
    then: Option<u32>,
}

/// Cuts `text` for the threads; `then` follows the last part.
fn parts(text: &str, then: Option<u32>) -> impl Iterator<Item = Part<'_>> {
    let chunks = chunks(text, CHUNK_BYTES).into_iter().map(|text| Part { text, then: None });
    chunks.chain(then.map(|id| Part { text: "", then: Some(id) }))
}

/// Finds added tokens in a text; each is searched for once, not again for every other that is
/// found.
struct Finder<'a> {
    text: &'a str,
    /// Each token and its next occurrence.
    next: Vec<(usize, &'a Added)>,
}

impl<'a> Finder<'a> {
    fn new(added: &'a [Added], text: &'a str) -> Finder<'a> {
        let occurrence = |added: &'a Added| Some((text.find(&added.content)?, added));
        Finder { text, next: added.iter().filter_map(occurrence).collect() }
    }

    /// The first token at or after byte `at`, and its place.
    fn next_from(&mut self, at: usize) -> Option<(usize, &'a Added)> {
        let text = self.text;
        self.next.retain_mut(|(place, added)| {
            if *place >= at {
                return true;
            }
            let found = text[at..].find(&added.content);
            *place = at + found.unwrap_or(0);
            found.is_some()
        });
        self.next
            .iter()
            .copied()
            .min_by_key(|(place, added)| (*place, Reverse(added.content.len())))
    }
}

/// What one thread needs to encode texts: reused buffers.
struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    symbols: Vec<u32>,
    /// `ranks[i]`: of the pair that begins at symbol `i`.
    ranks: Vec<u32>,
}

impl<'t> Encoder<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Encoder<'t> {
        Encoder { tokenizer, symbols: Vec::new(), ranks: Vec::new() }
    }

    fn encode(&mut self, parts: &[Part<'_>]) -> Vec<u32> {
        let bytes: usize = parts.iter().map(|part| part.text.len()).sum();
        let mut ids: Vec<u32> = Vec::with_capacity(bytes / 3 + parts.len());
        // Where in `ids` a piece was encoded before: its place and its length.
        let mut seen: FxHashMap<&[u8], (usize, usize)> = FxHashMap::default();
        for part in parts {
            for piece in pieces(part.text) {
                self.encode_piece(piece, &mut seen, &mut ids);
            }
            ids.extend(part.then);
        }
        ids
    }

    /// Appends the ids of one piece: a copy, if it was seen before.
    fn encode_piece<'a>(
        &mut self,
        piece: &'a [u8],
        seen: &mut FxHashMap<&'a [u8], (usize, usize)>,
        ids: &mut Vec<u32>,
    ) {
        if let [byte] = piece {
            ids.push(self.tokenizer.byte_ids[usize::from(*byte)]);
        } else if piece.len() > REMEMBERED_BYTES {
            self.merge(piece, ids);
        } else if let Some(&(start, length)) = seen.get(piece) {
            ids.extend_from_within(start..start + length);
        } else {
            let start = ids.len();
            self.merge(piece, ids);
            seen.insert(piece, (start, ids.len() - start));
        }
    }

    /// Appends the ids of one piece by merging.
    fn merge(&mut self, piece: &[u8], ids: &mut Vec<u32>) {
        let tokenizer = self.tokenizer;
        self.symbols.clear();
        self.symbols.extend(piece.iter().map(|&byte| tokenizer.byte_ids[usize::from(byte)]));
        self.ranks.clear();
        self.ranks.extend(self.symbols.windows(2).map(|pair| tokenizer.rank(pair[0], pair[1])));
        self.ranks.push(NONE);
        if piece.len() <= SHORT {
            self.merge_short()
        } else {
            self.merge_long()
        }
        ids.extend_from_slice(&self.symbols);
    }

    /// Merges by looking through all pairs for the best: O(n²), the fastest for the few symbols of
    /// a word.
    fn merge_short(&mut self) {
        let (tokenizer, symbols, ranks) = (self.tokenizer, &mut self.symbols, &mut self.ranks);
        while let Some((i, &rank)) = ranks.iter().enumerate().min_by_key(|(_, rank)| **rank)
            && rank != NONE
        {
            symbols[i] = tokenizer.merges[rank as usize].result;
            symbols.remove(i + 1);
            ranks.remove(i + 1);
            let following = symbols.get(i + 1);
            ranks[i] = following.map_or(NONE, |&right| tokenizer.rank(symbols[i], right));
            if i > 0 {
                ranks[i - 1] = tokenizer.rank(symbols[i - 1], symbols[i]);
            }
        }
    }

    /// Merges with a heap of pairs and a linked list of symbols: O(n log n).
    fn merge_long(&mut self) {
        let (tokenizer, symbols, ranks) = (self.tokenizer, &mut self.symbols, &mut self.ranks);
        let end = symbols.len();
        let mut next: Vec<usize> = (1..=end).collect();
        let mut previous: Vec<usize> = (0..end).map(|i| i.wrapping_sub(1)).collect();
        let ranked = ranks.iter().enumerate().filter(|(_, rank)| **rank != NONE);
        let mut heap: BinaryHeap<Reverse<(u32, usize)>> =
            ranked.map(|(i, &rank)| Reverse((rank, i))).collect();
        while let Some(Reverse((rank, i))) = heap.pop() {
            // A pair whose symbols have changed since has another rank there, or none.
            if ranks[i] != rank {
                continue;
            }
            let taken = next[i];
            symbols[i] = tokenizer.merges[rank as usize].result;
            (symbols[taken], ranks[taken]) = (NONE, NONE);
            next[i] = next[taken];
            if next[i] < end {
                previous[next[i]] = i;
            }
            for left in [previous[i], i] {
                let Some(right) = next.get(left).copied() else { continue };
                ranks[left] =
                    if right < end { tokenizer.rank(symbols[left], symbols[right]) } else { NONE };
                if ranks[left] != NONE {
                    heap.push(Reverse((ranks[left], left)));
                }
            }
        }
        symbols.retain(|&symbol| symbol != NONE);
    }
}
