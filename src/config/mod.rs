//! The configuration of a model and of a training run: sizes, presets, settings, and their validation.

pub(crate) mod model;
mod train;

pub use model::{GptConfig, Optimizer, Precision, Recompute, SIZES, Sum};
pub use train::TrainConfig;
