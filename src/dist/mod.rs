//! Training on several devices at once: ranks that compute micro-batches each, and add their gradients in one order.

mod flat;
#[cfg(feature = "mpi")]
pub mod mpi;
mod outer;
mod sum;
mod world;

pub use flat::{Flat, Part};
pub use outer::Outer;
pub use sum::add_up;
pub use world::{Alone, World};
