//! A split of the data as batches: random windows of a text, or packed conversations.

use std::ops::Range;

use super::batches::{self, Place, Windows, check_length, windows};
use super::packed::{Packed, Rows};
use super::tokens::Tokens;
use crate::error::Result;
use crate::ops::cross_entropy::counted;

/// The training or the validation split of a run.
#[derive(Clone, Debug)]
pub struct Split {
    range: Range<usize>,
    /// The tokens of a sequence.
    t: usize,
    /// Its conversations, if it consists of those.
    packed: Option<Packed>,
}

impl Split {
    /// Makes batches of sequences of `t` tokens from a range of the tokens, of which it must hold at least `least` and one more.
    ///
    /// # Errors
    ///
    /// If the range is too short, or its conversations do not fit.
    pub fn new(tokens: &Tokens, range: Range<usize>, t: usize, least: usize) -> Result<Split> {
        let packed = match tokens.are_conversations() {
            true => Some(Packed::new(tokens, &range, t)?),
            false => {
                check_length(tokens, &range, least)?;
                None
            }
        };
        Ok(Split { range, t, packed })
    }

    /// Returns its tokens.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Returns the number of its tokens.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Returns the conversations, if it consists of those.
    pub fn packed(&self) -> Option<&Packed> {
        self.packed.as_ref()
    }

    /// Fills a batch at a place of the run, of whose updates each has `micros` micro-batches: random windows of a text, or the
    /// next windows of the epoch. Returns the number of targets. The starts of a text stay as they are.
    ///
    /// # Errors
    ///
    /// If the text is shorter than a window.
    ///
    /// # Panics
    ///
    /// If `rows` are not whole windows.
    pub fn draw(
        &self,
        tokens: &Tokens,
        place: Place,
        micros: usize,
        rows: Rows<'_>,
    ) -> Result<usize> {
        let Rows { tokens: x, targets: y, starts } = rows;
        match &self.packed {
            Some(packed) => {
                packed.draw(tokens, place, micros, Rows { tokens: x, targets: &mut *y, starts });
            }
            None => {
                let shape = (x.len() / self.t, self.t);
                batches::batch(tokens, self.range.clone(), place, shape, x, y)?;
            }
        }
        Ok(counted(y))
    }

    fn windows(&self) -> Windows {
        windows(self.range.clone(), self.t)
    }

    /// Returns the number of windows in which each target is once.
    pub fn windows_of_all(&self) -> usize {
        self.packed.as_ref().map_or_else(|| self.windows().len(), Packed::len)
    }

    /// Fills a batch with the windows from number `first` on, in which each target is once; after the last one it is padded.
    /// Returns the number of targets.
    ///
    /// # Panics
    ///
    /// If `rows` are not whole windows.
    pub fn fill(&self, tokens: &Tokens, first: usize, rows: Rows<'_>) -> usize {
        match &self.packed {
            Some(packed) => packed.fill(tokens, first, rows),
            None => self.windows().fill(tokens, first, rows.tokens, rows.targets),
        }
    }
}
