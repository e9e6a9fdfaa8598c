//! Files of conversations: found by their first value, read with the line of each fault, and encoded on all threads.

use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::json::{self, JsonFile};
use super::marks;
use super::source::{Source, Sources};
use crate::chat::{ChatTemplate, Conversation, Fit, Long, is_conversation};
use crate::disk;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Conversations that are encoded at once.
const TOGETHER: usize = 4096;

/// What became of the conversations of some files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Conversations that are trained on.
    pub conversations: usize,
    /// Their tokens.
    pub tokens: usize,
    /// The tokens that are learned.
    pub learned: usize,
    /// Conversations that were cut after one of their turns, since they are longer than the context.
    pub cut: usize,
    /// Conversations that were left out, since they are longer than the context.
    pub too_long: usize,
    /// Conversations that were left out, since no token of them is learned.
    pub nothing: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.conversations += more.conversations;
        self.tokens += more.tokens;
        self.learned += more.learned;
        self.cut += more.cut;
        self.too_long += more.too_long;
        self.nothing += more.nothing;
    }
}

impl std::fmt::Display for Counts {
    /// Writes one line for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { conversations, tokens, learned, cut, too_long, nothing } = *self;
        let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (all, tokens) = (many(conversations, "conversation"), many(tokens, "token"));
        write!(f, "{all}, {tokens}, of which {learned} are learned")?;
        let more = [
            (cut, "cut to the context after whole turns"),
            (too_long, "left out, longer than the context"),
            (nothing, "left out, with nothing to learn"),
        ];
        more.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, what)| write!(f, "; {n} {what}"))
    }
}

/// The conversations of a file, each with its place for messages.
pub struct ConversationFile(Option<JsonFile>);

impl ConversationFile {
    /// Opens a file of JSON lines, or an array.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn open(path: &Path) -> Result<ConversationFile> {
        JsonFile::open(path).map(|file| ConversationFile(Some(file)))
    }

    /// Returns the number of bytes that were read.
    pub fn offset(&self) -> u64 {
        self.0.as_ref().map_or(0, JsonFile::offset)
    }
}

impl Iterator for ConversationFile {
    type Item = Result<(String, Conversation)>;

    fn next(&mut self) -> Option<Self::Item> {
        let file = self.0.as_mut()?;
        let read = file.next_json().and_then(|value| {
            let Some(value) = value else { return Ok(None) };
            let place = file.place_of_value();
            match Conversation::from_json(&value) {
                Ok(conversation) => Ok(Some((place, conversation))),
                Err(error) => Err(error.at(place)),
            }
        });
        let item = read.transpose();
        if !matches!(item, Some(Ok(_))) {
            self.0 = None;
        }
        item
    }
}

/// Whether a file holds conversations, judged by its name and its first value.
fn holds_conversations(path: &Path) -> bool {
    let first = || JsonFile::open(path).and_then(|mut file| file.next_json());
    json::is_json(path) && matches!(first(), Ok(Some(value)) if is_conversation(&value))
}

impl Sources {
    /// Returns the files, if the data are conversations: JSON whose first object has `messages`, `prompt` and `completion`,
    /// or `conversations`.
    ///
    /// # Errors
    ///
    /// If conversations are mixed with other data.
    pub fn conversations(&self) -> Result<Option<Vec<PathBuf>>> {
        let of = |source: &Source| match source {
            Source::Json(path) if holds_conversations(path) => Ok(path.clone()),
            other => Err(other.name()),
        };
        let found: Vec<_> = self.list().iter().map(of).collect();
        if found.iter().all(Result::is_err) {
            return Ok(None);
        }
        if let Some(other) = found.iter().find_map(|found| found.as_ref().err()) {
            let of = found.iter().find_map(|found| found.as_ref().ok()).expect("there is one");
            return Err(Error::input(format!(
                "{} holds conversations and cannot be mixed with other data, such as {other}",
                of.display()
            ))
            .hint("name the files of conversations alone, or the texts alone"));
        }
        Ok(Some(found.into_iter().flatten().collect()))
    }
}

/// Returns at most about `limit` bytes of the messages of some files, to train a tokenizer on.
///
/// # Errors
///
/// The first fault of the files; or if there is no text.
pub fn sample_of_conversations(files: &[PathBuf], limit: usize) -> Result<Vec<String>> {
    let (mut sample, mut bytes) = (vec![], 0);
    for path in files {
        for conversation in ConversationFile::open(path)? {
            let text = conversation?.1.texts().collect::<Vec<_>>().join("\n");
            bytes += text.len();
            sample.extend(Some(text).filter(|text| !text.is_empty()));
            if bytes >= limit {
                return Ok(sample);
            }
        }
    }
    match sample.is_empty() {
        true => {
            Err(Error::input(format!("{} has no text: no data to learn from", files[0].display())))
        }
        false => Ok(sample),
    }
}

/// How conversations become tokens.
#[derive(Clone, Copy)]
pub struct ChatEncoding<'a> {
    /// Writes their text.
    pub template: &'a ChatTemplate,
    /// Reads it.
    pub tokenizer: &'a Tokenizer,
    /// The tokens that one is at most predicted from: the length of a sequence.
    pub context: usize,
    /// What is done with longer ones.
    pub long: Long,
}

impl ChatEncoding<'_> {
    /// Encodes the conversations of some files on all threads, and passes their tokens with their [marks] to `push`, in
    /// order. `progress` is called with the number of processed bytes.
    ///
    /// # Errors
    ///
    /// The first fault of the files, with its line, or the first error of `push`.
    pub fn encode(
        &self,
        files: &[PathBuf],
        push: &mut dyn FnMut(&[u32]) -> Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Counts> {
        let (mut counts, mut before) = (Counts::default(), 0);
        for path in files {
            let mut file = ConversationFile::open(path)?;
            loop {
                let some: Vec<_> = file.by_ref().take(TOGETHER).collect();
                if some.is_empty() {
                    break;
                }
                // The first fault of the file is named, of whatever kind.
                let encoded: Vec<_> =
                    some.into_par_iter().map(|one| self.encode_one(&one?)).collect();
                for one in encoded {
                    let (ids, count) = one?;
                    push(&ids)?;
                    counts += count;
                }
                progress(before + file.offset());
            }
            before += disk::metadata(path).map_or(0, |about| about.len());
        }
        Ok(counts)
    }

    /// Encodes a conversation, which may come to nothing.
    fn encode_one(
        &self,
        (place, conversation): &(String, Conversation),
    ) -> Result<(Vec<u32>, Counts)> {
        let fit = self.template.fit(self.tokenizer, conversation, (self.context, self.long));
        let (labelled, cut) = match fit.map_err(|error| error.at(place))? {
            Fit::Whole(labelled) => (labelled, 0),
            Fit::Cut(labelled) => (labelled, 1),
            Fit::TooLong => return Ok((vec![], Counts { too_long: 1, ..Counts::default() })),
            Fit::Nothing => return Ok((vec![], Counts { nothing: 1, ..Counts::default() })),
        };
        let (tokens, learned) = (labelled.ids.len(), labelled.to_learn());
        let counts = Counts { conversations: 1, tokens, learned, cut, ..Counts::default() };
        Ok((marks::marked(&labelled.ids, &labelled.learned), counts))
    }
}
