//! What a model gives, for another program to compare with: `cargo run --example logits -- FOLDER < request.json`.
//!
//! The request is one JSON object, `{"ids": [1, 2, 3], "texts": ["a", "b"]}`; the answer has `logits`, a row for each of
//! `ids`, and `encoded`, the ids of each of `texts`. It is computed on the CPU in single precision.

use std::path::Path;

use serde::{Deserialize, Serialize};
use wgpt::backend::Device;
use wgpt::engine::{Engine, Tensor};
use wgpt::model::{Uses, open as open_model};
use wgpt::{Error, Result, Tokenizer};

#[derive(Deserialize)]
struct Request {
    ids: Vec<u32>,
    #[serde(default)]
    texts: Vec<String>,
}

#[derive(Serialize)]
struct Answer {
    logits: Vec<Vec<f32>>,
    encoded: Vec<Vec<u32>>,
}

fn main() -> Result<()> {
    let wrong = |what: &dyn std::fmt::Display| Error::input(format!("the request: {what}"));
    let folder = std::env::args().nth(1).ok_or_else(|| Error::usage("give a model folder"))?;
    let request: Request = serde_json::from_reader(std::io::stdin()).map_err(|e| wrong(&e))?;
    let answer = answer(Path::new(&folder), &request)?;
    println!("{}", serde_json::to_string(&answer).map_err(|e| wrong(&e))?);
    Ok(())
}

fn answer(folder: &Path, request: &Request) -> Result<Answer> {
    let (config, weights) = open_model(folder)?;
    let uses = Uses { batch: 1, seq: request.ids.len(), logits: true, ..Uses::default() };
    let mut engine = Engine::new(&config, uses, &Device::Cpu)?;
    for param in engine.program().params.clone().iter() {
        engine.write_param(param, Tensor::Value, |start, out| {
            weights.read(&param.name, start, out)
        })?;
    }
    let logits = engine.logits(&request.ids)?;
    let rows = logits.chunks(config.vocab_size).map(<[f32]>::to_vec).collect();
    let encoded = match request.texts.as_slice() {
        [] => vec![],
        texts => {
            let tokenizer = Tokenizer::load(folder)?;
            texts.iter().map(|text| tokenizer.encode_with_special(text)).collect()
        }
    };
    Ok(Answer { logits: rows, encoded })
}
