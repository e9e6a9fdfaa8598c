//! A recorded model on a backend: its parameters, its batches, its updates, its text.
//!
//! The engine is what training, evaluation and generation stand on. It knows views and phases, not
//! files and settings.

use std::sync::Arc;

use rayon::prelude::*;

use crate::backend::{Backend, Device};
use crate::config::GptConfig;
use crate::error::Result;
use crate::finetune::{FineTune, is_adapter, merge};
use crate::graph::Param;
use crate::kernel::Step;
use crate::model::{BatchViews, EXTENDS, GenerationViews, Program, UpdateViews, Uses};
use crate::ops::cross_entropy::{IGNORE, counted};
use crate::ops::global_norm::state;
use crate::ops::random;
use crate::plan::{Phase, View};
use crate::profile::Profile;

/// What a moment's tensor is called beside its parameter's name, in saves of a training state.
pub const MOMENTS: [&str; 2] = ["adam.m", "adam.v"];

/// A program and the backend that runs it.
pub struct Engine {
    program: Program,
    backend: Box<dyn Backend>,
    device: Device,
    profile: Option<Profile>,
    /// Whether parameters changed since [`Phase::Cast`] was run.
    changed: bool,
}

/// What an update came to, read back from the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The mean loss over the targets that count in all of the update's micro-batches.
    pub loss: f32,
    /// The norm of the gradient before clipping; negative if it was not finite.
    pub grad_norm: f32,
    /// What only the device knows: the words of [`state`].
    pub state: [u32; state::LEN],
}

/// A part of an update: as many sequences as the device takes at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// (B,T)
    pub tokens: Vec<u32>,
    /// (B,T); [`IGNORE`] where there is none.
    pub targets: Vec<u32>,
    /// The key of its random numbers.
    pub seed: [u32; 2],
}

/// Which tensor of a parameter: the parameter itself, or one of Adam's moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensor {
    /// The parameter.
    Value,
    /// The parameter's gradient.
    Gradient,
    /// The first (0) or second (1) moment.
    Moment(usize),
}

impl Engine {
    /// Records a model for some uses and makes its buffers on a device; parameters are zero.
    ///
    /// # Errors
    ///
    /// If the configuration is not valid, or the device cannot hold or bind what it needs.
    pub fn new(config: &GptConfig, uses: Uses, device: &Device) -> Result<Engine> {
        Engine::tuning(config, uses, &FineTune::default(), device)
    }

    /// The same, with a training that changes but a part of the model.
    ///
    /// # Errors
    ///
    /// As [`Engine::new`], or if the model has no such part.
    pub fn tuning(
        config: &GptConfig,
        uses: Uses,
        finetune: &FineTune,
        device: &Device,
    ) -> Result<Engine> {
        config.validate()?;
        finetune.validate(config)?;
        let program = Program::record_tuning(config, uses, finetune, device.limits());
        device.check(&program.plan)?;
        let backend = device.backend(Arc::new(program.plan.clone()))?;
        let mut engine =
            Engine { program, backend, changed: true, device: device.clone(), profile: None };
        if engine.program.update.is_some() {
            engine.write_state(&state::first(uses.loss_scale()));
        }
        Ok(engine)
    }

    /// Checks that a device can hold and bind what [`Engine::tuning`] would make, without making it.
    ///
    /// # Errors
    ///
    /// As [`Engine::tuning`].
    pub fn check(
        config: &GptConfig,
        uses: Uses,
        finetune: &FineTune,
        device: &Device,
    ) -> Result<()> {
        config.validate()?;
        finetune.validate(config)?;
        device.check(&Program::record_tuning(config, uses, finetune, device.limits()).plan)
    }

    /// What was recorded.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What it runs on.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it runs on, in words.
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// Replays that may be in flight between two reads.
    pub fn run_ahead(&self) -> usize {
        self.backend.run_ahead()
    }

    /// GPT-2's initialisation: normal with deviation 0.02, that of the projections into the residual
    /// stream divided by √(2 layers); biases 0, layer normalisation's weights 1.
    pub fn initialize(&mut self, seed: u64) {
        let residual = 0.02 / ((2 * self.program.config.n_layer) as f32).sqrt();
        let params = self.program.params.clone();
        let own = params.iter().filter(|param| !is_adapter(&param.name));
        for (index, param) in own.enumerate() {
            let deviation = match param.name.as_str() {
                name if name.ends_with("c_proj.weight") => residual,
                _ => 0.02,
            };
            let norm_weight = param.name.contains("ln_") && param.name.ends_with("weight");
            self.write_param(param, Tensor::Value, |start, out| {
                match (param.decays(), norm_weight) {
                    (true, _) => normals(seed, index as u32, start, deviation, out),
                    (false, true) => out.fill(1.0),
                    (false, false) => out.fill(0.0),
                }
                Ok(())
            })
            .expect("numbers are made without error");
        }
    }

    /// Adapters as PEFT begins: A uniform within 1 / √in, B zero, so that at first they change nothing.
    pub fn initialize_adapters(&mut self, seed: u64) {
        let params = self.program.params.clone();
        let adapters = params.iter().filter(|param| is_adapter(&param.name));
        for (index, param) in adapters.enumerate() {
            let bound = match param.name.ends_with("lora_A.weight") {
                true => 1.0 / (param.shape[1] as f64).sqrt(),
                false => 0.0,
            };
            let key = random::key(seed, u32::from_be_bytes(*b"lora"), index as u32);
            self.write_param(param, Tensor::Value, |start, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    let [word, _] = random::threefry(key, [(start + i) as u32, 0]);
                    *out = (bound * (f64::from(word) * 2f64.powi(-31) - 1.0)) as f32;
                }
                Ok(())
            })
            .expect("numbers are made without error");
        }
    }

    /// The views of one tensor of a parameter, each with where it begins in the whole.
    fn views(&self, param: &Param, tensor: Tensor) -> Vec<(usize, View)> {
        let width = param.len() / param.shape[0];
        let place = |view: View| match tensor {
            Tensor::Value | Tensor::Gradient => view,
            Tensor::Moment(i) => {
                let slot = self.program.slots.iter().find(|slot| slot.params.buffer == view.buffer);
                view.of(slot.and_then(|slot| slot.moments).expect("Adam has moments")[i].buffer)
            }
        };
        let slices = param.slices.iter().map(|slice| {
            let var = slice.var;
            let view = if tensor == Tensor::Gradient { var.grad } else { place(var.value) };
            (slice.start * width, view)
        });
        slices.collect()
    }

    /// Fills a tensor in pieces: `fill(start, out)` gives the elements from `start` on.
    ///
    /// # Errors
    ///
    /// The first of `fill`.
    pub fn write_param(
        &mut self,
        param: &Param,
        tensor: Tensor,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        const PIECE: usize = 1 << 20;
        self.changed |= tensor == Tensor::Value;
        let mut piece = vec![];
        for (start, view) in self.views(param, tensor) {
            for at in (0..view.len).step_by(PIECE) {
                piece.resize(PIECE.min(view.len - at), 0.0);
                fill(start + at, &mut piece)?;
                self.backend.write(view.slice(at, piece.len()), &piece);
            }
        }
        Ok(())
    }

    /// Reads the elements of a tensor from `start` on.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the tensor ends before `out` does.
    pub fn read_param(
        &mut self,
        param: &Param,
        tensor: Tensor,
        start: usize,
        out: &mut [f32],
    ) -> Result<()> {
        assert!(start + out.len() <= param.len(), "{} has {} elements", param.name, param.len());
        let end = start + out.len();
        for (first, view) in self.views(param, tensor) {
            let (from, to) = (start.max(first), end.min(first + view.len));
            if from < to {
                let part = view.slice(from - first, to - from);
                self.backend.read(part, &mut out[from - start..to - start])?;
            }
        }
        Ok(())
    }

    /// A tensor as a whole.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn param_data(&mut self, param: &Param, tensor: Tensor) -> Result<Vec<f32>> {
        let mut data = vec![0.0; param.len()];
        self.read_param(param, tensor, 0, &mut data)?;
        Ok(data)
    }

    /// Takes over the parameters of another engine of the same model, with its adapters merged into them.
    ///
    /// # Errors
    ///
    /// If a device is lost.
    ///
    /// # Panics
    ///
    /// If the models differ.
    pub fn copy_from(&mut self, other: &mut Engine) -> Result<()> {
        let params = self.program.params.clone();
        for param in params.iter().filter(|param| !is_adapter(&param.name)) {
            let theirs = other.program.param(&param.name).expect("the same model").clone();
            let adapter = other.adapter(&param.name)?;
            self.write_param(param, Tensor::Value, |start, out| {
                other.read_param(&theirs, Tensor::Value, start, out)?;
                if let Some((scale, [a, b])) = &adapter {
                    merge(*scale, [a, b], param.shape[1], start, out);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The scale, A and B of what adapts the weight called `name`, if something does.
    fn adapter(&mut self, name: &str) -> Result<Option<(f32, [Vec<f32>; 2])>> {
        let Some(lora) = self.program.finetune.lora.as_ref() else { return Ok(None) };
        let (scale, layer) = (lora.scale(), name.trim_end_matches(".weight"));
        let [a, b] = ["lora_A", "lora_B"]
            .map(|part| self.program.param(&format!("{layer}.{part}.weight")).cloned());
        let Some((a, b)) = a.zip(b) else { return Ok(None) };
        Ok(Some((
            scale,
            [self.param_data(&a, Tensor::Value)?, self.param_data(&b, Tensor::Value)?],
        )))
    }

    /// Whether adapters stand beside the model's own parameters.
    pub fn has_adapters(&self) -> bool {
        self.program.finetune.lora.is_some()
    }

    fn batch_views(&self) -> BatchViews {
        self.program.batch.expect("the program was recorded with batches")
    }

    fn update_views(&self) -> UpdateViews {
        self.program.update.expect("the program was recorded for training")
    }

    fn generation_views(&self) -> GenerationViews {
        self.program.generation.expect("the program was recorded for generation")
    }

    fn run(&mut self, phase: Phase, step: &Step) {
        if std::mem::replace(&mut self.changed, phase == Phase::Update)
            && self.program.plan.phases.contains_key(&Phase::Cast)
        {
            self.replay(Phase::Cast, step);
        }
        self.replay(phase, step);
    }

    fn replay(&mut self, phase: Phase, step: &Step) {
        let plan = &self.program.plan;
        match &mut self.profile {
            None => self.backend.run(plan.phase(phase), step),
            Some(profile) => profile.run(&mut *self.backend, plan, phase, step),
        }
    }

    /// Times every kernel from now on; each phase then waits for the device.
    pub fn begin_profile(&mut self) {
        self.profile = Some(Profile::new(&self.program.plan));
    }

    /// The times since [`Engine::begin_profile`], which ends here.
    pub fn end_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    fn check_tokens(&self, ids: &[u32]) {
        let vocab = self.program.config.vocab_size;
        let wrong = ids.iter().find(|id| **id as usize >= vocab);
        assert!(wrong.is_none(), "token {wrong:?} is out of range: the vocabulary has {vocab}");
    }

    fn check_targets(&self, ids: &[u32]) {
        let vocab = self.program.config.vocab_size;
        let wrong = ids.iter().find(|id| **id as usize >= vocab && **id != IGNORE);
        assert!(wrong.is_none(), "target {wrong:?} is out of range: the vocabulary has {vocab}");
    }

    fn write_batch(&mut self, tokens: &[u32], targets: &[u32]) {
        self.check_tokens(tokens);
        self.check_targets(targets);
        let views = self.batch_views();
        self.backend.write_u32(views.tokens, tokens);
        self.backend.write_u32(views.targets, targets);
    }

    /// Makes an update of `count` micro-batches; returns how many targets count in all of them. Without one there is
    /// nothing to learn, and everything stays as it is: parameters, moments, the number of updates applied.
    ///
    /// `fill` makes a micro-batch, by its number, in the place of the one before; it is called twice for each if there
    /// are several, first to count the targets, so that one at a time is in memory. `step` has the dropout and
    /// what the optimiser reads.
    ///
    /// # Errors
    ///
    /// The first of `fill`, before anything is changed by the update.
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn train_update(
        &mut self,
        count: usize,
        batch: &mut MicroBatch,
        mut fill: impl FnMut(usize, &mut MicroBatch) -> Result<()>,
        step: Step,
    ) -> Result<usize> {
        let mut all = 0;
        for micro in 0..count {
            fill(micro, batch)?;
            all += counted(&batch.targets);
        }
        if all == 0 {
            return Ok(0);
        }
        for micro in 0..count {
            if count > 1 {
                fill(micro, batch)?;
            }
            let step = Step { seed: batch.seed, ..step };
            self.train_batch(&batch.tokens, &batch.targets, (micro, all), step);
        }
        self.update(&step);
        Ok(all)
    }

    /// Forward and backward over micro-batch number `micro` of an update in which `all` targets count; `step` has the
    /// random key and the dropout. Gradients and loss are added up over the micro-batches of an update: each target
    /// counts the same, however they are spread over the micro-batches.
    ///
    /// # Panics
    ///
    /// If `tokens` or `targets` is not (B,T), a token is not of the vocabulary, or a target is neither of it
    /// nor [`IGNORE`].
    pub fn train_batch(
        &mut self,
        tokens: &[u32],
        targets: &[u32],
        (micro, all): (usize, usize),
        step: Step,
    ) {
        self.write_batch(tokens, targets);
        let loss_scale = 1.0 / all.max(1) as f64;
        let step = Step { accumulate: u32::from(micro > 0), loss_scale, ..step };
        self.run(Phase::Forward, &step);
        self.run(Phase::Backward, &step);
    }

    /// Norm, clipping and the optimiser.
    pub fn update(&mut self, step: &Step) {
        self.run(Phase::Update, step);
    }

    /// What the last update came to; waits for the device.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_update(&mut self) -> Result<Update> {
        let (views, loss_view) = (self.update_views(), self.batch_views().loss);
        let (mut loss, mut norm) = ([0.0], [0.0; 2]);
        self.backend.read(loss_view, &mut loss)?;
        self.backend.read(views.norm, &mut norm)?;
        Ok(Update { loss: loss[0], grad_norm: norm[0], state: self.read_state()? })
    }

    /// The words that only the device knows.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_state(&mut self) -> Result<[u32; state::LEN]> {
        let mut words = [0; state::LEN];
        let view = self.update_views().state;
        self.backend.read_u32(view, &mut words)?;
        Ok(words)
    }

    /// Overwrites the words that only the device knows.
    pub fn write_state(&mut self, words: &[u32; state::LEN]) {
        let view = self.update_views().state;
        self.backend.write_u32(view, words);
    }

    /// The sum of the losses (natural logarithm) of all rows with a target.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn evaluate(&mut self, tokens: &[u32], targets: &[u32]) -> Result<f64> {
        Ok(self.row_losses(tokens, targets)?.into_iter().map(f64::from).sum())
    }

    /// The loss (natural logarithm) of each row (B,T), 0 where there is no target.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`].
    pub fn row_losses(&mut self, tokens: &[u32], targets: &[u32]) -> Result<Vec<f32>> {
        self.write_batch(tokens, targets);
        let step = Step::default();
        self.run(Phase::Forward, &step);
        self.run(Phase::Evaluate, &step);
        let view = self.batch_views().row_loss;
        let mut row_loss = vec![0.0; view.len];
        self.backend.read(view, &mut row_loss)?;
        Ok(row_loss)
    }

    /// The logits (B,T,V) of a batch.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the program was recorded without them, `tokens` is not (B,T), or a token is not of the vocabulary.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.check_tokens(tokens);
        let view = self.batch_views().tokens;
        self.backend.write_u32(view, tokens);
        self.run(Phase::Forward, &Step::default());
        self.run(Phase::Logits, &Step::default());
        let view = self.batch_views().logits.expect("the program was recorded with logits");
        let mut logits = vec![0.0; view.len];
        self.backend.read(view, &mut logits)?;
        Ok(logits)
    }

    /// Starts a sequence: forgets which tokens were seen.
    pub fn begin_sequence(&mut self) {
        let view = self.generation_views().seen;
        self.backend.write_u32(view, &vec![0; view.len]);
    }

    /// Marks tokens as seen, for the repetition penalty.
    ///
    /// # Panics
    ///
    /// If an id is not of the vocabulary.
    pub fn mark_seen(&mut self, ids: &[u32]) {
        self.check_tokens(ids);
        let view = self.generation_views().seen;
        for &id in ids {
            self.backend.write_u32(view.slice(id as usize, 1), &[1]);
        }
    }

    /// Feeds tokens at positions from 0 on, after which [`Engine::sample`] draws the next one.
    ///
    /// # Panics
    ///
    /// If there are none, or more than the context, or one is not of the vocabulary.
    pub fn prefill(&mut self, ids: &[u32]) {
        assert!(!ids.is_empty(), "there is nothing to begin with");
        self.check_positions(0, ids.len());
        self.check_tokens(ids);
        let sequence = self.generation_views().sequence;
        self.backend.write_u32(sequence.slice(0, ids.len()), ids);
        let mut position = 0;
        while position < ids.len() {
            let left = (ids.len() - position) as u32;
            // The smallest replay that takes all that is left, else the largest.
            let n = EXTENDS.into_iter().rev().find(|n| *n >= left).unwrap_or(EXTENDS[0]);
            self.extend(n, position, left.min(n));
            position += left.min(n) as usize;
        }
    }

    /// Panics unless `count` positions from `position` on are of the context.
    fn check_positions(&self, position: usize, count: usize) {
        let context = self.program.config.n_positions;
        let fits = position.checked_add(count).is_some_and(|end| end <= context);
        assert!(fits, "{count} tokens from position {position} on exceed the context of {context}");
    }

    /// Computes the logits after `count` tokens of the sequence from `position` on, in a replay of `n`.
    ///
    /// # Panics
    ///
    /// If `n` is none of [`EXTENDS`], `count` is not within 1 to `n`, or the tokens exceed the context.
    pub fn extend(&mut self, n: u32, position: usize, count: u32) {
        assert!((1..=n).contains(&count), "{count} tokens in a replay of {n}");
        self.check_positions(position, count as usize);
        let step = Step { position: position as u32, count, ..Step::default() };
        self.run(Phase::Extend(n), &step);
    }

    /// Draws the token at `position` from the last logits and appends it to the sequence.
    ///
    /// # Panics
    ///
    /// If `position` is 0 or beyond the place after the context.
    pub fn sample(&mut self, position: usize, step: &Step) {
        assert!(position > 0, "a token is drawn after another");
        self.check_positions(position - 1, 1);
        let step = Step { position: position as u32 - 1, count: 1, ..*step };
        self.run(Phase::Sample, &step);
    }

    /// Tokens of the sequence; waits for the device.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_sequence(&mut self, start: usize, out: &mut [u32]) -> Result<()> {
        let view = self.generation_views().sequence;
        self.backend.read_u32(view.slice(start, out.len()), out)
    }

    /// The logits of the last row (V).
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_last_logits(&mut self) -> Result<Vec<f32>> {
        let view = self.generation_views().logits;
        let mut logits = vec![0.0; view.len];
        self.backend.read(view, &mut logits)?;
        Ok(logits)
    }

    /// What the last token was drawn from (V).
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_probs(&mut self) -> Result<Vec<f32>> {
        let view = self.generation_views().probs;
        let mut probs = vec![0.0; view.len];
        self.backend.read(view, &mut probs)?;
        Ok(probs)
    }
}

/// Normal numbers by Box & Muller, number `start + i` of tensor `tensor` whatever the pieces.
fn normals(seed: u64, tensor: u32, start: usize, deviation: f32, out: &mut [f32]) {
    let key = random::key(seed, u32::from_be_bytes(*b"init"), tensor);
    out.par_iter_mut().enumerate().with_min_len(1 << 12).for_each(|(i, out)| {
        let [a, b] = random::threefry(key, [(start + i) as u32, ((start + i) >> 32) as u32]);
        let radius = (-2.0 * ((f64::from(a) + 1.0) * 2f64.powi(-32)).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(b) * 2f64.powi(-32);
        *out = deviation * (radius * angle.cos()) as f32;
    });
}
