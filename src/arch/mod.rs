//! Families of models: each is described once, as data.
//!
//! A family's file says how config.json spells the sizes, how Hugging Face's files and GGUF name the parts of the
//! model, and how parameters are initialised. The parameters, with their shapes and roles, follow from the list of ops
//! ([`crate::model::decoder`]) that uses these names, and everything else follows from the parameters.

mod gpt2;

use serde_json::{Map, Value};

use crate::config::model::GptConfig;
use crate::error::{Error, Result};
use crate::params::ParamInfo;

pub use gpt2::GPT2;

/// All families; config.json's `model_type` selects one.
pub const FAMILIES: &[&Family] = &[&GPT2];

/// The data that distinguishes a family of decoder-only models from others.
pub struct Family {
    /// config.json's `model_type`.
    pub model_type: &'static str,
    /// The name of the family, as messages show it.
    pub title: &'static str,
    /// The names of the parts.
    pub names: Names,
    /// The prefix of the parameters' names in Hugging Face's files.
    pub prefix: &'static str,
    /// The name of the output head in files, without the prefix: if it is tied, it repeats the token table.
    pub head: &'static str,
    /// Buffers of a block in older files that are not parameters, as names within the block.
    pub buffers: &'static [&'static str],
    /// The standard deviation of the normal numbers that initialise matrices.
    pub deviation: f32,
    /// The part that PEFT adapts if none is named.
    pub adapted: Part,
    /// The name of the class in Hugging Face's library.
    pub class: &'static str,
    /// GGUF's `general.architecture`, the prefix of its keys.
    pub gguf: &'static str,
    /// Reads the sizes from config.json; refuses unsupported settings that change what the model computes.
    pub read_config: fn(&Map<String, Value>) -> Result<GptConfig>,
    /// Returns config.json for these sizes and this dropout, without the fields on tokens and on the weights' type.
    pub write_config: fn(&GptConfig, f64) -> Value,
    /// Returns the sizes as GGUF has them: keys without the architecture.
    pub gguf_sizes: fn(&GptConfig) -> Vec<(&'static str, GgufSize)>,
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

/// A number in a GGUF file's description of a model.
pub enum GgufSize {
    /// A whole number.
    Count(usize),
    /// A small number.
    Real(f64),
}

/// A part of a model: its name in Hugging Face's files and in GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name in Hugging Face's files; for a part of a block, the name within the block.
    pub name: &'static str,
    /// The name in GGUF.
    pub gguf: &'static str,
}

/// The names of a model's parts.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The token table.
    pub tokens: Part,
    /// The table of positions.
    pub positions: Part,
    /// The prefix of a block: block number L is called this name, a dot and L.
    pub blocks: Part,
    /// The normalisation before attention.
    pub norm_1: Part,
    /// Attention, as a whole.
    pub attention: &'static str,
    /// The linear layer that makes queries, keys and values.
    pub qkv: Part,
    /// The linear layer after attention.
    pub attention_out: Part,
    /// The normalisation before the MLP.
    pub norm_2: Part,
    /// The MLP's first linear layer.
    pub up: Part,
    /// The MLP's second linear layer.
    pub down: Part,
    /// The normalisation after the last block.
    pub last_norm: Part,
}

impl Names {
    fn parts(&self) -> [Part; 9] {
        let Names {
            tokens,
            positions,
            norm_1,
            qkv,
            attention_out,
            norm_2,
            up,
            down,
            last_norm,
            ..
        } = *self;
        [tokens, positions, norm_1, qkv, attention_out, norm_2, up, down, last_norm]
    }
}

impl Family {
    /// Returns the family of a model.
    pub fn of(_: &GptConfig) -> &'static Family {
        &GPT2
    }

    /// Returns the family that config.json names; the first if it names none.
    ///
    /// # Errors
    ///
    /// If it is none of [`FAMILIES`].
    pub fn named(fields: &Map<String, Value>) -> Result<&'static Family> {
        let Some(value) = fields.get("model_type") else { return Ok(FAMILIES[0]) };
        let found = FAMILIES.iter().find(|family| value.as_str() == Some(family.model_type));
        found.copied().ok_or_else(|| {
            let all: Vec<String> = FAMILIES.iter().map(|f| format!("{:?}", f.model_type)).collect();
            Error::input(format!("model_type is {value}, only {} is supported", all.join(" or ")))
                .hint("this model computes something other than GPT-2 does; use another one")
        })
    }

    /// Returns the name of the token table's parameter.
    pub fn token_table(&self) -> String {
        format!("{}.weight", self.names.tokens.name)
    }

    /// Returns a parameter's name in GGUF files.
    ///
    /// # Panics
    ///
    /// If the family has no such part.
    pub fn gguf_name(&self, param: &ParamInfo) -> String {
        let (path, last) = param.within_block().rsplit_once('.').expect("a name has parts");
        let part = self.names.parts().into_iter().find(|part| part.name == path);
        let part = part.unwrap_or_else(|| panic!("no part of {} is called {path}", self.title));
        match param.layer {
            Some(layer) => format!("{}.{layer}.{}.{last}", self.names.blocks.gguf, part.gguf),
            None => format!("{}.{last}", part.gguf),
        }
    }

    /// Whether a tensor of a file, named without the prefix, is a buffer and not a parameter.
    pub fn is_buffer(&self, name: &str) -> bool {
        let inner =
            name.strip_prefix(self.names.blocks.name).and_then(|rest| rest.strip_prefix('.'));
        let inner = inner.and_then(|rest| rest.split_once('.'));
        inner.is_some_and(|(layer, rest)| {
            self.buffers.contains(&rest) && layer.bytes().all(|b| b.is_ascii_digit())
        })
    }
}
