//! A vocabulary while its files are read. The consistency of the files is checked here.

use rustc_hash::{FxHashMap, FxHashSet};

use super::alphabet;
use super::special::{Added, Flags};
use super::token::{END_OF_TEXT, Merge, Token};
use crate::error::{Error, Result};

/// An added token as a file states it.
#[derive(Clone)]
pub(super) struct Stated {
    pub(super) content: String,
    /// The id; `None`: the file only names the token.
    pub(super) id: Option<u32>,
    pub(super) flags: Flags,
}

pub(super) struct Vocabulary {
    /// The ids of the model's own tokens, by spelling.
    ids: FxHashMap<String, u32>,
    pub(super) added: Vec<Added>,
    /// The indices in `added`, by content.
    places: FxHashMap<String, usize>,
    taken: FxHashSet<u32>,
}

impl Vocabulary {
    /// Creates a vocabulary from the model's own tokens.
    ///
    /// # Errors
    ///
    /// If a token occurs twice.
    pub(super) fn new(entries: Vec<(String, u32)>) -> Result<Vocabulary> {
        let mut ids = FxHashMap::default();
        for (token, id) in entries {
            if ids.contains_key(&token) {
                return Err(Error::input(format!("the token {token:?} is there twice")));
            }
            ids.insert(token, id);
        }
        let taken = ids.values().copied().collect();
        Ok(Vocabulary { ids, added: Vec::new(), places: FxHashMap::default(), taken })
    }

    /// Whether a token was added.
    pub(super) fn has_added(&self, content: &str) -> bool {
        self.places.contains_key(content)
    }

    /// Returns the flags of a token that was added.
    pub(super) fn flags(&self, content: &str) -> Option<Flags> {
        self.places.get(content).map(|&place| self.added[place].flags)
    }

    /// Adds a token as Hugging Face's `tokenizers` do: a token that is spelled like a token of the model gets its id,
    /// any other the next free one. A token that was added before gets the new flags.
    ///
    /// # Errors
    ///
    /// If it is empty, or its stated id differs from the id that it would get.
    pub(super) fn add(&mut self, Stated { content, id: stated, flags }: Stated) -> Result<()> {
        if content.is_empty() {
            let id = stated.map_or_else(String::new, |id| format!(" with the id {id}"));
            return Err(Error::input(format!("the added token{id} is empty")));
        }
        let own = self.ids.get(&content).copied();
        let place = self.places.get(&content).copied();
        let known = place.map(|place| self.added[place].id).or(own);
        let id = known.unwrap_or_else(|| self.next_id());
        if let Some(stated) = stated.filter(|stated| *stated != id) {
            return Err(self.contradiction(&content, stated, id, known.is_some()));
        }
        if known.is_none() && !self.taken.insert(id) {
            let token = self.name_of(id);
            return Err(Error::input(format!(
                "the added token {content:?} would have the id {id}, which is the token {token:?}"
            ))
            .hint("number the tokens of the vocabulary from 0 on, without gaps"));
        }
        match place {
            Some(place) => self.added[place].flags = flags,
            None => {
                self.places.insert(content.clone(), self.added.len());
                self.added.push(Added { id, content, flags, in_vocabulary: own.is_some() });
            }
        }
        Ok(())
    }

    /// Returns the id of a new token: after all others, if they are numbered from 0 on.
    fn next_id(&self) -> u32 {
        let own = self.ids.len() as u32;
        let last = self.added.iter().map(|added| added.id).max();
        last.filter(|last| *last >= own).map_or(own, |last| last + 1)
    }

    fn contradiction(&self, content: &str, stated: u32, id: u32, known: bool) -> Error {
        let what = if known {
            format!("the added token {content:?} has the ids {stated} and {id}")
        } else if self.taken.contains(&stated) {
            let other = self.name_of(stated);
            format!("the added token {content:?} has the id {stated}, which is the token {other:?}")
        } else {
            format!("the added token {content:?} has the id {stated}, the next free one is {id}")
        };
        Error::input(what).hint(
            "an added token has the id of the token that is spelled like it, or the next free one",
        )
    }

    /// Returns the token that has an id.
    fn name_of(&self, id: u32) -> &str {
        let added = self.added.iter().find(|added| added.id == id).map(|added| &added.content);
        let own = || self.ids.iter().find(|(_, other)| **other == id).map(|(token, _)| token);
        added.or_else(own).map_or("", String::as_str)
    }

    /// Returns the model's own tokens by id: with their bytes if the vocabulary is byte-level, or else with their
    /// spellings. From here on, `<|endoftext|>` is an added token.
    ///
    /// # Errors
    ///
    /// If a token of a byte-level vocabulary that was not added has a character that stands for no byte.
    pub(super) fn tokens(&mut self, byte_level: bool) -> Result<Vec<Token>> {
        if let Some(&id) = self.ids.get(END_OF_TEXT)
            && !self.has_added(END_OF_TEXT)
        {
            self.added.push(Added::end_of_text(id));
        }
        let mut tokens = Vec::with_capacity(self.ids.len());
        for (token, &id) in &self.ids {
            let bytes = match alphabet::to_bytes(token) {
                _ if !byte_level => token.clone().into_bytes(),
                Ok(bytes) => bytes,
                Err(_) if self.has_added(token) => token.clone().into_bytes(),
                Err(letter) => {
                    return Err(Error::input(format!(
                        "the token {token:?} has {letter:?}, which stands for no byte"
                    ))
                    .hint("use a byte-level vocabulary such as GPT-2's"));
                }
            };
            tokens.push((id, bytes));
        }
        tokens.sort_unstable();
        Ok(tokens)
    }

    /// Returns the merge of two tokens. All three tokens are given by their spelling.
    ///
    /// # Errors
    ///
    /// If one of them is not in the vocabulary.
    pub(super) fn merge(&self, left: &str, right: &str) -> Result<Merge> {
        let id = |token: &str| self.ids.get(token).copied();
        let part = |token| {
            id(token).ok_or_else(|| {
                Error::input(format!(
                    "{left:?} and {right:?} are merged, but {token:?} is not in the vocabulary"
                ))
            })
        };
        let (left_id, right_id) = (part(left)?, part(right)?);
        let joined = format!("{left}{right}");
        let result = id(&joined).ok_or_else(|| {
            let what = format!("the merge of {left:?} and {right:?} gives {joined:?}");
            Error::input(format!("{what}, which is not in the vocabulary"))
        })?;
        Ok(Merge { left: left_id, right: right_id, result })
    }
}
