//! Models in one file: ZIP archives, which every system opens.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use web_sys::Blob;
use wgpt::backend::Device;
use wgpt::disk::{File, browser};
use wgpt::{Error, Gpt, Result, checkpoint};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Where an archive is while it is written or read.
const PLACE: &str = "/archive.zip";
/// Where the model is that an archive is made of.
const PACKED: &str = "/packed";

/// Packs the model at a path, as [`Gpt::save`] writes it, into a folder that is named like the path. Numbers of a model hardly
/// become smaller, so they are stored as they are.
///
/// # Errors
///
/// If there is no model, or the browser refuses a file.
pub fn pack(path: &Path) -> Result<Blob> {
    let name = path.file_stem().unwrap_or_default();
    let folder = Path::new(PACKED).join(name);
    browser::create_dir_all(PACKED).map_err(|error| Error::io("packing", path, &error))?;
    // The weights come from their files: no device has a part in it.
    let saved = Gpt::load(&checkpoint::model_at(path)?, Device::Cpu)?.save(&folder);
    let zipped = saved
        .and_then(|()| zip(Path::new(PACKED)).map_err(|error| Error::io("packing", path, &error)));
    for place in [PACKED, PLACE] {
        browser::remove(Path::new(place));
    }
    zipped
}

/// Returns an archive of all files below a folder, under their names from there on.
fn zip(folder: &Path) -> io::Result<Blob> {
    let place = Path::new(PLACE);
    browser::remove(place);
    let mut out = ZipWriter::new(File::create_new(place)?);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (file, bytes) in browser::list(folder) {
        let inside = file.strip_prefix(folder).expect("it is below").to_string_lossy();
        out.start_file(inside, options.large_file(bytes >= u64::from(u32::MAX)))?;
        copy(&mut File::open(&file)?, &mut out)?;
    }
    out.finish()?;
    browser::blob(place)
}

/// Puts the files of an archive below a folder, without the folder that all of them share there.
///
/// # Errors
///
/// If it is no ZIP archive, is damaged, or has names that lead out of it.
pub fn unpack(archive: Blob, folder: &Path) -> Result<()> {
    let place = Path::new(PLACE);
    let failed = |what: &dyn std::fmt::Display| {
        Error::input(format!("the archive cannot be opened: {what}"))
            .hint("is it a ZIP archive that is whole?")
    };
    browser::put(place, archive).map_err(|error| failed(&error))?;
    let unpacked = extract(place, folder);
    browser::remove(place);
    unpacked.map_err(|error| failed(&error))
}

fn extract(archive: &Path, folder: &Path) -> io::Result<()> {
    let mut zip = ZipArchive::new(File::open(archive)?)?;
    let mut files = vec![];
    for i in 0..zip.len() {
        let entry = zip.by_index(i)?;
        let name =
            entry.enclosed_name().ok_or_else(|| io::Error::other("a name leads out of it"))?;
        if entry.is_file() {
            files.push((i, name));
        }
    }
    let shared = shared(files.iter().map(|(_, name)| name.as_path()));
    for (i, name) in files {
        let mut entry = zip.by_index(i)?;
        let to = folder.join(name.strip_prefix(&shared).unwrap_or(&name));
        browser::put(&to, Blob::new().map_err(|_| io::Error::other("no blob"))?)?;
        let mut out = File::options().write(true).open(&to)?;
        copy(&mut entry, &mut out)?;
    }
    Ok(())
}

/// Returns the folder in which all files lie, empty if there is none.
fn shared<'a>(mut files: impl Iterator<Item = &'a Path>) -> PathBuf {
    let first = |file: &'a Path| match file.components().next() {
        Some(Component::Normal(name)) if file.components().nth(1).is_some() => PathBuf::from(name),
        _ => PathBuf::new(),
    };
    let folder = files.next().map(first).unwrap_or_default();
    if files.all(|file| first(file) == folder) { folder } else { PathBuf::new() }
}

/// Copies in pieces of a megabyte, since each piece that is read costs a call of the browser.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; 1 << 20];
    loop {
        match from.read(&mut piece)? {
            0 => return to.flush(),
            read => to.write_all(&piece[..read])?,
        }
    }
}
