//! What ranks tell each other before a run begins: whether each of them could do its part, and bytes.

use crate::dist::{self, World};
use crate::error::Result;

/// What a rank has made, if all ranks could make theirs.
pub(super) fn check_all<T>(world: &mut dyn World, made: Result<T>) -> Result<T> {
    dist::check_all(world, made, "the run cannot begin")
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
