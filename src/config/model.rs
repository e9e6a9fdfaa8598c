//! The sizes of a model, and the settings of its computation and training.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::arch::rotary::Rotary;
use crate::error::{Error, Result, field};

/// The sizes of a model, under the names of GPT-2's config.json.
///
/// ```
/// use wgpt::GptConfig;
/// let config = GptConfig { n_layer: 2, ..GptConfig::small() };
/// assert_eq!(config.n_inner(), 4 * config.n_embd);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GptConfig {
    /// The number of transformer blocks.
    pub n_layer: usize,
    /// Attention heads per block; divides `n_embd`.
    pub n_head: usize,
    /// Channels of the residual stream.
    pub n_embd: usize,
    /// The number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// The context: the largest number of positions.
    pub n_positions: usize,
    /// Channels inside the MLP; `None`: 4 `n_embd`.
    pub n_inner: Option<usize>,
    /// The term that a normalisation adds to the variance, or to the mean square.
    pub layer_norm_epsilon: f64,
    /// How the blocks compute.
    #[serde(default, skip_serializing_if = "Blocks::is_gpt2")]
    pub blocks: Blocks,
}

/// How the blocks of a model compute, where models differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blocks {
    /// The family, which names the parts: config.json's `model_type`.
    pub family: Cow<'static, str>,
    /// Heads of keys and of values per block, which divide the heads of queries; `None`: as many.
    pub n_kv_head: Option<usize>,
    /// Channels of each head; `None`: those of the stream divided by the number of heads.
    pub head_size: Option<usize>,
    /// The angles by which queries and keys are rotated; `None`: positions are in a table.
    pub rotary: Option<Rotary>,
    /// Positions that the layers `windowed` see at most, each its own included; `None`: no limit.
    pub window: Option<usize>,
    /// The layers with a window.
    pub windowed: Windowed,
    /// The linear layers with biases.
    pub biases: Biases,
    /// Whether the output head is the token table.
    pub is_tied: bool,
    /// The form of GELU, where the MLP has one.
    #[serde(default)]
    pub gelu: GeluForm,
    /// Whether attention and MLP read the same stream, each through its own normalisation, and are added to it together;
    /// otherwise the MLP reads the stream to which attention has been added.
    #[serde(default)]
    pub is_parallel: bool,
}

/// A form of GELU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GeluForm {
    /// An approximation by tanh.
    #[default]
    Tanh,
    /// By the distribution function of the normal distribution, and so by erf.
    Exact,
}

/// Layers of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Windowed {
    /// Those from this one on.
    From(usize),
    /// Those for which this holds.
    Layers(Vec<bool>),
}

/// Which linear layers of a block have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Biases {
    /// Those that make queries, keys and values.
    pub qkv: bool,
    /// The one after attention.
    pub attention_out: bool,
    /// Those of the MLP.
    pub mlp: bool,
}

impl Biases {
    /// All of them.
    pub const ALL: Biases = Biases { qkv: true, attention_out: true, mlp: true };
    /// None of them.
    pub const NONE: Biases = Biases { qkv: false, attention_out: false, mlp: false };
}

impl Blocks {
    /// GPT-2's blocks.
    pub const GPT2: Blocks = Blocks {
        family: Cow::Borrowed("gpt2"),
        n_kv_head: None,
        head_size: None,
        rotary: None,
        window: None,
        windowed: Windowed::From(0),
        biases: Biases::ALL,
        is_tied: true,
        gelu: GeluForm::Tanh,
        is_parallel: false,
    };

    fn is_gpt2(&self) -> bool {
        *self == Blocks::GPT2
    }
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks::GPT2
    }
}

/// The largest size of a model or of a batch.
pub(super) const LARGEST: usize = 1 << 24;

impl GptConfig {
    const fn preset(sizes: [usize; 5]) -> GptConfig {
        let [n_layer, n_head, n_embd, vocab_size, n_positions] = sizes;
        GptConfig {
            n_layer,
            n_head,
            n_embd,
            vocab_size,
            n_positions,
            n_inner: None,
            layer_norm_epsilon: 1e-5,
            blocks: Blocks::GPT2,
        }
    }

    /// Returns the sizes: 4 layers, 4 heads, 128 wide, vocabulary 1000, context 128: under a million parameters.
    pub const fn small() -> GptConfig {
        GptConfig::preset([4, 4, 128, 1000, 128])
    }

    /// Returns the sizes: 6 layers, 6 heads, 384 wide, vocabulary 2000, context 256: 11 million parameters.
    pub const fn medium() -> GptConfig {
        GptConfig::preset([6, 6, 384, 2000, 256])
    }

    /// Returns the sizes: 12 layers, 12 heads, 768 wide, vocabulary 5000, context 512: 89 million parameters.
    pub const fn large() -> GptConfig {
        GptConfig::preset([12, 12, 768, 5000, 512])
    }

    /// Returns the sizes of GPT-2 with 124 million parameters.
    pub const fn gpt2() -> GptConfig {
        GptConfig::preset([12, 12, 768, 50257, 1024])
    }

    /// Returns the sizes of GPT-2 with 355 million parameters.
    pub const fn gpt2_medium() -> GptConfig {
        GptConfig::preset([24, 16, 1024, 50257, 1024])
    }

    /// Returns the sizes of GPT-2 with 774 million parameters.
    pub const fn gpt2_large() -> GptConfig {
        GptConfig::preset([36, 20, 1280, 50257, 1024])
    }

    /// Returns the sizes of GPT-2 with 1.5 billion parameters.
    pub const fn gpt2_xl() -> GptConfig {
        GptConfig::preset([48, 25, 1600, 50257, 1024])
    }

    /// Returns the number of channels inside the MLP.
    pub fn n_inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// Returns the number of channels of one attention head.
    pub fn head_size(&self) -> usize {
        self.blocks.head_size.unwrap_or(self.n_embd / self.n_head)
    }

    /// Returns the number of heads of keys, and of values.
    pub fn n_kv_head(&self) -> usize {
        self.blocks.n_kv_head.unwrap_or(self.n_head)
    }

    /// Returns how many positions a layer sees at most, its own included; `None`: all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let has_window = match &self.blocks.windowed {
            Windowed::From(first) => layer >= *first,
            Windowed::Layers(all) => all.get(layer).is_some_and(|windowed| *windowed),
        };
        self.blocks.window.filter(|_| has_window)
    }

    /// Checks that the sizes form a valid model.
    ///
    /// # Errors
    ///
    /// Names the setting that is zero or too large, or the head count that does not divide the width.
    pub fn validate(&self) -> Result<()> {
        let inner = match self.n_inner {
            Some(_) => field("n_inner").to_string(),
            None => format!("4 times {}", field("n_embd")),
        };
        let sizes = [
            (field("n_layer").to_string(), self.n_layer),
            (field("n_head").to_string(), self.n_head),
            (field("n_embd").to_string(), self.n_embd),
            (field("vocab_size").to_string(), self.vocab_size),
            (field("n_positions").to_string(), self.n_positions),
            (inner, self.n_inner()),
        ];
        for (name, value) in sizes {
            if !(1..=LARGEST).contains(&value) {
                return Err(Error::input(format!("{name} is {value}, must be 1 to {LARGEST}")));
            }
        }
        if self.blocks.head_size.is_none() && !self.n_embd.is_multiple_of(self.n_head) {
            return Err(Error::input(format!(
                "{} {} does not divide {} {}",
                field("n_head"),
                self.n_head,
                field("n_embd"),
                self.n_embd
            )));
        }
        self.validate_blocks()?;
        // Devices and files have it in single precision.
        let epsilon = self.layer_norm_epsilon as f32;
        if !(f32::MIN_POSITIVE..1.0).contains(&epsilon) {
            return Err(Error::input(format!(
                "{} is {:e}, must lie between 1.2e-38 and 1",
                field("layer_norm_epsilon"),
                self.layer_norm_epsilon
            )));
        }
        Ok(())
    }
}

impl GptConfig {
    /// Checks what [`Blocks`] says of attention.
    fn validate_blocks(&self) -> Result<()> {
        let (heads, kv_heads, head_size) = (self.n_head, self.n_kv_head(), self.head_size());
        let sizes =
            [(field("head_size"), head_size), (field("window"), self.blocks.window.unwrap_or(1))];
        for (name, value) in sizes {
            if !(1..=LARGEST).contains(&value) {
                return Err(Error::input(format!("{name} is {value}, must be 1 to {LARGEST}")));
            }
        }
        if heads.saturating_mul(head_size) > LARGEST {
            return Err(Error::input(format!(
                "{} {heads} times {} {head_size} is above {LARGEST}",
                field("n_head"),
                field("head_size")
            )));
        }
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Error::input(format!(
                "{} {kv_heads} does not divide {} {heads}",
                field("n_kv_head"),
                field("n_head")
            )));
        }
        if let Some(rotary) = &self.blocks.rotary {
            rotary.validate(head_size)?;
        }
        Ok(())
    }
}

/// The precision in which numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision throughout.
    #[default]
    F32,
    /// Half precision where numbers are many and rounding averages out: activations, their gradients,
    /// logits, and copies of the weights for products. Parameters, moments, the gradients of parameters,
    /// the residual stream, statistics and sums stay in single precision.
    Mixed,
}

impl Precision {
    /// Returns the name, as in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Mixed => "mixed",
        }
    }
}

/// The format in which matrices are stored for generation and evaluation. Biases, parameters of normalisations and tables
/// of positions stay in single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum WeightFormat {
    /// Single precision.
    #[default]
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Blocks of 32 signed bytes with a scale. A matrix whose sums are no multiple of 32 long is in bf16.
    #[cfg_attr(feature = "cli", value(name = "q8_0"))]
    Q8_0,
}

impl WeightFormat {
    /// Returns the name, as in options.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Q8_0 => "q8_0",
        }
    }

    /// Returns the largest magnitude that it holds.
    pub fn largest(self) -> f32 {
        match self {
            WeightFormat::F32 => f32::MAX,
            WeightFormat::F16 => 65_504.0,
            WeightFormat::Bf16 => half::bf16::MAX.to_f32(),
            WeightFormat::Q8_0 => 127.0 * 65_504.0,
        }
    }
}

/// The values that the backward pass recomputes instead of keeping them, least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    None,
    /// The output of each GELU, from its input.
    #[default]
    Gelu,
    /// Each block, from the residual stream at its input (Chen et al. 2016).
    Block,
}

impl Recompute {
    /// All variants, least recomputation first.
    pub const ALL: [Recompute; 3] = [Recompute::None, Recompute::Gelu, Recompute::Block];

    /// Returns the name, as in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::None => "none",
            Recompute::Gelu => "gelu",
            Recompute::Block => "block",
        }
    }
}

/// In which order the gradients of an update's micro-batches are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Sum {
    /// Each is added to the sum of those before it, in place.
    #[default]
    Fast,
    /// Along a binary tree over the micro-batches, for the same bits on any number of ranks.
    Exact,
}

impl Sum {
    /// Whether this is the default.
    pub(super) fn is_default(&self) -> bool {
        *self == Sum::default()
    }

    /// The name, as options and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Sum::Fast => "fast",
            Sum::Exact => "exact",
        }
    }
}

/// How the micro-batches of an update are shared out to the ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum RankBatch {
    /// Evenly.
    #[default]
    Even,
    /// By the time that a micro-batch takes on each rank, measured once at the run's start.
    Auto,
}

impl RankBatch {
    /// Whether this is the default.
    pub(super) fn is_default(&self) -> bool {
        *self == RankBatch::default()
    }
}

/// How the parameters are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2017).
    Adamw,
    /// Adam with weight decay added to the gradient (Kingma & Ba 2014).
    Adam,
    /// Plain gradient descent, with weight decay added to the gradient.
    Sgd,
}
