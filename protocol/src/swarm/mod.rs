//! Which frame of a revision to ask of whom.
//!
//! A host that lacks a revision hears from its peers which frames they hold. [`Fetch`] turns that
//! into asks: a few at a time at each peer, several peers at once, each frame at one peer at a
//! time, chosen at random (`choice.rs`) so that hosts fetching together soon hold different frames
//! and can serve each other. Peers that lie, stall or vanish cost time, never the outcome.

mod choice;
mod fetch;
mod frame_set;
mod turns;

#[cfg(test)]
mod crowd;

pub use fetch::{Ask, Failure, Fetch, Progress};
pub use frame_set::HoldingRefused;
pub use turns::Turns;
