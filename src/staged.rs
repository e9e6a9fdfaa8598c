//! A model whose layers lie on several ranks, ready to generate or to be evaluated. Rank 0 has the model's files and leads;
//! each of the others gets the parameters of its stage from it, and follows.

use serde::{Deserialize, Serialize};

use crate::backend::Device;
use crate::checkpoint::Fill;
use crate::config::{GptConfig, Precision};
use crate::dist::{Link, Stages, VERSION, World, check_all, read_opening};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Result, field};
use crate::finetune::FineTune;
use crate::gpt::Gpt;
use crate::model::{Program, Uses, schema};
use crate::pipeline::{self, Stage};

/// Elements of a tensor that are sent at a time.
const ELEMENTS: usize = 1 << 20;

/// How a rank that cannot have its stage begins the error of the others.
const CANNOT: &str = "the model cannot be loaded";

/// What a model on several ranks is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// The number of stages: of ranks.
    pub stages: usize,
    /// The uses, of the whole model.
    pub uses: Uses,
    /// Whether fewer sequences at once will do where these do not fit on one of the ranks.
    pub may_shrink: bool,
}

/// What rank 0 tells the others: everything but the parameters.
#[derive(Debug, Serialize, Deserialize)]
struct Opening {
    version: String,
    model: GptConfig,
    batch: usize,
    seq: usize,
    slots: Option<usize>,
    context: Option<usize>,
    precision: Precision,
    may_shrink: bool,
}

/// A rank's stage of a model, and its link to the other ranks.
pub struct Staged {
    engine: Engine,
    link: Link,
}

impl Staged {
    /// Puts a model on all ranks, each of which gets one stage; the others call [`follow`] meanwhile. On an error
    /// they end, too.
    ///
    /// # Errors
    ///
    /// If the number of stages is not that of the ranks or exceeds that of the layers, a rank's device cannot hold its
    /// stage, a parameter cannot be read, or a rank is gone.
    pub fn lead(gpt: &mut Gpt, mut world: Box<dyn World>, wanted: Wanted) -> Result<Staged> {
        let config = gpt.config().clone();
        let checked = check_ranks(wanted.stages, world.size())
            .and_then(|()| pipeline::check(wanted.stages, config.n_layer));
        checked.inspect_err(|_| give_up(&mut *world))?;
        let Uses { batch, seq, generation: slots, context, precision, .. } = wanted.uses;
        let may_shrink = wanted.may_shrink;
        let version = VERSION.to_owned();
        let opening =
            Opening { version, model: config, batch, seq, slots, context, precision, may_shrink };
        world.broadcast(&mut serde_json::to_vec(&opening).expect("sizes are JSON"))?;
        check_all(&mut *world, Ok(()), CANNOT)?;
        let mut engine = engine(&mut *world, &opening, gpt.device())?;
        gpt.with_parameters(|_, fill| share(&mut engine, &mut *world, Some(fill)))?;
        Ok(Staged { engine, link: Link::new(world, wanted.stages) })
    }

    /// Returns the program of this rank's stage, which has the uses that fit on all ranks.
    pub fn program(&self) -> &Program {
        self.engine.program()
    }

    /// Returns the stages, on which rank 0 generates and evaluates.
    pub fn stages(&mut self) -> Stages<'_> {
        Stages::new(&mut self.engine, &self.link)
    }

    /// Lets the other ranks end.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn end(mut self) -> Result<()> {
        self.stages().end()
    }
}

/// Has a stage of the model that rank 0 [leads](Staged::lead), until that [ends](Staged::end). It reads no files; `device`
/// opens its device.
///
/// # Errors
///
/// If rank 0 did not load the model, is another version, or this rank cannot hold its stage; all ranks then end.
pub fn follow(mut world: Box<dyn World>, device: impl FnOnce() -> Result<Device>) -> Result<()> {
    let mut bytes = vec![];
    world.broadcast(&mut bytes)?;
    if bytes.is_empty() {
        // Rank 0 takes part in nothing more.
        return Err(Error::input("rank 0 could not load the model: see its message"));
    }
    let opened = read_opening(&bytes, |opening: &Opening| &opening.version).and_then(|opening| {
        let device = device()?;
        check_precision(opening.precision, &device)?;
        Ok((opening, device))
    });
    let (opening, device) = check_all(&mut *world, opened, CANNOT)?;
    let mut engine = engine(&mut *world, &opening, &device)?;
    share(&mut engine, &mut *world, None)?;
    let stages = world.size();
    let link = Link::new(world, stages);
    Stages::new(&mut engine, &link).follow()
}

/// Tells the other ranks, which wait in [`follow`], that rank 0 could not load the model.
pub fn give_up(world: &mut dyn World) {
    // They end in either case.
    let _ = world.broadcast(&mut vec![]);
}

fn check_ranks(stages: usize, ranks: usize) -> Result<()> {
    if stages == ranks {
        return Ok(());
    }
    let what = field("pipeline");
    Err(Error::usage(format!("{what} is {stages}, must be the number of ranks, {ranks}"))
        .hint(format!("start {stages} ranks, as with mpirun -n {stages}")))
}

fn check_precision(precision: Precision, device: &Device) -> Result<()> {
    device.check_precision(precision)?;
    match device {
        Device::Gpu(gpu) if precision == Precision::Mixed && !device.has_half() => {
            Err(Error::device(format!(
                "{} does not compute in half precision, as the first rank's device does",
                gpu.name()
            ))
            .hint(format!("give {} f32", field("precision"))))
        }
        _ => Ok(()),
    }
}

/// Makes the engine of this rank's stage. If it does not fit on one of the ranks, all take fewer sequences, if they may.
fn engine(world: &mut dyn World, opening: &Opening, device: &Device) -> Result<Engine> {
    let stage = Stage { index: world.rank(), of: world.size() };
    let mut uses = Uses {
        batch: opening.batch,
        seq: opening.seq,
        generation: opening.slots,
        context: opening.context,
        precision: opening.precision,
        ..Uses::default()
    }
    .of_stage(stage, 1);
    loop {
        let program = Program::record(&opening.model, uses, device.limits());
        let fit = world.gather(&[u64::from(device.fits(&program.plan))])?;
        let smaller = Uses {
            batch: (uses.batch / 2).max(uses.batch.min(1)),
            generation: uses.generation.map(|slots| (slots / 2).max(1)),
            ..uses
        };
        if smaller == uses || !opening.may_shrink || fit.iter().all(|words| words[0] == 1) {
            return check_all(world, Engine::with(program, device), CANNOT);
        }
        uses = smaller;
    }
}

/// Gives each rank the parameters that its stage has; rank 0 reads them by `fill`, some elements at a time.
fn share(
    engine: &mut Engine,
    world: &mut dyn World,
    mut fill: Option<&mut Fill<'_>>,
) -> Result<()> {
    let all = schema(&engine.program().config, &FineTune::default()).parameters;
    let has = all.iter().map(|info| u64::from(engine.program().param(&info.name).is_some()));
    let have = world.gather(&has.collect::<Vec<_>>())?;
    for (i, info) in all.iter().enumerate() {
        let own = engine.program().param(&info.name).cloned();
        let others = (1..world.size()).filter(|rank| have[*rank][i] == 1);
        let others: Vec<usize> = others.collect();
        for start in (0..info.len()).step_by(ELEMENTS) {
            let mut numbers = vec![0.0; ELEMENTS.min(info.len() - start)];
            match (&mut fill, &own) {
                (Some(fill), _) => {
                    fill(&info.name, start, &mut numbers)?;
                    let sent: Vec<_> = others.iter().map(|rank| (*rank, &numbers[..])).collect();
                    world.exchange(&sent, &mut [])?;
                }
                (None, Some(_)) => world.exchange(&[], &mut [(0, &mut numbers)])?,
                (None, None) => continue,
            }
            if let Some(param) = &own {
                engine.write_elements(param, Tensor::Value, start, &numbers);
            }
        }
    }
    Ok(())
}
