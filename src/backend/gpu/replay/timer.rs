//! The time that dispatches take: by the device's clock if it has one, otherwise by the host's.

use std::ops::Range;

use wgpu::{BufferUsages, Features};

use super::Gpu;
use super::reads::Source;
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::kernel::Step;

/// The number of parts of dispatches that are timed in one submission: each uses two of the 4096 queries of a set.
const TIMED_PARTS: usize = 2048;
/// The bytes of a timestamp.
const TICKS_BYTES: u64 = wgpu::QUERY_SIZE as u64;

impl Gpu {
    /// Runs parts of dispatches and appends to `times_ms` the time that each took.
    pub(super) fn time(
        &mut self,
        range: Range<usize>,
        step: &Step,
        times_ms: &mut Vec<f64>,
    ) -> Result<()> {
        self.write_step(step);
        if !self.device.device().features().contains(Features::TIMESTAMP_QUERY) {
            return self.time_on_the_host(range, times_ms);
        }
        let mut start = range.start;
        while start < range.end {
            let end = self.submission_end(start..range.end.min(start + TIMED_PARTS));
            self.time_submission(start..end, times_ms)?;
            start = end;
        }
        Ok(())
    }

    fn time_on_the_host(&mut self, range: Range<usize>, times_ms: &mut Vec<f64>) -> Result<()> {
        self.wait()?;
        for index in range {
            let clock = Stopwatch::start();
            self.submit(index..index + 1);
            self.wait()?;
            times_ms.push(clock.ms());
        }
        Ok(())
    }

    /// Uses a pass per part, since every device has timestamps at the ends of a pass, but few within a pass.
    fn time_submission(&mut self, range: Range<usize>, times_ms: &mut Vec<f64>) -> Result<()> {
        let device = self.device.device();
        let count = 2 * range.len() as u32;
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("times"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = u64::from(count) * TICKS_BYTES;
        let ticks = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("times"),
            size: bytes,
            usage: BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        for (index, query) in range.zip((0..).step_by(2)) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(query),
                    end_of_pass_write_index: Some(query + 1),
                }),
            });
            self.record(&mut pass, index..index + 1);
        }
        encoder.resolve_query_set(&queries, 0..count, &ticks, 0);
        let source = Source { buffer: &ticks, offset: 0, bytes };
        let answer = self.reads.begin(&self.device, encoder, &[source]);
        let period_ns = f64::from(self.device.queue().get_timestamp_period());
        self.reads.take(&self.device, &answer, |answer| {
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(answer);
            let spent = |pair: &[u64]| pair[1].saturating_sub(pair[0]) as f64 * period_ns * 1e-6;
            times_ms.extend(ticks.chunks_exact(2).map(spent));
        })
    }
}
