//! What a backend does.

use std::ops::Range;
use std::time::Instant;

use crate::error::Result;
use crate::kernel::Step;
use crate::plan::{Plan, View};

/// What runs a plan. Views are the plan's.
pub trait Backend: Send {
    /// The plan that it runs.
    fn plan(&self) -> &Plan;

    /// Overwrites a view of real numbers.
    fn write(&mut self, view: View, data: &[f32]);

    /// Overwrites a view of integers.
    fn write_u32(&mut self, view: View, data: &[u32]);

    /// Runs some dispatches of the plan, by index; returns before a GPU has done them.
    fn run(&mut self, range: Range<usize>, step: &Step);

    /// Runs some dispatches, waits for them, and tells how many milliseconds each took: fewer, if the device is
    /// lost, which the next read says.
    fn run_timed(&mut self, range: Range<usize>, step: &Step) -> Vec<f64> {
        let mut time = |index| {
            let began = Instant::now();
            self.run(index..index + 1, step);
            began.elapsed().as_secs_f64() * 1e3
        };
        range.map(&mut time).collect()
    }

    /// Reads a view of real numbers, after everything before has run.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    fn read(&mut self, view: View, out: &mut [f32]) -> Result<()>;

    /// Reads a view of integers, after everything before has run.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    fn read_u32(&mut self, view: View, out: &mut [u32]) -> Result<()>;

    /// What it runs on, in words: `CPU, 2 threads`, or the adapter's name.
    fn describe(&self) -> String;

    /// Replays to put in flight between two reads: 1 where waiting costs nothing.
    fn run_ahead(&self) -> usize {
        1
    }
}
