//! Writes a model for other programs: a folder for Hugging Face's library with a card, or one file for llama.cpp.
//!
//! Parameters are processed in slices, from the device or from the model's own folder, so no second copy of the model
//! is in memory. The output becomes visible when it is complete.

pub mod card;
pub mod gguf;

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::{Fill, Layout, folder_of, has_adapters, model_folder, write_model_as};
use crate::disk;
use crate::error::{Error, Result, field};
use crate::files::{self, write_json};
use crate::gpt::Gpt;

/// Progress callback with parameters (written, total). If it fails, the export is aborted and its output removed.
pub type Progress<'a> = dyn FnMut(u64, u64) -> Result<()> + 'a;

/// The file name of the card.
const CARD: &str = "README.md";

/// Files of a model folder, besides its card, that do not depend on the layout of the weights, and are copied
/// unchanged.
const KEPT: [&str; 8] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
];

/// The settings of config.json that describe its files, and not the model.
const OF_THE_FILES: [&str; 6] =
    ["_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"];

/// Writes a model folder `out` for Hugging Face's library, with a card.
///
/// `source` is the origin of the model: its settings, its tokenizer's files and its card are kept, and if it belongs to
/// a run, the card describes the run. Adapters are merged; files that their folder does not have are taken from the
/// model that they belong to, except for its card, since the result is another model.
///
/// # Errors
///
/// If `out` exists and is not empty, a parameter does not fit the layout's number format, `progress` fails, or a file
/// operation fails. There is then no `out`, or it is empty as before.
pub fn folder(
    gpt: &mut Gpt,
    source: &Path,
    out: &Path,
    layout: Layout,
    progress: &mut Progress,
) -> Result<()> {
    refuse_taken(out)?;
    let source = folder_of(source);
    let base = model_folder(source)?;
    let base = folder_of(&base);
    make_parent(out)?;
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let card = card::card(&name, gpt, layout.float, source);
    let total = parameter_count(gpt);
    gpt.with_parameters(|model, fill| {
        files::write_folder(out, |dir| {
            write_model_as(dir, model, layout, &mut counted(fill, total, progress))?;
            keep_settings(base, dir)?;
            files::write_bytes(&dir.join(CARD), card.as_bytes())?;
            let card = (!has_adapters(source)).then(|| source.join(CARD));
            let kept = KEPT.map(|name| [source, base].map(|folder| folder.join(name)));
            let kept =
                kept.into_iter().filter_map(|all| all.into_iter().find(|file| disk::is_file(file)));
            kept.chain(card.filter(|card| disk::is_file(card)))
                .try_for_each(|file| copy_into(dir, &file))
        })
    })
}

fn copy_into(dir: &Path, file: &Path) -> Result<()> {
    let bytes = disk::read(file).map_err(|e| Error::io("reading", file, &e))?;
    files::write_bytes(&dir.join(file.file_name().unwrap_or_default()), &bytes)
}

/// Copies the source's settings into a new config.json, except those that describe its files.
fn keep_settings(source: &Path, dir: &Path) -> Result<()> {
    let (from, to) = (source.join("config.json"), dir.join("config.json"));
    if !disk::is_file(&from) {
        return Ok(());
    }
    let read = |path: &Path| -> Result<Map<String, Value>> {
        let text = disk::read(path).map_err(|e| Error::io("reading", path, &e))?;
        serde_json::from_slice(&text).map_err(|e| Error::input(format!("{}: {e}", path.display())))
    };
    let mut settings = read(&to)?;
    let kept = read(&from)?.into_iter().filter(|(name, _)| !OF_THE_FILES.contains(&name.as_str()));
    settings.extend(kept);
    settings.sort_keys();
    write_json(&to, &settings)
}

/// Rejects an existing path that is not an empty folder.
fn refuse_taken(out: &Path) -> Result<()> {
    let refused = |what| {
        Err(Error::usage(format!("{} {what}", out.display()))
            .hint(format!("give {} a new folder", field("out"))))
    };
    match disk::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            Some(_) => refused("is not empty"),
            None => Ok(()),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => refused("is not a folder"),
        Err(e) => Err(Error::io("reading", out, &e)),
    }
}

/// Creates the parent folder of `path`.
fn make_parent(path: &Path) -> Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => disk::create_dir_all(parent).map_err(|e| Error::io("creating", parent, &e)),
        None => Ok(()),
    }
}

/// Returns the number of a model's parameters, counting individual numbers.
pub fn parameter_count(gpt: &Gpt) -> u64 {
    let parameters = crate::model::parameters(gpt.config());
    parameters.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
}

/// Wraps `fill` to report the amount of requested data to `progress`.
fn counted<'a>(
    fill: &'a mut Fill,
    total: u64,
    progress: &'a mut Progress,
) -> impl FnMut(&str, usize, &mut [f32]) -> Result<()> + 'a {
    let mut done = 0;
    move |name, offset, out| {
        fill(name, offset, out)?;
        done += out.len() as u64;
        progress(done, total)
    }
}
