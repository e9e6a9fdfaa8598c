//! Files in a browser: a tree of names in memory. The contents of each file are a `Blob`, which the browser holds, outside
//! of WebAssembly's memory and perhaps on a disk; a file that the user chose is one, too. So a model of a gigabyte is
//! read in pieces, and a copy of a file costs nothing.
//!
//! Nothing here outlives the page: who wants that reads the blobs ([`blob`]) and puts them back ([`put`]). Blobs are read by
//! `FileReaderSync`, which only workers have.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::{Bound, Deref};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use js_sys::{Array, Uint8Array};
use wasm_bindgen::JsValue;
use web_sys::{Blob, FileReaderSync};

/// How much is written before it becomes a part of the blob.
const TAIL_BYTES: usize = 1 << 20;

thread_local! {
    static TREE: RefCell<Tree> = RefCell::default();
}

/// All names, and the contents of all files.
#[derive(Default)]
struct Tree {
    names: BTreeMap<PathBuf, Name>,
    contents: HashMap<u64, Contents>,
    next: u64,
}

/// What a name stands for.
#[derive(Clone, Copy)]
enum Name {
    Folder,
    /// A file, with the number of its contents.
    File(u64),
}

struct Contents {
    blob: Blob,
    /// Bytes that were written after the end of the blob.
    tail: Vec<u8>,
    /// The number of names and open files that use it.
    users: usize,
    modified: SystemTime,
}

impl Contents {
    fn len(&self) -> u64 {
        self.blob.size() as u64 + self.tail.len() as u64
    }

    /// Makes what was written a part of the blob.
    fn flush(&mut self) -> io::Result<()> {
        if !self.tail.is_empty() {
            let tail = Uint8Array::from(self.tail.as_slice());
            self.blob = joined(&[self.blob.clone().into(), tail.into()])?;
            self.tail.clear();
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.modified = now();
        if at == self.len() {
            self.tail.extend_from_slice(bytes);
            return if self.tail.len() < TAIL_BYTES { Ok(()) } else { self.flush() };
        }
        self.flush()?;
        let (at, size) = (at as f64, self.blob.size());
        let end = (at + bytes.len() as f64).min(size);
        let gap = Uint8Array::new_with_length((at - size).max(0.0) as u32);
        let (before, after) = (cut(&self.blob, 0.0, at.min(size))?, cut(&self.blob, end, size)?);
        let bytes = Uint8Array::from(bytes);
        self.blob = joined(&[before.into(), gap.into(), bytes.into(), after.into()])?;
        Ok(())
    }

    /// Reads from `at` on; returns the number of bytes, less than were wanted only at the end.
    fn read(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        self.flush()?;
        let (at, size) = (at as f64, self.blob.size());
        let end = (at + out.len() as f64).min(size);
        if at >= end {
            return Ok(0);
        }
        let reader = FileReaderSync::new().map_err(refused)?;
        let piece = reader.read_as_array_buffer(&cut(&self.blob, at, end)?).map_err(refused)?;
        let piece = Uint8Array::new(&piece);
        let out = &mut out[..piece.length() as usize];
        piece.copy_to(out);
        Ok(out.len())
    }
}

/// Returns a blob of these parts, one after the other.
fn joined(parts: &[JsValue]) -> io::Result<Blob> {
    let parts: Array = parts.iter().collect();
    Blob::new_with_blob_sequence(&parts).map_err(refused)
}

fn cut(blob: &Blob, from: f64, to: f64) -> io::Result<Blob> {
    blob.slice_with_f64_and_f64(from, to).map_err(refused)
}

/// What the browser refused, such as a file that was changed or moved since the user chose it.
fn refused(cause: JsValue) -> io::Error {
    let error = js_sys::Error::from(cause);
    io::Error::other(String::from(error.message()))
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(js_sys::Date::now().max(0.0) / 1e3)
}

fn not_found() -> io::Error {
    ErrorKind::NotFound.into()
}

/// Returns a path without `.`, `..` and what stands before the first folder.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            _ => {}
        }
    }
    plain
}

impl Tree {
    fn name(&self, path: &Path) -> io::Result<Name> {
        if path == Path::new("/") {
            return Ok(Name::Folder);
        }
        self.names.get(path).copied().ok_or_else(not_found)
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.name(path)? {
            Name::File(number) => Ok(number),
            Name::Folder => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn contents(&mut self, number: u64) -> io::Result<&mut Contents> {
        self.contents.get_mut(&number).ok_or_else(not_found)
    }

    fn need_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent().map(|parent| self.name(parent)) {
            Some(Ok(Name::Folder)) => Ok(()),
            Some(Ok(Name::File(_))) => Err(ErrorKind::NotADirectory.into()),
            _ => Err(not_found()),
        }
    }

    /// Gives contents a name; the contents that had the name lose it.
    fn set(&mut self, path: PathBuf, number: u64) -> io::Result<()> {
        self.need_parent(&path)?;
        if let Some(Name::Folder) = self.names.get(&path) {
            return Err(ErrorKind::IsADirectory.into());
        }
        self.contents(number)?.users += 1;
        if let Some(Name::File(old)) = self.names.insert(path, Name::File(number)) {
            self.release(old);
        }
        Ok(())
    }

    fn add(&mut self, blob: Blob) -> u64 {
        self.next += 1;
        let contents = Contents { blob, tail: vec![], users: 0, modified: now() };
        self.contents.insert(self.next, contents);
        self.next
    }

    /// Ends one use of contents; without any they are gone.
    fn release(&mut self, number: u64) {
        if let Some(contents) = self.contents.get_mut(&number) {
            contents.users -= 1;
            if contents.users == 0 {
                self.contents.remove(&number);
            }
        }
    }

    /// Returns all names below a folder.
    fn below(&self, folder: &Path) -> Vec<(PathBuf, Name)> {
        let after = (Bound::Excluded(folder.to_owned()), Bound::Unbounded);
        let names = self.names.range::<PathBuf, _>(after);
        let below = names.take_while(|(path, _)| path.starts_with(folder));
        below.map(|(path, name)| (path.clone(), *name)).collect()
    }

    fn remove(&mut self, path: &Path) {
        if let Some(Name::File(number)) = self.names.remove(path) {
            self.release(number);
        }
    }

    fn about(&mut self, name: Name) -> Metadata {
        match name {
            Name::Folder => Metadata { length: None, modified: SystemTime::UNIX_EPOCH },
            Name::File(number) => {
                let contents = &self.contents[&number];
                Metadata { length: Some(contents.len()), modified: contents.modified }
            }
        }
    }

    /// Takes a name and all below it out of the tree.
    fn take(&mut self, path: &Path) -> io::Result<Vec<(PathBuf, Name)>> {
        let own = (path.to_owned(), self.name(path)?);
        let mut all = self.below(path);
        all.insert(0, own);
        for (path, _) in &all {
            self.names.remove(path);
        }
        let relative = |(full, name): (PathBuf, Name)| {
            (full.strip_prefix(path).expect("it is below").to_owned(), name)
        };
        Ok(all.into_iter().map(relative).collect())
    }

    fn place(&mut self, path: &Path, all: Vec<(PathBuf, Name)>) {
        let full = |rest: PathBuf| match rest.as_os_str().is_empty() {
            true => path.to_owned(),
            false => path.join(rest),
        };
        self.names.extend(all.into_iter().map(|(rest, name)| (full(rest), name)));
    }
}

fn with<T>(act: impl FnOnce(&mut Tree) -> T) -> T {
    TREE.with(|tree| act(&mut tree.borrow_mut()))
}

/// Puts a file into the tree, with the folders above it, in place of one of this name.
///
/// # Errors
///
/// If there is a folder of this name, or a file where a folder must be.
pub fn put(path: &Path, blob: Blob) -> io::Result<()> {
    let path = plain(path);
    create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    with(|tree| {
        let number = tree.add(blob);
        tree.set(path, number).inspect_err(|_| drop(tree.contents.remove(&number)))
    })
}

/// Returns the contents of a file: the same object as long as they are not written.
///
/// # Errors
///
/// If there is no such file.
pub fn blob(path: &Path) -> io::Result<Blob> {
    with(|tree| {
        let number = tree.file(&plain(path))?;
        let contents = tree.contents(number)?;
        contents.flush()?;
        Ok(contents.blob.clone())
    })
}

/// Returns the paths of all files below a folder, with their sizes in bytes.
pub fn list(folder: &Path) -> Vec<(PathBuf, u64)> {
    with(|tree| {
        let file = |(path, name)| match name {
            Name::File(number) => Some((path, tree.contents.get(&number)?.len())),
            Name::Folder => None,
        };
        tree.below(&plain(folder)).into_iter().filter_map(file).collect()
    })
}

/// Removes a file, or a folder with all that is in it; nothing happens if there is none.
pub fn remove(path: &Path) {
    let path = plain(path);
    with(|tree| {
        tree.below(&path).iter().for_each(|(path, _)| tree.remove(path));
        tree.remove(&path);
    });
}

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
        // As the page ends, the tree may be gone before its files.
        let _ = TREE.try_with(|tree| tree.borrow_mut().release(self.number));
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
    length: Option<u64>,
    modified: SystemTime,
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

/// A name in a folder.
#[derive(Clone, Debug)]
pub(crate) struct DirEntry {
    path: PathBuf,
    about: Metadata,
}

impl DirEntry {
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn file_name(&self) -> OsString {
        self.path.file_name().unwrap_or_default().to_owned()
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        Ok(self.about)
    }

    pub(crate) fn file_type(&self) -> io::Result<Metadata> {
        Ok(self.about)
    }
}

/// Lists a folder, in the order of the names.
pub(crate) fn read_dir(
    folder: impl AsRef<Path>,
) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    let folder = plain(folder.as_ref());
    with(|tree| {
        if let Name::File(_) = tree.name(&folder)? {
            return Err(ErrorKind::NotADirectory.into());
        }
        let mut entries = tree.below(&folder);
        entries.retain(|(path, _)| path.parent() == Some(&folder));
        let entry = |(path, name)| Ok(DirEntry { path, about: tree.about(name) });
        Ok(entries.into_iter().map(entry).collect::<Vec<_>>().into_iter())
    })
}

pub(crate) fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    with(|tree| {
        let name = tree.name(&plain(path.as_ref()))?;
        Ok(tree.about(name))
    })
}

pub(crate) use metadata as symlink_metadata;

pub(crate) fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = plain(path.as_ref());
    with(|tree| {
        tree.need_parent(&path)?;
        if tree.name(&path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        tree.names.insert(path, Name::Folder);
        Ok(())
    })
}

pub(crate) fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = plain(path.as_ref());
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    above.into_iter().try_for_each(|folder| match metadata(folder) {
        Ok(about) if about.is_dir() => Ok(()),
        Ok(_) => Err(ErrorKind::NotADirectory.into()),
        Err(_) => create_dir(folder),
    })
}

pub(crate) fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = plain(path.as_ref());
    with(|tree| {
        tree.file(&path)?;
        tree.remove(&path);
        Ok(())
    })
}

pub(crate) fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = plain(path.as_ref());
    with(|tree| match (tree.name(&path)?, tree.below(&path).is_empty()) {
        (Name::Folder, true) => {
            tree.remove(&path);
            Ok(())
        }
        (Name::Folder, false) => Err(ErrorKind::DirectoryNotEmpty.into()),
        (Name::File(_), _) => Err(ErrorKind::NotADirectory.into()),
    })
}

pub(crate) fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    metadata(&path)?;
    remove(path.as_ref());
    Ok(())
}

pub(crate) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (plain(from.as_ref()), plain(to.as_ref()));
    with(|tree| {
        let name = tree.name(&from)?;
        tree.need_parent(&to)?;
        if from == to {
            return Ok(());
        }
        match (name, tree.name(&to)) {
            (Name::File(_), Ok(Name::Folder)) => return Err(ErrorKind::IsADirectory.into()),
            (Name::Folder, Ok(Name::File(_))) => return Err(ErrorKind::NotADirectory.into()),
            (Name::Folder, Ok(Name::Folder)) if !tree.below(&to).is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            _ => tree.remove(&to),
        }
        let all = tree.take(&from)?;
        tree.place(&to, all);
        Ok(())
    })
}

pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let (a, b) = (plain(a), plain(b));
    with(|tree| {
        tree.name(&b)?;
        let (of_a, of_b) = (tree.take(&a)?, tree.take(&b)?);
        tree.place(&b, of_a);
        tree.place(&a, of_b);
        Ok(())
    })
}

/// Gives a file a second name.
pub(crate) fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (plain(from.as_ref()), plain(to.as_ref()));
    with(|tree| {
        let number = tree.file(&from)?;
        if tree.name(&to).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        tree.set(to, number)
    })
}

/// Copies a file; the copy has the same blob.
pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    let blob = blob(from.as_ref())?;
    let to = plain(to.as_ref());
    with(|tree| {
        tree.need_parent(&to)?;
        let bytes = blob.size() as u64;
        let number = tree.add(blob);
        tree.set(to, number).map(|()| bytes)
    })
}

/// There is one process.
pub(crate) fn process() -> u32 {
    0
}

/// There is nothing to force to a disk.
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
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
