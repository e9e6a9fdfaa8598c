//! Is everything on the disk before it bears its name, and its name before the program goes on? What a program
//! asks of the system is not seen in its files: here forcing to the disk fails, or is watched.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use wgpt::files;

use crate::training::Place;

/// A file that takes all that is written, and that cannot be forced to the disk.
const UNFORCED: &str = "/dev/null";

#[test]
fn what_cannot_be_forced_to_the_disk_gets_no_name() {
    let dir = TempDir::new().unwrap();
    let (file, folder) = (dir.path().join("file"), dir.path().join("folder"));
    files::write_bytes(&file, b"old").unwrap();
    files::write_folder(&folder, |dir| files::write_bytes(&dir.join("a"), b"old")).unwrap();
    let error = files::write_file(&file, |out| {
        *out = BufWriter::new(File::options().write(true).open(UNFORCED).unwrap());
        Ok(())
    });
    let error = error.expect_err("it was not forced to the disk").to_string();
    assert!(error.contains(&*file.to_string_lossy()), "{error}");
    // In the folder itself, and in one within it.
    for inner in ["", "inner"] {
        let error = files::write_folder(&folder, |dir| {
            fs::create_dir_all(dir.join(inner)).unwrap();
            symlink(UNFORCED, dir.join(inner).join("b")).unwrap();
            Ok(())
        });
        let error = error.expect_err("it was not forced to the disk").to_string();
        assert!(error.contains(&*folder.to_string_lossy()), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"old");
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
}

/// A call of the system, as strace prints it.
enum Call {
    /// A file or folder is forced to the disk.
    Sync(PathBuf),
    /// A file gets a second name.
    Link(PathBuf, PathBuf),
    /// What bears the first name bears the second; with `exchange` also the other way round.
    Rename { from: PathBuf, to: PathBuf, exchange: bool },
}

/// The call of a line `PID NAME(ARGUMENTS) = RESULT`; `None` for any other.
fn call(line: &str) -> Option<Call> {
    let (name, arguments) = line.split_once(' ')?.1.trim_start().split_once('(')?;
    let mut quoted = arguments.split('"').skip(1).step_by(2).map(PathBuf::from);
    match name {
        "fsync" | "fdatasync" => {
            let path = arguments.split_once('<')?.1.split_once('>')?.0;
            Some(Call::Sync(path.into()))
        }
        "link" | "linkat" => Some(Call::Link(quoted.next()?, quoted.next()?)),
        "rename" | "renameat" | "renameat2" => Some(Call::Rename {
            from: quoted.next()?,
            to: quoted.next()?,
            exchange: arguments.contains("RENAME_EXCHANGE"),
        }),
        _ => None,
    }
}

/// `path` with `to` in the place of `from`, if it is that or lies within.
fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    path.strip_prefix(from).ok().map(|rest| match rest.as_os_str().is_empty() {
        true => to.to_owned(),
        false => to.join(rest),
    })
}

/// Follows the calls and returns what is on the disk at the end, under its last name. Asserts that each temporary
/// is there before it is renamed, and that its folder is forced to the disk next.
fn follow(calls: &[Call]) -> BTreeSet<PathBuf> {
    let mut forced = BTreeSet::new();
    let mut renamed = 0;
    for (i, call) in calls.iter().enumerate() {
        match call {
            Call::Sync(path) => {
                forced.insert(path.clone());
            }
            Call::Link(from, to) => {
                if forced.contains(from) {
                    forced.insert(to.clone());
                }
            }
            Call::Rename { from, to, exchange } => {
                let new = files::is_temporary(&from.file_name().unwrap().to_string_lossy());
                assert!(!new || forced.contains(from), "{} is not forced", from.display());
                let follows = |path: &PathBuf| match moved(path, from, to) {
                    Some(path) => Some(path),
                    None if path.starts_with(to) => {
                        exchange.then(|| moved(path, to, from)).flatten()
                    }
                    None => Some(path.clone()),
                };
                forced = forced.iter().filter_map(follows).collect();
                if new {
                    let next = calls[i + 1..].iter().find(|call| !matches!(call, Call::Link(..)));
                    let folder = to.parent().unwrap();
                    let is_forced = matches!(next, Some(Call::Sync(path)) if path == folder);
                    assert!(is_forced, "the name of {} is not forced", to.display());
                    renamed += 1;
                }
            }
        }
    }
    assert!(renamed > 0, "something was renamed");
    forced
}

/// All files under a folder.
fn files_under(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

#[test]
fn a_run_forces_all_that_it_writes_to_the_disk() {
    if Command::new("strace").arg("--version").output().is_err() {
        // The test harness keeps what is printed by macros to itself.
        let text = "\n*** SKIPPED, a test that needs strace: it is not installed ***\n\n";
        return std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    let place = Place::new();
    let run = fs::canonicalize(place.path(".")).unwrap().join("run");
    let trace = place.path("trace.txt");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-o"]).arg(&trace);
    command.args(["-e", "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2"]);
    command.arg(env!("CARGO_BIN_EXE_wgpt")).args(
        "train --tokenizer bytes --layers 1 --heads 2 --embd 16 --context 16 --batch-size 2 \
         --max-iters 6 --eval-every 2 --eval-iters 2 --save-every 2 --device cpu"
            .split_whitespace(),
    );
    command.arg("--data").arg(place.path("text.txt")).arg("--out").arg(&run);
    let output = command.env("WGPT_CACHE", place.path("cache")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let calls: Vec<Call> = fs::read_to_string(&trace).unwrap().lines().filter_map(call).collect();
    let forced = follow(&calls);
    // The metrics are added to line by line, and the lock is empty.
    let apart = ["metrics.jsonl", ".lock"].map(|name| run.join(name));
    let written = files_under(&run).into_iter().filter(|path| !apart.contains(path));
    let written: Vec<PathBuf> = written.collect();
    for name in ["run.json", "model.safetensors", "best/model.safetensors", "loss.svg"] {
        assert!(written.contains(&run.join(name)), "{name} is among {written:?}");
    }
    for path in written {
        assert!(forced.contains(&path), "{} is not forced to the disk", path.display());
    }
}
