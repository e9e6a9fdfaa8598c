//! The train state: what a checkpoint holds beside the model, so that a run goes on bit for bit.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::metrics::Metrics;
use super::tensor_file::{Fill, Float, TensorFile, open_exact, write_tensors};
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::params::NamedShape;

const NUMBERS: &str = "train_state.json";
const TENSORS: &str = "train_state.safetensors";
/// What this version writes; a change of meaning counts it up.
const FORMAT: u32 = 1;

/// Where a training run stands, beside its parameters and moments.
///
/// Floats are written so that they read back to the same bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainState {
    /// Updates made.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Batches drawn: the position in the sequence of batches that the seed gives.
    pub data_position: u64,
    /// What initialisation, batches and dropout are drawn from.
    pub seed: u64,
    /// A number that the data follow: whether they are still the same.
    pub data_fingerprint: u64,
    /// The lowest validation loss so far.
    pub best_val_loss: Option<f64>,
    /// The step of the lowest validation loss.
    pub best_step: Option<u64>,
    /// The last training loss.
    pub train_loss: Option<f64>,
    /// The last validation loss.
    pub val_loss: Option<f64>,
    /// Training time so far, in seconds.
    pub seconds: f64,
    /// The device's own counters, as it holds them: updates applied, skipped in a row, ...
    pub device_words: Vec<u32>,
    /// The last update's line, if the evaluation that belongs to it was cut short and is yet to be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unevaluated: Option<Metrics>,
}

/// The file's form: a version, then the fields.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    #[serde(flatten)]
    state: TrainState,
}

/// The moments that Adam keeps of these parameters: `adam.m.NAME` and `adam.v.NAME`.
pub fn moments(trained: &[NamedShape]) -> Vec<NamedShape> {
    let of = |which: &str| {
        let named = |(name, shape): &NamedShape| (format!("adam.{which}.{name}"), shape.clone());
        trained.iter().map(named).collect::<Vec<_>>()
    };
    [of("m"), of("v")].concat()
}

/// Writes the train state into a folder; `fill` gives the tensors in slices of at most 4 MiB.
///
/// # Errors
///
/// What `fill` returns, or what the system refused.
pub fn write_state(
    dir: &Path,
    state: &TrainState,
    tensors: &[NamedShape],
    fill: &mut Fill,
) -> Result<()> {
    write_tensors(&dir.join(TENSORS), "", tensors, Float::F32, fill)?;
    write_json(&dir.join(NUMBERS), &Stored { format: FORMAT, state: state.clone() })
}

/// What to do about a damaged checkpoint.
pub(crate) fn without(dir: &Path) -> String {
    format!("remove the folder {} to go on from the checkpoint before it", dir.display())
}

/// Reads the train state of a checkpoint, whose tensors must be exactly these, in name and shape.
///
/// # Errors
///
/// Names the file that is missing, damaged, or of another model, and says what to do.
pub fn open_state(dir: &Path, tensors: &[NamedShape]) -> Result<(TrainState, TensorFile)> {
    let hint = without(dir);
    let path = dir.join(NUMBERS);
    let text =
        std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e).hint(hint.clone()))?;
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
    dir.join(NUMBERS).is_file() && dir.join(TENSORS).is_file()
}
