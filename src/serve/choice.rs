//! One choice of an answer: the news of its task become pieces of text, with the tokens that belong to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::model::{Model, Prompt};
use super::schedule::{Finish, Listener, News};
use crate::error::Result;
use crate::generate::StopText;
use crate::scored::Scored;
use crate::tokenizer::DecodeStream;
use crate::wait::channels::UnboundedSender;

/// Passes the news of a task on to the one who answers the request, with the number of the choice.
pub struct Passes {
    pub choice: usize,
    pub sender: UnboundedSender<(usize, News)>,
    /// Set when the choice is complete before the task is.
    pub is_complete: Arc<AtomicBool>,
}

impl Listener for Passes {
    fn hear(&mut self, news: News) {
        // A request that is gone needs no news.
        let _ = self.sender.send((self.choice, news));
    }

    fn is_gone(&self) -> bool {
        self.sender.is_closed() || self.is_complete.load(Ordering::Relaxed)
    }
}

/// A token of a choice.
#[derive(Clone, Debug)]
pub struct Shown {
    pub id: u32,
    /// Where its text begins, in characters of the choice's text.
    pub offset: usize,
    /// `None` for the first token of a prompt, which has no probability.
    pub scored: Option<Scored>,
}

/// The next part of a choice.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    pub text: String,
    /// The tokens that it ends with, where they are wanted.
    pub shown: Vec<Shown>,
    pub finish: Option<Finish>,
}

impl Piece {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.shown.is_empty() && self.finish.is_none()
    }

    /// Adds the piece after it.
    pub fn add(&mut self, next: Piece) {
        self.text += &next.text;
        self.shown.extend(next.shown);
        self.finish = next.finish.or(self.finish);
    }
}

/// How the pieces of a choice are made.
#[derive(Clone, Debug)]
pub struct Style {
    /// Texts that end the choice.
    pub stop: Vec<String>,
    /// The tokens that end a text: they are not part of it.
    pub ends: Arc<[u32]>,
    /// Whether the choice begins with the prompt.
    pub echo: bool,
    /// Whether tokens are shown.
    pub shows: bool,
    /// Whether it is the reply of a chat: blanks before it are none of it, and the token that ends it is not shown.
    pub is_reply: bool,
}

/// A choice that is being made.
pub struct Choice<'m> {
    model: &'m Model,
    style: Style,
    prompt: Prompt,
    /// `None` when the text has ended.
    decoder: Option<DecodeStream<'m>>,
    stop: StopText,
    /// Whether the prompt was shown.
    began: bool,
    /// The characters of the text so far, without those that a stop text may still take away.
    length: usize,
    /// The characters that the tokens so far have.
    decoded: usize,
    /// Tokens whose text may still be taken away.
    held: Vec<Shown>,
    /// The number of new tokens.
    pub new: usize,
    pub is_complete: Arc<AtomicBool>,
}

impl<'m> Choice<'m> {
    /// Begins a choice after a prompt.
    pub fn new(model: &'m Model, prompt: Prompt, style: Style) -> Choice<'m> {
        let decoder = Some(model.tokenizer.decode_stream_after(&prompt.ids));
        let stop = StopText::new(style.stop.clone());
        let (held, is_complete) = (vec![], Arc::default());
        Choice {
            model,
            style,
            prompt,
            decoder,
            stop,
            began: false,
            length: 0,
            decoded: 0,
            held,
            new: 0,
            is_complete,
        }
    }

    /// Whether there are no more pieces.
    pub fn is_over(&self) -> bool {
        self.decoder.is_none()
    }

    /// Returns the piece that some news make.
    ///
    /// # Errors
    ///
    /// The error with which the task failed.
    pub fn hear(&mut self, news: News) -> Result<Piece> {
        if self.is_over() {
            return Ok(Piece::default());
        }
        match news {
            News::Prompt(scores) => self.begin(scores),
            News::Token(id, scored) => {
                let mut piece = self.begin(vec![])?;
                piece.add(self.token(id, scored)?);
                Ok(piece)
            }
            News::Ends(finish) => {
                let mut piece = self.begin(vec![])?;
                piece.add(self.end(finish));
                Ok(piece)
            }
            News::Fails(error) => {
                self.decoder = None;
                Err(error)
            }
        }
    }

    /// Shows the prompt, if it is to be shown and was not.
    fn begin(&mut self, scores: Vec<Scored>) -> Result<Piece> {
        if std::mem::replace(&mut self.began, true) || !self.style.echo {
            return Ok(Piece::default());
        }
        let Prompt { ids, added, text } = &self.prompt;
        let mut offset = 0;
        let mut shown = vec![];
        let mut decoder = self.model.tokenizer.decode_stream();
        let scores = std::iter::once(None).chain(scores.into_iter().map(Some));
        for ((i, &id), scored) in ids.iter().enumerate().zip(scores) {
            shown.push(Shown { id, offset, scored });
            if i >= *added && self.model.tokenizer.token_bytes(id).is_some() {
                offset += decoder.push(id)?.chars().count();
            }
        }
        let text = text.clone().map_or_else(|| self.model.text(ids), Ok)?;
        self.length = text.chars().count();
        self.decoded = self.length;
        let shown = if self.style.shows { shown } else { vec![] };
        Ok(Piece { text, shown, finish: None })
    }

    fn token(&mut self, id: u32, scored: Option<Scored>) -> Result<Piece> {
        self.new += 1;
        let is_end = self.style.ends.contains(&id);
        if self.style.shows && !(is_end && self.style.is_reply) {
            self.held.push(Shown { id, offset: self.decoded, scored });
        }
        let mut text = String::new();
        // An id beyond the tokenizer, which a model with a padded vocabulary may draw, has no text.
        if !is_end
            && self.model.tokenizer.token_bytes(id).is_some()
            && let Some(decoder) = &mut self.decoder
        {
            let piece = decoder.push(id)?;
            text = self.trimmed(piece);
        }
        self.decoded += text.chars().count();
        let text = self.stop.push(&text);
        if self.stop.stopped() {
            return Ok(self.stopped(text));
        }
        Ok(self.release(text, false))
    }

    /// Leaves out the blanks before a reply.
    fn trimmed(&self, text: String) -> String {
        let begins = self.style.is_reply && self.decoded == 0;
        if begins { text.trim_start().to_owned() } else { text }
    }

    /// Ends the text after `text` by a text that stops it: tokens that begin behind it are not part of it.
    fn stopped(&mut self, text: String) -> Piece {
        self.decoder = None;
        self.is_complete.store(true, Ordering::Relaxed);
        self.length += text.chars().count();
        let mut shown = std::mem::take(&mut self.held);
        shown.retain(|shown| shown.offset < self.length);
        Piece { text, shown, finish: Some(Finish::Stop) }
    }

    fn end(&mut self, finish: Finish) -> Piece {
        let rest = self.decoder.take().map(DecodeStream::finish).unwrap_or_default();
        let rest = self.trimmed(rest);
        let text = self.stop.push(&rest);
        if self.stop.stopped() {
            return self.stopped(text);
        }
        let text = text + &self.stop.finish();
        let mut piece = self.release(text, true);
        piece.finish = Some(finish);
        self.is_complete.store(true, Ordering::Relaxed);
        piece
    }

    /// Makes a piece of a text that no stop text can take away any more, and of the tokens that begin in it.
    fn release(&mut self, text: String, all: bool) -> Piece {
        self.length += text.chars().count();
        // While nothing is held back, tokens without a text of their own are released too.
        let all = all || self.length == self.decoded;
        let is_held = |shown: &Shown| !all && shown.offset >= self.length;
        let (held, shown) = std::mem::take(&mut self.held).into_iter().partition(is_held);
        self.held = held;
        Piece { text, shown, finish: None }
    }
}
