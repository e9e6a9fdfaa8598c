//! The sizes of a model, and the settings of its computation and training.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, field};

/// The sizes of a GPT-2 model, under the names of its config.json.
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
    /// The term that layer normalisation adds to the variance.
    pub layer_norm_epsilon: f64,
}

/// The names that `--size` takes, smallest first.
pub const SIZES: &[&str] =
    &["small", "medium", "large", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"];

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

    /// Returns the preset called `name`, one of [`SIZES`].
    ///
    /// # Errors
    ///
    /// If there is no such size.
    pub fn named(name: &str) -> Result<GptConfig> {
        Ok(match name {
            "small" => GptConfig::small(),
            "medium" => GptConfig::medium(),
            "large" => GptConfig::large(),
            "gpt2" => GptConfig::gpt2(),
            "gpt2-medium" => GptConfig::gpt2_medium(),
            "gpt2-large" => GptConfig::gpt2_large(),
            "gpt2-xl" => GptConfig::gpt2_xl(),
            _ => {
                return Err(Error::usage(format!("there is no size {name:?}")).hint(format!(
                    "{} takes one of {}",
                    field("size"),
                    SIZES.join(", ")
                )));
            }
        })
    }

    /// Returns the number of channels inside the MLP.
    pub fn n_inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// Returns the number of channels of one attention head.
    pub fn head_size(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Checks that the sizes form a valid model.
    ///
    /// # Errors
    ///
    /// Names the setting that is zero or too large, or the head count that does not divide the width.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            (field("n_layer"), self.n_layer),
            (field("n_head"), self.n_head),
            (field("n_embd"), self.n_embd),
            (field("vocab_size"), self.vocab_size),
            (field("n_positions"), self.n_positions),
            (field("n_inner"), self.n_inner()),
        ];
        for (name, value) in sizes {
            if !(1..=LARGEST).contains(&value) {
                return Err(Error::input(format!("{name} is {value}, must be 1 to {LARGEST}")));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(Error::input(format!(
                "{} {} does not divide {} {}",
                field("n_head"),
                self.n_head,
                field("n_embd"),
                self.n_embd
            )));
        }
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon < 1.0) {
            return Err(Error::input(format!(
                "{} is {}, must lie between 0 and 1",
                field("layer_norm_epsilon"),
                self.layer_norm_epsilon
            )));
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
