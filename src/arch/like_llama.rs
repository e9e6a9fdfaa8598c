//! What config.json of all families like Llama has.

use serde_json::{Value, json};

use super::family::{Described, Family, Gguf, GgufSetting, GgufSettings, Pairs};
use super::fields::Fields;
use super::in_gguf;
use super::rotary::Rotary;
use crate::config::model::{Biases, Blocks, GptConfig};
use crate::error::{Error, Result};

/// Settings that change the arithmetic, each with the values supported.
const SETTINGS: &[(&str, &[&str])] = &[
    // Two names for one function.
    ("hidden_act", &["\"silu\"", "\"swish\""]),
    ("quantization_config", &["null"]),
];

/// The base of the angles of new models.
const THETA: f64 = 10_000.0;

/// Returns how the blocks of a new model compute: positions are rotations, there is no bias, and the head is the token
/// table, which is a large part of a small model.
pub(super) fn new_blocks(family: &'static str) -> Blocks {
    Blocks {
        family: family.into(),
        rotary: Some(Rotary::of(THETA)),
        biases: Biases::NONE,
        ..Blocks::GPT2
    }
}

/// What a family's models have if config.json does not say it.
pub(super) struct Absent {
    /// Whether they have as many heads of keys as of queries.
    pub(super) kv_heads_as_queries: bool,
    /// Channels of a head; `None`: the width divided by the number of heads.
    pub(super) head_size: Option<usize>,
}

/// Reads the sizes that all families like Llama have, without biases and windows.
///
/// # Errors
///
/// Names the field that is missing or out of range, or the setting that is not supported.
pub(super) fn read_sizes(fields: Fields<'_>, family: &Family, absent: Absent) -> Result<GptConfig> {
    fields.refuse_others(SETTINGS, family.title)?;
    let (n_embd, n_head) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let n_kv_head = match fields.size_if_given("num_key_value_heads")? {
        Some(given) => given,
        None if absent.kv_heads_as_queries || fields.has("num_key_value_heads") => n_head,
        None => return Err(fields.missing("num_key_value_heads")),
    };
    if !n_head.is_multiple_of(n_kv_head) {
        return Err(Error::input(format!(
            "num_key_value_heads {n_kv_head} does not divide num_attention_heads {n_head}"
        )));
    }
    let default = absent.head_size.filter(|_| !fields.has("head_dim"));
    let head_size = match fields.size_if_given("head_dim")?.or(default) {
        Some(size) => size,
        None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
        None => {
            return Err(Error::input(format!(
                "num_attention_heads {n_head} does not divide hidden_size {n_embd}, and there is no head_dim"
            )));
        }
    };
    if !head_size.is_multiple_of(2) {
        return Err(Error::input(format!(
            "head_dim is {head_size}, must be even: rotary embeddings rotate pairs of channels"
        )));
    }
    let epsilon = fields.positive("rms_norm_eps", Some(1e-6))?;
    if epsilon >= 1.0 {
        return Err(Error::input(format!("rms_norm_eps is {epsilon}, must be below 1")));
    }
    let config = GptConfig {
        n_layer: fields.size("num_hidden_layers")?,
        n_head,
        n_embd,
        vocab_size: fields.size("vocab_size")?,
        n_positions: fields.size("max_position_embeddings")?,
        n_inner: Some(fields.size("intermediate_size")?),
        layer_norm_epsilon: epsilon,
        blocks: Blocks {
            family: family.model_type.into(),
            n_kv_head: Some(n_kv_head),
            head_size: Some(head_size),
            rotary: Some(fields.rotary()?),
            biases: Biases::NONE,
            is_tied: fields.flag("tie_word_embeddings")?,
            ..Blocks::GPT2
        },
    };
    config.validate()?;
    Ok(config)
}

/// Returns what config.json of all families like Llama has, as Hugging Face's library saves it, with `more` of a family's own.
pub(super) fn config_json(config: &GptConfig, family: &Family, more: Value) -> Value {
    let mut all = json!({
        "architectures": [family.class],
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "dtype": null,
        "eos_token_id": null,
        "hidden_act": "silu",
        "hidden_size": config.n_embd,
        "initializer_range": 0.02,
        "intermediate_size": config.n_inner(),
        "max_position_embeddings": config.n_positions,
        "model_type": family.model_type,
        "num_attention_heads": config.n_head,
        "num_hidden_layers": config.n_layer,
        "num_key_value_heads": config.n_kv_head(),
        "pad_token_id": null,
        "rms_norm_eps": config.layer_norm_epsilon,
        "rope_parameters": config.blocks.rotary.map(Rotary::to_json),
        "tie_word_embeddings": config.blocks.is_tied,
        "transformers_version": null,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
        all.sort_keys();
    }
    all
}

/// How llama.cpp names models like Llama itself.
pub(super) const GGUF: Gguf = Gguf {
    architecture: "llama",
    pairs: Pairs::Neighbours,
    settings: gguf_settings,
    config: config_of_gguf,
};

/// Returns how llama.cpp names models like Llama of an architecture of their own.
pub(super) const fn gguf_of(architecture: &'static str) -> Gguf {
    Gguf { architecture, pairs: Pairs::Halves, settings: without_llama3, config: config_of_gguf }
}

fn gguf_settings(config: &GptConfig) -> Result<GgufSettings> {
    use GgufSetting::{Count, Real};
    let mut settings = in_gguf::sizes(config);
    settings.extend([
        ("attention.head_count_kv", Count(config.n_kv_head())),
        ("attention.key_length", Count(config.head_size())),
        ("attention.value_length", Count(config.head_size())),
        ("attention.layer_norm_rms_epsilon", Real(config.layer_norm_epsilon)),
    ]);
    settings.extend(in_gguf::rotations(config));
    Ok(settings)
}

fn without_llama3(config: &GptConfig) -> Result<GgufSettings> {
    in_gguf::refuse_llama3(config)?;
    gguf_settings(config)
}

/// What models of these architectures may have besides, and these families have not.
const FOREIGN: &[&str] = &[
    "expert_count",
    "attention.sliding_window",
    "attn_logit_softcapping",
    "attention.clamp_kqv",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.scale",
];

/// Returns config.json for what a GGUF file says.
fn config_of_gguf(file: &Described<'_>) -> Result<Value> {
    file.refuse(FOREIGN)?;
    let head_size = match file.get("attention.key_length") {
        Value::Null => file.get("rope.dimension_count"),
        given => given,
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if ![&Value::Null, head_size].contains(&file.get(key)) {
            return Err(Error::input(format!(
                "{}.{key} is {}, must be the head's {head_size} channels",
                file.architecture,
                file.get(key)
            )));
        }
    }
    let kv_heads = match file.get("attention.head_count_kv") {
        Value::Null => file.get("attention.head_count"),
        given => given,
    };
    let more = json!({
        "num_key_value_heads": kv_heads,
        "head_dim": head_size,
        "hidden_act": "silu",
        "rms_norm_eps": file.get("attention.layer_norm_rms_epsilon"),
        "rope_parameters": in_gguf::rope(file, head_size.as_u64().unwrap_or(0) as usize)?,
        "tie_word_embeddings": !file.has("output.weight"),
        "attention_bias": file.has("blk.0.attn_output.bias") || file.has("blk.0.attn_q.bias"),
        "mlp_bias": file.has("blk.0.ffn_up.bias"),
        "use_sliding_window": false,
    });
    in_gguf::config_json(file, more)
}
