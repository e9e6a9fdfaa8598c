//! Tensors of GGUF files as a model's own files have them: by their names there, with rows and columns in their order.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::tensor::{Dtype, TensorInfo};

use super::{DIVISORS, GgufFile, GgufTensor, Kind, Order, model_of};
use crate::checkpoint::float::Float;
use crate::disk::{self, File};
use crate::error::{Error, Result};

/// The numbers that are decoded at a time; whole blocks.
const PART: usize = 1 << 16;

/// How a tensor lies in the file.
struct Laid {
    tensor: GgufTensor,
    order: Order,
}

/// The tensors of a GGUF file, by their names in a model's own files.
pub(crate) struct GgufTensors {
    laid: HashMap<String, Laid>,
    /// The last tensor that was put in order, since it is asked for in pieces.
    ordered: Mutex<Option<(String, Arc<Vec<f32>>)>>,
}

impl GgufTensors {
    /// Finds the tensors of a file, and returns what their names, shapes and types are in a model's own files. Blocks are
    /// said to be numbers of single precision.
    ///
    /// # Errors
    ///
    /// If the file has a tensor that is no part of its family's models.
    pub(crate) fn of(file: &GgufFile) -> Result<(GgufTensors, HashMap<String, TensorInfo>)> {
        let (family, _, config) = model_of(file)?;
        let (mut laid, mut infos) = (HashMap::new(), HashMap::new());
        for tensor in file.tensors.iter().filter(|tensor| tensor.name != DIVISORS) {
            let name = family.name_of_gguf(&tensor.name).ok_or_else(|| {
                Error::input(format!("{} is no part of a {}", tensor.name, family.title))
            })?;
            let is_linear = tensor.shape.len() == 2 && tensor.name.starts_with("blk.");
            let order = Order::of(&config, &tensor.name, is_linear);
            let mut shape = tensor.shape.clone();
            if order == Order::Transposed {
                shape.reverse();
            }
            let dtype = match tensor.kind {
                Kind::Float(Float::F16) => Dtype::F16,
                Kind::Float(Float::Bf16) => Dtype::BF16,
                Kind::Float(Float::F32) | Kind::Q8_0 => Dtype::F32,
            };
            infos.insert(name.clone(), TensorInfo { dtype, shape, data_offsets: (0, 0) });
            if laid.insert(name, Laid { tensor: tensor.clone(), order }).is_some() {
                return Err(Error::input(format!("{} is there twice", tensor.name)));
            }
        }
        Ok((GgufTensors { laid, ordered: Mutex::default() }, infos))
    }

    /// Reads elements of a tensor, in the model's own order.
    pub(crate) fn read(
        &self,
        (file, path): (&File, &Path),
        name: &str,
        offset: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let Laid { tensor, order } = &self.laid[name];
        if *order == Order::Same {
            return read(file, path, tensor, offset, out);
        }
        let mut kept = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        let all = match kept.as_ref().filter(|(of, _)| of == name) {
            Some((_, all)) => Arc::clone(all),
            None => {
                let mut stored = vec![0.0; tensor.shape.iter().product()];
                read(file, path, tensor, 0, &mut stored)?;
                let all = Arc::new(in_order(&stored, &tensor.shape, *order));
                *kept = Some((name.to_owned(), Arc::clone(&all)));
                all
            }
        };
        drop(kept);
        out.copy_from_slice(&all[offset..offset + out.len()]);
        Ok(())
    }
}

/// Returns the numbers by which the frequencies of rotary embeddings are divided, if a file has them.
pub(super) fn divisors(file: &GgufFile) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = file.tensors.iter().find(|tensor| tensor.name == DIVISORS) else {
        return Ok(None);
    };
    let opened = File::open(&file.path).map_err(|e| Error::io("reading", &file.path, &e))?;
    let mut all = vec![0.0; tensor.shape.iter().product()];
    read(&opened, &file.path, tensor, 0, &mut all)?;
    Ok(Some(all))
}

/// Reads elements of a tensor in the file's order.
fn read(
    file: &File,
    path: &Path,
    tensor: &GgufTensor,
    offset: usize,
    out: &mut [f32],
) -> Result<()> {
    let (kind, block) = (tensor.kind, tensor.kind.block());
    let (mut bytes, mut numbers) = (vec![], vec![]);
    // Whole blocks are decoded, of which the ends may not be asked for.
    let (first, end) = (offset / block * block, (offset + out.len()).next_multiple_of(block));
    for start in (first..end).step_by(PART) {
        let count = PART.min(end - start);
        bytes.resize(kind.bytes(count), 0);
        numbers.resize(count, 0.0);
        let place = tensor.start + kind.bytes(start) as u64;
        disk::read_at(file, place, &mut bytes).map_err(|e| Error::io("reading", path, &e))?;
        kind.decode(&bytes, &mut numbers);
        let wanted = start.max(offset)..(start + count).min(offset + out.len());
        out[wanted.start - offset..wanted.end - offset]
            .copy_from_slice(&numbers[wanted.start - start..wanted.end - start]);
    }
    Ok(())
}

/// Puts a matrix, or the biases of its rows, in the model's own order.
fn in_order(stored: &[f32], shape: &[usize], order: Order) -> Vec<f32> {
    let width = shape.get(1).copied().unwrap_or(1).max(1);
    let mut out = vec![0.0; stored.len()];
    for (row, numbers) in stored.chunks_exact(width).enumerate() {
        match order {
            Order::Transposed => {
                let column = out[row..].iter_mut().step_by(shape[0]);
                column.zip(numbers).for_each(|(out, x)| *out = *x);
            }
            _ => out[order.source(row) * width..][..width].copy_from_slice(numbers),
        }
    }
    out
}
