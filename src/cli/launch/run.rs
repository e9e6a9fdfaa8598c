//! Starts, ends and starts again.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wgpt::{Error, Result};

use super::status::VARIABLE;
use super::watch::Watch;
use super::{Args, host};
use crate::cli::outcome::Outcome;
use crate::cli::output;

/// The pause between two looks at the ranks.
const PAUSE: Duration = Duration::from_millis(100);
/// How long ranks may take to end before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// How one start ended.
enum Ended {
    Well,
    /// By a fault, in words.
    Badly(String),
}

/// Starts the ranks, and after a fault again, until they have ended well.
///
/// # Errors
///
/// If they cannot be started, or a fault is left after all restarts.
pub fn run(args: &Args) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::input(format!("listening for signals: {e}")))?;
    }
    let starter = Starter::find(&args.starter)?;
    let mut command = args.command.clone();
    let mut left = args.restarts;
    loop {
        let watch = Watch::begin(args.listen)?;
        let mut child = starter.start(args.ranks, &command, &watch.place)?;
        let patience = Duration::from_secs(args.rank_timeout.into());
        let fault = match follow(&mut child, &watch, patience, &stop)? {
            Ended::Well => return Ok(Outcome::Good),
            Ended::Badly(fault) => fault,
        };
        let (run, stopping) = (watch.run(), stop.load(Ordering::Relaxed));
        let resume = run.filter(|run| watch.has_trained() && run.join("run.json").is_file());
        let Some(run) = resume.filter(|_| left > 0 && !stopping) else {
            return Err(Error::training(fault));
        };
        left -= 1;
        let place = output::path(&run);
        output::log(&format!("{fault}; going on from the last save of {place}"));
        command = ["train", "--resume"].map(str::to_owned).into();
        command.push(run.to_string_lossy().into_owned());
    }
}

/// What starts the ranks.
struct Starter {
    words: Vec<String>,
    /// Whether it is Open MPI's, which has to be told which variables the ranks get.
    is_open_mpi: bool,
}

impl Starter {
    fn find(command: &str) -> Result<Starter> {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let Some(program) = words.first() else {
            return Err(
                Error::usage("--starter is empty").hint("give mpirun or \"srun --mpi=pmix\"")
            );
        };
        let version = Command::new(program).arg("--version").output().map_err(|e| {
            Error::input(format!("{program} cannot be started: {e}"))
                .hint("install MPI (Debian: openmpi-bin), or name another command by --starter")
        })?;
        let is_open_mpi = String::from_utf8_lossy(&version.stdout).contains("Open MPI");
        let allowed = std::env::var_os("OMPI_ALLOW_RUN_AS_ROOT").is_some();
        if is_open_mpi && rustix::process::geteuid().is_root() && !allowed {
            return Err(Error::input("Open MPI does not start ranks for root").hint(
                "in a container, set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
            ));
        }
        Ok(Starter { words, is_open_mpi })
    }

    /// Starts the ranks in a process group of their own, so that Ctrl-C reaches the launcher alone.
    fn start(&self, ranks: u32, command: &[String], place: &str) -> Result<Child> {
        let failed = |e| Error::input(format!("{} cannot be started: {e}", self.words[0]));
        let mut starter = Command::new(&self.words[0]);
        starter.args(&self.words[1..]).args(["-n", &ranks.to_string()]);
        if self.is_open_mpi {
            starter.args(["-x", VARIABLE]);
        }
        starter.arg(std::env::current_exe().map_err(failed)?).args(command);
        starter.env(VARIABLE, place).process_group(0).spawn().map_err(failed)
    }
}

/// Follows the ranks to their end; ends them if one hangs.
fn follow(
    child: &mut Child,
    watch: &Watch,
    patience: Duration,
    stop: &AtomicBool,
) -> Result<Ended> {
    let waited = |e| Error::input(format!("waiting for the ranks: {e}"));
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().map_err(waited)? {
            return Ok(judge(status, watch));
        }
        if stop.load(Ordering::Relaxed) && !told {
            told = true;
            output::log("stopping all ranks after this update");
            send(child.id(), Signal::USR1);
        }
        if let Some(fault) = watch.hangs(patience) {
            end(child, watch);
            return Ok(Ended::Badly(fault));
        }
        thread::sleep(PAUSE);
    }
}

/// Says how the ranks ended, once the starter has.
fn judge(status: ExitStatus, watch: &Watch) -> Ended {
    if status.success() {
        return Ended::Well;
    }
    // The last words of the ranks are still on their way.
    thread::sleep(PAUSE);
    let unknown = || format!("the ranks ended with {status}: see the messages above");
    Ended::Badly(watch.died().unwrap_or_else(unknown))
}

/// Ends all ranks: politely, then those of this machine and the starter by force.
fn end(child: &mut Child, watch: &Watch) {
    let ranks = watch.processes(&host());
    send(child.id(), Signal::TERM);
    let began = Instant::now();
    let ends = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
    while !ends(child) && began.elapsed() < GRACE {
        thread::sleep(PAUSE);
    }
    for rank in ranks {
        send(rank, Signal::KILL);
    }
    if !ends(child) {
        let _ = child.kill();
    }
    let _ = child.wait();
}

/// Sends a signal; a process that has ended meanwhile needs none.
fn send(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
