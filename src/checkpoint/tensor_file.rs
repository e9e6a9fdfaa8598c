//! A safetensors file. Its header is checked; its tensors are read and written in slices.
//!
//! Tensors are read from the file and not memory-mapped: with a mapping, the process crashes if
//! somebody shortens the file, the mapping counts as resident memory, and it needs unsafe code.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::float::Float;
use super::gguf::{GgufFile, GgufTensors};
use crate::disk::{self, File};
use crate::error::{Error, Result};
use crate::files;
use crate::params::NamedShape;

/// Provides a tensor's data: fills the slice with the elements from the given offset on.
pub type Fill<'a> = dyn FnMut(&str, usize, &mut [f32]) -> Result<()> + 'a;

/// The number of elements that are processed at a time: 4 MiB of f32.
pub(crate) const SLICE: usize = 1 << 20;
/// The format's own limit on the header's length, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;
const AGAIN: &str = "the file is damaged or incomplete: copy or download it again";

/// An open safetensors file whose header has been checked.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// The offset of the tensors' data, in bytes.
    start: u64,
    tensors: HashMap<String, TensorInfo>,
    /// What its header says of it besides, by name.
    metadata: HashMap<String, String>,
    /// How the tensors lie in it, if it is a GGUF file.
    gguf: Option<GgufTensors>,
}

impl TensorFile {
    /// Opens a file and checks its header: lengths, sizes, and offsets without overlaps or gaps.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or its header does not describe exactly this file.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let failed = |e| Error::io("reading", path, &e);
        // Checked before opening, since opening a pipe waits for its other end.
        let about = disk::metadata(path).map_err(failed)?;
        if !about.is_file() {
            return Err(Error::input(format!("{} is not a file", path.display())));
        }
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let (start, header) =
            read_header(&mut file, length).map_err(|e| e.at(path.display()).hint(AGAIN))?;
        let tensors = header.tensors().into_iter().map(|(name, info)| (name, info.clone()));
        Ok(TensorFile {
            path: path.to_path_buf(),
            file,
            start,
            tensors: tensors.collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
            gguf: None,
        })
    }

    /// Opens a GGUF file, whose tensors are read as those of a model's own files.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has a tensor that is no part of its family's models.
    pub(super) fn open_gguf(path: &Path) -> Result<TensorFile> {
        let described = GgufFile::open(path)?;
        let found = GgufTensors::of(&described).map_err(|error| error.at(path.display()));
        let (gguf, tensors) = found?;
        let file = File::open(path).map_err(|e| Error::io("reading", path, &e))?;
        Ok(TensorFile {
            path: path.to_path_buf(),
            file,
            start: 0,
            tensors,
            metadata: HashMap::new(),
            gguf: Some(gguf),
        })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an entry of the header's metadata.
    pub(super) fn metadata(&self, entry: &str) -> Option<&str> {
        self.metadata.get(entry).map(String::as_str)
    }

    /// Returns the names of the tensors, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Reads the elements of a tensor from `offset` on into `out`; F16 and BF16 are converted to f32.
    ///
    /// # Errors
    ///
    /// If there is no such tensor or range, its type is not supported, or the file cannot be read.
    pub fn read(&self, name: &str, offset: usize, out: &mut [f32]) -> Result<()> {
        let fault = |what: String| Error::input(what).at(self.path.display());
        let info = self.info(name).ok_or_else(|| fault(format!("no tensor {name}")))?;
        let elements = info.shape.iter().product::<usize>();
        if offset.checked_add(out.len()).is_none_or(|end| end > elements) {
            let range = format!("{} elements from {offset}", out.len());
            return Err(fault(format!("{name} has {elements} elements, asked for {range}")));
        }
        if let Some(gguf) = &self.gguf {
            return gguf.read((&self.file, &self.path), name, offset, out);
        }
        let place =
            |offset: usize, size: usize| self.start + (info.data_offsets.0 + offset * size) as u64;
        match info.dtype {
            Dtype::F32 => {
                self.read_bytes(place(offset, 4), bytemuck::cast_slice_mut(out))?;
                if cfg!(target_endian = "big") {
                    out.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits().swap_bytes()));
                }
            }
            Dtype::F16 | Dtype::BF16 => {
                let mut halves = vec![0u16; out.len().min(SLICE)];
                for (i, out) in out.chunks_mut(SLICE).enumerate() {
                    let halves = &mut halves[..out.len()];
                    let bytes = bytemuck::cast_slice_mut(halves);
                    self.read_bytes(place(offset + i * SLICE, 2), bytes)?;
                    widen(info.dtype, halves, out);
                }
            }
            _ => return self.check_float(name).map_err(|e| e.at(self.path.display())),
        }
        Ok(())
    }

    /// Checks that a tensor has a supported type.
    ///
    /// # Errors
    ///
    /// If it does not exist or has another type.
    pub(super) fn check_float(&self, name: &str) -> Result<()> {
        let dtype = self.info(name).map(|info| info.dtype);
        match dtype {
            Some(Dtype::F32 | Dtype::F16 | Dtype::BF16) => Ok(()),
            Some(other) => {
                let what = format!("{name} is of dtype {other:?}, must be F32, F16 or BF16");
                Err(Error::input(what).hint("save the model in float32, float16 or bfloat16"))
            }
            None => Err(Error::input(format!("no tensor {name}"))),
        }
    }

    /// Whether a tensor equals a tensor of another file in shape, type and bits.
    ///
    /// # Errors
    ///
    /// If there is no such tensor, its type is not supported, or a file cannot be read.
    pub(super) fn has_same(&self, name: &str, other: &TensorFile, its: &str) -> Result<bool> {
        let kind = |info: &TensorInfo| (info.shape.clone(), info.dtype);
        if self.info(name).map(kind) != other.info(its).map(kind) {
            return Ok(false);
        }
        let elements = self.shape(name).unwrap_or_default().iter().product::<usize>();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for offset in (0..elements).step_by(SLICE) {
            a.resize(SLICE.min(elements - offset), 0.0f32);
            b.resize(a.len(), 0.0f32);
            self.read(name, offset, &mut a)?;
            other.read(its, offset, &mut b)?;
            if bytemuck::cast_slice::<f32, u32>(&a) != bytemuck::cast_slice::<f32, u32>(&b) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_bytes(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        disk::read_at(&self.file, offset, out).map_err(|e| Error::io("reading", &self.path, &e))
    }
}

/// Converts half-precision numbers, as they are stored in a file, to f32.
fn widen(dtype: Dtype, halves: &mut [u16], out: &mut [f32]) {
    if cfg!(target_endian = "big") {
        halves.iter_mut().for_each(|h| *h = h.swap_bytes());
    }
    if dtype == Dtype::F16 {
        bytemuck::cast_slice::<u16, half::f16>(halves).convert_to_f32_slice(out);
    } else {
        bytemuck::cast_slice::<u16, half::bf16>(halves).convert_to_f32_slice(out);
    }
}

/// Reads and checks the header of a file of `length` bytes; returns the offset of the data, and
/// the header.
fn read_header(file: &mut File, length: u64) -> Result<(u64, Metadata)> {
    if length < 8 {
        return Err(Error::input(format!(
            "the file is too short for a safetensors header: {length} bytes"
        )));
    }
    let unreadable = |e: std::io::Error| Error::input(format!("reading the header: {e}"));
    let mut header_length = [0; 8];
    file.read_exact(&mut header_length).map_err(unreadable)?;
    let header_length = u64::from_le_bytes(header_length);
    // Checked before memory of that size is allocated.
    if header_length > LONGEST_HEADER || header_length > length - 8 {
        return Err(Error::input(format!(
            "the header says that it is {header_length} bytes long, the file has {length}"
        )));
    }
    let mut header = vec![0; header_length as usize];
    file.read_exact(&mut header).map_err(unreadable)?;
    let header = std::str::from_utf8(&header)
        .map_err(|e| Error::input(format!("the header is not UTF-8: {e}")))?;
    // This checks offsets, gaps, overlaps, and shape times element size against the number of bytes.
    let metadata: Metadata =
        serde_json::from_str(header).map_err(|e| Error::input(format!("the header: {e}")))?;
    let (start, data) = (8 + header_length, metadata.data_len() as u64);
    if data != length - start {
        let (problem, rest) = if data > length - start {
            ("the file is truncated", "bytes of tensors")
        } else {
            ("trailing bytes that belong to no tensor", "bytes of tensors")
        };
        return Err(Error::input(format!(
            "{problem}: the header describes {data} {rest}, there are {}",
            length - start
        )));
    }
    Ok((start, metadata))
}

/// Writes a safetensors file as a whole, with the layout of Hugging Face's writer.
///
/// `rename` returns the name in the file; `fill` is called with the name alone. `metadata` is what the header says
/// besides, by name.
///
/// # Errors
///
/// If a number does not fit `float`, or if `fill` or a file operation fails.
pub(super) fn write_tensors(
    path: &Path,
    rename: &dyn Fn(&str) -> String,
    tensors: &[NamedShape],
    float: Float,
    metadata: &[(&str, String)],
    fill: &mut Fill,
) -> Result<()> {
    let mut tensors: Vec<&NamedShape> = tensors.iter().collect();
    tensors.sort_by_key(|(name, _)| name);
    let mut end = 0;
    let infos = tensors.iter().map(|(name, shape)| {
        let start = end;
        end += float.bytes() * shape.iter().product::<usize>();
        let info =
            TensorInfo { dtype: float.dtype(), shape: shape.clone(), data_offsets: (start, end) };
        (rename(name), info)
    });
    let format = ("format", "pt".to_owned());
    let said = [&format]
        .into_iter()
        .chain(metadata)
        .map(|(name, text)| ((*name).to_owned(), text.clone()));
    let internal = |e: &dyn std::fmt::Display| Error::input(format!("{}: {e}", path.display()));
    let header = Metadata::new(Some(said.collect()), infos.collect()).map_err(|e| internal(&e))?;
    let mut header = serde_json::to_value(&header).map_err(|e| internal(&e))?;
    // They come from a table without an order, and the same model must be the same bytes.
    header["__metadata__"].as_object_mut().map(serde_json::Map::sort_keys);
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    files::write_file(path, |out| {
        let failed = |e| Error::io("writing", path, &e);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(&header).map_err(failed)?;
        let (mut slice, mut bytes) = (Vec::new(), Vec::new());
        for (name, shape) in tensors {
            let elements = shape.iter().product::<usize>();
            for offset in (0..elements).step_by(SLICE) {
                slice.resize(SLICE.min(elements - offset), 0.0f32);
                fill(name, offset, &mut slice)?;
                float.encode(&slice, &mut bytes).map_err(|at| {
                    float.does_not_fit(name, &coordinates(offset + at, shape), slice[at])
                })?;
                out.write_all(&bytes).map_err(failed)?;
            }
        }
        Ok(())
    })
}

/// Returns the coordinates of an element of a tensor in row-major order.
pub(crate) fn coordinates(mut element: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let coordinate = element % size;
            element /= size;
            coordinate
        })
        .collect();
    index.reverse();
    index
}

/// Lists up to four names, and the number of the others.
pub(super) fn list(names: &[String]) -> String {
    let shown = names.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=4 => shown,
        n => format!("{shown} and {} more", n - 4),
    }
}

/// Opens a file that must hold exactly these f32 tensors.
pub(super) fn open_exact(path: &Path, tensors: &[NamedShape]) -> Result<TensorFile> {
    let file = TensorFile::open(path)?;
    let fault = |what: String| Err(Error::input(what).at(path.display()));
    for (name, shape) in tensors {
        let Some(info) = file.info(name) else {
            return fault(format!("{name} is missing"));
        };
        if &info.shape != shape {
            return fault(format!("{name} has shape {:?}, should be {shape:?}", info.shape));
        }
        if info.dtype != Dtype::F32 {
            return fault(format!("{name} is of dtype {:?}, should be F32", info.dtype));
        }
    }
    let known: HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let mut unexpected: Vec<String> =
        file.names().filter(|name| !known.contains(name)).map(String::from).collect();
    unexpected.sort();
    if !unexpected.is_empty() {
        return fault(format!("unexpected tensors {}", list(&unexpected)));
    }
    Ok(file)
}
