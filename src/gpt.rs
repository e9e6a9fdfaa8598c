//! A model in hand: sizes, tokenizer, parameters and a device.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::backend::Device;
use crate::checkpoint::{self, EndOfText, Fill, ModelFiles, TextFiles, Weights};
use crate::config::{GptConfig, Precision};
use crate::engine::{Engine, MOMENTS, Tensor};
use crate::error::{Error, Result, field};
use crate::files;
use crate::finetune::FineTune;
use crate::generate::{Event, GenerateOptions, Request, StopText, generate, generate_all};
use crate::model::{self, Program, Uses};
use crate::tokenizer::{DecodeStream, Tokenizer};

/// Where the parameters are, or where they come from.
enum Origin {
    /// GPT-2's initialisation from a seed.
    Random(u64),
    /// Files that are open, their headers checked.
    Files(Box<Weights>),
    /// An engine.
    Engine,
}

/// A GPT-2 model: create or load it, give it a tokenizer, train it ([`crate::Trainer`]), generate text.
///
/// Nothing is allocated on the device before it is needed.
pub struct Gpt {
    config: GptConfig,
    tokenizer: Option<Tokenizer>,
    text_files: TextFiles,
    /// What follows from the tokenizer and the files.
    end: EndOfText,
    notices: Vec<String>,
    device: Device,
    origin: Origin,
    dropout: f64,
    precision: Precision,
    engine: Option<Engine>,
}

impl Gpt {
    /// A model with random parameters.
    ///
    /// # Errors
    ///
    /// If the sizes do not make a model.
    pub fn new(config: GptConfig, device: Device, seed: u64) -> Result<Gpt> {
        config.validate()?;
        let origin = Origin::Random(seed);
        Ok(Gpt::with_origin(config, device, origin))
    }

    /// A model from a folder of Hugging Face's files, or from a weights file with the others beside it, checked in
    /// this order: configuration, weights (names, types and shapes), where texts end, tokenizer (if there is one).
    /// [`crate::hub::find_model`] finds them by name. Of a folder of adapters
    /// it is the model that they belong to, with the adapters merged.
    ///
    /// The weights are read once, when they are first needed, which is also when a NaN or an infinity among them is
    /// found.
    ///
    /// # Errors
    ///
    /// The first fault.
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

    /// A model of weights that are open already, without a tokenizer.
    pub(crate) fn of_weights(config: GptConfig, weights: Weights, device: Device) -> Gpt {
        Gpt::with_origin(config, device, Origin::Files(Box::new(weights)))
    }

    fn with_origin(config: GptConfig, device: Device, origin: Origin) -> Gpt {
        Gpt {
            config,
            tokenizer: None,
            text_files: TextFiles::default(),
            end: EndOfText::default(),
            notices: vec![],
            device,
            origin,
            dropout: 0.0,
            precision: Precision::F32,
            engine: None,
        }
    }

    /// The sizes.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tokenizer, if it has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Where texts end and begin: what the model's files say, or else the tokenizer's `<|endoftext|>`.
    pub fn end_of_text(&self) -> &EndOfText {
        &self.end
    }

    /// What is odd about the model's files, though it can be used: a sentence each, for people.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Takes over what files say of where texts end.
    pub(crate) fn set_text_files(&mut self, files: TextFiles) {
        self.text_files = files;
        (self.end, self.notices) = self.text_files.end_of_text(self.tokenizer.as_ref());
    }

    /// Takes a tokenizer that fits, and with it where texts end.
    fn take_tokenizer(&mut self, tokenizer: Tokenizer) {
        self.tokenizer = Some(tokenizer);
        (self.end, self.notices) = self.text_files.end_of_text(self.tokenizer.as_ref());
    }

    /// Trains a tokenizer of up to `vocab` tokens on a text; the model takes its vocabulary's size.
    ///
    /// # Errors
    ///
    /// If the vocabulary is below 257, or the model has parameters already.
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

    /// Gives the model a tokenizer.
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

    /// The share of activations that training dropped, for config.json.
    pub(crate) fn set_dropout(&mut self, dropout: f64) {
        self.dropout = dropout;
    }

    /// What generation and evaluation multiply by.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What generation and evaluation multiply by from now on: weights as they are, or copies of half the size. A model
    /// that was trained keeps the precision of its training.
    ///
    /// Parameters are saved as they are in either.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// An engine for a program of this model, with its parameters; the old one, if there is one, is given up.
    ///
    /// # Panics
    ///
    /// If the engine was taken before and was not given back.
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

    /// Reads the parameters into an engine for a program, which stays with the model.
    pub(crate) fn load_into(&mut self, program: Program) -> Result<&mut Engine> {
        let engine = self.take_engine(program)?;
        Ok(self.engine.insert(engine))
    }

    /// An engine for some uses; the old one is given up.
    fn renew_engine(&mut self, uses: Uses) -> Result<&mut Engine> {
        self.load_into(Program::record(&self.config, uses, self.device.limits()))
    }

    /// Gives back an engine.
    pub(crate) fn put_engine(&mut self, engine: Engine) {
        self.engine = Some(engine);
    }

    /// The engine, made at its first use, for generation.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the model, or the parameters cannot be read.
    pub fn engine(&mut self) -> Result<&mut Engine> {
        self.engine_of(1)
    }

    /// The engine for generation with `slots` slots, or with as many as the device holds; one that has more will do.
    fn engine_of(&mut self, mut slots: usize) -> Result<&mut Engine> {
        let has = self.engine.as_ref().map(|engine| engine.program().uses);
        loop {
            if has.is_some_and(|has| has.generation.is_some_and(|has| has >= slots)) {
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
        Uses { generation: Some(slots), precision: self.precision, ..Uses::default() }
    }

    /// The engine for batches of `batch` sequences of `seq` tokens, to evaluate the model. One that is there already is
    /// extended, so that from then on one engine both generates and evaluates: the parameters stay where they are.
    ///
    /// # Errors
    ///
    /// As [`Gpt::engine`].
    pub fn batch_engine(&mut self, batch: usize, seq: usize) -> Result<&mut Engine> {
        let uses = Uses { batch, seq, precision: self.precision, ..Uses::default() };
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
    /// An empty prompt is the token that begins a new text: see [`EndOfText::opening`].
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

    /// The token ids of a prompt; of an empty one the token that begins a new text: see [`EndOfText::opening`].
    ///
    /// # Errors
    ///
    /// If there is no tokenizer.
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.need_tokenizer()?.encode_with_special(prompt);
        if ids.is_empty() {
            ids.extend(self.end.opening());
        }
        Ok(ids)
    }

    /// [`generate_stream`](Gpt::generate_stream) after a row of token ids.
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

    /// Several continuations of a row of token ids at once, each of the text that [`Gpt::generate_stream_after`] gives with
    /// its number as [`GenerateOptions::sample`]; returns the numbers of new tokens.
    ///
    /// `seen` is called with the number of a continuation, from that of `options` on, and what becomes of it.
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
        let all = samples(options, count);
        let requests: Vec<_> = all.iter().map(|options| Request { prompt: ids, options }).collect();
        let text = |_| (Some(tokenizer.decode_stream()), StopText::new(options.stop.clone()));
        let mut texts: Vec<(Option<DecodeStream<'_>>, StopText)> = all.iter().map(text).collect();
        let engine = self.engine_of(requests.len().min(MOST_SLOTS))?;
        let new = generate_all(engine, &requests, end.ids(), |index, event| {
            let (decoder, text) = &mut texts[index];
            let mut emit = |piece: &str| {
                if !piece.is_empty() {
                    seen(all[index].sample, SampleEvent::Text(piece));
                }
            };
            match event {
                // An id beyond the tokenizer, which a model with a padded vocabulary may draw, is no text.
                Event::Token(id) if !end.contains(id) && tokenizer.token_bytes(id).is_some() => {
                    if let Some(decoder) = decoder {
                        emit(&text.push(&decoder.push(id)?));
                    }
                }
                Event::Token(_) => {}
                Event::Begins => seen(all[index].sample, SampleEvent::Begins),
                Event::Ends => {
                    let rest = decoder.take().map(DecodeStream::finish).unwrap_or_default();
                    emit(&text.push(&rest));
                    emit(&text.finish());
                    seen(all[index].sample, SampleEvent::Ends);
                }
            }
            Ok(!text.stopped())
        })?;
        Ok(new.iter().map(Vec::len).collect())
    }

    /// Several continuations of a row of token ids at once, each as [`Gpt::generate_ids`] gives it with its number as
    /// [`GenerateOptions::sample`]. `seen` is called as that of [`Gpt::sample_texts`], with ids in the place of text.
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
        let (end, all) = (self.end.clone(), samples(options, count));
        let requests: Vec<_> = all.iter().map(|options| Request { prompt: ids, options }).collect();
        let engine = self.engine_of(requests.len().min(MOST_SLOTS))?;
        generate_all(engine, &requests, end.ids(), |index, event| {
            match event {
                Event::Begins => seen(all[index].sample, SampleEvent::Begins),
                Event::Token(id) => seen(all[index].sample, SampleEvent::Id(id)),
                Event::Ends => seen(all[index].sample, SampleEvent::Ends),
            }
            Ok(true)
        })
    }

    fn need_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::input("the model has no tokenizer")
                .hint(format!("give token ids instead of text: {} 1,2,3", field("prompt_ids")))
        })
    }

    /// Continues a row of token ids; returns the new ones, of which the last may be one that ends a text.
    ///
    /// # Errors
    ///
    /// If an id or an option is out of range, or the device is lost.
    pub fn generate_ids(&mut self, ids: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
        let end = self.end.clone();
        generate(self.engine()?, ids, options, end.ids(), |_| Ok(true))
    }

    /// Makes the adapters that the model was trained with, if any, a part of its weights.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the model beside itself, or is lost.
    pub fn merge_adapters(&mut self) -> Result<()> {
        if self.engine.as_ref().is_some_and(Engine::has_adapters) {
            let uses = self.generation(1);
            self.renew_engine(uses)?;
        }
        Ok(())
    }

    /// Writes the model's files, as Hugging Face's `save_pretrained` does, as a whole folder; adapters are merged
    /// first.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, or the device is lost.
    pub fn save(&mut self, dir: &Path) -> Result<()> {
        self.with_parameters(|model, fill| {
            files::write_folder(dir, |folder| checkpoint::write_model(folder, model, fill))
        })
    }

    /// Calls `write` with what the model's folder says and with the parameters, adapters merged, wherever they are: on
    /// the device, or still in the folder that they come from, which are then streamed without a device.
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

    /// What the model's folder says beside its weights.
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

/// The most continuations that are generated at once: as many as the smaller replays of generation take.
const MOST_SLOTS: usize = 8;

/// What becomes of one of several continuations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleEvent<'a> {
    /// It is begun.
    Begins,
    /// The next piece of its text, in whole characters.
    Text(&'a str),
    /// The next token, where ids are wanted and not text.
    Id(u32),
    /// It has ended.
    Ends,
}

/// The options of `count` continuations, numbered from that of `options` on.
fn samples(options: &GenerateOptions, count: u32) -> Vec<GenerateOptions> {
    let first = options.sample;
    let numbers = (0..count).map(|i| first.wrapping_add(i));
    numbers.map(|sample| GenerateOptions { sample, ..options.clone() }).collect()
}

/// What is said of added tokens that a model of `vocab_size` tokens has no row for, if there are some.
pub(crate) fn without_rows(tokens: &[String], vocab_size: usize) -> Option<String> {
    (!tokens.is_empty()).then(|| {
        format!("the model has no row for the added tokens {tokens:?}, since its vocab_size is {vocab_size}: they are left out")
    })
}

/// Gives an engine's tensors to a file: parameters by name, moments as [`MOMENTS`] call them.
pub(crate) fn engine_tensors(
    engine: &mut Engine,
) -> impl FnMut(&str, usize, &mut [f32]) -> Result<()> + '_ {
    |name, offset, out| {
        let moment = MOMENTS.iter().enumerate().find_map(|(i, prefix)| {
            Some((name.strip_prefix(prefix)?.strip_prefix('.')?, Tensor::Moment(i)))
        });
        let (name, tensor) = moment.unwrap_or((name, Tensor::Value));
        let param = engine.program().param(name).expect("a parameter of the model").clone();
        engine.read_param(&param, tensor, offset, out)
    }
}

/// Reads a checkpoint's parameters into an engine, piece by piece, each on all threads, and checks that they are finite.
fn load_weights(engine: &mut Engine, weights: &Weights) -> Result<()> {
    const PART: usize = 1 << 17;
    let params = engine.program().params.clone();
    for param in params.iter().filter(|param| !param.role.is_adapter()) {
        engine.write_param(param, Tensor::Value, |start, out| {
            let read = |(i, part): (usize, &mut [f32])| {
                weights.read_finite(&param.name, start + i * PART, part)
            };
            // Of several faults the first one is reported.
            let faults = out.par_chunks_mut(PART).enumerate().map(read);
            faults.find_map_first(Result::err).map_or(Ok(()), Err)
        })?;
    }
    Ok(())
}
