//! What only the device knows in training, in integers: how many updates were applied and skipped, and the loss scale.
//!
//! The buffer `state` has them; [`crate::ops::global_norm`] changes them.

use super::dims::LossScale;
use super::twin::Real;

/// Updates applied.
pub const APPLIED: usize = 0;
/// Updates skipped since the last that was applied.
pub const SKIPPED_IN_A_ROW: usize = 1;
/// Updates skipped in all.
pub const SKIPPED: usize = 2;
/// 1 if the update under way is skipped.
pub const SKIP: usize = 3;
/// The logarithm to base 2 of the loss scale: of all zeros, as a device makes them, the scale is 1.
pub const SCALE_LOG2: usize = 4;
/// Updates applied in a row since the scale changed.
pub const SCALE_AGE: usize = 5;
/// Updates skipped in all since the scale was too large; [`SKIPPED`] does not count them.
pub const OVERFLOWED: usize = 6;
/// The number of words.
pub const LEN: usize = 7;

/// Updates in a row without overflow after which a dynamic loss scale doubles.
pub const GROWTH_INTERVAL: u32 = 2000;
/// The logarithm to base 2 of the scale that a dynamic one begins with.
pub const FIRST_SCALE_LOG2: u32 = 16;
/// The logarithm to base 2 of the largest scale.
pub const LARGEST_SCALE_LOG2: u32 = 24;

/// The words before the first update.
pub fn first(scale: LossScale) -> [u32; LEN] {
    let mut words = [0; LEN];
    if scale == LossScale::Dynamic {
        words[SCALE_LOG2] = FIRST_SCALE_LOG2;
    }
    words
}

/// What every gradient is multiplied by.
pub fn loss_scale<F: Real>(words: &[u32]) -> F {
    F::of(2_f64.powi(words[SCALE_LOG2] as i32))
}
