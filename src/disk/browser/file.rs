//! An open file, and what is known of files.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::tree::{Name, joined, plain, try_with, with};

/// An open file.
#[derive(Debug)]
pub struct File {
    number: u64,
    position: AtomicU64,
    appends: bool,
}

/// How a file is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    creates: bool,
    is_new: bool,
    truncates: bool,
    appends: bool,
}

impl OpenOptions {
    /// A file here is always readable.
    pub fn read(&mut self, _: bool) -> &mut OpenOptions {
        self
    }

    /// A file here is always writable.
    pub fn write(&mut self, _: bool) -> &mut OpenOptions {
        self
    }

    /// Whether it is created if there is none.
    pub fn create(&mut self, creates: bool) -> &mut OpenOptions {
        self.creates = creates;
        self
    }

    /// Whether it must not be there yet.
    pub fn create_new(&mut self, is_new: bool) -> &mut OpenOptions {
        self.is_new = is_new;
        self
    }

    /// Whether it becomes empty.
    pub fn truncate(&mut self, truncates: bool) -> &mut OpenOptions {
        self.truncates = truncates;
        self
    }

    /// Whether everything is written at its end.
    pub fn append(&mut self, appends: bool) -> &mut OpenOptions {
        self.appends = appends;
        self
    }

    /// Opens the file.
    ///
    /// # Errors
    ///
    /// If it is not there, or is there against [`OpenOptions::create_new`], or its folder is not.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = plain(path.as_ref());
        with(|tree| {
            let number = match tree.file(&path) {
                Ok(_) if self.is_new => return Err(ErrorKind::AlreadyExists.into()),
                Ok(number) => number,
                Err(error)
                    if error.kind() == ErrorKind::NotFound && (self.creates || self.is_new) =>
                {
                    let number = tree.add(joined(&[])?);
                    tree.set(path, number).inspect_err(|_| drop(tree.contents.remove(&number)))?;
                    number
                }
                Err(error) => return Err(error),
            };
            let contents = tree.contents(number)?;
            contents.users += 1;
            if self.truncates {
                (contents.blob, contents.tail) = (joined(&[])?, vec![]);
            }
            Ok(File { number, position: AtomicU64::new(0), appends: self.appends })
        })
    }
}

impl File {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::default().open(path)
    }

    /// Creates a file.
    ///
    /// # Errors
    ///
    /// If there is one, or its folder is not there.
    pub fn create_new(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::default().create_new(true).open(path)
    }

    /// Returns options to open a file with.
    pub fn options() -> OpenOptions {
        OpenOptions::default()
    }

    /// Returns what is known of the file.
    ///
    /// # Errors
    ///
    /// Never: an open file has its contents.
    pub fn metadata(&self) -> io::Result<Metadata> {
        with(|tree| Ok(tree.about(Name::File(self.number))))
    }

    /// There is nothing to wait for: a page's tree is in memory.
    ///
    /// # Errors
    ///
    /// If the browser refuses the bytes.
    pub fn sync_all(&self) -> io::Result<()> {
        with(|tree| tree.contents(self.number)?.flush())
    }

    /// There is no other process that could hold the file.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        Ok(())
    }

    /// Opens the file once more, at the same position.
    ///
    /// # Errors
    ///
    /// Never: an open file has its contents.
    pub fn try_clone(&self) -> io::Result<File> {
        with(|tree| {
            tree.contents(self.number)?.users += 1;
            let position = AtomicU64::new(self.position.load(Ordering::Relaxed));
            Ok(File { number: self.number, position, appends: self.appends })
        })
    }

    fn read_from_here(&self, out: &mut [u8]) -> io::Result<usize> {
        let at = self.position.load(Ordering::Relaxed);
        let read = with(|tree| tree.contents(self.number)?.read(at, out))?;
        self.position.store(at + read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn write_here(&self, bytes: &[u8]) -> io::Result<usize> {
        with(|tree| {
            let contents = tree.contents(self.number)?;
            let at =
                if self.appends { contents.len() } else { self.position.load(Ordering::Relaxed) };
            contents.write(at, bytes)?;
            self.position.store(at + bytes.len() as u64, Ordering::Relaxed);
            Ok(bytes.len())
        })
    }

    fn seek_to(&self, place: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match place {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(offset) => (self.position.load(Ordering::Relaxed), offset),
            SeekFrom::End(offset) => (self.metadata()?.len(), offset),
        };
        let at = base.checked_add_signed(offset).ok_or(ErrorKind::InvalidInput)?;
        self.position.store(at, Ordering::Relaxed);
        Ok(at)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        try_with(|tree| tree.release(self.number));
    }
}

impl Read for File {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read_from_here(out)
    }
}

impl Read for &File {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read_from_here(out)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_here(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_here(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.seek_to(place)
    }
}

/// Why a lock was refused; here none is.
#[derive(Debug)]
pub enum TryLockError {
    /// An error of the system.
    Error(io::Error),
    /// Another process holds the lock.
    WouldBlock,
}

/// What is known of a file or a folder.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// The length in bytes; `None` for a folder.
    pub(super) length: Option<u64>,
    pub(super) modified: SystemTime,
}

impl Metadata {
    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        self.length.is_some()
    }

    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        self.length.is_none()
    }

    /// There are no links here.
    pub fn is_symlink(&self) -> bool {
        false
    }

    /// Returns the length in bytes, 0 for a folder.
    #[expect(clippy::len_without_is_empty, reason = "the system's has none either")]
    pub fn len(&self) -> u64 {
        self.length.unwrap_or(0)
    }

    /// Returns when it was last written.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn modified(&self) -> io::Result<SystemTime> {
        Ok(self.modified)
    }
}

/// A file's contents, in memory.
#[derive(Debug)]
pub struct Map(Vec<u8>);

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Reads a file into memory.
///
/// # Errors
///
/// If the browser refuses it.
pub(crate) fn map(file: &File) -> io::Result<Map> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    read_at(file, 0, &mut bytes)?;
    Ok(Map(bytes))
}

/// Reads bytes of a file from `offset` on.
pub(crate) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    match with(|tree| tree.contents(file.number)?.read(offset, out))? {
        read if read == out.len() => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}
