//! Added tokens: those that are not made of others but written out in a text, such as `<|endoftext|>`.

use aho_corasick::{AhoCorasick, MatchKind};

use super::END_OF_TEXT;
use crate::error::{Error, Result};

/// The most bytes that all added tokens have together: the automaton takes a hundred times as many.
const MOST_BYTES: usize = 1 << 20;

/// A token that is not made of others: `<|endoftext|>` and what a tokenizer.json adds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    /// Whether Hugging Face calls it special; kept for the file.
    pub(super) special: bool,
    /// Whether it is looked for only in what the others leave, as Hugging Face does after normalisation.
    pub(super) normalized: bool,
}

impl Added {
    /// A special token.
    pub(super) fn new(id: u32, content: &str) -> Added {
        Added { id, content: content.to_owned(), special: true, normalized: false }
    }

    pub(super) fn end_of_text(id: u32) -> Added {
        Added::new(id, END_OF_TEXT)
    }
}

/// Checks special tokens that a user names, beside those that are `known`.
///
/// # Errors
///
/// If one has fewer than two characters, is there already, or is named twice.
pub(super) fn check_new(tokens: &[String], known: &[Added]) -> Result<()> {
    for (i, token) in tokens.iter().enumerate() {
        let fault = match token {
            _ if token.chars().nth(1).is_none() => "has fewer than two characters",
            _ if known.iter().any(|added| added.content == *token) => "is there anyway",
            _ if tokens[..i].contains(token) => "is named twice",
            _ => continue,
        };
        return Err(Error::usage(format!("the special token {token:?} {fault}"))
            .hint("name each token once, such as <|user|>"));
    }
    Ok(())
}

/// All added tokens of a tokenizer, and what finds them in a text.
#[derive(Clone)]
pub(super) struct AddedTokens {
    /// In the order of the file.
    list: Vec<Added>,
    /// One after the other, each looks for its tokens in what the ones before leave.
    finders: Vec<Finder>,
}

/// Looks for several tokens at once, in one pass over a text however many there are.
#[derive(Clone)]
struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl AddedTokens {
    /// # Errors
    ///
    /// If the tokens are too many or too long to be looked for.
    pub(super) fn new(list: Vec<Added>) -> Result<AddedTokens> {
        let bytes: usize = list.iter().map(|added| added.content.len()).sum();
        if bytes > MOST_BYTES {
            return Err(Error::input(format!(
                "the added tokens have {bytes} bytes together, at most {MOST_BYTES} are possible"
            ))
            .hint("added tokens are short marks such as <|endoftext|>"));
        }
        let finders = [false, true].into_iter().filter_map(|normalized| {
            let tokens = list.iter().filter(|added| added.normalized == normalized);
            let (contents, ids): (Vec<&str>, Vec<u32>) =
                tokens.map(|added| (added.content.as_str(), added.id)).unzip();
            let refused = |error| Error::input(format!("the added tokens: {error}"));
            (!ids.is_empty()).then(|| {
                let automaton = AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(contents)
                    .map_err(refused)?;
                Ok(Finder { automaton, ids })
            })
        });
        Ok(AddedTokens { finders: finders.collect::<Result<_>>()?, list })
    }

    pub(super) fn list(&self) -> &[Added] {
        &self.list
    }

    /// Calls `visit` with each stretch of `text` between added tokens, and the id of the token after it. Where several
    /// tokens begin at one place, the longest is taken.
    pub(super) fn split<'a>(&self, text: &'a str, visit: &mut dyn FnMut(&'a str, Option<u32>)) {
        split(&self.finders, text, None, visit);
    }
}

fn split<'a>(
    finders: &[Finder],
    text: &'a str,
    then: Option<u32>,
    visit: &mut dyn FnMut(&'a str, Option<u32>),
) {
    let [finder, rest @ ..] = finders else { return visit(text, then) };
    let mut at = 0;
    for found in finder.automaton.find_iter(text) {
        split(rest, &text[at..found.start()], Some(finder.ids[found.pattern()]), visit);
        at = found.end();
    }
    split(rest, &text[at..], then, visit);
}

/// The finders follow from the list.
impl PartialEq for AddedTokens {
    fn eq(&self, other: &AddedTokens) -> bool {
        self.list == other.list
    }
}

impl Eq for AddedTokens {}
