//! Training on several devices at once: ranks that compute micro-batches each, and add their gradients in one order.

#[cfg(feature = "mpi")]
pub mod mpi;
mod sum;
mod world;

pub use sum::add_up;
pub use world::{Alone, World};
