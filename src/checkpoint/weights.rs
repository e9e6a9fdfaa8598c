//! The weights of a model folder: found, checked against the configuration, and read in slices.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use super::adapter::{self, Adapter, LowRanks};
use super::base_sample::{BaseSample, Closeness};
use super::gguf;
use super::location::folder_of;
use super::tensor_file::{SLICE, TensorFile, coordinates, list};
use crate::arch::{Family, Schema};
use crate::disk;
use crate::error::{Error, Result};

/// The weights file of a model that is not sharded.
pub const SINGLE: &str = "model.safetensors";
/// The file that maps each tensor to its shard.
pub const INDEX: &str = "model.safetensors.index.json";
/// Advice for weights in Python's own format.
pub const SAVE_AS_SAFETENSORS: &str = "save the model as safetensors: in Python, AutoModelForCausalLM.from_pretrained(MODEL)\
     .save_pretrained(NEW_DIR)";
/// The same advice for adapters.
const SAVE_ADAPTERS_AS_SAFETENSORS: &str = "save the adapters as safetensors: in Python, PeftModel.from_pretrained(\
     AutoModelForCausalLM.from_pretrained(MODEL), ADAPTERS).save_pretrained(NEW_DIR)";

/// The location of a tensor: the number of its file, and its name there.
#[derive(Clone)]
struct Place {
    file: usize,
    name: String,
}

/// The opened weights of a model folder; every parameter exists and has the right shape.
pub struct Weights {
    files: Vec<TensorFile>,
    /// The parameters' names without the prefix and their places, in the order of the model.
    places: Vec<(String, Place)>,
    by_name: HashMap<String, usize>,
    /// The adapters that are merged into the weights when they are read.
    adapters: Option<LowRanks>,
    /// A sentence for the user, if the adapters were trained on another model.
    notice: Option<String>,
    /// Advice about an error that is found while reading, if there is more to say than usual.
    advice: Option<String>,
}

/// Whether a folder holds a model's weights.
pub(super) fn is_there(dir: &Path) -> bool {
    [SINGLE, INDEX].iter().any(|name| disk::exists(&dir.join(name))) || gguf::is_folder_of_gguf(dir)
}

/// The names of tensors, each with the number of the file that it is in.
type Names = Vec<(String, usize)>;

/// The opened files of a model's weights. Their headers are valid, and not yet compared with a model.
pub struct WeightFiles {
    model: PathBuf,
    dir: PathBuf,
    files: Vec<TensorFile>,
    names: Names,
    /// The file that maps tensors to files.
    index: PathBuf,
}

impl WeightFiles {
    /// Opens model.safetensors, or the shards of model.safetensors.index.json, in the folder `model`, or opens the
    /// weights file `model`. For adapters, opens the weights of the model that they belong to.
    ///
    /// # Errors
    ///
    /// If there are no such files or a header is invalid.
    pub fn open(model: &Path) -> Result<WeightFiles> {
        let dir = adapter::model_folder(model)?;
        if disk::is_file(&dir) && is_pickled(&dir) {
            return Err(pickled(&dir));
        }
        let single = if disk::is_file(&dir) { dir.clone() } else { dir.join(SINGLE) };
        let (files, names, index) = if let Some(path) = gguf::file_of(&dir)? {
            let file = TensorFile::open_gguf(&path)?;
            let names = file.names().map(|name| (name.to_string(), 0)).collect();
            (vec![file], names, path)
        } else if disk::exists(&single) {
            let file = TensorFile::open(&single)?;
            let names = file.names().map(|name| (name.to_string(), 0)).collect();
            (vec![file], names, single)
        } else if disk::exists(&dir.join(INDEX)) {
            let (files, names) = open_shards(&dir)?;
            (files, names, dir.join(INDEX))
        } else {
            return Err(no_weights(&dir));
        };
        Ok(WeightFiles { model: model.to_owned(), dir, files, names, index })
    }

    /// Returns the number of tensors.
    pub fn tensor_count(&self) -> usize {
        self.names.len()
    }
}

impl Weights {
    /// Finds the weights of a model in opened files.
    ///
    /// Names may have the family's prefix; the family's buffers are ignored. An output head is accepted if it equals
    /// the token table or replaces it. The supported types are F32, F16 and BF16. If the files belong to adapters, the
    /// adapters are merged when the weights are read.
    ///
    /// # Errors
    ///
    /// Names the parameter that is missing or has another shape or type, and tensors that the model does not have.
    pub fn open(opened: WeightFiles, schema: Schema) -> Result<Weights> {
        let WeightFiles { model, dir, files, names, index } = opened;
        let family = schema.family;
        let mut found = without_prefix(family, names).map_err(|e| e.at(index.display()))?;
        let head = if schema.is_tied() { take_head(family, &mut found) } else { None };
        let places = find_parameters(&schema, &files, &mut found).map_err(|e| {
            let e = e.at(dir.display());
            match disk::is_file(&dir) && disk::exists(&folder_of(&dir).join(INDEX)) {
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
        let weights =
            Weights { files, places, by_name, adapters: None, notice: None, advice: None };
        if let Some(head) = head {
            weights.check_tied(family, &head).map_err(|e| e.at(dir.display()))?;
        }
        match adapter::is_there(&model) {
            true => weights.with_adapters_of(&model, &schema),
            false => Ok(weights),
        }
    }

    /// Returns a few numbers of the model, by which adapters recognise it; those of the files, without adapters.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn sample(&self) -> Result<BaseSample> {
        let named = self.places.iter().map(|(name, place)| (name.as_str(), self.shape(place)));
        BaseSample::of(named, |name, at, out| {
            self.read_place(&self.places[self.index(name)?].1, at, out)
        })
    }

    /// Returns a sentence for the user if the model is not the one that its adapters were trained on.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Adds the adapters in the folder `dir` to the weights. Another model than theirs is no fault: adapters are also used
    /// with models like their own.
    fn with_adapters_of(self, dir: &Path, schema: &Schema) -> Result<Weights> {
        let adapter = Adapter::open(dir, schema)?;
        let difference = match &adapter.sample {
            Some(was) => was.difference(&self.sample()?, Closeness::Rounded, schema),
            None => None,
        };
        let notice = difference.map(|difference| {
            format!(
                "the adapters in {} were trained on another state of their model: {difference}; put that model back, or \
                 train them again",
                dir.display()
            )
        });
        Ok(Weights { notice, ..self.adapted(adapter) })
    }

    /// Adds adapters to the weights.
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
    /// converted to f32.
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
        // The weights and the adapters are checked elsewhere; their sum is checked here.
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::input(format!(
                "{name} is infinite at {:?} once the adapters are merged into it",
                coordinates(offset + at, self.shape(place))
            ))
            .hint("the training that wrote the adapters diverged: take an earlier checkpoint")),
        }
    }

    /// Checks that elements of a parameter, as stored in its file, are finite numbers.
    fn check_numbers(
        &self,
        (name, place): &(String, Place),
        offset: usize,
        numbers: &[f32],
    ) -> Result<()> {
        // A sum of flags for exponents of all ones, without a branch, so that the loop is vectorised.
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

    /// Like [`Weights::read`], and checks in the same pass that the numbers in the file are finite.
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

    /// Sets the advice about errors that are found while reading.
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

    /// Checks that every weight is a finite number, using all threads.
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

    /// Checks that a separate output head equals the token table bit for bit.
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

/// Returns the names of the shards that the index in `dir` lists.
///
/// # Errors
///
/// If the index cannot be read, or names anything other than files in the folder itself.
pub fn shards(dir: &Path) -> Result<BTreeSet<String>> {
    Ok(read_index(dir)?.into_iter().map(|(_, shard)| shard).collect())
}

/// Reads the tensors that the index lists, each with its shard, a file in the folder itself.
fn read_index(dir: &Path) -> Result<Vec<(String, String)>> {
    let path = dir.join(INDEX);
    let fault = |what: String| Error::input(what).at(path.display());
    let text = disk::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
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

/// Opens the shards that the index lists.
fn open_shards(dir: &Path) -> Result<(Vec<TensorFile>, Names)> {
    let path = dir.join(INDEX);
    let fault = |what: String| Error::input(what).at(path.display());
    // Every name is checked before any file is opened.
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

/// Removes the prefix from names, and drops the buffers, which are not parameters.
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

/// Removes the output head from `found` if it is a second copy of the token table. If there is only the head, it is
/// kept as the table: of tied tensors, some writers keep the alphabetically first name.
fn take_head(family: &Family, found: &mut HashMap<String, Place>) -> Option<Place> {
    let (head, table) = (found.remove(family.head)?, family.token_table());
    if found.contains_key(&table) {
        return Some(head);
    }
    found.insert(table, head);
    None
}

/// Takes every parameter of the model out of `found` after checking its shape and type.
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

/// Returns the error for missing safetensors files, with advice about the files that exist.
fn no_weights(dir: &Path) -> Error {
    let entries = disk::read_dir(dir).into_iter().flatten().flatten();
    let is_weights = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Excludes a trainer's files and data files.
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

/// Whether a file name is that of a weights file in another format than safetensors, or of its index.
fn is_pickled(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".index.json").trim_end_matches(".index");
    let ends = [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"];
    ends.iter().any(|end| name.ends_with(end))
}

/// Returns the error for weights in an unsupported format, with advice on converting them.
pub(super) fn pickled(path: &Path) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (read, hint) = match name.starts_with("adapter_model") {
        true => (adapter::ADAPTER_FILES[1], SAVE_ADAPTERS_AS_SAFETENSORS),
        false => (SINGLE, SAVE_AS_SAFETENSORS),
    };
    Error::input(format!("{} cannot be read safely, only {read} is", path.display())).hint(hint)
}
