//! Backends: the same plan, replayed on the CPU or on a GPU. They know no op.

pub mod cpu;
mod device;
pub mod gpu;
mod interface;

pub use device::Device;
pub use interface::{Backend, Given, MOST_REQUESTED, Memory, Out, Ticket};
