//! What ranks tell each other before a run begins: whether each of them could do its part, and bytes.

use crate::dist::World;
use crate::error::{Error, Result};

/// What a rank has made, if all ranks could make theirs.
pub(super) fn check_all<T>(world: &mut dyn World, made: Result<T>) -> Result<T> {
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
    let message = format!("the run cannot begin on rank {}: see its message", ranks.join(", "));
    Err(Error::training(message))
}

/// Gives every rank the bytes of all ranks, in the order of the ranks.
pub(super) fn gather_bytes(world: &mut dyn World, own: &[u8]) -> Result<Vec<Vec<u8>>> {
    let word =
        |eight: &[u8]| eight.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
    let words: Vec<u64> = [own.len() as u64].into_iter().chain(own.chunks(8).map(word)).collect();
    let all = world.gather(&words)?;
    let bytes = |words: &Vec<u64>| {
        let bytes = words[1..].iter().flat_map(|word| word.to_le_bytes());
        bytes.take(words[0] as usize).collect()
    };
    Ok(all.iter().map(bytes).collect())
}
