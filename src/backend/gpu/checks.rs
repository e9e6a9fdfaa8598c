//! Whether shaders check what they do.

/// Whether shaders check at run time where they read and write, how long they loop, and what they divide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// They do, and their workgroup memory begins as zeros.
    On,
    /// They do not: for speed.
    Off,
}

impl Default for Checks {
    /// Off where the crate is optimised for use, on where it is built for debugging.
    fn default() -> Checks {
        if cfg!(debug_assertions) { Checks::On } else { Checks::Off }
    }
}
