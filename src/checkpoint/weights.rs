//! The weights of a model folder: found, checked against the configuration, read in slices.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use super::adapter::{self, Adapter, LowRanks};
use super::location::folder_of;
use super::tensor_file::{SLICE, TensorFile, coordinates, list};
use crate::arch::{Family, Schema};
use crate::error::{Error, Result};

/// The file of weights that are in one.
pub const SINGLE: &str = "model.safetensors";
/// The file that says which shard each tensor is in.
pub const INDEX: &str = "model.safetensors.index.json";
/// What to do with weights in Python's own format.
pub const SAVE_AS_SAFETENSORS: &str = "save the model as safetensors: in Python, GPT2LMHeadModel.from_pretrained(MODEL)\
     .save_pretrained(NEW_DIR)";
/// The same for adapters.
const SAVE_ADAPTERS_AS_SAFETENSORS: &str = "save the adapters as safetensors: in Python, PeftModel.from_pretrained(\
     GPT2LMHeadModel.from_pretrained(MODEL), ADAPTERS).save_pretrained(NEW_DIR)";

/// Where a tensor lies: which of the files, and under which name there.
#[derive(Clone)]
struct Place {
    file: usize,
    name: String,
}

/// The weights of a model folder: open, every parameter there with its shape.
pub struct Weights {
    files: Vec<TensorFile>,
    /// By the parameters' names, without a prefix, in the order of the model.
    places: Vec<(String, Place)>,
    by_name: HashMap<String, usize>,
    /// What is merged into them as they are read.
    adapters: Option<LowRanks>,
    /// What to do about a fault that is found as they are read, where there is more to say than usual.
    advice: Option<String>,
}

/// Whether a folder holds a model's weights.
pub(super) fn is_there(dir: &Path) -> bool {
    [SINGLE, INDEX].iter().any(|name| dir.join(name).exists())
}

/// The names of tensors, each with the number of the file that it is in.
type Names = Vec<(String, usize)>;

/// The files of a model's weights, opened: their headers are sound, and not yet compared with a model.
pub struct WeightFiles {
    model: PathBuf,
    dir: PathBuf,
    files: Vec<TensorFile>,
    names: Names,
    /// The file that says what is where.
    index: PathBuf,
}

impl WeightFiles {
    /// Opens model.safetensors, or the shards of model.safetensors.index.json, in the folder `model`; or the
    /// weights file `model`; of adapters, those of the model that they belong to.
    ///
    /// # Errors
    ///
    /// If there are no such files or a header is wrong.
    pub fn open(model: &Path) -> Result<WeightFiles> {
        let dir = adapter::model_folder(model)?;
        if dir.is_file() && is_pickled(&dir) {
            return Err(pickled(&dir));
        }
        let single = if dir.is_file() { dir.clone() } else { dir.join(SINGLE) };
        let (files, names, index) = if single.exists() {
            let file = TensorFile::open(&single)?;
            let names = file.names().map(|name| (name.to_string(), 0)).collect();
            (vec![file], names, single)
        } else if dir.join(INDEX).exists() {
            let (files, names) = open_shards(&dir)?;
            (files, names, dir.join(INDEX))
        } else {
            return Err(no_weights(&dir));
        };
        Ok(WeightFiles { model: model.to_owned(), dir, files, names, index })
    }

    /// How many tensors there are.
    pub fn tensor_count(&self) -> usize {
        self.names.len()
    }
}

impl Weights {
    /// The weights of a model in opened files.
    ///
    /// Names may bear the family's prefix; its buffers are ignored, and a head is accepted if it is
    /// the token table, there again or in its place. Types are F32, F16 or BF16. Where the files belong to adapters, they
    /// are merged into what is read.
    ///
    /// # Errors
    ///
    /// Names the parameter that is missing, of another shape or type, and tensors that the model does not have.
    pub fn open(opened: WeightFiles, schema: Schema) -> Result<Weights> {
        let WeightFiles { model, dir, files, names, index } = opened;
        let family = schema.family;
        let mut found = without_prefix(family, names).map_err(|e| e.at(index.display()))?;
        let head = take_head(family, &mut found);
        let places = find_parameters(&schema, &files, &mut found).map_err(|e| {
            let e = e.at(dir.display());
            match dir.is_file() && folder_of(&dir).join(INDEX).exists() {
                true => e.hint("this is one of several files: give their folder"),
                false => e,
            }
        })?;
        if !found.is_empty() {
            let mut names: Vec<String> = found.into_keys().collect();
            names.sort();
            return Err(Error::input(format!(
                "{}: unexpected tensors {}: a {} of {} layers has none of these names",
                dir.display(),
                list(&names),
                family.title,
                schema.blocks()
            ))
            .hint("config.json and the weights must be of one model"));
        }
        let by_name = places.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        let weights = Weights { files, places, by_name, adapters: None, advice: None };
        if let Some(head) = head {
            weights.check_tied(family, &head).map_err(|e| e.at(dir.display()))?;
        }
        match adapter::is_there(&model) {
            true => Ok(weights.adapted(Adapter::open(&model, &schema)?)),
            false => Ok(weights),
        }
    }

    /// The same weights with adapters.
    fn adapted(mut self, adapter: Adapter) -> Weights {
        let file = self.files.len();
        for (name, stored) in adapter.whole {
            let index = self.by_name[&name];
            self.places[index].1 = Place { file, name: stored };
        }
        self.files.push(adapter.file);
        Weights { adapters: Some(adapter.low_rank), ..self }
    }

    /// Reads the elements of a parameter (named without the prefix) from `offset` on into `out`,
    /// widened to f32.
    ///
    /// # Errors
    ///
    /// If there is no such parameter or range, or the file cannot be read.
    pub fn read(&self, name: &str, offset: usize, out: &mut [f32]) -> Result<()> {
        let index = self.index(name)?;
        self.read_place(&self.places[index].1, offset, out)?;
        self.merge(index, offset, out)
    }

    /// Merges the adapters, if there are any, into elements of a parameter.
    fn merge(&self, index: usize, offset: usize, out: &mut [f32]) -> Result<()> {
        let Some(adapters) = &self.adapters else { return Ok(()) };
        let (name, place) = &self.places[index];
        adapters.merge(name, offset, out);
        // The weights are checked, and so are the adapters; their sum was not.
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::input(format!(
                "{name} is infinite at {:?} once the adapters are merged into it",
                coordinates(offset + at, self.shape(place))
            ))
            .hint("the training that wrote the adapters diverged: take an earlier checkpoint")),
        }
    }

    /// Checks that elements of a parameter, as they are in its file, are finite numbers.
    fn check_numbers(
        &self,
        (name, place): &(String, Place),
        offset: usize,
        numbers: &[f32],
    ) -> Result<()> {
        // A sum of the exponents that are all ones, without a branch, so that it vectorises.
        let bad = |x: &f32| x.to_bits() & 0x7f80_0000 == 0x7f80_0000;
        if numbers.iter().map(|x| u32::from(bad(x))).sum::<u32>() == 0 {
            return Ok(());
        }
        let at = numbers.iter().position(bad).unwrap_or_default();
        let what = if numbers[at].is_nan() { "NaN" } else { "infinite" };
        let index = coordinates(offset + at, self.shape(place));
        Err(Error::input(format!(
            "{}: {name} is {what} at {index:?}, weights must be finite",
            self.files[place.file].path().display()
        ))
        .hint("the training that wrote this file diverged: take an earlier checkpoint"))
    }

    /// [`Weights::read`], and checks in the same pass that what the file holds are finite numbers.
    ///
    /// # Errors
    ///
    /// As [`Weights::read`], and names the first index of a NaN or an infinity.
    pub fn read_finite(&self, name: &str, offset: usize, out: &mut [f32]) -> Result<()> {
        let mut read = || {
            let index = self.index(name)?;
            self.read_place(&self.places[index].1, offset, out)?;
            self.check_numbers(&self.places[index], offset, out)?;
            self.merge(index, offset, out)
        };
        let advised = |error: Error| match &self.advice {
            Some(advice) => error.hint(advice),
            None => error,
        };
        read().map_err(advised)
    }

    /// The same weights, with what to do about a fault that is found as they are read.
    pub(crate) fn advising(self, advice: String) -> Weights {
        Weights { advice: Some(advice), ..self }
    }

    fn index(&self, name: &str) -> Result<usize> {
        let index = self.by_name.get(name).copied();
        index.ok_or_else(|| Error::input(format!("the model has no parameter {name}")))
    }

    fn read_place(&self, place: &Place, offset: usize, out: &mut [f32]) -> Result<()> {
        self.files[place.file].read(&place.name, offset, out)
    }

    fn shape(&self, place: &Place) -> &[usize] {
        self.files[place.file].shape(&place.name).unwrap_or_default()
    }

    /// Checks that every weight is a finite number, on all threads.
    ///
    /// # Errors
    ///
    /// Names the first parameter with a NaN or an infinity, and the first index of one.
    pub fn check_finite(&self) -> Result<()> {
        let slices: Vec<(&(String, Place), usize, usize)> = self
            .places
            .iter()
            .flat_map(|named| {
                let elements = self.shape(&named.1).iter().product::<usize>();
                let slice = move |offset| (named, offset, SLICE.min(elements - offset));
                (0..elements).step_by(SLICE).map(slice)
            })
            .collect();
        let fault = slices.par_iter().map_init(Vec::new, |buffer, &(named, offset, n)| {
            buffer.resize(n, 0.0f32);
            self.read_place(&named.1, offset, buffer)?;
            self.check_numbers(named, offset, buffer)
        });
        fault.find_map_first(Result::err).map_or(Ok(()), Err)
    }

    /// Checks that a head of its own is the token table, bit for bit.
    fn check_tied(&self, family: &Family, head: &Place) -> Result<()> {
        let (table, head_name) = (family.token_table(), family.head);
        let refused = |what: &str| {
            Error::input(format!("{head_name} {what} {table}: only a tied head is supported"))
                .hint("save the model with tie_word_embeddings true")
        };
        let table = &self.places[self.by_name[&table]].1;
        let kind = |place: &Place| {
            self.files[place.file].info(&place.name).map(|info| (&info.shape, info.dtype))
        };
        if kind(head) != kind(table) {
            return Err(refused("is not of the shape and dtype of"));
        }
        let (file, of_head) = (&self.files[table.file], &self.files[head.file]);
        match file.has_same(&table.name, of_head, &head.name)? {
            true => Ok(()),
            false => Err(refused("differs from")),
        }
    }
}

/// The names of the shards that the index in `dir` names.
///
/// # Errors
///
/// If the index cannot be read, or names anything but files of the folder itself.
pub fn shards(dir: &Path) -> Result<BTreeSet<String>> {
    Ok(read_index(dir)?.into_iter().map(|(_, shard)| shard).collect())
}

/// The tensors that the index names, each with its shard, a file of the folder itself.
fn read_index(dir: &Path) -> Result<Vec<(String, String)>> {
    let path = dir.join(INDEX);
    let fault = |what: String| Error::input(what).at(path.display());
    let text = std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
    let index: Value =
        serde_json::from_slice(&text).map_err(|e| fault(format!("not JSON: {e}")))?;
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| {
        fault("weight_map must be an object of tensor names and their files".to_string())
    })?;
    let place = |(name, shard): (&String, &Value)| {
        let shard = shard.as_str().ok_or_else(|| {
            fault(format!("weight_map gives {name} the file {shard}, not a name"))
        })?;
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(fault(format!("{name} is said to lie in {shard:?}"))
                .hint("a shard's name must be that of a file in the model's own folder"));
        }
        Ok((name.clone(), shard.to_owned()))
    };
    map.iter().map(place).collect()
}

/// Opens the shards that the index names.
fn open_shards(dir: &Path) -> Result<(Vec<TensorFile>, Names)> {
    let path = dir.join(INDEX);
    let fault = |what: String| Error::input(what).at(path.display());
    // Every name is looked at before any file is opened.
    let map = read_index(dir)?;
    let mut shards: Vec<&str> = Vec::new();
    let mut number: HashMap<&str, usize> = HashMap::new();
    let mut named = Vec::new();
    for (name, shard) in &map {
        let file = *number.entry(shard.as_str()).or_insert_with(|| {
            shards.push(shard);
            shards.len() - 1
        });
        named.push((name.clone(), file));
    }
    let open = |shard: &&str| {
        TensorFile::open(&dir.join(shard))
            .map_err(|e| e.hint("every shard that the index names must be there, whole"))
    };
    let files = shards.iter().map(open).collect::<Result<Vec<_>>>()?;
    for (name, file) in &named {
        if files[*file].info(name).is_none() {
            return Err(fault(format!(
                "{name} is said to lie in {}, which does not hold it",
                shards[*file]
            )));
        }
    }
    let lies_in: HashMap<&str, usize> = named.iter().map(|(name, i)| (name.as_str(), *i)).collect();
    let stray = files.iter().enumerate().find_map(|(i, file)| {
        let elsewhere = |name: &&str| lies_in.get(name) != Some(&i);
        file.names().find(elsewhere).map(|name| (name, shards[i]))
    });
    if let Some((name, shard)) = stray {
        return Err(fault(format!("{shard} holds {name}, which weight_map does not place there")));
    }
    Ok((files, named))
}

/// Drops the prefix from names, and the buffers that are no parameters.
fn without_prefix(family: &Family, names: Vec<(String, usize)>) -> Result<HashMap<String, Place>> {
    let mut found = HashMap::new();
    for (name, file) in names {
        let short = name.strip_prefix(family.prefix).unwrap_or(&name).to_string();
        if family.is_buffer(&short) {
            continue;
        }
        if found.insert(short.clone(), Place { file, name }).is_some() {
            return Err(Error::input(format!(
                "{short} is there twice, with the prefix {} and without",
                family.prefix
            )));
        }
    }
    Ok(found)
}

/// Takes the head out of what was found: a second copy of the token table. Where it is the only one it stays, as the
/// table: of tied tensors, some writers keep the first name of the alphabet.
fn take_head(family: &Family, found: &mut HashMap<String, Place>) -> Option<Place> {
    let (head, table) = (found.remove(family.head)?, family.token_table());
    if found.contains_key(&table) {
        return Some(head);
    }
    found.insert(table, head);
    None
}

/// Takes every parameter of the model out of what was found, after checking shape and type.
fn find_parameters(
    schema: &Schema,
    files: &[TensorFile],
    found: &mut HashMap<String, Place>,
) -> Result<Vec<(String, Place)>> {
    let hint = "config.json and the weights must be of one model";
    let mut places = Vec::new();
    let mut missing = Vec::new();
    for param in schema.own() {
        let (name, shape) = param.named_shape();
        let Some(place) = found.remove(&name) else {
            missing.push(name);
            continue;
        };
        let file = &files[place.file];
        let Some(info) = file.info(&place.name) else { continue };
        if info.shape != shape {
            return Err(Error::input(format!(
                "{} has shape {:?}, by config.json it should be {shape:?}",
                place.name, info.shape
            ))
            .hint(hint));
        }
        file.check_float(&place.name)?;
        places.push((name, place));
    }
    if missing.is_empty() {
        return Ok(places);
    }
    let shown = missing.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if missing.len() > 4 { " and more" } else { "" };
    Err(Error::input(format!("missing from the weights: {shown}{more}")).hint(hint))
}

/// There are no safetensors files: says so, and what to do with the files that are there.
fn no_weights(dir: &Path) -> Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_weights = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Not a trainer's files, nor those of data.
        name.contains("model") && is_pickled(path)
    };
    let mut others: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_weights).collect();
    others.sort();
    match others.first() {
        Some(path) => pickled(path),
        None => Error::input(format!("{} holds no {SINGLE} and no {INDEX}", dir.display()))
            .hint("give a folder with config.json and model.safetensors"),
    }
}

/// Whether a file's name is that of weights in another format than safetensors, or of their index.
fn is_pickled(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".index.json").trim_end_matches(".index");
    let ends = [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"];
    ends.iter().any(|end| name.ends_with(end))
}

/// Weights are in a format that is not read: says so, and how to get one that is.
pub(super) fn pickled(path: &Path) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (read, hint) = match name.starts_with("adapter_model") {
        true => (adapter::ADAPTER_FILES[1], SAVE_ADAPTERS_AS_SAFETENSORS),
        false => (SINGLE, SAVE_AS_SAFETENSORS),
    };
    Error::input(format!("{} cannot be read safely, only {read} is", path.display())).hint(hint)
}
