//! The train state: the part of a checkpoint besides the model that a run needs to continue bit for bit.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::float::Float;
use super::metrics::Metrics;
use super::tensor_file::{Fill, TensorFile, open_exact, write_tensors};
use crate::disk;
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::params::NamedShape;

const NUMBERS: &str = "train_state.json";
const TENSORS: &str = "train_state.safetensors";
/// The format version that is written. It is incremented when the meaning changes.
const FORMAT: u32 = 1;

/// The progress of a training run, besides its parameters and moments.
///
/// Floats are written so that they are read back with the same bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainState {
    /// Updates made.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Batches drawn: the position in the sequence of batches that the seed gives.
    pub data_position: u64,
    /// The seed of initialisation, batches and dropout.
    pub seed: u64,
    /// A number computed from the data, to check that they have not changed.
    pub data_fingerprint: u64,
    /// The lowest validation loss so far.
    pub best_val_loss: Option<f64>,
    /// The step of the lowest validation loss.
    pub best_step: Option<u64>,
    /// How many evaluations in a row have found no better loss.
    #[serde(skip_serializing_if = "is_zero")]
    pub worse: u64,
    /// Whether the run has ended before all its updates, since that were too many.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// The last training loss.
    pub train_loss: Option<f64>,
    /// The last validation loss.
    pub val_loss: Option<f64>,
    /// Training time so far, in seconds.
    pub seconds: f64,
    /// The device's own counters as it holds them: updates applied, skipped in a row, ...
    pub device_words: Vec<u32>,
    /// The formats of half precision in which the ranks compute, in mixed precision; none if another version saved it, whose runs
    /// had f16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub halves: Vec<String>,
    /// The counters of the devices of ranks 1, 2, ..., where each rank makes updates of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words_of_others: Vec<Vec<u32>>,
    /// The metrics of the last update, if its evaluation was interrupted and must still be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unevaluated: Option<Metrics>,
}

/// Whether a count is its default.
#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it so; a 32-bit processor does not mind"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The format of the file: a version, then the fields.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    #[serde(flatten)]
    state: TrainState,
}

/// Returns the tensors of Adam's moments of these parameters: `adam.m.NAME` and `adam.v.NAME`.
pub fn moments(trained: &[NamedShape]) -> Vec<NamedShape> {
    let of = |which: &str| {
        let named = |(name, shape): &NamedShape| (format!("adam.{which}.{name}"), shape.clone());
        trained.iter().map(named).collect::<Vec<_>>()
    };
    [of("m"), of("v")].concat()
}

/// Writes the train state into a folder; `fill` provides the tensors in slices of at most 4 MiB.
///
/// # Errors
///
/// If `fill` or a file operation fails.
pub fn write_state(
    dir: &Path,
    state: &TrainState,
    tensors: &[NamedShape],
    fill: &mut Fill,
) -> Result<()> {
    write_tensors(&dir.join(TENSORS), &str::to_owned, tensors, Float::F32, &[], fill)?;
    write_json(&dir.join(NUMBERS), &Stored { format: FORMAT, state: state.clone() })
}

/// Returns the advice for a damaged checkpoint.
pub(crate) fn without(dir: &Path) -> String {
    format!("remove the folder {} to go on from the checkpoint before it", dir.display())
}

/// Reads the train state of a checkpoint. Its tensors must have exactly these names and shapes.
///
/// # Errors
///
/// Names the file that is missing, damaged, or belongs to another model, and gives advice.
pub fn open_state(dir: &Path, tensors: &[NamedShape]) -> Result<(TrainState, TensorFile)> {
    let hint = without(dir);
    let path = dir.join(NUMBERS);
    let text = disk::read(&path).map_err(|e| Error::io("reading", &path, &e).hint(hint.clone()))?;
    let stored: Stored = serde_json::from_slice(&text).map_err(|e| {
        Error::input(format!("{} is damaged: {e}", path.display())).hint(hint.clone())
    })?;
    if stored.format != FORMAT {
        return Err(Error::input(format!(
            "{} is of format {}, this program reads {FORMAT}",
            path.display(),
            stored.format
        ))
        .hint("go on with the version of the program that began the run"));
    }
    let file = open_exact(&dir.join(TENSORS), tensors).map_err(|e| e.hint(hint))?;
    Ok((stored.state, file))
}

/// Whether a folder has the files of a train state.
pub(super) fn is_there(dir: &Path) -> bool {
    disk::is_file(&dir.join(NUMBERS)) && disk::is_file(&dir.join(TENSORS))
}
