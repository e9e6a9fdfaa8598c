//! Where long texts may be cut, so that a text has the same ids whether it comes whole or in pieces.
//!
//! A place is safe if no pattern's piece holds it (see the pre-tokenizer) and no added token is written out across it or next
//! to it. A text that comes in pieces is held back from the last such place on: at most its longest stretch without
//! one stands in memory, beside the piece that came. That is a few hundred bytes in prose of any script, and all of a text
//! that is a single letter over and over.

use std::borrow::Cow;

use super::bpe::Tokenizer;
use super::pretokenizer::PreTokenizer;
use super::special::AddedTokens;

/// What added tokens are that are written out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedAs {
    /// The tokens: [`Tokenizer::encode_with_special`].
    Tokens,
    /// Text like any other: [`Tokenizer::encode`].
    Text,
}

/// Turns texts into ids, whole or in stretches that its [`Cutter`] cuts.
#[derive(Clone, Copy, Debug)]
pub struct TextEncoder<'t> {
    tokenizer: &'t Tokenizer,
    added: AddedAs,
}

impl<'t> TextEncoder<'t> {
    /// The ids of a text, or of a stretch of one; `begins` is whether a text begins there. The ids of a text's stretches, one
    /// after the other, are those of the whole.
    pub fn encode(&self, text: &str, begins: bool) -> Vec<u32> {
        self.tokenizer.encode_stretch(text, self.added, begins)
    }

    /// What tells where texts may be cut.
    pub fn cutter(&self) -> Cutter<'t> {
        let tokens = match self.added {
            AddedAs::Tokens => Some(Cow::Borrowed(&self.tokenizer.added)),
            AddedAs::Text => None,
        };
        Cutter { pre_tokenizer: self.tokenizer.pre_tokenizer, tokens }
    }

    /// Encodes a text that comes in pieces; see [`EncodeStream`].
    pub fn stream(&self) -> EncodeStream<'t> {
        EncodeStream { encoder: *self, held: Held::new(self.cutter()), begins: true }
    }
}

impl Tokenizer {
    /// What encodes texts, in which added tokens are as `added` says.
    pub fn encoder(&self, added: AddedAs) -> TextEncoder<'_> {
        TextEncoder { tokenizer: self, added }
    }
}

/// Tells where a text may be cut.
#[derive(Clone)]
pub struct Cutter<'t> {
    pre_tokenizer: PreTokenizer,
    tokens: Option<Cow<'t, AddedTokens>>,
}

impl Cutter<'static> {
    /// For texts that a tokenizer is trained on, in which `tokens` are not learned from.
    pub(super) fn of_training(tokens: AddedTokens) -> Cutter<'static> {
        Cutter { pre_tokenizer: PreTokenizer::GPT2, tokens: Some(Cow::Owned(tokens)) }
    }

    /// For texts without special tokens, cut by GPT-2's pattern.
    pub(crate) fn plain() -> Cutter<'static> {
        Cutter { pre_tokenizer: PreTokenizer::GPT2, tokens: None }
    }
}

impl Cutter<'_> {
    /// The last safe place in `text`, which may go on, after byte `from`.
    ///
    /// # Errors
    ///
    /// If there is none: the byte from which to look when more of the text has come.
    fn last_cut(&self, text: &str, from: usize) -> Result<usize, usize> {
        // A token that begins before the place may need so many bytes after it.
        let lookahead = self.tokens.as_ref().map_or(0, |tokens| tokens.longest());
        let to = text.floor_char_boundary(text.len().saturating_sub(lookahead.max(1)));
        let free = |place| self.tokens.as_ref().is_none_or(|tokens| !tokens.touch(text, place));
        self.pre_tokenizer.last_cut(text, from, to, free).ok_or(from.max(to))
    }

    /// `text` in slices of about `target` bytes, cut where it may be.
    pub(crate) fn slices<'a>(&self, text: &'a str, target: usize) -> Vec<&'a str> {
        self.pre_tokenizer.chunks(text, target)
    }
}

/// What has come of a text and was not given out yet.
pub(crate) struct Held<'t> {
    cutter: Cutter<'t>,
    text: String,
    /// The bytes up to here have no safe place.
    searched: usize,
}

impl<'t> Held<'t> {
    pub(crate) fn new(cutter: Cutter<'t>) -> Held<'t> {
        Held { cutter, text: String::new(), searched: 0 }
    }

    /// The bytes that are held.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Adds what comes next.
    pub(crate) fn push(&mut self, text: String) {
        if self.text.is_empty() {
            self.text = text;
        } else {
            self.text.push_str(&text);
        }
    }

    /// Takes the text up to the last safe place, if there is one.
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

    /// Takes the rest of the text, which ends here.
    pub(crate) fn finish(&mut self) -> String {
        self.searched = 0;
        std::mem::take(&mut self.text)
    }
}

/// Encodes a text piece by piece, wherever it is cut: all ids that are returned, those of
/// [`finish`](EncodeStream::finish) included, are together the ids of the whole.
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

    /// Ends the text: the ids of what was held back.
    pub fn finish(mut self) -> Vec<u32> {
        let text = self.held.finish();
        self.encode(&text)
    }

    fn encode(&mut self, text: &str) -> Vec<u32> {
        self.encoder.encode(text, std::mem::replace(&mut self.begins, false))
    }
}
