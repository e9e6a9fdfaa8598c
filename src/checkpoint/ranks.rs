//! The part of a checkpoint that the ranks of local training need besides the train state, which is that of rank 0.

use std::path::Path;

use super::float::Float;
use super::state::without;
use super::tensor_file::{TensorFile, open_exact, write_tensors};
use crate::error::{Error, Result, field};
use crate::params::NamedShape;

/// The prefix of the names of the outer momentum; the parameter's name follows.
pub const OUTER_MOMENTUM: &str = "outer.m";

/// A file and its tensors.
#[derive(Clone, Debug)]
pub struct RankFile {
    /// Its name in the checkpoint's folder.
    pub name: String,
    /// The rank that has the tensors; `None`: the outer momentum, of which each rank has a share.
    pub rank: Option<usize>,
    /// The tensors.
    pub tensors: Vec<NamedShape>,
}

/// Provides a tensor's data of a rank, as [`Fill`](super::Fill) does.
pub type FillOf<'a> = dyn FnMut(Option<usize>, &str, usize, &mut [f32]) -> Result<()> + 'a;

/// Returns the files of `ranks` ranks that train these parameters with these moments: the outer momentum, and the moments
/// of each rank but the first, if there are moments.
pub fn rank_files(trained: &[NamedShape], moments: &[NamedShape], ranks: usize) -> Vec<RankFile> {
    let named = |(name, shape): &NamedShape| (format!("{OUTER_MOMENTUM}.{name}"), shape.clone());
    let outer = RankFile {
        name: "train_state.outer.safetensors".to_owned(),
        rank: None,
        tensors: trained.iter().map(named).collect(),
    };
    let of = |rank| RankFile {
        name: format!("train_state.{rank}.safetensors"),
        rank: Some(rank),
        tensors: moments.to_vec(),
    };
    let others = (1..ranks).filter(|_| !moments.is_empty()).map(of);
    [outer].into_iter().chain(others).collect()
}

/// Writes these files into a folder; `fill` provides the tensors in slices of at most 4 MiB.
///
/// # Errors
///
/// If `fill` or a file operation fails.
pub fn write_rank_files(dir: &Path, files: &[RankFile], fill: &mut FillOf) -> Result<()> {
    files.iter().try_for_each(|file| {
        let fill = &mut |name: &str, start, out: &mut [f32]| fill(file.rank, name, start, out);
        write_tensors(&dir.join(&file.name), &str::to_owned, &file.tensors, Float::F32, &[], fill)
    })
}

/// Opens these files of a checkpoint, in the same order. They must have exactly their tensors.
///
/// # Errors
///
/// Names the file that is missing, damaged, or belongs to another model, and gives advice.
pub fn open_rank_files(dir: &Path, files: &[RankFile]) -> Result<Vec<TensorFile>> {
    let open = |file: &RankFile| open_exact(&dir.join(&file.name), &file.tensors);
    let advised = |error: Error| {
        error.hint(format!(
            "{}; a run that began without {} does not go on with it",
            without(dir),
            field("local.sync_every")
        ))
    };
    files.iter().map(|file| open(file).map_err(advised)).collect()
}
