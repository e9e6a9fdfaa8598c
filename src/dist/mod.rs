//! Training on several devices at once: ranks that compute micro-batches each, and add their gradients in one order.

mod group;
mod link;
#[cfg(feature = "mpi")]
pub mod mpi;
mod split;
mod sum;
mod world;

pub use group::Group;
pub use link::{Link, Pending, Times};
pub use split::update_split;
pub use sum::{Layout, Sums};
pub use world::{Alone, World};
