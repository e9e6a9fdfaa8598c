//! Where in a text its tokens lie.

use std::borrow::Cow;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::bpe::Tokenizer;
use super::special::Added;

impl Tokenizer {
    /// Returns a text in the Unicode normal form in which this tokenizer reads texts; its ids are the same.
    pub fn normal_form<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.rules.normalizer.form.map_or(Cow::Borrowed(text), |form| form.apply(text))
    }

    /// Returns where in a text each of its tokens lies, in bytes; `None` if the tokens do not spell the text.
    ///
    /// `ids` are those of [`Tokenizer::encode_with_special`], and the text has the tokenizer's
    /// [normal form](Tokenizer::normal_form). A blank that the tokenizer puts before a stretch takes no room; blanks that an added
    /// token takes with it lie in no token.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// let text = "a<|endoftext|>";
    /// let ids = tokenizer.encode_with_special(text);
    /// assert_eq!(tokenizer.ranges(text, &ids), Some(vec![0..1, 1..14]));
    /// ```
    pub fn ranges(&self, text: &str, ids: &[u32]) -> Option<Vec<Range<usize>>> {
        let added: FxHashMap<u32, &Added> =
            self.added.list().iter().map(|added| (added.id, added)).collect();
        let mut at = 0;
        let mut range = |id: &u32| {
            let rest = &text.as_bytes()[at..];
            let (before, length) = match added.get(id) {
                Some(added) => place_of_added(added, rest)?,
                None => (0, length_of_token(self.token_bytes(*id).unwrap_or_default(), rest)?),
            };
            let (start, end) = (at + before, at + before + length);
            let takes_blanks = added.get(id).is_some_and(|added| added.flags.rstrip);
            at = end + if takes_blanks { blanks(&text.as_bytes()[end..]) } else { 0 };
            Some(start..end)
        };
        let ranges = ids.iter().map(&mut range).collect::<Option<Vec<_>>>()?;
        (at + blanks(&text.as_bytes()[at..]) == text.len()).then_some(ranges)
    }
}

/// Returns the number of blanks that a text begins with.
fn blanks(text: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(text) else { return 0 };
    text.len() - text.trim_start().len()
}

/// Returns the number of blanks before an added token, and its length.
fn place_of_added(added: &Added, text: &[u8]) -> Option<(usize, usize)> {
    let content = added.content.as_bytes();
    let before = if text.starts_with(content) { 0 } else { blanks(text) };
    text[before..].starts_with(content).then_some((before, content.len()))
}

/// Returns how much of a text a token is, whose blank at the beginning may have been put there.
fn length_of_token(token: &[u8], text: &[u8]) -> Option<usize> {
    if text.starts_with(token) {
        return Some(token.len());
    }
    let rest = token.strip_prefix(b" ")?;
    text.starts_with(rest).then_some(rest.len())
}
