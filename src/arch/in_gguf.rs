//! What several families say in the same way in GGUF files.

use serde_json::{Value, json};

use super::family::{Described, Family, GgufSetting, GgufSettings};
use super::rotary::{Rotary, Scaling};
use crate::config::model::GptConfig;
use crate::error::{Error, Result, field};

/// The base of the angles where a file does not say it.
const THETA: f64 = 10_000.0;

/// Returns the sizes that every model has.
pub(super) fn sizes(config: &GptConfig) -> GgufSettings {
    use GgufSetting::Count;
    // llama.cpp has no windows in these architectures; in a shorter context there is none.
    let windows = (0..config.n_layer).filter_map(|layer| config.window(layer));
    let context = windows.fold(config.n_positions, usize::min);
    vec![
        ("context_length", Count(context)),
        ("embedding_length", Count(config.n_embd)),
        ("feed_forward_length", Count(config.n_inner())),
        ("block_count", Count(config.n_layer)),
        ("attention.head_count", Count(config.n_head)),
        ("vocab_size", Count(config.vocab_size)),
    ]
}

/// Returns the settings of rotary embeddings, which a model with a table of positions does not have.
pub(super) fn rotations(config: &GptConfig) -> GgufSettings {
    use GgufSetting::{Count, Real, Word};
    let Some(rotary) = config.blocks.rotary else { return vec![] };
    let mut settings = vec![
        ("rope.dimension_count", Count(rotary.channels(config.head_size()))),
        ("rope.freq_base", Real(rotary.theta)),
    ];
    if let Scaling::Linear(factor) = rotary.scaling {
        settings.push(("rope.scaling.type", Word("linear")));
        settings.push(("rope.scaling.factor", Real(factor)));
    }
    settings
}

/// Refuses frequencies scaled as in Llama 3.
///
/// # Errors
///
/// If the model has them: llama.cpp divides frequencies in the architecture `llama` alone.
pub(super) fn refuse_llama3(config: &GptConfig) -> Result<()> {
    match config.blocks.rotary.map(|rotary| rotary.scaling) {
        Some(Scaling::Llama3(_)) => Err(Error::input(format!(
            "rope_type is \"llama3\", which llama.cpp has for Llama and not for {}",
            Family::of(config).title
        ))),
        _ => Ok(()),
    }
}

/// Refuses a model for the first reason that holds.
///
/// # Errors
///
/// Says the reason.
pub(super) fn refuse(reasons: &[(bool, &str)]) -> Result<()> {
    match reasons.iter().find(|(holds, _)| *holds) {
        None => Ok(()),
        Some((_, reason)) => Err(Error::input(*reason)
            .hint(format!("hand the model on as a folder: {} DIR", field("out")))),
    }
}

/// Returns config.json for what a file says: the sizes, under the names that most families have, and `more`.
///
/// # Errors
///
/// If no family has the file's architecture.
pub(super) fn config_json(file: &Described<'_>, more: Value) -> Result<Value> {
    let mut all = json!({
        "model_type": Family::in_gguf(file.architecture)?.0.model_type,
        "max_position_embeddings": file.get("context_length"),
        "hidden_size": file.get("embedding_length"),
        "intermediate_size": file.get("feed_forward_length"),
        "num_hidden_layers": file.get("block_count"),
        "num_attention_heads": file.get("attention.head_count"),
        "vocab_size": file.vocab_size(),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    Ok(all)
}

/// Returns `rope_parameters` of config.json for heads of which so many channels are rotated.
///
/// # Errors
///
/// Names the scaling that is not read.
pub(super) fn rope(file: &Described<'_>, channels: usize) -> Result<Value> {
    let theta = match file.get("rope.freq_base") {
        Value::Null => THETA,
        given => given.as_f64().unwrap_or(f64::NAN),
    };
    if let Some(divisors) = &file.divisors {
        let rotary = Rotary::of_divisors(theta, channels, divisors).ok_or_else(|| {
            Error::input("rope_freqs.weight has divisors that are not those of Llama 3")
        })?;
        return Ok(rotary.to_json());
    }
    let factor = file.get("rope.scaling.factor");
    match file.get("rope.scaling.type").as_str() {
        None | Some("none") => Ok(json!({ "rope_theta": theta, "rope_type": "default" })),
        Some("linear") => {
            Ok(json!({ "factor": factor, "rope_theta": theta, "rope_type": "linear" }))
        }
        Some(other) => Err(Error::input(format!(
            "{}.rope.scaling.type is {other:?}, only none and linear are read",
            file.architecture
        ))),
    }
}

/// Returns `rope_parameters` of config.json where a part of each head may be rotated; a file that does not say how many
/// channels means all of them.
///
/// # Errors
///
/// Names the scaling that is not read.
pub(super) fn partial_rope(file: &Described<'_>) -> Result<Value> {
    let size = |key: &str| file.get(key).as_u64().map(|size| size as usize);
    // A file without these sizes is refused when config.json is read.
    let (width, heads) = (size("embedding_length"), size("attention.head_count"));
    let head_size = width.unwrap_or(0) / heads.unwrap_or(1).max(1);
    let channels = size("rope.dimension_count").unwrap_or(head_size);
    let mut parameters = rope(file, channels)?;
    parameters["partial_rotary_factor"] = Rotary::share_of(channels, head_size).into();
    Ok(parameters)
}
