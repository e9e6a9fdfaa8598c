//! The tokenizer: its tokens, its merges, and its construction.

use std::fmt;

use rustc_hash::{FxHashMap, FxHashSet};

use super::alphabet;
use super::characters::{CharacterRules, Characters};
use super::encode::Encoders;
use super::ranks::{NONE, Ranks};
use super::rules::Rules;
use super::special::{self, Added, AddedTokens, Flags, spelled_bytes};
use super::template::Template;
use super::token::{END_OF_TEXT, Merge, Span, Token};
use super::vocabulary::{Stated, Vocabulary};
use crate::error::{Error, Result};

/// Converts text to token ids and back.
///
/// ```
/// use wgpt::Tokenizer;
///
/// let tokenizer = Tokenizer::train(b"low lower lowest low lower lowest", 262)?;
/// let ids = tokenizer.encode("lowest");
/// assert!(ids.len() < 6);
/// assert_eq!(tokenizer.decode_lossy(&ids)?, "lowest");
///
/// let again = Tokenizer::from_json(&tokenizer.to_json(), "tokenizer.json")?;
/// assert!(again == tokenizer);
/// # Ok::<(), wgpt::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// The concatenated bytes of all tokens.
    pub(super) text: Vec<u8>,
    /// By id: the range of the token's bytes in `text`; empty for unused ids.
    pub(super) spans: Vec<Span>,
    /// By byte: the id of the token that consists of this byte. A vocabulary of characters leaves it unused.
    pub(super) byte_ids: [u32; 256],
    pub(super) rules: Rules,
    /// The tokens of the vocabulary by their bytes; filled only if merges are ignored.
    pub(super) whole: FxHashMap<Box<[u8]>, u32>,
    /// The vocabulary, if it is one of characters.
    pub(super) characters: Option<Box<Characters>>,
    /// Its tokens that are decoded as bytes.
    pub(super) byte_tokens: FxHashSet<u32>,
    /// The merges in the order of their ranks.
    pub(super) merges: Vec<Merge>,
    /// Whether the bytes of each merge's result are those of its parts. In a file, an added token may be part of a
    /// merge and have characters that stand for no byte.
    pub(super) merges_join: bool,
    pub(super) ranks: Ranks,
    /// The ranks of the pairs of single-byte tokens, by both bytes; empty for a vocabulary of characters.
    pub(super) byte_ranks: Vec<u32>,
    /// The tokens that are recognised by name in a text.
    pub(super) added: AddedTokens,
    pub(super) encoders: Encoders,
}

impl Tokenizer {
    /// Checks a vocabulary of ids and bytes and builds a tokenizer; a vocabulary of characters has the tokens' spellings
    /// instead of bytes. The merges' ids must be in the vocabulary, as must the added tokens that are marked so.
    ///
    /// # Errors
    ///
    /// If an id or a token occurs twice, an id is far larger than the number of tokens, a byte or a character may have
    /// no token, or the added tokens are too long.
    pub(super) fn build(
        vocabulary: Vec<Token>,
        merges: Vec<Merge>,
        added: Vec<Added>,
        rules: Rules,
    ) -> Result<Tokenizer> {
        let (text, spans) = gathered(&vocabulary, &added, &rules)?;
        rules
            .template
            .check(|id| spans.get(id as usize).is_some_and(|(start, end)| start != end))?;
        let ranks = Ranks::new(merges.iter().map(|merge| (merge.left, merge.right)));
        let characters = rules.characters.clone().map(|own| {
            Characters::new(own, &vocabulary, &merges, rules.ignore_merges, spans.len())
        });
        let characters = characters.transpose()?.map(Box::new);
        let byte_tokens = byte_tokens(&vocabulary, &added, &rules);
        let (mut byte_ids, mut byte_ranks) = ([NONE; 256], Vec::new());
        if characters.is_none() {
            byte_ids = self::byte_ids(&vocabulary, &added)?;
            let rank = |pair: usize| {
                let [left, right] = [pair >> 8, pair & 255].map(|byte| byte_ids[byte]);
                ranks.get(left, right)
            };
            byte_ranks = (0..1 << 16).map(rank).collect();
        }
        let bytes = |id: u32| &text[spans[id as usize].0..spans[id as usize].1];
        let joins = |merge: &Merge| {
            let (left, right) = (bytes(merge.left), bytes(merge.right));
            bytes(merge.result).strip_prefix(left) == Some(right)
        };
        let merges_join = match &characters {
            Some(characters) => characters.merges_join,
            None => merges.iter().all(joins),
        };
        let mut whole = FxHashMap::default();
        if rules.ignore_merges {
            whole.extend(vocabulary.iter().map(|(id, bytes)| (bytes.as_slice().into(), *id)));
            let is_other = |added: &&Added| characters.is_none() && !added.is_spelled_in_bytes();
            for added in added.iter().filter(is_other) {
                whole.remove(added.content.as_bytes());
            }
        }
        Ok(Tokenizer {
            merges_join,
            byte_ranks,
            text,
            spans,
            byte_ids,
            whole,
            characters,
            byte_tokens,
            merges,
            ranks,
            added: AddedTokens::new(added, &rules.normalizer)?,
            rules,
            encoders: Encoders::default(),
        })
    }

    /// Returns the tokens in the vocabulary as [`build`](Tokenizer::build) takes them, without tokens that are only added.
    pub(super) fn vocabulary(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let beside = self.added.list().iter().filter(|added| !added.in_vocabulary);
        let beside: Vec<u32> = beside.map(|added| added.id).collect();
        let ids = (0..self.spans.len() as u32).filter(move |id| !beside.contains(id));
        ids.filter_map(|id| match &self.characters {
            Some(characters) => Some((id, characters.spelling(id).as_bytes())),
            None => Some((id, self.token_bytes(id)?)),
        })
        .filter(|(_, token)| !token.is_empty())
    }

    /// Returns the tokenizer with more special tokens, at the end of the vocabulary. A token that is spelled like a
    /// token of the vocabulary gets that token's id, as in Hugging Face's library.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes().with_special_tokens(["<|user|>"])?;
    /// assert_eq!(tokenizer.encode_with_special("<|user|>!"), [257, 1]);
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a token is empty, is already a special token, or is given twice; or if the vocabulary has gaps in its ids, so
    /// that it has no defined end.
    pub fn with_special_tokens<T: Into<String>>(
        self,
        tokens: impl IntoIterator<Item = T>,
    ) -> Result<Tokenizer> {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        special::check_new(&tokens, self.added.list())?;
        let spellings = self.spellings();
        let own = self.vocabulary().map(|(id, _)| (spellings[id as usize].clone(), id));
        let mut vocabulary = Vocabulary::new(own.collect())?;
        for Added { id, content, flags, .. } in self.added.list().iter().cloned() {
            vocabulary.add(Stated { content, id: Some(id), flags })?;
        }
        for content in tokens {
            vocabulary.add(Stated { content, id: None, flags: Flags::SPECIAL })?;
        }
        let tokens = vocabulary.tokens(self.characters.is_none())?;
        Tokenizer::build(tokens, self.merges, vocabulary.added, self.rules)
    }

    /// Returns the tokenizer for a model of `vocab_size` tokens, and the texts of the added tokens that were removed
    /// because the model has no row for them. Files beside a vocabulary often list some, such as `[PAD]`, that a model
    /// never had.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes().with_special_tokens(["<|user|>"])?;
    /// let (tokenizer, left_out) = tokenizer.within(257)?;
    /// assert_eq!((tokenizer.vocab_size(), left_out), (257, vec!["<|user|>".to_owned()]));
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for reading a tokenizer. Tokens of the vocabulary itself are kept, so the result may still be too large.
    pub fn within(self, vocab_size: usize) -> Result<(Tokenizer, Vec<String>)> {
        if self.vocab_size() <= vocab_size {
            return Ok((self, vec![]));
        }
        let has_row = |added: &Added| added.in_vocabulary || (added.id as usize) < vocab_size;
        let (kept, left_out): (Vec<Added>, Vec<Added>) =
            self.added.list().iter().cloned().partition(has_row);
        let vocabulary = self.vocabulary().map(|(id, bytes)| (id, bytes.to_vec())).collect();
        let is_kept = |id| left_out.iter().all(|added| added.id != id);
        let rules = Rules { template: self.rules.template.retaining(is_kept), ..self.rules };
        let tokenizer = Tokenizer::build(vocabulary, self.merges, kept, rules)?;
        Ok((tokenizer, left_out.into_iter().map(|added| added.content).collect()))
    }

    /// Returns the number of rows that a model needs for this vocabulary: the largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.spans.len()
    }

    /// Returns the number of merges.
    pub fn merge_count(&self) -> usize {
        self.merges.len()
    }

    /// Returns the id of `<|endoftext|>`, if the vocabulary has it.
    pub fn end_of_text(&self) -> Option<u32> {
        self.added.list().iter().find(|added| added.content == END_OF_TEXT).map(|added| added.id)
    }

    /// Returns the tokens that [`encode_with_special`](Tokenizer::encode_with_special) recognises, with
    /// their ids.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.added.list().iter().map(|added| (added.content.as_str(), added.id))
    }

    /// Returns the tokens that the tokenizer's post-processor puts before and after a whole text, by id: for Llama's
    /// models the token that begins a text, for GPT-2's none.
    pub fn template(&self) -> (&[u32], &[u32]) {
        (&self.rules.template.before, &self.rules.template.after)
    }

    /// Returns the tokenizer with other tokens before and after a whole text: the option for a token that begins texts.
    /// The files that it writes then say so.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes().with_template([0], [])?;
    /// assert_eq!(tokenizer.encode_whole("!"), [0, 1]);
    /// assert_eq!(tokenizer.encode("!"), [1]);
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Names the first id that is not in the vocabulary.
    pub fn with_template(
        mut self,
        before: impl Into<Vec<u32>>,
        after: impl Into<Vec<u32>>,
    ) -> Result<Tokenizer> {
        let template = Template { before: before.into(), after: after.into() };
        template.check(|id| self.token_bytes(id).is_some())?;
        let spellings = self.spellings();
        self.rules.post_processor =
            (!template.is_empty()).then(|| template.to_json(|id| spellings[id as usize].clone()));
        self.rules.template = template;
        Ok(self)
    }

    /// Returns the bytes of a token; `None` if no token has this id.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::bytes();
    /// assert_eq!(tokenizer.token_bytes(1), Some(&b"!"[..]));
    /// assert_eq!(tokenizer.token_bytes(257), None);
    /// ```
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let &(start, end) = self.spans.get(usize::try_from(id).ok()?)?;
        (start != end).then(|| &self.text[start..end])
    }
}

/// Concatenates the bytes of all tokens; returns them, and by id the range of each token in them.
fn gathered(vocabulary: &[Token], added: &[Added], rules: &Rules) -> Result<(Vec<u8>, Vec<Span>)> {
    let decoder = rules.characters.as_ref().map(|characters| &characters.decoder);
    let normal = |added: &Added| added.normal_form(&rules.normalizer);
    let bytes = |added: &Added| match decoder {
        Some(decoder) => decoder.decode(&normal(added)),
        None => spelled_bytes(&normal(added)),
    };
    let changed: FxHashMap<u32, &Added> = added
        .iter()
        .filter(|a| a.in_vocabulary && normal(a) != a.content)
        .map(|a| (a.id, a))
        .collect();
    let own = |(id, token): &Token| {
        let bytes = match (changed.get(id), decoder) {
            (Some(added), _) => bytes(added),
            (None, Some(decoder)) => decoder.decode(&String::from_utf8_lossy(token)),
            (None, None) => token.clone(),
        };
        (*id, bytes)
    };
    let beside = added.iter().filter(|added| !added.in_vocabulary);
    let beside = beside.map(|added| (added.id, bytes(added)));
    let all: Vec<Token> = vocabulary.iter().map(own).chain(beside).collect();
    let tokens = || all.iter();
    let largest = tokens().map(|(id, _)| *id).max().unwrap_or(0) as usize;
    if largest > 8 * vocabulary.len() + 1024 {
        let tokens = vocabulary.len();
        return Err(Error::input(format!(
            "the vocabulary has {tokens} tokens, but the id {largest}"
        ))
        .hint("number the tokens from 0 on"));
    }
    let mut text = Vec::new();
    let mut spans = vec![(0, 0); largest + 1];
    for (id, token) in tokens() {
        let span = &mut spans[*id as usize];
        if span.0 != span.1 {
            let (one, other) = (alphabet::spell(&text[span.0..span.1]), alphabet::spell(token));
            return Err(Error::input(format!(
                "the tokens {one:?} and {other:?} have the same id {id}"
            )));
        }
        if token.is_empty() {
            return Err(Error::input(format!("the token with the id {id} is empty")));
        }
        *span = (text.len(), text.len() + token.len());
        text.extend_from_slice(token);
    }
    Ok((text, spans))
}

/// Returns the tokens of a vocabulary of characters that are decoded as bytes.
fn byte_tokens(vocabulary: &[Token], added: &[Added], rules: &Rules) -> FxHashSet<u32> {
    let Some(CharacterRules { decoder, .. }) = &rules.characters else {
        return FxHashSet::default();
    };
    let own = vocabulary.iter().map(|(id, token)| (*id, String::from_utf8_lossy(token)));
    let mut tokens: FxHashMap<u32, _> = own.collect();
    tokens
        .extend(added.iter().map(|added| (added.id, added.normal_form(&rules.normalizer).into())));
    tokens.into_iter().filter(|(_, spelling)| decoder.is_byte(spelling)).map(|(id, _)| id).collect()
}

/// Returns, by byte, the id of the token that consists of this byte.
fn byte_ids(vocabulary: &[Token], added: &[Added]) -> Result<[u32; 256]> {
    let letters = added
        .iter()
        .filter(|added| added.content.len() == 1 && !added.is_spelled_in_bytes())
        .map(|added| added.id);
    let letters: Vec<u32> = letters.collect();
    let mut byte_ids = [u32::MAX; 256];
    for (id, token) in vocabulary {
        // An added token that is a space or a line end is not the byte's own token, which is spelled with a letter.
        if let [byte] = token.as_slice()
            && !letters.contains(id)
        {
            byte_ids[usize::from(*byte)] = *id;
        }
    }
    let Some(byte) = byte_ids.iter().position(|&id| id == u32::MAX) else { return Ok(byte_ids) };
    let letter = alphabet::spell(&[byte as u8]);
    Err(Error::input(format!("the vocabulary has no token for byte {byte} ({letter:?})"))
        .hint("use a byte-level vocabulary with a token for each of the 256 bytes"))
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ids, merges) = (self.vocab_size(), self.merge_count());
        write!(f, "Tokenizer {{ {ids} ids, {merges} merges }}")
    }
}
