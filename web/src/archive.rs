//! Models in one file: ZIP archives, which every system opens.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use web_sys::Blob;
use wgpt::disk::{File, browser};
use wgpt::{Error, Result, checkpoint};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Where an archive is while it is written or read.
const PLACE: &str = "/archive.zip";

/// Packs the files of the model at a path into a folder that is named like the path. Numbers of a model hardly become
/// smaller, so they are stored as they are.
///
/// # Errors
///
/// If there is no model, or the browser refuses a file.
pub fn pack(path: &Path) -> Result<Blob> {
    let model = checkpoint::model_at(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let place = Path::new(PLACE);
    let failed = |error: io::Error| Error::io("packing", path, &error);
    browser::remove(place);
    let mut out = ZipWriter::new(File::create_new(place).map_err(failed)?);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (file, bytes) in
        browser::list(&model).into_iter().filter(|(file, _)| is_of_model(&model, file))
    {
        let inside = format!("{name}/{}", file.file_name().unwrap_or_default().to_string_lossy());
        let options = options.large_file(bytes >= u64::from(u32::MAX));
        out.start_file(inside, options).map_err(|error| failed(error.into()))?;
        let mut from = File::open(&file).map_err(failed)?;
        copy(&mut from, &mut out).map_err(failed)?;
    }
    out.finish().map_err(|error| failed(error.into()))?;
    let blob = browser::blob(place).map_err(failed)?;
    browser::remove(place);
    Ok(blob)
}

/// Whether a file is part of the model in a folder, and not of a run there.
fn is_of_model(folder: &Path, file: &Path) -> bool {
    const OF_A_RUN: [&str; 6] =
        ["run.json", "tokens.bin", "tokens.json", "variants.json", "metrics.jsonl", "loss.svg"];
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.parent() == Some(folder) && !name.starts_with('.') && !OF_A_RUN.contains(&&*name)
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
    browser::put(place, archive.clone()).map_err(|error| failed(&error))?;
    let unpacked = (|| {
        let mut zip = ZipArchive::new(File::open(place)?).map_err(io::Error::from)?;
        let mut files = vec![];
        for i in 0..zip.len() {
            let entry = zip.by_index(i).map_err(io::Error::from)?;
            let name =
                entry.enclosed_name().ok_or_else(|| io::Error::other("a name leads out of it"))?;
            if entry.is_file() {
                files.push((i, name));
            }
        }
        let shared = shared(files.iter().map(|(_, name)| name.as_path()));
        for (i, name) in files {
            let mut entry = zip.by_index(i).map_err(io::Error::from)?;
            let to = folder.join(name.strip_prefix(&shared).unwrap_or(&name));
            browser::put(&to, Blob::new().map_err(|_| io::Error::other("no blob"))?)?;
            let mut out = File::options().write(true).open(&to)?;
            copy(&mut entry, &mut out)?;
        }
        Ok(())
    })();
    browser::remove(place);
    unpacked.map_err(|error: io::Error| failed(&error))
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
