//! A recorded model on a backend: its parameters, batches, updates and generated sequences.
//!
//! Training, evaluation and generation are built on the engine. It knows views and phases, but no files and no
//! settings.

mod batches;
mod params;
mod sequences;
mod stages;
mod sums;

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{Backend, Device, Given};
use crate::config::GptConfig;
use crate::error::Result;
use crate::finetune::FineTune;
use crate::kernel::{LossScale, Step, state};
use crate::model::{Program, Uses, check_finetune};
use crate::plan::Phase;
use crate::profile::Profile;
use crate::timeline::Activity;

pub use batches::{LossesTicket, MicroBatch, Update};
pub(crate) use batches::{count_targets, sum};
pub use params::{MOMENTS, Tensor};
pub use sequences::{Drawn, DrawnTicket, DrawnTokens, prompt_feeds};
pub use stages::{FromAfter, FromBefore, StreamTicket};
pub use sums::Finals;
use sums::Sum;

/// A program and the backend that runs it.
pub struct Engine {
    program: Program,
    backend: Box<dyn Backend>,
    device: Device,
    profile: Option<Profile>,
    /// Whether parameters changed since [`Phase::Cast`] was run.
    changed: bool,
    gradients: Gradients,
    /// The number of positions that each slot holds.
    lengths: Vec<usize>,
    /// The number of rows of the last replay of generation.
    extended: u32,
    /// The sum over an update's micro-batches.
    sum: Sum,
    /// The micro-batches of a stage that are between their forward and their backward pass: number and step.
    flying: Vec<Option<(usize, Step)>>,
    /// Host memory that was given back.
    rooms: Vec<Vec<f32>>,
}

/// The state of the gradients' memory, which also holds the caches of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gradients {
    /// No update needs the gradients.
    Free,
    /// It holds gradients of micro-batches whose update is still to come.
    InUse,
}

impl Engine {
    /// Records a model for these uses and makes its buffers on a device; the parameters are zero.
    ///
    /// # Errors
    ///
    /// If the configuration is not valid, or the device cannot hold or bind the buffers.
    pub fn new(config: &GptConfig, uses: Uses, device: &Device) -> Result<Engine> {
        Engine::tuning(config, uses, &FineTune::default(), device)
    }

    /// Does the same as [`Engine::new`] for a training that changes only a part of the model.
    ///
    /// # Errors
    ///
    /// As [`Engine::new`], or if the model does not have this part.
    pub fn tuning(
        config: &GptConfig,
        uses: Uses,
        finetune: &FineTune,
        device: &Device,
    ) -> Result<Engine> {
        config.validate()?;
        check_finetune(config, finetune)?;
        let program = Program::record_tuning(config, uses, finetune, device.limits());
        Engine::with(program, device)
    }

    /// Makes the buffers of a recorded program on a device that has the limits it was recorded for; the parameters are
    /// zero.
    ///
    /// # Errors
    ///
    /// If the device cannot hold or bind the program's buffers.
    pub fn with(program: Program, device: &Device) -> Result<Engine> {
        Engine::with_buffers(program, device, vec![])
    }

    /// Does the same as [`Engine::with`], with some buffers that another engine gave up.
    fn with_buffers(program: Program, device: &Device, given: Vec<Given>) -> Result<Engine> {
        device.check(&program.plan)?;
        let backend = device.backend_with(Arc::clone(&program.plan), given)?;
        let slots = program.uses.generation.unwrap_or(0);
        let mut engine = Engine {
            program,
            backend,
            changed: true,
            device: device.clone(),
            profile: None,
            gradients: Gradients::Free,
            lengths: vec![0; slots],
            extended: 0,
            sum: Sum::default(),
            flying: vec![],
            rooms: vec![],
        };
        if engine.program.update.is_some() {
            engine.write_state(&state::first(engine.program.loss_scale));
        }
        Ok(engine)
    }

    /// Makes updates change the loss scale or leave it, as the ranks have agreed. Everything in memory stays.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn set_loss_scale(&mut self, scale: LossScale) -> Result<()> {
        if self.program.loss_scale == scale {
            return Ok(());
        }
        let program = self.program.clone().with_loss_scale(scale);
        let buffers = 0..program.plan.buffers.len();
        let give = |buffer| Given { buffer, memory: self.backend.give_up(buffer) };
        let given = buffers.map(give).collect();
        self.backend = self.device.backend_with(Arc::clone(&program.plan), given)?;
        self.program = program;
        Ok(())
    }

    /// Returns the recorded program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Returns the backend that it runs on.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// Returns the device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Describes the backend in words.
    pub fn describe(&self) -> String {
        self.backend.describe()
    }

    /// Returns the number of replays that may be in flight between two reads.
    pub fn run_ahead(&self) -> usize {
        self.backend.run_ahead()
    }

    /// Returns the number of requests that may be pending while the next replays are submitted, so that the device does
    /// not run out of work; 0 where waiting costs nothing.
    pub fn reads_ahead(&self) -> usize {
        self.run_ahead() / 2
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
        self.replay_range(self.program.plan.phase(phase), step);
    }

    fn replay_range(&mut self, range: Range<usize>, step: &Step) {
        match &mut self.profile {
            None => self.backend.run(range, step),
            Some(profile) => profile.run(&mut *self.backend, &self.program.plan, range, step),
        }
    }

    /// Starts to time every kernel; each phase then waits for the device.
    pub fn begin_profile(&mut self) {
        self.profile = Some(Profile::new(&self.program.plan));
    }

    /// Returns the profile that [`Engine::begin_profile`] started, if it has not ended.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Ends the profile that [`Engine::begin_profile`] started, and returns it.
    pub fn end_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    /// Does something that a profile shows as a copy between the device and the host.
    pub(crate) fn copies<T>(&mut self, copy: impl FnOnce(&mut Engine) -> T) -> T {
        let start_s = self.profile.as_ref().map(|profile| profile.clock().seconds());
        let result = copy(self);
        if let (Some(profile), Some(start_s)) = (&mut self.profile, start_s) {
            profile.record(Activity::Copy, start_s);
        }
        result
    }

    fn check_tokens(&self, ids: &[u32]) {
        let vocab = self.program.config.vocab_size;
        let wrong = ids.iter().find(|id| **id as usize >= vocab);
        assert!(wrong.is_none(), "token {wrong:?} is out of range: the vocabulary has {vocab}");
    }
}
