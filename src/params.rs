//! The description of a parameter, except for its place in memory.

/// A tensor's name and shape.
pub type NamedShape = (String, Vec<usize>);

/// The order of the two sizes of a linear layer's weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightLayout {
    /// (C,OC): one row per input channel.
    #[default]
    InOut,
    /// (OC,C): one row per output channel.
    OutIn,
}

/// The purpose of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamRole {
    /// The token table, with a row per token.
    TokenTable,
    /// The position table, with a row per position.
    PositionTable,
    /// The output head with a table of its own, with a row per token.
    Head,
    /// The factors of a normalisation.
    NormWeight,
    /// The offsets of a normalisation.
    NormBias,
    /// The matrix of a linear layer.
    LinearWeight(WeightLayout),
    /// The bias of a linear layer.
    LinearBias,
    /// The first matrix of a low-rank adapter, (rank, in).
    LoraA,
    /// The second matrix of a low-rank adapter, (rank, out).
    LoraB,
}

impl ParamRole {
    /// Whether weight decay applies: it applies to matrices.
    pub fn decays(self) -> bool {
        !matches!(self, ParamRole::NormWeight | ParamRole::NormBias | ParamRole::LinearBias)
    }

    /// Returns the length of the sums that a product with such a matrix of this shape makes; `None` if it is read otherwise.
    pub fn summed(self, shape: &[usize]) -> Option<usize> {
        match self {
            ParamRole::LinearWeight(WeightLayout::InOut) => Some(shape[0]),
            ParamRole::LinearWeight(WeightLayout::OutIn)
            | ParamRole::TokenTable
            | ParamRole::Head => Some(shape[1]),
            _ => None,
        }
    }

    /// Whether it is the matrix of a linear layer.
    pub fn is_linear_weight(self) -> bool {
        matches!(self, ParamRole::LinearWeight(_))
    }

    /// Whether it is a part of an adapter and not of the model itself.
    pub fn is_adapter(self) -> bool {
        matches!(self, ParamRole::LoraA | ParamRole::LoraB)
    }

    /// Whether it is a bias, including that of a normalisation.
    pub fn is_bias(self) -> bool {
        matches!(self, ParamRole::NormBias | ParamRole::LinearBias)
    }
}

/// The initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same number everywhere.
    Constant(f32),
    /// Normal numbers with this standard deviation.
    Normal(f32),
    /// Uniform numbers between the negative of this number and this number.
    Uniform(f64),
}

/// A parameter of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Its name in the checkpoint, without the files' prefix: for example `h.3.attn.c_attn.weight`.
    pub name: String,
    /// For example (C,3C).
    pub shape: Vec<usize>,
    /// Its purpose.
    pub role: ParamRole,
    /// The number of its block; `None` outside of the blocks.
    pub layer: Option<usize>,
    /// Its initial values.
    pub init: Init,
    /// For a part of an adapter, the name of the weight that it is added to.
    pub adapts: Option<String>,
    /// The number of bytes of the name before its name within the block.
    pub(crate) outer: usize,
}

impl ParamInfo {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the name within its block: for example `attn.c_attn.weight`.
    pub fn within_block(&self) -> &str {
        &self.name[self.outer..]
    }

    /// Returns the name of its op, which is the parameter's name without the last part.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(module, _)| module)
    }

    /// Returns the name of its op within its block: for example `attn.c_attn`.
    pub fn module_within_block(&self) -> &str {
        &self.module()[self.outer..]
    }

    /// Returns name and shape.
    pub fn named_shape(&self) -> NamedShape {
        (self.name.clone(), self.shape.clone())
    }
}
