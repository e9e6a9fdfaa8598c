//! BLEU of a model's continuations of a text against the actual continuations.
//!
//! A text is cut into pieces, each with a prompt and a reference of fixed numbers of tokens. The model continues the
//! prompt for as many tokens as the reference has, and its text is compared with the reference by [corpus
//! BLEU](super::bleu). Pieces in which a document ends are left out.

use serde::Serialize;

use super::bleu::{Bleu, BleuCounts};
use crate::checkpoint::EndOfText;
use crate::data::Tokens;
use crate::error::{Error, Result, field};
use crate::generate::GenerateOptions;
use crate::gpt::{Gpt, Sampler};
use crate::runner::Runner;
use crate::tokenizer::Tokenizer;

/// The beginning of a text, and its continuation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// The token ids after them.
    pub reference: Vec<u32>,
}

/// A model's text and the actual text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Continuation {
    /// The given text.
    pub prompt: String,
    /// The model's text.
    pub hypothesis: String,
    /// The actual continuation.
    pub reference: String,
}

/// Cuts a token sequence into consecutive pieces of `lens.0` and `lens.1` tokens, and takes `count` of them, spread
/// evenly over the text. A document ends at any of `ends`.
///
/// # Errors
///
/// If there is no piece because the text, or each document of it, is too short.
///
/// # Panics
///
/// If a length is 0.
pub fn cut(tokens: &Tokens, lens: (usize, usize), count: usize, ends: &[u32]) -> Result<Vec<Cut>> {
    assert!(lens.0 > 0 && lens.1 > 0, "a prompt and a reference have tokens");
    let len = lens.0 + lens.1;
    let mut piece = vec![0; len];
    let mut cuts = vec![];
    let mut at = 0;
    while at + len <= tokens.len() {
        tokens.copy_to(at..at + len, &mut piece);
        match piece.iter().rposition(|id| ends.contains(id)) {
            Some(end) => at += end + 1,
            None => {
                cuts.push(Cut {
                    prompt: piece[..lens.0].to_vec(),
                    reference: piece[lens.0..].to_vec(),
                });
                at += len;
            }
        }
    }
    if cuts.is_empty() {
        return Err(Error::input(format!(
            "{} is too short: no document of its {} tokens has {len}, a prompt of {} and {} to go on",
            tokens.name(),
            tokens.len(),
            lens.0,
            lens.1
        ))
        .hint(format!(
            "give more text, or a smaller {} and {}",
            field("prompt_tokens"),
            field("max_tokens")
        )));
    }
    let all = cuts.len();
    let count = count.min(all);
    Ok((0..count).map(|i| std::mem::take(&mut cuts[i * all / count])).collect())
}

/// Lets a model continue every prompt, for as many tokens as its reference has, and compares the results. Sampling uses
/// new random numbers for each prompt. `progress` is called with the number of finished prompts.
///
/// # Errors
///
/// If there is no tokenizer, an id or an option is out of range, or the device is lost.
pub fn continue_and_score(
    gpt: &mut Gpt,
    cuts: &[Cut],
    options: &GenerateOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<(Bleu, Vec<Continuation>)> {
    let (tokenizer, end) = (gpt.tokenizer().cloned(), gpt.end_of_text().clone());
    let runner = gpt.engine()?;
    let mut sampler = Sampler { runner, tokenizer: tokenizer.as_ref(), end: &end };
    continue_on(&mut sampler, cuts, options, progress)
}

/// Does the same on a runner of a model.
///
/// # Errors
///
/// As [`continue_and_score`].
pub fn continue_on<R: Runner>(
    sampler: &mut Sampler<'_, R>,
    cuts: &[Cut],
    options: &GenerateOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<(Bleu, Vec<Continuation>)> {
    let no_tokenizer = || Error::input("the model has no tokenizer to read words with");
    let (tokenizer, end) = (sampler.tokenizer.ok_or_else(no_tokenizer)?, sampler.end);
    let text = |ids: &[u32]| text(tokenizer, end, ids);
    let mut counts = BleuCounts::default();
    let mut continuations = vec![];
    for (i, cut) in cuts.iter().enumerate() {
        let max_tokens = cut.reference.len();
        let options = GenerateOptions { max_tokens, sample: i as u32, ..options.clone() };
        let new = sampler.one(&cut.prompt, &options)?;
        let continuation = Continuation {
            prompt: text(&cut.prompt)?,
            hypothesis: text(&new)?,
            reference: text(&cut.reference)?,
        };
        counts.add(&continuation.hypothesis, &[&continuation.reference]);
        continuations.push(continuation);
        progress(i + 1);
    }
    Ok((counts.bleu(), continuations))
}

/// Returns the text of tokens, without ends of documents and without ids of a padded vocabulary beyond the tokenizer's.
fn text(tokenizer: &Tokenizer, end: &EndOfText, ids: &[u32]) -> Result<String> {
    let is_text = |id: &u32| !end.contains(*id) && tokenizer.token_bytes(*id).is_some();
    tokenizer.decode_lossy(&ids.iter().copied().filter(is_text).collect::<Vec<_>>())
}
