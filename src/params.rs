//! The list of a model's parameters: names and shapes.

use crate::config::model::GptConfig;

/// A tensor's name and shape.
pub type NamedShape = (String, Vec<usize>);

/// Every parameter of a model: name without the files' prefix `transformer.`, and shape, in the
/// order of the forward pass. This is the one list of GPT-2's names here.
///
/// ```
/// use wgpt::{GptConfig, params::parameters};
/// let list = parameters(&GptConfig::gpt2());
/// assert_eq!(list[0], ("wte.weight".to_string(), vec![50257, 768]));
/// assert_eq!(list.len(), 2 + 12 * 12 + 2);
/// ```
pub fn parameters(config: &GptConfig) -> Vec<NamedShape> {
    each_parameter(config).collect()
}

/// [`parameters`] one by one, for a configuration that is not yet known to fit its file.
pub(crate) fn each_parameter(config: &GptConfig) -> impl Iterator<Item = NamedShape> + use<> {
    let (channels, inner) = (config.n_embd, config.n_inner());
    let named = |(name, shape): (&str, Vec<usize>)| (name.to_string(), shape);
    let first = [
        ("wte.weight", vec![config.vocab_size, channels]),
        ("wpe.weight", vec![config.n_positions, channels]),
    ];
    let last = [("ln_f.weight", vec![channels]), ("ln_f.bias", vec![channels])];
    let layers = (0..config.n_layer).flat_map(move |layer| {
        let layer_tensors = [
            ("ln_1.weight", vec![channels]),
            ("ln_1.bias", vec![channels]),
            ("attn.c_attn.weight", vec![channels, 3 * channels]),
            ("attn.c_attn.bias", vec![3 * channels]),
            ("attn.c_proj.weight", vec![channels, channels]),
            ("attn.c_proj.bias", vec![channels]),
            ("ln_2.weight", vec![channels]),
            ("ln_2.bias", vec![channels]),
            ("mlp.c_fc.weight", vec![channels, inner]),
            ("mlp.c_fc.bias", vec![inner]),
            ("mlp.c_proj.weight", vec![inner, channels]),
            ("mlp.c_proj.bias", vec![channels]),
        ];
        layer_tensors.map(|(name, shape)| (format!("h.{layer}.{name}"), shape))
    });
    first.map(named).into_iter().chain(layers).chain(last.map(named))
}
