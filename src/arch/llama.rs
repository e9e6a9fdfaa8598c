//! Llama (Touvron et al. 2023, Grattafiori et al. 2024), as in Hugging Face's files; others follow it.

use serde_json::{Map, Value, json};

use super::family::{Family, Mlp, Names, Norm, Part, Projections};
use super::fields::Fields;
use super::like_llama::{Absent, GGUF, config_json, new_blocks, read_sizes};
use crate::config::model::{Biases, GptConfig};
use crate::error::Result;
use crate::params::WeightLayout;

/// Llama: rotary embeddings, root mean square normalisation, SwiGLU, and fewer heads of keys than of queries.
pub const LLAMA: Family = Family {
    model_type: "llama",
    title: "Llama",
    names: Names {
        tokens: Part::new("embed_tokens", "token_embd"),
        positions: None,
        blocks: Part::new("layers", "blk"),
        norm_1: Part::new("input_layernorm", "attn_norm"),
        attention: "self_attn",
        qkv: Projections::Separate([
            Part::new("self_attn.q_proj", "attn_q"),
            Part::new("self_attn.k_proj", "attn_k"),
            Part::new("self_attn.v_proj", "attn_v"),
        ]),
        head_norms: None,
        attention_out: Part::new("self_attn.o_proj", "attn_output"),
        norm_2: Part::new("post_attention_layernorm", "ffn_norm"),
        mlp: Mlp::SwiGlu([
            Part::new("mlp.gate_proj", "ffn_gate"),
            Part::new("mlp.up_proj", "ffn_up"),
        ]),
        down: Part::new("mlp.down_proj", "ffn_down"),
        last_norm: Part::new("norm", "output_norm"),
    },
    norm: Norm::RootMeanSquare,
    layout: WeightLayout::OutIn,
    prefix: "model.",
    head: "lm_head.weight",
    buffers: &["self_attn.rotary_emb.inv_freq"],
    deviation: 0.02,
    adapted: &["q_proj", "v_proj"],
    class: "LlamaForCausalLM",
    gguf: Some(GGUF),
    blocks: || new_blocks(LLAMA.model_type),
    read_config,
    write_config,
};

fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    let fields = Fields(fields);
    let absent = Absent { kv_heads_as_queries: true, head_size: None };
    let mut config = read_sizes(fields, &LLAMA, absent)?;
    let (attention, mlp) = (fields.flag("attention_bias")?, fields.flag("mlp_bias")?);
    config.blocks.biases = Biases { qkv: attention, attention_out: attention, mlp };
    Ok(config)
}

fn write_config(config: &GptConfig, _: f64) -> Value {
    let Biases { attention_out, mlp, .. } = config.blocks.biases;
    let more = json!({
        "attention_bias": attention_out,
        "head_dim": config.head_size(),
        "mlp_bias": mlp,
        "pretraining_tp": 1,
    });
    config_json(config, &LLAMA, more)
}
