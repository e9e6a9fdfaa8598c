//! `wgpt launch`: starts the ranks of a run under MPI, names the one that fails, and starts them again.
//!
//! MPI itself can do little when a rank dies and nothing when it hangs. The launcher stays outside of it: ranks report to it
//! over TCP, and it judges by what it hears.

mod hosts;
#[cfg(unix)]
mod run;
#[cfg(unix)]
mod starter;
pub mod status;
#[cfg(unix)]
mod watch;

use std::net::IpAddr;

use wgpt::{Error, Result};

use super::outcome::Outcome;
use hosts::{Host, HostArgs};

const EXAMPLES: &str = "\
Examples:
  wgpt launch -n 4 -- train --data book.txt --size gpt2 --grad-accum 16
  wgpt launch -n 4 --starter \"mpirun --oversubscribe --mca mpi_yield_when_idle 1\" -- train --device cpu
  wgpt launch --host laptop1,laptop2 --listen 10.0.0.5 -- train --data book.txt --grad-accum 8
  wgpt launch -n 8 --starter \"srun --mpi=pmix\" --listen 10.0.0.5 -- train --data book.txt

The run is started again from its last save when a rank dies or hangs, --restarts times at most, on the hosts that are left \
of those that --host or --hostfile names. SIGUSR1, SIGTERM and Ctrl-C
stop all ranks after the same update, which is saved.";

/// Start several ranks that train together, and start them again if one fails
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Start N ranks [default: as many as the hosts have room for]
    #[arg(short = 'n', long = "ranks", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    ranks: Option<u32>,
    #[command(flatten)]
    hosts: HostArgs,
    /// Start the ranks again from the last save at most K times after a fault
    #[arg(long, value_name = "K", default_value_t = 3)]
    restarts: u32,
    /// A rank hangs if it is silent, or makes the others wait, for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rank_timeout: u32,
    /// Start the ranks by this command, which takes -n N
    #[arg(long, value_name = "COMMAND", default_value = "mpirun")]
    starter: String,
    /// Listen to the ranks at this address of this machine; with several machines, one that all of them reach
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The command of the ranks: train, and its options
    #[arg(last = true, required = true, value_name = "train ...")]
    command: Vec<String>,
}

/// The ranks that are wanted, and the hosts to start them on; no hosts: where the starter puts them.
struct Wanted {
    ranks: u32,
    hosts: Vec<Host>,
}

impl Args {
    fn wanted(&self) -> Result<Wanted> {
        let hosts = self.hosts.hosts()?;
        let room = (!hosts.is_empty()).then(|| hosts::room(&hosts));
        match (self.ranks, room) {
            (Some(ranks), Some(room)) if ranks > room => {
                Err(Error::usage(format!("-n is {ranks}, but the hosts have room for {room}"))
                    .hint("give a host more slots, such as --host laptop1:2,laptop2:2"))
            }
            (Some(ranks), _) | (None, Some(ranks)) => Ok(Wanted { ranks, hosts }),
            (None, None) => Err(Error::usage("it is not said how many ranks to start")
                .hint("give -n N, or the hosts by --host or --hostfile")),
        }
    }
}

/// Starts the ranks and follows them to their end.
///
/// # Errors
///
/// If they cannot be started, or a fault is left after all restarts.
pub fn run(args: &Args) -> Result<Outcome> {
    if args.command[0] != "train" {
        let message = format!("`{}` cannot be launched: only train runs on ranks", args.command[0]);
        return Err(Error::usage(message).hint("wgpt launch -n 4 -- train ..."));
    }
    let wanted = args.wanted()?;
    if !cfg!(feature = "mpi") {
        return Err(Error::input(
            "this wgpt was built without MPI, so that its processes cannot train together",
        )
        .hint("build it with `cargo build --release --features mpi`"));
    }
    #[cfg(unix)]
    return run::run(args, &wanted);
    #[cfg(not(unix))]
    let _ = wanted;
    #[cfg(not(unix))]
    Err(Error::input("wgpt launch needs a Unix system").hint("start the ranks with mpiexec itself"))
}

/// The name of this machine.
#[cfg(unix)]
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of this machine.
#[cfg(not(unix))]
pub(super) fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}
