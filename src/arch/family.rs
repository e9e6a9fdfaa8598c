//! The data that distinguishes a family of models from others.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config::model::{Blocks, GptConfig};
use crate::error::{Error, Result};
use crate::params::{ParamInfo, ParamRole, WeightLayout};

/// The data that distinguishes a family of decoder-only models from others.
pub struct Family {
    /// config.json's `model_type`.
    pub model_type: &'static str,
    /// The name of the family, as messages show it.
    pub title: &'static str,
    /// The names of the parts, and which parts there are.
    pub names: Names,
    /// The normalisation of the residual stream.
    pub norm: Norm,
    /// The order of the sizes of linear layers' weights.
    pub layout: WeightLayout,
    /// The prefix of the parameters' names in Hugging Face's files; the output head has none.
    pub prefix: &'static str,
    /// The name of the output head in files, without the prefix: if it is tied, it repeats the token table.
    pub head: &'static str,
    /// Buffers of a block in older files that are not parameters, as names within the block.
    pub buffers: &'static [&'static str],
    /// The standard deviation of the normal numbers that initialise matrices.
    pub deviation: f32,
    /// The linear layers that PEFT adapts if none is named, by the last parts of their names.
    pub adapted: &'static [&'static str],
    /// The name of the class in Hugging Face's library.
    pub class: &'static str,
    /// The description of its models in GGUF; `None` if they are not written as GGUF.
    pub gguf: Option<Gguf>,
    /// Returns how the blocks of a new model compute, if nothing else is asked for; sizes of heads are not given.
    pub blocks: fn() -> Blocks,
    /// Reads the sizes from config.json; refuses unsupported settings that change what the model computes.
    pub read_config: fn(&Map<String, Value>) -> Result<GptConfig>,
    /// Returns config.json for these sizes and this dropout, without the fields on tokens and on the weights' type.
    pub write_config: fn(&GptConfig, f64) -> Value,
}

/// A normalisation of the channels of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Layer normalisation.
    Layer,
    /// Root mean square normalisation.
    RootMeanSquare,
}

/// How a family's models are described in GGUF.
#[derive(Clone, Copy)]
pub struct Gguf {
    /// `general.architecture`, the prefix of its keys.
    pub architecture: &'static str,
    /// The channels that llama.cpp rotates together in this architecture.
    pub pairs: Pairs,
    /// Returns the settings as GGUF has them: keys without the architecture. Fails if llama.cpp has none for what the
    /// model computes.
    pub settings: fn(&GptConfig) -> Result<GgufSettings>,
    /// Returns config.json for what a file says, with the fields that [`Family::read_config`] reads.
    pub config: fn(&Described<'_>) -> Result<Value>,
}

/// What a GGUF file says of a model.
pub struct Described<'a> {
    /// The file's entries, by their whole names.
    pub entries: &'a Map<String, Value>,
    /// The prefix of the model's own entries.
    pub architecture: &'static str,
    /// The tensors' names and shapes, outermost size first.
    pub tensors: BTreeMap<&'a str, &'a [usize]>,
    /// The numbers by which the frequencies of rotary embeddings are divided, if there are any.
    pub divisors: Option<Vec<f32>>,
}

impl Described<'_> {
    /// Returns one of the model's own entries; null if there is none.
    pub fn get(&self, key: &str) -> &Value {
        self.entries.get(&format!("{}.{key}", self.architecture)).unwrap_or(&Value::Null)
    }

    /// Whether the file has a tensor.
    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Returns the number of rows of the token table, which is the size of the vocabulary.
    pub fn vocab_size(&self) -> Option<usize> {
        self.tensors.get("token_embd.weight").map(|shape| shape[0])
    }

    /// Refuses a model that has more than its family's parts.
    ///
    /// # Errors
    ///
    /// Names the entry.
    pub fn refuse(&self, keys: &[&str]) -> Result<()> {
        let is_there = |key: &&&str| !matches!(self.get(key).as_f64(), None | Some(0.0));
        match keys.iter().find(is_there) {
            None => Ok(()),
            Some(key) => Err(Error::input(format!(
                "{}.{key} is {}, which is not supported",
                self.architecture,
                self.get(key)
            ))),
        }
    }
}

/// Settings in a GGUF file, by their names without the architecture.
pub type GgufSettings = Vec<(&'static str, GgufSetting)>;

/// The channels of a head that rotary embeddings rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// One of the first half and its counterpart in the second half, as in Hugging Face's files.
    Halves,
    /// Two neighbours: the rows of queries and keys are in another order.
    Neighbours,
}

/// A setting in a GGUF file's description of a model.
pub enum GgufSetting {
    /// A whole number.
    Count(usize),
    /// A small number.
    Real(f64),
    /// A word.
    Word(&'static str),
    /// Whether something is so.
    Flag(bool),
}

/// A part of a model: its name in Hugging Face's files and in GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name in Hugging Face's files; for a part of a block, the name within the block.
    pub name: &'static str,
    /// The name in GGUF.
    pub gguf: &'static str,
}

impl Part {
    /// Creates a part from its two names.
    pub const fn new(name: &'static str, gguf: &'static str) -> Part {
        Part { name, gguf }
    }
}

/// The linear layers that make queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub enum Projections {
    /// One for all three, side by side.
    Joined(Part),
    /// One for all three, side by side within each head.
    Interleaved(Part),
    /// One each.
    Separate([Part; 3]),
}

/// The layers of the MLP before its last linear layer.
#[derive(Clone, Copy, Debug)]
pub enum Mlp {
    /// A linear layer and GELU, in the form that the model has.
    Gelu(Part),
    /// Two linear layers, gate and up, and SwiGLU.
    SwiGlu([Part; 2]),
}

/// The names of a model's parts.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The token table.
    pub tokens: Part,
    /// The table of positions, if there is one.
    pub positions: Option<Part>,
    /// The prefix of a block: block number L is called this name, a dot and L.
    pub blocks: Part,
    /// The normalisation before attention.
    pub norm_1: Part,
    /// Attention, as a whole.
    pub attention: &'static str,
    /// The linear layers that make queries, keys and values.
    pub qkv: Projections,
    /// The normalisations of the heads of queries and of keys, if there are any.
    pub head_norms: Option<[Part; 2]>,
    /// The linear layer after attention.
    pub attention_out: Part,
    /// The normalisation before the MLP.
    pub norm_2: Part,
    /// The MLP's first layers.
    pub mlp: Mlp,
    /// The MLP's last linear layer.
    pub down: Part,
    /// The normalisation after the last block.
    pub last_norm: Part,
}

impl Names {
    fn parts(&self) -> Vec<Part> {
        let Names { tokens, norm_1, attention_out, norm_2, down, last_norm, .. } = *self;
        let mut parts = vec![tokens, norm_1, attention_out, norm_2, down, last_norm];
        parts.extend(self.positions);
        match self.qkv {
            Projections::Joined(part) | Projections::Interleaved(part) => parts.push(part),
            Projections::Separate(all) => parts.extend(all),
        }
        parts.extend(self.head_norms.into_iter().flatten());
        match self.mlp {
            Mlp::Gelu(part) => parts.push(part),
            Mlp::SwiGlu(all) => parts.extend(all),
        }
        parts
    }
}

impl Family {
    /// Returns the name of the token table's parameter.
    pub fn token_table(&self) -> String {
        format!("{}.weight", self.names.tokens.name)
    }

    /// Returns a parameter's name in Hugging Face's files.
    pub fn file_name(&self, name: &str) -> String {
        if name == self.head { name.to_owned() } else { format!("{}{name}", self.prefix) }
    }

    /// Returns a parameter's name in GGUF files.
    ///
    /// # Panics
    ///
    /// If the family has no such part.
    pub fn gguf_name(&self, param: &ParamInfo) -> String {
        if param.role == ParamRole::Head {
            return "output.weight".to_owned();
        }
        let (path, last) = param.within_block().rsplit_once('.').expect("a name has parts");
        let part = self.names.parts().into_iter().find(|part| part.name == path);
        let part = part.unwrap_or_else(|| panic!("no part of {} is called {path}", self.title));
        match param.layer {
            Some(layer) => format!("{}.{layer}.{}.{last}", self.names.blocks.gguf, part.gguf),
            None => format!("{}.{last}", part.gguf),
        }
    }

    /// Returns the name in Hugging Face's files of a tensor of a GGUF file; `None` if the family has no such part.
    pub fn name_of_gguf(&self, tensor: &str) -> Option<String> {
        if tensor == "output.weight" {
            return Some(self.head.to_owned());
        }
        let (path, last) = tensor.rsplit_once('.')?;
        let block =
            path.strip_prefix(self.names.blocks.gguf).and_then(|rest| rest.strip_prefix('.'));
        let (layer, within) = match block.and_then(|rest| rest.split_once('.')) {
            Some((layer, within)) => (Some(layer), within),
            None => (None, path),
        };
        let part = self.names.parts().into_iter().find(|part| part.gguf == within)?;
        let name = match layer {
            Some(layer) => format!("{}.{layer}.{}.{last}", self.names.blocks.name, part.name),
            None => format!("{}.{last}", part.name),
        };
        Some(self.file_name(&name))
    }

    /// Whether the linear layer of a GGUF tensor within a block makes queries or keys alone.
    pub fn gguf_makes_queries_or_keys(&self, tensor: &str) -> bool {
        match self.names.qkv {
            Projections::Joined(_) | Projections::Interleaved(_) => false,
            Projections::Separate([q, k, _]) => {
                [q, k].iter().any(|part| tensor.split('.').any(|name| name == part.gguf))
            }
        }
    }

    /// Whether a GGUF tensor has the queries of all heads first, then their keys, then their values, while they lie side by
    /// side within each head in Hugging Face's files.
    pub fn gguf_takes_heads_apart(&self, tensor: &str) -> bool {
        match self.names.qkv {
            Projections::Interleaved(part) => tensor.split('.').any(|name| name == part.gguf),
            Projections::Joined(_) | Projections::Separate(_) => false,
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
