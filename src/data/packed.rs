//! Conversations packed into windows: several whole ones side by side in each, that see nothing of each other.
//!
//! A conversation of n tokens takes n - 1 places: at each a token is read and the next one is the target, if it is learned. The
//! longest are placed first, each into the fullest window that has room for it. The windows stay the same for a run; each
//! epoch takes every window once, in an order of its own, so that every conversation is seen once per epoch.

use std::collections::BTreeMap;
use std::ops::Range;

use super::batches::{IGNORE, Place};
use super::marks::{ALL, LEARNED};
use super::random;
use super::tokens::Tokens;
use crate::error::{Error, Result, field};

/// Conversations in windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The places of the conversations in the tokens, those of a window side by side.
    conversations: Vec<Range<usize>>,
    /// The conversations of each window.
    windows: Vec<Range<usize>>,
    /// The places of a window.
    t: usize,
}

/// The rows of a batch to fill, (B,T) each: tokens, targets, and where the conversation of each row begins in its window.
pub struct Rows<'a> {
    /// The tokens.
    pub tokens: &'a mut [u32],
    /// The targets, [`IGNORE`] where there is none.
    pub targets: &'a mut [u32],
    /// Where the document of each row begins.
    pub starts: &'a mut [u32],
}

impl Packed {
    /// Packs the conversations in a range of tokens into windows of `t` places.
    ///
    /// # Errors
    ///
    /// If there are none, or one has no room in a window.
    pub fn new(tokens: &Tokens, range: &Range<usize>, t: usize) -> Result<Packed> {
        let mut conversations = tokens.conversations(range);
        if conversations.is_empty() {
            return Err(Error::input(format!(
                "{} has {} for training and validation, must be at least 2: each needs one",
                tokens.name(),
                if tokens.is_empty() { "no conversation" } else { "one conversation" }
            ))
            .hint(format!(
                "give more conversations, or others for validation by {}",
                field("val_data")
            )));
        }
        if let Some(long) = conversations.iter().find(|one| one.len() > t + 1) {
            return Err(Error::input(format!(
                "{} has a conversation of {} tokens, a window of length {t} has room for {}",
                tokens.name(),
                long.len(),
                t + 1
            ))
            .hint(format!("encode the conversations again for this {}", field("seq_len"))));
        }
        conversations.sort_by_key(|one| std::cmp::Reverse(one.len()));
        let mut windows: Vec<Vec<Range<usize>>> = vec![];
        // The windows by the places that are left in them.
        let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for one in conversations {
            let places = (one.len() - 1).max(1);
            let fullest = open.range(places..).next().map(|(left, _)| *left);
            let (window, left) = match fullest {
                Some(left) => {
                    let list = open.get_mut(&left).expect("it was found");
                    let window = list.pop().expect("a list has windows");
                    if list.is_empty() {
                        open.remove(&left);
                    }
                    (window, left)
                }
                None => {
                    windows.push(vec![]);
                    (windows.len() - 1, t)
                }
            };
            windows[window].push(one);
            if left > places {
                open.entry(left - places).or_default().push(window);
            }
        }
        let mut packed = Packed { conversations: vec![], windows: vec![], t };
        for window in windows {
            let start = packed.conversations.len();
            packed.conversations.extend(window);
            packed.windows.push(start..packed.conversations.len());
        }
        Ok(packed)
    }

    /// Returns the number of windows.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether there are no windows.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Returns the places in the tokens of the conversations of a window.
    pub fn conversations(&self, window: usize) -> &[Range<usize>] {
        &self.conversations[self.windows[window].clone()]
    }

    /// Fills a batch with the windows at a place of the run, of whose updates each has `micros` micro-batches.
    ///
    /// # Panics
    ///
    /// If `rows` are not whole windows.
    pub fn draw(&self, tokens: &Tokens, place: Place, micros: usize, rows: Rows<'_>) {
        let Place { seed, step, micro } = place;
        let (b, n) = ((rows.tokens.len() / self.t) as u64, self.len() as u64);
        let first = (step * micros as u64 + micro) * b;
        let window = |row: usize| {
            let at = first + row as u64;
            Some(random::permuted(at % n, n, &[seed, at / n]) as usize)
        };
        self.fill_by(tokens, window, rows);
    }

    /// Fills a batch with the windows from number `first` on, in order; after the last one it is padded. Returns the number of
    /// targets.
    ///
    /// # Panics
    ///
    /// If `rows` are not whole windows.
    pub fn fill(&self, tokens: &Tokens, first: usize, rows: Rows<'_>) -> usize {
        let window = |row: usize| Some(first + row).filter(|window| *window < self.len());
        self.fill_by(tokens, window, rows)
    }

    /// Fills each row with a window, or with padding; returns the number of targets.
    fn fill_by(
        &self,
        tokens: &Tokens,
        window: impl Fn(usize) -> Option<usize>,
        rows: Rows<'_>,
    ) -> usize {
        let t = self.t;
        let whole = rows.tokens.len().is_multiple_of(t) && rows.tokens.len() == rows.targets.len();
        assert!(whole && rows.starts.len() == rows.tokens.len(), "whole windows");
        let mut count = 0;
        let all = rows.tokens.chunks_exact_mut(t).zip(rows.targets.chunks_exact_mut(t));
        for (row, ((x, y), starts)) in all.zip(rows.starts.chunks_exact_mut(t)).enumerate() {
            let of_row = window(row).map(|window| self.conversations(window)).unwrap_or_default();
            count += fill_window(tokens, of_row, Rows { tokens: x, targets: y, starts });
        }
        count
    }
}

/// Puts conversations side by side into a window; the rest is padding, a document of its own. Returns the number of targets.
fn fill_window(tokens: &Tokens, conversations: &[Range<usize>], rows: Rows<'_>) -> usize {
    let Rows { tokens: x, targets: y, starts } = rows;
    let (mut at, mut count) = (0, 0);
    let mut words = vec![];
    for one in conversations {
        words.resize(one.len(), 0);
        tokens.copy_marked(one.clone(), &mut words);
        for (i, pair) in words.windows(2).enumerate() {
            x[at + i] = pair[0] & !ALL;
            y[at + i] = target(pair[1]);
            starts[at + i] = at as u32;
        }
        count += words.iter().skip(1).filter(|word| **word & LEARNED != 0).count();
        at += one.len() - 1;
    }
    x[at..].fill(0);
    y[at..].fill(IGNORE);
    starts[at..].fill(at as u32);
    count
}

/// Returns the target that a marked token is: itself, if it is learned.
pub fn target(word: u32) -> u32 {
    if word & LEARNED == 0 { IGNORE } else { word & !ALL }
}
