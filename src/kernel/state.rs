//! The state of training that only the device knows, as integers: the updates applied and skipped, and the loss scale.
//!
//! The buffer `state` holds them; [`crate::ops::global_norm`] changes them.

use super::dims::LossScale;
use super::twin::Real;

/// Updates applied.
pub const APPLIED: usize = 0;
/// Updates skipped since the last applied update.
pub const SKIPPED_IN_A_ROW: usize = 1;
/// Updates skipped in total.
pub const SKIPPED: usize = 2;
/// 1 if the current update is skipped.
pub const SKIP: usize = 3;
/// The base-2 logarithm of the loss scale: it is zero in a new buffer, where the scale is 1.
pub const SCALE_LOG2: usize = 4;
/// Updates applied in a row since the scale last changed.
pub const SCALE_AGE: usize = 5;
/// Updates skipped in total because the scale was too large; [`SKIPPED`] does not count them.
pub const OVERFLOWED: usize = 6;
/// The number of words.
pub const LEN: usize = 7;

/// Updates in a row without overflow after which a dynamic loss scale doubles.
pub const GROWTH_INTERVAL: u32 = 2000;
/// The base-2 logarithm of the initial dynamic scale.
pub const FIRST_SCALE_LOG2: u32 = 16;
/// The base-2 logarithm of the largest scale.
pub const LARGEST_SCALE_LOG2: u32 = 24;

/// Returns the words before the first update.
pub fn first(scale: LossScale) -> [u32; LEN] {
    let mut words = [0; LEN];
    if scale == LossScale::Dynamic {
        words[SCALE_LOG2] = FIRST_SCALE_LOG2;
    }
    words
}

/// Returns the factor of every gradient.
pub fn loss_scale<F: Real>(words: &[u32]) -> F {
    F::of(2_f64.powi(words[SCALE_LOG2] as i32))
}
