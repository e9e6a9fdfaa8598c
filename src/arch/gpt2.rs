//! GPT-2 (Radford et al. 2019), as in Hugging Face's files.

use serde_json::{Map, Value, json};

use super::family::{
    Described, Family, Gguf, GgufSetting, GgufSettings, Mlp, Names, Norm, Pairs, Part, Projections,
};
use super::fields::Fields;
use super::in_gguf;
use crate::config::model::{Blocks, GptConfig};
use crate::error::Result;
use crate::params::WeightLayout;

/// GPT-2: learned positions, layer normalisation before attention and MLP, biases everywhere, a tied head.
pub static GPT2: Family = Family {
    model_type: "gpt2",
    title: "GPT-2",
    names: Names {
        tokens: Part::new("wte", "token_embd"),
        positions: Some(Part::new("wpe", "position_embd")),
        blocks: Part::new("h", "blk"),
        norm_1: Part::new("ln_1", "attn_norm"),
        attention: "attn",
        qkv: Projections::Joined(Part::new("attn.c_attn", "attn_qkv")),
        head_norms: None,
        attention_out: Part::new("attn.c_proj", "attn_output"),
        norm_2: Part::new("ln_2", "ffn_norm"),
        mlp: Mlp::Gelu(Part::new("mlp.c_fc", "ffn_up")),
        down: Part::new("mlp.c_proj", "ffn_down"),
        last_norm: Part::new("ln_f", "output_norm"),
    },
    norm: Norm::Layer,
    layout: WeightLayout::InOut,
    prefix: "transformer.",
    head: "lm_head.weight",
    // The causal mask.
    buffers: &["attn.bias", "attn.masked_bias"],
    deviation: 0.02,
    adapted: &["c_attn"],
    class: "GPT2LMHeadModel",
    gguf: Some(Gguf {
        architecture: "gpt2",
        pairs: Pairs::Halves,
        settings: gguf_settings,
        config: config_of_gguf,
    }),
    blocks: || Blocks::GPT2,
    read_config,
    write_config,
};

fn gguf_settings(config: &GptConfig) -> Result<GgufSettings> {
    let mut settings = in_gguf::sizes(config);
    settings.push(("attention.layer_norm_epsilon", GgufSetting::Real(config.layer_norm_epsilon)));
    Ok(settings)
}

fn config_of_gguf(file: &Described<'_>) -> Result<Value> {
    Ok(json!({
        "model_type": GPT2.model_type,
        "n_positions": file.get("context_length"),
        "n_embd": file.get("embedding_length"),
        "n_inner": file.get("feed_forward_length"),
        "n_layer": file.get("block_count"),
        "n_head": file.get("attention.head_count"),
        "layer_norm_epsilon": file.get("attention.layer_norm_epsilon"),
        "vocab_size": file.vocab_size(),
    }))
}

/// Settings of GPT-2's configuration that change the arithmetic, each with the values supported
/// (the first is the default).
const SETTINGS: &[(&str, &[&str])] = &[
    // Two names for one function.
    ("activation_function", &["\"gelu_new\"", "\"gelu_pytorch_tanh\""]),
    ("scale_attn_weights", &["true"]),
    ("scale_attn_by_inverse_layer_idx", &["false"]),
    ("tie_word_embeddings", &["true"]),
    ("add_cross_attention", &["false"]),
    ("pruned_heads", &["{}", "null"]),
    ("quantization_config", &["null"]),
];

/// Reads the sizes from config.json.
///
/// # Errors
///
/// Names the field that is missing or out of range, or the setting that is not supported.
fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    let fields = Fields(fields);
    fields.refuse_others(SETTINGS, GPT2.title)?;
    // Early files call n_positions n_ctx.
    let early = !fields.has("n_positions") && fields.has("n_ctx");
    let config = GptConfig {
        n_layer: fields.size("n_layer")?,
        n_head: fields.size("n_head")?,
        n_embd: fields.size("n_embd")?,
        vocab_size: fields.size("vocab_size")?,
        n_positions: fields.size(if early { "n_ctx" } else { "n_positions" })?,
        n_inner: fields.size_if_given("n_inner")?,
        layer_norm_epsilon: match fields.has("layer_norm_epsilon") {
            true => fields.number("layer_norm_epsilon")?,
            false => 1e-5,
        },
        blocks: Blocks::GPT2,
    };
    config.validate()?;
    Ok(config)
}

/// Returns config.json as Hugging Face's library saves it: every setting of GPT-2, sorted by name.
///
/// Attention's own dropout is 0: dropout is applied in the embedding and before the residual sums.
fn write_config(config: &GptConfig, dropout: f64) -> Value {
    json!({
        "activation_function": "gelu_new",
        "add_cross_attention": false,
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.0,
        "bos_token_id": null,
        "dtype": null,
        "embd_pdrop": dropout,
        "eos_token_id": null,
        "initializer_range": 0.02,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "model_type": "gpt2",
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_inner": config.n_inner,
        "n_layer": config.n_layer,
        "n_positions": config.n_positions,
        "pad_token_id": null,
        "reorder_and_upcast_attn": false,
        "resid_pdrop": dropout,
        "scale_attn_by_inverse_layer_idx": false,
        "scale_attn_weights": true,
        "summary_activation": null,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true,
        "summary_type": "cls_index",
        "summary_use_proj": true,
        "tie_word_embeddings": true,
        "transformers_version": null,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    })
}
