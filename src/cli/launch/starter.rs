//! What starts the ranks: mpirun, mpiexec or srun. It also finds out which hosts are still there.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use wgpt::{Error, Result};

use super::hosts::{self, Host};
use super::status::VARIABLE;

/// How long a host may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The pause between two looks at those that have not answered.
const PAUSE: Duration = Duration::from_millis(50);

/// What starts the ranks.
pub struct Starter {
    words: Vec<String>,
    kind: Kind,
}

/// Whose it is: they take variables and hosts by different options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    OpenMpi,
    Slurm,
    /// Hydra, of MPICH and Intel MPI.
    Other,
}

impl Starter {
    /// Finds the command that `--starter` gives.
    ///
    /// # Errors
    ///
    /// If it is empty, is not there, or refuses to start ranks for this user.
    pub fn find(command: &str) -> Result<Starter> {
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
        let kind = match Path::new(program).file_name().is_some_and(|name| name == "srun") {
            true => Kind::Slurm,
            false if String::from_utf8_lossy(&version.stdout).contains("Open MPI") => Kind::OpenMpi,
            false => Kind::Other,
        };
        let allowed = std::env::var_os("OMPI_ALLOW_RUN_AS_ROOT").is_some()
            || words.iter().any(|word| word == "--allow-run-as-root");
        if kind == Kind::OpenMpi && rustix::process::geteuid().is_root() && !allowed {
            return Err(Error::input("Open MPI does not start ranks for root").hint(
                "in a container, set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
            ));
        }
        Ok(Starter { words, kind })
    }

    /// Starts the ranks on these hosts, or where the starter puts them if there are none.
    ///
    /// # Errors
    ///
    /// If the starter cannot be started.
    pub fn start(
        &self,
        ranks: u32,
        hosts: &[Host],
        command: &[String],
        place: &str,
    ) -> Result<Child> {
        let mut starter = self.command(ranks, hosts);
        if self.kind == Kind::OpenMpi {
            starter.args(["-x", VARIABLE]);
        }
        let failed = |e| Error::input(format!("{} cannot be started: {e}", self.words[0]));
        starter.arg(std::env::current_exe().map_err(failed)?).args(command);
        starter.env(VARIABLE, place).spawn().map_err(failed)
    }

    /// The starter, up to what it is to start, in a process group of its own, so that Ctrl-C reaches the launcher alone.
    fn command(&self, ranks: u32, hosts: &[Host]) -> Command {
        let mut starter = Command::new(&self.words[0]);
        starter.args(&self.words[1..]);
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        match self.kind {
            _ if hosts.is_empty() => {}
            Kind::OpenMpi => _ = starter.args(["--host", &hosts::list(hosts)]),
            Kind::Other => _ = starter.args(["-hosts", &hosts::list(hosts)]),
            Kind::Slurm => {
                starter.arg(format!("--nodelist={}", names.join(",")));
                starter.arg(format!("--nodes={}", names.len()));
            }
        }
        starter.args(["-n", &ranks.to_string()]).stdin(Stdio::null()).process_group(0);
        starter
    }

    /// Returns those hosts that are still there: this machine, and those on which the starter starts a process before its
    /// time is up. All are asked at once.
    pub fn answering(&self, hosts: &[Host]) -> Vec<Host> {
        let ask = |host: &Host| -> Option<Child> {
            let mut probe = self.command(1, std::slice::from_ref(host));
            probe.arg("true").stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let asked: Vec<(&Host, Option<Child>)> = hosts
            .iter()
            .map(|host| (host, if is_here(&host.name) { None } else { ask(host) }))
            .collect();
        let began = Instant::now();
        let answered = |(host, probe): (&Host, Option<Child>)| {
            match probe.map(|probe| answers(probe, began)) {
                Some(answered) => answered,
                None => is_here(&host.name),
            }
            .then(|| host.clone())
        };
        asked.into_iter().filter_map(answered).collect()
    }
}

/// Waits for the answer of a host that was asked at `began`.
fn answers(mut probe: Child, began: Instant) -> bool {
    loop {
        match probe.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if began.elapsed() < ANSWER => thread::sleep(PAUSE),
            _ => break,
        }
    }
    // What it has started, such as ssh, is in its group.
    if let Some(group) = i32::try_from(probe.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = probe.wait();
    false
}

/// Whether a host is the machine of the launcher.
fn is_here(name: &str) -> bool {
    let own = super::host();
    let short = own.split('.').next().unwrap_or(&own);
    ["localhost", "127.0.0.1", "::1", &own, short].contains(&name)
}
