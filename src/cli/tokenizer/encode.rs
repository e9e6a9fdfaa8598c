//! `wgpt tokenizer encode`: turns text into token ids.

use std::path::PathBuf;

use wgpt::data::{self, Document, Sources, TokenWriter};
use wgpt::tokenizer::AddedAs;
use wgpt::{Error, Event, Result};

use super::common::{end_of_text, is_token_file, load, sources};
use crate::cli::progress::Progress;
use crate::cli::{number, output};

/// Turn text into token ids
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wgpt tokenizer encode a.txt --tokenizer tok --out a.bin
  echo 'The cat sat.' | wgpt tokenizer encode --tokenizer tok")]
pub struct Args {
    /// Encode files, folders, or stories, shakespeare, tinystories [default: text from stdin]
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// Use the tokenizer of this folder, or bytes
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Write a token file for `wgpt train --data`; without it, the ids are printed
    #[arg(long, value_name = "FILE.bin")]
    out: Option<PathBuf>,
    /// How special tokens that a text file spells are read. token: as their ids, and <|endoftext|>, with the line ends around it,
    /// as the end of a document; text: as text, so that decoding gives the file back
    #[arg(long, value_name = "AS", default_value = "token", hide_possible_values = true)]
    special: Special,
}

/// How special tokens that a text spells are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Special {
    /// The tokens.
    Token,
    /// Text like any other.
    Text,
}

/// Encodes to a token file or to standard output.
///
/// # Errors
///
/// If a text cannot be read, or the file cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let Args { files, special, .. } = args;
    let (tokenizer, out, special) = (&load(&args.tokenizer)?, args.out.as_deref(), *special);
    if let Some(path) = out.filter(|path| !is_token_file(path)) {
        return Err(Error::usage(format!(
            "--out {}: the name of a token file ends in .bin, or it would be read as text",
            path.display()
        )));
    }
    let mut progress = Progress::new();
    let sources = match files.as_slice() {
        [] => None,
        files => Some(sources(files, &mut progress)?),
    };
    let sources = sources.map(|all| if special == Special::Text { all.undivided() } else { all });
    let total = sources.as_ref().map_or(0, Sources::bytes);
    let documents: Box<dyn Iterator<Item = Result<Document>> + '_> = match &sources {
        Some(sources) => Box::new(sources.documents()),
        None => Box::new(std::iter::once_with(stdin)),
    };
    let mut seen = |done: u64| {
        if out.is_some() {
            progress.show(&Event::Preparing { what: "encoding".into(), done, total });
        }
    };
    let encoder = tokenizer.encoder(match special {
        Special::Token => AddedAs::Tokens,
        Special::Text => AddedAs::Text,
    });
    let end = end_of_text(&args.tokenizer, tokenizer)?.separator();
    let Some(path) = out else {
        let mut first = true;
        let mut print = |ids: &[u32]| {
            let gap = if std::mem::take(&mut first) || ids.is_empty() { "" } else { " " };
            let words: Vec<String> = ids.iter().map(u32::to_string).collect();
            output::text(&format!("{gap}{}", words.join(" ")));
            Ok(())
        };
        data::encode(documents, encoder, end, &mut print, &mut seen)?;
        output::line("");
        return Ok(());
    };
    let mut writer = TokenWriter::create(path, tokenizer.vocab_size())?;
    data::encode(documents, encoder, end, &mut |ids| writer.push(ids), &mut seen)?;
    let tokens = writer.finish()?;
    progress.end();
    output::line(&format!("{}: {} tokens", path.display(), number::thousands(tokens.len() as u64)));
    Ok(())
}

/// Reads all of stdin, as one document.
fn stdin() -> Result<Document> {
    data::read_text(std::io::stdin(), "stdin").map(Document::whole)
}
