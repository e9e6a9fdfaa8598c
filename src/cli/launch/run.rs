//! Starts, ends and starts again.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use wgpt::{Error, Result};

use super::Args;
use super::status::VARIABLE;
use super::watch::Watch;
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
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::input(format!("listening for signals: {e}")))?;
    }
    let starter = Starter::find(&args.starter)?;
    let mut command = args.command.clone();
    let (mut left, mut known) = (args.restarts, None);
    loop {
        let watch = Watch::begin(args.listen)?;
        let mut child = starter.start(args.ranks, &command, &watch.place)?;
        let fault = match follow(&mut child, &watch, args, &stop)? {
            Ended::Well => return Ok(Outcome::Good),
            Ended::Badly(fault) => fault,
        };
        known = watch.run().or(known);
        let run = known.clone().filter(|run| watch.has_trained() && run.join("run.json").is_file());
        let Some(run) = run.filter(|_| left > 0 && !stop.load(Ordering::Relaxed)) else {
            return Err(Error::training(fault));
        };
        left -= 1;
        let place = output::path(&run);
        output::log(&format!("{fault}; going on from the last save of {place}"));
        command = resumed(&args.command, &run);
    }
}

/// The command that goes on with a run: of the options those that a run does not keep.
fn resumed(command: &[String], run: &Path) -> Vec<String> {
    let mut words = vec!["train".to_owned(), "--resume".to_owned()];
    words.push(run.to_string_lossy().into_owned());
    let mut rest = command.iter();
    while let Some(word) = rest.next() {
        if word == "--json" || word.starts_with("--threads=") {
            words.push(word.clone());
        } else if word == "--threads" {
            words.extend([Some(word), rest.next()].into_iter().flatten().cloned());
        }
    }
    words
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
        let allowed = std::env::var_os("OMPI_ALLOW_RUN_AS_ROOT").is_some()
            || words.iter().any(|word| word == "--allow-run-as-root");
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
        starter.stdin(Stdio::null()).env(VARIABLE, place).process_group(0).spawn().map_err(failed)
    }
}

/// Follows the ranks to their end; ends them if one hangs.
fn follow(child: &mut Child, watch: &Watch, args: &Args, stop: &AtomicBool) -> Result<Ended> {
    let patience = Duration::from_secs(args.rank_timeout.into());
    let began = Instant::now();
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
        let missing = || {
            let heard = watch.heard();
            let late = began.elapsed() > patience && heard < args.ranks as usize;
            late.then(|| format!("only {heard} of {} ranks have begun", args.ranks))
        };
        let dead = || watch.died_before(GRACE).then(|| watch.died()).flatten();
        if let Some(fault) = watch.hangs(patience).or_else(dead).or_else(missing) {
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
    let ranks = watch.processes();
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
