//! Tokens and merges.

/// The token that ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The smallest vocabulary of the trainer: the end of text and the bytes.
pub(super) const BASE: usize = 257;

/// A token's id and bytes.
pub(super) type Token = (u32, Vec<u8>);

/// The range of a token among the concatenated tokens.
pub(super) type Span = (usize, usize);

/// A merge of two neighbouring tokens into one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) result: u32,
}

/// Returns the two parts of a merge such as `Ġ t`.
pub(super) fn two_parts(merge: &str) -> Option<(&str, &str)> {
    let (left, right) = merge.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then_some((left, right))
}
