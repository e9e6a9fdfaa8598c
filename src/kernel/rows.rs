//! The tables of generation: the rows that a replay processes, and how each slot draws its token.
//!
//! Both contain integers that the host writes between two replays. A *slot* holds one sequence: its tokens, its keys
//! and values. A *row* is one new token of a slot at a position of its sequence. A kernel compares every index that it
//! reads from a table with a size before it uses it.

use super::dims::Dims;

/// The words of a row: its slot, its position, and the first position that it sees.
pub const ROW_WORDS: usize = 3;

/// The words of a copy between slots: from, to, and the number of positions.
pub const COPY_WORDS: usize = 3;

/// The words of a slot. A real number takes two words: an f32, and its rounding error as another f32.
pub mod slot {
    /// The row after which its token is drawn.
    pub const ROW: usize = 0;
    /// The key of the random number, two words.
    pub const SEED: usize = 1;
    /// [`Draw::top_k`](super::Draw::top_k).
    pub const TOP_K: usize = 3;
    /// [`Draw::temperature`](super::Draw::temperature).
    pub const TEMPERATURE: usize = 4;
    /// [`Draw::top_p`](super::Draw::top_p).
    pub const TOP_P: usize = 6;
    /// [`Draw::min_p`](super::Draw::min_p).
    pub const MIN_P: usize = 8;
    /// [`Draw::repetition_penalty`](super::Draw::repetition_penalty).
    pub const REPETITION_PENALTY: usize = 10;
    /// The number of words.
    pub const WORDS: usize = 12;
}

/// The slot of a masked row, and the row of a slot that draws nothing.
pub const NONE: u32 = u32::MAX;

/// The place of a row of generation, and the positions that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The slot whose sequence it belongs to.
    pub slot: usize,
    /// The position in that sequence.
    pub position: usize,
    /// The first position that it sees; the last is its own.
    pub first_key: usize,
}

impl Place {
    /// Returns the place of row `row` in the table `rows` (T,[`ROW_WORDS`]); `None` if it is masked. A row always sees
    /// itself, even if the table names a later first key, and nothing before its window ([`Dims::WINDOW`]).
    pub fn of_row(dims: &Dims, rows: &[u32], row: usize) -> Option<Place> {
        let words = &rows[row * ROW_WORDS..][..ROW_WORDS];
        let (slot, position) = (words[0], words[1]);
        (slot < dims.SLOTS && position < dims.S).then(|| {
            let first_key = position.min(words[2]) as usize;
            let (slot, position) = (slot as usize, position as usize);
            Place { slot, position, first_key: first_key.max(dims.window_start(position)) }
        })
    }

    /// Returns the number of positions that it sees.
    pub fn keys(self) -> usize {
        self.position + 1 - self.first_key
    }

    /// Returns the words of a row.
    pub fn words(self) -> [u32; ROW_WORDS] {
        [self.slot, self.position, self.first_key].map(|n| n as u32)
    }
}

/// The work of a replay on one slot: it feeds tokens of the slot's sequence, and may draw the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feed {
    /// The slot.
    pub slot: usize,
    /// The position of the first token.
    pub position: usize,
    /// The number of tokens.
    pub count: usize,
    /// How the token after them is drawn; `None`: no logits are computed and no token is drawn.
    pub draw: Option<Draw>,
}

/// Returns both tables for a replay of `rows` rows: `rows` (rows,[`ROW_WORDS`]) and `slots` (slots,[`slot::WORDS`]).
pub fn tables(feeds: &[Feed], rows: usize, slots: usize) -> [Vec<u32>; 2] {
    let mut places = vec![];
    let mut draws = vec![NONE; slots * slot::WORDS];
    for Feed { slot, position, count, draw } in feeds {
        let place = |i| Place { slot: *slot, position: position + i, first_key: 0 };
        places.extend((0..*count).flat_map(|i| place(i).words()));
        if let Some(draw) = draw {
            let row = places.len() / ROW_WORDS - 1;
            draws[slot * slot::WORDS..][..slot::WORDS].copy_from_slice(&draw.words(row as u32));
        }
    }
    places.resize(rows * ROW_WORDS, NONE);
    [places, draws]
}

/// How a slot's next token is drawn from the logits of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The key of the random number.
    pub seed: [u32; 2],
    /// The number of tokens that top-k keeps; 0: all.
    pub top_k: u32,
    /// Divides the logits; 0: greedy.
    pub temperature: f64,
    /// The mass that nucleus sampling keeps; 1: all.
    pub top_p: f64,
    /// The smallest probability that is kept, relative to the largest; 0: all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens seen before; 1: no penalty.
    pub repetition_penalty: f64,
}

impl Default for Draw {
    fn default() -> Draw {
        Draw {
            seed: [0; 2],
            top_k: 0,
            temperature: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

impl Draw {
    /// Returns the words of a slot that draws in this way after row `row`.
    pub fn words(&self, row: u32) -> [u32; slot::WORDS] {
        let mut words = [0; slot::WORDS];
        words[slot::ROW] = row;
        words[slot::SEED..][..2].copy_from_slice(&self.seed);
        words[slot::TOP_K] = self.top_k;
        for (at, real) in [
            (slot::TEMPERATURE, self.temperature),
            (slot::TOP_P, self.top_p),
            (slot::MIN_P, self.min_p),
            (slot::REPETITION_PENALTY, self.repetition_penalty),
        ] {
            words[at..][..2].copy_from_slice(&split(real));
        }
        words
    }

    /// Returns the row (of `rows` rows) after which slot number `of` draws, and its settings, from the table `slots`
    /// (SLOTS,[`slot::WORDS`]); `None` if it draws nothing.
    pub fn of_slot(slots: &[u32], of: usize, rows: usize) -> Option<(usize, Draw)> {
        let words = &slots[of * slot::WORDS..][..slot::WORDS];
        let real = |at: usize| join(words[at], words[at + 1]);
        let row = words[slot::ROW] as usize;
        let draw = Draw {
            seed: [words[slot::SEED], words[slot::SEED + 1]],
            top_k: words[slot::TOP_K],
            temperature: real(slot::TEMPERATURE),
            top_p: real(slot::TOP_P),
            min_p: real(slot::MIN_P),
            repetition_penalty: real(slot::REPETITION_PENALTY),
        };
        (row < rows).then_some((row, draw))
    }
}

/// Returns the bits of the nearest f32 and of the rounding error.
fn split(x: f64) -> [u32; 2] {
    let nearest = x as f32;
    [nearest.to_bits(), ((x - f64::from(nearest)) as f32).to_bits()]
}

/// Returns the number that was passed to [`split`], to twice the digits of an f32.
fn join(nearest: u32, left: u32) -> f64 {
    f64::from(f32::from_bits(nearest)) + f64::from(f32::from_bits(left))
}
