//! Finds the merges from counts of pieces.
//!
//! All distinct pieces are stored one after the other in an array with a cell for each byte. A token writes its id into
//! its first and its last cell, so the next token begins its length after its place, and the previous token ends in the
//! cell before it. Pieces with the same count are stored together, so a few numbers give the count of every place.
//!
//! A pair stores its count and the places where it was seen: the cost of a merge is proportional to the pair's
//! occurrences, independent of the text's length. Counts are exact; the heap's entries are upper bounds, corrected when
//! they come up.
//!
//! Occurrences of a pair of equal tokens overlap, so they must be replaced from left to right: places have to be in
//! order. They always are. The places of the first pairs are found in order; and all places of any other pair come from
//! the one merge that makes the later of its tokens, which processes its own places in order. It is a single merge for
//! this reason: in any context of a token's bytes, no merge that makes the token crosses their ends, so within them
//! each merge has the same effect as when they stand alone (a run of equal tokens that begins before them has an even
//! number there, or a pair would cross their beginning). The bytes of a token are therefore always merged in the same
//! way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rustc_hash::FxHashMap;

use super::super::token::Merge;
use super::count::Counts;

/// Pairs with fewer occurrences are not merged.
const LEAST_COUNT: u64 = 2;
/// The value of the cell between two pieces, and of one inside a token.
const NONE: u32 = u32::MAX;

/// Returns a pair of ids as one number that sorts like the pair.
fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// A pair of neighbours.
#[derive(Default)]
struct Pair {
    /// The current number of its occurrences in the text.
    count: u64,
    /// The places where it was seen, in order and without duplicates; it may no longer be there.
    places: Box<[u32]>,
}

/// All distinct pieces and their pairs.
pub(super) struct Merger {
    /// The bytes of each token.
    tokens: Vec<Vec<u8>>,
    cells: Vec<u32>,
    weights: Weights,
    /// By id: the pairs of the token with itself and those made before it, by [`pair_key`].
    pairs: Vec<FxHashMap<u64, Pair>>,
    /// Counts and keys of the pairs with counts of at least `floor`, ordered by the highest count, then the smallest
    /// key. The counts may have fallen since.
    heap: BinaryHeap<(u64, Reverse<u64>)>,
    /// The lowest count in the heap.
    floor: u64,
    /// The changes of a merge to the pairs whose right symbol is its result, by their left symbol.
    before: Changes,
    /// The changes of a merge to the pairs whose left symbol is its result, by their right symbol.
    after: Changes,
}

impl Merger {
    /// Lays out the pieces as ids of `tokens`. The tokens of a single byte stand for the byte.
    pub(super) fn new(counts: Counts, tokens: Vec<Vec<u8>>) -> Merger {
        let mut ids = [NONE; 256];
        for (token, id) in tokens.iter().zip(0..) {
            if let [byte] = token.as_slice() {
                ids[usize::from(*byte)] = id;
            }
        }
        let (cells, weights) = lay_out(counts, &ids);
        let mut merger = Merger {
            pairs: tokens.iter().map(|_| FxHashMap::default()).collect(),
            tokens,
            cells,
            weights,
            heap: BinaryHeap::new(),
            floor: u64::MAX,
            before: Changes::default(),
            after: Changes::default(),
        };
        merger.find_first_pairs(&ids);
        merger
    }

    /// Finds the initial pairs, which are pairs of bytes.
    fn find_first_pairs(&mut self, ids: &[u32; 256]) {
        let mut bytes = vec![0; self.tokens.len()];
        ids.iter().enumerate().for_each(|(byte, id)| bytes[*id as usize] = byte);
        let slot = |left: u32, right: u32| bytes[left as usize] << 8 | bytes[right as usize];
        let mut found = vec![(0, 0); 1 << 16];
        for (cells, weight) in self.weights.of_runs(&self.cells) {
            for pair in cells.windows(2) {
                if pair[0] != NONE && pair[1] != NONE {
                    let (count, number) = &mut found[slot(pair[0], pair[1])];
                    (*count, *number) = (*count + weight, *number + 1);
                }
            }
        }
        let mut places: Vec<Vec<u32>> =
            found.iter().map(|(_, number)| Vec::with_capacity(*number)).collect();
        for (pair, place) in self.cells.windows(2).zip(0..) {
            if pair[0] != NONE && pair[1] != NONE {
                places[slot(pair[0], pair[1])].push(place);
            }
        }
        for ((slot, (count, number)), places) in found.into_iter().enumerate().zip(places) {
            if number > 0 {
                let (left, right) = (ids[slot >> 8], ids[slot & 0xff]);
                let pair = Pair { count, places: places.into_boxed_slice() };
                self.pairs[left.max(right) as usize].insert(pair_key(left, right), pair);
            }
        }
    }

    /// Merges until there are `vocab` tokens or no pair is frequent enough; returns all tokens and the merges. Reports
    /// each new number of tokens.
    pub(super) fn merge(
        mut self,
        vocab: usize,
        on_token: &mut dyn FnMut(usize),
    ) -> (Vec<Vec<u8>>, Vec<Merge>) {
        let mut ids: FxHashMap<Vec<u8>, u32> = self.tokens.iter().cloned().zip(0..).collect();
        let mut merges = Vec::new();
        while self.tokens.len() < vocab
            && let Some(key) = self.most_frequent()
        {
            let (left, right) = ((key >> 32) as u32, key as u32);
            let token = [&self.tokens[left as usize][..], &self.tokens[right as usize]].concat();
            let result = *ids.entry(token).or_insert_with_key(|token| {
                self.tokens.push(token.clone());
                self.pairs.push(FxHashMap::default());
                on_token(self.tokens.len());
                self.tokens.len() as u32 - 1
            });
            let merge = Merge { left, right, result };
            self.replace(&merge);
            merges.push(merge);
        }
        (self.tokens, merges)
    }

    /// Returns the pair to merge next.
    fn most_frequent(&mut self) -> Option<u64> {
        loop {
            let Some((count, Reverse(key))) = self.heap.pop() else {
                self.lower_the_floor()?;
                continue;
            };
            let now = self.table(key).get(&key).map_or(0, |pair| pair.count);
            if now == count {
                return Some(key);
            }
            self.push(now, key);
        }
    }

    /// Puts the next most frequent pairs into the empty heap. Less frequent pairs are left out, so that it stays
    /// small. `None` if there are none.
    fn lower_the_floor(&mut self) -> Option<()> {
        let pairs = || self.pairs.iter().flatten();
        let most = pairs().map(|(_, pair)| pair.count).max().filter(|most| *most >= LEAST_COUNT)?;
        self.floor = (most / 4).max(LEAST_COUNT);
        let frequent = pairs().filter(|(_, pair)| pair.count >= self.floor);
        self.heap = frequent.map(|(key, pair)| (pair.count, Reverse(*key))).collect();
        Some(())
    }

    fn push(&mut self, count: u64, key: u64) {
        if count >= self.floor {
            self.heap.push((count, Reverse(key)));
        }
    }

    /// Returns the table that has the pair, if it is known.
    fn table(&mut self, key: u64) -> &mut FxHashMap<u64, Pair> {
        &mut self.pairs[((key >> 32) as u32).max(key as u32) as usize]
    }

    fn length(&self, id: u32) -> usize {
        self.tokens[id as usize].len()
    }

    /// Replaces every occurrence of the pair by the result, from left to right.
    fn replace(&mut self, &Merge { left, right, result }: &Merge) {
        let key = pair_key(left, right);
        let places = self.table(key).remove(&key).unwrap_or_default().places;
        debug_assert!(places.is_sorted(), "see the head of the module");
        let (left_length, right_length) = (self.length(left), self.length(right));
        for &place in &places {
            let at = place as usize;
            let middle = at + left_length;
            if self.cells[at] != left || self.cells[middle] != right {
                continue;
            }
            let end = middle + right_length;
            let weight = self.weights.at(place);
            let (before, after) = (self.cells[at - 1], self.cells[end]);
            if before != NONE {
                self.subtract(before, left, weight, result);
                self.before.add(before, (at - self.length(before)) as u32, weight);
            }
            if after != NONE {
                self.subtract(right, after, weight, result);
                self.after.add(after, place, weight);
            }
            self.cells[middle - 1..=middle].fill(NONE);
            (self.cells[at], self.cells[end - 1]) = (result, result);
        }
        drop(places);
        self.apply_changes(result);
    }

    /// Subtracts an occurrence of a pair; removes a pair without occurrences. The pair being merged has already been
    /// removed.
    fn subtract(&mut self, left: u32, right: u32, weight: u64, result: u32) {
        if left == result {
            self.after.subtract(right, weight);
        } else if right == result {
            self.before.subtract(left, weight);
        } else {
            let key = pair_key(left, right);
            let table = self.table(key);
            let Some(pair) = table.get_mut(&key) else { return };
            pair.count -= weight;
            if pair.count == 0 {
                table.remove(&key);
            }
        }
    }

    /// Applies the changes of a merge to the pairs of its result.
    fn apply_changes(&mut self, result: u32) {
        for (change, places) in self.before.take() {
            self.change(pair_key(change.id, result), change.count, places);
        }
        for (change, places) in self.after.take() {
            self.change(pair_key(result, change.id), change.count, places);
        }
    }

    /// Changes the count of a pair by `change` (modulo 2⁶⁴: it may fall) and adds places.
    fn change(&mut self, key: u64, change: u64, places: Vec<u32>) {
        let table = self.table(key);
        let pair = table.entry(key).or_default();
        pair.count = pair.count.wrapping_add(change);
        let count = pair.count;
        if count == 0 {
            table.remove(&key);
        } else if pair.places.is_empty() {
            pair.places = places.into_boxed_slice();
        } else {
            pair.places = [&pair.places, places.as_slice()].concat().into_boxed_slice();
        }
        self.push(count, key);
    }
}

/// Writes each piece's ids followed by a separator, in the order of falling counts; a separator comes before all.
fn lay_out(counts: Counts, ids: &[u32; 256]) -> (Vec<u32>, Weights) {
    let mut lengths: BTreeMap<Reverse<u64>, usize> = BTreeMap::new();
    for (piece, count) in counts.iter() {
        *lengths.entry(Reverse(count)).or_default() += piece.len() + 1;
    }
    let (mut starts, mut weights, mut end) = (FxHashMap::default(), Weights::default(), 1);
    for (Reverse(weight), length) in lengths {
        weights.runs.push((end as u32, weight));
        starts.insert(weight, end);
        end += length;
    }
    let mut cells = vec![NONE; end];
    for (piece, count) in counts.iter() {
        let Some(start) = starts.get_mut(&count) else { continue };
        for (cell, byte) in cells[*start..].iter_mut().zip(piece) {
            *cell = ids[usize::from(*byte)];
        }
        *start += piece.len() + 1;
    }
    weights.index(end);
    (cells, weights)
}

/// The number of occurrences in the text of the piece at each place.
#[derive(Default)]
struct Weights {
    /// The beginning of each run of pieces with the same count, and this count.
    runs: Vec<(u32, u64)>,
    /// The run of each block's first cell.
    blocks: Vec<u32>,
}

impl Weights {
    /// The number of cells per block.
    const BLOCK: usize = 64;

    /// Records the runs at the beginnings of blocks, for `length` cells.
    fn index(&mut self, length: usize) {
        let mut run = 0;
        for cell in (0..length).step_by(Weights::BLOCK) {
            while self.runs.get(run + 1).is_some_and(|next| next.0 as usize <= cell) {
                run += 1;
            }
            self.blocks.push(run as u32);
        }
    }

    fn at(&self, place: u32) -> u64 {
        let mut run = self.blocks[place as usize / Weights::BLOCK] as usize;
        while self.runs.get(run + 1).is_some_and(|next| next.0 <= place) {
            run += 1;
        }
        self.runs[run].1
    }

    /// Returns the cells of each run, with their count.
    fn of_runs<'a>(&'a self, cells: &'a [u32]) -> impl Iterator<Item = (&'a [u32], u64)> {
        let ends = self.runs.iter().skip(1).map(|run| run.0 as usize).chain([cells.len()]);
        self.runs.iter().zip(ends).map(|(run, end)| (&cells[run.0 as usize..end], run.1))
    }
}

/// The changes of a merge to the pairs of its result with each other token.
#[derive(Default)]
struct Changes {
    /// By the other token's id: its index in `changed`, or [`NONE`].
    numbers: Vec<u32>,
    changed: Vec<Change>,
    /// New places, each with an index in `changed`.
    places: Vec<(u32, u32)>,
}

/// The change of a merge to one pair.
struct Change {
    /// The other token.
    id: u32,
    /// The change of the count, modulo 2⁶⁴: the count may fall.
    count: u64,
    /// The number of new places.
    places: usize,
}

impl Changes {
    /// Returns the index of the change for the token `id`.
    fn number(&mut self, id: u32) -> u32 {
        if self.numbers.len() <= id as usize {
            self.numbers.resize(id as usize + 1, NONE);
        }
        let number = &mut self.numbers[id as usize];
        if *number == NONE {
            *number = self.changed.len() as u32;
            self.changed.push(Change { id, count: 0, places: 0 });
        }
        *number
    }

    fn add(&mut self, id: u32, place: u32, weight: u64) {
        let number = self.number(id);
        let change = &mut self.changed[number as usize];
        change.count = change.count.wrapping_add(weight);
        change.places += 1;
        self.places.push((number, place));
    }

    fn subtract(&mut self, id: u32, weight: u64) {
        let number = self.number(id);
        let change = &mut self.changed[number as usize];
        change.count = change.count.wrapping_sub(weight);
    }

    /// Removes and returns each change with its places.
    fn take(&mut self) -> impl Iterator<Item = (Change, Vec<u32>)> + use<> {
        let changed = std::mem::take(&mut self.changed);
        let mut places: Vec<Vec<u32>> =
            changed.iter().map(|change| Vec::with_capacity(change.places)).collect();
        for (number, place) in std::mem::take(&mut self.places) {
            places[number as usize].push(place);
        }
        for change in &changed {
            self.numbers[change.id as usize] = NONE;
        }
        changed.into_iter().zip(places)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Tokenizer;
    use super::*;

    /// Returns the merges as bytes, and the number of calls of `on_token`.
    fn merges(counts: &[(&'static str, u64)], vocab: usize) -> (Vec<String>, usize) {
        let bytes = Tokenizer::bytes();
        let first = (0..257).map(|id| bytes.token_bytes(id).unwrap_or_default().to_vec()).collect();
        let mut told = 0;
        let merger = Merger::new(counts.iter().copied().collect(), first);
        let (tokens, merges) = merger.merge(vocab, &mut |_| told += 1);
        let spelled = |id: u32| String::from_utf8_lossy(&tokens[id as usize]).into_owned();
        (
            merges.iter().map(|merge| spelled(merge.left) + "+" + &spelled(merge.right)).collect(),
            told,
        )
    }

    #[test]
    fn counts_of_more_than_32_bits_decide() {
        // Modulo 2³², "xy" would come first, and "ab" would occur once.
        let counts = [("ab", (1 << 40) + 1), ("cd", 1 << 33), ("xy", 1 << 32), ("pq", 9)];
        assert_eq!(
            merges(&counts, 1000),
            (["a+b", "c+d", "x+y", "p+q"].map(str::to_owned).into(), 4)
        );
        assert_eq!(merges(&counts, 258).0, ["a+b"]);
    }

    #[test]
    fn equal_counts_go_by_ids_and_single_ones_not_at_all() {
        let counts = [("zb", 5), ("ab", 5), ("aa", 5), ("qr", 1)];
        assert_eq!(merges(&counts, 1000).0, ["a+a", "a+b", "z+b"]);
        // Overlapping pairs are merged from the left: (aa)(aa)a, and then (aa)(aa) as one.
        assert_eq!(merges(&[("aaaaa", 2)], 1000).0, ["a+a", "aa+a", "aa+aaa"]);
    }
}
