//! What doubts the project.
//!
//! The simulator drives the very state machines of `protocol/` under virtual time: whole fleets with
//! links that stall and break, disks that forget what was not written, clocks that are off, processes
//! that die between two outputs, and people who change their minds. Read [`plan`] first (what a seed
//! means), then [`world`] (the loop), then [`truth`] (what is promised, and how it is checked).
//!
//! It does not simulate libp2p, the store or the real executor: those are shells round the same
//! decisions. `swell-bench` measures a fleet of the real programs.

pub mod coverage;
mod deceiving;
pub mod dice;
mod executing;
pub mod executor;
mod faults;
mod forger;
mod founding;
mod host;
mod large;
mod links;
mod liveness;
mod lives;
mod measured;
mod network;
pub mod pace;
mod parrot;
mod people;
pub mod plan;
mod queue;
mod recovering;
mod rules;
pub mod run;
pub mod sabotaged;
pub mod scale;
pub mod shrink;
pub mod swarm;
mod telling;
pub mod trace;
pub mod truth;
mod watching;
pub mod world;

/// How many steps a lifecycle has.
fn execute_steps() -> usize {
    groundswell_protocol::execute::LifecycleEvent::IN_PLACE.len()
}
