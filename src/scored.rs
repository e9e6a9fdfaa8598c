//! Tokens with their log-probabilities: what a text's tokens cost the model, and what else was likely.
//!
//! Log-probabilities are computed in f64 on the host, from the logits as the device computed them. A token's own and those
//! of the alternatives come from the same numbers by the same operations: if the token is the most probable one, the two are
//! equal to the last bit.

use std::cmp::Ordering;

use crate::engine::{Drawn, Engine, prompt_feeds};
use crate::error::{Error, Result};
use crate::generate::GenerateOptions;
use crate::kernel::Feed;

/// A token of a text that is read or written.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The token.
    pub id: u32,
    /// How probable it was; `None` for the first one, before which there is nothing.
    pub scored: Option<Scored>,
    /// Whether it is one of the prompt.
    pub is_given: bool,
}

/// Reads a prompt and continues it, and calls `seen` with each token, those of the prompt first; it returns whether to go
/// on. Each has the `top` most probable tokens in its place. The new tokens are those that
/// [`generate`](crate::generate::generate) draws; the text ends after a token of `ends`, or after
/// [`GenerateOptions::max_tokens`]. Of a prompt that is longer than the context the last tokens are read that it has room for.
/// Returns the number of new tokens.
///
/// # Errors
///
/// If an option is out of range, the prompt is empty or has ids outside the vocabulary, the logits are not finite, or the
/// device is lost.
///
/// # Panics
///
/// If the engine's program was not recorded to serve ([`Gpt::uses_of_serving`](crate::Gpt::uses_of_serving)).
pub fn continue_scored(
    engine: &mut Engine,
    prompt: &[u32],
    options: &GenerateOptions,
    ends: &[u32],
    top: usize,
    seen: &mut dyn FnMut(Token) -> bool,
) -> Result<usize> {
    options.validate()?;
    check(prompt, engine.program().config.vocab_size)?;
    let context = engine.program().context();
    engine.begin_sequence_after(0, 0, prompt);
    // The first token of the window, which is at position 0.
    let mut first = prompt.len().saturating_sub(context);
    for id in &prompt[..=first] {
        if !seen(Token { id: *id, scored: None, is_given: true }) {
            return Ok(0);
        }
    }
    let window = &prompt[first..];
    engine.write_sequence(0, 0, window);
    for feed in prompt_feeds(0, window.len(), options.draw(0)) {
        engine.extend(&[feed]);
        if feed.draw.is_some() && options.max_tokens > 0 {
            engine.sample();
        }
        // Row i tells how probable token i + 1 is; after the last one nothing is given.
        let next = &window[feed.position + 1..window.len().min(feed.position + feed.count + 1)];
        if next.is_empty() {
            continue;
        }
        let logits = engine.row_logits(0..next.len())?;
        for (id, logits) in next.iter().zip(&logits) {
            let scored = Some(Scored::of(finite(logits)?, *id, top));
            if !seen(Token { id: *id, scored, is_given: true }) {
                return Ok(0);
            }
        }
    }
    let mut ids = prompt.to_vec();
    for drawn in 1..=options.max_tokens {
        let start = ids.len() - first;
        let ticket = engine.request_drawn(&[Drawn { slot: 0, start, count: 1 }]);
        let id = engine.take_drawn(ticket)?[0].ids[0];
        let logits = engine.read_logits(0)?;
        let scored = Some(Scored::of(finite(&logits)?, id, top));
        ids.push(id);
        let goes_on = seen(Token { id, scored, is_given: false });
        if !goes_on || drawn == options.max_tokens || ends.contains(&id) {
            return Ok(drawn);
        }
        let draw = options.draw(drawn);
        if start < context {
            engine.extend(&[Feed { slot: 0, position: start, count: 1, draw: Some(draw) }]);
        } else {
            first = ids.len() - context;
            engine.write_sequence(0, 0, &ids[first..]);
            prompt_feeds(0, context, draw).iter().for_each(|feed| engine.extend(&[*feed]));
        }
        engine.sample();
    }
    Ok(0)
}

fn check(prompt: &[u32], vocab_size: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::input("there is no text to read").hint("give some text"));
    }
    match prompt.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(Error::input(format!(
            "the text has the token {id}, but the model's vocabulary has {vocab_size}"
        ))),
        None => Ok(()),
    }
}

fn finite(logits: &[f32]) -> Result<&[f32]> {
    if logits.iter().all(|x| x.is_finite()) {
        return Ok(logits);
    }
    Err(Error::input("the model's logits are not finite, so that no token can be drawn from them")
        .hint("its training diverged: take an earlier checkpoint, or the best/ of its run"))
}

/// The log-probability of a token, and the most probable tokens in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The natural logarithm of its probability.
    pub logprob: f64,
    /// The most probable tokens with their log-probabilities, the first one the most probable; equal ones by id.
    pub top: Vec<(u32, f64)>,
}

impl Scored {
    /// Scores token `id` by the logits (V) that it was, or could have been, drawn from, with `top` alternatives.
    ///
    /// # Panics
    ///
    /// If the id is not in the vocabulary.
    pub fn of(logits: &[f32], id: u32, top: usize) -> Scored {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).sum();
        let log_sum = f64::from(max) + sum.ln();
        let logprob = |id: u32| f64::from(logits[id as usize]) - log_sum;
        let top = most_probable(logits, top).into_iter().map(|id| (id, logprob(id))).collect();
        Scored { logprob: logprob(id), top }
    }
}

/// Returns the `count` tokens with the largest logits, the largest first; equal ones by id.
fn most_probable(logits: &[f32], count: usize) -> Vec<u32> {
    let order = |a: &u32, b: &u32| {
        let order = logits[*b as usize].partial_cmp(&logits[*a as usize]);
        order.unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count > 0 && count < ids.len() {
        ids.select_nth_unstable_by(count - 1, order);
    }
    ids.truncate(count);
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_largest_is_the_tokens_own() {
        let logits = [1.5, -2.0, 1.5, 0.25, -30.0];
        let all = Scored::of(&logits, 2, 5);
        let sum: f64 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        let ids: Vec<u32> = all.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [0, 2, 3, 1, 4]);
        assert_eq!(all.logprob.to_bits(), all.top[0].1.to_bits());
        assert_eq!(Scored::of(&logits, 4, 2).top, all.top[..2]);
        assert_eq!(Scored::of(&logits, 4, 0).top, []);
        assert_eq!(Scored::of(&logits, 4, 9).top.len(), 5);
    }
}
