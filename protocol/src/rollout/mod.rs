//! How many hosts may be down, which one is next, and how a deployment ends.
//!
//! The [`Ledger`] is the replicated state: every host applies the same entries in the same order
//! and comes to the same answer. Entries carry their evidence, and each applier checks it again.

mod configuration;
mod deployment;
mod entry;
mod ledger;
mod refusal;
mod views;

pub use configuration::{Canary, CanaryHosts, DeploymentConfiguration, MinimumHealthy, Zones};
pub use deployment::{Creator, Deployment, DeploymentStatus, Target, TargetStatus};
pub use entry::{Entry, Grant, Stamped};
pub use ledger::{Effect, Ledger};
pub use refusal::Refusal;
pub use views::{Assignment, GroupView, HostView, Part, SlotView, Waiting};

#[cfg(test)]
mod tests;
