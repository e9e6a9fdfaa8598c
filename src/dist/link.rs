//! The thread that speaks to the other ranks while this rank computes.

use std::cell::{Cell, RefCell};

use super::world::World;
use crate::clock::Stopwatch;
use crate::pipeline::Grid;
use crate::wait::{self, Worker};

/// A rank's link to the others. What is done with them is done in the order in which it was started, which is the same on
/// every rank.
pub struct Link {
    grid: Grid,
    speaker: Speaker,
    times: Cell<Times>,
}

/// Who speaks to the other ranks.
enum Speaker {
    /// The caller: there are no others.
    Caller(RefCell<Box<dyn World>>),
    /// A thread, which ends with the link.
    Thread(Worker<Box<dyn World>>),
}

/// How long the ranks spoke to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Seconds in which something was under way with all ranks.
    pub busy: f64,
    /// Seconds of them, and between them, in which this rank waited instead of computing.
    pub waited: f64,
}

/// Something that was started with all ranks.
#[must_use = "what was started is to be taken"]
pub struct Pending<T>(wait::Pending<(T, f64)>);

impl Link {
    /// The link of a rank in its world, of which the ranks form so many stages.
    pub fn new(world: Box<dyn World>, stages: usize) -> Link {
        let grid = Grid { rank: world.rank(), size: world.size(), stages };
        let speaker = match grid.size {
            1 => Speaker::Caller(RefCell::new(world)),
            _ => Speaker::Thread(Worker::new(world)),
        };
        Link { grid, speaker, times: Cell::default() }
    }

    /// The place of this rank among all.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Returns the times since the last call.
    pub fn take_times(&self) -> Times {
        self.times.take()
    }

    /// Starts something, which the other ranks start, too; this rank can compute meanwhile.
    pub fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn World) -> T + Send + 'static,
    ) -> Pending<T> {
        let job = move |world: &mut dyn World| {
            let clock = Stopwatch::start();
            let result = job(world);
            (result, clock.seconds())
        };
        Pending(match &self.speaker {
            Speaker::Caller(world) => wait::Pending::of(job(&mut **world.borrow_mut())),
            Speaker::Thread(worker) => worker.start(move |world| job(&mut **world)),
        })
    }

    fn add(&self, busy: f64, waited: f64) {
        let times = self.times.get();
        self.times.set(Times { busy: times.busy + busy, waited: times.waited + waited });
    }

    /// Does something with the other ranks, and waits for it.
    pub fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn World) -> T + Send + 'static,
    ) -> T {
        let pending = self.start(job);
        self.take(pending)
    }

    /// Returns what came out, and waits for it.
    ///
    /// # Panics
    ///
    /// If it panicked.
    pub fn take<T>(&self, pending: Pending<T>) -> T {
        let clock = Stopwatch::start();
        let (result, seconds) = pending.0.take();
        self.add(seconds, clock.seconds());
        result
    }

    /// Returns what came out if it is done, and else what was started.
    ///
    /// # Panics
    ///
    /// If it panicked.
    pub fn try_take<T>(&self, pending: Pending<T>) -> Result<T, Pending<T>> {
        let (result, seconds) = pending.0.try_take().map_err(Pending)?;
        self.add(seconds, 0.0);
        Ok(result)
    }
}
