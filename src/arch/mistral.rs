//! Mistral (Jiang et al. 2023, <https://arxiv.org/abs/2310.06825>): Llama with a sliding window.

use serde_json::{Map, Value, json};

use super::family::Family;
use super::fields::Fields;
use super::like_llama::{Absent, config_json, new_blocks, read_sizes};
use super::llama::LLAMA;
use crate::config::model::GptConfig;
use crate::error::Result;

/// Mistral: every layer sees a window of the last positions, if there is one.
pub const MISTRAL: Family = Family {
    model_type: "mistral",
    title: "Mistral",
    class: "MistralForCausalLM",
    blocks: || new_blocks(MISTRAL.model_type),
    read_config,
    write_config,
    ..LLAMA
};

/// The window of models whose config.json does not mention it.
const WINDOW: usize = 4096;

fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    let fields = Fields(fields);
    let absent = Absent { kv_heads_as_queries: false, head_size: None };
    let mut config = read_sizes(fields, &MISTRAL, absent)?;
    config.blocks.window = match fields.has("sliding_window") {
        true => fields.size_if_given("sliding_window")?,
        false => Some(WINDOW),
    };
    Ok(config)
}

fn write_config(config: &GptConfig, _: f64) -> Value {
    let more = json!({ "head_dim": config.head_size(), "sliding_window": config.blocks.window });
    config_json(config, &MISTRAL, more)
}
