//! The tables of generation: which rows a replay works on, and what each slot draws its token by.
//!
//! Both are integers that the host writes between two replays. A *slot* holds one sequence: its tokens, its keys and
//! values. A *row* is one new token of a slot at a position of its sequence. Whatever a kernel reads from a table and
//! indexes by, it compares with a size first.

use super::dims::Dims;

/// Words of a row: its slot and its position.
pub const ROW_WORDS: usize = 2;

/// Words of a slot: the row that its token is drawn after, the key, top-k; then temperature, top-p, min-p and the
/// repetition penalty, each as an f32 and what rounding to it left, as another.
pub const SLOT_WORDS: usize = 12;

/// The slot of a row that is masked, and the row of a slot that draws nothing.
pub const NONE: u32 = u32::MAX;

/// Where a row of generation is, by the table `rows` (T,[`ROW_WORDS`]); `None` if it is masked.
pub fn place(dims: &Dims, rows: &[u32], row: usize) -> Option<(usize, usize)> {
    let (slot, position) = (rows[row * ROW_WORDS], rows[row * ROW_WORDS + 1]);
    (slot < dims.SLOTS && position < dims.S).then_some((slot as usize, position as usize))
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

/// What both tables hold for a replay of `rows` rows: `rows` (rows,[`ROW_WORDS`]) and `slots` (slots,[`SLOT_WORDS`]).
pub fn tables(feeds: &[Feed], rows: usize, slots: usize) -> [Vec<u32>; 2] {
    let mut places = vec![];
    let mut draws = vec![NONE; slots * SLOT_WORDS];
    for Feed { slot, position, count, draw } in feeds {
        places.extend((0..*count).flat_map(|i| [*slot as u32, (position + i) as u32]));
        if let Some(draw) = draw {
            let row = places.len() / ROW_WORDS - 1;
            draws[slot * SLOT_WORDS..][..SLOT_WORDS].copy_from_slice(&draw.words(row as u32));
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
    pub fn words(&self, row: u32) -> [u32; SLOT_WORDS] {
        let [t, p, m, r] =
            [self.temperature, self.top_p, self.min_p, self.repetition_penalty].map(split);
        let [seed_0, seed_1] = self.seed;
        [row, seed_0, seed_1, self.top_k, t[0], t[1], p[0], p[1], m[0], m[1], r[0], r[1]]
    }

    /// What slot `slot` draws by, by the table `slots` (SLOTS,[`SLOT_WORDS`]), and after which of `rows` rows; `None`
    /// if it draws nothing.
    pub fn of_slot(slots: &[u32], slot: usize, rows: usize) -> Option<(usize, Draw)> {
        let words = &slots[slot * SLOT_WORDS..][..SLOT_WORDS];
        let row = words[0] as usize;
        let draw = Draw {
            seed: [words[1], words[2]],
            top_k: words[3],
            temperature: join(words[4], words[5]),
            top_p: join(words[6], words[7]),
            min_p: join(words[8], words[9]),
            repetition_penalty: join(words[10], words[11]),
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
