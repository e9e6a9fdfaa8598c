//! The names and the contents of all files.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use js_sys::{Array, Uint8Array};
use wasm_bindgen::JsValue;
use web_sys::{Blob, FileReaderSync};

use super::Metadata;

/// How much is written before it becomes a part of the blob.
const TAIL_BYTES: usize = 1 << 20;

thread_local! {
    static TREE: RefCell<Tree> = RefCell::default();
}

/// All names, and the contents of all files.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) names: BTreeMap<PathBuf, Name>,
    pub(super) contents: HashMap<u64, Contents>,
    next: u64,
}

/// What a name stands for.
#[derive(Clone, Copy)]
pub(super) enum Name {
    Folder,
    /// A file, with the number of its contents.
    File(u64),
}

pub(super) struct Contents {
    pub(super) blob: Blob,
    /// Bytes that were written after the end of the blob.
    pub(super) tail: Vec<u8>,
    /// The number of names and open files that use it.
    pub(super) users: usize,
    pub(super) modified: SystemTime,
}

impl Contents {
    pub(super) fn len(&self) -> u64 {
        self.blob.size() as u64 + self.tail.len() as u64
    }

    /// Makes what was written a part of the blob.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.tail.is_empty() {
            let tail = Uint8Array::from(self.tail.as_slice());
            self.blob = joined(&[self.blob.clone().into(), tail.into()])?;
            self.tail.clear();
        }
        Ok(())
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
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
    pub(super) fn read(&mut self, at: u64, out: &mut [u8]) -> io::Result<usize> {
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
pub(super) fn joined(parts: &[JsValue]) -> io::Result<Blob> {
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
pub(super) fn plain(path: &Path) -> PathBuf {
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
    pub(super) fn name(&self, path: &Path) -> io::Result<Name> {
        if path == Path::new("/") {
            return Ok(Name::Folder);
        }
        self.names.get(path).copied().ok_or_else(not_found)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.name(path)? {
            Name::File(number) => Ok(number),
            Name::Folder => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn contents(&mut self, number: u64) -> io::Result<&mut Contents> {
        self.contents.get_mut(&number).ok_or_else(not_found)
    }

    pub(super) fn need_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent().map(|parent| self.name(parent)) {
            Some(Ok(Name::Folder)) => Ok(()),
            Some(Ok(Name::File(_))) => Err(ErrorKind::NotADirectory.into()),
            _ => Err(not_found()),
        }
    }

    /// Gives contents a name; the contents that had the name lose it.
    pub(super) fn set(&mut self, path: PathBuf, number: u64) -> io::Result<()> {
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

    pub(super) fn add(&mut self, blob: Blob) -> u64 {
        self.next += 1;
        let contents = Contents { blob, tail: vec![], users: 0, modified: now() };
        self.contents.insert(self.next, contents);
        self.next
    }

    /// Ends one use of contents; without any they are gone.
    pub(super) fn release(&mut self, number: u64) {
        if let Some(contents) = self.contents.get_mut(&number) {
            contents.users -= 1;
            if contents.users == 0 {
                self.contents.remove(&number);
            }
        }
    }

    /// Returns all names below a folder.
    pub(super) fn below(&self, folder: &Path) -> Vec<(PathBuf, Name)> {
        let after = (Bound::Excluded(folder.to_owned()), Bound::Unbounded);
        let names = self.names.range::<PathBuf, _>(after);
        let below = names.take_while(|(path, _)| path.starts_with(folder));
        below.map(|(path, name)| (path.clone(), *name)).collect()
    }

    pub(super) fn remove(&mut self, path: &Path) {
        if let Some(Name::File(number)) = self.names.remove(path) {
            self.release(number);
        }
    }

    pub(super) fn about(&mut self, name: Name) -> Metadata {
        match name {
            Name::Folder => Metadata { length: None, modified: SystemTime::UNIX_EPOCH },
            Name::File(number) => {
                let contents = &self.contents[&number];
                Metadata { length: Some(contents.len()), modified: contents.modified }
            }
        }
    }

    /// Takes a name and all below it out of the tree.
    pub(super) fn take(&mut self, path: &Path) -> io::Result<Vec<(PathBuf, Name)>> {
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

    pub(super) fn place(&mut self, path: &Path, all: Vec<(PathBuf, Name)>) {
        let full = |rest: PathBuf| match rest.as_os_str().is_empty() {
            true => path.to_owned(),
            false => path.join(rest),
        };
        self.names.extend(all.into_iter().map(|(rest, name)| (full(rest), name)));
    }
}

pub(super) fn with<T>(act: impl FnOnce(&mut Tree) -> T) -> T {
    TREE.with(|tree| act(&mut tree.borrow_mut()))
}

/// Does the same, unless the tree is gone already, as the page ends.
pub(super) fn try_with(act: impl FnOnce(&mut Tree)) {
    let _ = TREE.try_with(|tree| act(&mut tree.borrow_mut()));
}
