//! metrics.jsonl: the results of each logged update of a run, one JSON object per line.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Error, Result};

/// The file's name in a run's folder.
pub(super) const METRICS: &str = "metrics.jsonl";

/// A line of metrics.jsonl.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Updates made.
    pub step: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// The mean loss of the update.
    pub loss: Option<f32>,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradient before clipping; absent where it was not finite.
    pub grad_norm: Option<f32>,
    /// Tokens per second.
    pub tokens_per_s: f64,
    /// Model FLOPs utilisation: training's operations as a share of the device's measured peak, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Updates skipped so far because a loss or a gradient was not finite.
    #[serde(default)]
    pub skipped: u32,
    /// How the ranks spent the time of their exchange, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
    /// The first rank on which the gradient of the update was not finite, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken_rank: Option<usize>,
    /// The validation loss, if it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
}

/// How the first rank of several spent the time in which it sent and received, on average per update since the start or the
/// resume.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// The number of ranks.
    pub ranks: usize,
    /// Milliseconds of sending and receiving during which it computed.
    pub hidden_ms: f64,
    /// Milliseconds during which it waited for other ranks instead of computing.
    pub waited_ms: f64,
    /// The share of the waiting in the time of training.
    pub waited: f64,
}

/// Reads the lines of a run's metrics.jsonl; returns none if there is no such file yet.
///
/// # Errors
///
/// If the file cannot be read or a line has another format.
pub fn read_metrics(run_dir: &Path) -> Result<Vec<Metrics>> {
    let path = run_dir.join(METRICS);
    let text = match disk::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(Error::io("reading", &path, &error)),
    };
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Error::input(format!("{} line {}: {error}", path.display(), i + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}
