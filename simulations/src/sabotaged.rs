//! Would the simulator notice? Plants one defect after the other and looks how many seeds it takes.

use groundswell_protocol::sabotage::{Defect, plant};

use crate::{plan::Plan, trace::Trace, truth::Violation, world::World};

/// How a planted defect was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Seeds that were run, the one that found it included.
    pub seeds: u64,
    /// That seed.
    pub seed: u64,
    /// The promise that was broken.
    pub violation: Violation,
}

/// Runs seeds with a defect planted until a promise is broken, at most `seeds_max`.
pub fn hunt(defect: Defect, seeds_max: u64, hosts_max: usize) -> Option<Found> {
    plant(Some(defect));
    let found = (0..seeds_max).find_map(|seed| {
        let ended = World::new(Plan::draw(seed, hosts_max), Trace::silent()).run();
        let (_, violation) = ended.violation?;
        Some(Found { seeds: seed + 1, seed, violation })
    });
    plant(None);
    found
}
