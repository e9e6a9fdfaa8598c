//! Vocabularies of characters, as SentencePiece makes them: a piece is merged from the tokens of its characters, and a
//! character without a token is the tokens of its bytes (`<0xE2>`), or the unknown token.
//!
//! Most of these models have no pattern: a whole text is one piece. It is cut here into pieces that no merge crosses.
//! Between two characters none does if no merge has a left part that ends with the first one and a right part that
//! begins with the second one. In Llama 2's vocabulary this is the case in front of each blank that follows another
//! character, so that pieces are words, whose ids are found in the cache.

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

use super::decoder::Decoder;
use super::normalizer::{Folds, fold};
use super::ranks::NONE;
use super::token::{Merge, Span, Token};
use crate::error::{Error, Result};

/// Where a blank, or the character that stands for it, is put in front of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Never,
    /// In front of a text that does not begin with one.
    First,
    /// In front of each stretch between added tokens that does not begin with one.
    Always,
}

/// What a file says about a vocabulary of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CharacterRules {
    /// The characters in whose stead others are seen.
    pub(super) folds: Folds,
    pub(super) scheme: Scheme,
    /// The character that stands for a blank, if the file names one.
    pub(super) blank: Option<char>,
    /// Whether each of these characters begins a piece.
    pub(super) splits: bool,
    pub(super) byte_fallback: bool,
    pub(super) unk_token: Option<String>,
    /// Whether unknown characters beside each other are one unknown token.
    pub(super) fuse_unk: bool,
    pub(super) decoder: Decoder,
    pub(super) stages: Stages,
}

/// The stages of a file, kept so that they can be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stages {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) decoder: Value,
}

/// The number of ASCII characters.
const ASCII: usize = 128;

/// A vocabulary of characters, ready to encode.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Characters {
    pub(super) rules: CharacterRules,
    /// The tokens' spellings by id; empty for ids that are not in the vocabulary.
    spellings: Vec<Box<str>>,
    /// The tokens of single characters, as they are spelled.
    tokens: FxHashMap<char, u32>,
    /// The same for ASCII characters, after folding; [`NONE`] without a token.
    ascii: [u32; ASCII],
    /// The tokens of bytes.
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    /// The pairs of tokens of characters that some merge joins.
    joints: FxHashSet<(u32, u32)>,
    /// The same for ASCII characters, after folding: by the first one, a bit for the second one.
    ascii_joints: [u128; ASCII],
    /// Whether any two characters may be in one piece: pieces that are tokens are taken whole, or some merge has the
    /// token of a byte or the unknown one.
    joins_all: bool,
    /// The concatenated tokens of characters of which tokens consist, and by id their range.
    letters: Vec<u32>,
    spans: Vec<Span>,
    /// Whether the characters of each token are unique, so that long pieces may be merged by stretches.
    pub(super) merges_join: bool,
}

impl Characters {
    /// Builds a vocabulary of `size` ids; the tokens' bytes are their spellings.
    ///
    /// # Errors
    ///
    /// If a character could have no token at all.
    pub(super) fn new(
        rules: CharacterRules,
        vocabulary: &[Token],
        merges: &[Merge],
        ignore_merges: bool,
        size: usize,
    ) -> Result<Characters> {
        let mut spellings = vec![Box::default(); size];
        for (id, spelling) in vocabulary {
            spellings[*id as usize] = String::from_utf8_lossy(spelling).into();
        }
        let ids: FxHashMap<&str, u32> = vocabulary
            .iter()
            .filter_map(|(id, spelling)| Some((str::from_utf8(spelling).ok()?, *id)))
            .collect();
        let bytes = byte_tokens(&rules, &ids)?;
        let unknown = unknown_token(&rules, &ids, bytes.is_some())?;
        let tokens: FxHashMap<char, u32> =
            ids.iter().filter_map(|(spelling, id)| Some((only_char(spelling)?, *id))).collect();
        let mut characters = Characters {
            rules,
            spellings,
            tokens,
            ascii: [NONE; ASCII],
            bytes,
            unknown,
            joints: FxHashSet::default(),
            ascii_joints: [0; ASCII],
            joins_all: ignore_merges,
            letters: Vec::new(),
            spans: Vec::new(),
            merges_join: true,
        };
        characters.ascii = std::array::from_fn(|c| {
            characters.find(fold(&characters.rules.folds, c as u8 as char))
        });
        characters.find_joints(merges);
        characters.find_letters(merges);
        Ok(characters)
    }

    /// Whether a token stands for a byte, or for unknown characters.
    pub(super) fn is_stand_in(&self, id: u32) -> bool {
        self.unknown == Some(id) || self.bytes.as_ref().is_some_and(|bytes| bytes.contains(&id))
    }

    fn find_joints(&mut self, merges: &[Merge]) {
        self.joins_all |= merges
            .iter()
            .any(|merge| self.is_stand_in(merge.left) || self.is_stand_in(merge.right));
        for merge in merges {
            let last = self.spelling(merge.left).chars().next_back();
            let first = self.spelling(merge.right).chars().next();
            let tokens = |c: Option<char>| c.and_then(|c| self.tokens.get(&c).copied());
            if let (Some(last), Some(first)) = (tokens(last), tokens(first)) {
                self.joints.insert((last, first));
            }
        }
        for before in 0..ASCII {
            for after in 0..ASCII {
                let joined = self.joints.contains(&(self.ascii[before], self.ascii[after]));
                self.ascii_joints[before] |= u128::from(joined) << after;
            }
        }
    }

    fn find_letters(&mut self, merges: &[Merge]) {
        let parts = merges.iter().flat_map(|merge| [merge.left, merge.right]);
        self.merges_join = !parts.into_iter().any(|id| self.is_stand_in(id));
        let results: FxHashSet<u32> = merges.iter().map(|merge| merge.result).collect();
        for id in 0..self.spellings.len() as u32 {
            let start = self.letters.len();
            if results.contains(&id) {
                self.merges_join &= !self.is_stand_in(id);
                for c in self.spellings[id as usize].chars() {
                    let token = self.tokens.get(&c).copied();
                    self.merges_join &= token.is_some();
                    self.letters.push(token.unwrap_or(NONE));
                }
            } else {
                self.letters.push(id);
            }
            self.spans.push((start, self.letters.len()));
        }
    }

    /// Returns a token's spelling in its file; empty if the vocabulary does not have it.
    pub(super) fn spelling(&self, id: u32) -> &str {
        self.spellings.get(id as usize).map_or("", |spelling| spelling)
    }

    /// Returns the tokens of the characters of which a token consists.
    pub(super) fn letters_of(&self, id: u32) -> &[u32] {
        self.spans.get(id as usize).map_or(&[], |&(start, end)| &self.letters[start..end])
    }
    /// Returns the tokens of all bytes, by byte.
    pub(super) fn bytes(&self) -> Option<&[u32; 256]> {
        self.bytes.as_deref()
    }

    /// Returns the token of unknown characters.
    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Returns the token of a character as the vocabulary spells it, or [`NONE`].
    fn find(&self, character: char) -> u32 {
        self.tokens.get(&character).copied().unwrap_or(NONE)
    }

    /// Returns the token of a character of a text, or [`NONE`].
    #[inline]
    fn token(&self, character: char) -> u32 {
        match self.ascii.get(character as usize) {
            Some(&token) => token,
            None => self.find(fold(&self.rules.folds, character)),
        }
    }

    /// Whether no piece has these two characters beside each other.
    #[inline]
    pub(super) fn parts(&self, before: char, after: char) -> bool {
        if self.rules.splits && Some(fold(&self.rules.folds, after)) == self.rules.blank {
            return true;
        }
        if self.joins_all {
            return false;
        }
        if before.is_ascii() && after.is_ascii() && self.ascii[before as usize] != NONE {
            return self.ascii_joints[before as usize] >> after as u32 & 1 == 0;
        }
        match (self.token(before), self.token(after)) {
            (NONE, NONE) => self.bytes.is_some() || !self.rules.fuse_unk,
            pair => !self.joints.contains(&pair),
        }
    }

    /// Returns the end of the piece of `text` that begins at byte `start`, of which there is at least a character.
    #[inline]
    pub(super) fn piece_end(&self, text: &str, start: usize) -> usize {
        let mut characters = text[start..].char_indices();
        let Some((_, mut before)) = characters.next() else { return start };
        for (at, after) in characters {
            if self.parts(before, after) {
                return start + at;
            }
            before = after;
        }
        text.len()
    }

    /// Appends the tokens of the characters of a piece.
    pub(super) fn append_letters(&self, piece: &str, letters: &mut Vec<u32>) {
        let mut was_unknown = false;
        for character in piece.chars() {
            let token = self.token(character);
            let is_unknown = token == NONE && self.bytes.is_none();
            match &self.bytes {
                _ if token != NONE => letters.push(token),
                Some(bytes) => {
                    let mut of = [0; 4];
                    let of = character.encode_utf8(&mut of).bytes();
                    letters.extend(of.map(|byte| bytes[usize::from(byte)]));
                }
                None if was_unknown && self.rules.fuse_unk => {}
                None => letters.extend(self.unknown),
            }
            was_unknown = is_unknown;
        }
    }

    /// Returns a text as the vocabulary spells it.
    pub(super) fn folded(&self, text: &str) -> String {
        text.chars().map(|character| fold(&self.rules.folds, character)).collect()
    }

    /// Returns what is put in front of a stretch of text; `is_first` is whether a text begins with it.
    pub(super) fn prefix(&self, stretch: &str, is_first: bool) -> Option<char> {
        let wanted = match self.rules.scheme {
            Scheme::Never => false,
            Scheme::First => is_first,
            Scheme::Always => true,
        };
        let begins = stretch.chars().next().map(|first| fold(&self.rules.folds, first));
        self.rules.blank.filter(|_| wanted && begins != self.rules.blank)
    }
}

/// Returns the character of a spelling that has only one.
fn only_char(spelling: &str) -> Option<char> {
    let mut characters = spelling.chars();
    characters.next().filter(|_| characters.next().is_none())
}

/// Returns the spelling of a byte's token.
pub(super) fn byte_spelling(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Returns the tokens of the bytes, by byte; `None` if the vocabulary has none or they are not used.
fn byte_tokens(
    rules: &CharacterRules,
    ids: &FxHashMap<&str, u32>,
) -> Result<Option<Box<[u32; 256]>>> {
    let find = |byte: u8| ids.get(byte_spelling(byte).as_str()).copied();
    let mut missing = (0..=255).filter(|&byte| find(byte).is_none());
    match missing.next() {
        _ if !rules.byte_fallback => Ok(None),
        None => Ok(Some(Box::new(std::array::from_fn(|byte| find(byte as u8).unwrap_or(NONE))))),
        Some(_) if missing.count() == 255 => Ok(None),
        Some(byte) => Err(Error::input(format!(
            "byte_fallback is true, and the vocabulary has some tokens of bytes, but not {}",
            byte_spelling(byte)
        ))
        .hint("use a vocabulary with a token for each of the 256 bytes, or with none")),
    }
}

/// Returns the token of unknown characters.
fn unknown_token(
    rules: &CharacterRules,
    ids: &FxHashMap<&str, u32>,
    has_bytes: bool,
) -> Result<Option<u32>> {
    let Some(text) = &rules.unk_token else {
        if has_bytes {
            return Ok(None);
        }
        return Err(Error::input(
            "the model has neither byte_fallback, with tokens of bytes, nor an unk_token: some characters would be lost",
        )
        .hint("use a tokenizer with one of them"));
    };
    match ids.get(text.as_str()) {
        Some(&id) => Ok(Some(id)),
        None if has_bytes => Ok(None),
        None => Err(Error::input(format!("the unk_token {text:?} is not in the vocabulary"))
            .hint("name a token of the vocabulary")),
    }
}
