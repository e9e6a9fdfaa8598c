//! Backends: they replay the same plan on the CPU or on a GPU. They do not depend on any op.

pub mod cpu;
mod device;
pub mod gpu;
mod interface;
mod packed;
mod zeroed;

pub use device::Device;
pub use interface::{Backend, Given, MOST_REQUESTED, Memory, Out, Ticket};
