//! Train and run GPT-2-class language models on any GPU that wgpu reaches, or on the CPU.

pub mod backend;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod engine;
pub mod error;
pub mod generate;
pub mod graph;
pub mod kernel;
pub mod math;
pub mod model;
pub mod ops;
pub mod plan;
pub mod tokenizer;

pub use config::{GptConfig, TrainConfig};
pub use error::{Error, Result};
pub use generate::GenerateOptions;
pub use tokenizer::Tokenizer;
