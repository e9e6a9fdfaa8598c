//! New models: named sizes, and what a family makes of sizes.

use std::borrow::Cow;

use serde_json::Value;

use super::rotary::Rotary;
use super::{Family, GPT2, Mlp};
use crate::config::model::{Biases, Blocks, GeluForm, GptConfig, Windowed};
use crate::error::{Error, Field, Result, field};

/// Sizes of a model under a name.
pub struct Preset {
    /// The name.
    pub name: &'static str,
    /// The family that these sizes belong to; `None`: each family has such models.
    family: Option<&'static str>,
    /// The model; if the family is not fixed, one of GPT-2's.
    model: GptConfig,
}

/// All named sizes, the smallest first of those that each family has, and of each family's own.
pub static PRESETS: [Preset; 10] = [
    Preset { name: "small", family: None, model: GptConfig::small() },
    Preset { name: "medium", family: None, model: GptConfig::medium() },
    Preset { name: "large", family: None, model: GptConfig::large() },
    Preset { name: "gpt2", family: Some("gpt2"), model: GptConfig::gpt2() },
    Preset { name: "gpt2-medium", family: Some("gpt2"), model: GptConfig::gpt2_medium() },
    Preset { name: "gpt2-large", family: Some("gpt2"), model: GptConfig::gpt2_large() },
    Preset { name: "gpt2-xl", family: Some("gpt2"), model: GptConfig::gpt2_xl() },
    Preset {
        name: "smollm2-135m",
        family: Some("llama"),
        model: tied("llama", [30, 9, 576, 49_152, 8192], [1536, 3, 64], [100_000.0, 1e-5]),
    },
    Preset {
        name: "smollm2-360m",
        family: Some("llama"),
        model: tied("llama", [32, 15, 960, 49_152, 8192], [2560, 5, 64], [100_000.0, 1e-5]),
    },
    Preset {
        name: "qwen3-0.6b",
        family: Some("qwen3"),
        model: tied("qwen3", [28, 16, 1024, 151_936, 40_960], [3072, 8, 128], [1e6, 1e-6]),
    },
];

/// Returns a published model without biases, whose head is the token table.
const fn tied(
    family: &'static str,
    [n_layer, n_head, n_embd, vocab_size, n_positions]: [usize; 5],
    [n_inner, n_kv_head, head_size]: [usize; 3],
    [theta, layer_norm_epsilon]: [f64; 2],
) -> GptConfig {
    let blocks = Blocks {
        family: Cow::Borrowed(family),
        n_kv_head: Some(n_kv_head),
        head_size: Some(head_size),
        rotary: Some(Rotary::of(theta)),
        window: None,
        windowed: Windowed::From(0),
        biases: Biases::NONE,
        is_tied: true,
        gelu: GeluForm::Tanh,
        is_parallel: false,
    };
    let n_inner = Some(n_inner);
    GptConfig {
        n_layer,
        n_head,
        n_embd,
        vocab_size,
        n_positions,
        n_inner,
        layer_norm_epsilon,
        blocks,
    }
}

/// Returns the model of these sizes of the family `arch`; without it, of the sizes' own family, or else GPT-2.
///
/// ```
/// let config = wgpt::arch::presets::named("small", Some("llama"))?;
/// assert_eq!(config.blocks.family, "llama");
/// assert_eq!(wgpt::arch::presets::named("qwen3-0.6b", None)?.n_kv_head(), 8);
/// # Ok::<(), wgpt::Error>(())
/// ```
///
/// # Errors
///
/// If there is no such size or no such family, or the sizes belong to another one.
pub fn named(size: &str, arch: Option<&str>) -> Result<GptConfig> {
    let names = || PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    let Preset { family, model, .. } =
        PRESETS.iter().find(|preset| preset.name == size).ok_or_else(|| {
            let hint = format!("{} takes one of {}", field("size"), names());
            Error::usage(format!("there is no size {size:?}")).hint(hint)
        })?;
    let arch = arch.map(Family::find).transpose()?;
    match (family, arch) {
        (Some(own), Some(arch)) if arch.model_type != *own => {
            let (size_name, arch_name) = (field("size"), field("arch"));
            Err(Error::usage(format!(
                "{size_name} {size} is a model of {own}, but {arch_name} is {}",
                arch.model_type
            ))
            .hint(format!("leave {arch_name} out; or take small, medium or large")))
        }
        (Some(_), _) => Ok(model.clone()),
        (None, arch) => {
            let blocks = (arch.unwrap_or(&GPT2).blocks)();
            Ok(GptConfig { blocks, ..model.clone() })
        }
    }
}

/// Completes the sizes of a new model, so that they are those that its config.json will say.
///
/// # Errors
///
/// If the sizes do not form a model, or the family's config.json cannot say one of them.
pub fn complete(model: &GptConfig) -> Result<GptConfig> {
    model.validate()?;
    let family = Family::of(model);
    let n_inner = model.n_inner.or_else(|| inner(family, model.n_embd));
    let asked = GptConfig { n_inner, ..model.clone() };
    let Value::Object(fields) = (family.write_config)(&asked, 0.0) else {
        unreachable!("config.json is an object")
    };
    let complete = (family.read_config)(&fields)?;
    match lacking(&asked, &complete) {
        None => Ok(complete),
        Some(name) => {
            let (title, arch) = (family.title, field("arch"));
            Err(Error::usage(format!("a model of {title} cannot be given {name}"))
                .hint(format!("leave {name} out; or choose by {arch} a family that has it")))
        }
    }
}

/// Returns the channels inside the MLP of a new model, where they are not four times the width: two layers, gate and up, are
/// as large as the one of GELU with about 8/3 of the width.
fn inner(family: &Family, n_embd: usize) -> Option<usize> {
    match family.names.mlp {
        Mlp::Gelu(_) => None,
        Mlp::SwiGlu(_) => Some((n_embd * 8).div_ceil(3).next_multiple_of(64)),
    }
}

/// Returns the setting that was asked for and is not in what config.json says.
fn lacking(asked: &GptConfig, said: &GptConfig) -> Option<Field> {
    let (a, s) = (&asked.blocks, &said.blocks);
    let differs = [
        (field("n_kv_head"), a.n_kv_head.is_some() && a.n_kv_head != s.n_kv_head),
        (field("head_size"), a.head_size.is_some() && a.head_size != s.head_size),
        (field("rotary.theta"), a.rotary.is_some() && a.rotary != s.rotary),
        (field("window"), a.window != s.window),
        (field("is_tied"), a.is_tied != s.is_tied),
        (field("n_inner"), asked.n_inner() != said.n_inner()),
        (field("layer_norm_epsilon"), asked.layer_norm_epsilon != said.layer_norm_epsilon),
    ];
    differs.into_iter().find_map(|(name, differs)| differs.then_some(name))
}
