//! Trials: whether a driver survives the compilation of variants that use matrix units.
//!
//! A driver's compiler runs in the process that asks it, and takes it along where it crashes; some crash on matrices. So a
//! child process compiles such variants first, one after the other, and says before each which one it is. What the child
//! compiles lies in the cache of pipelines afterwards, where the driver has one.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::backend::gpu::GpuDevice;
use crate::error::{Error, Result};
use crate::kernel::{Format, Kernel, Variant};
use crate::ops;
use crate::wait::Worker;

/// The longest time that one variant may take; a compiler that takes longer is taken for one that never ends.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a child says before it compiles a variant, and what it says after that.
const BEGINS: &str = "begins";
const ENDS: &str = "ends";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// A variant of a kernel.
#[derive(Clone, Copy)]
pub struct Subject {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The variant.
    pub variant: &'static Variant,
}

impl Subject {
    /// Returns `KERNEL VARIANT`.
    pub fn name(&self) -> String {
        format!("{} {}", self.kernel.name, self.variant.name)
    }

    /// Returns the variant with this name of the kernel with that.
    pub fn find(kernel: &str, variant: &str) -> Option<Subject> {
        let kernel = *ops::ALL.iter().find(|k| k.name == kernel)?;
        let variant = kernel.variants.iter().find(|v| v.name == variant)?;
        Some(Subject { kernel, variant })
    }
}

/// Names the program that runs [`compile`] as a child: its path, to which `trial gpu:N` is given. Without it nothing is
/// tried, and a driver that crashes ends the process.
pub fn use_program(path: PathBuf) {
    // The first one stays.
    let _ = PROGRAM.set(path);
}

/// Returns the faults of those variants whose compilation ends the process that asks for it, or never ends itself: the place
/// in `subjects`, and the fault. Nothing is tried if no [program](use_program) is known.
///
/// # Errors
///
/// If the child cannot be started, or ends before it has compiled anything.
pub fn faults(device: &GpuDevice, subjects: &[Subject]) -> Result<Vec<(usize, String)>> {
    let program = match PROGRAM.get() {
        Some(program) if !subjects.is_empty() => program,
        _ => return Ok(vec![]),
    };
    let names: Vec<String> = subjects.iter().map(Subject::name).collect();
    let mut command = Command::new(program);
    command.args(["trial", &format!("gpu:{}", device.index())]);
    faults_of(&mut command, &names, PATIENCE)
}

/// Does the same by any command that understands what [`compile`] does.
fn faults_of(
    command: &mut Command,
    names: &[String],
    patience: Duration,
) -> Result<Vec<(usize, String)>> {
    let mut faults = vec![];
    let mut next = 0;
    while next < names.len() {
        match child(command, &names[next..], patience)? {
            (done, None) if next + done == names.len() => break,
            (done, None) => {
                let left = names.len() - next - done;
                return Err(Error::device(format!(
                    "the trial of variants ended before it had compiled {left} of them"
                )));
            }
            (done, Some(fault)) => {
                faults.push((next + done, fault));
                next += done + 1;
            }
        }
    }
    Ok(faults)
}

/// Has a child compile some variants; returns the number of those that it finished, and the fault of the next one if that
/// ended it.
fn child(
    command: &mut Command,
    names: &[String],
    patience: Duration,
) -> Result<(usize, Option<String>)> {
    let failed = |e| Error::device(format!("the trial of variants: {e}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    {
        let mut input = child.stdin.take().expect("it is piped");
        // A child that has ended reads nothing more, which its answers show.
        let _ = input.write_all(names.join("\n").as_bytes());
    }
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let listener = Worker::new(output.lines());
    let (mut done, mut begun) = (0, false);
    let silent = loop {
        match listener.start(|lines| lines.next()).take_within(patience) {
            Some(Some(Ok(line))) if line == BEGINS => begun = true,
            Some(Some(Ok(line))) if line == ENDS => (done, begun) = (done + 1, false),
            Some(Some(Ok(_))) => (),
            // It said its last word.
            Some(None | Some(Err(_))) => break false,
            None => break true,
        }
    };
    if silent {
        child.kill().map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    let fault = begun.then(|| match silent {
        true => format!("its compilation did not end within {} s", patience.as_secs()),
        false => format!("its compilation ended the process ({})", ending(status)),
    });
    Ok((done, fault))
}

/// Returns how a process ended, in words.
fn ending(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("signal {signal}");
    }
    status.code().map_or("it was ended".to_owned(), |code| format!("exit code {code:#x}"))
}

/// What the child does: compiles the variants that `names` lists, one per line, and says so. One that a driver refuses is
/// no fault here.
///
/// # Errors
///
/// If `names` cannot be read, a name is unknown, or nobody hears what is said.
pub fn compile(device: &GpuDevice, mut names: impl Read, mut say: impl Write) -> Result<()> {
    let failed = |e| Error::input(format!("the trial of variants: {e}"));
    let mut text = String::new();
    names.read_to_string(&mut text).map_err(failed)?;
    for name in text.lines() {
        let subject =
            name.split_once(' ').and_then(|(kernel, variant)| Subject::find(kernel, variant));
        let Subject { kernel, variant } =
            subject.ok_or_else(|| Error::usage(format!("there is no variant {name:?}")))?;
        writeln!(say, "{BEGINS}").and_then(|()| say.flush()).map_err(failed)?;
        let _ = device.compile(kernel, variant, &kernel.formats(Format::F16));
        writeln!(say, "{ENDS}").and_then(|()| say.flush()).map_err(failed)?;
    }
    device.save_pipelines()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A child that answers for each line that it reads, runs `at_bad` for a line that begins with "bad".
    fn script(at_bad: &str) -> Command {
        let mut command = Command::new("sh");
        let text = format!(
            "while read -r name || [ -n \"$name\" ]; do echo {BEGINS}; case $name in bad*) {at_bad} ;; esac; echo {ENDS}; done"
        );
        command.args(["-c", &text]);
        command
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_crashes_is_named_and_the_others_are_tried() {
        let all = names(&["good 1", "bad 1", "bad 2", "good 2", "bad 3"]);
        let faults = faults_of(&mut script("kill -SEGV $$"), &all, PATIENCE).unwrap();
        let places: Vec<usize> = faults.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [1, 2, 4]);
        assert!(faults.iter().all(|(_, fault)| fault.contains("signal 11")), "{faults:?}");
        assert!(faults_of(&mut script("true"), &all, PATIENCE).unwrap().is_empty());
        assert!(faults_of(&mut script("false"), &[], PATIENCE).unwrap().is_empty());
    }

    #[test]
    fn what_never_ends_is_named() {
        let patience = Duration::from_millis(500);
        let all = names(&["good 1", "bad 1", "good 2"]);
        let faults = faults_of(&mut script("exec sleep 60"), &all, patience).unwrap();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].0, 1);
        assert!(faults[0].1.contains("did not end"), "{faults:?}");
    }

    #[test]
    fn a_child_that_cannot_try_is_an_error() {
        let all = names(&["good 1"]);
        let missing = &mut Command::new("/nonexistent/wgpt");
        assert!(faults_of(missing, &all, PATIENCE).is_err());
        let useless = &mut Command::new("true");
        let error = faults_of(useless, &all, PATIENCE).unwrap_err();
        assert!(error.to_string().contains("1 of them"), "{error}");
    }
}
