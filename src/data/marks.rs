//! The marks of conversations' tokens: the two highest bits of an id.

/// A conversation begins with this token.
pub const BEGINS: u32 = 1 << 31;

/// The token is learned: it is a target.
pub const LEARNED: u32 = 1 << 30;

/// All marks.
pub const ALL: u32 = BEGINS | LEARNED;

/// Returns the ids of a conversation with their marks.
pub fn marked(ids: &[u32], learned: &[bool]) -> Vec<u32> {
    let mark = |(i, (id, learned)): (usize, (&u32, &bool))| {
        let begins = if i == 0 { BEGINS } else { 0 };
        id | begins | if *learned { LEARNED } else { 0 }
    };
    ids.iter().zip(learned).enumerate().map(mark).collect()
}
