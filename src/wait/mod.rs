//! The only place where the host waits: for a device, for a future, or for some time.
//!
//! Nothing above this module is async. Where a thread must not block, as in a browser, these functions return control
//! to the environment until the wait is over.

#[cfg(target_family = "wasm")]
mod browser;

use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wgpu::{Device, PollError, PollType, Queue, SubmissionIndex};

use crate::clock::Stopwatch;

/// How long a wait by asking makes no pauses.
const AT_ONCE: Duration = Duration::from_micros(50);
/// The longest pause between two questions.
const LONGEST_PAUSE: Duration = Duration::from_micros(500);

/// Waits for a future, which wgpu returns when it makes a request to a driver.
pub(crate) fn for_future<T>(future: impl Future<Output = T>) -> T {
    #[cfg(target_family = "wasm")]
    return browser::for_future(future);
    #[cfg(not(target_family = "wasm"))]
    pollster::block_on(future)
}

/// Waits for some time.
pub(crate) fn for_time(pause: Duration) {
    #[cfg(target_family = "wasm")]
    browser::for_time(pause);
    #[cfg(not(target_family = "wasm"))]
    std::thread::sleep(pause);
}

/// Lets what else waits for this thread run: in a browser the messages of the page, elsewhere nothing.
pub fn for_others() {
    #[cfg(target_family = "wasm")]
    browser::for_others();
}

/// Something that happens once, of which a callback tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    is_given: bool,
    waiting: Option<Waker>,
}

impl Signal {
    /// Tells that it has happened.
    pub(crate) fn give(&self) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.is_given = true;
        told.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Whether it has happened.
    pub(crate) fn is_given(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_given
    }
}

impl Future for Signal {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_given {
            return Poll::Ready(());
        }
        told.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Waits until `is_done` says so, which is what makes the work go on: it is asked again and again, first at once, then
/// after pauses, so that what computes meanwhile has the processor.
#[cfg_attr(not(feature = "mpi"), expect(dead_code, reason = "only MPI is asked"))]
pub(crate) fn by_asking(mut is_done: impl FnMut() -> bool) {
    let clock = Stopwatch::start();
    while !is_done() {
        match clock.elapsed() {
            waited if waited < AT_ONCE => std::thread::yield_now(),
            waited => std::thread::sleep((waited / 16).min(LONGEST_PAUSE)),
        }
    }
}

/// Waits until a device has completed a submission, or without one all submitted work, and has run the callbacks for
/// it.
///
/// # Errors
///
/// If the device does not answer.
pub(crate) fn for_device(
    device: &Device,
    queue: &Queue,
    submission: Option<SubmissionIndex>,
) -> Result<(), PollError> {
    if cfg!(target_family = "wasm") {
        // A browser does not let itself be asked: it calls back.
        let done = Signal::default();
        let signal = done.clone();
        queue.on_submitted_work_done(move || signal.give());
        for_future(done);
        return Ok(());
    }
    let until = PollType::Wait { submission_index: submission, timeout: None };
    device.poll(until).map(drop)
}

/// Waits until a device has completed a submission, and for the signal that its callback gives then; returns whether it came. If
/// several threads wait for a device, the callback may run on another one, which may take up to `patience`.
///
/// # Errors
///
/// If the device does not answer.
pub(crate) fn for_signal(
    device: &Device,
    submission: SubmissionIndex,
    signal: &Signal,
    patience: Duration,
) -> Result<bool, PollError> {
    if cfg!(target_family = "wasm") {
        for_future(signal.clone());
        return Ok(true);
    }
    device.poll(PollType::Wait { submission_index: Some(submission), timeout: None })?;
    let clock = Stopwatch::start();
    while !signal.is_given() && clock.elapsed() < patience {
        std::thread::yield_now();
    }
    Ok(signal.is_given())
}

/// Lets a device run the callbacks for completed work, and returns at once.
///
/// # Errors
///
/// If the device does not answer.
pub(crate) fn look_at(device: &Device) -> Result<(), PollError> {
    device.poll(PollType::Poll).map(drop)
}

/// Channels between the threads of a server, whose receivers wait as futures.
#[cfg(feature = "serve")]
pub(crate) mod channels {
    pub(crate) use tokio::sync::mpsc::error::TrySendError;
    pub(crate) use tokio::sync::mpsc::{
        Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel,
    };
}

/// A thread that does one thing after the other with what it has; it ends when this is dropped, without being waited for.
pub(crate) struct Worker<S>(Sender<Task<S>>);

type Task<S> = Box<dyn FnOnce(&mut S) + Send>;

/// What comes of something that a worker was told to do.
#[must_use = "what was started is to be taken"]
pub(crate) struct Pending<T>(Receiver<T>);

impl<S: Send + 'static> Worker<S> {
    /// Starts a worker.
    pub(crate) fn new(mut own: S) -> Worker<S> {
        let (tasks, todo) = channel::<Task<S>>();
        std::thread::spawn(move || todo.iter().for_each(|task| task(&mut own)));
        Worker(tasks)
    }

    /// Tells it to do something after all that it was told before; does not wait for it.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Pending<T> {
        let (sender, receiver) = channel();
        let task = move |own: &mut S| {
            let result = task(own);
            // Nobody takes it if the caller ends by an error.
            let _ = sender.send(result);
        };
        self.0.send(Box::new(task)).expect("the thread ends with the worker");
        Pending(receiver)
    }
}

impl<T> Pending<T> {
    /// What has come already.
    pub(crate) fn of(result: T) -> Pending<T> {
        let (sender, receiver) = channel();
        sender.send(result).expect("the receiver is here");
        Pending(receiver)
    }

    /// Waits for it.
    ///
    /// # Panics
    ///
    /// If the worker panicked.
    pub(crate) fn take(self) -> T {
        self.0.recv().expect("a worker that does what it is told")
    }

    /// Waits for it, but no longer than `patience`.
    ///
    /// # Panics
    ///
    /// If the worker panicked.
    pub(crate) fn take_within(self, patience: Duration) -> Option<T> {
        match self.0.recv_timeout(patience) {
            Ok(result) => Some(result),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("a worker that does what it is told"),
        }
    }

    /// Returns it if it is there, and else itself.
    ///
    /// # Panics
    ///
    /// If the worker panicked.
    pub(crate) fn try_take(self) -> Result<T, Pending<T>> {
        match self.0.try_recv() {
            Ok(result) => Ok(result),
            Err(TryRecvError::Empty) => Err(self),
            Err(TryRecvError::Disconnected) => panic!("a worker that does what it is told"),
        }
    }
}
