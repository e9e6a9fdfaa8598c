//! Continuations of a prompt as text or as ids, several at once, on whatever draws the tokens.

use crate::checkpoint::EndOfText;
use crate::error::{Error, Result, field};
use crate::generate::{Event, GenerateOptions, Request, StopText, generate, generate_all};
use crate::runner::Runner;
use crate::tokenizer::{DecodeStream, Tokenizer};

/// An event of one of several continuations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleEvent<'a> {
    /// It has begun.
    Begins,
    /// The next piece of its text, in whole characters.
    Text(&'a str),
    /// The next token, where ids are requested instead of text.
    Id(u32),
    /// It has ended.
    Ends,
}

/// A runner of a model, with what it needs to continue texts.
pub struct Sampler<'a, R: Runner> {
    /// Draws the tokens.
    pub runner: &'a mut R,
    /// Reads and writes texts.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The tokens that end texts.
    pub end: &'a EndOfText,
}

impl<R: Runner> Sampler<'_, R> {
    /// Generates several continuations of a sequence of token ids as texts: see
    /// [`Gpt::sample_texts`](crate::Gpt::sample_texts).
    ///
    /// # Errors
    ///
    /// If there is no tokenizer, an id or an option is out of range, the device is lost, or another rank is gone.
    pub fn texts(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        count: u32,
        seen: &mut dyn FnMut(u32, SampleEvent<'_>),
    ) -> Result<Vec<usize>> {
        let tokenizer = self.tokenizer.ok_or_else(no_tokenizer)?;
        let all = samples(options, count);
        let requests: Vec<_> = all.iter().map(|options| Request { prompt: ids, options }).collect();
        let text =
            |_| (Some(tokenizer.decode_stream_after(ids)), StopText::new(options.stop.clone()));
        let mut texts: Vec<(Option<DecodeStream<'_>>, StopText)> = all.iter().map(text).collect();
        let end = self.end;
        let new = generate_all(self.runner, &requests, end.ids(), |index, event| {
            let (decoder, text) = &mut texts[index];
            let mut emit = |piece: &str| {
                if !piece.is_empty() {
                    seen(all[index].sample, SampleEvent::Text(piece));
                }
            };
            match event {
                // An id beyond the tokenizer, which a model with a padded vocabulary may draw, has no text.
                Event::Token(id) if !end.contains(id) && tokenizer.token_bytes(id).is_some() => {
                    if let Some(decoder) = decoder {
                        emit(&text.push(&decoder.push(id)?));
                    }
                }
                Event::Token(_) => {}
                Event::Begins => seen(all[index].sample, SampleEvent::Begins),
                Event::Ends => {
                    let rest = decoder.take().map(DecodeStream::finish).unwrap_or_default();
                    emit(&text.push(&rest));
                    emit(&text.finish());
                    seen(all[index].sample, SampleEvent::Ends);
                }
            }
            Ok(!text.stopped())
        })?;
        Ok(new.iter().map(Vec::len).collect())
    }

    /// Generates several continuations of a sequence of token ids as ids: see
    /// [`Gpt::sample_ids`](crate::Gpt::sample_ids).
    ///
    /// # Errors
    ///
    /// If an id or an option is out of range, the device is lost, or another rank is gone.
    pub fn ids(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        count: u32,
        seen: &mut dyn FnMut(u32, SampleEvent<'_>),
    ) -> Result<Vec<Vec<u32>>> {
        let all = samples(options, count);
        let requests: Vec<_> = all.iter().map(|options| Request { prompt: ids, options }).collect();
        generate_all(self.runner, &requests, self.end.ids(), |index, event| {
            match event {
                Event::Begins => seen(all[index].sample, SampleEvent::Begins),
                Event::Token(id) => seen(all[index].sample, SampleEvent::Id(id)),
                Event::Ends => seen(all[index].sample, SampleEvent::Ends),
            }
            Ok(true)
        })
    }

    /// Continues a sequence of token ids once; returns the new ones.
    ///
    /// # Errors
    ///
    /// As [`Sampler::ids`].
    pub fn one(&mut self, ids: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
        generate(self.runner, ids, options, self.end.ids(), |_| Ok(true))
    }
}

/// Returns the token ids of a prompt: see [`Gpt::encode_prompt`](crate::Gpt::encode_prompt). The second value is how many of
/// them, at the beginning, were put before the text.
pub(crate) fn encode_prompt(
    tokenizer: &Tokenizer,
    end: &EndOfText,
    prompt: &str,
) -> (Vec<u32>, usize) {
    let mut ids = tokenizer.encode_with_special(prompt);
    let length = ids.len();
    let (before, _) = tokenizer.template();
    if !ids.starts_with(before) {
        ids.splice(0..0, before.iter().copied());
    }
    if ids.is_empty() {
        ids.extend(end.opening());
    }
    let added = ids.len() - length;
    (ids, added)
}

/// Returns the error of a model that has no tokenizer for a text.
pub(crate) fn no_tokenizer() -> Error {
    Error::input("the model has no tokenizer")
        .hint(format!("give token ids instead of text: {} 1,2,3", field("prompt_ids")))
}

/// Returns the options of `count` continuations; their numbers start at the `sample` of `options`.
fn samples(options: &GenerateOptions, count: u32) -> Vec<GenerateOptions> {
    let first = options.sample;
    let numbers = (0..count).map(|i| first.wrapping_add(i));
    numbers.map(|sample| GenerateOptions { sample, ..options.clone() }).collect()
}
