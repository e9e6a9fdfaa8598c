//! The configuration of a model and of a training run: sizes, presets, settings, and their validation.

mod local;
pub(crate) mod model;
mod ranks;
mod train;

pub use local::Local;
pub use model::{
    Biases, Blocks, GeluForm, GptConfig, Optimizer, Precision, RankBatch, Recompute, Sum,
    WeightFormat, Windowed,
};
pub use train::{Lengthened, TrainConfig};
