//! What fits a device: the least that is computed again, the largest micro-batch.

use crate::config::Recompute;
use crate::model::Uses;

/// The largest micro-batch that [`largest_batch`] tries, in sequences.
pub const LARGEST_BATCH: usize = 64;

/// The least recomputation with which these uses fit; the most if none does.
///
/// ```
/// use wgpt::{config::Recompute, fit::least_recompute, model::Uses};
/// let fits = |uses: Uses| uses.recompute != Recompute::None;
/// assert_eq!(least_recompute(Uses::default(), fits), Recompute::Gelu);
/// ```
pub fn least_recompute(uses: Uses, fits: impl Fn(Uses) -> bool) -> Recompute {
    let mut all = Recompute::ALL.into_iter();
    all.find(|&recompute| fits(Uses { recompute, ..uses })).unwrap_or(Recompute::Block)
}

/// The largest power of two of sequences, up to [`LARGEST_BATCH`], with which these uses fit; 1 if none does.
///
/// ```
/// use wgpt::{fit::largest_batch, model::Uses};
/// assert_eq!(largest_batch(Uses::default(), |uses| uses.batch < 20), 16);
/// ```
pub fn largest_batch(uses: Uses, fits: impl Fn(Uses) -> bool) -> usize {
    let mut all = (0..=LARGEST_BATCH.ilog2()).rev().map(|log2| 1 << log2);
    all.find(|&batch| fits(Uses { batch, ..uses })).unwrap_or(1)
}
