//! Files in a browser: a tree of names in memory. The contents of each file are a `Blob`, which the browser holds, outside
//! of WebAssembly's memory and perhaps on a disk; a file that the user chose is one, too. So a model of a gigabyte is
//! read in pieces, and a copy of a file costs nothing.
//!
//! Nothing here outlives the page: who wants that reads the blobs ([`blob`]) and puts them back ([`put`]). Blobs are read by
//! `FileReaderSync`, which only workers have.

mod file;
mod tree;

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use web_sys::Blob;

pub use file::{File, Map, Metadata, OpenOptions, TryLockError};
pub(crate) use file::{map, read_at};
use tree::{Name, plain, with};

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

/// Creates a folder, and those above it.
///
/// # Errors
///
/// If there is a file of one of these names.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
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
