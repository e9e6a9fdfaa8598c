//! What is known about a parameter, beside where it lies.

/// A tensor's name and shape.
pub type NamedShape = (String, Vec<usize>);

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamRole {
    /// A row per token.
    TokenTable,
    /// A row per position.
    PositionTable,
    /// What a normalisation multiplies by.
    NormWeight,
    /// What a normalisation adds.
    NormBias,
    /// The matrix of a linear layer.
    LinearWeight,
    /// What a linear layer adds.
    LinearBias,
    /// The first matrix of a low-rank adapter, (rank, in).
    LoraA,
    /// The second matrix of a low-rank adapter, (rank, out).
    LoraB,
}

impl ParamRole {
    /// Whether weight decay applies: to matrices.
    pub fn decays(self) -> bool {
        !matches!(self, ParamRole::NormWeight | ParamRole::NormBias | ParamRole::LinearBias)
    }

    /// Whether it is a part of an adapter, and not of the model itself.
    pub fn is_adapter(self) -> bool {
        matches!(self, ParamRole::LoraA | ParamRole::LoraB)
    }

    /// Whether it is a bias, be it of a normalisation.
    pub fn is_bias(self) -> bool {
        matches!(self, ParamRole::NormBias | ParamRole::LinearBias)
    }
}

/// What a parameter begins as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same number everywhere.
    Constant(f32),
    /// Normal numbers of this deviation.
    Normal(f32),
    /// Uniform numbers between the negative of this and this.
    Uniform(f64),
}

/// A parameter of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Its name in the checkpoint, without the files' prefix: for example `h.3.attn.c_attn.weight`.
    pub name: String,
    /// For example (C,3C).
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: ParamRole,
    /// The number of its block; `None` outside of the blocks.
    pub layer: Option<usize>,
    /// What it begins as.
    pub init: Init,
    /// Of a part of an adapter, the name of the weight that it is added to.
    pub adapts: Option<String>,
    /// How many bytes of the name come before its name within the block.
    pub(crate) outer: usize,
}

impl ParamInfo {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name within its block: for example `attn.c_attn.weight`.
    pub fn within_block(&self) -> &str {
        &self.name[self.outer..]
    }

    /// The name of the op that it belongs to, which is the parameter's without the last part.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(module, _)| module)
    }

    /// The same within its block: for example `attn.c_attn`.
    pub fn module_within_block(&self) -> &str {
        &self.module()[self.outer..]
    }

    /// Name and shape.
    pub fn named_shape(&self) -> NamedShape {
        (self.name.clone(), self.shape.clone())
    }
}
