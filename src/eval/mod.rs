//! Measures of a model and of its text: perplexity, BLEU, multiple choice.
//!
//! - [`perplexity`]: how well a model predicts a text, as perplexity and bits per byte.
//! - [`bleu`]: how much a text resembles references (Papineni et al. 2002, Post 2018).
//! - [`continuations`]: BLEU of a model's continuations against the actual ones.
//! - [`choices`]: multiple choice by log-likelihood, as HellaSwag is scored (Zellers et al. 2019).

pub mod bleu;
pub mod choices;
pub mod continuations;
pub mod perplexity;
mod rows;

pub use bleu::{Bleu, BleuCounts, tokenize_13a};
pub use choices::{ChoiceReport, LeftOut, Prepared, Question, read_questions};
pub use continuations::{Continuation, Cut, continue_and_score, continue_on, cut};
pub use perplexity::{Perplexity, Score, Window, Windows};
pub use rows::{busy_batch, default_batch};
