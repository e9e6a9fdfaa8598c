//! Batches: windows of the token sequence, drawn at random for training and in order for evaluation.

use std::ops::Range;

use super::random;
use super::tokens::Tokens;
use crate::error::{Error, Result, field};

/// The target of a position that the loss ignores.
pub use crate::ops::cross_entropy::IGNORE;

/// Returns the training and the validation split of `len` tokens. The validation split is the last 10 %, from
/// `floor(0.9 · len)` on.
///
/// ```
/// assert_eq!(wgpt::data::split(1_115_394), (0..1_003_854, 1_003_854..1_115_394));
/// ```
pub fn split(len: usize) -> (Range<usize>, Range<usize>) {
    let at = len - len.div_ceil(10);
    (0..at, at..len)
}

/// The position of a batch in a run. It determines the batch's windows, so a resumed run needs no other data state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The run's seed.
    pub seed: u64,
    /// The update, from 0.
    pub step: u64,
    /// The micro-batch within the update, from 0.
    pub micro: u64,
}

/// Fills `x` (B,T) with `b` windows of `t` tokens from random places in `range`, and `y` (B,T) with the next tokens.
///
/// # Errors
///
/// If the range is shorter than `t + 1` tokens.
///
/// # Panics
///
/// If `x` or `y` does not have `b · t` places, or `range` is not within the tokens.
pub fn batch(
    tokens: &Tokens,
    range: Range<usize>,
    place: Place,
    (b, t): (usize, usize),
    x: &mut [u32],
    y: &mut [u32],
) -> Result<()> {
    check_length(tokens, &range, t)?;
    assert!(x.len() == b * t && y.len() == b * t, "x and y have {b} times {t} places");
    let starts = (range.len() - t) as u64;
    for row in 0..b {
        let bits = random::hash(&[place.seed, place.step, place.micro, row as u64]);
        let start = range.start + random::below(bits, starts) as usize;
        let places = row * t..(row + 1) * t;
        tokens.copy_to(start..start + t, &mut x[places.clone()]);
        tokens.copy_to(start + 1..start + 1 + t, &mut y[places]);
    }
    Ok(())
}

/// Checks that `range` holds at least one window of `t` tokens and the token after it.
///
/// # Errors
///
/// States the number of tokens and the required number.
pub fn check_length(tokens: &Tokens, range: &Range<usize>, t: usize) -> Result<()> {
    if range.len() > t {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} is too short: this split of its {} tokens has {}, a window of length {t} needs {}",
        tokens.name(),
        tokens.len(),
        range.len(),
        t + 1
    ))
    .hint(format!(
        "give more data, or a smaller {} ({})",
        field("seq_len"),
        field("n_positions")
    )))
}

/// Consecutive windows of `t` tokens that cover a split: each of its tokens but the first is a target exactly once.
#[derive(Clone, Debug)]
pub struct Windows {
    range: Range<usize>,
    t: usize,
}

/// Returns the windows of `t` tokens that cover `range`; the last may be partly padding.
///
/// # Panics
///
/// If `t` is 0.
pub fn windows(range: Range<usize>, t: usize) -> Windows {
    assert!(t > 0, "a window has a token");
    Windows { range, t }
}

impl Windows {
    /// Returns the number of predicted tokens: all of the split but the first.
    pub fn targets(&self) -> usize {
        self.range.len().saturating_sub(1)
    }

    /// Returns the number of windows.
    pub fn len(&self) -> usize {
        self.targets().div_ceil(self.t)
    }

    /// Whether nothing can be predicted.
    pub fn is_empty(&self) -> bool {
        self.targets() == 0
    }

    /// Fills `x` and `y` (B,T) with the windows from the index `first` on, padded with 0 and [`IGNORE`] after the last
    /// token; returns the number of targets that are not padding.
    ///
    /// # Panics
    ///
    /// If `x` and `y` differ in length or are not whole windows.
    pub fn fill(&self, tokens: &Tokens, first: usize, x: &mut [u32], y: &mut [u32]) -> usize {
        assert!(x.len() == y.len() && x.len().is_multiple_of(self.t), "whole windows");
        let done = (first * self.t).min(self.targets());
        let count = x.len().min(self.targets() - done);
        let start = self.range.start + done;
        if count > 0 {
            tokens.copy_to(start..start + count, &mut x[..count]);
            tokens.copy_to(start + 1..start + 1 + count, &mut y[..count]);
        }
        x[count..].fill(0);
        y[count..].fill(IGNORE);
        count
    }
}
