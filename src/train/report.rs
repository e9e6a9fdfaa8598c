//! The reports of a run: events during it, a summary at the end, lines of metrics.jsonl.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::gpu::Notice;
use crate::checkpoint::{Exchange, Metrics};
use crate::train::chats::Conversations;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Data or a tokenizer is being prepared.
    Preparing {
        /// The work in progress.
        what: String,
        /// The part that is done, in bytes.
        done: u64,
        /// The total in bytes; 0 if it is not known.
        total: u64,
    },
    /// Something was left out or assumed: a line for the user.
    Note(String),
    /// Kernels are being timed on the device, or a kernel has a fault.
    Tuning(Notice),
    /// Training is about to begin.
    Started {
        /// The number of the model's parameters.
        parameters: usize,
        /// The number of parameters that are trained.
        trained: usize,
        /// The device in words.
        device: String,
        /// The bytes of all buffers.
        plan_bytes: u64,
        /// The run's folder.
        run_dir: Option<PathBuf>,
        /// The first update, from 0: not 0 after a resume.
        first_step: usize,
        /// The number of tokens to train on.
        train_tokens: usize,
        /// The number of tokens to validate on.
        val_tokens: usize,
    },
    /// An update was made.
    Step(StepReport),
    /// An update had no target that counts, and was left out: it changed nothing.
    NothingToLearn {
        /// The number of the update, from 1.
        step: usize,
    },
    /// An evaluation is in progress.
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
        /// Whether the loss is the lowest so far.
        best: bool,
        /// Whether the whole split was evaluated.
        whole: bool,
    },
    /// A checkpoint is about to be written.
    Saving {
        /// Updates made so far.
        step: usize,
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
    /// The mean loss over all targets of the update that count, if it was read.
    pub loss: Option<f32>,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// The norm of the gradient before clipping, if it was read; negative if it was not finite.
    pub grad_norm: Option<f32>,
    /// Tokens per second since the start or the resume, without evaluations and saves.
    pub tokens_per_s: f64,
    /// The share of the device's measured best speed that training uses, if it is known.
    pub mfu: Option<f64>,
    /// How the ranks spent the time of their exchange, if there are several.
    pub exchange: Option<Exchange>,
    /// The first rank on which the update's gradient was not finite, if there are several.
    pub broken_rank: Option<usize>,
    /// Whether the update is a line of metrics.jsonl.
    pub logged: bool,
    /// Updates skipped so far, because a loss or a gradient was not finite.
    pub skipped: u32,
}

impl StepReport {
    /// Returns the update's line of metrics, without an evaluation.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            step: self.step,
            tokens: self.tokens,
            loss: self.loss.filter(|loss| loss.is_finite()),
            lr: self.learning_rate,
            grad_norm: self.grad_norm.filter(|norm| *norm >= 0.0),
            tokens_per_s: self.tokens_per_s,
            mfu: self.mfu,
            exchange: self.exchange,
            broken_rank: self.broken_rank,
            skipped: self.skipped,
            val_loss: None,
        }
    }
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of updates made.
    pub steps: usize,
    /// The mean loss of the last logged updates.
    pub train_loss: Option<f64>,
    /// The mean loss over the whole validation split.
    pub val_loss: Option<f64>,
    /// The lowest validation loss of all evaluations.
    pub best_val_loss: Option<f64>,
    /// Updates skipped, because a loss or a gradient was not finite.
    #[serde(default)]
    pub skipped: u32,
    /// Tokens per second, without evaluations and saves.
    pub tokens_per_s: f64,
    /// Seconds of the whole run, including the time before a resume.
    pub seconds: f64,
    /// The run's folder.
    pub run_dir: Option<PathBuf>,
    /// How many micro-batches of an update each rank took, if that was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rank_shares: Vec<usize>,
    /// Whether the run has ended before all its updates, since its patience was at an end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended_early: bool,
    /// What became of the conversations, if the data are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversations: Option<Box<Conversations>>,
    /// Whether all updates were made and evaluated, or the run has ended early; if not, the run was stopped and can be resumed.
    pub finished: bool,
}
