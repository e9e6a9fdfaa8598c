//! The hosts that ranks are started on, and how many of them each has room for.

use std::path::{Path, PathBuf};

use wgpt::{Error, Result};

/// The hosts of the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HostArgs {
    /// Start the ranks on these hosts, a:2 standing for up to 2 ranks; after a fault on those that still answer
    #[arg(long, value_name = "HOSTS", conflicts_with = "hostfile")]
    host: Option<String>,
    /// The same, from a file with a line `a slots=2` for each host
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
}

/// A host, and how many ranks it has room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub slots: u32,
}

impl HostArgs {
    /// Returns the hosts, each once; none if none are given.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a host has no name or a number of slots that is none.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let hosts: Vec<Host> = match (&self.host, &self.hostfile) {
            (Some(list), _) => {
                let named = |error: Error| error.at("--host");
                list.split(',').map(|word| parse(word).map_err(named)).collect::<Result<_>>()?
            }
            (None, Some(path)) => read(path)?,
            (None, None) => return Ok(vec![]),
        };
        let mut each: Vec<Host> = vec![];
        for host in hosts {
            match each.iter_mut().find(|other| other.name == host.name) {
                Some(other) => other.slots = other.slots.saturating_add(host.slots),
                None => each.push(host),
            }
        }
        Ok(each)
    }
}

/// Returns for how many ranks hosts have room together.
pub fn room(hosts: &[Host]) -> u32 {
    hosts.iter().fold(0, |sum, host| sum.saturating_add(host.slots))
}

/// Returns hosts as mpirun takes them: `a:2,b:1`.
pub fn list(hosts: &[Host]) -> String {
    let words: Vec<String> =
        hosts.iter().map(|Host { name, slots }| format!("{name}:{slots}")).collect();
    words.join(",")
}

/// A host of one slot, `a`, or of several, `a:2`.
fn parse(word: &str) -> Result<Host> {
    let (name, slots) = word.rsplit_once(':').unwrap_or((word, "1"));
    host(name.trim(), slots.trim()).ok_or_else(|| {
        Error::usage(format!("`{word}` is no host, must be NAME or NAME:SLOTS"))
            .hint("give hosts like laptop1,laptop2:2")
    })
}

fn host(name: &str, slots: &str) -> Option<Host> {
    let slots = slots.parse().ok().filter(|slots| (1..=65_536).contains(slots))?;
    // A name that begins so would be an option of the launcher.
    let is_name = !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    is_name.then(|| Host { name: name.to_owned(), slots })
}

/// Reads a file of hosts, in the form of Open MPI (`a slots=2`) or of MPICH (`a:2`).
fn read(path: &Path) -> Result<Vec<Host>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, &e))?;
    let mut hosts = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let read = match (words.next(), words.next()) {
            (None, _) => parse(name).ok(),
            (Some(word), None) => word.strip_prefix("slots=").and_then(|slots| host(name, slots)),
            _ => None,
        };
        hosts.push(read.ok_or_else(|| {
            Error::input(format!(
                "{}:{number}: `{line}` is no host, must be NAME, NAME slots=N or NAME:N",
                path.display()
            ))
            .hint("give one host per line, such as laptop1 slots=2")
        })?);
    }
    if hosts.is_empty() {
        return Err(Error::input(format!("{} names no host", path.display()))
            .hint("give one host per line, such as laptop1 slots=2"));
    }
    Ok(hosts)
}
