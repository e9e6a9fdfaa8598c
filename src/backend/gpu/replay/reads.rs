//! Reads in progress: a ring of host-visible buffers, each of which holds one answer at a time.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use wgpu::{Buffer, BufferUsages, CommandEncoder, MapMode, SubmissionIndex};

use crate::backend::gpu::device::GpuDevice;
use crate::backend::interface::{Answer, MOST_REQUESTED};
use crate::error::Result;
use crate::wait::Signal;

/// The sizes of the ring's buffers, in bytes: several for reads while more work is in flight, such as the report of
/// an update or drawn tokens, and one for large reads that are not urgent, such as parameters.
const SLOT_BYTES: [u64; 5] = [64 << 10, 64 << 10, 64 << 10, 64 << 10, 4 * MOST_REQUESTED as u64];

/// How long another thread may take to run the callback of a device that has finished its work.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ring.
pub(super) struct Reads {
    slots: Vec<Slot>,
    /// The number of reads that were started so far.
    begun: u64,
}

/// A host-visible buffer.
struct Slot {
    buffer: Buffer,
    flight: Option<Flight>,
}

/// A read that was started and not yet taken.
struct Flight {
    number: u64,
    /// The reader's answer; once it is dropped, nobody waits for the read.
    answer: Weak<OnceLock<Vec<u8>>>,
    submission: SubmissionIndex,
    bytes: u64,
    /// Whether the device has called back: the copied data is available, or never will be.
    called: Signal,
}

/// A range of bytes of a buffer to read.
pub(super) struct Source<'a> {
    pub buffer: &'a Buffer,
    pub offset: u64,
    pub bytes: u64,
}

impl Reads {
    /// Creates the buffers.
    pub fn new(device: &GpuDevice) -> Reads {
        let make = |size| Slot {
            buffer: device.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("read"),
                size,
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
            flight: None,
        };
        Reads { slots: SLOT_BYTES.map(make).into(), begun: 0 }
    }

    /// Submits the encoded work, followed by copies of the sources; returns before the device has finished.
    pub fn begin(
        &mut self,
        device: &GpuDevice,
        mut encoder: CommandEncoder,
        sources: &[Source<'_>],
    ) -> Answer {
        let bytes = sources.iter().map(|source| source.bytes).sum();
        let index = self.slot_for(device, bytes);
        let slot = &mut self.slots[index];
        let mut at = 0;
        for source in sources {
            let Source { buffer, offset, bytes } = *source;
            encoder.copy_buffer_to_buffer(buffer, offset, &slot.buffer, at, bytes);
            at += bytes;
        }
        let submission = device.queue().submit([encoder.finish()]);
        let called = Signal::default();
        let signal = called.clone();
        let call = move |_| signal.give();
        slot.buffer.slice(..bytes).map_async(MapMode::Read, call);
        let answer = Answer::default();
        let (number, waiting) = (self.begun, Arc::downgrade(&answer));
        slot.flight = Some(Flight { number, answer: waiting, submission, bytes, called });
        self.begun += 1;
        answer
    }

    /// Whether [`Reads::take`] would return at once.
    pub fn is_ready(&self, device: &GpuDevice, answer: &Answer) -> bool {
        if answer.get().is_some() {
            return true;
        }
        device.catch(device.poll());
        let flight = self.flight(answer).and_then(|index| self.slots[index].flight.as_ref());
        flight.is_none_or(|flight| flight.called.is_given())
    }

    /// Waits for an answer and passes its bytes on.
    ///
    /// # Errors
    ///
    /// If the device is lost, or a fault occurred on it since the last read.
    pub fn take(
        &mut self,
        device: &GpuDevice,
        answer: &Answer,
        seen: impl FnOnce(&[u8]),
    ) -> Result<()> {
        match (answer.get(), self.flight(answer)) {
            (Some(bytes), _) => device.fault().map(|()| seen(bytes)),
            (None, Some(index)) => self.land(device, index, seen),
            (None, None) => device.fault().and(Err(device.error("what was read did not arrive"))),
        }
    }

    /// Returns the slot of a read.
    fn flight(&self, answer: &Answer) -> Option<usize> {
        let is_it = |flight: &Flight| std::ptr::eq(flight.answer.as_ptr(), Arc::as_ptr(answer));
        self.slots.iter().position(|slot| slot.flight.as_ref().is_some_and(is_it))
    }

    /// Returns a slot of the smallest size that is large enough. If all of them are in use, the oldest read is waited
    /// for, and its answer is kept on the host.
    fn slot_for(&mut self, device: &GpuDevice, bytes: u64) -> usize {
        let size = SLOT_BYTES.into_iter().filter(|size| *size >= bytes).min();
        let size = size.expect("a read that fits the largest slot");
        let fitting = |index: &usize| SLOT_BYTES[*index] == size;
        let number = |index: &usize| self.slots[*index].flight.as_ref().map(|f| f.number);
        let index = (0..self.slots.len()).filter(fitting).min_by_key(number);
        let index = index.expect("a slot of each size");
        let slot = &mut self.slots[index];
        match slot.flight.as_ref().map(|flight| flight.answer.upgrade()) {
            Some(Some(answer)) => {
                let kept = self.land(device, index, |bytes| {
                    answer.get_or_init(|| bytes.to_vec());
                });
                device.catch(kept);
            }
            Some(None) => {
                slot.flight = None;
                slot.buffer.unmap();
            }
            None => {}
        }
        index
    }

    /// Waits for the read of a slot, passes its bytes to `seen`, and frees the slot.
    fn land(&mut self, device: &GpuDevice, index: usize, seen: impl FnOnce(&[u8])) -> Result<()> {
        let Slot { buffer, flight } = &mut self.slots[index];
        let flight = flight.take().expect("a read is under way in this slot");
        let came = device.wait_for(flight.submission, &flight.called, PATIENCE);
        if !flight.called.is_given() {
            // The callback will never run: the mapping is cancelled, so that the slot is free.
            buffer.unmap();
            return came.and(Err(device.error("what was read did not arrive")));
        }
        came?;
        let slice = buffer.slice(..flight.bytes);
        seen(&slice.get_mapped_range().map_err(|e| device.error(e))?);
        buffer.unmap();
        Ok(())
    }
}
