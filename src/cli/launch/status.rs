//! A rank's side of `wgpt launch`: it reports its state, several times per second, from a thread of its own.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wgpt::dist::World;
use wgpt::{Error, Event, Result};

/// The variable that names the launcher's address and a token, as `ADDRESS TOKEN`.
pub const VARIABLE: &str = "WGPT_LAUNCH";

/// The pause between two reports.
const PAUSE: Duration = Duration::from_millis(300);

/// What a rank reports: one JSON object per line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub rank: usize,
    pub host: String,
    pub pid: u32,
    /// Updates made so far, since the beginning of the run.
    pub update: usize,
    pub doing: Doing,
    /// Events and messages so far: a sign of progress.
    pub events: u64,
    /// Whether it waits for other ranks.
    pub waits: bool,
    /// The run's folder, which the first rank knows.
    pub run: Option<PathBuf>,
    /// Whether the rank has done all its work.
    pub ended: bool,
    /// Whether it ends by an error, which it has printed.
    pub failed: bool,
}

/// What a rank does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// It opens the run, or joins it.
    Preparing,
    /// It makes updates.
    Training,
    /// It computes the validation loss.
    Evaluating,
    /// It writes a checkpoint.
    Saving,
}

impl Doing {
    /// Whether it takes as long as it takes, without a sign of progress.
    pub fn is_of_any_length(self) -> bool {
        matches!(self, Doing::Preparing | Doing::Saving)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Doing::Preparing => "preparing",
            Doing::Training => "training",
            Doing::Evaluating => "evaluating",
            Doing::Saving => "saving",
        }
    }
}

/// The state of this rank, which the thread reports.
pub struct Status {
    report: Mutex<Report>,
    stream: Mutex<TcpStream>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Status {
    /// Begins to report, if `wgpt launch` started this rank.
    ///
    /// # Errors
    ///
    /// If the launcher cannot be reached.
    pub fn begin(rank: usize) -> Result<Option<Arc<Status>>> {
        let place = std::env::var(VARIABLE).unwrap_or_default();
        let Some((address, token)) = place.split_once(' ') else { return Ok(None) };
        let unreachable = |e| {
            Error::input(format!("rank {rank} cannot reach wgpt launch at {address}: {e}"))
                .hint("give --listen an address of the first machine that all others reach")
        };
        let mut stream = TcpStream::connect(address).map_err(unreachable)?;
        writeln!(stream, "{token}").map_err(unreachable)?;
        let report = Report {
            rank,
            host: super::host(),
            pid: std::process::id(),
            update: 0,
            doing: Doing::Preparing,
            events: 0,
            waits: false,
            run: None,
            ended: false,
            failed: false,
        };
        let status = Status { report: Mutex::new(report), stream: Mutex::new(stream) };
        let status = Arc::new(status);
        let weak = Arc::downgrade(&status);
        thread::spawn(move || go_on(&weak));
        Ok(Some(status))
    }

    fn send(&self) -> std::io::Result<()> {
        let report = lock(&self.report).clone();
        let line = serde_json::to_string(&report).expect("a report is JSON");
        writeln!(lock(&self.stream), "{line}")
    }

    /// Takes over what an event says of this rank.
    pub fn note(&self, event: &Event) {
        let mut report = lock(&self.report);
        report.events += 1;
        let doing = match event {
            Event::Preparing { .. } | Event::Note(_) | Event::Tuning(_) => return,
            Event::Started { first_step, run_dir, .. } => {
                report.run.clone_from(run_dir);
                report.update = *first_step;
                Doing::Training
            }
            Event::Step(step) => {
                report.update = step.step;
                Doing::Training
            }
            Event::Evaluating { .. } => Doing::Evaluating,
            Event::Saving { .. } => Doing::Saving,
            Event::NothingToLearn { .. } | Event::Evaluated { .. } | Event::Saved { .. } => {
                Doing::Training
            }
        };
        // A change is told at once: the rank may die before the next report.
        if std::mem::replace(&mut report.doing, doing) != doing {
            drop(report);
            let _ = self.send();
        }
    }

    /// Says that this rank has done all its work, or ends by an error that it has printed.
    pub fn end(&self, failed: bool) {
        {
            let report = &mut lock(&self.report);
            (report.ended, report.failed) = (!failed, failed);
        }
        // If the launcher is gone, nobody needs to know.
        let _ = self.send();
    }

    fn wait<T>(&self, waiting: impl FnOnce() -> T) -> T {
        lock(&self.report).waits = true;
        let result = waiting();
        let report = &mut lock(&self.report);
        report.waits = false;
        // A sync over a slow link takes long, but each of its messages is a sign of progress.
        report.events += 1;
        result
    }
}

fn go_on(status: &Weak<Status>) {
    while let Some(status) = status.upgrade() {
        if status.send().is_err() {
            return;
        }
        drop(status);
        thread::sleep(PAUSE);
    }
}

/// Ranks whose waiting is reported.
struct Watched {
    world: Box<dyn World>,
    status: Arc<Status>,
}

/// The same ranks; with a status their waiting is reported.
pub fn watched(world: Box<dyn World>, status: Option<&Arc<Status>>) -> Box<dyn World> {
    match status {
        None => world,
        Some(status) => Box::new(Watched { world, status: Arc::clone(status) }),
    }
}

impl World for Watched {
    fn rank(&self) -> usize {
        self.world.rank()
    }

    fn size(&self) -> usize {
        self.world.size()
    }

    fn gather(&mut self, own: &[u64]) -> Result<Vec<Vec<u64>>> {
        self.status.wait(|| self.world.gather(own))
    }

    fn exchange(
        &mut self,
        sent: &[(usize, &[f32])],
        received: &mut [(usize, &mut [f32])],
    ) -> Result<()> {
        self.status.wait(|| self.world.exchange(sent, received))
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.status.wait(|| self.world.broadcast(bytes))
    }
}
