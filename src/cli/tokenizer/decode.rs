//! `wgpt tokenizer decode`: token ids to text.

use std::io::Read;
use std::path::PathBuf;

use wgpt::data::Tokens;
use wgpt::{Error, Result};

use super::{is_token_file, load};
use crate::cli::output;

/// Turn token ids into text
#[derive(clap::Args)]
#[command(after_help = "Example:\n  echo 464,3797 | wgpt tokenizer decode --tokenizer gpt2-folder")]
pub struct Args {
    /// Ids in text, or a token file (.bin) [default: ids from stdin]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A folder with a tokenizer, or bytes
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
    let ids = match args.file.as_deref() {
        Some(path) if is_token_file(path) => {
            let tokens = Tokens::open(path)?;
            let mut ids = vec![0; tokens.len()];
            tokens.copy_to(0..tokens.len(), &mut ids);
            ids
        }
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, &e))?;
            parse_ids(&text, &path.display().to_string())?
        }
        None => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|e| Error::input(format!("reading ids from stdin: {e}")))?;
            parse_ids(&text, "stdin")?
        }
    };
    output::text(&tokenizer.decode_lossy(&ids)?);
    Ok(())
}

/// Numbers with spaces, line ends or commas between them; brackets around them do no harm.
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
