//! Finds the places where long texts may be cut, so that a text has the same ids whether it comes whole or in pieces.
//!
//! A place is safe if no piece contains it (see [`Places`]) and no added token spans it or touches it. When a text comes in pieces, the part after the last safe place is held back. At most the longest
//! stretch without a safe place is in memory, in addition to the new piece. That is a few hundred bytes in prose
//! of any script, and the whole text if it repeats a single letter.

use std::borrow::Cow;

use super::bpe::Tokenizer;
use super::places::Places;
use super::special::AddedTokens;

/// The treatment of added tokens that are written out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedAs {
    /// They become the tokens: [`Tokenizer::encode_with_special`].
    Tokens,
    /// They are treated as ordinary text: [`Tokenizer::encode`].
    Text,
}

/// Encodes texts, whole or in stretches that are cut by its [`Cutter`].
#[derive(Clone, Copy, Debug)]
pub struct TextEncoder<'t> {
    tokenizer: &'t Tokenizer,
    added: AddedAs,
}

impl<'t> TextEncoder<'t> {
    /// Returns the ids of a text, or of a stretch of one; `begins` is whether a text begins there. The concatenated ids
    /// of a text's stretches are the ids of the whole text.
    pub fn encode(&self, text: &str, begins: bool) -> Vec<u32> {
        self.tokenizer.encode_stretch(text, self.added, begins)
    }

    /// Returns the cutter, which finds the places where texts may be cut.
    pub fn cutter(&self) -> Cutter<'t> {
        let tokens = match self.added {
            AddedAs::Tokens => Some(Cow::Borrowed(&self.tokenizer.added)),
            AddedAs::Text => None,
        };
        Cutter { places: self.tokenizer.places(), tokens }
    }

    /// Encodes a text that comes in pieces; see [`EncodeStream`].
    pub fn stream(&self) -> EncodeStream<'t> {
        EncodeStream { encoder: *self, held: Held::new(self.cutter()), begins: true }
    }
}

impl Tokenizer {
    /// Returns an encoder of texts that treats added tokens as `added` says.
    pub fn encoder(&self, added: AddedAs) -> TextEncoder<'_> {
        TextEncoder { tokenizer: self, added }
    }

    /// Returns the places where pieces of a text part.
    pub(super) fn places(&self) -> Places<'_> {
        let form = self.rules.normalizer.form;
        match &self.characters {
            Some(characters) => Places::of_characters(characters, form),
            None => Places::of_pattern(self.rules.pre_tokenizer, form),
        }
    }
}

/// Finds the places where a text may be cut.
#[derive(Clone)]
pub struct Cutter<'t> {
    places: Places<'t>,
    tokens: Option<Cow<'t, AddedTokens>>,
}

impl Cutter<'static> {
    /// Returns the cutter for texts that a tokenizer is trained on; `tokens` are excluded from training.
    pub(super) fn of_training(tokens: AddedTokens) -> Cutter<'static> {
        Cutter { places: Places::GPT2, tokens: Some(Cow::Owned(tokens)) }
    }

    /// Returns the cutter for texts without special tokens, with GPT-2's pattern.
    pub(crate) fn plain() -> Cutter<'static> {
        Cutter { places: Places::GPT2, tokens: None }
    }
}

impl Cutter<'_> {
    /// Returns the last safe place after byte `from` in `text`, which may be continued later.
    ///
    /// # Errors
    ///
    /// If there is none: the byte from which to search when more of the text has come.
    fn last_cut(&self, text: &str, from: usize) -> Result<usize, usize> {
        // A token that begins before the place may extend this many bytes beyond it.
        let lookahead = self.tokens.as_ref().map_or(0, |tokens| tokens.longest());
        let to = text.floor_char_boundary(text.len().saturating_sub(lookahead.max(1)));
        let free = |place| self.tokens.as_ref().is_none_or(|tokens| !tokens.touch(text, place));
        self.places.last_cut(text, from, to, free).ok_or(from.max(to))
    }

    /// Divides `text` into slices of about `target` bytes, cut at safe places.
    pub(crate) fn slices<'a>(&self, text: &'a str, target: usize) -> Vec<&'a str> {
        self.places.chunks(text, target)
    }
}

/// The part of a text that has come and was not yet returned.
pub(crate) struct Held<'t> {
    cutter: Cutter<'t>,
    text: String,
    /// There is no safe place before this byte.
    searched: usize,
}

impl<'t> Held<'t> {
    pub(crate) fn new(cutter: Cutter<'t>) -> Held<'t> {
        Held { cutter, text: String::new(), searched: 0 }
    }

    /// Returns the number of bytes that are held.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Appends the next part of the text.
    pub(crate) fn push(&mut self, text: String) {
        if self.text.is_empty() {
            self.text = text;
        } else {
            self.text.push_str(&text);
        }
    }

    /// Removes and returns the text up to the last safe place, if there is one.
    pub(crate) fn take(&mut self) -> Option<String> {
        match self.cutter.last_cut(&self.text, self.searched) {
            Ok(cut) => {
                let rest = self.text.split_off(cut);
                self.searched = 0;
                Some(std::mem::replace(&mut self.text, rest))
            }
            Err(searched) => {
                self.searched = searched;
                None
            }
        }
    }

    /// Removes and returns the rest of the text, which ends here.
    pub(crate) fn finish(&mut self) -> String {
        self.searched = 0;
        std::mem::take(&mut self.text)
    }
}

/// Encodes a text piece by piece; the pieces may end anywhere. All returned ids, including those of
/// [`finish`](EncodeStream::finish), are together the ids of the whole text.
///
/// ```
/// use wgpt::tokenizer::{AddedAs, Tokenizer};
///
/// let tokenizer = Tokenizer::train(b"low low lower lower", 260)?;
/// let mut stream = tokenizer.encoder(AddedAs::Tokens).stream();
/// let mut ids = Vec::new();
/// for piece in ["lo", "w l", "ower<|endof", "text|>"] {
///     ids.extend(stream.push(piece));
/// }
/// ids.extend(stream.finish());
/// assert_eq!(ids, tokenizer.encode_with_special("low lower<|endoftext|>"));
/// # Ok::<(), wgpt::Error>(())
/// ```
pub struct EncodeStream<'t> {
    encoder: TextEncoder<'t>,
    held: Held<'t>,
    begins: bool,
}

impl EncodeStream<'_> {
    /// Takes the next piece of the text; returns the ids that do not depend on what follows.
    pub fn push(&mut self, piece: &str) -> Vec<u32> {
        self.held.push(piece.to_owned());
        let text = self.held.take();
        text.map_or_else(Vec::new, |text| self.encode(&text))
    }

    /// Ends the text; returns the ids of the part that was held back.
    pub fn finish(mut self) -> Vec<u32> {
        let text = self.held.finish();
        self.encode(&text)
    }

    fn encode(&mut self, text: &str) -> Vec<u32> {
        self.encoder.encode(text, std::mem::replace(&mut self.begins, false))
    }
}
