//! Training on several devices at once: ranks that compute micro-batches each, and add their gradients in one order.

mod agree;
mod costs;
mod flat;
mod forecast;
mod group;
mod link;
#[cfg(feature = "mpi")]
pub mod mpi;
mod neighbours;
mod outer;
mod split;
mod stages;
mod sum;
mod throttle;
mod world;

pub(crate) use agree::{VERSION, check_all, other_version, read_opening};
pub use costs::HostCosts;
pub use flat::{Flat, Part};
pub use forecast::{Forecast, LinkSpeed, Measured, forecast};
pub use group::Group;
pub use link::{Link, Pending, Times};
pub(crate) use neighbours::Neighbours;
pub use outer::Outer;
pub use split::update_split;
pub use stages::Stages;
pub use sum::{Layout, Sums};
pub use throttle::Throttled;
pub use world::{Alone, World};
