//! GPT-NeoX (Black et al. 2022, <https://arxiv.org/abs/2204.06745>), as in Hugging Face's files; Pythia is of this family.

use serde_json::{Map, Value, json};

use super::family::{
    Described, Family, Gguf, GgufSetting, GgufSettings, Mlp, Names, Norm, Pairs, Part, Projections,
};
use super::fields::{Fields, gelu_name};
use super::in_gguf;
use super::rotary::Rotary;
use crate::config::model::{Biases, Blocks, GeluForm, GptConfig};
use crate::error::Result;
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
    gguf: Some(Gguf {
        architecture: "gptneox",
        pairs: Pairs::Halves,
        settings: gguf_settings,
        config: config_of_gguf,
    }),
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

fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    let fields = Fields(fields);
    fields.refuse_others(&[("quantization_config", &["null"])], GPT_NEOX.title)?;
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
            gelu: fields.gelu("hidden_act")?,
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
        "hidden_act": gelu_name(*gelu),
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

/// Returns what llama.cpp is told. It takes GELU by tanh in every model of this architecture, and a file cannot say the form: it
/// is read as the exact one, which the published models have.
fn gguf_settings(config: &GptConfig) -> Result<GgufSettings> {
    let Blocks { biases, is_tied, gelu, is_parallel, .. } = config.blocks;
    in_gguf::refuse(&[
        (is_tied, "tie_word_embeddings is true, llama.cpp needs a head of its own"),
        (biases != Biases::ALL, "attention_bias is false, llama.cpp needs all biases"),
        (gelu == GeluForm::Tanh, "hidden_act is \"gelu_new\", a GGUF file cannot say so"),
    ])?;
    in_gguf::refuse_llama3(config)?;
    let own = [
        ("attention.layer_norm_epsilon", GgufSetting::Real(config.layer_norm_epsilon)),
        ("use_parallel_residual", GgufSetting::Flag(is_parallel)),
    ];
    Ok(in_gguf::sizes(config).into_iter().chain(in_gguf::rotations(config)).chain(own).collect())
}

fn config_of_gguf(file: &Described<'_>) -> Result<Value> {
    let more = json!({
        "hidden_act": gelu_name(GeluForm::Exact),
        "layer_norm_eps": file.get("attention.layer_norm_epsilon"),
        "rope_parameters": in_gguf::partial_rope(file)?,
        "use_parallel_residual": file.get("use_parallel_residual"),
    });
    in_gguf::config_json(file, more)
}
