//! The thread that speaks to the other ranks while this rank computes.

use std::cell::{Cell, RefCell};

use super::world::World;
use crate::clock::Stopwatch;
use crate::pipeline::Grid;
use crate::timeline::{Activity, Span};
use crate::wait::{self, Worker};

/// A rank's link to the others. What is done with them is done in the order in which it was started, which is the same on
/// every rank.
pub struct Link {
    grid: Grid,
    speaker: Speaker,
    times: Cell<Times>,
    clock: Cell<Stopwatch>,
    /// Transfers and waits since a profile began, in seconds of the clock.
    spans: RefCell<Option<Vec<Span>>>,
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
pub struct Pending<T>(wait::Pending<(T, Span)>);

impl Link {
    /// The link of a rank in its world, of which the ranks form so many stages.
    pub fn new(world: Box<dyn World>, stages: usize) -> Link {
        let grid = Grid { rank: world.rank(), size: world.size(), stages };
        let speaker = match grid.size {
            1 => Speaker::Caller(RefCell::new(world)),
            _ => Speaker::Thread(Worker::new(world)),
        };
        let (times, spans) = (Cell::default(), RefCell::default());
        Link { grid, speaker, times, clock: Cell::new(Stopwatch::start()), spans }
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
        let clock = self.clock.get();
        let job = move |world: &mut dyn World| {
            let start_s = clock.seconds();
            let result = job(world);
            let seconds = clock.seconds() - start_s;
            (result, Span { activity: Activity::Transfer, start_s, seconds })
        };
        Pending(match &self.speaker {
            Speaker::Caller(world) => wait::Pending::of(job(&mut **world.borrow_mut())),
            Speaker::Thread(worker) => worker.start(move |world| job(&mut **world)),
        })
    }

    /// Begins to record transfers and waits, in seconds of a clock. Nothing may be under way.
    pub fn begin_spans(&self, clock: Stopwatch) {
        self.clock.set(clock);
        *self.spans.borrow_mut() = Some(vec![]);
    }

    /// Ends what [`Link::begin_spans`] began, and returns the spans.
    pub fn end_spans(&self) -> Vec<Span> {
        self.spans.borrow_mut().take().unwrap_or_default()
    }

    /// Counts a transfer, and for how long it was waited for.
    fn count(&self, transfer: Span, waited: Option<Span>) {
        let Times { busy, waited: before } = self.times.get();
        let seconds = waited.map_or(0.0, |span| span.seconds);
        self.times.set(Times { busy: busy + transfer.seconds, waited: before + seconds });
        if let Some(spans) = &mut *self.spans.borrow_mut() {
            spans.extend([Some(transfer), waited].into_iter().flatten());
        }
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
        let clock = self.clock.get();
        let start_s = clock.seconds();
        let (result, transfer) = pending.0.take();
        let seconds = clock.seconds() - start_s;
        self.count(transfer, Some(Span { activity: Activity::Wait, start_s, seconds }));
        result
    }

    /// Returns what came out if it is done, and else what was started.
    ///
    /// # Panics
    ///
    /// If it panicked.
    pub fn try_take<T>(&self, pending: Pending<T>) -> Result<T, Pending<T>> {
        let (result, transfer) = pending.0.try_take().map_err(Pending)?;
        self.count(transfer, None);
        Ok(result)
    }
}
