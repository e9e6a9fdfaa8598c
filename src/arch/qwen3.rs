//! Qwen3 (Yang et al. 2025, <https://arxiv.org/abs/2505.09388>): Llama with normalised heads of queries and keys.

use serde_json::{Map, Value};

use super::family::{Family, Names, Part};
use super::fields::Fields;
use super::like_llama::{Absent, config_json, gguf_of, new_blocks, read_sizes};
use super::llama::LLAMA;
use super::qwen2::{read_windows, windows_json};
use crate::config::model::{Biases, GptConfig};
use crate::error::Result;

/// Qwen3: each head of queries and keys is normalised before it is rotated.
pub const QWEN3: Family = Family {
    model_type: "qwen3",
    title: "Qwen3",
    names: Names {
        head_norms: Some([
            Part::new("self_attn.q_norm", "attn_q_norm"),
            Part::new("self_attn.k_norm", "attn_k_norm"),
        ]),
        ..LLAMA.names
    },
    class: "Qwen3ForCausalLM",
    gguf: Some(gguf_of("qwen3")),
    blocks: || new_blocks(QWEN3.model_type),
    read_config,
    write_config,
    ..LLAMA
};

/// Channels of a head where config.json does not say it.
const HEAD_SIZE: usize = 128;

fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    let fields = Fields(fields);
    let absent = Absent { kv_heads_as_queries: false, head_size: Some(HEAD_SIZE) };
    let mut config = read_sizes(fields, &QWEN3, absent)?;
    let attention = fields.flag("attention_bias")?;
    config.blocks.biases = Biases { qkv: attention, attention_out: attention, mlp: false };
    read_windows(fields, &mut config)?;
    Ok(config)
}

fn write_config(config: &GptConfig, _: f64) -> Value {
    let mut more = windows_json(config);
    more["attention_bias"] = config.blocks.biases.attention_out.into();
    more["head_dim"] = config.head_size().into();
    config_json(config, &QWEN3, more)
}
