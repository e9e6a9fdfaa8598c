//! The interface of a backend.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::packed::{Packed, is_packed};
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::kernel::{Format, Step};
use crate::plan::{Plan, View};

/// The largest number of elements in one request: 4 MiB of f32.
pub const MOST_REQUESTED: usize = 1 << 20;
/// The number of elements that are filled at a time.
pub(super) const FILLED: usize = 1 << 20;

/// Runs a plan. Views are those of the plan.
///
/// A read is a request that completes later: [`Backend::request`] returns before the device has finished, and
/// [`Backend::take`] waits for the answer, unless it has already arrived.
pub trait Backend: Send {
    /// Returns the plan that it runs.
    fn plan(&self) -> &Plan;

    /// Overwrites a view of real numbers.
    fn write(&mut self, view: View, data: &[f32]);

    /// Overwrites a view of real numbers in pieces: `fill(start, out)` writes the elements from `start` on to `out`.
    ///
    /// # Errors
    ///
    /// Returns the first error of `fill`; the view is then overwritten in part.
    fn fill(
        &mut self,
        view: View,
        fill: &mut dyn FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        fill_by_writing(self, view, fill)
    }

    /// Overwrites a view of integers.
    fn write_u32(&mut self, view: View, data: &[u32]);

    /// Writes the plan's constants; a backend does so when it is built.
    fn write_constants(&mut self) {
        for (view, words) in self.plan().constants.clone() {
            self.write_u32(view, &words);
        }
    }

    /// Runs some dispatches of the plan, by index; returns before a GPU has completed them.
    fn run(&mut self, range: Range<usize>, step: &Step);

    /// Runs some dispatches, waits for them, and returns how many milliseconds each took; fewer times if the device
    /// is lost, which the next read reports.
    fn run_timed(&mut self, range: Range<usize>, step: &Step) -> Vec<f64> {
        let mut time = |index| {
            let clock = Stopwatch::start();
            self.run(index..index + 1, step);
            clock.ms()
        };
        range.map(&mut time).collect()
    }

    /// Requests the contents of some views after all work so far; returns before a GPU has completed it.
    ///
    /// # Panics
    ///
    /// If the views have more than [`MOST_REQUESTED`] elements in total.
    fn request(&mut self, views: &[View]) -> Ticket;

    /// Whether [`Backend::take`] would return at once.
    fn is_ready(&mut self, ticket: &Ticket) -> bool;

    /// Writes the requested data to `out`, view by view; waits until it is available.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If `out` does not match the views in number, lengths and types.
    fn take(&mut self, ticket: Ticket, out: &mut [Out<'_>]) -> Result<()>;

    /// Reads a view of real numbers after all earlier work has run; waits for the device.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    fn read(&mut self, view: View, out: &mut [f32]) -> Result<()> {
        assert_eq!(out.len(), view.len, "what is read has the view's length");
        for (i, part) in out.chunks_mut(MOST_REQUESTED).enumerate() {
            let ticket = self.request(&[view.slice(i * MOST_REQUESTED, part.len())]);
            self.take(ticket, &mut [Out::Reals(part)])?;
        }
        Ok(())
    }

    /// Reads a view of integers after all earlier work has run; waits for the device.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    fn read_u32(&mut self, view: View, out: &mut [u32]) -> Result<()> {
        assert_eq!(out.len(), view.len, "what is read has the view's length");
        for (i, part) in out.chunks_mut(MOST_REQUESTED).enumerate() {
            let ticket = self.request(&[view.slice(i * MOST_REQUESTED, part.len())]);
            self.take(ticket, &mut [Out::Words(part)])?;
        }
        Ok(())
    }

    /// Gives up a buffer to a backend of another plan on the same device, which takes it over unchanged.
    fn give_up(&mut self, buffer: usize) -> Memory;

    /// Returns a description of its device: `CPU, 2 threads`, or the adapter's name.
    fn describe(&self) -> String;

    /// Returns the number of replays to keep in flight between two reads: 1 if waiting costs nothing.
    fn run_ahead(&self) -> usize {
        1
    }
}

/// The memory of a buffer, in the backend's own type.
pub type Memory = Box<dyn Any + Send>;

/// A buffer that a backend takes over from another one.
pub struct Given {
    /// The index of the buffer in the backend's plan.
    pub buffer: usize,
    /// The return value of [`Backend::give_up`] for a buffer of the same length and type.
    pub memory: Memory,
}

/// The bytes of a request, once they are available: view after view, each in whole words of 4 bytes.
pub(super) type Answer = Arc<OnceLock<Vec<u8>>>;

/// A read that was requested from a backend; only that backend can complete it.
#[must_use = "what was requested is to be taken"]
#[derive(Debug)]
pub struct Ticket {
    pub(super) views: Vec<View>,
    pub(super) answer: Answer,
}

impl Ticket {
    /// Returns the number of elements that were requested.
    pub fn elements(&self) -> usize {
        self.views.iter().map(|view| view.len).sum()
    }
}

/// The destination of the requested data of one view.
pub enum Out<'a> {
    /// Real numbers, of either precision.
    Reals(&'a mut [f32]),
    /// Integers.
    Words(&'a mut [u32]),
}

/// Returns the bytes that a view takes in an answer.
pub(super) fn answer_bytes(view: View) -> usize {
    (view.bytes() as usize).next_multiple_of(4)
}

/// Implements [`Backend::fill`] where the host cannot access the buffer: each piece is produced, then written.
pub(super) fn fill_by_writing(
    backend: &mut (impl Backend + ?Sized),
    view: View,
    fill: &mut dyn FnMut(usize, &mut [f32]) -> Result<()>,
) -> Result<()> {
    let mut piece = vec![0.0; FILLED.min(view.len)];
    for start in (0..view.len).step_by(FILLED) {
        let piece = &mut piece[..FILLED.min(view.len - start)];
        fill(start, piece)?;
        backend.write(view.slice(start, piece.len()), piece);
    }
    Ok(())
}

/// Checks a request's size.
pub(super) fn check_request(views: &[View]) {
    let elements: usize = views.iter().map(|view| view.len).sum();
    assert!(elements <= MOST_REQUESTED, "a request of {elements} elements");
}

/// Copies an answer to `out`, view by view.
pub(super) fn copy_out(views: &[View], answer: &[u8], out: &mut [Out<'_>]) {
    assert_eq!(views.len(), out.len(), "each view that was requested is taken");
    let mut rest = answer;
    for (&view, out) in views.iter().zip(out) {
        let (part, after) = rest.split_at(answer_bytes(view));
        rest = after;
        let part = &part[..view.bytes() as usize];
        match (view.format, out) {
            (Format::U32, Out::Words(out)) => {
                bytemuck::cast_slice_mut(out).copy_from_slice(part);
            }
            (Format::F32, Out::Reals(out)) => {
                bytemuck::cast_slice_mut(out).copy_from_slice(part);
            }
            (format, Out::Reals(out)) if is_packed(format) => {
                Packed::of_bytes(format, part).stored().widen(out);
            }
            (format, _) => panic!("a view of {format} is taken as another type"),
        }
    }
}
