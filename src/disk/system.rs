//! Files of the system.

pub use std::fs::{
    File, Metadata, TryLockError, copy, create_dir, create_dir_all, hard_link, metadata, read_dir,
    remove_dir, remove_dir_all, remove_file, rename, symlink_metadata,
};
use std::io;
use std::path::Path;

/// A file's contents, mapped into memory.
pub type Map = memmap2::Mmap;

/// Maps a file into memory. It must not be shortened while it is mapped.
///
/// # Errors
///
/// If the system refuses it.
#[allow(unsafe_code, reason = "mapping is the only way to read a file larger than memory in place")]
pub(crate) fn map(file: &File) -> io::Result<Map> {
    // SAFETY: the bytes are only read, and as plain integers, for which any value is sound. The caller must ensure that
    // nobody shortens the file meanwhile.
    unsafe { Map::map(file) }
}

/// Reads bytes of a file from `offset` on.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Reads bytes of a file from `offset` on.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (offset, out) = (offset + n as u64, &mut out[n..]),
        }
    }
    Ok(())
}

/// Returns the number of this process, by which its temporary files are told from those of others.
pub(crate) fn process() -> u32 {
    std::process::id()
}

/// Exchanges two names in one step.
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// Exchanges two names in one step.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub(crate) fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Forces a folder's list of names to the disk; Windows has no such call and needs none.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}
