//! How many hosts may be down, which one is next, and how a deployment ends.
//!
//! The ledger is the replicated state: every host applies the same entries in the same order
//! and comes to the same answer. Entries carry their evidence, and each applier checks it again.

mod configuration;
mod ledger;

pub use configuration::{DeploymentConfiguration, MinimumHealthy};
pub use ledger::{Entry, Grant, Stamped};
