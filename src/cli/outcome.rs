//! How a command ends when nothing went wrong.

/// What a command comes to when nothing went wrong: whether all it checked is as it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as it should be.
    Good,
    /// Something that was checked is not.
    Bad,
}
