//! The wgpu backend.

mod adapters;
mod capabilities;
mod checks;
mod copy;
mod device;
mod faults;
mod kinds;
mod measured;
mod notice;
mod pipelines;
mod replay;
mod variants;

pub use adapters::{
    AdapterKind, AdapterReport, DeviceChoice, Picked, adapters, name_adapter, pick,
};
pub use checks::Checks;
pub use device::{GpuDevice, Setup, Wanted};
pub(super) use faults::too_large;
pub use kinds::Kinds;
pub use measured::{Best, HOPELESS, Measured, Peak, Product, Timing};
pub use notice::Notice;
pub use replay::Gpu;
pub(super) use replay::has_room;
pub use variants::{Choice, Choices, by_promise, candidates, choose, class, full_name};
