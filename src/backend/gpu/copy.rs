//! The copy speed of a device, as a measure of its memory.

use wgpu::BufferUsages;

use super::device::GpuDevice;
use crate::clock::Stopwatch;
use crate::error::Result;

/// The bytes of a copy: more than caches hold.
const COPY_BYTES: u64 = 128 << 20;
/// The number of copies that are timed together, so that waiting for them has little effect.
const COPIES: u64 = 8;

impl GpuDevice {
    /// Measures how many bytes per second, in 10⁹, a copy within the device reads and writes.
    ///
    /// # Errors
    ///
    /// If the device has not enough memory, or is lost.
    pub fn copy_gb_per_s(&self) -> Result<f64> {
        let size = COPY_BYTES.min(self.limits().buffer_bytes);
        let usage = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let make = |label| {
            let label = Some(label);
            self.device().create_buffer(&wgpu::BufferDescriptor {
                label,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let (from, to) = self.checked(|| (make("copy from"), make("copy to")))?;
        let copy = |times: u64| {
            let mut encoder = self.device().create_command_encoder(&Default::default());
            for _ in 0..times {
                encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size);
            }
            self.queue().submit([encoder.finish()]);
            self.wait()
        };
        copy(1)?;
        let clock = Stopwatch::start();
        copy(COPIES)?;
        Ok((2 * COPIES * size) as f64 / clock.seconds() * 1e-9)
    }
}
