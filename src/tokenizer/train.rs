//! The trainer: byte-pair encoding (Sennrich et al. 2016, <https://arxiv.org/abs/1508.07909>) over
//! GPT-2's pieces.
//!
//! Each round merges the pair with the highest count over all pieces, among equals the one with the
//! smaller (left id, right id). Ids: 0 is the end of text, then the bytes in the order of their
//! letters, then one for each merge whose result is new.
//!
//! Distinct pieces are laid out one after the other as linked lists of symbols. A pair knows its
//! count and the places where it was seen, so that a merge costs as much as it has occurrences,
//! however long the text. Counts are exact; the heap's entries are upper bounds of them, corrected
//! when they come up. The result does not depend on the order of pieces or the number of threads.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::pretokenizer::{PreTokenizer, chunks};
use super::{Added, BASE, END_OF_TEXT, Merge, Tokenizer, alphabet, pair_key};
use crate::error::{Error, Result};

/// Bytes of text that one thread cuts at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of documents that are cut together.
const BATCH_BYTES: usize = 16 << 20;
/// Pairs that occur less often are not merged.
const LEAST_COUNT: u64 = 2;
/// The place before the first symbol of a piece and after its last.
const END: u32 = u32::MAX;

impl Tokenizer {
    /// Trains on one document to a vocabulary of `vocab` ids: the end of text, the bytes, and
    /// `vocab` - 257 merges.
    ///
    /// A text in which no pair occurs twice any more supports no more merges: then
    /// [`vocab_size`](Tokenizer::vocab_size) is smaller than `vocab`.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::train(b"abab abab", 258)?;
    /// assert_eq!(tokenizer.vocab_size(), 258);
    /// assert_eq!(tokenizer.encode("abab"), [257, 257]);
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `vocab` is under 257, or the text is not UTF-8 (the error gives the place of the first
    /// wrong byte).
    pub fn train(text: &[u8], vocab: usize) -> Result<Tokenizer> {
        Tokenizer::train_documents([text], vocab)
    }

    /// Trains on several documents, which come one after the other; no piece goes over the end of a
    /// document.
    ///
    /// # Errors
    ///
    /// As [`train`](Tokenizer::train); the error for text that is not UTF-8 gives the document too,
    /// counted from 1.
    pub fn train_documents<D>(
        documents: impl IntoIterator<Item = D>,
        vocab: usize,
    ) -> Result<Tokenizer>
    where
        D: AsRef<[u8]> + Sync,
    {
        if vocab < BASE {
            return Err(Error::usage(format!("a vocabulary of {vocab} tokens is too small"))
                .hint(format!("{BASE} is the least: the end of text and the 256 bytes")));
        }
        let counts = count_pieces(documents)?;
        let base = Tokenizer::bytes();
        let mut tokens: Vec<Vec<u8>> =
            (0..BASE as u32).map(|id| base.token_bytes(id).unwrap_or_default().to_vec()).collect();
        let merges = Trainer::new(&counts, &base)?.merge(&mut tokens, vocab);
        let vocabulary = tokens.into_iter().enumerate().map(|(id, token)| (id as u32, token));
        Tokenizer::build(vocabulary.collect(), merges, base.added)
    }

    /// The tokenizer without merges: 257 ids, 0 for the end of text, then the bytes in the order of
    /// their letters. It is what training gives for a vocabulary of 257.
    pub fn bytes() -> Tokenizer {
        let bytes = alphabet::in_letter_order().map(|byte| vec![byte]);
        let tokens = std::iter::once(END_OF_TEXT.as_bytes().to_vec()).chain(bytes);
        let vocabulary = (0..).zip(tokens).collect();
        Tokenizer::build(vocabulary, Vec::new(), vec![Added::end_of_text(0)])
            .unwrap_or_else(|error| unreachable!("the bytes are a vocabulary: {error}"))
    }
}

/// How often each distinct piece occurs.
type Counts = FxHashMap<Box<[u8]>, u64>;

/// Cuts all documents and counts their pieces; only the distinct ones and one batch are kept in
/// memory.
fn count_pieces<D: AsRef<[u8]> + Sync>(documents: impl IntoIterator<Item = D>) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut documents = documents.into_iter();
    let mut number = 0;
    loop {
        let (mut batch, mut size) = (Vec::new(), 0);
        while size < BATCH_BYTES
            && let Some(document) = documents.next()
        {
            size += document.as_ref().len();
            batch.push(document);
        }
        if batch.is_empty() {
            return Ok(counts);
        }
        let mut texts = Vec::new();
        for document in &batch {
            number += 1;
            let text = str::from_utf8(document.as_ref()).map_err(|error| {
                let place = error.valid_up_to();
                Error::input(format!(
                    "document {number} is not UTF-8: the first wrong byte is at {place}"
                ))
                .hint("convert the text to UTF-8")
            })?;
            texts.extend(chunks(text, CHUNK_BYTES));
        }
        count_batch(&texts, &mut counts);
    }
}

/// Adds the pieces of `texts` to `counts`.
fn count_batch(texts: &[&str], counts: &mut Counts) {
    let parts: Vec<_> = texts.par_iter().copied().fold(FxHashMap::default, count_text).collect();
    for (piece, count) in parts.into_iter().flatten() {
        match counts.get_mut(piece) {
            Some(total) => *total += count,
            None => _ = counts.insert(piece.into(), count),
        }
    }
}

fn count_text<'a>(mut counts: FxHashMap<&'a [u8], u64>, text: &'a str) -> FxHashMap<&'a [u8], u64> {
    let (mut pieces, mut start, mut ends) = (PreTokenizer::GPT2.pieces(text), 0, [0; 64]);
    loop {
        let count = pieces.next_ends(&mut ends);
        for &end in &ends[..count] {
            *counts.entry(&text.as_bytes()[start..end]).or_insert(0) += 1;
            start = end;
        }
        if count == 0 {
            break;
        }
    }
    counts
}

/// A pair of neighbours.
#[derive(Default)]
struct Pair {
    /// How often it stands in the text now.
    count: u64,
    /// Where its left symbol stood when it arose, each place once; it may have gone since.
    places: Vec<u32>,
    /// The last round in which its count rose.
    rose: usize,
}

/// The symbols of all distinct pieces, and their pairs.
struct Trainer {
    /// By place: the id there; [`END`] once it was merged into the one before.
    symbols: Vec<u32>,
    /// By place: the neighbours' places, or [`END`].
    next: Vec<u32>,
    previous: Vec<u32>,
    /// By place: the piece that it belongs to.
    piece: Vec<u32>,
    /// By piece: how often it occurs.
    weights: Vec<u64>,
    pairs: FxHashMap<u64, Pair>,
    /// Counts, which may have fallen since, and the pairs' keys: the highest count, then the
    /// smallest key.
    heap: BinaryHeap<(u64, Reverse<u64>)>,
    /// The pairs whose count rose in this round.
    risen: Vec<u64>,
    round: usize,
}

impl Trainer {
    fn new(counts: &Counts, base: &Tokenizer) -> Result<Trainer> {
        let length: usize = counts.keys().map(|piece| piece.len()).sum();
        if length >= END as usize {
            return Err(Error::input(format!(
                "the distinct words of the text have {length} bytes"
            ))
            .hint("train on a part of the text: 4 GiB of distinct words are the limit"));
        }
        let mut trainer = Trainer {
            symbols: Vec::with_capacity(length),
            next: Vec::with_capacity(length),
            previous: Vec::with_capacity(length),
            piece: Vec::with_capacity(length),
            weights: Vec::with_capacity(counts.len()),
            pairs: FxHashMap::default(),
            heap: BinaryHeap::new(),
            risen: Vec::new(),
            round: 1,
        };
        for (piece, &weight) in counts {
            let (start, number) = (trainer.symbols.len() as u32, trainer.weights.len() as u32);
            let end = start + piece.len() as u32;
            trainer.weights.push(weight);
            for (place, &byte) in (start..end).zip(piece) {
                trainer.symbols.push(base.byte_ids[usize::from(byte)]);
                trainer.previous.push(if place == start { END } else { place - 1 });
                trainer.next.push(if place + 1 == end { END } else { place + 1 });
                trainer.piece.push(number);
            }
            for place in start..end.saturating_sub(1) {
                trainer.add(place);
            }
        }
        trainer.push_risen();
        Ok(trainer)
    }

    /// Merges until there are `vocab` tokens or no pair is frequent enough; appends the new tokens
    /// to `tokens`.
    fn merge(mut self, tokens: &mut Vec<Vec<u8>>, vocab: usize) -> Vec<Merge> {
        let mut ids: FxHashMap<Vec<u8>, u32> = tokens.iter().cloned().zip(0..).collect();
        let mut merges = Vec::new();
        while tokens.len() < vocab
            && let Some(key) = self.most_frequent()
        {
            let (left, right) = ((key >> 32) as u32, key as u32);
            let token = [tokens[left as usize].as_slice(), &tokens[right as usize]].concat();
            let result = *ids.entry(token).or_insert_with_key(|token| {
                tokens.push(token.clone());
                tokens.len() as u32 - 1
            });
            merges.push(Merge { left, right, result });
            self.replace(key, result);
        }
        merges
    }

    /// The pair to merge next.
    fn most_frequent(&mut self) -> Option<u64> {
        loop {
            let (count, Reverse(key)) = self.heap.pop()?;
            let now = self.pairs.get(&key).map_or(0, |pair| pair.count);
            if now == count {
                return Some(key);
            }
            if now >= LEAST_COUNT {
                self.heap.push((now, Reverse(key)));
            }
        }
    }

    /// Replaces every occurrence of the pair by `result`, from left to right.
    fn replace(&mut self, key: u64, result: u32) {
        let (left, right) = ((key >> 32) as u32, key as u32);
        let mut places = self.pairs.remove(&key).unwrap_or_default().places;
        if left == right {
            // Only the occurrences of such a pair overlap, so only here does their order matter.
            places.sort_unstable();
        }
        for place in places {
            let at = place as usize;
            let taken = self.next[at];
            if self.symbols[at] != left || taken == END || self.symbols[taken as usize] != right {
                continue;
            }
            let (before, after) = (self.previous[at], self.next[taken as usize]);
            self.subtract(before);
            self.subtract(taken);
            self.symbols[at] = result;
            self.symbols[taken as usize] = END;
            self.next[at] = after;
            if after != END {
                self.previous[after as usize] = place;
            }
            self.add(before);
            self.add(place);
        }
        self.push_risen();
        self.round += 1;
    }

    /// The key of the pair at `place` and the weight of its piece; `None` where there is no pair.
    fn pair_at(&self, place: u32) -> Option<(u64, u64)> {
        if place == END || self.next[place as usize] == END {
            return None;
        }
        let right = self.symbols[self.next[place as usize] as usize];
        let weight = self.weights[self.piece[place as usize] as usize];
        Some((pair_key(self.symbols[place as usize], right), weight))
    }

    /// Counts the pair at `place`.
    fn add(&mut self, place: u32) {
        let Some((key, weight)) = self.pair_at(place) else { return };
        let pair = self.pairs.entry(key).or_default();
        pair.count += weight;
        pair.places.push(place);
        if pair.rose != self.round {
            pair.rose = self.round;
            self.risen.push(key);
        }
    }

    /// Counts the pair at `place` no more; forgets a pair that is nowhere left. The pair being
    /// merged is forgotten already.
    fn subtract(&mut self, place: u32) {
        let Some((key, weight)) = self.pair_at(place) else { return };
        let Some(pair) = self.pairs.get_mut(&key) else { return };
        pair.count -= weight;
        if pair.count == 0 {
            self.pairs.remove(&key);
        }
    }

    /// Puts the pairs that rose into the heap.
    fn push_risen(&mut self) {
        for key in self.risen.drain(..) {
            let count = self.pairs.get(&key).map_or(0, |pair| pair.count);
            if count >= LEAST_COUNT {
                self.heap.push((count, Reverse(key)));
            }
        }
    }
}
