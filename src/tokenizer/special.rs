//! Added tokens: tokens that are not merged from others but written out in a text, such as `<|endoftext|>`.
//!
//! The rules are those of Hugging Face's `tokenizers`: the leftmost token is found first, and the longest of several
//! that begin at the same place; tokens with `normalized` are searched in the text that the others leave.

use aho_corasick::{AhoCorasick, MatchKind};

use super::alphabet;
use super::normalizer::Normalizer;
use super::token::END_OF_TEXT;
use crate::error::{Error, Result};

/// The maximum total bytes of all added tokens: the automaton takes a hundred times as many.
const MOST_BYTES: usize = 1 << 20;

/// A token that is not merged from others: `<|endoftext|>` or a token that a tokenizer's files add.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) flags: Flags,
    /// Whether the model's vocabulary also has it; kept for the file.
    pub(super) in_vocabulary: bool,
}

/// The rules for finding an added token.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// Whether Hugging Face calls it special; kept for the file.
    pub(super) special: bool,
    /// Whether it is searched only in the text that the others leave, as Hugging Face does after normalisation.
    pub(super) normalized: bool,
    /// Whether the white space before it belongs to it.
    pub(super) lstrip: bool,
    /// Whether the white space after it belongs to it.
    pub(super) rstrip: bool,
    /// Whether it is ignored if a word character (`\w`) touches it.
    pub(super) single_word: bool,
}

impl Flags {
    pub(super) const SPECIAL: Flags = Flags {
        special: true,
        normalized: false,
        lstrip: false,
        rstrip: false,
        single_word: false,
    };
}

impl Added {
    /// Whether all of its characters are in the byte alphabet.
    pub(super) fn is_spelled_in_bytes(&self) -> bool {
        alphabet::to_bytes(&self.content).is_ok()
    }

    /// Returns the text that is searched in place of its own, and decoded.
    pub(super) fn normal_form(&self, normalizer: &Normalizer) -> String {
        match self.flags.normalized {
            true => normalizer.whole(&self.content).into_owned(),
            false => self.content.clone(),
        }
    }

    /// Returns the end of text as a token of the vocabulary.
    pub(super) fn end_of_text(id: u32) -> Added {
        Added { id, content: END_OF_TEXT.to_owned(), flags: Flags::SPECIAL, in_vocabulary: true }
    }
}

/// Returns the bytes of a token with this spelling: those of its letters if all are in the byte alphabet, or else its
/// own UTF-8 bytes, which only an added token has.
pub(super) fn spelled_bytes(spelling: &str) -> Vec<u8> {
    alphabet::to_bytes(spelling).unwrap_or_else(|_| spelling.as_bytes().to_vec())
}

/// Checks special tokens that a user gives in addition to the `known` ones.
///
/// # Errors
///
/// If one is empty, exists already, or is given twice.
pub(super) fn check_new(tokens: &[String], known: &[Added]) -> Result<()> {
    for (i, token) in tokens.iter().enumerate() {
        let fault = match token {
            _ if token.is_empty() => "is empty",
            _ if known.iter().any(|added| added.content == *token) => "is there anyway",
            _ if tokens[..i].contains(token) => "is named twice",
            _ => continue,
        };
        return Err(Error::usage(format!("the special token {token:?} {fault}"))
            .hint("name each token once, such as <|user|>"));
    }
    Ok(())
}

/// Checks special tokens for the training of a tokenizer: a single character would remove a letter from the texts.
///
/// # Errors
///
/// As [`check_new`]; if one has fewer than two characters.
pub(super) fn check_trained(tokens: &[String], known: &[Added]) -> Result<()> {
    match tokens.iter().find(|token| token.chars().count() == 1) {
        Some(token) => {
            Err(Error::usage(format!("the special token {token:?} has fewer than two characters"))
                .hint("name tokens that no text has otherwise, such as <|user|>"))
        }
        None => check_new(tokens, known),
    }
}

/// All added tokens of a tokenizer, and the automata that find them in a text.
#[derive(Clone)]
pub(super) struct AddedTokens {
    /// The tokens, in the order of the file.
    list: Vec<Added>,
    /// Finds the tokens that are searched before normalisation.
    raw: Option<Finder>,
    /// Finds the tokens with `normalized`, in their normal form.
    normalized: Option<Finder>,
    /// Finds the latter without the text that the normalizer puts in front of them, which a stretch of a text that was
    /// cut may not have.
    bare: Option<Finder>,
    normalizer: Normalizer,
    /// No token takes more bytes of a text than this.
    longest: usize,
}

/// Searches for several tokens at once, in one pass over a text regardless of their number.
#[derive(Clone)]
struct Finder {
    automaton: AhoCorasick,
    tokens: Vec<(u32, Flags)>,
}

impl Finder {
    /// Returns what finds the tokens that are, or are not, `normalized`, by the forms of their texts; `None` if there are
    /// none.
    fn new(
        list: &[Added],
        normalized: bool,
        form: &dyn Fn(&str) -> String,
    ) -> Result<Option<Finder>> {
        let wanted = list.iter().filter(|added| added.flags.normalized == normalized);
        let (contents, tokens): (Vec<String>, Vec<(u32, Flags)>) =
            wanted.map(|added| (form(&added.content), (added.id, added.flags))).unzip();
        if tokens.is_empty() {
            return Ok(None);
        }
        let automaton =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(contents);
        let automaton =
            automaton.map_err(|error| Error::input(format!("the added tokens: {error}")))?;
        Ok(Some(Finder { automaton, tokens }))
    }

    /// Whether a token begins at byte `place` of `text`, ends there, or contains it; they are searched from byte `from`
    /// on.
    fn touches(&self, text: &str, mut from: usize, place: usize) -> bool {
        // If a longer token is found, shorter ones that begin at the same place end earlier.
        while let Some(found) = self.automaton.find(aho_corasick::Input::new(text).range(from..))
            && found.start() <= place
        {
            if found.end() >= place {
                return true;
            }
            from = text.ceil_char_boundary(found.start() + 1);
        }
        false
    }
}

/// A normal form has at most so many times fewer bytes than its text: a full-width digit has three bytes and stands for
/// one, some letters of mathematics have four.
const MOST_SHRUNK: usize = 4;

impl AddedTokens {
    /// # Errors
    ///
    /// If there are too many tokens, or they are too long.
    pub(super) fn new(list: Vec<Added>, normalizer: &Normalizer) -> Result<AddedTokens> {
        let bytes: usize = list.iter().map(|added| added.content.len()).sum();
        if bytes > MOST_BYTES {
            return Err(Error::input(format!(
                "the added tokens have {bytes} bytes together, at most {MOST_BYTES} are possible"
            ))
            .hint("added tokens are short marks such as <|endoftext|>"));
        }
        let whole = |content: &str| normalizer.whole(content).into_owned();
        let within = |content: &str| normalizer.within(content).into_owned();
        let longest = list.iter().map(|added| {
            let least = added.content.len();
            match added.flags.normalized && !normalizer.is_identity() {
                true => least.max(MOST_SHRUNK * whole(&added.content).len()),
                false => least,
            }
        });
        Ok(AddedTokens {
            raw: Finder::new(&list, false, &str::to_owned)?,
            normalized: Finder::new(&list, true, &whole)?,
            bare: Finder::new(&list, true, &within)?,
            normalizer: normalizer.clone(),
            longest: longest.max().unwrap_or(0),
            list,
        })
    }

    pub(super) fn list(&self) -> &[Added] {
        &self.list
    }

    /// Whether a text is normalised as a whole, since tokens are searched in its normal form.
    pub(super) fn are_normalized(&self) -> bool {
        self.normalized.is_some() && !self.normalizer.is_identity()
    }

    /// Calls `visit` with each stretch of `text` between the tokens that are searched before normalisation, which may be
    /// empty, and the next token's id.
    pub(super) fn split<'a>(&self, text: &'a str, visit: &mut dyn FnMut(&'a str, Option<u32>)) {
        split(self.raw.as_ref(), text, None, visit);
    }

    /// Does the same with the tokens that are searched in a normalised stretch, after which there is the token `then`.
    pub(super) fn split_normalized<'a>(
        &self,
        stretch: &'a str,
        then: Option<u32>,
        visit: &mut dyn FnMut(&'a str, Option<u32>),
    ) {
        split(self.normalized.as_ref(), stretch, then, visit);
    }

    /// Returns the number of bytes on either side of a place that [`touch`](AddedTokens::touch) considers.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Whether one of the tokens is written out in `text` so that it begins at byte `place`, ends there, or contains
    /// it, even if another token is chosen there. The normal forms of the texts before and after the place must be
    /// parts of that of the whole text.
    pub(super) fn touch(&self, text: &str, place: usize) -> bool {
        let end = text.ceil_char_boundary(text.len().min(place + self.longest));
        let begin = text.floor_char_boundary(place.saturating_sub(self.longest));
        if self.raw.as_ref().is_some_and(|raw| raw.touches(&text[..end], begin, place)) {
            return true;
        }
        let finders = || [&self.normalized, &self.bare].into_iter().flatten();
        if finders().next().is_none() {
            return false;
        }
        let normal =
            [&text[begin..place], &text[place..end]].map(|text| self.normalizer.within(text));
        let (text, place) = (normal.concat(), normal[0].len());
        finders().any(|finder| finder.touches(&text, 0, place))
    }
}

fn split<'a>(
    finder: Option<&Finder>,
    text: &'a str,
    then: Option<u32>,
    visit: &mut dyn FnMut(&'a str, Option<u32>),
) {
    let Some(finder) = finder else { return visit(text, then) };
    let mut at = 0;
    for found in finder.automaton.find_iter(text) {
        let (id, flags) = finder.tokens[found.pattern()];
        let (before, after) = (&text[..found.start()], &text[found.end()..]);
        if flags.single_word && (ends_in_word(before) || begins_with_word(after)) {
            continue;
        }
        let gap = text.get(at..found.start()).unwrap_or_default();
        let start = if flags.lstrip { at + gap.trim_end().len() } else { found.start() };
        let end = if flags.rstrip { text.len() - after.trim_start().len() } else { found.end() };
        if start >= end {
            // A token of white space that belongs entirely to the previous token.
            continue;
        }
        // A token may begin in white space that belongs to the previous token.
        visit(text.get(at..start).unwrap_or_default(), Some(id));
        at = end;
    }
    visit(&text[at..], then);
}

/// Whether the last character is a word character, `\w` in regular expressions.
fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(regex_syntax::is_word_character)
}

fn begins_with_word(text: &str) -> bool {
    text.chars().next().is_some_and(regex_syntax::is_word_character)
}

/// The finders depend only on the list.
impl PartialEq for AddedTokens {
    fn eq(&self, other: &AddedTokens) -> bool {
        self.list == other.list
    }
}

impl Eq for AddedTokens {}
