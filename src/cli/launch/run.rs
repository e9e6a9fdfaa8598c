//! Starts, ends and starts again.

use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use wgpt::train::RunSettings;
use wgpt::{Error, Result};

use super::hosts::{self, Host};
use super::starter::Starter;
use super::watch::Watch;
use super::{Args, Wanted};
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
/// If they cannot be started, or a fault is left after all restarts, or too few hosts are left.
pub fn run(args: &Args, wanted: &Wanted) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::input(format!("listening for signals: {e}")))?;
    }
    let starter = Starter::find(&args.starter)?;
    let mut command = args.command.clone();
    let (mut ranks, mut hosts) = (wanted.ranks, wanted.hosts.clone());
    let (mut left, mut known) = (args.restarts, None);
    loop {
        let watch = Watch::begin(args.listen)?;
        let mut child = starter.start(ranks, &hosts, &command, &watch.place)?;
        let fault = match follow(&mut child, &watch, args, ranks, &stop)? {
            Ended::Well => return Ok(Outcome::Good),
            Ended::Badly(fault) => fault,
        };
        known = watch.run().or(known);
        let run = known.clone().filter(|run| run.join("run.json").is_file());
        let Some(run) = run.filter(|_| left > 0) else { return Err(Error::training(fault)) };
        let there = starter.answering(&wanted.hosts);
        // A start that led to nothing is tried again only if it is known why.
        let may_go_on = watch.has_trained() || hosts.iter().any(|host| !there.contains(host));
        if stop.load(Ordering::Relaxed) || !may_go_on {
            return Err(Error::training(fault));
        }
        left -= 1;
        let gone = gone(&wanted.hosts, &there);
        let fault = [fault].into_iter().chain(gone).collect::<Vec<_>>().join("; ");
        ranks =
            ranks_left(wanted, &there, &run, &args.command).map_err(|error| error.at(&fault))?;
        hosts = there;
        let place = output::path(&run);
        let on = match ranks == wanted.ranks {
            true => String::new(),
            false => format!(" on {ranks} of {} ranks", wanted.ranks),
        };
        output::log(&format!("{fault}; going on from the last save of {place}{on}"));
        command = resumed(&args.command, &run);
    }
}

/// The hosts that are gone, in words.
fn gone(all: &[Host], there: &[Host]) -> Option<String> {
    let gone = all.iter().filter(|host| !there.contains(host));
    let names: Vec<&str> = gone.map(|host| host.name.as_str()).collect();
    match names.len() {
        0 => None,
        1 => Some(format!("host {} is gone", names[0])),
        _ => Some(format!("hosts {} are gone", names.join(", "))),
    }
}

/// Returns on how many ranks a run goes on: those that were wanted, as far as the hosts that are there have room for them and
/// the run's settings allow it.
fn ranks_left(wanted: &Wanted, there: &[Host], run: &Path, command: &[String]) -> Result<u32> {
    if wanted.hosts.is_empty() {
        return Ok(wanted.ranks);
    }
    let mut train = settings_of(run)?.train;
    let given = kept(command).into_iter().find(|(name, _)| *name == "--pipeline");
    if let Some(stages) = given.and_then(|(_, value)| value?.parse().ok()) {
        train.pipeline = stages;
    }
    let most = wanted.ranks.min(hosts::room(there));
    Ok(u32::try_from(train.ranks_within(most as usize)?).unwrap_or(most))
}

/// The settings of a run.
fn settings_of(run: &Path) -> Result<RunSettings> {
    let path = run.join("run.json");
    let text = std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
    serde_json::from_slice(&text).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

/// The options of a command that go with `--resume`, with their values.
fn kept(command: &[String]) -> Vec<(&str, Option<&str>)> {
    let mut kept = vec![];
    let mut rest = command.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        let (name, value) =
            word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        match name {
            "--json" => kept.push((name, None)),
            "--threads" | "--pipeline" => kept.push((name, value.or_else(|| rest.next()))),
            _ => {}
        }
    }
    kept
}

/// The command that goes on with a run.
fn resumed(command: &[String], run: &Path) -> Vec<String> {
    let mut words = vec!["train".to_owned(), "--resume".to_owned()];
    words.push(run.to_string_lossy().into_owned());
    for (name, value) in kept(command) {
        words.extend([Some(name), value].into_iter().flatten().map(str::to_owned));
    }
    words
}

/// Follows the ranks to their end; ends them if one hangs.
fn follow(
    child: &mut Child,
    watch: &Watch,
    args: &Args,
    ranks: u32,
    stop: &AtomicBool,
) -> Result<Ended> {
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
            let late = began.elapsed() > patience && heard < ranks as usize;
            late.then(|| format!("only {heard} of {ranks} ranks have begun"))
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
