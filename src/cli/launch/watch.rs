//! The launcher's side: it hears all ranks, and says which one is at fault.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wgpt::{Error, Result};

use super::status::{Doing, Report};

/// How long a connection may take to say its token.
const TOKEN_TIME: Duration = Duration::from_secs(10);

/// What was heard of one rank.
struct Heard {
    report: Report,
    /// When it was heard last.
    last: Instant,
    /// When its report changed last.
    changed: Instant,
    /// Since when it waits for other ranks.
    waits: Option<Instant>,
    /// Its first update of this start.
    first: Option<usize>,
    /// When its connection closed.
    closed: Option<Instant>,
    /// Whether it is a process of this machine.
    is_here: bool,
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

    /// Whether an update was made since this start.
    pub fn has_trained(&self) -> bool {
        lock(&self.ranks)
            .values()
            .any(|rank| rank.first.is_some_and(|first| rank.report.update > first))
    }

    /// The processes of this machine's ranks that have not ended.
    pub fn processes(&self) -> Vec<u32> {
        let ranks = lock(&self.ranks);
        let here = ranks.values().filter(|rank| rank.is_here && rank.closed.is_none());
        here.map(|rank| rank.report.pid).collect()
    }

    /// What hangs, in words: a rank that is not heard any more, or that keeps others waiting without a sign of progress.
    pub fn hangs(&self, patience: Duration) -> Option<String> {
        let ranks = lock(&self.ranks);
        let open = || ranks.values().filter(|rank| !rank.report.ended && rank.closed.is_none());
        if let Some(rank) = open().find(|rank| rank.last.elapsed() > patience) {
            return Some(words(&rank.report, "is not heard any more"));
        }
        let waits_long = |rank: &Heard| rank.waits.is_some_and(|since| since.elapsed() > patience);
        if open().count() > 1 && open().all(waits_long) {
            return Some("all ranks wait for each other: a link between them is dead".to_owned());
        }
        let stuck = |rank: &&Heard| {
            let report = &rank.report;
            !report.waits && !report.doing.is_of_any_length() && rank.changed.elapsed() > patience
        };
        let stuck = open().find(stuck).filter(|_| open().any(waits_long))?;
        Some(words(&stuck.report, "makes the others wait"))
    }

    /// Whether a rank ended long ago that had not done its work.
    pub fn died_before(&self, patience: Duration) -> bool {
        let died = |rank: &Heard| rank.closed.filter(|_| !rank.report.ended);
        lock(&self.ranks).values().filter_map(died).any(|since| since.elapsed() > patience)
    }

    /// How many ranks were heard.
    pub fn heard(&self) -> usize {
        lock(&self.ranks).len()
    }

    /// The rank that ended first without having done its work, in words.
    pub fn died(&self) -> Option<String> {
        let ranks = lock(&self.ranks);
        let dead = ranks.values().filter(|rank| rank.closed.is_some() && !rank.report.ended);
        let first = dead.min_by_key(|rank| (!rank.report.failed, rank.closed))?;
        let what = if first.report.failed { "has ended by an error" } else { "has died" };
        Some(words(&first.report, what))
    }
}

fn words(report: &Report, what: &str) -> String {
    let Report { rank, host, pid, update, doing, .. } = report;
    let doing = doing.name();
    format!("rank {rank} on {host} (process {pid}) {what}: {doing}, after update {update}")
}

/// Takes over the reports of one rank, until it closes the connection.
fn hear(stream: TcpStream, token: &str, ranks: &Ranks) {
    let addresses = (stream.peer_addr().ok(), stream.local_addr().ok());
    let is_here = matches!(addresses, (Some(peer), Some(own)) if peer.ip() == own.ip());
    // Whoever knows no token must not stay.
    let _ = stream.set_read_timeout(Some(TOKEN_TIME));
    let Ok(own) = stream.try_clone() else { return };
    let mut lines = BufReader::new(stream).lines().map_while(std::result::Result::ok);
    if lines.next().as_deref() != Some(token) {
        return;
    }
    let _ = own.set_read_timeout(None);
    let mut number = None;
    for line in lines {
        let Ok(report) = serde_json::from_str::<Report>(&line) else { continue };
        number = Some(report.rank);
        take(&mut lock(ranks), report, is_here);
    }
    let mut ranks = lock(ranks);
    if let Some(heard) = number.and_then(|number| ranks.get_mut(&number)) {
        heard.closed = Some(Instant::now());
    }
}

/// Takes over one report.
fn take(ranks: &mut BTreeMap<usize, Heard>, report: Report, is_here: bool) {
    let now = Instant::now();
    let before = ranks.get(&report.rank);
    let changed = before.filter(|before| before.report == report).map_or(now, |b| b.changed);
    let waits = report.waits.then(|| {
        let same = |before: &&Heard| before.report.events == report.events;
        before.filter(same).and_then(|before| before.waits).unwrap_or(now)
    });
    let trains = (report.doing == Doing::Training).then_some(report.update);
    let first = before.and_then(|before| before.first).or(trains);
    let heard = Heard { report, last: now, changed, waits, first, closed: None, is_here };
    ranks.insert(heard.report.rank, heard);
}
