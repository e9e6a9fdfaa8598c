//! What a model and a training run are made of: sizes, presets, settings, and their validation.

pub(crate) mod model;
mod train;

pub use model::{GptConfig, Optimizer, Precision, Recompute, SIZES, Sum};
pub use train::TrainConfig;
