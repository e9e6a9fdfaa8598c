//! What all ranks must agree on before any of them goes on.

use serde::de::DeserializeOwned;

use super::world::World;
use crate::error::{Error, Result};

/// The version of the program, which rank 0 sends in the opening that it broadcasts as JSON.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reads what rank 0 opens the work of the others with, whose field [`version`](VERSION) `version` returns.
///
/// # Errors
///
/// If rank 0 is another version of the program, or has other settings.
pub(crate) fn read_opening<T: DeserializeOwned>(
    bytes: &[u8],
    version: impl Fn(&T) -> &str,
) -> Result<T> {
    let opening = serde_json::from_slice(bytes).map_err(|_| other_version("other settings"))?;
    match version(&opening) {
        VERSION => Ok(opening),
        other => Err(other_version(other)),
    }
}

/// The error of a rank that does not understand what rank 0 sends: `what` says what is known of its version.
pub(crate) fn other_version(what: &str) -> Error {
    Error::input(format!(
        "rank 0 is another version of the program ({what}) than this rank, {VERSION}"
    ))
    .hint("install the same version on every machine")
}

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
