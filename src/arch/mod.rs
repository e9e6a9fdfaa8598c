//! Families of models: what is written down of each once, as data.
//!
//! A family's file says how config.json spells the sizes, what the parts of the model are called in Hugging Face's files and
//! in GGUF, and how parameters begin. Which parameters there are, with their shapes and roles, follows from the list of ops
//! ([`crate::model::decoder`]) that these names go into, and everything else from that.

mod gpt2;

use serde_json::{Map, Value};

use crate::config::model::GptConfig;
use crate::error::{Error, Result};
use crate::params::{ParamInfo, ParamRole};

pub use gpt2::GPT2;

/// All families, by which config.json's `model_type` is looked up.
pub const FAMILIES: &[&Family] = &[&GPT2];

/// What tells a family of decoder-only models from others.
pub struct Family {
    /// config.json's `model_type`.
    pub model_type: &'static str,
    /// The family in words, as messages have it.
    pub title: &'static str,
    /// The names of the parts.
    pub names: Names,
    /// What Hugging Face's files put before the parameters' names.
    pub prefix: &'static str,
    /// The output head in files, without the prefix: where it is tied it is the token table once more.
    pub head: &'static str,
    /// Buffers of a block that older files hold and that are no parameters, as names within the block.
    pub buffers: &'static [&'static str],
    /// The deviation of the normal numbers that matrices begin with.
    pub deviation: f32,
    /// The part that PEFT adapts where nothing is named.
    pub adapted: Part,
    /// The class of Hugging Face's library.
    pub class: &'static str,
    /// GGUF's `general.architecture`, which its keys begin with.
    pub gguf: &'static str,
    /// Reads the sizes from config.json; refuses settings that change what the model computes and are not supported.
    pub read_config: fn(&Map<String, Value>) -> Result<GptConfig>,
    /// config.json of these sizes and this dropout, without what is said of tokens and of the weights' type.
    pub write_config: fn(&GptConfig, f64) -> Value,
    /// The sizes as GGUF has them: keys without the architecture.
    pub gguf_sizes: fn(&GptConfig) -> Vec<(&'static str, GgufSize)>,
}

/// What the files of a model hold: its parameters, in the order of the forward pass.
#[derive(Clone)]
pub struct Schema {
    /// The family, whose conventions the files follow.
    pub family: &'static Family,
    /// The parameters.
    pub parameters: Vec<ParamInfo>,
}

impl Schema {
    /// The model's own parameters, without adapters.
    pub fn own(&self) -> impl Iterator<Item = &ParamInfo> {
        self.parameters.iter().filter(|param| !param.role.is_adapter())
    }

    /// The parts of adapters.
    pub fn adapters(&self) -> impl Iterator<Item = &ParamInfo> {
        self.parameters.iter().filter(|param| param.role.is_adapter())
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.parameters.iter().filter_map(|param| param.layer).max().map_or(0, |last| last + 1)
    }

    /// The names within a block of its linear layers, which adapters may be trained of.
    pub fn linear_layers(parameters: &[ParamInfo]) -> Vec<&str> {
        let first = parameters.iter().filter(|param| param.layer == Some(0));
        let weights = first.filter(|param| param.role == ParamRole::LinearWeight);
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

/// A part of a model: what Hugging Face's files call it, and what GGUF files do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// In Hugging Face's files; within its block for a part of a block.
    pub name: &'static str,
    /// In GGUF.
    pub gguf: &'static str,
}

/// The names of a model's parts.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The token table.
    pub tokens: Part,
    /// The table of positions.
    pub positions: Part,
    /// What block number L is called: this name, a dot and L.
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
    /// The family of a model.
    pub fn of(_: &GptConfig) -> &'static Family {
        &GPT2
    }

    /// The family that config.json names, the first if it names none.
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

    /// The name of a parameter of the token table.
    pub fn token_table(&self) -> String {
        format!("{}.weight", self.names.tokens.name)
    }

    /// A parameter's name in GGUF files.
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

    /// Whether a tensor of a file, named without the prefix, is a buffer and no parameter.
    pub fn is_buffer(&self, name: &str) -> bool {
        let inner =
            name.strip_prefix(self.names.blocks.name).and_then(|rest| rest.strip_prefix('.'));
        let inner = inner.and_then(|rest| rest.split_once('.'));
        inner.is_some_and(|(layer, rest)| {
            self.buffers.contains(&rest) && layer.bytes().all(|b| b.is_ascii_digit())
        })
    }
}
