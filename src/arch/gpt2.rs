//! GPT-2 (Radford et al. 2019), as in Hugging Face's files.

use serde_json::{Map, Value, json};

use super::{Family, GgufSize, Names, Part};
use crate::config::model::GptConfig;
use crate::error::{Error, Result};

const QKV: Part = Part { name: "attn.c_attn", gguf: "attn_qkv" };

/// GPT-2: learned positions, layer normalisation before attention and MLP, biases everywhere, a tied head.
pub static GPT2: Family = Family {
    model_type: "gpt2",
    title: "GPT-2",
    names: Names {
        tokens: Part { name: "wte", gguf: "token_embd" },
        positions: Part { name: "wpe", gguf: "position_embd" },
        blocks: Part { name: "h", gguf: "blk" },
        norm_1: Part { name: "ln_1", gguf: "attn_norm" },
        attention: "attn",
        qkv: QKV,
        attention_out: Part { name: "attn.c_proj", gguf: "attn_output" },
        norm_2: Part { name: "ln_2", gguf: "ffn_norm" },
        up: Part { name: "mlp.c_fc", gguf: "ffn_up" },
        down: Part { name: "mlp.c_proj", gguf: "ffn_down" },
        last_norm: Part { name: "ln_f", gguf: "output_norm" },
    },
    prefix: "transformer.",
    head: "lm_head.weight",
    // The causal mask.
    buffers: &["attn.bias", "attn.masked_bias"],
    deviation: 0.02,
    adapted: QKV,
    class: "GPT2LMHeadModel",
    gguf: "gpt2",
    read_config,
    write_config,
    gguf_sizes,
};

fn gguf_sizes(config: &GptConfig) -> Vec<(&'static str, GgufSize)> {
    use GgufSize::{Count, Real};
    vec![
        ("context_length", Count(config.n_positions)),
        ("embedding_length", Count(config.n_embd)),
        ("feed_forward_length", Count(config.n_inner())),
        ("block_count", Count(config.n_layer)),
        ("attention.head_count", Count(config.n_head)),
        ("attention.layer_norm_epsilon", Real(config.layer_norm_epsilon)),
        ("vocab_size", Count(config.vocab_size)),
    ]
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

fn refuse_unsupported(fields: &Map<String, Value>) -> Result<()> {
    for (name, supported) in SETTINGS {
        let Some(value) = fields.get(*name) else { continue };
        let value = value.to_string();
        if !supported.contains(&value.as_str()) {
            let wanted = supported.join(" or ");
            return Err(Error::input(format!("{name} is {value}, only {wanted} is supported"))
                .hint("this model computes something other than GPT-2 does; use another one"));
        }
    }
    Ok(())
}

/// Reads the sizes from config.json.
///
/// # Errors
///
/// Names the field that is missing or out of range, or the setting that is not supported.
fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    refuse_unsupported(fields)?;
    // Early files call n_positions n_ctx.
    let positions = if fields.contains_key("n_positions") { "n_positions" } else { "n_ctx" };
    let positions = if fields.contains_key(positions) { positions } else { "n_positions" };
    let size = |name: &str| whole(name, fields.get(name).unwrap_or(&Value::Null));
    let config = GptConfig {
        n_layer: size("n_layer")?,
        n_head: size("n_head")?,
        n_embd: size("n_embd")?,
        vocab_size: size("vocab_size")?,
        n_positions: size(positions)?,
        n_inner: match fields.get("n_inner") {
            None | Some(Value::Null) => None,
            Some(value) => Some(whole("n_inner", value)?),
        },
        layer_norm_epsilon: match fields.get("layer_norm_epsilon") {
            None => 1e-5,
            Some(value) => value.as_f64().ok_or_else(|| {
                Error::input(format!("layer_norm_epsilon is {value}, must be a number"))
            })?,
        },
    };
    config.validate()?;
    Ok(config)
}

/// Reads a size: a whole number from 1 to 2^24 - 1, so that no product of a few sizes overflows.
fn whole(name: &str, value: &Value) -> Result<usize> {
    if value.is_null() {
        return Err(Error::input(format!("{name} is missing")));
    }
    match value.as_u64() {
        Some(number @ 1..0x100_0000) => Ok(number as usize),
        _ => Err(Error::input(format!(
            "{name} is {value}, must be a whole number from 1 to 16777215"
        ))),
    }
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
