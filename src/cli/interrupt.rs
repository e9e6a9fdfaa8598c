//! The effect of Ctrl-C while `wgpt train` or `wgpt chat` runs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wgpt::{Error, Result};

use super::output;

/// The work that Ctrl-C stops.
pub enum Running {
    /// No run to report.
    Nothing,
    /// The data of the run in this folder are being prepared.
    Preparing(PathBuf),
    /// A trainer that was not stopped yet, as its flag.
    Training(Arc<AtomicBool>),
    /// A reply of a chat, as the flag that stops it.
    Replying(Arc<AtomicBool>),
}

static RUNNING: Mutex<Running> = Mutex::new(Running::Nothing);

/// Sets the current work; returns the previous one.
fn replace(running: Running) -> Running {
    std::mem::replace(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner), running)
}

/// Sets the work that Ctrl-C stops from now on.
pub fn set_running(running: Running) {
    replace(running);
}

/// Makes SIGUSR1 stop a trainer by its flag, as Ctrl-C does, where the system has that signal: batch systems send it
/// when a job's time is about to end.
///
/// # Errors
///
/// If the system refuses.
pub fn stop_by_signal(flag: &Arc<AtomicBool>) -> Result<()> {
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(flag))
        .map_err(|e| Error::input(format!("listening for SIGUSR1: {e}")))?;
    #[cfg(not(unix))]
    let _ = flag;
    Ok(())
}

/// Makes Ctrl-C finish the current step, or stop a reply. Pressed again, or when there is no work to stop, it ends the program at once.
/// The files on the disk are whole at any moment.
///
/// # Errors
///
/// If the system refuses the handler.
pub fn catch() -> Result<()> {
    let handler = || match replace(Running::Nothing) {
        Running::Training(flag) => {
            flag.store(true, Ordering::Relaxed);
            output::log("\nstopping after this step; press Ctrl-C again to end at once");
        }
        Running::Preparing(dir) if dir.join("run.json").is_file() => {
            output::log("\nstopped before an update was made; to go on:");
            output::log(&format!("  wgpt train --resume {}", output::quoted(&dir)));
            std::process::exit(130);
        }
        Running::Replying(flag) => flag.store(true, Ordering::Relaxed),
        Running::Preparing(_) | Running::Nothing => std::process::exit(130),
    };
    ctrlc::set_handler(handler).map_err(|e| Error::input(format!("listening for Ctrl-C: {e}")))
}
