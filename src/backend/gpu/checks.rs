//! Whether shaders check their accesses at run time.

/// Whether shaders check their accesses, loops and divisions at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// They check, and their workgroup memory is zeroed at the start.
    On,
    /// They do not check, for speed.
    Off,
}

impl Default for Checks {
    /// Returns `Off` in an optimised build of the crate, `On` in a debug build.
    fn default() -> Checks {
        if cfg!(debug_assertions) { Checks::On } else { Checks::Off }
    }
}
