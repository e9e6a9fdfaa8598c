//! The tokens of a conversation, and which of them are learned.

use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use super::spans::Rendered;
use super::template::ChatTemplate;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What is done with a conversation that is longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Long {
    /// It ends after the last of the assistant's turns that fits.
    #[default]
    Cut,
    /// It is left out.
    Drop,
}

impl Long {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Long::default()
    }
}

impl FromStr for Long {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Long, String> {
        match text {
            "cut" => Ok(Long::Cut),
            "drop" => Ok(Long::Drop),
            _ => Err("neither cut nor drop".to_owned()),
        }
    }
}

/// The tokens of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Where each token lies in the text, in bytes.
    pub ranges: Vec<Range<usize>>,
    /// Whether each token is learned.
    pub learned: Vec<bool>,
    /// For each of the assistant's turns the number of messages up to it, and the number of tokens that end by its end.
    turns: Vec<(usize, usize)>,
}

/// A conversation made to fit a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It fits as a whole.
    Whole(Labelled),
    /// It ends after one of its turns.
    Cut(Labelled),
    /// It is left out, because it is too long.
    TooLong,
    /// It is left out, because it has no token to learn.
    Nothing,
}

impl Labelled {
    /// Returns the number of tokens to learn. The first token is none, since nothing predicts it.
    pub fn to_learn(&self) -> usize {
        self.learned.iter().skip(1).filter(|learned| **learned).count()
    }
}

impl ChatTemplate {
    /// Renders a conversation and encodes the text. Special tokens in it become their ids, and no token is put around it,
    /// since the template writes what belongs there. A token is learned if all of it lies in one learned part of the text.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::spans`], or if it cannot be told where the tokens lie in the text.
    pub fn label(&self, tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Labelled> {
        let normal = |text: String| tokenizer.normal_form(&text).into_owned();
        let Rendered { text, learned: spans, turns } = self.spans(conversation, &normal)?;
        let ids = tokenizer.encode_with_special(&text);
        let ranges = tokenizer.ranges(&text, &ids).ok_or_else(|| {
            Error::input(
                "the tokens do not spell the text, so that it is not known which of them to learn",
            )
            .hint("the tokenizer may not know a character: leave that conversation out")
        })?;
        let is_within = |token: &Range<usize>| {
            spans.iter().any(|span| span.start <= token.start && token.end <= span.end)
        };
        let learned = ranges.iter().map(is_within).collect();
        let tokens_by = |end: usize| ranges.partition_point(|token| token.end <= end);
        let turns = turns.into_iter().map(|(count, end)| (count, tokens_by(end))).collect();
        Ok(Labelled { text, ids, ranges, learned, turns })
    }

    /// Does the same for a context of `context` tokens, each predicted from those before it: a conversation may have one more. A
    /// longer one is cut after one of its turns, or left out.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::label`].
    pub fn fit(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
        (context, long): (usize, Long),
    ) -> Result<Fit> {
        let whole = self.label(tokenizer, conversation)?;
        if whole.to_learn() == 0 {
            return Ok(Fit::Nothing);
        }
        if whole.ids.len() <= context + 1 {
            return Ok(Fit::Whole(whole));
        }
        if long == Long::Drop {
            return Ok(Fit::TooLong);
        }
        let fits = whole.turns.iter().rev().filter(|(_, tokens)| *tokens <= context + 1);
        for (count, _) in fits {
            let cut = self.label(tokenizer, &conversation.cut(*count))?;
            if cut.ids.len() <= context + 1 && cut.to_learn() > 0 {
                return Ok(Fit::Cut(cut));
            }
        }
        Ok(Fit::TooLong)
    }
}
