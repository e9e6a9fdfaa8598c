//! Train and run GPT-2-class language models on any GPU that wgpu reaches, or on the CPU.

pub mod config;
pub mod error;

pub use config::{GptConfig, TrainConfig};
pub use error::{Error, Result};
