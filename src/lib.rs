//! Trains and runs GPT-2-class language models on any GPU that wgpu supports, or on the CPU.
//!
//! ```
//! use wgpt::backend::Device;
//! use wgpt::data::{Tokens, stories};
//! use wgpt::{Event, GenerateOptions, Gpt, GptConfig, TrainConfig, Trainer};
//!
//! let text = stories::stories(1, 60).collect::<Vec<_>>().join("\n");
//! let config = GptConfig { n_layer: 1, n_head: 2, n_embd: 16, n_positions: 32, ..GptConfig::small() };
//! let mut gpt = Gpt::new(config, Device::Cpu, 1337)?;
//! gpt.train_tokenizer(&text, 300)?;
//!
//! let tokens = Tokens::from_ids(gpt.tokenizer().expect("just trained").encode(&text));
//! let config = TrainConfig {
//!     learning_rate: 1e-2,
//!     max_iters: 20,
//!     batch_size: 4,
//!     seq_len: Some(16),
//!     ..TrainConfig::default()
//! };
//! let mut trainer = Trainer::new(gpt, tokens, config)?;
//! let summary = trainer.run(&mut |event| {
//!     if let Event::Step(step) = event {
//!         println!("step {} of {}: loss {:?}", step.step, step.steps, step.loss);
//!     }
//! })?;
//! assert!(summary.val_loss.is_some_and(|loss| loss < 5.7)); // ln 300, for a model that knows nothing
//!
//! let mut gpt = trainer.into_model();
//! let options = GenerateOptions { max_tokens: 20, temperature: 0.8, ..GenerateOptions::default() };
//! println!("{}", gpt.generate("Once upon a time", &options)?);
//! # Ok::<(), wgpt::Error>(())
//! ```
//!
//! ```text
//! config ─▶ model ─▶ graph ──record──▶ plan ─▶ backend (cpu, gpu) ─▶ run(phase), replayed
//!                                                  ▲
//! text ─▶ tokenizer ─▶ data ─▶ train ──┬──▶ engine ┘        check: is every kernel, every gradient right?
//! prompt ─▶ tokenizer ─▶ generate ─────┘                    checkpoint: files, whole or absent
//! ```

pub mod arch;
pub mod backend;
pub mod cache;
pub mod chat;
pub mod check;
pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod data;
pub mod disk;
pub mod dist;
#[cfg(feature = "download")]
mod download;
pub mod engine;
pub mod error;
pub mod eval;
pub mod export;
pub mod files;
pub mod finetune;
pub mod fit;
pub mod generate;
pub mod gpt;
pub mod graph;
#[cfg(feature = "download")]
pub mod hub;
pub mod kernel;
pub mod math;
pub mod model;
pub mod ops;
pub mod params;
pub mod pipeline;
pub mod plan;
pub mod profile;
pub mod repository;
pub mod runner;
pub mod sampler;
pub mod scored;
#[cfg(feature = "serve")]
pub mod serve;
pub mod staged;
pub mod timeline;
pub mod tokenizer;
pub mod train;
pub mod tree;
pub mod trial;
pub mod tune;
pub mod wait;

pub use config::{GptConfig, TrainConfig};
pub use error::{Error, Result};
pub use finetune::FineTune;
pub use generate::GenerateOptions;
pub use gpt::Gpt;
pub use tokenizer::Tokenizer;
pub use train::{Event, Summary, Trainer};
