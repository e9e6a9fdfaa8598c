//! Decodes ids to text, all at once or token by token as they are generated.

use super::bpe::Tokenizer;
use crate::error::{Error, Result};

/// The number of bytes that are copied at once: most tokens have fewer.
const COPIED: usize = 16;

impl Tokenizer {
    /// Returns the bytes of `ids`, which may begin or end within a character.
    ///
    /// # Errors
    ///
    /// Names the first id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
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
        Ok(bytes)
    }

    /// Returns the text of `ids`, with U+FFFD for each maximal part that is not UTF-8.
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
        Ok(String::from_utf8_lossy(&self.decode(ids)?).into_owned())
    }

    /// Decodes a sequence id by id; see [`DecodeStream`].
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, held: Vec::new() }
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
/// [`Tokenizer::decode_lossy`].
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
        self.held.extend(self.tokenizer.decode(ids)?);
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
