//! Perplexity and bits per byte of a token sequence, window by window.
//!
//! ```text
//! nll(i)        = -ln p(token i | the tokens before it in its window)
//! perplexity    = exp(Σ nll / scored tokens)
//! bits per byte = Σ nll / ln 2 / bytes of the scored tokens' text
//! ```
//!
//! An end-of-text token is scored, and counts no bytes: it is not in the text. The first token of the sequence is never
//! scored, since nothing comes before it. Perplexity depends on the tokenizer; bits per byte can be compared between
//! tokenizers.

use std::cell::Cell;

use serde::Serialize;

use super::rows::{Rows, check_ids};
use crate::checkpoint::EndOfText;
use crate::data::{self, Sources};
use crate::engine::Engine;
use crate::error::{Error, Result, field};
use crate::runner::Runner;
use crate::tokenizer::{AddedAs, Tokenizer};

/// The number of tokens of a file that are read at once.
const PIECE: usize = 1 << 16;

/// The division of a sequence of n tokens into windows of up to P tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Consecutive windows, each with the token after it as its last target: every token but the first is scored once,
    /// after 0 to P-1 tokens of its window. Training measures its loss in this way.
    NonOverlapping,
    /// Each window begins this number of tokens after the previous one (Hugging Face's recipe for models of fixed
    /// length). It scores the tokens that no earlier window has scored, except its own first token. The last one ends
    /// with the sequence.
    ///
    /// With a stride below P, every token but the first is scored once, and after the first window each follows at
    /// least P - stride tokens. With a stride of P, the first token of each window is not scored.
    Sliding(usize),
}

impl Windows {
    /// Returns the number of tokens that a window scores beyond its inputs.
    fn lookahead(self) -> usize {
        usize::from(self == Windows::NonOverlapping)
    }

    /// Returns the distance between the beginnings of two consecutive windows of `seq` tokens.
    fn stride(self, seq: usize) -> usize {
        match self {
            Windows::NonOverlapping => seq,
            Windows::Sliding(stride) => stride,
        }
    }
}

/// A scored window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Window {
    /// The position of its first token in the sequence.
    pub begin: usize,
    /// The position after its last input.
    pub end: usize,
    /// Tokens scored.
    pub scored: usize,
    /// Bytes of their text; 0 without a tokenizer.
    pub bytes: u64,
    /// Their negative log-likelihood (natural logarithm).
    pub nll: f64,
}

/// The total over the scored windows of one or several texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// The sum of the scored tokens' negative log-likelihoods (natural logarithm).
    pub nll: f64,
    /// Tokens scored.
    pub tokens: u64,
    /// Bytes of their text; 0 without a tokenizer.
    pub bytes: u64,
    /// Windows scored.
    pub windows: u64,
}

impl Score {
    /// Adds another text.
    pub fn add(&mut self, other: &Score) {
        self.nll += other.nll;
        self.tokens += other.tokens;
        self.bytes += other.bytes;
        self.windows += other.windows;
    }

    /// Returns the mean negative log-likelihood per token.
    pub fn mean_nll(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// Returns the perplexity: exp of the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// Returns the bits per byte of the text that the model needs; `None` if the bytes are not known.
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nll / std::f64::consts::LN_2 / self.bytes as f64)
    }
}

/// Scores a token sequence while it comes in pieces; only a few windows of it are in memory.
pub struct Perplexity<'a, R: Runner = Engine> {
    engine: &'a mut R,
    /// The tokenizer, and the tokens that end texts.
    texts: Option<(&'a Tokenizer, &'a EndOfText)>,
    windows: Windows,
    rows: Rows<Window, R>,
    /// The tokens from `begin` on.
    waiting: Vec<u32>,
    /// The beginning of the next window.
    begin: usize,
    /// The position before which all tokens are scored, or will never be.
    done: usize,
    score: Score,
    on_window: Box<dyn FnMut(&Window) + 'a>,
}

impl<'a, R: Runner> Perplexity<'a, R> {
    /// Begins a sequence on an engine with batches, whose rows are the windows. `texts` are the tokenizer, for the
    /// tokens' bytes, and the tokens that end texts.
    ///
    /// # Errors
    ///
    /// If the stride is 0 or longer than the window.
    pub fn new(
        engine: &'a mut R,
        texts: Option<(&'a Tokenizer, &'a EndOfText)>,
        windows: Windows,
    ) -> Result<Perplexity<'a, R>> {
        let seq = engine.program().uses.seq;
        let stride = windows.stride(seq);
        if !(1..=seq).contains(&stride) {
            return Err(Error::usage(format!(
                "{} is {stride}, must be 1 to {seq}, the tokens of a window",
                field("stride")
            )));
        }
        Ok(Perplexity {
            rows: Rows::new(engine),
            engine,
            texts,
            windows,
            waiting: vec![],
            begin: 0,
            done: 1,
            score: Score::default(),
            on_window: Box::new(|_| {}),
        })
    }

    /// Calls `on_window` with each window, in order, after it is scored.
    #[must_use]
    pub fn on_window(self, on_window: impl FnMut(&Window) + 'a) -> Perplexity<'a, R> {
        Perplexity { on_window: Box::new(on_window), ..self }
    }

    /// Scores a text, or its first `most` tokens: documents are joined by end-of-text tokens, as in training. No text
    /// is in memory as a whole.
    ///
    /// # Errors
    ///
    /// As [`Perplexity::push`] and [`Perplexity::finish`]; if a source cannot be read, or is text without a tokenizer.
    pub fn score(mut self, sources: &Sources, most: usize) -> Result<Score> {
        let (left, texts) = (Cell::new(most), self.texts);
        let mut push = |ids: &[u32]| {
            let ids = &ids[..ids.len().min(left.get())];
            left.set(left.get() - ids.len());
            self.push(ids)
        };
        if let Some(tokens) = sources.tokens()? {
            let mut piece = vec![];
            for at in (0..tokens.len()).step_by(PIECE).take_while(|_| left.get() > 0) {
                piece.resize(PIECE.min(tokens.len() - at), 0);
                tokens.copy_to(at..at + piece.len(), &mut piece);
                push(&piece).map_err(|error| error.at(sources.name()))?;
            }
        } else {
            let (tokenizer, end) = texts.ok_or_else(|| no_tokenizer(sources.name()))?;
            let encoder = tokenizer.encoder(AddedAs::Tokens);
            let documents = sources.documents().take_while(|_| left.get() > 0);
            data::encode(documents, encoder, end.separator(), &mut push, &mut |_| {})?;
        }
        self.finish().map_err(|error| error.at(sources.name()))
    }

    /// Adds tokens, and scores each batch that they complete.
    ///
    /// # Errors
    ///
    /// If an id is not in the vocabulary, a loss is not finite, or the device is lost.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        check_ids(ids, self.engine.program().config.vocab_size)?;
        let seq = self.engine.program().uses.seq;
        let full = seq + self.windows.lookahead();
        self.waiting.extend_from_slice(ids);
        let mut at = 0;
        while self.waiting.len() - at >= full {
            self.window(at, full)?;
            at += self.windows.stride(seq);
        }
        self.waiting.drain(..at);
        Ok(())
    }

    /// Scores the remaining tokens.
    ///
    /// # Errors
    ///
    /// As [`Perplexity::push`]; if the sequence has fewer than two tokens.
    pub fn finish(mut self) -> Result<Score> {
        self.window(0, self.waiting.len())?;
        let Perplexity { engine, rows, score, on_window, .. } = &mut self;
        rows.flush(engine, &mut |window, nll| {
            count(score, on_window, Window { nll, ..window });
        })?;
        if self.score.tokens == 0 {
            return Err(Error::input(
                "the text has fewer than two tokens: there is nothing to predict",
            )
            .hint("give a longer text"));
        }
        Ok(self.score)
    }

    /// Queues the window at `waiting[at]`, if it scores anything. Its `len` tokens include the one beyond its inputs.
    fn window(&mut self, at: usize, len: usize) -> Result<()> {
        let Perplexity { engine, texts, windows, rows, score, on_window, .. } = self;
        let (begin, end) = (self.begin, self.begin + len);
        let first = self.done.max(begin + 1);
        if first < end {
            let tokens = &self.waiting[at..at + len];
            let targets = &tokens[first - begin..];
            let end = end - windows.lookahead();
            let bytes = texts.map_or(0, |(tokenizer, end)| bytes(tokenizer, end, targets));
            let window = Window { begin, end, scored: targets.len(), bytes, nll: 0.0 };
            rows.push(engine, window, &tokens[..len - 1], targets, &mut |window, nll| {
                count(score, on_window, Window { nll, ..window });
            })?;
        }
        self.done = self.done.max(end);
        self.begin += self.windows.stride(self.engine.program().uses.seq);
        Ok(())
    }
}

/// Returns the error for text without a tokenizer.
pub(super) fn no_tokenizer(name: &str) -> Error {
    Error::input(format!("the model has no tokenizer to read {name} with"))
        .hint("put the tokenizer.json that it was trained with into its folder, or give a token file, NAME.bin")
}

/// Adds a scored window to the score.
fn count(score: &mut Score, on_window: &mut dyn FnMut(&Window), window: Window) {
    score.nll += window.nll;
    score.tokens += window.scored as u64;
    score.bytes += window.bytes;
    score.windows += 1;
    on_window(&window);
}

/// Returns the number of bytes of the tokens' text.
fn bytes(tokenizer: &Tokenizer, end: &EndOfText, ids: &[u32]) -> u64 {
    let text = ids.iter().filter(|id| !end.contains(**id));
    text.map(|&id| tokenizer.token_bytes(id).map_or(0, <[u8]>::len) as u64).sum()
}
