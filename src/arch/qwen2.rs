//! Qwen2 (Yang et al. 2024, <https://arxiv.org/abs/2407.10671>): Llama with biases of queries, keys and values.

use serde_json::{Map, Value, json};

use super::family::Family;
use super::fields::Fields;
use super::like_llama::{Absent, config_json, gguf_of, new_blocks, read_sizes};
use super::llama::LLAMA;
use crate::config::model::{Biases, Blocks, GptConfig, Windowed};
use crate::error::{Error, Result};

/// Qwen2: queries, keys and values have biases; some layers may see a window of the last positions.
pub const QWEN2: Family = Family {
    model_type: "qwen2",
    title: "Qwen2",
    class: "Qwen2ForCausalLM",
    gguf: Some(gguf_of("qwen2")),
    blocks: || Blocks { biases: BIASES, ..new_blocks(QWEN2.model_type) },
    read_config,
    write_config,
    ..LLAMA
};

/// Those of all models.
const BIASES: Biases = Biases { qkv: true, ..Biases::NONE };

fn read_config(fields: &Map<String, Value>) -> Result<GptConfig> {
    let fields = Fields(fields);
    let absent = Absent { kv_heads_as_queries: false, head_size: None };
    let mut config = read_sizes(fields, &QWEN2, absent)?;
    config.blocks.biases = BIASES;
    read_windows(fields, &mut config)?;
    Ok(config)
}

/// Reads which layers see a window of the last positions: `layer_types` says it for each; without it, those from
/// `max_window_layers` on.
pub(super) fn read_windows(fields: Fields<'_>, config: &mut GptConfig) -> Result<()> {
    if !fields.flag("use_sliding_window")? {
        return match fields.get("layer_types").to_string().contains("sliding_attention") {
            true => Err(Error::input(
                "layer_types has \"sliding_attention\", but use_sliding_window is false",
            )),
            false => Ok(()),
        };
    }
    let window = fields.size_if_given("sliding_window")?;
    let windowed = match fields.get("layer_types") {
        Value::Null => {
            let from = fields.get("max_window_layers").as_u64();
            let missing = || Error::input("max_window_layers is missing, must be a layer's number");
            Windowed::From(usize::try_from(from.ok_or_else(missing)?).unwrap_or(usize::MAX))
        }
        Value::Array(types) if types.len() == config.n_layer => {
            let is_windowed = |kind: &Value| match kind.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(Error::input(format!("layer_types has {kind}, which is not supported"))),
            };
            Windowed::Layers(types.iter().map(is_windowed).collect::<Result<_>>()?)
        }
        _ => {
            return Err(Error::input(format!(
                "layer_types must be a list of {} texts",
                config.n_layer
            )));
        }
    };
    config.blocks = Blocks { window, windowed, ..config.blocks.clone() };
    Ok(())
}

/// Returns the fields of config.json about windows.
pub(super) fn windows_json(config: &GptConfig) -> Value {
    let is_windowed = |layer| config.window(layer).is_some();
    let types = (0..config.n_layer).map(|layer| match is_windowed(layer) {
        true => "sliding_attention",
        false => "full_attention",
    });
    let first = (0..config.n_layer).find(|layer| is_windowed(*layer));
    json!({
        "layer_types": types.collect::<Vec<_>>(),
        "max_window_layers": first.unwrap_or(config.n_layer),
        "sliding_window": first.and(config.blocks.window),
        "use_sliding_window": first.is_some(),
    })
}

fn write_config(config: &GptConfig, _: f64) -> Value {
    config_json(config, &QWEN2, windows_json(config))
}
