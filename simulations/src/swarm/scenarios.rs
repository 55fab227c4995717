//! What is measured, each in a fleet of its own.

use groundswell_protocol::time::Mono;

use super::world::{Outcome, World};
use crate::measured::{Goal, Measured};

/// A fleet, what befalls it, and what is expected.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) hosts: usize,
    pub(super) degree: usize,
    pub(super) mbit: u64,
    pub(super) round_trip_micros: u64,
    pub(super) blow: Blow,
    /// In S/U.
    last: Goal,
    median: Goal,
}

/// What befalls a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    None,
    /// Three processes die half-way; their connections end.
    Killed,
    /// Three machines lose power half-way; their connections end when they have been silent for long.
    Silent,
    /// One host has a tenth of the rate, up and down. It does not count.
    Slow,
    /// One host gives wrong bytes for every frame.
    Corrupt,
}

const NO: Goal = Goal::None;
const QUIET: Scenario = Scenario {
    name: "12 hosts",
    hosts: 12,
    degree: 11,
    mbit: 100,
    round_trip_micros: 1000,
    blow: Blow::None,
    last: Goal::AtMost(1.10),
    median: NO,
};

/// All scenarios.
pub(super) const ALL: [Scenario; 9] = [
    QUIET,
    Scenario {
        name: "24 hosts, 50 Mbit/s",
        hosts: 24,
        degree: 10,
        mbit: 50,
        last: Goal::AtMost(1.20),
        ..QUIET
    },
    Scenario { name: "12 hosts, killed", blow: Blow::Killed, last: Goal::AtMost(1.35), ..QUIET },
    Scenario { name: "12 hosts, silent", blow: Blow::Silent, last: Goal::AtMost(1.35), ..QUIET },
    Scenario { name: "12 hosts, slow", blow: Blow::Slow, last: Goal::AtMost(1.25), ..QUIET },
    Scenario { name: "12 hosts, corrupt", blow: Blow::Corrupt, last: Goal::AtMost(1.30), ..QUIET },
    Scenario { name: "12 hosts, far", mbit: 1000, round_trip_micros: 20_000, last: NO, ..QUIET },
    Scenario {
        name: "1,000 hosts",
        hosts: 1000,
        degree: 10,
        last: Goal::AtMost(1.15),
        median: Goal::AtMost(1.12),
        ..QUIET
    },
    Scenario {
        name: "10,000 hosts",
        hosts: 10_000,
        degree: 16,
        last: Goal::AtMost(1.15),
        median: Goal::AtMost(1.12),
        ..QUIET
    },
];

impl Scenario {
    /// Runs it to its end.
    pub(super) fn measure(&self, seed: u64) -> Vec<Measured> {
        let mut world = World::new(self, seed);
        world.run();
        let Outcome { finished, origin_bytes, delivered, duplicates, control, degree } =
            world.outcome();
        let size = world.revision_bytes() as f64;
        let unit = size * 8.0 / self.mbit as f64;
        let times = |at: Option<&Mono>| at.map_or(f64::INFINITY, |at| at.0 as f64 / unit);
        let row = |what: &str, got, goal, unit| Measured {
            what: format!("{}: {what}", self.name),
            got,
            goal,
            unit,
        };
        let origin = if self.blow == Blow::None { Goal::AtMost(1.15) } else { NO };
        let duplicate = duplicates as f64 * 100.0 / delivered as f64;
        let overhead = control as f64 * 100.0 / delivered as f64;
        vec![
            row("last host", times(finished.last()), self.last, "S/U"),
            row("median host", times(finished.get(finished.len() / 2)), self.median, "S/U"),
            row("copies that the origin gave", origin_bytes as f64 / size, origin, ""),
            row("payload that came twice", duplicate, Goal::AtMost(1.0), "%"),
            row("questions and news", overhead, NO, "% of payload"),
            row("peers of a host, at most", degree as f64, Goal::AtMost(16.0), ""),
        ]
    }
}
