//! GPT-2's pre-tokenisation: where a text is cut before pairs are merged.
//!
//! The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
//! Each of its alternatives is a run of one class of characters, so that one look at each character
//! cuts a text and nothing is ever tried twice.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Classes of characters: what is neither a letter, a number nor white space.
const OTHER: u8 = 0;
/// `\p{L}`.
const LETTER: u8 = 1;
/// `\p{N}`.
const NUMBER: u8 = 2;
/// `\s`, the property `White_Space`.
const SPACE: u8 = 3;

/// One past the last code point.
const CODE_POINTS: usize = 0x11_0000;

/// The class of every code point. A megabyte, of which a text touches the few pages of its scripts.
static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut classes = vec![OTHER; CODE_POINTS];
    for (pattern, class) in [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE)] {
        let parsed = regex_syntax::parse(pattern).map(|hir| hir.into_kind());
        let Ok(HirKind::Class(Class::Unicode(characters))) = parsed else {
            unreachable!("{pattern} is a class of characters")
        };
        for range in characters.ranges() {
            classes[range.start() as usize..=range.end() as usize].fill(class);
        }
    }
    classes
});

/// Cuts `text` into its pieces, which joined are the text.
pub(super) fn pieces(text: &str) -> Pieces<'_> {
    Pieces { text, at: 0, classes: &CLASSES }
}

/// The pieces of a text, as bytes.
pub(super) struct Pieces<'a> {
    text: &'a str,
    at: usize,
    classes: &'static [u8],
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (start, bytes) = (self.at, self.text.as_bytes());
        let (class, after) = self.character(start)?;
        self.at = match bytes[start] {
            b'\'' => match contraction(&bytes[start + 1..]) {
                0 => self.run(OTHER, after),
                length => after + length,
            },
            b' ' => match self.character(after) {
                Some((SPACE, _)) | None => self.blanks(start),
                Some((class, next)) => self.run(class, next),
            },
            _ if class == SPACE => self.blanks(start),
            _ => self.run(class, after),
        };
        Some(&bytes[start..self.at])
    }
}

impl Pieces<'_> {
    /// The class of the character at byte `at`, and where the next one begins; `None` at the end.
    fn character(&self, at: usize) -> Option<(u8, usize)> {
        let first = *self.text.as_bytes().get(at)?;
        if first < 0x80 {
            return Some((self.classes[usize::from(first)], at + 1));
        }
        let character = self.text[at..].chars().next()?;
        Some((self.classes[character as usize], at + character.len_utf8()))
    }

    /// Where the run of `class` that has reached `at` ends.
    fn run(&self, class: u8, mut at: usize) -> usize {
        while let Some((next, after)) = self.character(at)
            && next == class
        {
            at = after;
        }
        at
    }

    /// Where the piece of white space that begins at `start` ends: it leaves the last character of
    /// the run to the word that follows, unless it has no other.
    fn blanks(&self, start: usize) -> usize {
        let (mut last, mut at) = (start, start);
        while let Some((SPACE, after)) = self.character(at) {
            (last, at) = (at, after);
        }
        if at == self.text.len() || last == start { at } else { last }
    }
}

/// The length of an English contraction's letters at the start of `rest`; 0 if there is none.
fn contraction(rest: &[u8]) -> usize {
    match rest {
        [b's' | b't' | b'm' | b'd', ..] => 1,
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => 2,
        _ => 0,
    }
}

/// Cuts `text` into stretches of about `target` bytes that have the same pieces on their own as
/// together.
///
/// A cut is made only before white space that follows something else: no piece holds such a place,
/// and none that ends there looks past it. A text without one stays whole.
pub(super) fn chunks(text: &str, target: usize) -> Vec<&str> {
    let (mut chunks, mut rest) = (Vec::new(), text);
    while rest.len() > target {
        let from = rest.ceil_char_boundary(target);
        let Some(cut) = cut_after(rest, from) else { break };
        let (chunk, after) = rest.split_at(cut);
        chunks.push(chunk);
        rest = after;
    }
    if !rest.is_empty() {
        chunks.push(rest);
    }
    chunks
}

/// The first place from byte `from` on where [`chunks`] may cut.
fn cut_after(text: &str, from: usize) -> Option<usize> {
    let classes: &[u8] = &CLASSES;
    let is_space = |c: char| classes[c as usize] == SPACE;
    let mut before_is_space = text[..from].chars().next_back().is_none_or(is_space);
    for (offset, character) in text[from..].char_indices() {
        let space = is_space(character);
        if space && !before_is_space {
            return Some(from + offset);
        }
        before_is_space = space;
    }
    None
}
