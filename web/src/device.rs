//! The device that computations share: its pipelines are compiled once.

use std::cell::RefCell;

use wgpt::Result;
use wgpt::backend::Device;
use wgpt::backend::gpu::{DeviceChoice, adapters, pick};

thread_local! {
    static OPENED: RefCell<Option<Device>> = const { RefCell::new(None) };
}

/// Opens the device that a choice selects, or returns the one that is open; what is measured of it is kept in the cache folder.
pub fn open(choice: Option<DeviceChoice>) -> Result<Device> {
    let choice = choice.unwrap_or_default();
    if pick(choice, &adapters())?.index.is_none() {
        return Ok(Device::Cpu);
    }
    let is_usable = |device: &Device| matches!(device, Device::Gpu(gpu) if !gpu.is_lost());
    if let Some(device) = OPENED.take().filter(is_usable) {
        OPENED.set(Some(device.clone()));
        return Ok(device);
    }
    let device = Device::open_cached(choice, wgpt::cache::folder()?)?;
    OPENED.set(Some(device.clone()));
    Ok(device)
}
