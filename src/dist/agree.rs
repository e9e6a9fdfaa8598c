//! What all ranks must be able to do before any of them goes on.

use super::world::World;
use crate::error::{Error, Result};

/// Returns what a rank has made, if all ranks could make theirs; all call it together.
///
/// # Errors
///
/// The rank's own, or one that says `what` and names the ranks that failed; or if a rank is gone.
pub(crate) fn check_all<T>(world: &mut dyn World, made: Result<T>, what: &str) -> Result<T> {
    let failed = world.gather(&[u64::from(made.is_err())])?;
    let made = made?;
    let ranks: Vec<String> = (0..)
        .zip(&failed)
        .filter(|(_, f)| **f != [0])
        .map(|(i, _): (usize, _)| i.to_string())
        .collect();
    if ranks.is_empty() {
        return Ok(made);
    }
    Err(Error::training(format!("{what} on rank {}: see its message", ranks.join(", "))))
}
