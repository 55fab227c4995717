//! How many hosts may be down, which one is next, and how a deployment ends.
//!
//! The [`Ledger`] is the replicated state: every host applies the same entries in the same order
//! and comes to the same answer. Entries carry their evidence, and each applier checks it again.

mod applying;
mod choosing;
mod configuration;
mod deployment;
mod entry;
mod invariants;
mod judging;
mod kept;
mod ledger;
mod needs;
mod ordering;
mod quotas;
#[cfg(feature = "consensus")]
mod read;
mod refusal;
mod releases;
mod settling;
#[cfg(feature = "simulation")]
pub mod sharing;
mod stages;
mod views;
mod voters;
mod waiting;

pub use configuration::{Canary, CanaryHosts, DeploymentConfiguration, MinimumHealthy, Zones};
pub use deployment::{Creator, Deployment, DeploymentStatus, Hold, Scope, Target, TargetStatus};
pub use entry::{Entry, Grant, Passed, Stamped};
pub use kept::Kept;
pub use ledger::{Believed, Effect, Ledger};
pub use needs::Need;
#[cfg(feature = "consensus")]
pub(crate) use read::Read;
pub use refusal::Refusal;
pub use stages::Stage;
pub use views::{Assignment, GroupView, HostView, Part, SlotView, WriteOffView};
pub use waiting::{Full, Waiting};

#[cfg(test)]
mod tests;
