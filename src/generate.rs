//! Generation: tokens drawn one after another, with a cache of keys and values, and their text.

use std::collections::VecDeque;

use crate::engine::{Drawn, DrawnTokens};
use crate::error::{Error, Result, field};
use crate::kernel::{Draw, Feed};
use crate::model::replay_rows;
use crate::ops::random;
use crate::runner::Runner;

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
    /// The logits are divided by this; 0: always take the most probable token.
    pub temperature: f64,
    /// The number of most probable tokens to choose from; 0: all.
    pub top_k: usize,
    /// The probability mass to choose from; 1: all.
    pub top_p: f64,
    /// The least probability of a token to choose from, relative to the largest; 0: all.
    pub min_p: f64,
    /// A penalty that makes tokens that came before less probable; 1: no change.
    pub repetition_penalty: f64,
    /// The seed of the random draws.
    pub seed: u64,
    /// The number of this continuation among several of the same prompt.
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

    /// Returns the settings with which new token number `index` is drawn.
    pub(crate) fn draw(&self, index: usize) -> Draw {
        Draw {
            seed: random::key(self.seed, self.sample, index as u32),
            temperature: self.temperature,
            top_k: self.top_k as u32,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
        }
    }
}

/// A requested continuation.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The token ids to continue.
    pub prompt: &'a [u32],
    /// The options of the continuation.
    pub options: &'a GenerateOptions,
}

/// An event of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its sequence is about to be fed.
    Begins,
    /// A new token.
    Token(u32),
    /// There will be no more tokens.
    Ends,
}

/// Continues `prompt` by up to `max_tokens` tokens; returns the new ones.
///
/// Generation ends after a token of `ends` is drawn, which is the last one returned. `seen` is called with each new
/// token and returns whether to go on. Beyond the context ([`Program::context`](crate::model::Program::context)) each step feeds the last tokens that it has room for, at positions
/// from 0 again.
///
/// # Errors
///
/// If an option is out of range, the prompt is empty or has ids outside the vocabulary, the logits are not finite, or
/// the device is lost.
pub fn generate<R: Runner>(
    engine: &mut R,
    prompt: &[u32],
    options: &GenerateOptions,
    ends: &[u32],
    mut seen: impl FnMut(u32) -> Result<bool>,
) -> Result<Vec<u32>> {
    let mut new = generate_all(engine, &[Request { prompt, options }], ends, |_, event| {
        if let Event::Token(token) = event { seen(token) } else { Ok(true) }
    })?;
    Ok(new.pop().expect("one request has one continuation"))
}

/// Continues several prompts at once, as many as the engine has slots; when one ends, the next takes its slot. Each
/// gets the tokens that [`generate`] gives it alone.
///
/// `seen` is called with the index of a request and its event; after a token it returns whether to go on.
///
/// # Errors
///
/// As [`generate`].
pub fn generate_all<R: Runner>(
    engine: &mut R,
    requests: &[Request<'_>],
    ends: &[u32],
    mut seen: impl FnMut(usize, Event) -> Result<bool>,
) -> Result<Vec<Vec<u32>>> {
    let (vocab_size, context) = (engine.program().config.vocab_size, engine.program().context());
    for request in requests {
        request.options.validate()?;
        check_prompt(request.prompt, vocab_size)?;
    }
    let mut new = vec![vec![]; requests.len()];
    let mut waiting = requests.iter().enumerate();
    let mut free: Vec<usize> = (0..engine.slots()).rev().collect();
    let mut active: Vec<Sequence<'_>> = vec![];
    let mut unread = VecDeque::new();
    loop {
        while !free.is_empty()
            && let Some((index, request)) = waiting.next()
        {
            seen(index, Event::Begins)?;
            match request.options.max_tokens {
                0 => _ = seen(index, Event::Ends)?,
                _ => {
                    let slot = free.pop().expect("one is free");
                    active.push(Sequence::begin(engine, slot, index, request)?);
                }
            }
        }
        if active.is_empty() {
            return Ok(new);
        }
        let go_on = |active: &[Sequence<'_>]| active.iter().all(|one| one.may_go_on(context));
        if go_on(&active) {
            burst(engine, &mut active)?;
            unread.push_back(request(engine, &mut active));
        }
        // While the device draws these tokens, the host processes those before them.
        let late = usize::from(engine.draws_ahead() > 0 && go_on(&active));
        while unread.len() > late
            && let Some((of, ticket)) = unread.pop_front()
        {
            for (index, drawn) in of.into_iter().zip(engine.take_drawn(ticket)?) {
                // A sequence that has ended meanwhile needs no more tokens.
                let Some(at) = active.iter().position(|sequence| sequence.index == index) else {
                    continue;
                };
                if !active[at].read(engine, drawn, ends, &mut new[index], &mut seen)? {
                    seen(index, Event::Ends)?;
                    free.push(active.remove(at).slot);
                }
            }
        }
    }
}

/// A request in a slot.
struct Sequence<'a> {
    index: usize,
    slot: usize,
    options: &'a GenerateOptions,
    /// The prompt and the new tokens that have been read.
    ids: Vec<u32>,
    /// The number of new tokens in `ids`.
    new: usize,
    /// The first token of the window, which is at position 0.
    first: usize,
    /// The number of positions that were fed.
    fed: usize,
    /// The number of tokens that were drawn and not yet read.
    ahead: usize,
    /// The number of drawn tokens that were not yet requested.
    unrequested: usize,
}

impl<'a> Sequence<'a> {
    fn begin(
        engine: &mut impl Runner,
        slot: usize,
        index: usize,
        request: &Request<'a>,
    ) -> Result<Sequence<'a>> {
        let Request { prompt, options } = *request;
        engine.begin(slot, prompt)?;
        let ids = prompt.to_vec();
        let (new, first, fed, ahead, unrequested) = (0, 0, 0, 0, 0);
        let mut sequence =
            Sequence { index, slot, options, ids, new, first, fed, ahead, unrequested };
        sequence.write_window(engine);
        Ok(sequence)
    }

    /// Returns the number of tokens in the window, including those that are not read yet.
    fn len(&self) -> usize {
        self.ids.len() - self.first + self.ahead
    }

    /// Moves the window so that it ends with the last token; its tokens are then fed again.
    fn write_window(&mut self, engine: &mut impl Runner) {
        self.first = self.ids.len().saturating_sub(engine.program().context());
        self.fed = 0;
        engine.write_sequence(self.slot, 0, &self.ids[self.first..]);
    }

    /// Returns whether another token may be drawn before the tokens drawn so far are read.
    fn may_go_on(&self, context: usize) -> bool {
        self.new + self.ahead < self.options.max_tokens && self.len() <= context
    }

    /// Feeds up to `room` tokens; the next token is drawn if no more are left to feed.
    fn feed(&mut self, room: usize) -> Feed {
        let count = (self.len() - self.fed).min(room);
        let position = self.fed;
        self.fed += count;
        let draw = (self.fed == self.len()).then(|| self.options.draw(self.new + self.ahead));
        self.ahead += usize::from(draw.is_some());
        self.unrequested += usize::from(draw.is_some());
        Feed { slot: self.slot, position, count, draw }
    }

    /// Returns the drawn tokens that were not requested yet, and counts them as requested.
    fn unrequested(&mut self) -> Option<Drawn> {
        let count = std::mem::take(&mut self.unrequested);
        (count > 0).then(|| Drawn { slot: self.slot, start: self.len() - count, count })
    }

    /// Appends drawn tokens to `new`; returns whether there are more to come.
    fn read(
        &mut self,
        engine: &mut impl Runner,
        drawn: DrawnTokens,
        ends: &[u32],
        new: &mut Vec<u32>,
        seen: &mut impl FnMut(usize, Event) -> Result<bool>,
    ) -> Result<bool> {
        // A number that is not finite stays in the cache, so the last logits reveal it for all tokens before.
        check_logits(drawn.finite)?;
        for token in drawn.ids {
            self.ahead -= 1;
            self.ids.push(token);
            new.push(token);
            if !seen(self.index, Event::Token(token))? || ends.contains(&token) {
                return Ok(false);
            }
        }
        self.new = new.len();
        if self.ahead == 0 && self.len() > engine.program().context() {
            self.write_window(engine);
        }
        Ok(self.new < self.options.max_tokens)
    }
}

/// Requests the drawn tokens of all slots; returns the indices of their requests and the ticket.
fn request<R: Runner>(engine: &mut R, active: &mut [Sequence<'_>]) -> (Vec<usize>, R::Drawn) {
    let drawn = active.iter_mut().filter_map(|one| Some((one.index, one.unrequested()?)));
    let (of, drawn): (Vec<_>, Vec<_>) = drawn.unzip();
    (of, engine.request_drawn(&drawn))
}

/// Draws enough tokens to keep the device busy while those before them are read, or fewer if a sequence's tokens must
/// be read before it can go on.
fn burst(engine: &mut impl Runner, active: &mut [Sequence<'_>]) -> Result<()> {
    let context = engine.program().context();
    let most = engine.draws_ahead().max(1);
    let mut replays = 0;
    while replays < most && active.iter().all(|sequence| sequence.may_go_on(context)) {
        // Sequences that wait for a single token come first, so that no prompt delays them.
        active.sort_by_key(|s| (s.len() - s.fed > 1, s.new + s.ahead, s.index));
        let pending = active.iter().map(|sequence| sequence.len() - sequence.fed).sum();
        let mut room = replay_rows(pending);
        // Sequences that decode must leave room for a prompt.
        if pending > room && active.len() >= room {
            room = replay_rows(usize::MAX);
        }
        let mut feeds = vec![];
        for sequence in active.iter_mut() {
            if room > 0 {
                let feed = sequence.feed(room);
                room -= feed.count;
                feeds.push(feed);
            }
        }
        engine.feed(&feeds)?;
        replays += usize::from(feeds.iter().any(|feed| feed.draw.is_some()));
    }
    Ok(())
}

fn check_logits(finite: bool) -> Result<()> {
    if finite {
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

/// Text that comes in pieces and ends before the first of some stop texts.
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
    /// Creates a text that ends before the first of `stops`.
    pub fn new(stops: Vec<String>) -> StopText {
        StopText { stops, held: String::new(), stopped: false }
    }

    /// Adds a piece; returns the text that now certainly comes before any stop.
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

    /// Returns the text that was held back, when no more pieces come.
    pub fn finish(&mut self) -> String {
        if self.stopped { String::new() } else { std::mem::take(&mut self.held) }
    }

    /// Returns whether a stop was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }
}
