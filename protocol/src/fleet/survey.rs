//! How a host that lacks most records comes by them: bucket by bucket, each time of another neighbour.
//!
//! Were it to compare with all of them at once, each would tell it of everything. So it asks, no
//! faster than it may be sent what it then lacks, and neither who is there nor who else joins
//! decides how much comes to it in a second.

use std::{collections::BTreeMap, time::Duration};

use super::{
    records::{Records, Statement, Version},
    roster::{BUCKETS, Number, Roster},
};
use crate::{limits::ASKS_PER_TICK, time::Mono};

/// A walk through all buckets.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// The buckets that are still to be asked for.
    left: std::ops::Range<usize>,
    /// The neighbour that was asked last.
    last: Option<Number>,
    began: Mono,
}

/// What a host has of some buckets.
pub(super) type Buckets = Vec<(u8, Vec<(Number, Version)>)>;

impl Survey {
    /// Whether a host lacks so much that comparing is no way to come by it. `surveyed` is how many
    /// hosts were known when it last went through all buckets: of some nobody ever hears anything.
    pub(super) fn is_due<S: Statement>(
        roster: &Roster,
        records: &Records<S>,
        surveyed: usize,
    ) -> bool {
        let much = ASKS_PER_TICK * MUCH_TICKS;
        roster.len() >= surveyed + much && roster.len() >= records.len() + much
    }

    pub(super) fn new(now: Mono) -> Self {
        Self { left: 0..BUCKETS, last: None, began: now }
    }

    /// True if comparisons have been put off for long enough: one peer that offers what does not exist holds
    /// this up for as long as it likes.
    pub(super) fn takes_too_long(&self, now: Mono) -> bool {
        now.since(self.began) >= TIME_MAX
    }

    /// Whether to ask anybody, where there is no neighbour: all who join know the same few hosts at first.
    pub(super) fn asks_anybody(&self, now: Mono) -> bool {
        now.since(self.began) >= PATIENCE
    }

    /// True if all were asked for.
    pub(super) fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// The buckets to ask for now, and of whom. `peers` are sorted.
    pub(super) fn step<S: Statement>(
        &mut self,
        roster: &Roster,
        records: &Records<S>,
        peers: &[Number],
    ) -> BTreeMap<Number, Buckets> {
        let (mut asks, mut hosts) = (BTreeMap::new(), 0);
        while hosts < ASKS_PER_TICK
            && let Some(peer) = self.next_peer(peers)
            && let Some(bucket) = self.left.next().and_then(|bucket| u8::try_from(bucket).ok())
        {
            hosts += roster.bucket(bucket).len();
            let asked: &mut Buckets = asks.entry(peer).or_default();
            asked.push((bucket, records.bucket(roster, bucket)));
        }
        asks
    }

    fn next_peer(&mut self, peers: &[Number]) -> Option<Number> {
        let after = peers.iter().find(|peer| self.last.is_none_or(|last| **peer > last));
        self.last = after.or_else(|| peers.first()).copied();
        self.last
    }
}

/// What takes a second and more is much.
const MUCH_TICKS: usize = 5;
/// Three times what the largest fleet takes.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Time that it takes to dial a neighbour, twice.
const PATIENCE: Duration = Duration::from_secs(2);
