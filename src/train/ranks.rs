//! How several ranks become one run: rank 0 opens the run, and the others get from it all that they need.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::agree::check_all;
use super::{Trainer, kinds, saves};
use crate::backend::Device;
use crate::backend::gpu::Kinds;
use crate::checkpoint::{self, RunDir, TrainState};
use crate::config::{GptConfig, TrainConfig};
use crate::data::{Split, TokenWriter, Tokens};
use crate::dist::{Group, Layout, Link, VERSION, World, other_version, read_opening};
use crate::engine::{Engine, MOMENTS, Tensor};
use crate::error::{Error, Result, field};
use crate::fit::Programs;
use crate::gpt::Gpt;
use crate::graph::Param;
use crate::model::{self, Uses};
use crate::pipeline::Grid;

/// What rank 0 says where there is nothing to do.
const FINISHED: &[u8] = b"finished";

/// Token ids that go through the ranks at a time.
const IDS: usize = 1 << 20;

/// Elements of a tensor that go through the ranks at a time.
const ELEMENTS: usize = 1 << 20;

/// Reads elements of a tensor from some place on, if rank 0 has them from somewhere.
type Read<'a> = dyn FnMut(&mut Engine, usize, &mut [f32]) -> Result<bool> + 'a;

/// What rank 0 tells the others of the run: everything but the token ids and the tensors.
#[derive(Serialize, Deserialize)]
struct Opening {
    version: String,
    model: GptConfig,
    train: TrainConfig,
    state: TrainState,
    /// Whether rank 0 computes on the CPU.
    on_cpu: bool,
    /// The variants of kernels that the run takes on each kind of adapter, as far as it has them.
    kinds: Kinds,
    /// Token ids, the file in which rank 0 has them, and those of training and of validation.
    tokens: usize,
    file: String,
    splits: [Range<usize>; 2],
    /// Where the validation split begins, if the files define it.
    validation: Option<usize>,
    /// Whether the ids carry the marks of conversations.
    are_conversations: bool,
}

impl Trainer {
    /// Makes this trainer, which rank 0 has opened, the run of all ranks: the others call [`join`] meanwhile.
    ///
    /// # Errors
    ///
    /// If a rank is gone or cannot join, or the device is lost.
    ///
    /// # Panics
    ///
    /// If the settings are for another number of ranks.
    pub fn lead(&mut self, mut world: Box<dyn World>) -> Result<()> {
        assert_eq!(self.config.ranks, world.size(), "the run is for this many ranks");
        self.check_origin()?;
        self.state.device_words = self.engine.read_state()?.to_vec();
        let kinds = self.kinds()?;
        let opening = Opening {
            version: VERSION.to_owned(),
            model: self.gpt.config().clone(),
            train: TrainConfig { out: None, ..self.config.clone() },
            state: self.state.clone(),
            on_cpu: matches!(self.gpt.device(), Device::Cpu),
            kinds: kinds.clone(),
            tokens: self.tokens.len(),
            file: self.tokens.name().to_owned(),
            validation: self.tokens.validation(),
            are_conversations: self.tokens.are_conversations(),
            splits: [self.train.range(), self.val.range()],
        };
        let mut bytes = serde_json::to_vec(&opening).expect("settings are JSON");
        world.broadcast(&mut bytes)?;
        check_all(&mut *world, Ok(()))?;
        self.agree_on_kinds(&mut *world, kinds)?;
        let wanted = is_wanted(&mut *world, false)?;
        for start in (0..self.tokens.len()).step_by(IDS).filter(|_| wanted) {
            let mut ids = vec![0; IDS.min(self.tokens.len() - start)];
            self.tokens.copy_marked(start..start + ids.len(), &mut ids);
            world.broadcast(&mut bytemuck::cast_slice(&ids).to_vec())?;
        }
        check_all(&mut *world, Ok(()))?;
        self.take_part(world)
    }

    /// Checks that the ranks which split the parameters can get theirs.
    fn check_origin(&self) -> Result<()> {
        let is_in_files = self.restored.is_some() || self.base.is_some();
        if self.is_seeded || is_in_files || !self.engine.program().splits_weights() {
            return Ok(());
        }
        Err(Error::input("the ranks split the parameters, which are in the memory of rank 0 alone")
            .hint(format!("save the model, and begin with {} and its folder", field("init"))))
    }

    /// Takes over the tensors of rank 0, and trains with the others from now on.
    fn take_part(&mut self, mut world: Box<dyn World>) -> Result<()> {
        self.share_out(&mut *world)?;
        let grid = self.config.grid();
        // Ranks that train on their own add nothing up, and neither does one that has its layers alone.
        if grid.replicas() > 1 && self.config.local.is_none() {
            let shares = self.config.shares();
            let layout = Layout::new(self.engine.program(), &shares, self.config.sum);
            self.layout = Some(agree_on_layout(layout, grid, &mut *world)?);
        }
        self.share_tensors(&mut *world)?;
        self.link = Link::new(world, grid.stages);
        Ok(())
    }

    /// The variants that this run takes on each kind of adapter, the one of this rank among them.
    fn kinds(&self) -> Result<Kinds> {
        let mut kinds: Kinds =
            self.run.as_ref().map(RunDir::choices).transpose()?.flatten().unwrap_or_default();
        if let Device::Gpu(gpu) = self.gpt.device() {
            kinds.name_unnamed(gpu.name());
            if kinds.of(gpu.name()).is_none() {
                kinds.put(gpu.name(), gpu.choices(&self.engine.program().plan));
            }
        }
        Ok(kinds)
    }

    /// Agrees with the other ranks, which are in [`join`], on the variants of all kinds, which the run then keeps.
    fn agree_on_kinds(&self, world: &mut dyn World, kinds: Kinds) -> Result<()> {
        let nothing = || unreachable!("the choices of the first rank's kind are there");
        let all = kinds::agree(world, kinds.clone(), kinds::name_of(self.gpt.device()), nothing)?;
        let kept = match &self.run {
            Some(run) if all != kinds => run.keep_choices(&all),
            _ => Ok(()),
        };
        check_all(world, kept)
    }
}

/// The trainer of a rank that is not the first, in the run that rank 0 [leads](Trainer::lead); `None` if the run is
/// finished. It reads none of the run's files and writes none; `device` opens its device, and is told whether rank 0
/// computes on the CPU.
///
/// # Errors
///
/// If rank 0 did not open the run, is another version, or this rank cannot hold the model; all ranks then end.
pub fn join(
    mut world: Box<dyn World>,
    device: impl FnOnce(bool) -> Result<Device>,
) -> Result<Option<Trainer>> {
    let mut bytes = vec![];
    world.broadcast(&mut bytes)?;
    if bytes == FINISHED {
        return Ok(None);
    }
    if bytes.is_empty() {
        // Rank 0 takes part in nothing more.
        return Err(Error::training("rank 0 could not open the run: see its message"));
    }
    let opened = read_opening(&bytes, |opening: &Opening| &opening.version);
    let opened = opened.and_then(|mut opening| {
        (opening.train.rank, opening.train.ranks) = (world.rank(), world.size());
        let device = device(opening.on_cpu)?;
        device.check_precision(opening.train.precision)?;
        Ok((device, opening))
    });
    let (device, opening) = check_all(&mut *world, opened)?;
    let programs = &mut Programs::default();
    let device = settle(device, &opening, &mut *world, programs)?;
    let seen = tokens_of_file(&opening);
    let ids = match is_wanted(&mut *world, seen.is_none())? {
        false => Ok(seen.expect("nobody wants them")),
        true => {
            let received = receive_tokens(&mut *world, &opening)?;
            seen.map_or(received, Ok)
        }
    };
    let made = ids.and_then(|tokens| {
        let gpt = Gpt::new(opening.model, device, opening.train.seed)?;
        let mut trainer = Trainer::with(gpt, tokens, opening.train, programs)?;
        let [train, val] = opening.splits;
        let seq = trainer.shape.1;
        trainer.train = Split::new(&trainer.tokens, train, seq, seq)?;
        trainer.val = Split::new(&trainer.tokens, val, seq, 1)?;
        let state = &opening.state;
        let own = state.words_of_others.get(world.rank() - 1).unwrap_or(&state.device_words);
        let words = own.as_slice().try_into();
        trainer.engine.write_state(&words.map_err(|_| other_version("other counters"))?);
        trainer.state = opening.state;
        Ok(trainer)
    });
    let mut trainer = check_all(&mut *world, made)?;
    trainer.take_part(world)?;
    Ok(Some(trainer))
}

/// The device with the variants that all ranks of its kind take.
fn settle(
    device: Device,
    opening: &Opening,
    world: &mut dyn World,
    programs: &mut Programs,
) -> Result<Device> {
    let Opening { model, train, .. } = opening;
    let choose = || {
        let Device::Gpu(gpu) = &device else { unreachable!("the CPU is no kind of adapter") };
        let uses = Uses::training(train, model);
        let program = programs.of(model, uses, &train.finetune, device.limits());
        kinds::choose(gpu, &program.plan, &mut |_| {})
    };
    let kinds = kinds::agree(world, opening.kinds.clone(), kinds::name_of(&device), choose)?;
    // Rank 0 keeps them meanwhile.
    check_all(world, Ok(()))?;
    Ok(kinds::settle(device, &kinds))
}

/// Tells the other ranks, which wait in [`join`], that rank 0 could not open the run.
pub fn give_up(world: &mut dyn World) {
    // They end in either case.
    let _ = world.broadcast(&mut vec![]);
}

/// Tells the other ranks, which wait in [`join`], that the run is finished.
///
/// # Errors
///
/// If a rank is gone.
pub fn finished(world: &mut dyn World) -> Result<()> {
    world.broadcast(&mut FINISHED.to_vec())
}

/// The layout of what the ranks of a stage add up, in the order of the first of them. All must lay it out alike: a device with
/// smaller bindings may need more parts.
fn agree_on_layout(mut layout: Layout, grid: Grid, world: &mut dyn World) -> Result<Layout> {
    let words: Vec<u64> = layout.lens().chain(layout.order()).map(|word| word as u64).collect();
    let all = world.gather(&words)?;
    let lens = |rank: usize| &all[rank][..all[rank].len() / 2];
    let first_of = |rank: usize| Grid { rank, ..grid }.stage().index * grid.replicas();
    if let Some(rank) = (0..grid.size).find(|rank| lens(*rank) != lens(first_of(*rank))) {
        let first = first_of(rank);
        return Err(Error::input(format!(
            "the device of rank {rank} holds the gradients in other parts than that of rank {first}, so that they cannot be added"
        ))
        .hint("a tensor exceeds what one of the devices can bind: take devices of one kind"));
    }
    let first = &all[first_of(grid.rank)];
    let order: Vec<usize> = first[first.len() / 2..].iter().map(|word| *word as usize).collect();
    layout.take_order(&order);
    Ok(layout)
}

/// The token ids of rank 0's file, if this rank sees it, with the same contents.
fn tokens_of_file(opening: &Opening) -> Option<Tokens> {
    let tokens = Tokens::open(Path::new(&opening.file)).ok()?;
    let is_same =
        tokens.len() == opening.tokens && tokens.fingerprint() == opening.state.data_fingerprint;
    is_same.then_some(tokens)
}

/// Whether a rank needs the token ids from rank 0; `needs`: this one does.
fn is_wanted(world: &mut dyn World, needs: bool) -> Result<bool> {
    Ok(world.gather(&[u64::from(needs)])?.iter().any(|words| words[0] == 1))
}

/// Receives the token ids into a file of this machine that is gone with the process.
fn receive_tokens(world: &mut dyn World, opening: &Opening) -> Result<Result<Tokens>> {
    let path = tempfile::Builder::new().prefix("wgpt-tokens-").tempdir();
    let path = path.map_err(|e| Error::input(format!("a temporary folder: {e}")));
    let mut writer = path.and_then(|dir| {
        let path = dir.path().join("tokens.bin");
        let writer = match opening.are_conversations {
            true => TokenWriter::create_conversations(&path)?,
            false => TokenWriter::create(&path, opening.model.vocab_size)?,
        };
        Ok((dir, writer))
    });
    for _ in (0..opening.tokens).step_by(IDS) {
        let mut bytes = vec![];
        world.broadcast(&mut bytes)?;
        let ids: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        writer = writer.and_then(|(dir, mut writer)| {
            writer.push(&ids)?;
            Ok((dir, writer))
        });
    }
    // The file stays readable while it is mapped, though it has no name any more.
    Ok(writer.and_then(|(_dir, writer)| Ok(writer.finish()?.validating_from(opening.validation))))
}

impl Trainer {
    /// Gives every rank the parameters of rank 0, and the moments that it goes on with. Rank 0 reads those that it has not
    /// itself, of other stages or of what ranks split, from the files of the model; where there are none yet, each rank has made
    /// its own.
    fn share_tensors(&mut self, world: &mut dyn World) -> Result<()> {
        let all = model::schema(self.gpt.config(), &self.config.finetune).parameters;
        let base = self.base.as_ref().map(|base| &base.folder);
        let folder = self.restored.as_ref().or(base).filter(|_| world.rank() == 0);
        let splits_weights = self.engine.program().splits_weights();
        let weights = folder.filter(|_| self.config.pipeline > 1 || splits_weights);
        let weights =
            weights.map(|path| model::open_weights(path, self.gpt.config())).transpose()?;
        for info in &all {
            let own = self.engine.program().param(&info.name).cloned();
            let mut fill = |engine: &mut Engine, start, out: &mut [f32]| match (&own, &weights) {
                (Some(param), _) if engine.has_whole(param, Tensor::Value) => {
                    engine.read_param(param, Tensor::Value, start, out).map(|()| true)
                }
                (_, Some(weights)) => weights.read_finite(&info.name, start, out).map(|()| true),
                (_, None) => Ok(false),
            };
            let place = (own.as_ref(), Tensor::Value, info.len());
            self.share(world, place, &mut fill)?;
        }
        let tensors = saves::moments(self.gpt.config(), &self.config);
        if self.state.step == 0 || tensors.is_empty() {
            return Ok(());
        }
        let saved = self.restored.as_ref().map(|path| checkpoint::open_state(path, &tensors));
        let saved = saved.transpose()?;
        let trained = all.iter().filter(|info| self.config.finetune.trains(&info.name, info.role));
        let trained: Vec<_> = trained.collect();
        for (i, prefix) in MOMENTS.iter().enumerate() {
            for info in &trained {
                let name = format!("{prefix}.{}", info.name);
                let own = self.engine.program().param(&info.name).cloned();
                let place = (own.as_ref(), Tensor::Moment(i), info.len());
                self.share(world, place, &mut |_, start, out| {
                    let (_, file) = saved.as_ref().expect("rank 0 goes on from a save");
                    file.read(&name, start, out).map(|()| true)
                })?;
            }
        }
        Ok(())
    }

    /// Gives every rank that has it a tensor of `len` elements which `fill` reads on rank 0, some elements at a time. If rank 0
    /// has it from nowhere, the first rank that has it gives it to those of the same stage.
    fn share(
        &mut self,
        world: &mut dyn World,
        (param, tensor, len): (Option<&Param>, Tensor, usize),
        fill: &mut Read<'_>,
    ) -> Result<()> {
        let group = Group::with_same_parameters(self.config.grid());
        for start in (0..len).step_by(ELEMENTS) {
            let mut numbers = vec![0.0; ELEMENTS.min(len - start)];
            let mut bytes = vec![];
            if world.rank() == 0 && fill(&mut self.engine, start, &mut numbers)? {
                bytes = bytemuck::cast_slice(&numbers).to_vec();
            }
            world.broadcast(&mut bytes)?;
            let Some(param) = param else { continue };
            if bytes.is_empty() {
                if self.engine.program().splits_weights() {
                    // Each rank has made its own part.
                    continue;
                }
                self.engine.read_param(param, tensor, start, &mut numbers)?;
                group.give(world, &mut numbers)?;
            } else {
                numbers = bytemuck::pod_collect_to_vec(&bytes);
            }
            if world.rank() > 0 {
                self.engine.write_elements(param, tensor, start, &numbers);
            }
        }
        Ok(())
    }
}
