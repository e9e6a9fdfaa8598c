//! Counts distinct pieces in bounded memory.
//!
//! Threads take chunks of a batch of texts in turn and count into their own tables. They pass the counts on to shards,
//! chosen by a piece's hash. A shard stores its data in two blocks of memory: the concatenated bytes of its pieces, and
//! a table of the places where they begin.
//!
//! If the pieces cost more than the limit after a batch is counted, the rarest are dropped until the others cost
//! half of the limit: all pieces below some count, and those of that count with the largest hashes. Of equally rare
//! words, a random sample is therefore kept, always the same one. Batches and hashes are the same on every machine, and
//! so are the kept pieces.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;
// Good in all 64 bits and the same on every machine: the pieces that are kept if memory is short depend on it.
use xxhash_rust::xxh3::xxh3_64;

use super::super::places::Places;
use super::super::pretokenizer::PreTokenizer;

/// The number of bytes of text between two checks of the memory.
pub(super) const BATCH_BYTES: usize = 16 << 20;
/// The number of bytes of text that one thread cuts at a time.
const CHUNK_BYTES: usize = 128 << 10;
/// The number of pieces that all threads together hold before they pass them on.
const HELD_PIECES: usize = 1 << 20;
/// The most pieces that one of many threads, and one of a few, holds: 7/8 of a power of two fill a table.
const HELD_BY_ONE: [usize; 2] = [7 << 9, 7 << 13];
const SHARDS: usize = 64;
/// Pieces longer than this are not used for training, so that offsets have 32 bits.
const LONGEST_PIECE: usize = 1 << 30;
/// There are fewer distinct bytes and pieces than this after each batch, so that the indices of all cells of the
/// merger, and of the next batch's additions, have 32 bits.
const MOST_CELLS: u64 = 1 << 31;

/// The cost of a distinct piece besides its bytes, in bytes of memory: its entry in a table that has just doubled, the
/// offsets, a cell and pairs of its ends.
pub(super) const PIECE_COST: u64 = 48;
/// The cost of a distinct byte, in bytes of memory: its place among the keys, its cell, the places of its pairs, and
/// those of the pairs that arise from them.
pub(super) const BYTE_COST: u64 = 24;

/// The pieces that were dropped to limit memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Distinct pieces that were dropped; a piece that occurred again and was dropped again counts twice.
    pub pieces: u64,
    /// Bytes of text in them.
    pub bytes: u64,
    /// The maximum number of occurrences that may be missing from a piece's count.
    pub short_by: u64,
}

/// The counts of all pieces so far.
pub(super) struct Counter {
    shards: Vec<Mutex<Shard>>,
    /// The maximum cost of the pieces, in bytes of memory.
    limit: u64,
    dropped: Dropped,
}

impl Counter {
    /// Returns a counter whose pieces cost at most `limit` bytes of memory, here and in the merger, after each batch.
    pub(super) fn new(limit: u64) -> Counter {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Counter { shards, limit, dropped: Dropped::default() }
    }

    /// Counts the pieces of separate texts.
    pub(super) fn count<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        let chunks = |text| Places::GPT2.chunks(text, CHUNK_BYTES);
        let all: Vec<&str> = texts.into_iter().flat_map(chunks).collect();
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let full = rest.iter().position(|text| {
                bytes += text.len();
                bytes >= BATCH_BYTES
            });
            let (batch, after) = rest.split_at(full.map_or(rest.len(), |last| last + 1));
            self.count_batch(batch);
            self.trim();
            rest = after;
        }
    }

    fn count_batch(&mut self, texts: &[&str]) {
        let next = AtomicUsize::new(0);
        let threads = rayon::current_num_threads();
        let most = HELD_PIECES / threads;
        let most = if most < HELD_BY_ONE[1] { HELD_BY_ONE[0] } else { HELD_BY_ONE[1] };
        (0..threads.min(texts.len())).into_par_iter().with_max_len(1).for_each(|_| {
            let mut held = Held::new(most);
            while let Some(text) = texts.get(next.fetch_add(1, Relaxed)) {
                PreTokenizer::GPT2.for_each_piece(text, |piece| held.add(piece, &self.shards));
            }
            held.hand_on(&self.shards);
        });
    }

    /// Drops the rarest pieces if the total cost exceeds the limit.
    fn trim(&mut self) {
        let limit = self.limit.min(MOST_CELLS * BYTE_COST);
        if self.shards.iter_mut().map(|shard| known(shard).cost()).sum::<u64>() <= limit {
            return;
        }
        let costs = self.shards.par_iter_mut().map(|shard| known(shard).cost_by_count());
        let costs = costs.reduce(BTreeMap::new, |mut all, some| {
            some.into_iter().for_each(|(count, cost)| *all.entry(count).or_default() += cost);
            all
        });
        let mut room = limit / 2;
        let Some(count) = first_without_room(costs.into_iter().rev(), &mut room) else { return };
        let costs = self.shards.par_iter_mut().map(|shard| known(shard).cost_by_hash(count));
        let costs = costs.reduce(
            || vec![0; HASHES],
            |all, some| all.iter().zip(&some).map(|(a, b)| a + b).collect(),
        );
        let hash = first_without_room(costs.into_iter().enumerate(), &mut room).unwrap_or(HASHES);
        let dropped = self.shards.par_iter_mut().map(|shard| known(shard).keep(count, hash));
        let (pieces, bytes) = dropped.reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        self.dropped.pieces += pieces;
        self.dropped.bytes += bytes;
        self.dropped.short_by += count;
    }

    /// Returns the counts, and the dropped pieces.
    pub(super) fn finish(self) -> (Counts, Dropped) {
        let shards = self.shards.into_iter();
        let shards = shards.map(|shard| shard.into_inner().unwrap_or_else(PoisonError::into_inner));
        (Counts { shards: shards.collect() }, self.dropped)
    }
}

/// Returns a shard that no other thread is using.
fn known(shard: &mut Mutex<Shard>) -> &mut Shard {
    shard.get_mut().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the first class of pieces whose cost exceeds the rest of `room` after the previous classes.
fn first_without_room<K>(costs: impl Iterator<Item = (K, u64)>, room: &mut u64) -> Option<K> {
    for (class, cost) in costs {
        match room.checked_sub(cost) {
            Some(left) => *room = left,
            None => return Some(class),
        }
    }
    None
}

/// The number of occurrences of each distinct piece.
pub(super) struct Counts {
    shards: Vec<Shard>,
}

impl Counts {
    /// Returns each distinct piece and its count, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.shards.iter().flat_map(|shard| {
            shard.table.iter().map(|entry| (entry.piece(&shard.keys), entry.count))
        })
    }

    /// Returns the number of distinct pieces.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.len()).sum()
    }
}

#[cfg(test)]
impl FromIterator<(&'static str, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (&'static str, u64)>>(counts: I) -> Counts {
        let mut shard = Shard::default();
        for (piece, count) in counts {
            shard.add(xxh3_64(piece.as_bytes()), piece.as_bytes(), count);
        }
        Counts { shards: vec![shard] }
    }
}

/// A piece of the batch in one thread's table.
struct Seen<'a> {
    hash: u64,
    piece: &'a [u8],
    count: u64,
}

/// The pieces that one thread has counted since it last passed them on.
struct Held<'a> {
    table: HashTable<Seen<'a>>,
    /// The maximum number of pieces in the table.
    most: usize,
    /// By shard: the pieces that go there.
    sorted: Vec<Vec<Seen<'a>>>,
}

impl<'a> Held<'a> {
    fn new(most: usize) -> Held<'a> {
        let sorted = (0..SHARDS).map(|_| Vec::new()).collect();
        Held { table: HashTable::with_capacity(most), most, sorted }
    }

    /// Counts one occurrence of a piece. A piece of a single byte has no pairs and is ignored.
    fn add(&mut self, piece: &'a [u8], shards: &[Mutex<Shard>]) {
        if !(2..=LONGEST_PIECE).contains(&piece.len()) {
            return;
        }
        let hash = xxh3_64(piece);
        let same = |seen: &Seen<'_>| seen.hash == hash && seen.piece == piece;
        match self.table.entry(hash, same, |seen| seen.hash) {
            Entry::Occupied(mut seen) => seen.get_mut().count += 1,
            Entry::Vacant(free) => {
                free.insert(Seen { hash, piece, count: 1 });
                if self.table.len() == self.most {
                    self.hand_on(shards);
                }
            }
        }
    }

    fn hand_on(&mut self, shards: &[Mutex<Shard>]) {
        for seen in self.table.drain() {
            self.sorted[shard_of(seen.hash)].push(seen);
        }
        for (shard, pieces) in shards.iter().zip(&mut self.sorted) {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for seen in pieces.drain(..) {
                shard.add(seen.hash, seen.piece, seen.count);
            }
        }
    }
}

/// Returns the shard of a piece, from bits of its hash that are not used by tables and thresholds.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

/// The number of classes of hashes, by their highest bits. They decide which pieces of the same count are kept.
const HASHES: usize = 1 << 12;

fn class_of(hash: u64) -> usize {
    (hash >> 52) as usize
}

/// A distinct piece: where it begins among the keys, its length, and how often it occurs.
struct Counted {
    start: u32,
    length: u32,
    count: u64,
}

impl Counted {
    fn piece<'k>(&self, keys: &'k [u8]) -> &'k [u8] {
        &keys[self.start as usize..][..self.length as usize]
    }

    fn cost(&self) -> u64 {
        PIECE_COST + BYTE_COST * u64::from(self.length)
    }
}

/// The counts of the pieces whose hashes belong to this shard.
#[derive(Default)]
struct Shard {
    table: HashTable<Counted>,
    /// The bytes of all pieces.
    keys: Vec<u8>,
}

impl Shard {
    fn add(&mut self, hash: u64, piece: &[u8], count: u64) {
        let Shard { table, keys } = self;
        let same = |known: &Counted| known.piece(keys) == piece;
        let rehash = |known: &Counted| xxh3_64(known.piece(keys));
        match table.entry(hash, same, rehash) {
            Entry::Occupied(mut known) => known.get_mut().count += count,
            Entry::Vacant(free) => {
                let (start, length) = (keys.len() as u32, piece.len() as u32);
                free.insert(Counted { start, length, count });
                keys.extend_from_slice(piece);
            }
        }
    }

    fn cost(&self) -> u64 {
        PIECE_COST * self.table.len() as u64 + BYTE_COST * self.keys.len() as u64
    }

    fn cost_by_count(&self) -> BTreeMap<u64, u64> {
        let mut costs = BTreeMap::new();
        for known in &self.table {
            *costs.entry(known.count).or_default() += known.cost();
        }
        costs
    }

    /// Returns the cost of the pieces with one count, by the class of their hashes.
    fn cost_by_hash(&self, count: u64) -> Vec<u64> {
        let mut costs = vec![0; HASHES];
        for known in self.table.iter().filter(|known| known.count == count) {
            costs[class_of(xxh3_64(known.piece(&self.keys)))] += known.cost();
        }
        costs
    }

    /// Keeps the pieces with counts above `count`, and those with `count` whose hashes are in classes below `class`.
    /// Returns the number of the other pieces and the bytes of text in them.
    fn keep(&mut self, count: u64, class: usize) -> (u64, u64) {
        let mut dropped = (0, 0);
        let mut kept = Vec::new();
        let keys = &self.keys;
        self.table.retain(|known| {
            let piece = known.piece(keys);
            let keep =
                known.count > count || (known.count == count && class_of(xxh3_64(piece)) < class);
            if keep {
                known.start = kept.len() as u32;
                kept.extend_from_slice(piece);
            } else {
                dropped.0 += 1;
                dropped.1 += known.count * u64::from(known.length);
            }
            keep
        });
        self.keys = kept;
        dropped
    }
}
