//! `wgpt tokenizer`: trains, applies and describes byte-level BPE tokenizers.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use wgpt::checkpoint::files::write_bytes;
use wgpt::data::{self, Downloads, Sources, TokenWriter, Tokens};
use wgpt::{Error, Event, Result, Tokenizer};

use super::progress::Progress;
use super::{Outcome, number, output};

const EXAMPLES: &str = "\
Examples:
  wgpt tokenizer train book.txt --vocab 4000 --out tok
  wgpt tokenizer encode book.txt --tokenizer tok --out book.bin
  wgpt train --data book.bin --tokenizer tok
  echo \"15496 995\" | wgpt tokenizer decode --tokenizer gpt2-folder
  wgpt tokenizer info --tokenizer tok --json";

/// Train, apply and describe tokenizers
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Learn a vocabulary from text
    #[command(after_help = "Example:\n  wgpt tokenizer train a.txt folder/ --vocab 4000 --out tok")]
    Train {
        /// Files, folders, or stories, shakespeare, tinystories
        #[arg(value_name = "FILE", required = true)]
        files: Vec<String>,
        /// The most tokens; at least 257: the end of text and the bytes
        #[arg(long, value_name = "N")]
        vocab: usize,
        /// The folder to write tokenizer.json to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Turn text into token ids
    #[command(after_help = "Example:\n  wgpt tokenizer encode a.txt --tokenizer tok --out a.bin")]
    Encode {
        /// Files, folders, or stories, shakespeare, tinystories
        #[arg(value_name = "FILE", required = true)]
        files: Vec<String>,
        /// A folder with a tokenizer, or bytes
        #[arg(long, value_name = "DIR")]
        tokenizer: PathBuf,
        /// A token file for `wgpt train --data`; without it, the ids are printed
        #[arg(long, value_name = "FILE.bin")]
        out: Option<PathBuf>,
        /// What <|endoftext|> in a text file is: token, the end of a document and the line ends around it, as in training;
        /// text, so that decoding gives the file back
        #[arg(long, value_name = "AS", default_value = "token", hide_possible_values = true)]
        special: Special,
    },
    /// Turn token ids into text
    #[command(
        after_help = "Example:\n  echo 464,3797 | wgpt tokenizer decode --tokenizer gpt2-folder"
    )]
    Decode {
        /// Ids in text, or a token file (.bin) [default: ids from stdin]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// A folder with a tokenizer, or bytes
        #[arg(long, value_name = "DIR")]
        tokenizer: PathBuf,
    },
    /// Describe a tokenizer
    #[command(after_help = "Example:\n  wgpt tokenizer info --tokenizer runs/NAME --json")]
    Info {
        /// A folder with a tokenizer, or bytes
        #[arg(long, value_name = "DIR")]
        tokenizer: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What the end of a text is that is written out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Special {
    /// The token between two documents.
    Token,
    /// Text like any other.
    Text,
}

/// The most text to learn from, in bytes, taken evenly from all of it.
const LEARNED_BYTES: u64 = 1 << 30;

/// Runs the subcommand.
///
/// # Errors
///
/// If a file cannot be read or written, or an id is not in the vocabulary.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Train { files, vocab, out } => train(files, *vocab, out)?,
        Command::Encode { files, tokenizer, out, special } => {
            encode(files, &load(tokenizer)?, out.as_deref(), *special)?
        }
        Command::Decode { file, tokenizer } => decode(file.as_deref(), &load(tokenizer)?)?,
        Command::Info { tokenizer, json } => info(&load(tokenizer)?, *json),
    }
    Ok(Outcome::Good)
}

fn load(name: &Path) -> Result<Tokenizer> {
    match name.to_str() {
        Some("bytes") => Ok(Tokenizer::bytes()),
        _ => Tokenizer::load(name),
    }
}

/// The texts, on this machine.
pub(super) fn sources(files: &[String], progress: &mut Progress) -> Result<Sources> {
    let mut sources = Sources::parse(files)?;
    sources.fetch(&Downloads::from_env()?, &mut |at| {
        progress.show(&Event::Preparing {
            what: format!("downloading {}", at.name),
            done: at.done_bytes,
            total: at.total_bytes.unwrap_or(0),
        });
    })?;
    Ok(sources)
}

fn train(files: &[String], vocab: usize, out: &Path) -> Result<()> {
    let mut progress = Progress::new();
    let sources = sources(files, &mut progress)?;
    let what = format!("training a tokenizer of {vocab} tokens");
    progress.show(&Event::Preparing { what, done: 0, total: 0 });
    let sample = sources.sample(LEARNED_BYTES)?;
    let tokenizer = Tokenizer::train_documents(sample.iter().map(String::as_str), vocab)?;
    progress.end();
    std::fs::create_dir_all(out).map_err(|e| Error::io("creating", out, &e))?;
    let path = out.join("tokenizer.json");
    write_bytes(&path, tokenizer.to_json().as_bytes())?;
    if tokenizer.vocab_size() < vocab {
        output::log(&format!("the text has pairs for {} tokens only", tokenizer.vocab_size()));
    }
    output::line(&format!("{}: {} tokens", path.display(), tokenizer.vocab_size()));
    Ok(())
}

/// Whether a file is read as a token file, by its name.
fn is_token_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("bin"))
}

fn encode(
    files: &[String],
    tokenizer: &Tokenizer,
    out: Option<&Path>,
    special: Special,
) -> Result<()> {
    if let Some(path) = out.filter(|path| !is_token_file(path)) {
        return Err(Error::usage(format!(
            "--out {}: the name of a token file ends in .bin, or it would be read as text",
            path.display()
        )));
    }
    let mut progress = Progress::new();
    let sources = sources(files, &mut progress)?;
    let sources = if special == Special::Text { sources.undivided() } else { sources };
    let total = sources.bytes();
    let mut seen = |done: u64| {
        if out.is_some() {
            progress.show(&Event::Preparing { what: "encoding".into(), done, total });
        }
    };
    let encode = |text: &str| tokenizer.encode(text);
    let end = tokenizer.end_of_text();
    let Some(path) = out else {
        let mut first = true;
        let mut print = |ids: &[u32]| {
            let gap = if std::mem::take(&mut first) || ids.is_empty() { "" } else { " " };
            let words: Vec<String> = ids.iter().map(u32::to_string).collect();
            output::text(&format!("{gap}{}", words.join(" ")));
            Ok(())
        };
        data::encode(sources.documents(), &encode, end, &mut print, &mut seen)?;
        output::line("");
        return Ok(());
    };
    let mut writer = TokenWriter::create(path, tokenizer.vocab_size())?;
    data::encode(sources.documents(), &encode, end, &mut |ids| writer.push(ids), &mut seen)?;
    let tokens = writer.finish()?;
    progress.end();
    output::line(&format!("{}: {} tokens", path.display(), number::thousands(tokens.len() as u64)));
    Ok(())
}

fn decode(file: Option<&Path>, tokenizer: &Tokenizer) -> Result<()> {
    let ids = match file {
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

fn info(tokenizer: &Tokenizer, json: bool) {
    let ids = 0..tokenizer.vocab_size() as u32;
    let lengths = ids.filter_map(|id| Some((tokenizer.token_bytes(id)?.len(), id)));
    let longest = lengths.max_by_key(|(length, id)| (*length, std::cmp::Reverse(*id)));
    let longest = longest.and_then(|(_, id)| tokenizer.token_bytes(id)).unwrap_or_default();
    let longest = String::from_utf8_lossy(longest);
    let special: Vec<(&str, u32)> = tokenizer.special_tokens().collect();
    if json {
        let special = special.iter().map(|(text, id)| json!({ "text": text, "id": id }));
        output::json(&json!({
            "vocab_size": tokenizer.vocab_size(),
            "merges": tokenizer.merge_count(),
            "end_of_text": tokenizer.end_of_text(),
            "special_tokens": special.collect::<Vec<_>>(),
            "longest_token": longest,
        }));
        return;
    }
    output::line(&format!("vocabulary     {}", number::thousands(tokenizer.vocab_size() as u64)));
    output::line(&format!("merges         {}", number::thousands(tokenizer.merge_count() as u64)));
    output::line(&format!("longest token  {longest:?}"));
    for (text, id) in special {
        output::line(&format!("special        {id} {text}"));
    }
}
