//! What the scheduler is asked to do, and what it tells.

use std::sync::Arc;

use crate::error::Error;
use crate::generate::GenerateOptions;
use crate::scored::Scored;

/// A prompt that is to be continued, scored, or both.
pub struct Task {
    /// The ids of the prompt: at least one, each in the vocabulary, and no more than the context has room for.
    pub prompt: Vec<u32>,
    /// How the prompt is continued; stop texts are the listener's business.
    pub options: GenerateOptions,
    /// The tokens that end the text.
    pub ends: Arc<[u32]>,
    /// How many alternatives of each token are wanted with its log-probability; `None`: no log-probabilities.
    pub top: Option<usize>,
    /// The same for the tokens of the prompt.
    pub scores: Option<usize>,
    /// Who is told.
    pub listener: Box<dyn Listener>,
}

/// Hears the news of a task.
pub trait Listener: Send {
    /// Hears some news.
    fn hear(&mut self, news: News);

    /// Whether nobody is interested any more: the task is then ended.
    fn is_gone(&self) -> bool;
}

/// What happens to a task, in this order: its prompt, tokens, and its end or a failure.
#[derive(Clone, Debug)]
pub enum News {
    /// The log-probabilities of the prompt's tokens from the second one on, if they are wanted.
    Prompt(Vec<Scored>),
    /// A new token, with its log-probability if that is wanted.
    Token(u32, Option<Scored>),
    /// There will be no more tokens.
    Ends(Finish),
    /// There will be no more tokens, because of a fault.
    Fails(Error),
}

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A token or a text that ends it.
    Stop,
    /// It has as many tokens as were wanted, or as the context has room for.
    Length,
}
