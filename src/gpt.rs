//! A model ready for use: sizes, tokenizer, parameters and a device.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::backend::Device;
use crate::checkpoint::{self, EndOfText, Fill, ModelFiles, TextFiles, Weights};
use crate::config::{GptConfig, Precision, WeightFormat};
use crate::engine::{Engine, MOMENTS, Tensor};
use crate::error::{Error, Result, field};
use crate::files;
use crate::finetune::FineTune;
use crate::generate::GenerateOptions;
use crate::graph::Param;
use crate::kernel::Format;
use crate::model::{self, Program, Uses};
use crate::params::ParamInfo;
use crate::runner::Runner;
use crate::sampler::{encode_prompt, no_tokenizer};
use crate::tokenizer::Tokenizer;

pub use crate::sampler::{SampleEvent, Sampler};

/// The current place or the source of the parameters.
enum Origin {
    /// GPT-2's initialisation from a seed.
    Random(u64),
    /// Open files whose headers were checked.
    Files(Box<Weights>),
    /// An engine.
    Engine,
}

/// A GPT-2 model: create or load it, give it a tokenizer, train it ([`crate::Trainer`]), generate text.
///
/// Memory on the device is allocated only when it is needed.
pub struct Gpt {
    config: GptConfig,
    tokenizer: Option<Tokenizer>,
    text_files: TextFiles,
    /// The tokens that end and begin texts, derived from the tokenizer and the files.
    end: EndOfText,
    /// A sentence for the user about the weights' files.
    about_weights: Option<String>,
    notices: Vec<String>,
    device: Device,
    origin: Origin,
    dropout: f64,
    precision: Precision,
    weights: WeightFormat,
    /// The positions of a slot, if fewer than the model's.
    context: Option<usize>,
    engine: Option<Engine>,
}

impl Gpt {
    /// Creates a model with random parameters.
    ///
    /// # Errors
    ///
    /// If the sizes do not form a valid model.
    pub fn new(config: GptConfig, device: Device, seed: u64) -> Result<Gpt> {
        config.validate()?;
        let origin = Origin::Random(seed);
        Ok(Gpt::with_origin(config, device, origin))
    }

    /// Loads a model from a folder of Hugging Face files, or from a weights file with the other files beside it. The
    /// parts are checked in this order: configuration, weights (names, types and shapes), end of text, tokenizer (if
    /// there is one). [`crate::hub::find_model`] finds a model by its name. For a folder of adapters, the result is the
    /// model that they belong to, with the adapters merged.
    ///
    /// The weights are read once, when they are first needed; a NaN or an infinity among them is only found then.
    ///
    /// # Errors
    ///
    /// The first fault that is found.
    pub fn load(folder: &Path, device: Device) -> Result<Gpt> {
        let config = checkpoint::read_config(folder)?;
        let weights = model::open_weights(folder, &config)?;
        let mut gpt = Gpt::of_weights(config, weights, device);
        gpt.set_text_files(TextFiles::read(folder, gpt.config.vocab_size)?);
        if let Some(place) = checkpoint::tokenizer_folder(folder)? {
            let (tokenizer, left_out) = Tokenizer::load(&place)?.within(gpt.config.vocab_size)?;
            gpt.set_tokenizer(tokenizer).map_err(|error| error.at(place.display()))?;
            gpt.notices.extend(without_rows(&left_out, gpt.config.vocab_size));
        }
        Ok(gpt)
    }

    /// Creates a model from weights that are already open, without a tokenizer.
    pub(crate) fn of_weights(config: GptConfig, weights: Weights, device: Device) -> Gpt {
        let about_weights = weights.notice().map(str::to_owned);
        let notices = about_weights.iter().cloned().collect();
        let gpt = Gpt::with_origin(config, device, Origin::Files(Box::new(weights)));
        Gpt { about_weights, notices, ..gpt }
    }

    fn with_origin(config: GptConfig, device: Device, origin: Origin) -> Gpt {
        Gpt {
            config,
            tokenizer: None,
            text_files: TextFiles::default(),
            end: EndOfText::default(),
            about_weights: None,
            notices: vec![],
            device,
            origin,
            dropout: 0.0,
            precision: Precision::F32,
            weights: WeightFormat::F32,
            context: None,
            engine: None,
        }
    }

    /// Returns the sizes of the model.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the tokenizer, if the model has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Returns the tokens that end and begin texts: those that the model's files name, or else the tokenizer's
    /// `<|endoftext|>`.
    pub fn end_of_text(&self) -> &EndOfText {
        &self.end
    }

    /// Returns a sentence for the user about each oddity of the model's files that does not prevent their use.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Returns the source of the model's own chat template, if its files have one.
    pub(crate) fn chat_template(&self) -> Result<Option<String>> {
        self.text_files.template_source()
    }

    /// Sets the end of text from the model's files.
    pub(crate) fn set_text_files(&mut self, files: TextFiles) {
        self.text_files = files;
        self.update_end();
    }

    fn update_end(&mut self) {
        let of_texts;
        (self.end, of_texts) = self.text_files.end_of_text(self.tokenizer.as_ref());
        self.notices = self.about_weights.iter().cloned().chain(of_texts).collect();
    }

    /// Sets a tokenizer that fits the model, and updates the end of text.
    fn take_tokenizer(&mut self, tokenizer: Tokenizer) {
        self.tokenizer = Some(tokenizer);
        self.update_end();
    }

    /// Trains a tokenizer of up to `vocab` tokens on a text; the model's vocabulary gets the size of the tokenizer's.
    ///
    /// # Errors
    ///
    /// If `vocab` is below 257, or the model already has parameters.
    pub fn train_tokenizer(&mut self, text: &str, vocab: usize) -> Result<()> {
        let tokenizer = Tokenizer::train(text.as_bytes(), vocab)?;
        if !matches!(self.origin, Origin::Random(_)) {
            return Err(Error::input("the model has parameters for its own vocabulary already")
                .hint("train a tokenizer before anything else"));
        }
        self.config.vocab_size = tokenizer.vocab_size();
        self.take_tokenizer(tokenizer);
        Ok(())
    }

    /// Sets the model's tokenizer.
    ///
    /// # Errors
    ///
    /// If the tokenizer has more tokens than the model.
    pub fn set_tokenizer(&mut self, tokenizer: Tokenizer) -> Result<()> {
        if tokenizer.vocab_size() > self.config.vocab_size {
            return Err(Error::input(format!(
                "the tokenizer has {} tokens, the model's vocab_size is {}",
                tokenizer.vocab_size(),
                self.config.vocab_size
            ))
            .hint("use the tokenizer that the model was trained with"));
        }
        self.take_tokenizer(tokenizer);
        Ok(())
    }

    /// Returns the seed of the parameters, if they are random numbers that were not made yet.
    pub(crate) fn seed(&self) -> Option<u64> {
        match self.origin {
            Origin::Random(seed) => Some(seed),
            Origin::Files(_) | Origin::Engine => None,
        }
    }

    /// Sets the dropout of the training, which config.json records.
    pub(crate) fn set_dropout(&mut self, dropout: f64) {
        self.dropout = dropout;
    }

    /// Returns the precision of products in generation and evaluation.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets the precision of products in generation and evaluation: full-precision weights, or copies of half the size.
    /// A trained model keeps the precision of its training.
    ///
    /// Saved parameters are the same with either precision.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Returns the names of the matrices that are stored in bf16 instead of blocks, since the length of their sums is no
    /// multiple of a block's.
    pub fn without_blocks(&self) -> Vec<String> {
        let schema = model::schema(&self.config, &FineTune::default());
        let is_cut = |info: &&ParamInfo| {
            info.role.summed(&info.shape).is_some_and(|summed| !Format::Q8_0.is_whole(summed))
        };
        match self.weights {
            WeightFormat::Q8_0 => {
                schema.own().filter(is_cut).map(|info| info.name.clone()).collect()
            }
            _ => vec![],
        }
    }

    /// Returns the format in which matrices are stored for generation and evaluation.
    pub fn weights(&self) -> WeightFormat {
        self.weights
    }

    /// Sets the format in which matrices are stored for generation and evaluation, into which they are rounded when they are
    /// read. The ranks of a pipeline have them in f32.
    ///
    /// Parameters that are saved afterwards are the rounded ones.
    pub fn set_weights(&mut self, weights: WeightFormat) {
        self.weights = weights;
    }

    /// Sets how many positions a sequence has room for in generation, if they are to be fewer than the model's: caches of
    /// keys and values take memory for all of them. A trained model has room for sequences as long as those of its training.
    pub fn set_context(&mut self, context: Option<usize>) {
        self.context = context.filter(|context| *context < self.config.n_positions);
    }

    /// Returns an engine for a program of this model, with its parameters; an older engine is dropped.
    ///
    /// # Panics
    ///
    /// If the engine was already taken and was not put back.
    pub(crate) fn take_engine(&mut self, program: Program) -> Result<Engine> {
        if let Some(old) = &mut self.engine {
            if !Arc::ptr_eq(&old.program().plan, &program.plan) {
                *old = Engine::with_params_of(old, program)?;
            }
            return Ok(self.engine.take().expect("it was looked at"));
        }
        let mut engine = Engine::with(program, &self.device)?;
        match &self.origin {
            Origin::Random(seed) => engine.initialize(*seed),
            Origin::Files(weights) => load_weights(&mut engine, weights)?,
            Origin::Engine => panic!("the model's engine was taken"),
        }
        self.origin = Origin::Engine;
        Ok(engine)
    }

    /// Reads the parameters into an engine for a program; the engine stays with the model.
    pub(crate) fn load_into(&mut self, program: Program) -> Result<&mut Engine> {
        let engine = self.take_engine(program)?;
        Ok(self.engine.insert(engine))
    }

    /// Makes an engine for these uses, which stays with the model; the old one is dropped.
    ///
    /// # Errors
    ///
    /// As [`Gpt::engine`].
    pub fn renew_engine(&mut self, uses: Uses) -> Result<&mut Engine> {
        self.load_into(Program::record(&self.config, uses, self.device.limits()))
    }

    /// Puts an engine back.
    pub(crate) fn put_engine(&mut self, engine: Engine) {
        self.engine = Some(engine);
    }

    /// Returns the engine for generation; it is made at the first call.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the model, or the parameters cannot be read.
    pub fn engine(&mut self) -> Result<&mut Engine> {
        self.engine_of(1)
    }

    /// Returns an engine for generation with at least `slots` slots, or with as many as the device can hold.
    fn engine_of(&mut self, mut slots: usize) -> Result<&mut Engine> {
        let has = self.engine.as_ref().map(|engine| engine.program().uses);
        loop {
            let fits = |has: Uses| {
                has.generation.is_some_and(|has| has >= slots) && has.context == self.context
            };
            if has.is_some_and(fits) {
                return Ok(self.engine.as_mut().expect("it was looked at"));
            }
            let uses = self.generation(slots);
            let uses = has.map_or(uses, |has| uses.beside(has));
            let program = Program::record(&self.config, uses, self.device.limits());
            if slots == 1 || self.device.check(&program.plan).is_ok() {
                return self.load_into(program);
            }
            slots /= 2;
        }
    }

    fn generation(&self, slots: usize) -> Uses {
        let (context, precision, weights) = (self.context, self.precision, self.weights);
        Uses { generation: Some(slots), context, precision, weights, ..Uses::default() }
    }

    /// Returns the uses for `count` continuations, which are generated at once as far as that is faster.
    pub fn uses_of_samples(&self, count: usize) -> Uses {
        self.generation(count.clamp(1, MOST_SLOTS))
    }

    /// Returns the uses for a server of `slots` sequences at once.
    pub fn uses_of_serving(&self, slots: usize) -> Uses {
        Uses { serving: true, ..self.generation(slots) }
    }

    /// Returns the uses for batches of `batch` sequences of `seq` tokens, to evaluate the model.
    pub fn uses_of_batches(&self, batch: usize, seq: usize) -> Uses {
        let (precision, weights) = (self.precision, self.weights);
        Uses { batch, seq, precision, weights, ..Uses::default() }
    }

    /// Returns what continues texts with this model's tokenizer on a runner of the model.
    pub fn sampler<'a, R: Runner>(&'a self, runner: &'a mut R) -> Sampler<'a, R> {
        Sampler { runner, tokenizer: self.tokenizer.as_ref(), end: &self.end }
    }

    /// Returns the engine for batches of `batch` sequences of `seq` tokens, to evaluate the model. An existing engine
    /// is extended so that one engine both generates and evaluates: the parameters stay in place.
    ///
    /// # Errors
    ///
    /// As [`Gpt::engine`].
    pub fn batch_engine(&mut self, batch: usize, seq: usize) -> Result<&mut Engine> {
        let uses = self.uses_of_batches(batch, seq);
        match self.engine.as_ref().map(|engine| engine.program().uses) {
            Some(has) if (has.batch, has.seq) == (batch, seq) => {
                Ok(self.engine.as_mut().expect("it was looked at"))
            }
            Some(has) => self.renew_engine(uses.beside(has)),
            None => self.renew_engine(uses),
        }
    }

    /// Continues a text.
    ///
    /// # Errors
    ///
    /// As [`Gpt::generate_stream`].
    pub fn generate(&mut self, prompt: &str, options: &GenerateOptions) -> Result<String> {
        let mut text = String::new();
        self.generate_stream(prompt, options, &mut |piece| text.push_str(piece))?;
        Ok(text)
    }

    /// Continues a text piece by piece, in whole characters; returns the number of new tokens.
    ///
    /// An empty prompt is replaced by the token that begins a new text: see [`EndOfText::opening`].
    ///
    /// # Errors
    ///
    /// If there is no tokenizer, an option is out of range, or the device is lost.
    pub fn generate_stream(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<usize> {
        let ids = self.encode_prompt(prompt)?;
        self.generate_stream_after(&ids, options, on_text)
    }

    /// Returns the token ids of a prompt, after the tokens that the tokenizer puts before a text
    /// ([`Tokenizer::template`]) unless the prompt has them written out. Tokens after a text are not put there, since the
    /// text goes on. An empty prompt is the tokens before a text, or else the token that begins a new text: see
    /// [`EndOfText::opening`].
    ///
    /// # Errors
    ///
    /// If there is no tokenizer.
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let tokenizer = self.need_tokenizer()?;
        Ok(encode_prompt(tokenizer, &self.end, prompt).0)
    }

    /// Runs [`generate_stream`](Gpt::generate_stream) after a sequence of token ids.
    ///
    /// # Errors
    ///
    /// If there is no tokenizer, an id or an option is out of range, or the device is lost.
    pub fn generate_stream_after(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<usize> {
        let counts = self.sample_texts(ids, options, 1, &mut |_, event| {
            if let SampleEvent::Text(piece) = event {
                on_text(piece);
            }
        })?;
        Ok(counts[0])
    }

    /// Generates several continuations of a sequence of token ids at once; returns the numbers of new tokens. Each text
    /// is the one that [`Gpt::generate_stream_after`] gives when [`GenerateOptions::sample`] is the continuation's
    /// number.
    ///
    /// `seen` is called with the number of a continuation and its event; the numbers start at the `sample` of
    /// `options`.
    ///
    /// # Errors
    ///
    /// As [`Gpt::generate_stream_after`].
    pub fn sample_texts(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        count: u32,
        seen: &mut dyn FnMut(u32, SampleEvent<'_>),
    ) -> Result<Vec<usize>> {
        let (tokenizer, end) = (self.need_tokenizer()?.clone(), self.end.clone());
        let runner = self.engine_of((count as usize).min(MOST_SLOTS))?;
        Sampler { runner, tokenizer: Some(&tokenizer), end: &end }.texts(ids, options, count, seen)
    }

    /// Generates several continuations of a sequence of token ids at once. Each is the one that [`Gpt::generate_ids`]
    /// gives when [`GenerateOptions::sample`] is its number. `seen` is called as in [`Gpt::sample_texts`], with ids
    /// instead of text.
    ///
    /// # Errors
    ///
    /// As [`Gpt::generate_ids`].
    pub fn sample_ids(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        count: u32,
        seen: &mut dyn FnMut(u32, SampleEvent<'_>),
    ) -> Result<Vec<Vec<u32>>> {
        let end = self.end.clone();
        let runner = self.engine_of((count as usize).min(MOST_SLOTS))?;
        Sampler { runner, tokenizer: None, end: &end }.ids(ids, options, count, seen)
    }

    fn need_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(no_tokenizer)
    }

    /// Continues a sequence of token ids; returns the new ones, the last of which may be a token that ends a text.
    ///
    /// # Errors
    ///
    /// If an id or an option is out of range, or the device is lost.
    pub fn generate_ids(&mut self, ids: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
        let end = self.end.clone();
        Sampler { runner: self.engine()?, tokenizer: None, end: &end }.one(ids, options)
    }

    /// Merges the adapters that the model was trained with, if any, into its weights.
    ///
    /// # Errors
    ///
    /// If the device has no room for a second copy of the model, or is lost.
    pub fn merge_adapters(&mut self) -> Result<()> {
        if self.engine.as_ref().is_some_and(Engine::has_adapters) {
            let uses = self.generation(1);
            self.renew_engine(uses)?;
        }
        Ok(())
    }

    /// Writes the model's folder with the same files as Hugging Face's `save_pretrained`, whole or not at all; adapters
    /// are merged first.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, or the device is lost.
    pub fn save(&mut self, dir: &Path) -> Result<()> {
        self.with_parameters(|model, fill| {
            files::write_folder(dir, |folder| checkpoint::write_model(folder, model, fill))
        })
    }

    /// Calls `write` with the contents of the model's folder and with the parameters, adapters merged. The parameters
    /// are read from the device, or streamed without a device from the folder that they come from.
    pub(crate) fn with_parameters<T>(
        &mut self,
        write: impl FnOnce(&ModelFiles, &mut Fill) -> Result<T>,
    ) -> Result<T> {
        self.merge_adapters()?;
        if let Origin::Files(weights) = &self.origin {
            let fill =
                &mut |name: &str, offset, out: &mut [f32]| weights.read_finite(name, offset, out);
            return write(&self.files(), fill);
        }
        self.engine()?;
        let mut engine = self.engine.take().expect("just made");
        let written = write(&self.files(), &mut engine_tensors(&mut engine));
        self.engine = Some(engine);
        written
    }

    /// Returns the contents of the model's folder, except its weights.
    pub(crate) fn files(&self) -> ModelFiles<'_> {
        ModelFiles {
            config: &self.config,
            schema: model::schema(&self.config, &FineTune::default()),
            dropout: self.dropout,
            tokenizer: self.tokenizer.as_ref(),
            text_files: &self.text_files,
            adapter: None,
        }
    }
}

/// The most continuations that are generated at once: as many as the smaller replays of generation have rows.
const MOST_SLOTS: usize = 8;

/// Returns a note about added tokens that have no row in a model of `vocab_size` tokens, if there are any.
pub(crate) fn without_rows(tokens: &[String], vocab_size: usize) -> Option<String> {
    (!tokens.is_empty()).then(|| {
        format!("the model has no row for the added tokens {tokens:?}, since its vocab_size is {vocab_size}: they are left out")
    })
}

/// Returns a function that fills tensors of a file from an engine.
pub(crate) fn engine_tensors(
    engine: &mut Engine,
) -> impl FnMut(&str, usize, &mut [f32]) -> Result<()> + '_ {
    |name, offset, out| {
        let (param, tensor) = tensor_of(engine, name).expect("a parameter of the model");
        engine.read_param(&param, tensor, offset, out)
    }
}

/// Returns the tensor that a file has under this name, if the engine's part of the model has it: parameters by name, moments
/// under the prefixes of [`MOMENTS`].
pub(crate) fn tensor_of(engine: &Engine, name: &str) -> Option<(Param, Tensor)> {
    let moment = MOMENTS.iter().enumerate().find_map(|(i, prefix)| {
        Some((name.strip_prefix(prefix)?.strip_prefix('.')?, Tensor::Moment(i)))
    });
    let (name, tensor) = moment.unwrap_or((name, Tensor::Value));
    Some((engine.program().param(name)?.clone(), tensor))
}

/// Reads a checkpoint's parameters into an engine, each in parts on all threads, and checks that they are finite.
fn load_weights(engine: &mut Engine, weights: &Weights) -> Result<()> {
    const PART: usize = 1 << 17;
    let format = engine.program().uses.weights;
    let params = engine.program().params.clone();
    for param in params.iter().filter(|param| !param.role.is_adapter()) {
        engine.write_param(param, Tensor::Value, |start, out| {
            let read = |(i, part): (usize, &mut [f32])| {
                weights.read_finite(&param.name, start + i * PART, part)?;
                check_fits(&param.name, part, format)
            };
            // If there are several faults, the first one is reported.
            let faults = out.par_chunks_mut(PART).enumerate().map(read);
            faults.find_map_first(Result::err).map_or(Ok(()), Err)
        })?;
    }
    Ok(())
}

/// Refuses numbers that a format cannot hold.
fn check_fits(name: &str, numbers: &[f32], format: WeightFormat) -> Result<()> {
    let most = format.largest();
    let Some(large) = numbers.iter().find(|x| x.abs() > most) else { return Ok(()) };
    let format = format.name();
    Err(Error::input(format!(
        "{name} has the number {large:e}, above what {format} holds, {most:e}"
    ))
    .hint(format!("choose another format with {}, such as bf16", field("weights"))))
}
