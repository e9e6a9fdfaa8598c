//! What a run tells: events on the way, a summary at the end, lines of metrics.jsonl.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::gpu::Notice;
use crate::checkpoint::Metrics;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Data or a tokenizer is being made ready.
    Preparing {
        /// What is being done.
        what: String,
        /// How much of it is done, in bytes.
        done: u64,
        /// How much there is; 0 if not known.
        total: u64,
    },
    /// Something was left out or assumed: a line for people.
    Note(String),
    /// Kernels are timed on the device, or something is wrong with one.
    Tuning(Notice),
    /// Training is about to begin.
    Started {
        /// The model's parameters.
        parameters: usize,
        /// Those of them that are trained.
        trained: usize,
        /// What it runs on.
        device: String,
        /// Bytes of all buffers.
        plan_bytes: u64,
        /// The run's folder.
        run_dir: Option<PathBuf>,
        /// The first update, from 0: not 0 after a resume.
        first_step: usize,
        /// Tokens to train on.
        train_tokens: usize,
        /// Tokens to validate on.
        val_tokens: usize,
    },
    /// An update was made.
    Step(StepReport),
    /// An update had no target that counts, and was left out: nothing changed by it.
    NothingToLearn {
        /// The number of the update, from 1.
        step: usize,
    },
    /// An evaluation is under way.
    Evaluating {
        /// Batches done: 0 when it begins.
        done: usize,
        /// Batches in all.
        total: usize,
    },
    /// An evaluation has ended.
    Evaluated {
        /// Updates made so far.
        step: usize,
        /// The mean loss on the validation split, or on a sample of it.
        val_loss: f64,
        /// Whether it is the least so far.
        best: bool,
        /// Whether the whole split was evaluated.
        whole: bool,
    },
    /// A checkpoint was written.
    Saved {
        /// Updates made so far.
        step: usize,
        /// Its folder.
        path: PathBuf,
    },
}

/// One update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Updates made so far.
    pub step: usize,
    /// Updates to make.
    pub steps: usize,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// The mean loss over all of its targets that count, where it was read.
    pub loss: Option<f32>,
    /// Its learning rate.
    pub learning_rate: f64,
    /// The norm of its gradient before clipping, where it was read; negative if it was not finite.
    pub grad_norm: Option<f32>,
    /// Tokens a second since the start or the resume, evaluations and saves left out.
    pub tokens_per_s: f64,
    /// The share of the device's measured best that training's operations come to, where that is known.
    pub mfu: Option<f64>,
    /// Whether it is a line of metrics.jsonl.
    pub logged: bool,
    /// Updates skipped so far, since a loss or a gradient was not finite.
    pub skipped: u32,
}

impl StepReport {
    /// The update's line, not evaluated yet.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            step: self.step,
            tokens: self.tokens,
            loss: self.loss.filter(|loss| loss.is_finite()),
            lr: self.learning_rate,
            grad_norm: self.grad_norm.filter(|norm| *norm >= 0.0),
            tokens_per_s: self.tokens_per_s,
            mfu: self.mfu,
            skipped: self.skipped,
            val_loss: None,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Updates made.
    pub steps: usize,
    /// The mean loss of the last logged updates.
    pub train_loss: Option<f64>,
    /// The mean loss over the whole validation split.
    pub val_loss: Option<f64>,
    /// The least validation loss of all evaluations.
    pub best_val_loss: Option<f64>,
    /// Updates skipped, since a loss or a gradient was not finite.
    #[serde(default)]
    pub skipped: u32,
    /// Tokens a second, evaluations and saves left out.
    pub tokens_per_s: f64,
    /// Seconds of the whole run, with what came before a resume.
    pub seconds: f64,
    /// The run's folder.
    pub run_dir: Option<PathBuf>,
    /// Whether all updates were made and evaluated; if not, it was stopped and can be resumed.
    pub finished: bool,
}
