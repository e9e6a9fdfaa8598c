//! The place of a run's conversations: always its own folder, since what they become depends on the template, the context and
//! the tokenizer.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{ChatEncoding, Counts, TokenWriter, Tokens};
use crate::disk;
use crate::error::{Error, Result, field};
use crate::files;
use crate::train::encoded::TOKENS_FILE;
use crate::train::report::Event;

/// The file with what became of the conversations.
pub(super) const CONVERSATIONS_FILE: &str = "conversations.json";

/// What became of the conversations of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversations {
    /// Those of `data`.
    pub training: Counts,
    /// Those of `val_data`, if there is such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Counts>,
}

impl Conversations {
    /// Reads them from a run's folder, if it has the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub(super) fn of_run(dir: &Path) -> Result<Option<Conversations>> {
        let path = dir.join(CONVERSATIONS_FILE);
        let text = match disk::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(Error::io("reading", &path, &cause)),
        };
        let parsed = serde_json::from_slice(&text).map(Some);
        parsed.map_err(|cause| {
            Error::input(format!("{}: {cause}", path.display()))
                .hint("remove it: only the counts of conversations are lost")
        })
    }
}

/// Conversations to encode.
pub(super) struct ChatWork<'a> {
    pub encoding: ChatEncoding<'a>,
    pub files: &'a [PathBuf],
    /// The files of the validation split, if it comes from data of its own.
    pub validation: Option<&'a [PathBuf]>,
    /// The name of the data, for messages.
    pub name: &'a str,
}

impl ChatWork<'_> {
    /// Returns the tokens, in the run's folder if there is one, and what became of the conversations.
    ///
    /// # Errors
    ///
    /// If a conversation is faulty, or the run's folder cannot be written.
    pub(super) fn run(
        &self,
        run: Option<&Path>,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<(Tokens, Conversations)> {
        let Some(run) = run else {
            let mut ids = vec![];
            let mut take = |more: &[u32]| {
                ids.extend_from_slice(more);
                Ok(())
            };
            let training = self.encode(self.files, &mut take, on_event)?;
            let at = self.validation.map(|_| training.tokens);
            let encode = |files| used(self.encode(files, &mut take, on_event)?);
            let validation = self.validation.map(encode).transpose()?;
            let tokens = Tokens::from_conversations(ids, at).named(self.name);
            return Ok((tokens, Conversations { training, validation }));
        };
        let mut writer = TokenWriter::create_conversations(&run.join(TOKENS_FILE))?;
        let training = self.encode(self.files, &mut |more| writer.push(more), on_event)?;
        let mut validation = None;
        if let Some(files) = self.validation {
            writer.begin_validation();
            validation =
                Some(used(self.encode(files, &mut |more| writer.push(more), on_event)?)?);
        }
        let conversations = Conversations { training, validation };
        files::write_json(&run.join(CONVERSATIONS_FILE), &conversations)?;
        Ok((writer.finish()?.named(self.name), conversations))
    }

    fn encode(
        &self,
        files: &[PathBuf],
        push: &mut dyn FnMut(&[u32]) -> Result<()>,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Counts> {
        let total =
            files.iter().map(|path| disk::metadata(path).map_or(0, |file| file.len())).sum();
        let mut progress = |done| {
            on_event(&Event::Preparing { what: "encoding the conversations".into(), done, total });
        };
        let counts = self.encoding.encode(files, push, &mut progress)?;
        on_event(&Event::Note(counts.to_string()));
        Ok(counts)
    }
}

/// Returns the counts of the conversations of `val_data`.
///
/// # Errors
///
/// If there is nothing to validate on: other data would take their place.
fn used(counts: Counts) -> Result<Counts> {
    if counts.tokens > 0 {
        return Ok(counts);
    }
    let name = field("val_data");
    Err(Error::usage(format!("{name} has no conversation to validate on: {counts}")).hint(format!(
        "give conversations in which the assistant says something, or a longer {}",
        field("seq_len")
    )))
}
