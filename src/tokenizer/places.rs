//! The places where a text may be cut so that its parts have the same pieces separately as together.

use super::characters::Characters;
use super::normalizer::Form;
use super::pretokenizer::PreTokenizer;

/// What decides where a text may be cut.
#[derive(Clone, Copy)]
pub(super) struct Places<'t> {
    pieces: Pieces<'t>,
    form: Option<Form>,
}

#[derive(Clone, Copy)]
enum Pieces<'t> {
    OfPattern(PreTokenizer),
    OfCharacters(&'t Characters),
}

impl Places<'static> {
    /// The places for the pieces of GPT-2's pattern.
    pub(super) const GPT2: Places<'static> =
        Places { pieces: Pieces::OfPattern(PreTokenizer::GPT2), form: None };
}

impl<'t> Places<'t> {
    /// Returns the places for a pattern's pieces of a text after its normalisation.
    pub(super) fn of_pattern(pre_tokenizer: PreTokenizer, form: Option<Form>) -> Places<'t> {
        Places { pieces: Pieces::OfPattern(pre_tokenizer), form }
    }

    /// Returns the places for pieces that are merged from characters.
    pub(super) fn of_characters(characters: &'t Characters, form: Option<Form>) -> Places<'t> {
        Places { pieces: Pieces::OfCharacters(characters), form }
    }

    /// Whether a text may be cut between two characters. It is never cut after white space, which an added token may
    /// strip.
    #[inline]
    fn may_cut(self, before: char, after: char) -> bool {
        let is_kept = |form: Form| form.keeps(before) && form.keeps(after);
        self.form.is_none_or(is_kept)
            && match self.pieces {
                Pieces::OfPattern(pre_tokenizer) => pre_tokenizer.may_cut(before, after),
                Pieces::OfCharacters(characters) => {
                    // A mark that follows another character may make a third one of it.
                    let is_one = self.form.is_none() || after.is_whitespace();
                    is_one && !before.is_whitespace() && characters.parts(before, after)
                }
            }
    }

    /// Cuts `text` into stretches of about `target` bytes that have the same pieces separately as together. A text
    /// without a place to cut stays whole.
    pub(super) fn chunks(self, text: &str, target: usize) -> Vec<&str> {
        let (mut chunks, mut rest) = (Vec::new(), text);
        while rest.len() > target {
            let Some(cut) = self.first_cut(rest, target) else { break };
            let (chunk, after) = rest.split_at(cut);
            chunks.push(chunk);
            rest = after;
        }
        if !rest.is_empty() {
            chunks.push(rest);
        }
        chunks
    }

    /// Returns the first place after byte `from` where `text` may be cut.
    fn first_cut(self, text: &str, from: usize) -> Option<usize> {
        let from = text.floor_char_boundary(from);
        let mut characters = text[from..].char_indices();
        let (_, mut before) = characters.next()?;
        for (at, after) in characters {
            if self.may_cut(before, after) {
                return Some(from + at);
            }
            before = after;
        }
        None
    }

    /// Returns the last place after byte `from` and up to byte `to` where `text` may be cut and `accept` returns true.
    pub(super) fn last_cut(
        self,
        text: &str,
        from: usize,
        to: usize,
        accept: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut place = text.floor_char_boundary(to);
        let mut after = text[place..].chars().next()?;
        for (at, before) in text[..place].char_indices().rev() {
            if place <= from {
                return None;
            }
            if self.may_cut(before, after) && accept(place) {
                return Some(place);
            }
            (place, after) = (at, before);
        }
        None
    }
}
