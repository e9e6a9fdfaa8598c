//! The only place that reads the time.

use std::time::Duration;
#[cfg(not(target_family = "wasm"))]
use std::time::Instant;

use chrono::{Local, NaiveDateTime, Utc};
#[cfg(target_family = "wasm")]
use web_time::Instant;

/// Returns the date and time of day at the machine's place.
pub fn local_time() -> NaiveDateTime {
    Local::now().naive_local()
}

/// Returns the seconds since the year 1970 in Greenwich.
pub fn unix_seconds() -> i64 {
    Utc::now().timestamp()
}

/// Measures time from the moment when it was started.
///
/// ```
/// let watch = wgpt::clock::Stopwatch::start();
/// assert!(watch.ms() >= 0.0 && watch.seconds() < 60.0);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Starts to measure now.
    pub fn start() -> Stopwatch {
        Stopwatch { started: Instant::now() }
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the time since the start, in seconds.
    pub fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }

    /// Returns the time since the start, in milliseconds.
    pub fn ms(&self) -> f64 {
        self.seconds() * 1e3
    }
}
