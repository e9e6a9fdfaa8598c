//! Merges one piece: of its neighbouring symbols the pair with the lowest rank, leftmost first, until none merges. At
//! first the symbols are the piece's letters: bytes, or the characters of a vocabulary that has such.
//!
//! - Up to [`SHORT`] letters: all places are searched for the best pair after each merge. This is O(n²), and the fastest
//!   for words.
//! - Longer pieces: stretches of that length are merged, and then their ends are corrected. This is O(n). It is exact
//!   for this reason: ids are the encoding of their letters if and only if every two neighbours are the encoding of
//!   theirs. (Merges within two neighbours happen in the same order in any context, as long as none crosses their ends;
//!   and the first merge that would cross an end is detected from these two alone.)
//! - With a heap, in O(n log n): the remaining cases, in which more than [`FAR`] letters change at the ends of two
//!   stretches, or a token's letters are not those of its merged parts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::bpe::Tokenizer;
use super::ranks::NONE;

/// The longest piece, in letters, that is merged by searching all places.
const SHORT: usize = 64;
/// The maximum number of letters merged again around the end of a stretch; beyond it a heap merges the whole piece.
const FAR: usize = 1024;
/// With more merges than this, a rank and a place do not fit into a key of [`Short`].
const MOST_MERGES: usize = u32::MAX as usize / SHORT;

/// What a piece has before anything is merged: a byte, or the token of a character.
pub(super) trait Letter: Copy + Default + PartialEq {
    /// Returns the letter's token.
    fn token(self, tokenizer: &Tokenizer) -> u32;

    /// Returns the rank of two letters' tokens.
    fn rank(tokenizer: &Tokenizer, left: Self, right: Self) -> u32;

    /// Returns the letters of a token.
    fn of(tokenizer: &Tokenizer, id: u32) -> &[Self];
}

impl Letter for u8 {
    #[inline(always)]
    fn token(self, tokenizer: &Tokenizer) -> u32 {
        tokenizer.byte_ids[usize::from(self)]
    }

    #[inline(always)]
    fn rank(tokenizer: &Tokenizer, left: u8, right: u8) -> u32 {
        tokenizer.byte_rank(left, right)
    }

    #[inline(always)]
    fn of(tokenizer: &Tokenizer, id: u32) -> &[u8] {
        tokenizer.token_bytes(id).unwrap_or_default()
    }
}

impl Letter for u32 {
    #[inline(always)]
    fn token(self, _: &Tokenizer) -> u32 {
        self
    }

    #[inline(always)]
    fn rank(tokenizer: &Tokenizer, left: u32, right: u32) -> u32 {
        tokenizer.rank(left, right)
    }

    #[inline(always)]
    fn of(tokenizer: &Tokenizer, id: u32) -> &[u32] {
        tokenizer.characters.as_ref().map_or(&[], |characters| characters.letters_of(id))
    }
}

/// Buffers for merging.
#[derive(Default)]
pub(super) struct Merger<L> {
    /// A stretch of a long piece and its ids, since the next stretch is often the same.
    stretch: (Vec<L>, Vec<u32>),
    /// The last two ids that were checked, and the result.
    last: Option<([u32; 2], bool)>,
    /// The ids around a seam, and their letters.
    seam: Vec<u32>,
    letters: Vec<L>,
}

impl<L: Letter> Merger<L> {
    /// Appends the ids of `piece`, which has at least one letter, to `ids`.
    pub(super) fn merge(&mut self, tokenizer: &Tokenizer, piece: &[L], ids: &mut Vec<u32>) {
        if tokenizer.merges.len() > MOST_MERGES {
            merge_by_heap(tokenizer, piece, ids);
        } else if piece.len() <= SHORT {
            ids.extend(Short::merge(tokenizer, piece).ids());
        } else {
            let start = ids.len();
            if !tokenizer.merges_join || !self.merge_by_stretches(tokenizer, piece, ids) {
                ids.truncate(start);
                merge_by_heap(tokenizer, piece, ids);
            }
        }
    }

    /// Merges a long piece by stretches; returns false if more than [`FAR`] bytes change at one of their ends.
    fn merge_by_stretches(
        &mut self,
        tokenizer: &Tokenizer,
        piece: &[L],
        ids: &mut Vec<u32>,
    ) -> bool {
        let start = ids.len();
        let mut stretch = std::mem::take(&mut self.stretch);
        let fit = piece.chunks(SHORT).all(|letters| {
            if stretch.0 != letters {
                stretch = (letters.to_vec(), Short::merge(tokenizer, letters).ids().collect());
            }
            self.join(tokenizer, start, ids, &stretch.1)
        });
        self.stretch = stretch;
        fit
    }

    /// Appends `right` to `ids[start..]`, both encodings of their letters, so that the result is one too: as many ids as
    /// necessary are merged again around the seam. Returns false if they have more than [`FAR`] letters.
    fn join(
        &mut self,
        tokenizer: &Tokenizer,
        start: usize,
        ids: &mut Vec<u32>,
        right: &[u32],
    ) -> bool {
        // The number of ids on either side of the seam that are merged again.
        let (mut before, mut after) = (0, 0);
        self.seam.clear();
        loop {
            let left = &ids[start..ids.len() - before];
            let rest = &right[after..];
            let (first, last) =
                (self.seam.first().or(rest.first()), self.seam.last().or(left.last()));
            let pairs = [(left.last(), first), (last, rest.first())];
            let [begins, ends] = pairs.map(|pair| match pair {
                (Some(&one), Some(&other)) => fits::<L>(tokenizer, &mut self.last, [one, other]),
                _ => true,
            });
            if begins && ends {
                ids.truncate(ids.len() - before);
                ids.extend_from_slice(&self.seam);
                ids.extend_from_slice(&right[after..]);
                return true;
            }
            // Each side that does not fit is extended to twice as many ids.
            let more = |taken: usize, most: usize| (2 * taken).max(1).min(most);
            if before == 0 || !begins {
                before = more(before, ids.len() - start);
            }
            if after == 0 || !ends {
                after = more(after, right.len());
            }
            self.letters.clear();
            for &id in ids[ids.len() - before..].iter().chain(&right[..after]) {
                self.letters.extend_from_slice(L::of(tokenizer, id));
            }
            if self.letters.len() > FAR {
                return false;
            }
            self.seam.clear();
            if self.letters.len() <= SHORT {
                self.seam.extend(Short::merge(tokenizer, &self.letters).ids());
            } else {
                merge_by_heap(tokenizer, &self.letters, &mut self.seam);
            }
        }
    }
}

/// Like [`fit`], but reuses the result if the same pair was checked last.
fn fits<L: Letter>(
    tokenizer: &Tokenizer,
    last: &mut Option<([u32; 2], bool)>,
    pair: [u32; 2],
) -> bool {
    match *last {
        Some((asked, fits)) if asked == pair => fits,
        _ => last.insert((pair, fit::<L>(tokenizer, pair[0], pair[1]))).1,
    }
}

/// Whether two ids are the encoding of their letters.
fn fit<L: Letter>(tokenizer: &Tokenizer, one: u32, other: u32) -> bool {
    let (left, right) = (L::of(tokenizer, one), L::of(tokenizer, other));
    let length = left.len() + right.len();
    if length <= SHORT {
        let mut both = [L::default(); SHORT];
        both[..left.len()].copy_from_slice(left);
        both[left.len()..length].copy_from_slice(right);
        return Short::merge(tokenizer, &both[..length]).ids().eq([one, other]);
    }
    let mut ids = Vec::new();
    merge_by_heap(tokenizer, &[left, right].concat(), &mut ids);
    ids == [one, other]
}

/// A piece of at most [`SHORT`] letters as a list of symbols, each at the place of its first letter.
struct Short {
    symbols: [u32; SHORT],
    /// By place: the rank of the pair that begins there times [`SHORT`], plus the place; [`NONE`] if it does not merge.
    /// The smallest key therefore belongs to the pair with the lowest rank, and among equals to the leftmost.
    keys: [u32; SHORT],
    /// By place: the places of the next and the previous symbol.
    next: [u8; SHORT],
    previous: [u8; SHORT],
    length: usize,
}

impl Short {
    fn merge<L: Letter>(tokenizer: &Tokenizer, piece: &[L]) -> Short {
        let mut short = Short {
            symbols: [0; SHORT],
            keys: [NONE; SHORT],
            next: std::array::from_fn(|place| place as u8 + 1),
            previous: std::array::from_fn(|place| (place as u8).wrapping_sub(1)),
            length: piece.len(),
        };
        for (symbol, letter) in short.symbols.iter_mut().zip(piece) {
            *symbol = letter.token(tokenizer);
        }
        for place in 1..piece.len() {
            short.keys[place - 1] =
                key(L::rank(tokenizer, piece[place - 1], piece[place]), place - 1);
        }
        while let Some(place) = short.lowest() {
            short.take_in(tokenizer, place);
        }
        short
    }

    /// Returns the place of the pair to merge next.
    #[inline]
    fn lowest(&self) -> Option<usize> {
        // Searches whole groups of eight, whose minimum takes a few instructions.
        let groups = self.length.div_ceil(8);
        let mut lowest = [NONE; 8];
        for group in &self.keys.as_chunks::<8>().0[..groups] {
            for (lowest, &key) in lowest.iter_mut().zip(group) {
                *lowest = key.min(*lowest);
            }
        }
        let key = lowest.into_iter().min().unwrap_or(NONE);
        (key != NONE).then_some(key as usize % SHORT)
    }

    /// Merges the pair at `place`.
    #[inline]
    fn take_in(&mut self, tokenizer: &Tokenizer, place: usize) {
        let rank = self.keys[place] as usize / SHORT;
        let taken = usize::from(self.next[place]) % SHORT;
        let after = usize::from(self.next[taken]);
        self.symbols[place] = tokenizer.merges[rank].result;
        self.next[place] = after as u8;
        self.keys[taken] = NONE;
        self.keys[place] = NONE;
        if after < self.length {
            self.previous[after] = place as u8;
            let rank = tokenizer.rank(self.symbols[place], self.symbols[after]);
            self.keys[place] = key(rank, place);
        }
        let before = usize::from(self.previous[place]);
        if before < SHORT {
            let rank = tokenizer.rank(self.symbols[before], self.symbols[place]);
            self.keys[before] = key(rank, before);
        }
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        let mut place = 0;
        std::iter::from_fn(move || {
            let symbol = *self.symbols[..self.length].get(place)?;
            place = usize::from(self.next[place]);
            Some(symbol)
        })
    }
}

/// Returns the key by which the pair at `place` is compared.
fn key(rank: u32, place: usize) -> u32 {
    if rank == NONE { NONE } else { rank * SHORT as u32 + place as u32 }
}

/// Appends the ids of `piece`, merged with a heap of pairs and a linked list of symbols in O(n log n).
fn merge_by_heap<L: Letter>(tokenizer: &Tokenizer, piece: &[L], ids: &mut Vec<u32>) {
    let end = piece.len();
    let mut symbols: Vec<u32> = piece.iter().map(|letter| letter.token(tokenizer)).collect();
    let mut next: Vec<usize> = (1..=end).collect();
    let mut previous: Vec<usize> = (0..end).map(|i| i.wrapping_sub(1)).collect();
    // The rank of the pair that begins at each symbol.
    let mut ranks: Vec<u32> =
        symbols.windows(2).map(|pair| tokenizer.rank(pair[0], pair[1])).collect();
    ranks.push(NONE);
    let ranked = ranks.iter().enumerate().filter(|(_, rank)| **rank != NONE);
    let mut heap: BinaryHeap<Reverse<(u32, usize)>> =
        ranked.map(|(i, &rank)| Reverse((rank, i))).collect();
    while let Some(Reverse((rank, i))) = heap.pop() {
        // If the pair's symbols have changed since, its rank there is another one or none.
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
    ids.extend(symbols.into_iter().filter(|&symbol| symbol != NONE));
}
