//! A rank's side of `wgpt launch`: it reports its state, several times per second, from a thread of its own.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wgpt::dist::World;
use wgpt::{Event, Result};

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
    pub doing: String,
    /// Whether it waits for other ranks.
    pub waits: bool,
    /// The run's folder, which the first rank knows.
    pub run: Option<PathBuf>,
    /// Whether the rank has done all its work.
    pub ended: bool,
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
    /// Begins to report, if `wgpt launch` started this rank and can be reached.
    pub fn begin(rank: usize) -> Option<Arc<Status>> {
        let (address, token) = std::env::var(VARIABLE).ok()?.split_once(' ').map(own)?;
        let mut stream = TcpStream::connect(address).ok()?;
        writeln!(stream, "{token}").ok()?;
        let (host, pid) = (super::host(), std::process::id());
        let (doing, run) = ("preparing".to_owned(), None);
        let report = Report { rank, host, pid, update: 0, doing, waits: false, run, ended: false };
        let status = Status { report: Mutex::new(report), stream: Mutex::new(stream) };
        let status = Arc::new(status);
        let weak = Arc::downgrade(&status);
        thread::spawn(move || go_on(&weak));
        Some(status)
    }

    fn send(&self) -> std::io::Result<()> {
        let report = lock(&self.report).clone();
        let line = serde_json::to_string(&report).expect("a report is JSON");
        writeln!(lock(&self.stream), "{line}")
    }

    /// Takes over what an event says of this rank.
    pub fn note(&self, event: &Event) {
        let report = &mut lock(&self.report);
        let (update, doing) = match event {
            Event::Started { first_step, run_dir, .. } => {
                report.run.clone_from(run_dir);
                (Some(*first_step), "training")
            }
            Event::Step(step) => (Some(step.step), "training"),
            Event::Evaluating { .. } => (None, "evaluating"),
            Event::Evaluated { .. } | Event::Saved { .. } => (None, "training"),
            _ => return,
        };
        report.update = update.unwrap_or(report.update);
        doing.clone_into(&mut report.doing);
    }

    /// Says that this rank has done all its work.
    pub fn end(&self) {
        lock(&self.report).ended = true;
        // If the launcher is gone, nobody needs to know.
        let _ = self.send();
    }

    fn wait<T>(&self, waiting: impl FnOnce() -> T) -> T {
        lock(&self.report).waits = true;
        let result = waiting();
        lock(&self.report).waits = false;
        result
    }
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
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

    fn exchange(&mut self, out: &[Vec<f32>], lens: &[usize]) -> Result<Vec<Vec<f32>>> {
        self.status.wait(|| self.world.exchange(out, lens))
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.status.wait(|| self.world.broadcast(bytes))
    }
}
