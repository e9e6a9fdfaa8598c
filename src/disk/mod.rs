//! The only place that reaches files. On a computer it is the system's; in a browser, which has none for WebAssembly, it
//! is a tree of names in memory, whose contents the browser holds (`browser.rs`).
//!
//! The names are those of [`std::fs`], so that code above reads as usual: `use crate::disk as fs`. What [`Path`] finds out
//! about files by itself is here as functions.

#[cfg(target_family = "wasm")]
pub mod browser;
#[cfg(not(target_family = "wasm"))]
mod system;

use std::io;
use std::path::Path;

#[cfg(target_family = "wasm")]
use browser as place;
#[cfg(not(target_family = "wasm"))]
use system as place;

pub use place::{File, Map, TryLockError};
pub(crate) use place::{
    Metadata, copy, create_dir, create_dir_all, exchange, hard_link, map, metadata, process,
    read_at, read_dir, remove_dir, remove_dir_all, remove_file, rename, symlink_metadata,
    sync_folder,
};

/// Whether there is a file or a folder of this name.
pub fn exists(path: &Path) -> bool {
    metadata(path).is_ok()
}

/// Whether there is a file of this name.
pub fn is_file(path: &Path) -> bool {
    metadata(path).is_ok_and(|about| about.is_file())
}

/// Whether there is a folder of this name.
pub fn is_dir(path: &Path) -> bool {
    metadata(path).is_ok_and(|about| about.is_dir())
}

/// Reads a whole file.
///
/// # Errors
///
/// If it cannot be read.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |about| about.len() as usize));
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes)
}

/// Reads a whole file of text.
///
/// # Errors
///
/// If it cannot be read, or is not UTF-8.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
