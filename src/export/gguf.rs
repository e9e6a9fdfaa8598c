//! Writes GGUF, llama.cpp's file format: version 3.
//!
//! ```text
//! "GGUF" version tensors entries │ entries: key type value │ tensors: name dims type offset │ data, each part at a multiple of 32
//! ```
//!
//! All numbers are little endian. Dimensions are listed innermost first. llama.cpp's linear layers are `[out, in]`, so
//! those that are not are transposed, one matrix at a time. Where llama.cpp rotates neighbouring channels, the rows of
//! queries and keys are put in that order. Where queries, keys and values lie side by side within each head, llama.cpp has
//! them one after the other. If the output head is tied there is no `output.weight`, since llama.cpp then uses the token
//! table. This is implemented here because existing crates only read, or hold all tensors in memory.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::{Progress, counted, make_parent, parameter_count};
use crate::arch::{Family, Gguf, GgufSetting};
pub use crate::checkpoint::gguf::Kind;
use crate::checkpoint::gguf::{ALIGNMENT, DIVISORS, MAGIC, Order};
use crate::checkpoint::{EndOfText, Fill, Float, SLICE, coordinates};
use crate::config::model::GptConfig;
use crate::disk::{self, File};
use crate::error::{Error, Result, field};
use crate::files;
use crate::finetune::FineTune;
use crate::gpt::Gpt;
use crate::math::stored::BLOCK;
use crate::model;
use crate::params::{ParamInfo, ParamRole};
use crate::tokenizer::{LlamaCpp, Tokenizer};

/// The entries for tokens that end a text: llama.cpp ends generation at any of them, regardless of the entry's name.
const ENDS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];

const VERSION: u32 = 3;
/// The version of ggml's quantised blocks.
const QUANTIZATION: u32 = 2;
/// The number of rows of a transposed matrix that are gathered at a time.
const ROWS: usize = 64;
/// What to do with a model that cannot be written.
const AS_FOLDER: &str =
    "write it as a folder, and convert that by llama.cpp's convert_hf_to_gguf.py";

/// A tensor in the file.
struct Tensor {
    /// Its name in the model's files.
    source: String,
    name: String,
    /// The shape of the parameter.
    shape: Vec<usize>,
    kind: Kind,
    order: Order,
}

impl Tensor {
    fn new(config: &GptConfig, source: &ParamInfo, kind: Kind) -> Tensor {
        let (shape, name) = (source.shape.clone(), Family::of(config).gguf_name(source));
        let order = Order::of(config, &name, source.role.is_linear_weight());
        let mut tensor = Tensor { source: source.name.clone(), name, shape, kind, order };
        if tensor.shape.len() == 1 || source.role == ParamRole::PositionTable {
            tensor.kind = Kind::Float(Float::F32);
        } else if kind == Kind::Q8_0 && !tensor.width().is_multiple_of(BLOCK) {
            tensor.kind = Kind::Float(Float::F16);
        }
        tensor
    }

    /// Returns the tensor of the divisors of rotary embeddings' frequencies.
    fn of_divisors(divisors: &[f64]) -> Tensor {
        Tensor {
            source: DIVISORS.to_owned(),
            name: DIVISORS.to_owned(),
            shape: vec![divisors.len()],
            kind: Kind::Float(Float::F32),
            order: Order::Same,
        }
    }

    /// Returns the shape in the file, outermost first.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.order == Order::Transposed {
            shape.reverse();
        }
        shape
    }

    /// Returns the number of elements per row.
    fn width(&self) -> usize {
        *self.shape().last().expect("a tensor has a shape")
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        self.kind.bytes(self.elements())
    }

    /// Returns the place in the parameter of a number of the file.
    fn coordinates(&self, at: usize) -> Vec<usize> {
        let mut index = coordinates(at, &self.shape());
        match self.order {
            Order::Transposed => index.reverse(),
            order => index[0] = order.source(index[0]),
        }
        index
    }

    /// Passes the numbers to `write` in the file's order, in whole rows, with the index of the first number.
    fn rows(
        &self,
        fill: &mut Fill,
        write: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        match self.order {
            Order::Same => self.rows_as_they_are(fill, write),
            Order::Transposed => self.rows_of_columns(fill, write),
            Order::HalvesInTurn { head } | Order::PartByPart { head, .. } => {
                self.rows_of_heads(head, fill, write)
            }
        }
    }

    fn rows_as_they_are(
        &self,
        fill: &mut Fill,
        write: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (elements, width) = (self.elements(), self.width());
        let slice = (SLICE / width).max(1) * width;
        let mut rows = Vec::new();
        for start in (0..elements).step_by(slice) {
            rows.resize(slice.min(elements - start), 0.0);
            fill(&self.source, start, &mut rows)?;
            write(start, &rows)?;
        }
        Ok(())
    }

    fn rows_of_heads(
        &self,
        head: usize,
        fill: &mut Fill,
        write: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        // Biases have one number per row.
        let width = self.shape.get(1).copied().unwrap_or(1);
        let (mut from, mut rows) = (vec![0.0; head * width], vec![0.0; head * width]);
        for first in (0..self.shape[0]).step_by(head) {
            // The head's rows lie together in the parameter, maybe elsewhere.
            let source = self.order.source(first) / head * head;
            fill(&self.source, source * width, &mut from)?;
            for (row, out) in rows.chunks_mut(width).enumerate() {
                let row = self.order.source(first + row) - source;
                out.copy_from_slice(&from[row * width..][..width]);
            }
            write(first * width, &rows)?;
        }
        Ok(())
    }

    fn rows_of_columns(
        &self,
        fill: &mut Fill,
        write: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (name, elements, width) = (&self.source, self.elements(), self.width());
        let mut rows = Vec::new();
        let mut matrix = vec![0.0; elements];
        for (i, slice) in matrix.chunks_mut(SLICE).enumerate() {
            fill(name, i * SLICE, slice)?;
        }
        let height = elements / width;
        for first in (0..height).step_by(ROWS) {
            let count = ROWS.min(height - first);
            rows.resize(count * width, 0.0);
            for (column, line) in matrix.chunks(height).enumerate() {
                for (row, x) in line[first..first + count].iter().enumerate() {
                    rows[row * width + column] = *x;
                }
            }
            write(first * width, &rows)?;
        }
        Ok(())
    }
}

/// The value of an entry.
enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
}

impl Value {
    const U32_TYPE: u32 = 4;
    const I32_TYPE: u32 = 5;
    const F32_TYPE: u32 = 6;
    const BOOL_TYPE: u32 = 7;
    const TEXT_TYPE: u32 = 8;
    const ARRAY_TYPE: u32 = 9;

    /// Appends the value's type and the value.
    fn put(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, of: u32, len: usize| {
            put_u32(out, Value::ARRAY_TYPE);
            put_u32(out, of);
            put_len(out, len);
        };
        match self {
            Value::U32(x) => {
                put_u32(out, Value::U32_TYPE);
                put_u32(out, *x);
            }
            Value::F32(x) => {
                put_u32(out, Value::F32_TYPE);
                out.extend(x.to_le_bytes());
            }
            Value::Bool(x) => {
                put_u32(out, Value::BOOL_TYPE);
                out.push(u8::from(*x));
            }
            Value::Text(text) => {
                put_u32(out, Value::TEXT_TYPE);
                put_text(out, text);
            }
            Value::I32s(numbers) => {
                array(out, Value::I32_TYPE, numbers.len());
                out.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
            }
            Value::F32s(numbers) => {
                array(out, Value::F32_TYPE, numbers.len());
                out.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
            }
            Value::Texts(texts) => {
                array(out, Value::TEXT_TYPE, texts.len());
                texts.iter().for_each(|text| put_text(out, text));
            }
        }
    }
}

fn put_u32(out: &mut Vec<u8>, x: u32) {
    out.extend(x.to_le_bytes());
}

fn put_len(out: &mut Vec<u8>, x: usize) {
    out.extend((x as u64).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

/// Returns how a family is described in GGUF.
///
/// # Errors
///
/// If its models are not written as GGUF.
fn description(family: &Family) -> Result<Gguf> {
    family.gguf.ok_or_else(|| {
        Error::input(format!("a {} cannot be written as GGUF yet", family.title)).hint(AS_FOLDER)
    })
}

/// Returns the entries about the model.
fn entries(name: &str, gpt: &Gpt, kind: Kind) -> Result<Vec<(String, Value)>> {
    let config = gpt.config();
    let family = Family::of(config);
    let gguf = description(family)?;
    // Sizes are below 2^24.
    let size = |x: usize| Value::U32(x as u32);
    let text = |text: &str| Value::Text(text.to_owned());
    let settings = (gguf.settings)(config).map_err(|error| match error.advice() {
        Some(_) => error,
        None => error.hint(AS_FOLDER),
    })?;
    let entries = [
        ("general.architecture", text(gguf.architecture)),
        ("general.type", text("model")),
        ("general.name", text(name)),
        ("general.file_type", Value::U32(kind.file_type())),
        ("general.quantization_version", Value::U32(QUANTIZATION)),
        ("general.alignment", size(ALIGNMENT)),
    ];
    let mut entries: Vec<(String, Value)> = entries.map(|(k, v)| (k.to_owned(), v)).into();
    entries.extend(settings.into_iter().map(|(key, value)| {
        let value = match value {
            GgufSetting::Count(x) => size(x),
            GgufSetting::Real(x) => Value::F32(x as f32),
            GgufSetting::Word(word) => text(word),
            GgufSetting::Flag(holds) => Value::Bool(holds),
        };
        (format!("{}.{key}", gguf.architecture), value)
    }));
    let vocabulary = match gpt.tokenizer() {
        Some(tokenizer) => vocabulary(tokenizer, gpt.end_of_text(), config.vocab_size)?,
        None => vec![("model", text("no_vocab"))],
    };
    entries.extend(vocabulary.into_iter().map(|(k, v)| (format!("tokenizer.ggml.{k}"), v)));
    entries.extend(
        gpt.chat_template()?.map(|source| ("tokenizer.chat_template".into(), Value::Text(source))),
    );
    Ok(entries)
}

/// Returns the entries about the tokenizer. Ids beyond it, from a padded token table, are unused tokens.
fn vocabulary(
    tokenizer: &Tokenizer,
    end: &EndOfText,
    vocab_size: usize,
) -> Result<Vec<(&'static str, Value)>> {
    const NORMAL: i32 = 1;
    const UNKNOWN: i32 = 2;
    const CONTROL: i32 = 3;
    const USER_DEFINED: i32 = 4;
    const UNUSED: i32 = 5;
    const BYTE: i32 = 6;
    let kind = tokenizer.llama_cpp()?;
    let mut tokens = tokenizer.spellings();
    tokens.resize(vocab_size.max(tokens.len()), String::new());
    let mut types = vec![NORMAL; tokens.len()];
    for id in name_unused(&mut tokens)? {
        types[id] = UNUSED;
    }
    for (id, special) in tokenizer.added_tokens() {
        types[id as usize] = if special { CONTROL } else { USER_DEFINED };
    }
    let text = |text: &str| Value::Text(text.to_owned());
    let mut entries = match kind {
        LlamaCpp::Gpt2 { pre } => vec![
            ("model", text("gpt2")),
            ("pre", text(pre)),
            ("merges", Value::Texts(tokenizer.spelled_merges())),
        ],
        LlamaCpp::Llama { mut scores, bytes, unknown, blank_in_front } => {
            bytes.into_iter().for_each(|id| types[id as usize] = BYTE);
            unknown.into_iter().for_each(|id| types[id as usize] = UNKNOWN);
            scores.resize(tokens.len(), f32::MIN);
            let mut entries = vec![
                ("model", text("llama")),
                ("pre", text("default")),
                ("scores", Value::F32s(scores)),
                ("add_space_prefix", Value::Bool(blank_in_front)),
            ];
            entries.extend(unknown.map(|id| ("unknown_token_id", Value::U32(id))));
            entries
        }
    };
    let (before, after) = tokenizer.template();
    entries.extend([
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::I32s(types)),
        ("add_bos_token", Value::Bool(!before.is_empty())),
        ("add_eos_token", Value::Bool(!after.is_empty())),
    ]);
    let opening = before.first().copied().or(end.opening());
    entries.extend(opening.map(|id| ("bos_token_id", Value::U32(id))));
    entries.extend(ENDS.into_iter().zip(end.ids()).map(|(name, id)| (name, Value::U32(*id))));
    Ok(entries)
}

/// Returns a sentence about each part of a model that a GGUF file cannot hold or llama.cpp treats differently.
pub fn notes(gpt: &Gpt) -> Vec<String> {
    let config = gpt.config();
    let window = (0..config.n_layer).filter_map(|layer| config.window(layer)).min();
    let window = window.filter(|window| *window < config.n_positions).map(|window| {
        format!("llama.cpp has no windows for this model: the file's context is {window} instead of {}, so that it needs none", config.n_positions)
    });
    window.into_iter().chain(notes_on_tokens(gpt)).collect()
}

fn notes_on_tokens(gpt: &Gpt) -> Vec<String> {
    let Some(tokenizer) = gpt.tokenizer() else { return vec![] };
    let more = gpt.end_of_text().ids().get(ENDS.len()..).filter(|more| !more.is_empty());
    let ends = more.map(|more| {
        let room = ENDS.len();
        format!("a GGUF file has room for {room} tokens that end a text: {more:?} are left out")
    });
    ends.into_iter().chain(tokenizer.llama_cpp_notes()).collect()
}

/// Gives each unused id its own text, and returns these ids: in a GGUF file each token has a text, and all texts are
/// different.
fn name_unused(tokens: &mut [String]) -> Result<Vec<usize>> {
    let mut ids = HashMap::new();
    for (id, token) in tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
        if let Some(other) = ids.insert(token.clone(), id) {
            return Err(Error::input(format!(
                "the tokens {other} and {id} are both spelled {token:?}, which a GGUF file does not allow"
            ))
            .hint(format!("hand the model on as a folder: {} DIR", field("out"))));
        }
    }
    let unused = (0..tokens.len()).filter(|id| tokens[*id].is_empty()).collect::<Vec<_>>();
    for &id in &unused {
        let more = (1..).map(|i| format!("[PAD{id}_{i}]"));
        let mut names = std::iter::once(format!("[PAD{id}]")).chain(more);
        let name = names.find(|name| !ids.contains_key(name)).expect("there are many names");
        ids.insert(name.clone(), id);
        tokens[id] = name;
    }
    Ok(unused)
}

/// Returns everything before the data, padded to a multiple of [`ALIGNMENT`].
fn header(entries: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_u32(&mut out, VERSION);
    put_len(&mut out, tensors.len());
    put_len(&mut out, entries.len());
    for (key, value) in entries {
        put_text(&mut out, key);
        value.put(&mut out);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_text(&mut out, &tensor.name);
        let shape = tensor.shape();
        put_u32(&mut out, shape.len() as u32);
        shape.iter().rev().for_each(|size| put_len(&mut out, *size));
        put_u32(&mut out, tensor.kind.ggml_type());
        put_len(&mut out, offset);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// Writes a model as a whole GGUF file. The model's name is the file's name without its ending. Returns the number of
/// matrices that are in f16, since their rows cannot be divided into blocks of q8_0.
///
/// # Errors
///
/// If `path` exists already, llama.cpp would encode texts differently, a parameter does not fit `kind`, `progress`
/// fails, or a file operation fails. No file is left then.
pub fn write(gpt: &mut Gpt, path: &Path, kind: Kind, progress: &mut Progress) -> Result<usize> {
    if disk::exists(path) {
        return Err(Error::usage(format!("{} is there already", path.display()))
            .hint(format!("give {} the name of a new file", field("gguf"))));
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let config = gpt.config();
    description(Family::of(config))?;
    let schema = model::schema(config, &FineTune::default());
    let divisors = config.blocks.rotary.and_then(|rotary| rotary.divisors(config.head_size()));
    let tensors = divisors.iter().map(|all| Tensor::of_divisors(all));
    let tensors: Vec<Tensor> =
        tensors.chain(schema.own().map(|source| Tensor::new(config, source, kind))).collect();
    let others = tensors.iter().filter(|t| t.kind == Kind::Float(Float::F16)).count();
    let others = if kind == Kind::Q8_0 { others } else { 0 };
    let held = if tensors.iter().any(|t| t.kind == kind) { kind } else { Kind::Float(Float::F16) };
    let header = header(&entries(&name, gpt, held)?, &tensors);
    let total = parameter_count(gpt);
    make_parent(path)?;
    gpt.with_parameters(|_, fill| {
        files::write_file(path, |out| {
            out.write_all(&header).map_err(|e| Error::io("writing", path, &e))?;
            let fill = &mut counted(fill, total, progress);
            let fill = &mut |name: &str, start: usize, out: &mut [f32]| match &divisors {
                Some(all) if name == DIVISORS => {
                    out.iter_mut().zip(&all[start..]).for_each(|(out, x)| *out = *x as f32);
                    Ok(())
                }
                _ => fill(name, start, out),
            };
            tensors.iter().try_for_each(|tensor| write_tensor(tensor, path, out, fill))
        })
    })?;
    Ok(others)
}

fn write_tensor(
    tensor: &Tensor,
    path: &Path,
    out: &mut BufWriter<File>,
    fill: &mut Fill,
) -> Result<()> {
    let failed = |e| Error::io("writing", path, &e);
    let mut bytes = Vec::new();
    tensor.rows(fill, &mut |start, rows| {
        tensor.kind.encode(rows, &mut bytes).map_err(|at| {
            let index = tensor.coordinates(start + at);
            tensor.kind.does_not_fit(&tensor.source, &index, rows[at])
        })?;
        out.write_all(&bytes).map_err(failed)
    })?;
    let padding = tensor.bytes().next_multiple_of(ALIGNMENT) - tensor.bytes();
    out.write_all(&[0; ALIGNMENT][..padding]).map_err(failed)
}
