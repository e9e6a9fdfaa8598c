//! A GGUF file: its entries and the list of its tensors, both checked against the file's length.

use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value};

use super::{ALIGNMENT, Kind, MAGIC};
use crate::disk::{self, File};
use crate::error::{Error, Result};

/// The versions that are read; they differ in the width of lengths before 2, and in nothing that is used here since.
const VERSIONS: [u32; 2] = [2, 3];
/// The most dimensions of a tensor.
const DIMENSIONS: u32 = 4;
/// The most bytes before the tensors' numbers: a list of a million tokens with their merges takes a third of it.
const LONGEST_HEADER: u64 = 100_000_000;
/// How deep arrays may lie in each other.
const DEPTH: usize = 4;
const AGAIN: &str = "the file is damaged or incomplete: copy or download it again";

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// The sizes, outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
    /// Where its numbers begin in the file, in bytes.
    pub(crate) start: u64,
}

/// An open file.
pub(crate) struct GgufFile {
    pub(crate) path: PathBuf,
    /// What the file says of the model.
    pub(crate) entries: Map<String, Value>,
    pub(crate) tensors: Vec<GgufTensor>,
}

impl GgufFile {
    /// Reads everything before the tensors' numbers.
    ///
    /// # Errors
    ///
    /// If it is no GGUF file of these versions, its lengths do not fit it, or a tensor has another format.
    pub(crate) fn open(path: &Path) -> Result<GgufFile> {
        let failed = |e| Error::io("reading", path, &e);
        if !disk::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::input(format!("{} is not a file", path.display())));
        }
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut reader = Reader { file: BufReader::new(file), left: length.min(LONGEST_HEADER) };
        let read = reader.whole(length).map_err(|error| error.at(path.display()));
        let (entries, tensors) = read?;
        Ok(GgufFile { path: path.to_owned(), entries, tensors })
    }
}

/// Reads numbers and texts, none beyond the end of the file or of the longest header.
struct Reader {
    file: BufReader<File>,
    /// The bytes that may still be read.
    left: u64,
}

impl Reader {
    fn whole(&mut self, length: u64) -> Result<(Map<String, Value>, Vec<GgufTensor>)> {
        if self.bytes(4)? != MAGIC {
            return Err(Error::input("it does not begin with GGUF").hint("give a .gguf file"));
        }
        let version = self.u32()?;
        if !VERSIONS.contains(&version) {
            return Err(Error::input(format!("it has GGUF version {version}, must be 2 or 3"))
                .hint("convert the model again by a newer llama.cpp"));
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        let mut all = Map::new();
        for _ in 0..entries {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind, 0).map_err(|error| error.at(&key))?;
            all.insert(key, value);
        }
        let mut listed = vec![];
        for _ in 0..tensors {
            listed.push(self.tensor()?);
        }
        let alignment = match all.get("general.alignment") {
            Some(given) => given.as_u64().filter(|n| n.is_power_of_two()).ok_or_else(|| {
                Error::input(format!("general.alignment is {given}, must be a power of two"))
            })?,
            None => ALIGNMENT as u64,
        };
        let position = self.file.stream_position();
        let position = position.map_err(|e| Error::input(format!("reading the header: {e}")))?;
        let data = position.next_multiple_of(alignment);
        for tensor in &mut listed {
            let elements = tensor.shape.iter().try_fold(1_usize, |n, size| n.checked_mul(*size));
            let fits = elements.filter(|n| n.is_multiple_of(tensor.kind.block()));
            let bytes = fits.filter(|n| (*n as u64) < 1 << 48).map(|n| tensor.kind.bytes(n) as u64);
            let start = tensor.start.checked_add(data);
            let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
            match (start, end) {
                (Some(start), Some(end)) if end <= length => tensor.start = start,
                _ => {
                    return Err(Error::input(format!(
                        "{} of shape {:?} does not lie within the file's {length} bytes",
                        tensor.name, tensor.shape
                    ))
                    .hint(AGAIN));
                }
            }
        }
        Ok((all, listed))
    }

    fn tensor(&mut self) -> Result<GgufTensor> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if !(1..=DIMENSIONS).contains(&dimensions) {
            return Err(Error::input(format!(
                "{name} has {dimensions} dimensions, must have 1 to {DIMENSIONS}"
            ))
            .hint(AGAIN));
        }
        let mut shape = vec![];
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let ggml_type = self.u32()?;
        let kind = Kind::of_ggml(ggml_type).ok_or_else(|| {
            Error::input(format!(
                "{name} has ggml's type {ggml_type}, only F32, F16, BF16 and Q8_0 are read"
            ))
            .hint("take the model's file in one of these formats")
        })?;
        Ok(GgufTensor { name, shape, kind, start: self.u64()? })
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => self.bytes(1)?[0].into(),
            1 => (self.bytes(1)?[0] as i8).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => single(f32::from_le_bytes(self.array()?)),
            7 => (self.bytes(1)?[0] != 0).into(),
            8 => self.text()?.into(),
            9 if depth < DEPTH => {
                let (of, count) = (self.u32()?, self.u64()?);
                // Nothing is allocated for what the file only claims to have.
                let mut all = vec![];
                for _ in 0..count {
                    all.push(self.value(of, depth + 1)?);
                }
                all.into()
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => f64::from_le_bytes(self.array()?).into(),
            other => {
                return Err(Error::input(format!("an entry is of type {other}")).hint(AGAIN));
            }
        })
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let bytes = self.bytes(length)?;
        // Texts that are no UTF-8 are those of no token that is encoded.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N as u64)?;
        Ok(bytes.try_into().expect("as many bytes as asked for"))
    }

    fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        if count > self.left {
            return Err(Error::input(format!(
                "the file ends within its header, or that is longer than {LONGEST_HEADER} bytes"
            ))
            .hint(AGAIN));
        }
        self.left -= count;
        let mut bytes = vec![0; count as usize];
        let read = self.file.read_exact(&mut bytes);
        read.map_err(|e| Error::input(format!("reading the header: {e}")))?;
        Ok(bytes)
    }
}

/// Returns a number of single precision as people write it: 0.00001 and not 0.000009999999747378752.
fn single(x: f32) -> Value {
    let written = x.to_string().parse::<f64>().ok();
    written.and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}
