//! What the benchmarks share: the devices that are measured, and ids to measure with.

use wgpt::backend::Device;
use wgpt::backend::gpu::DeviceChoice;

/// The devices with the names of their rows. Where there is no GPU, a message says so.
pub fn devices() -> Vec<(&'static str, Device)> {
    let mut devices = vec![("cpu", Device::Cpu)];
    match Device::open(DeviceChoice::Gpu) {
        Ok(gpu) => devices.push(("gpu", gpu)),
        Err(error) => eprintln!("no rows of a GPU: {error}"),
    }
    devices
}

/// `n` ids of a vocabulary of `vocab`, without a pattern.
pub fn ids(n: usize, vocab: usize) -> Vec<u32> {
    (0..n as u64).map(|i| ((i * i + 3 * i) % 65_521 * 40_503 % vocab as u64) as u32).collect()
}
