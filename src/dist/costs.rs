//! What an exchange takes of the host, besides the link: copies and additions.

use super::sum::are_finite;
use crate::clock::Stopwatch;
use crate::engine::Engine;
use crate::error::Result;
use crate::math::simd::add_to;
use crate::model::buckets;

/// Seconds of the host for each byte of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostCosts {
    /// Reading gradients from the device into the host's memory.
    pub read_s: f64,
    /// Writing their sum to the device.
    pub write_s: f64,
    /// Copying from one place of the host's memory to another, as the transport does with what it sends and with what it
    /// receives.
    pub copy_s: f64,
    /// Looking whether the numbers of a part are finite, and adding them to another part.
    pub add_s: f64,
}

impl HostCosts {
    /// Measures all of them over the gradients of an engine, bucket by bucket, as an exchange reads them. The gradients stay as
    /// they are.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn measure(engine: &mut Engine) -> Result<HostCosts> {
        let summed = engine.program().summed.clone();
        let (mut times, mut bytes) = ([0.0; 4], 0);
        for bucket in buckets(&summed) {
            let view = summed[bucket.view].slice(bucket.start, bucket.len);
            let (mut own, mut other) = (engine.room(bucket.len), engine.room(bucket.len));
            let mut clock = Stopwatch::start();
            let mut lap = |time: &mut f64| {
                *time += clock.seconds();
                clock = Stopwatch::start();
            };
            engine.backend().read(view, &mut own)?;
            lap(&mut times[0]);
            other.copy_from_slice(&own);
            lap(&mut times[2]);
            // What is not used would not be computed.
            std::hint::black_box(are_finite(&other));
            add_to(std::hint::black_box(&mut other), &own);
            lap(&mut times[3]);
            engine.backend().write(view, &own);
            lap(&mut times[1]);
            engine.give_back(own);
            engine.give_back(other);
            bytes += 4 * bucket.len;
        }
        let [read_s, write_s, copy_s, add_s] = times.map(|time| time / bytes.max(1) as f64);
        Ok(HostCosts { read_s, write_s, copy_s, add_s })
    }
}
