//! The user's cache folder: downloads, encoded data, compiled shaders, timings of kernels. All of it can be recreated.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::disk;
use crate::error::{Error, Result};
use crate::files;

/// The size of the SHA-256 at the beginning of a cached file, in bytes.
const SUM_BYTES: usize = 32;

/// Returns the folder that the variable `WGPT_CACHE` names, or else the system's cache folder; in a browser `/cache`.
///
/// # Errors
///
/// If the system provides no home folder for the user.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("WGPT_CACHE").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    if cfg!(target_family = "wasm") {
        return Ok(PathBuf::from("/cache"));
    }
    let dirs = directories::ProjectDirs::from("", "", "wgpt").ok_or_else(|| {
        Error::input("the user has no home folder to keep a cache in")
            .hint("set WGPT_CACHE to a folder")
    })?;
    Ok(dirs.cache_dir().to_owned())
}

/// Returns the bytes that [`keep`] stored in a file; `None` if there is no such file or it is damaged.
pub fn kept(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = disk::read(path).ok()?;
    let data = bytes.split_off(bytes.len().min(SUM_BYTES));
    (bytes == Sha256::digest(&data).as_slice()).then_some(data)
}

/// Stores bytes in a file after their SHA-256, since a driver must get back exactly the bytes that it returned.
///
/// # Errors
///
/// If a file operation fails.
pub fn keep(path: &Path, data: &[u8]) -> Result<()> {
    make_parent(path)?;
    files::write_bytes(path, &[Sha256::digest(data).as_slice(), data].concat())
}

/// Creates the folder of a file in the cache.
///
/// # Errors
///
/// If a file operation fails.
pub fn make_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    disk::create_dir_all(folder).map_err(|e| Error::io("making the cache folder", folder, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/file");
        assert_eq!(kept(&path), None);
        for data in [b"".as_slice(), b"some bytes"] {
            keep(&path, data).unwrap();
            assert_eq!(kept(&path).as_deref(), Some(data));
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 5, SUM_BYTES, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(kept(&path), None, "cut to {cut} bytes");
        }
        let mut flipped = whole;
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert_eq!(kept(&path), None);
    }
}
