//! Training on several devices at once: ranks that compute micro-batches each, and add their gradients in one order.

mod grid;
mod link;
#[cfg(feature = "mpi")]
pub mod mpi;
mod split;
mod sum;
mod world;

pub use grid::{Grid, Group};
pub use link::{Link, Pending, Times};
pub use split::update_split;
pub use sum::{Layout, Sums};
pub use world::{Alone, World};
