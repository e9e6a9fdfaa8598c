//! `wgpt data show`: the text that conversations become, with what is learned of it.

use std::io;

use serde_json::json;
use wgpt::Result;
use wgpt::chat::{Fit, Labelled, Long};
use wgpt::data::{ConversationFile, Counts};

use super::common::{ChatArgs, Reading};
use crate::cli::outcome::Outcome;
use crate::cli::output;

/// Print what conversations become, and what is learned of them: coloured in a terminal, else between ⟦ and ⟧
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wgpt data show chats.jsonl --model runs/NAME/best
  wgpt data show chats.jsonl --model runs/NAME/best --limit 0        only the counts
  wgpt data show chats.jsonl --model runs/NAME/best --tokens         a bar between any two tokens")]
pub struct Args {
    #[command(flatten)]
    chats: ChatArgs,
    /// Print the first N conversations
    #[arg(long, value_name = "N", default_value_t = 3)]
    limit: usize,
    /// Put a bar between any two tokens
    #[arg(long)]
    tokens: bool,
    /// Print one JSON object: for each conversation its tokens, and whether each is learned
    #[arg(long)]
    json: bool,
}

/// The marks around what is learned.
struct Paint {
    on: &'static str,
    off: &'static str,
    bar: &'static str,
}

/// Green for what is learned, grey for what is not.
const COLOURS: Paint = Paint { on: "\u{1b}[1;32m", off: "\u{1b}[0m", bar: "\u{1b}[2m|\u{1b}[0m" };
const MARKS: Paint = Paint { on: "⟦", off: "⟧", bar: "|" };

/// Prints the conversations and the counts.
///
/// # Errors
///
/// If a conversation is faulty.
pub fn run(args: &Args) -> Result<Outcome> {
    let Reading { files, tokenizer, template, context, .. } = args.chats.reading()?;
    let paint = if output::colours(&io::stdout()) { COLOURS } else { MARKS };
    let (mut counts, mut shown, mut all) = (Counts::default(), 0, vec![]);
    if !args.json {
        output::line(&format!(
            "Written by {}; learned: {}learned{}\n",
            template.place(),
            paint.on,
            paint.off
        ));
    }
    for path in &files {
        for conversation in ConversationFile::open(path)? {
            let (place, conversation) = conversation?;
            let fit = template.fit(&tokenizer, &conversation, (context, args.chats.long));
            let fit = fit.map_err(|error| error.at(&place))?;
            let (labelled, what) = match fit {
                Fit::Whole(labelled) => (Some(labelled), String::new()),
                Fit::Cut(labelled) => {
                    counts.cut += 1;
                    (Some(labelled), format!(", cut to fit {context} tokens"))
                }
                Fit::TooLong => {
                    counts.too_long += 1;
                    let why =
                        if args.chats.long == Long::Drop { "" } else { ", even its first turns" };
                    (None, format!(", left out: longer than {context} tokens{why}"))
                }
                Fit::Nothing => {
                    counts.nothing += 1;
                    (None, ", left out: nothing to learn".to_owned())
                }
            };
            if let Some(labelled) = &labelled {
                counts.conversations += 1;
                counts.tokens += labelled.ids.len();
                counts.learned += labelled.to_learn();
            }
            shown += 1;
            if shown > args.limit {
                continue;
            }
            if args.json {
                all.push(json!({
                    "place": place,
                    "ids": labelled.as_ref().map(|one| &one.ids),
                    "learned": labelled.as_ref().map(|one| &one.learned),
                    "note": what.trim_start_matches(", "),
                }));
                continue;
            }
            let sizes = labelled.as_ref().map_or(String::new(), |one| {
                format!(": {} tokens, {} learned", one.ids.len(), one.to_learn())
            });
            output::line(&format!("--- {place}{sizes}{what}"));
            if let Some(labelled) = &labelled {
                output::line(painted(labelled, args.tokens, &paint).trim_end_matches('\n'));
                output::line("");
            }
        }
    }
    match args.json {
        true => output::json(&json!({ "conversations": all, "counts": counts })),
        false => output::line(&counts.to_string()),
    }
    Ok(Outcome::Good)
}

/// Returns the text with the marks.
fn painted(labelled: &Labelled, bars: bool, paint: &Paint) -> String {
    let Labelled { text, ranges, learned, .. } = labelled;
    let bytes = text.as_bytes();
    let (mut out, mut at, mut is_on): (Vec<u8>, usize, bool) = (vec![], 0, false);
    for (i, (range, learned)) in ranges.iter().zip(learned).enumerate() {
        // The first token is predicted from nothing.
        let learned = *learned && i > 0;
        if is_on && !learned {
            out.extend(paint.off.bytes());
        }
        // What lies in no token.
        out.extend(&bytes[at..range.start]);
        let is_cut = text.is_char_boundary(range.start);
        if bars && i > 0 && is_cut {
            out.extend(paint.bar.bytes());
            if is_on && learned && paint.on.starts_with('\u{1b}') {
                out.extend(paint.on.bytes());
            }
        }
        if learned && !is_on {
            out.extend(paint.on.bytes());
        }
        out.extend(&bytes[range.clone()]);
        (is_on, at) = (learned, range.end);
    }
    if is_on {
        out.extend(paint.off.bytes());
    }
    out.extend(&bytes[at..]);
    String::from_utf8_lossy(&out).into_owned()
}
