//! The tables of generation: which rows a replay works on, and what each slot draws its token by.
//!
//! Both are integers that the host writes between two replays. A *slot* holds one sequence: its tokens, its keys and
//! values. A *row* is one new token of a slot at a position of its sequence. Whatever a kernel reads from a table and
//! indexes by, it compares with a size first.

use super::dims::Dims;

/// Words of a row: its slot, its position, and the first position that it sees.
pub const ROW_WORDS: usize = 3;

/// The words of a slot. A real number takes two: an f32, and what rounding to it left, as another.
pub mod slot {
    /// The row that its token is drawn after.
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
    /// How many there are.
    pub const WORDS: usize = 12;
}

/// The slot of a row that is masked, and the row of a slot that draws nothing.
pub const NONE: u32 = u32::MAX;

/// Where a row of generation is, and what it sees.
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
    /// Of row `row`, by the table `rows` (T,[`ROW_WORDS`]); `None` if it is masked. A row sees itself, whatever first
    /// key the table names.
    pub fn of_row(dims: &Dims, rows: &[u32], row: usize) -> Option<Place> {
        let words = &rows[row * ROW_WORDS..][..ROW_WORDS];
        let (slot, position) = (words[0], words[1]);
        (slot < dims.SLOTS && position < dims.S).then_some(Place {
            slot: slot as usize,
            position: position as usize,
            first_key: position.min(words[2]) as usize,
        })
    }

    /// How many positions it sees.
    pub fn keys(self) -> usize {
        self.position + 1 - self.first_key
    }

    /// The words of a row.
    pub fn words(self) -> [u32; ROW_WORDS] {
        [self.slot, self.position, self.first_key].map(|n| n as u32)
    }
}

/// What a replay does to one slot: it feeds tokens of the slot's sequence, and may draw the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feed {
    /// The slot.
    pub slot: usize,
    /// The position of the first token.
    pub position: usize,
    /// How many tokens.
    pub count: usize,
    /// How the token after them is drawn; `None`: neither are logits computed nor is a token drawn.
    pub draw: Option<Draw>,
}

/// What both tables hold for a replay of `rows` rows: `rows` (rows,[`ROW_WORDS`]) and `slots` (slots,[`slot::WORDS`]).
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
    /// Tokens that top-k keeps; 0: all.
    pub top_k: u32,
    /// Divides the logits; 0: greedy.
    pub temperature: f64,
    /// The mass that nucleus sampling keeps; 1: all.
    pub top_p: f64,
    /// The least probability relative to the largest; 0: all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens seen before; 1: none.
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
    /// The words of a slot that draws so after row `row`.
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

    /// What slot number `of` draws by, by the table `slots` (SLOTS,[`slot::WORDS`]), and after which of `rows` rows; `None`
    /// if it draws nothing.
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

/// The bits of the nearest f32, and of what is left.
fn split(x: f64) -> [u32; 2] {
    let nearest = x as f32;
    [nearest.to_bits(), ((x - f64::from(nearest)) as f32).to_bits()]
}

/// What [`split`] was given, to twice the digits of an f32.
fn join(nearest: u32, left: u32) -> f64 {
    f64::from(f32::from_bits(nearest)) + f64::from(f32::from_bits(left))
}
