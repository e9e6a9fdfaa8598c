//! The launcher's side: it hears all ranks, and says which one is at fault.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wgpt::{Error, Result};

use super::status::Report;

/// What was heard of one rank.
struct Heard {
    report: Report,
    /// When it was heard last.
    last: Instant,
    /// When its report changed last.
    changed: Instant,
    /// When its connection closed.
    closed: Option<Instant>,
}

type Ranks = Arc<Mutex<BTreeMap<usize, Heard>>>;

/// A listener that all ranks of one start report to.
pub struct Watch {
    /// `ADDRESS TOKEN`, for the ranks.
    pub place: String,
    ranks: Ranks,
}

fn lock(ranks: &Ranks) -> MutexGuard<'_, BTreeMap<usize, Heard>> {
    ranks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to listen at an address of this machine; only ranks that know the token are heard.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn begin(address: IpAddr) -> Result<Watch> {
        let refused = |e| Error::input(format!("listening to the ranks at {address}: {e}"));
        let listener = TcpListener::bind((address, 0)).map_err(refused)?;
        let token = format!("{:032x}", rand::random::<u128>());
        let place = format!("{} {token}", listener.local_addr().map_err(refused)?);
        let ranks = Ranks::default();
        let all = Arc::clone(&ranks);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (ranks, token) = (Arc::clone(&all), token.clone());
                thread::spawn(move || hear(stream, &token, &ranks));
            }
        });
        Ok(Watch { place, ranks })
    }

    /// The run's folder, once the first rank has told it.
    pub fn run(&self) -> Option<PathBuf> {
        lock(&self.ranks).values().find_map(|rank| rank.report.run.clone())
    }

    /// Whether an update was made since `first`.
    pub fn has_trained(&self) -> bool {
        lock(&self.ranks).values().any(|rank| rank.report.run.is_some() && rank.report.update > 0)
    }

    /// The processes of ranks on a host.
    pub fn processes(&self, host: &str) -> Vec<u32> {
        let ranks = lock(&self.ranks);
        let here = ranks.values().filter(|rank| rank.report.host == host && !rank.report.ended);
        here.map(|rank| rank.report.pid).collect()
    }

    /// The rank that hangs, in words: one that is not heard any more, or that makes others wait.
    pub fn hangs(&self, patience: Duration) -> Option<String> {
        let ranks = lock(&self.ranks);
        let open = || ranks.values().filter(|rank| !rank.report.ended && rank.closed.is_none());
        let silent = open().find(|rank| rank.last.elapsed() > patience);
        if let Some(rank) = silent {
            return Some(words(&rank.report, "is not heard any more"));
        }
        let others_wait = open().filter(|rank| !rank.report.waits).count() == 1;
        let stuck = |rank: &&Heard| !rank.report.waits && rank.changed.elapsed() > patience;
        let stuck = open().find(stuck).filter(|_| others_wait && ranks.len() > 1)?;
        Some(words(&stuck.report, "makes the others wait"))
    }

    /// The rank that ended first without having done its work, in words.
    pub fn died(&self) -> Option<String> {
        let ranks = lock(&self.ranks);
        let dead = ranks.values().filter(|rank| rank.closed.is_some() && !rank.report.ended);
        dead.min_by_key(|rank| rank.closed).map(|rank| words(&rank.report, "has died"))
    }
}

fn words(report: &Report, what: &str) -> String {
    let Report { rank, host, pid, update, doing, .. } = report;
    format!("rank {rank} on {host} (process {pid}) {what}: {doing}, after update {update}")
}

/// Takes over the reports of one rank, until it closes the connection.
fn hear(stream: TcpStream, token: &str, ranks: &Ranks) {
    let mut lines = BufReader::new(stream).lines().map_while(std::result::Result::ok);
    if lines.next().as_deref() != Some(token) {
        return;
    }
    let mut number = None;
    for line in lines {
        let Ok(report) = serde_json::from_str::<Report>(&line) else { continue };
        number = Some(report.rank);
        let (now, mut ranks) = (Instant::now(), lock(ranks));
        let before = ranks.get(&report.rank).filter(|before| before.report == report);
        let changed = before.map_or(now, |before| before.changed);
        ranks.insert(report.rank, Heard { report, last: now, changed, closed: None });
    }
    if let Some(rank) = number.and_then(|number| lock(ranks).remove(&number).map(|r| (number, r))) {
        let (number, heard) = rank;
        lock(ranks).insert(number, Heard { closed: Some(Instant::now()), ..heard });
    }
}
