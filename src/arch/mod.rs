//! Families of models: each is described once, as data.
//!
//! A family's file says how config.json spells the sizes, how Hugging Face's files and GGUF name the parts of the
//! model, and how parameters are initialised. The parameters, with their shapes and roles, follow from the list of ops
//! ([`crate::model::decoder`]) that uses these names, and everything else follows from the parameters.

mod family;
mod fields;
mod gpt2;
mod gpt_neox;
mod in_gguf;
mod like_llama;
mod llama;
mod mistral;
pub mod presets;
mod qwen2;
mod qwen3;
pub mod rotary;

use serde_json::{Map, Value};

use crate::config::model::GptConfig;
use crate::error::{Error, Result};
use crate::params::ParamInfo;

pub use family::{
    Described, Family, Gguf, GgufSetting, GgufSettings, Mlp, Names, Norm, Pairs, Part, Projections,
};
pub use gpt_neox::GPT_NEOX;
pub use gpt2::GPT2;
pub use llama::LLAMA;
pub use mistral::MISTRAL;
pub use qwen2::QWEN2;
pub use qwen3::QWEN3;

/// All families; config.json's `model_type` selects one.
pub const FAMILIES: &[&Family] = &[&GPT2, &LLAMA, &MISTRAL, &QWEN2, &QWEN3, &GPT_NEOX];

impl Family {
    /// Returns the family of a model.
    ///
    /// # Panics
    ///
    /// If there is no such family; [`Family::find`] tells.
    pub fn of(config: &GptConfig) -> &'static Family {
        let family = Family::find(&config.blocks.family);
        family.expect("a configuration's family is looked up when it is read")
    }

    /// Returns the family whose `model_type` this is.
    ///
    /// # Errors
    ///
    /// If it is none of [`FAMILIES`].
    pub fn find(model_type: &str) -> Result<&'static Family> {
        let found = FAMILIES.iter().find(|family| family.model_type == model_type);
        found.copied().ok_or_else(|| Family::unknown(&Value::from(model_type)))
    }

    /// Returns the first family whose models have this architecture in GGUF files, and how it is described there.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn in_gguf(architecture: &str) -> Result<(&'static Family, Gguf)> {
        let known = || FAMILIES.iter().filter_map(|family| Some((*family, family.gguf?)));
        known().find(|(_, gguf)| gguf.architecture == architecture).ok_or_else(|| {
            let mut names: Vec<&str> = known().map(|(_, gguf)| gguf.architecture).collect();
            names.dedup();
            Error::input(format!(
                "general.architecture is {architecture:?}, only {} are read",
                names.join(", ")
            ))
            .hint("this model computes something other than these do; use another one")
        })
    }

    /// Returns the family that config.json names; GPT-2 if it names none and has GPT-2's sizes.
    ///
    /// # Errors
    ///
    /// If it is none of [`FAMILIES`].
    pub fn named(fields: &Map<String, Value>) -> Result<&'static Family> {
        match fields.get("model_type") {
            Some(Value::String(name)) => Family::find(name),
            Some(value) => Err(Family::unknown(value)),
            // Early files of GPT-2 do not say it.
            None if !fields.contains_key("hidden_size") => Ok(&GPT2),
            None => Err(Error::input("model_type is missing").hint(
                "add it to config.json: \"llama\" for example, as in the model's first files",
            )),
        }
    }

    fn unknown(value: &Value) -> Error {
        let all: Vec<String> = FAMILIES.iter().map(|f| format!("{:?}", f.model_type)).collect();
        Error::input(format!("model_type is {value}, only {} is supported", all.join(" or ")))
            .hint("this model computes something other than these do; use another one")
    }
}

/// Removes a family's prefix from the name, or the pattern of names, of a parameter.
pub fn without_prefix(name: &str) -> &str {
    FAMILIES.iter().find_map(|family| name.strip_prefix(family.prefix)).unwrap_or(name)
}

/// The contents of a model's files: its parameters, in the order of the forward pass.
#[derive(Clone)]
pub struct Schema {
    /// The family; the files follow its conventions.
    pub family: &'static Family,
    /// The parameters.
    pub parameters: Vec<ParamInfo>,
}

impl Schema {
    /// Returns the model's own parameters, without adapters.
    pub fn own(&self) -> impl Iterator<Item = &ParamInfo> {
        self.parameters.iter().filter(|param| !param.role.is_adapter())
    }

    /// Returns the parameters of adapters.
    pub fn adapters(&self) -> impl Iterator<Item = &ParamInfo> {
        self.parameters.iter().filter(|param| param.role.is_adapter())
    }

    /// Whether the output head is the token table.
    pub fn is_tied(&self) -> bool {
        !self.parameters.iter().any(|param| param.name == self.family.head)
    }

    /// Returns the number of blocks.
    pub fn blocks(&self) -> usize {
        self.parameters.iter().filter_map(|param| param.layer).max().map_or(0, |last| last + 1)
    }

    /// Returns the names, within a block, of its linear layers, for which adapters may be trained.
    pub fn linear_layers(parameters: &[ParamInfo]) -> Vec<&str> {
        let first = parameters.iter().filter(|param| param.layer == Some(0));
        let weights = first.filter(|param| param.role.is_linear_weight());
        weights.map(|param| param.module_within_block()).collect()
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} parameters", self.family.title, self.parameters.len())
    }
}
