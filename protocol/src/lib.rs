//! Decides what every host of a fleet may run next.
//!
//! Nothing here reads a clock, opens a file, touches a socket or draws a random number: the caller
//! passes time, bytes and entropy in, and carries the answers out. The daemon, the simulator and
//! the unit tests are three callers of the same methods.
//!
//! Read [`trust`] first (who may say what), then [`rollout`] (how many hosts may be down), then
//! [`node`] (one host's whole mind, put together from the others).

#![warn(missing_docs)]

pub mod cbor;
pub mod ids;
pub mod limits;
#[cfg(feature = "simulation")]
mod places;
#[cfg(test)]
mod testdata;
pub mod time;

pub mod trust;

pub mod revision;

pub mod fleet;

pub mod rollout;

#[cfg(feature = "consensus")]
pub mod consensus;

#[cfg(feature = "consensus")]
pub mod node;

pub mod execute;
pub mod gate;
pub mod local;
pub mod logs;
pub mod sabotage;
pub mod swarm;
pub mod wire;
