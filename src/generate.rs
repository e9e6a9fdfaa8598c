//! Generation: tokens drawn one after another, with a cache of keys and values, and the text of them.

use crate::engine::Engine;
use crate::error::{Error, Result, field};
use crate::kernel::Step;
use crate::ops::random;

/// How text is continued; the defaults sample from the whole distribution.
///
/// ```
/// use wgpt::GenerateOptions;
/// let options = GenerateOptions { temperature: 0.8, top_k: 40, ..GenerateOptions::default() };
/// assert!(options.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to add.
    pub max_tokens: usize,
    /// Divides the logits; 0: always the most probable token.
    pub temperature: f64,
    /// How many tokens to choose from; 0: all.
    pub top_k: usize,
    /// The mass to choose from; 1: all.
    pub top_p: f64,
    /// The least probability relative to the largest; 0: all.
    pub min_p: f64,
    /// Makes tokens that came before less probable; 1: no change.
    pub repetition_penalty: f64,
    /// What is drawn.
    pub seed: u64,
    /// Which of several continuations of the same prompt this is.
    pub sample: u32,
    /// Texts that end the continuation; they are not part of it.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_tokens: 100,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 1337,
            sample: 0,
            stop: vec![],
        }
    }
}

impl GenerateOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let ranges = [
            (field("temperature"), self.temperature, 0.0, 100.0),
            (field("top_p"), self.top_p, 0.0, 1.0),
            (field("min_p"), self.min_p, 0.0, 1.0),
            (field("repetition_penalty"), self.repetition_penalty, 1e-3, 1e3),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(Error::usage(format!("{name} is {value}, must be {least} to {most}")));
            }
        }
        if u32::try_from(self.top_k).is_err() {
            return Err(Error::usage(format!(
                "{} is {}, beyond any vocabulary",
                field("top_k"),
                self.top_k
            )));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::usage(format!(
                "{} is empty: it would end every text at once",
                field("stop")
            )));
        }
        Ok(())
    }

    /// What the sampling kernels read for new token number `index`.
    fn step(&self, index: usize) -> Step {
        Step {
            seed: random::key(self.seed, self.sample, index as u32),
            temperature: self.temperature,
            top_k: self.top_k as u32,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            ..Step::default()
        }
    }
}

/// Continues `prompt` by up to `max_tokens` tokens; returns the new ones.
///
/// Any of `ends` that is drawn is the last token. `seen` is called with each new token and says
/// whether to go on. Beyond the context each step feeds the last `n_positions` tokens, at positions
/// from 0 again.
///
/// # Errors
///
/// If an option is out of range, the prompt is empty or has ids outside the vocabulary, the logits are not finite, or
/// the device is lost.
pub fn generate(
    engine: &mut Engine,
    prompt: &[u32],
    options: &GenerateOptions,
    ends: &[u32],
    mut seen: impl FnMut(u32) -> Result<bool>,
) -> Result<Vec<u32>> {
    options.validate()?;
    let vocab = engine.program().config.vocab_size;
    check_prompt(prompt, vocab)?;
    let window = engine.program().config.n_positions;
    engine.begin_sequence();
    engine.mark_seen(prompt);
    let mut ids = prompt.to_vec();
    let mut new = vec![];
    let mut cached = false;
    while new.len() < options.max_tokens {
        let room = window.saturating_sub(ids.len()) + 1;
        let burst = engine.run_ahead().min(options.max_tokens - new.len()).min(room);
        for ahead in 0..burst {
            let len = (ids.len() + ahead).min(window);
            if cached && ids.len() + ahead <= window {
                engine.extend(1, len - 1, 1);
            } else {
                engine.prefill(&ids[ids.len() - len..]);
                cached = true;
            }
            engine.sample(len, &options.step(new.len() + ahead));
        }
        let start = ids.len().min(window);
        let mut drawn = vec![0; burst];
        engine.read_sequence(start, &mut drawn)?;
        // A number that is not finite stays in the cache, so that the burst's last logits tell of them all.
        check_logits(&engine.read_last_logits()?)?;
        for token in drawn {
            ids.push(token);
            new.push(token);
            if !seen(token)? || ends.contains(&token) {
                return Ok(new);
            }
        }
    }
    Ok(new)
}

fn check_logits(logits: &[f32]) -> Result<()> {
    if logits.iter().all(|logit| logit.is_finite()) {
        return Ok(());
    }
    Err(Error::input("the model's logits are not finite, so that no token can be drawn from them")
        .hint("its training diverged: take an earlier checkpoint, or the best/ of its run"))
}

fn check_prompt(prompt: &[u32], vocab: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::usage("the prompt has no tokens")
            .hint(format!("give some text with {}", field("prompt"))));
    }
    match prompt.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(Error::usage(format!(
            "the prompt's token {id} is out of range: the model's vocabulary has {vocab}"
        ))),
        None => Ok(()),
    }
}

/// Text that comes in pieces, up to the first of some stop texts.
///
/// ```
/// use wgpt::generate::StopText;
/// let mut text = StopText::new(vec!["END".into()]);
/// assert_eq!(text.push("one E"), "one ");
/// assert_eq!(text.push("ND two"), "");
/// assert!(text.stopped());
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopText {
    /// Text until one of `stops`.
    pub fn new(stops: Vec<String>) -> StopText {
        StopText { stops, held: String::new(), stopped: false }
    }

    /// The text that is now certain to come before any stop.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let unsure = self
            .held
            .char_indices()
            .map(|(at, _)| at)
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])));
        let rest = self.held.split_off(unsure.unwrap_or(self.held.len()));
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, once no more comes.
    pub fn finish(&mut self) -> String {
        if self.stopped { String::new() } else { std::mem::take(&mut self.held) }
    }

    /// Whether a stop has come.
    pub fn stopped(&self) -> bool {
        self.stopped
    }
}
