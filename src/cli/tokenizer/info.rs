//! `wgpt tokenizer info`: describes a tokenizer, and shows how it splits a text.

use std::cmp::Reverse;
use std::path::PathBuf;

use serde_json::json;
use wgpt::tokenizer::AddedAs;
use wgpt::{Result, Tokenizer, data};

use super::common::{end_of_text, load, sources};
use crate::cli::progress::Progress;
use crate::cli::{number, output};

/// Describe a tokenizer, and show how it cuts a text
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wgpt tokenizer info --tokenizer runs/NAME --json
  wgpt tokenizer info book.txt --tokenizer tok
  wgpt tokenizer info --tokenizer tok --show \"The cat sat on the mat.\"")]
pub struct Args {
    /// Measure these texts: bytes per token
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// Describe the tokenizer of this folder, or bytes
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Show the tokens of this text: in colours on a terminal, else with bars between them
    #[arg(long, value_name = "TEXT")]
    show: Option<String>,
    /// List the N longest tokens
    #[arg(long, value_name = "N", default_value_t = 10)]
    longest: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The sizes of a text, before and after tokenization.
struct Measured {
    bytes: u64,
    tokens: u64,
}

impl Measured {
    fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens.max(1) as f64
    }
}

/// Prints a description of a tokenizer.
///
/// # Errors
///
/// If it or a text cannot be read.
pub fn run(args: &Args) -> Result<()> {
    let tokenizer = load(&args.tokenizer)?;
    let end = end_of_text(&args.tokenizer, &tokenizer)?;
    let measured = match args.files.as_slice() {
        [] => None,
        files => Some(measure(files, &tokenizer)?),
    };
    let longest = longest_tokens(&tokenizer, args.longest);
    let special: Vec<(&str, u32)> = tokenizer.special_tokens().collect();
    if args.json {
        let special = special.iter().map(|(text, id)| json!({ "text": text, "id": id }));
        output::json(&json!({
            "vocab_size": tokenizer.vocab_size(),
            "merges": tokenizer.merge_count(),
            "end_of_text": end.separator(),
            "special_tokens": special.collect::<Vec<_>>(),
            "longest_token": longest.first(),
            "longest_tokens": longest,
            "bytes": measured.as_ref().map(|measured| measured.bytes),
            "tokens": measured.as_ref().map(|measured| measured.tokens),
            "bytes_per_token": measured.as_ref().map(Measured::bytes_per_token),
            "shown": args.show.as_deref().map(|text| tokenizer.encode_with_special(text)),
        }));
        return Ok(());
    }
    output::line(&format!("vocabulary      {}", number::thousands(tokenizer.vocab_size() as u64)));
    output::line(&format!("merges          {}", number::thousands(tokenizer.merge_count() as u64)));
    for (text, id) in special {
        output::line(&format!("special         {id} {text}"));
    }
    let longest: Vec<String> = longest.iter().map(|token| format!("{token:?}")).collect();
    output::line(&format!("longest tokens  {}", longest.join(" ")));
    if let Some(measured) = measured {
        output::line(&format!(
            "bytes per token {:.2} ({} bytes, {} tokens)",
            measured.bytes_per_token(),
            number::thousands(measured.bytes),
            number::thousands(measured.tokens)
        ));
    }
    if let Some(text) = &args.show {
        output::line(&shown(&tokenizer, text, output::colours(&std::io::stdout()))?);
    }
    Ok(())
}

/// Returns the longest tokens, without special ones: the longest first, then by id.
fn longest_tokens(tokenizer: &Tokenizer, most: usize) -> Vec<String> {
    let special: Vec<u32> = tokenizer.special_tokens().map(|(_, id)| id).collect();
    let ids = (0..tokenizer.vocab_size() as u32).filter(|id| !special.contains(id));
    let mut tokens: Vec<&[u8]> = ids.filter_map(|id| tokenizer.token_bytes(id)).collect();
    tokens.sort_by_key(|token| Reverse(token.len()));
    tokens.iter().take(most).map(|token| String::from_utf8_lossy(token).into_owned()).collect()
}

fn measure(files: &[String], tokenizer: &Tokenizer) -> Result<Measured> {
    let mut progress = Progress::new();
    let sources = sources(files, &mut progress)?;
    let total = sources.bytes();
    let mut measured = Measured { bytes: 0, tokens: 0 };
    data::encode(
        sources.documents(),
        tokenizer.encoder(AddedAs::Tokens),
        None,
        &mut |ids| {
            measured.tokens += ids.len() as u64;
            Ok(())
        },
        &mut |done| {
            measured.bytes = done;
            progress.bytes("measuring", done, total);
        },
    )?;
    progress.end();
    Ok(measured)
}

/// Returns a text split into its tokens. Tokens that end within a character are shown together.
fn shown(tokenizer: &Tokenizer, text: &str, colours: bool) -> Result<String> {
    const BACKGROUNDS: [u8; 5] = [44, 42, 45, 46, 43];
    let mut stream = tokenizer.decode_stream();
    let mut parts = Vec::new();
    for id in tokenizer.encode_with_special(text) {
        let part = stream.push(id)?;
        if !part.is_empty() {
            parts.push(part);
        }
    }
    if !colours {
        return Ok(parts.join("|"));
    }
    let coloured = parts.iter().zip(BACKGROUNDS.iter().cycle());
    Ok(coloured.map(|(part, colour)| format!("\x1b[30;{colour}m{part}\x1b[0m")).collect())
}
