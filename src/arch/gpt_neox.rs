//! GPT-NeoX (Black et al. 2022, <https://arxiv.org/abs/2204.06745>), as in Hugging Face's files; Pythia is of this family.

use serde_json::{Map, Value, json};

use super::family::{Family, Mlp, Names, Norm, Part, Projections};
use super::fields::Fields;
use super::rotary::Rotary;
use crate::config::model::{Biases, Blocks, GeluForm, GptConfig};
use crate::error::{Error, Result};
use crate::params::WeightLayout;

/// GPT-NeoX: attention and MLP side by side, rotary embeddings of a part of each head, layer normalisation, biases, a head
/// of its own.
pub static GPT_NEOX: Family = Family {
    model_type: "gpt_neox",
    title: "GPT-NeoX",
    names: Names {
        tokens: Part::new("embed_in", "token_embd"),
        positions: None,
        blocks: Part::new("layers", "blk"),
        norm_1: Part::new("input_layernorm", "attn_norm"),
        attention: "attention",
        qkv: Projections::Interleaved(Part::new("attention.query_key_value", "attn_qkv")),
        head_norms: None,
        attention_out: Part::new("attention.dense", "attn_output"),
        norm_2: Part::new("post_attention_layernorm", "ffn_norm"),
        mlp: Mlp::Gelu(Part::new("mlp.dense_h_to_4h", "ffn_up")),
        down: Part::new("mlp.dense_4h_to_h", "ffn_down"),
        last_norm: Part::new("final_layer_norm", "output_norm"),
    },
    norm: Norm::Layer,
    layout: WeightLayout::OutIn,
    prefix: "gpt_neox.",
    head: "embed_out.weight",
    // The causal mask, and the frequencies.
    buffers: &["attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"],
    deviation: 0.02,
    adapted: &["query_key_value"],
    class: "GPTNeoXForCausalLM",
    // llama.cpp has the rows of query_key_value in another order.
    gguf: None,
    blocks: new_blocks,
    read_config,
    write_config,
};

/// The share of channels that are rotated, where config.json does not say it.
const SHARE: f64 = 0.25;

fn new_blocks() -> Blocks {
    Blocks {
        family: GPT_NEOX.model_type.into(),
        rotary: Some(Rotary { share: SHARE, ..Rotary::of(10_000.0) }),
        is_tied: false,
        gelu: GeluForm::Exact,
        is_parallel: true,
        ..Blocks::GPT2
    }
}

/// The names of the forms of GELU; the first one is written.
const EXACT: &[&str] = &["gelu", "gelu_python"];
const TANH: &[&str] = &["gelu_new", "gelu_fast", "gelu_pytorch_tanh"];

fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    let fields = Fields(fields);
    fields.refuse_others(&[("quantization_config", &["null"])], GPT_NEOX.title)?;
    let gelu = match fields.text("hidden_act", EXACT[0])? {
        name if EXACT.contains(&name) => GeluForm::Exact,
        name if TANH.contains(&name) => GeluForm::Tanh,
        name => {
            let all = [EXACT, TANH].concat().join(", ");
            return Err(Error::input(format!("hidden_act is {name:?}, must be one of {all}")));
        }
    };
    let attention = fields.flag_or("attention_bias", true)?;
    let config = GptConfig {
        n_layer: fields.size("num_hidden_layers")?,
        n_head: fields.size("num_attention_heads")?,
        n_embd: fields.size("hidden_size")?,
        vocab_size: fields.size("vocab_size")?,
        n_positions: fields.size("max_position_embeddings")?,
        n_inner: Some(fields.size("intermediate_size")?),
        layer_norm_epsilon: fields.positive("layer_norm_eps", Some(1e-5))?,
        blocks: Blocks {
            rotary: Some(fields.partial_rotary("rotary_emb_base", ("rotary_pct", SHARE))?),
            biases: Biases { qkv: attention, attention_out: attention, mlp: true },
            is_tied: fields.flag("tie_word_embeddings")?,
            gelu,
            is_parallel: fields.flag_or("use_parallel_residual", true)?,
            ..new_blocks()
        },
    };
    config.validate()?;
    Ok(config)
}

fn write_config(config: &GptConfig, dropout: f64) -> Value {
    let Blocks { rotary, biases, is_tied, gelu, is_parallel, .. } = &config.blocks;
    json!({
        "architectures": [GPT_NEOX.class],
        "attention_bias": biases.qkv,
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "classifier_dropout": 0.1,
        "dtype": null,
        "eos_token_id": null,
        "hidden_act": match gelu {
            GeluForm::Exact => EXACT[0],
            GeluForm::Tanh => TANH[0],
        },
        "hidden_dropout": dropout,
        "hidden_size": config.n_embd,
        "initializer_range": 0.02,
        "intermediate_size": config.n_inner(),
        "is_decoder": false,
        "layer_norm_eps": config.layer_norm_epsilon,
        "max_position_embeddings": config.n_positions,
        "model_type": GPT_NEOX.model_type,
        "num_attention_heads": config.n_head,
        "num_hidden_layers": config.n_layer,
        "pad_token_id": null,
        "rope_parameters": rotary.map(Rotary::to_partial_json),
        "tie_word_embeddings": is_tied,
        "transformers_version": null,
        "use_cache": true,
        "use_parallel_residual": is_parallel,
        "vocab_size": config.vocab_size,
    })
}
