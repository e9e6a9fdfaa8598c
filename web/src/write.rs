//! Texts with the surprise of their tokens.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use wgpt::backend::gpu::DeviceChoice;
use wgpt::clock::Stopwatch;
use wgpt::scored::{Token, continue_scored};
use wgpt::tokenizer::Tokenizer;
use wgpt::{Error, GenerateOptions, Gpt, Result, checkpoint};

use crate::call::{Tell, is_stopped};
use crate::device::open;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    model: PathBuf,
    #[serde(default)]
    prompt: String,
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    seed: Option<u64>,
    device: Option<DeviceChoice>,
    #[serde(default)]
    alternatives: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    model: PathBuf,
    text: String,
    device: Option<DeviceChoice>,
    #[serde(default)]
    alternatives: usize,
}

/// Continues a prompt. Tells a `token` for each of the prompt, then for each new one.
pub fn generate(asked: &Generate, tell: &Tell) -> Result<Value> {
    let default = GenerateOptions::default();
    let options = GenerateOptions {
        max_tokens: asked.max_tokens.unwrap_or(default.max_tokens),
        temperature: asked.temperature.unwrap_or(default.temperature),
        top_k: asked.top_k.unwrap_or(default.top_k),
        top_p: asked.top_p.unwrap_or(default.top_p),
        min_p: asked.min_p.unwrap_or(default.min_p),
        repetition_penalty: asked.repetition_penalty.unwrap_or(default.repetition_penalty),
        seed: asked.seed.unwrap_or(default.seed),
        ..default
    };
    read(&asked.model, asked.device, &asked.prompt, (&options, asked.alternatives), tell)
}

/// Reads a text. Tells a `token` for each of it.
pub fn score(asked: &Score, tell: &Tell) -> Result<Value> {
    let options = GenerateOptions { max_tokens: 0, ..GenerateOptions::default() };
    read(&asked.model, asked.device, &asked.text, (&options, asked.alternatives), tell)
}

fn read(
    model: &Path,
    device: Option<DeviceChoice>,
    text: &str,
    (options, top): (&GenerateOptions, usize),
    tell: &Tell,
) -> Result<Value> {
    let mut gpt = Gpt::load(&checkpoint::model_at(model)?, open(device)?)?;
    let prompt = gpt.encode_prompt(text)?;
    let tokenizer = gpt.tokenizer().cloned();
    let tokenizer = tokenizer.ok_or_else(|| Error::input("the model has no tokenizer"))?;
    let ends = gpt.end_of_text().ids().to_vec();
    let uses = gpt.uses_of_serving(1);
    let engine = gpt.renew_engine(uses)?;
    let clock = Stopwatch::start();
    let mut drawn = vec![];
    let tokens = continue_scored(engine, &prompt, options, &ends, top, &mut |token| {
        if !token.is_given {
            // A padded vocabulary has ids beyond the tokenizer, which stand for nothing.
            drawn.extend(tokenizer.token_bytes(token.id).unwrap_or_default());
        }
        tell.say(&shown(&tokenizer, &token));
        !is_stopped()
    })?;
    let text = String::from_utf8_lossy(&drawn);
    Ok(json!({ "tokens": tokens, "seconds": clock.seconds(), "text": text }))
}

fn shown(tokenizer: &Tokenizer, token: &Token) -> Value {
    let bytes = |id: u32| tokenizer.token_bytes(id).unwrap_or_default().to_vec();
    let text = |id: u32| String::from_utf8_lossy(&bytes(id)).into_owned();
    let scored = token.scored.as_ref();
    let top = scored.map_or(&[][..], |scored| &scored.top);
    let top =
        top.iter().map(|(id, logprob)| json!({ "id": id, "text": text(*id), "logprob": logprob }));
    json!({
        "event": "token",
        "id": token.id,
        "text": text(token.id),
        "bytes": bytes(token.id),
        "logprob": scored.map(|scored| scored.logprob),
        "top": top.collect::<Value>(),
        "prompt": token.is_given,
    })
}
