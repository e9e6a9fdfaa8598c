//! Functions that the subcommands of `wgpt tokenizer` share.

use std::path::Path;

use wgpt::checkpoint::{EndOfText, TextFiles};
use wgpt::data::{Downloads, Sources};
use wgpt::{Event, Result, Tokenizer};

use crate::cli::output;
use crate::cli::progress::Progress;

/// Loads the tokenizer in a folder or a file, or `bytes`.
pub fn load(name: &Path) -> Result<Tokenizer> {
    match name.to_str() {
        Some("bytes") => Ok(Tokenizer::bytes()),
        _ => Tokenizer::load(name),
    }
}

/// Returns the end of text from a tokenizer and the files beside it; reports the oddities of the files.
pub fn end_of_text(name: &Path, tokenizer: &Tokenizer) -> Result<EndOfText> {
    let files = match name.to_str() {
        Some("bytes") => TextFiles::default(),
        _ => TextFiles::of_tokenizer(name, tokenizer)?,
    };
    let (end, notices) = files.end_of_text(Some(tokenizer));
    notices.iter().for_each(|notice| output::log(notice));
    Ok(end)
}

/// Returns the texts, after downloading those that are missing; reports the ones that were left out.
pub fn sources(files: &[String], progress: &mut Progress) -> Result<Sources> {
    let mut sources = Sources::parse(files)?;
    sources.notes().iter().for_each(|note| output::log(note));
    sources.fetch(&Downloads::from_env()?, &mut |at| {
        progress.show(&Event::Preparing {
            what: format!("downloading {}", at.name),
            done: at.done_bytes,
            total: at.total_bytes.unwrap_or(0),
        });
    })?;
    Ok(sources)
}

/// Returns whether a file is read as a token file, by its name.
pub fn is_token_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("bin"))
}
