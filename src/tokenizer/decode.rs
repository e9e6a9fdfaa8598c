//! Decodes ids to text, all at once or token by token as they are generated.
//!
//! The text is the bytes of the tokens one after the other, except at its beginning: where a tokenizer puts a blank in
//! front of a text, that blank is left out again.

use std::borrow::Cow;

use super::bpe::Tokenizer;
use super::decoder::Start;
use super::special::Added;
use crate::error::{Error, Result};

/// The number of bytes that are copied at once: most tokens have fewer.
const COPIED: usize = 16;

impl Tokenizer {
    /// Returns the bytes of the text of `ids`, which may end within a character.
    ///
    /// # Errors
    ///
    /// Names the first id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let (mut bytes, mut rest) = (Vec::with_capacity(4 * ids.len()), ids);
        let mut start = self.start();
        while start != Start::Nothing
            && let [first, more @ ..] = rest
        {
            bytes.extend_from_slice(&self.begin(&mut start, *first)?);
            rest = more;
        }
        self.append_bytes(rest, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns what is left out at the beginning of a text.
    fn start(&self) -> Start {
        self.rules.characters.as_ref().map_or(Start::Nothing, |characters| characters.decoder.start)
    }

    /// Returns the bytes of a token at the beginning of a text, without what `start` leaves out; `start` is then what is
    /// left out from here on.
    fn begin(&self, start: &mut Start, id: u32) -> Result<Cow<'_, [u8]>> {
        let bytes = self.known_token(id)?;
        match std::mem::take(start) {
            Start::Nothing => Ok(bytes.into()),
            Start::Strip { character, most } => {
                let left_out =
                    bytes.iter().take(most).take_while(|byte| **byte == character).count();
                if left_out == bytes.len() && left_out < most {
                    *start = Start::Strip { character, most: most - left_out };
                }
                Ok(bytes[left_out..].into())
            }
            Start::Within(_) => Ok(self.first_bytes(id).into()),
        }
    }

    /// Returns the bytes of a token that is the first one of a text.
    fn first_bytes(&self, id: u32) -> Vec<u8> {
        let Some(characters) = &self.characters else { return Vec::new() };
        let added = self.added.list().iter().find(|added| added.id == id);
        let normal = |added: &Added| added.normal_form(&self.rules.normalizer);
        let spelling = added.map_or_else(|| characters.spelling(id).to_owned(), normal);
        characters.rules.decoder.decode_first(&spelling)
    }

    /// Appends the bytes of all tokens.
    fn append_bytes(&self, ids: &[u32], bytes: &mut Vec<u8>) -> Result<()> {
        for &id in ids {
            let &(start, end) = self.spans.get(id as usize).unwrap_or(&(0, 0));
            match self.text[start..].first_chunk::<COPIED>() {
                // Copying a fixed number of bytes takes one instruction; any other number takes a call.
                Some(token) if (1..=COPIED).contains(&(end - start)) => {
                    let length = bytes.len() + (end - start);
                    bytes.extend_from_slice(token);
                    bytes.truncate(length);
                }
                _ => bytes.extend_from_slice(self.known_token(id)?),
            }
        }
        Ok(())
    }

    /// Returns the text of `ids`, with U+FFFD for each maximal part that is not UTF-8. Tokens of bytes in a vocabulary of
    /// characters are together either UTF-8, or U+FFFD for each of them, as in Hugging Face's `tokenizers`.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// let ids = tokenizer.encode("né");
    /// assert_eq!(tokenizer.decode_lossy(&ids)?, "né");
    /// assert_eq!(tokenizer.decode_lossy(&ids[..2])?, "n\u{fffd}");
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Names the first id that is not in the vocabulary.
    pub fn decode_lossy(&self, ids: &[u32]) -> Result<String> {
        if self.byte_tokens.is_empty() {
            return Ok(String::from_utf8_lossy(&self.decode(ids)?).into_owned());
        }
        let (mut text, mut start) = (String::new(), self.start());
        for run in ids.chunk_by(|one, other| self.is_byte(*one) == self.is_byte(*other)) {
            let mut bytes = Vec::new();
            for &id in run {
                bytes.extend_from_slice(&self.begin(&mut start, id)?);
            }
            match str::from_utf8(&bytes) {
                Ok(run) => text.push_str(run),
                Err(_) if self.is_byte(run[0]) => text.extend(run.iter().map(|_| '\u{fffd}')),
                Err(_) => text.push_str(&String::from_utf8_lossy(&bytes)),
            }
        }
        Ok(text)
    }

    /// Whether a token of a vocabulary of characters stands for a byte.
    fn is_byte(&self, id: u32) -> bool {
        self.byte_tokens.contains(&id)
    }

    /// Decodes a text id by id; see [`DecodeStream`].
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        self.decode_stream_after(&[])
    }

    /// Decodes the continuation of a text id by id; see [`DecodeStream`]. `before` are the ids of the text so far. If
    /// they have more than special tokens, a blank at the beginning of the continuation is part of the text.
    pub fn decode_stream_after(&self, before: &[u32]) -> DecodeStream<'_> {
        let is_special = |id: &u32| {
            let mut added = self.added.list().iter();
            added.any(|added| added.id == *id && added.flags.special)
        };
        let begins = before.iter().all(is_special);
        let start = if begins { self.start() } else { Start::Nothing };
        DecodeStream { tokenizer: self, start, held: Vec::new() }
    }

    fn known_token(&self, id: u32) -> Result<&[u8]> {
        self.token_bytes(id).ok_or_else(|| {
            let size = self.vocab_size();
            Error::input(format!("token id {id} is not in the vocabulary of {size} tokens"))
                .hint("use the tokenizer that the tokens were made with")
        })
    }
}

/// Decodes ids one at a time into whole characters.
///
/// Bytes after the last whole character are held back, since the next ids may complete them. The concatenation of all
/// returned texts, including that of [`finish`](DecodeStream::finish), is equal to the result of
/// [`Tokenizer::decode_lossy`]; only if tokens of bytes in a vocabulary of characters are not UTF-8 together, whole
/// characters among them are returned.
///
/// ```
/// let tokenizer = wgpt::Tokenizer::bytes();
/// let mut stream = tokenizer.decode_stream();
/// let ids = tokenizer.encode("é!");
/// assert_eq!(stream.push(ids[0])?, "");
/// assert_eq!(stream.push(ids[1])?, "é");
/// assert_eq!(stream.push(ids[0])?, "");
/// assert_eq!(stream.finish(), "\u{fffd}");
/// # Ok::<(), wgpt::Error>(())
/// ```
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// What is still to be left out at the beginning of the text.
    start: Start,
    held: Vec<u8>,
}

impl DecodeStream<'_> {
    /// Takes the next id; returns the text up to the last complete character.
    ///
    /// # Errors
    ///
    /// If the id is not in the vocabulary; the stream is then unchanged.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.push_all(&[id])
    }

    /// Takes the next ids, like [`push`](DecodeStream::push) for each.
    ///
    /// # Errors
    ///
    /// Names the first id that is not in the vocabulary; the stream is then unchanged.
    pub fn push_all(&mut self, ids: &[u32]) -> Result<String> {
        let (mut bytes, mut start) = (Vec::new(), self.start);
        for &id in ids {
            bytes.extend_from_slice(&self.tokenizer.begin(&mut start, id)?);
        }
        self.start = start;
        self.held.extend(bytes);
        let (mut whole, mut seen) = (0, 0);
        for chunk in self.held.utf8_chunks() {
            if !chunk.valid().is_empty() {
                whole = seen + chunk.valid().len();
            }
            seen += chunk.valid().len() + chunk.invalid().len();
        }
        let text = String::from_utf8_lossy(&self.held[..whole]).into_owned();
        self.held.drain(..whole);
        Ok(text)
    }

    /// Ends the sequence; returns the text of the held bytes, with U+FFFD for each invalid part.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}
