//! Writes files and folders that are complete or absent, even if the process is killed at any time.
//!
//! A file is written under a temporary name in the same folder, forced to the disk, renamed, and
//! then its folder is forced to the disk. A folder is written as a temporary sibling in the same
//! way; if a folder of that name exists, the two are exchanged in one step, if the system supports it.
//! A killed process leaves temporary names behind that [`clean`] recognises.
//!
//! Windows refuses to rename or remove what another program has open, which a virus scanner does with every new file:
//! there it is tried again for some seconds.

use std::ffi::OsStr;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::Stopwatch;
use crate::disk::{self, File};
use crate::error::{Error, Result};
use crate::wait;

/// The part of a temporary's name between the file's name and the id of the process that writes it.
const TEMPORARY: &str = ".wgpt-tmp-";
/// The same part for a folder that was moved aside in order to be replaced.
const REPLACED: &str = ".wgpt-old-";
/// How long a name that another program has open is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes the file `path` as a whole: the output of `write` becomes visible only after `write` succeeds.
///
/// # Errors
///
/// If `write` or a file operation fails; the file is then unchanged.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let mut new = NewFile::create(path)?;
    write(&mut new.out)?;
    new.finish()
}

/// A file that gets its name when it is complete; if it is dropped before, nothing of it is left.
pub(crate) struct NewFile {
    path: PathBuf,
    /// The contents.
    pub out: BufWriter<File>,
    temporary: Temporary,
}

impl NewFile {
    /// Creates it under a temporary name beside `path`.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub(crate) fn create(path: &Path) -> Result<NewFile> {
        let temporary = Temporary { path: beside(path, TEMPORARY)? };
        let file =
            File::create_new(&temporary.path).map_err(|e| Error::io("creating", path, &e))?;
        Ok(NewFile {
            path: path.to_owned(),
            out: BufWriter::with_capacity(1 << 18, file),
            temporary,
        })
    }

    /// Forces it to the disk and gives it its name.
    ///
    /// # Errors
    ///
    /// If the disk is full or the file cannot be renamed.
    pub(crate) fn finish(self) -> Result<()> {
        let NewFile { path, out, temporary } = self;
        let file = out.into_inner().map_err(|e| Error::io("writing", &path, e.error()))?;
        file.sync_all().map_err(|e| Error::io("writing", &path, &e))?;
        drop(file);
        rename(&temporary.path, &path).map_err(|e| Error::io("renaming to", &path, &e))?;
        sync_parent(&path)
    }
}

/// Writes the given bytes with [`write_file`].
///
/// # Errors
///
/// If a file operation fails.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |out| out.write_all(bytes).map_err(|e| Error::io("writing", path, &e)))
}

/// Writes the folder `path` as a whole: `write` fills a temporary folder, which then
/// replaces `path`, even if that exists.
///
/// # Errors
///
/// If `write` or a file operation fails; an existing folder is then unchanged.
pub fn write_folder(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = Temporary { path: beside(path, TEMPORARY)? };
    let failed = |doing: &'static str| move |e| Error::io(doing, path, &e);
    disk::create_dir(&temporary.path).map_err(failed("creating"))?;
    write(&temporary.path)?;
    sync_tree(&temporary.path).map_err(failed("writing"))?;
    if disk::symlink_metadata(path).is_err() {
        rename(&temporary.path, path).map_err(failed("renaming to"))?;
    } else if disk::exchange(&temporary.path, path).is_err() {
        // The system cannot exchange two names: between these two renames there is no folder of
        // this name, and `clean` restores the old one if the process is killed there.
        let old = beside(path, REPLACED)?;
        rename(path, &old).map_err(failed("replacing"))?;
        if let Err(e) = rename(&temporary.path, path) {
            // If this fails too, the old folder is still there for `clean`.
            let _ = rename(&old, path);
            return Err(Error::io("replacing", path, &e));
        }
        remove(&old).map_err(failed("removing the old"))?;
    }
    sync_parent(path)
}

/// Removes a folder so that it is never visible in a half-removed state.
///
/// # Errors
///
/// If a file operation fails.
pub fn remove_folder(path: &Path) -> Result<()> {
    let temporary = beside(path, TEMPORARY)?;
    rename(path, &temporary).map_err(|e| Error::io("removing", path, &e))?;
    remove(&temporary).map_err(|e| Error::io("removing", path, &e))
}

/// Removes leftovers of killed processes in the folder `dir`, and restores a folder that one of
/// them had moved aside. No other process may be writing in the folder.
///
/// # Errors
///
/// If a file operation fails.
pub fn clean(dir: &Path) -> Result<()> {
    let entries = disk::read_dir(dir).map_err(|e| Error::io("reading", dir, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io("reading", dir, &e))?.path();
        let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        if let Some(original) = original_name(&name, REPLACED) {
            let original = dir.join(original);
            if disk::symlink_metadata(&original).is_err() {
                rename(&path, &original).map_err(|e| Error::io("putting back", &original, &e))?;
                continue;
            }
        } else if original_name(&name, TEMPORARY).is_none() {
            continue;
        }
        remove(&path).map_err(|e| Error::io("removing", &path, &e))?;
    }
    Ok(())
}

/// Whether `name` is the name of a temporary, which was left by a killed process or is being written.
pub fn is_temporary(name: &str) -> bool {
    original_name(name, TEMPORARY).or_else(|| original_name(name, REPLACED)).is_some()
}

/// Gives the file `from` a second name `to`, replacing an existing file in one step. If the
/// file system has no hard links, copies the file. Use it only for files that are replaced and never modified.
///
/// # Errors
///
/// If a file operation fails.
pub fn link_file(from: &Path, to: &Path) -> Result<()> {
    let temporary = Temporary { path: beside(to, TEMPORARY)? };
    if disk::hard_link(from, &temporary.path).is_err() {
        let copied = disk::copy(from, &temporary.path).and_then(|_| File::open(&temporary.path));
        copied.and_then(|file| file.sync_all()).map_err(|e| Error::io("writing", to, &e))?;
    }
    rename(&temporary.path, to).map_err(|e| Error::io("renaming to", to, &e))?;
    sync_parent(to)
}

/// A temporary file or folder. When this is dropped, the path is removed if it still exists.
struct Temporary {
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename nothing is left here, and `clean` removes the rest if this fails.
        let _ = remove(&self.path);
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    if disk::symlink_metadata(path)?.is_dir() {
        patiently(|| disk::remove_dir_all(path))
    } else {
        patiently(|| disk::remove_file(path))
    }
}

/// Gives a file or a folder another name; a file of that name is replaced.
///
/// # Errors
///
/// If the system refuses.
pub(crate) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    patiently(|| disk::rename(from, to))
}

/// Does something with names; if the system refuses because another program has a file open, again until it is closed.
fn patiently<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let clock = Stopwatch::start();
    loop {
        match attempt() {
            Err(cause) if is_in_use(&cause) && clock.elapsed() < PATIENCE => wait::for_time(PAUSE),
            result => return result,
        }
    }
}

/// Whether a refusal can mean that another program has a file open. Only Windows has such refusals.
fn is_in_use(cause: &std::io::Error) -> bool {
    /// `ERROR_ACCESS_DENIED`, `ERROR_SHARING_VIOLATION`, `ERROR_DIR_NOT_EMPTY` (a removed file that is still open).
    const CODES: [i32; 3] = [5, 32, 145];
    cfg!(windows) && cause.raw_os_error().is_some_and(|code| CODES.contains(&code))
}

/// Returns a hidden name in the folder of `path` that no other thread or process uses.
fn beside(path: &Path, mark: &str) -> Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        Error::input(format!("{} does not name a file or a folder", path.display()))
    })?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let hidden = format!(".{}{mark}{}-{count}", name.to_string_lossy(), disk::process());
    Ok(path.with_file_name(hidden))
}

/// Returns the original name for a temporary called `name`: `.NAME<mark>PID-COUNT`.
fn original_name<'a>(name: &'a str, mark: &str) -> Option<&'a str> {
    let (original, writer) = name.strip_prefix('.')?.rsplit_once(mark)?;
    let (process, count) = writer.split_once('-')?;
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (number(process) && number(count) && !original.is_empty()).then_some(original)
}

/// Forces the entry of `path` in its folder to the disk, after a rename to `path`.
///
/// # Errors
///
/// If a file operation fails.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    disk::sync_folder(parent).map_err(|e| Error::io("writing", parent, &e))
}

/// Forces everything under a folder to the disk.
fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in disk::read_dir(dir)? {
        let path = entry?.path();
        if disk::is_dir(&path) {
            sync_tree(&path)?;
        } else {
            // Windows needs a handle with write access for this.
            File::options().read(true).write(true).open(&path)?.sync_all()?;
        }
    }
    disk::sync_folder(dir)
}

/// Writes a value as a whole file of indented JSON with a newline at the end.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::input(format!("writing {}: {e}", path.display())))?;
    text.push('\n');
    write_bytes(path, text.as_bytes())
}

/// Returns the SHA-256 of an open file in hexadecimal, from its beginning on. `path` is for error messages.
///
/// On Windows a locked file can be read only by the handle that holds the lock, so this takes the handle.
///
/// # Errors
///
/// If the file cannot be read.
pub(crate) fn sha256(file: &mut File, path: &Path) -> Result<String> {
    let refused = |cause| Error::io("reading", path, &cause);
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    file.rewind().map_err(refused)?;
    loop {
        match file.read(&mut buffer).map_err(refused)? {
            0 => break,
            read => sha256.update(&buffer[..read]),
        }
    }
    Ok(sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
