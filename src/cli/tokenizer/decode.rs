//! `wgpt tokenizer decode`: turns token ids into text.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use wgpt::data::Tokens;
use wgpt::{Error, Result};

use super::common::{is_token_file, load};
use crate::cli::output;

/// Turn token ids into text
#[derive(clap::Args)]
#[command(after_help = "Example:\n  echo 464,3797 | wgpt tokenizer decode --tokenizer gpt2-folder")]
pub struct Args {
    /// Decode the ids of a text file, or a token file (.bin) [default: ids from stdin]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Use the tokenizer of this folder, or bytes
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
}

/// Prints the text of ids.
///
/// # Errors
///
/// If the ids cannot be read, or are not in the vocabulary.
pub fn run(args: &Args) -> Result<()> {
    let tokenizer = load(&args.tokenizer)?;
    let mut stream = tokenizer.decode_stream();
    let mut print = |ids: &[u32]| stream.push_all(ids).map(|text| output::text(&text));
    match args.file.as_deref() {
        Some(path) if is_token_file(path) => {
            let tokens = Tokens::open(path)?;
            let mut ids = vec![0; AT_ONCE.min(tokens.len())];
            for start in (0..tokens.len()).step_by(AT_ONCE) {
                let range = start..tokens.len().min(start + AT_ONCE);
                let ids = &mut ids[..range.len()];
                tokens.copy_to(range, ids);
                print(ids)?;
            }
        }
        Some(path) => {
            let file = File::open(path).map_err(|e| Error::io("reading", path, &e))?;
            decode_lines(BufReader::new(file), &path.display().to_string(), &mut print)?;
        }
        None => decode_lines(std::io::stdin().lock(), "stdin", &mut print)?,
    }
    output::text(&stream.finish());
    Ok(())
}

/// The number of ids of a token file that are decoded at once.
const AT_ONCE: usize = 1 << 16;

/// Decodes the ids of each line.
fn decode_lines(
    lines: impl BufRead,
    place: &str,
    print: &mut impl FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    for line in lines.lines() {
        let line = line.map_err(|e| Error::input(format!("reading ids from {place}: {e}")))?;
        print(&parse_ids(&line, place)?)?;
    }
    Ok(())
}

/// Parses numbers with spaces, line ends or commas between them; brackets are ignored.
fn parse_ids(text: &str, place: &str) -> Result<Vec<u32>> {
    let between = |c: char| c.is_whitespace() || ",;[]".contains(c);
    let words = text.split(between).filter(|word| !word.is_empty());
    let parse = |word: &str| {
        word.parse().map_err(|_| {
            Error::input(format!("{place}: {word:?} is not a token id"))
                .hint("ids are whole numbers with spaces or commas between them")
        })
    };
    words.map(parse).collect()
}
