//! The outcome of a command without an error.

/// The outcome of a command without an error: whether all its checks passed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All checks passed.
    Good,
    /// A check failed.
    Bad,
}
