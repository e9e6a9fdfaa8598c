//! `wgpt tokenizer info`: what a tokenizer is.

use std::path::PathBuf;

use serde_json::json;
use wgpt::Result;

use super::load;
use crate::cli::{number, output};

/// Describe a tokenizer
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wgpt tokenizer info --tokenizer runs/NAME --json")]
pub struct Args {
    /// A folder with a tokenizer, or bytes
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints what is known of a tokenizer.
///
/// # Errors
///
/// If it cannot be read.
pub fn run(args: &Args) -> Result<()> {
    let tokenizer = load(&args.tokenizer)?;
    let ids = 0..tokenizer.vocab_size() as u32;
    let lengths = ids.filter_map(|id| Some((tokenizer.token_bytes(id)?.len(), id)));
    let longest = lengths.max_by_key(|(length, id)| (*length, std::cmp::Reverse(*id)));
    let longest = longest.and_then(|(_, id)| tokenizer.token_bytes(id)).unwrap_or_default();
    let longest = String::from_utf8_lossy(longest);
    let special: Vec<(&str, u32)> = tokenizer.special_tokens().collect();
    if args.json {
        let special = special.iter().map(|(text, id)| json!({ "text": text, "id": id }));
        output::json(&json!({
            "vocab_size": tokenizer.vocab_size(),
            "merges": tokenizer.merge_count(),
            "end_of_text": tokenizer.end_of_text(),
            "special_tokens": special.collect::<Vec<_>>(),
            "longest_token": longest,
        }));
        return Ok(());
    }
    output::line(&format!("vocabulary     {}", number::thousands(tokenizer.vocab_size() as u64)));
    output::line(&format!("merges         {}", number::thousands(tokenizer.merge_count() as u64)));
    output::line(&format!("longest token  {longest:?}"));
    for (text, id) in special {
        output::line(&format!("special        {id} {text}"));
    }
    Ok(())
}
