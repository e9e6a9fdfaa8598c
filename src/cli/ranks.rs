//! The ranks of a run: this process alone, or the processes that `mpirun` or `srun` has started.

use wgpt::backend::gpu::{self, DeviceChoice};
use wgpt::dist::World;
use wgpt::error::Kind;
use wgpt::model::Uses;
use wgpt::staged::{self, Staged, Wanted};
use wgpt::{Gpt, Result};

use super::options::open;
use super::output;

/// Variables by which launchers tell a process that it is one of several.
const RANK: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"];
/// By which they tell how many there are, on all machines and on this one, and which of these it is.
const SIZE: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
const LOCAL_SIZE: [&str; 2] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];
const LOCAL_RANK: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

fn number(names: &[&str]) -> Option<usize> {
    names.iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// Whether a launcher has started this process as one of several.
fn is_launched() -> bool {
    number(&RANK).is_some() && number(&SIZE) != Some(1)
}

/// Threads of the CPU for each of the ranks on this machine, where there are several.
pub fn threads() -> Option<usize> {
    let here = number(&LOCAL_SIZE).filter(|here| *here > 1 && is_launched())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Some((cores / here).max(1))
}

/// The device of this rank: where several ranks of a machine would take the same of several hardware GPUs, each takes
/// its own.
pub fn device(choice: DeviceChoice) -> DeviceChoice {
    let shared = matches!(choice, DeviceChoice::Auto | DeviceChoice::Gpu) && is_launched();
    let Some(rank) = number(&LOCAL_RANK).filter(|_| shared) else { return choice };
    let adapters = gpu::adapters();
    let hardware = adapters.iter().filter(|adapter| adapter.kind.is_real());
    let hardware: Vec<usize> = hardware.map(|adapter| adapter.index).collect();
    match hardware.len() {
        0 | 1 => choice,
        several => DeviceChoice::GpuIndex(hardware[rank % several]),
    }
}

/// What starts and ends the ranks' conversation.
pub struct Ranks {
    #[cfg(feature = "mpi")]
    session: Option<wgpt::dist::mpi::Session>,
}

impl Ranks {
    /// Finds the other ranks, if there are some.
    ///
    /// # Errors
    ///
    /// If there are some, but this program cannot talk to them.
    #[cfg(feature = "mpi")]
    pub fn begin() -> Result<Ranks> {
        let session = is_launched().then(wgpt::dist::mpi::Session::begin).transpose()?;
        Ok(Ranks { session })
    }

    /// Finds the other ranks, if there are some.
    ///
    /// # Errors
    ///
    /// If there are some, but this program cannot talk to them.
    #[cfg(not(feature = "mpi"))]
    pub fn begin() -> Result<Ranks> {
        match is_launched() {
            false => Ok(Ranks {}),
            true => Err(wgpt::Error::input(
                "this wgpt was built without MPI, so that the processes of mpirun or srun cannot work together",
            )
            .hint("build it with `cargo build --release --features mpi`, or start one process")),
        }
    }

    /// The ranks.
    pub fn world(&self) -> Box<dyn World> {
        #[cfg(feature = "mpi")]
        if let Some(session) = &self.session {
            return session.world();
        }
        Box::new(wgpt::dist::Alone)
    }

    /// Ends the conversation, once all ranks have come so far.
    pub fn end(self) {
        #[cfg(feature = "mpi")]
        if let Some(session) = self.session {
            session.end();
        }
    }
}

/// The other ranks, as the first one has them before it has put its model on them.
pub struct Others {
    stages: usize,
    world: Option<Box<dyn World>>,
}

impl Others {
    /// Puts a model on all ranks, if there are several; `may_shrink`: fewer sequences at once will do.
    ///
    /// # Errors
    ///
    /// As [`Staged::lead`].
    pub fn take(&mut self, gpt: &mut Gpt, uses: Uses, may_shrink: bool) -> Result<Option<Staged>> {
        let wanted = Wanted { stages: self.stages, uses, may_shrink };
        self.world.take().map(|world| Staged::lead(gpt, world, wanted)).transpose()
    }

    /// Whether there are some: a model must then be put on all ranks.
    pub fn are_there(&self) -> bool {
        self.world.is_some()
    }
}

/// Runs a command on the first of `stages` ranks; the others have their stages of its model. Without a number of stages, or
/// with one stage on one rank, this process does it alone.
///
/// # Errors
///
/// That of the command. If there are several ranks, all end by it.
pub fn on_stages(
    stages: Option<usize>,
    device: DeviceChoice,
    command: impl FnOnce(&mut Others) -> Result<()>,
) -> Result<()> {
    let Some(stages) = stages else { return command(&mut Others { stages: 1, world: None }) };
    let ranks = Ranks::begin()?;
    let world = ranks.world();
    let several = world.size() > 1;
    let result = match world.rank() {
        0 => {
            let world = (several || stages > 1).then_some(world);
            let mut others = Others { stages, world };
            let done = command(&mut others);
            if let Some(mut world) = others.world {
                staged::give_up(&mut *world);
            }
            done
        }
        _ => staged::follow(world, || open(self::device(device))),
    };
    if several && let Err(error) = result {
        // The other ranks must not be waited for: the launcher ends them.
        output::error(&error);
        std::process::exit(if error.kind() == Kind::Usage { 2 } else { 1 });
    }
    ranks.end();
    result
}
