//! Who votes next: one that is gone is replaced, an empty seat is filled, one at a time.
//!
//! The rules are here and the leader's clock is not: it says for how long each host was as it is. The
//! choice is no matter of taste: the zone with the fewest voters first, then a hash of fleet and host,
//! so every leader that sees the same hosts makes the same one. The leader never replaces itself: one that
//! dies is replaced by the next, and one that may not vote any more stays until it leads no more.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    ids::{Digest, FleetId, HashDomain, HostId, ZoneName},
    trust::{Voter, VoterList, Voters},
};

/// After how long a voter is replaced, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoterPolicy {
    /// A voter is replaced that was silent for so long. Restarts and reboots are shorter.
    pub silent: Duration,
    /// A voter is replaced that may not vote, by its labels, for so long.
    pub unfit: Duration,
    /// A host votes only if it was well for so long.
    pub stable: Duration,
    /// Changes are so far apart at least.
    pub pace: Duration,
    /// Two voters of one zone are not replaced within this time: that is a zone which is cut off.
    pub zone_pace: Duration,
}

impl VoterPolicy {
    /// Voters are replaced after so much silence, by hosts that were well for as long.
    pub fn after(silent: Duration) -> Self {
        let (stable, zone_pace) = (silent, silent);
        Self { silent, unfit: silent * 6, stable, pace: silent / 10, zone_pace }
    }
}

impl Default for VoterPolicy {
    fn default() -> Self {
        Self::after(Duration::from_secs(600))
    }
}

/// A voter, as the leader sees it.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The voter.
    pub host: HostId,
    /// Its zone, if it is known.
    pub zone: Option<ZoneName>,
    /// It answers.
    pub is_live: bool,
    /// It should be replaced now.
    pub must_go: bool,
}

/// A host that may vote.
#[derive(Clone, Debug)]
pub struct Prospect {
    /// The host and its name.
    pub voter: Voter,
    /// Its zone.
    pub zone: Option<ZoneName>,
}

/// The list that should follow `now`, if it should change. `seats` has all voters of it.
pub fn next_list(
    fleet: FleetId,
    now: &Voters,
    leader: HostId,
    seats: &[Seat],
    prospects: &[Prospect],
) -> Option<VoterList> {
    // Whoever is dead before whoever only may not vote.
    let may_go = seats.iter().filter(|seat| seat.must_go && seat.host != leader);
    let goes = may_go.min_by_key(|seat| seat.is_live).map(|seat| seat.host);
    if goes.is_none() && now.list().len() >= now.seats() {
        return None;
    }
    let stay = || seats.iter().filter(|seat| Some(seat.host) != goes);
    let mut zones: BTreeMap<Option<&ZoneName>, usize> = BTreeMap::new();
    for seat in stay() {
        *zones.entry(seat.zone.as_ref()).or_default() += 1;
    }
    let rank = |prospect: &&Prospect| {
        let crowd = zones.get(&prospect.zone.as_ref()).copied().unwrap_or(0);
        let draw = Digest::of(HashDomain::Ring, &[b"vote", &fleet.0, &prospect.voter.host.0]);
        (Reverse(crowd), draw)
    };
    // Where there are three zones, none of them decides alone.
    let all_zones = seats.iter().map(|seat| &seat.zone).chain(prospects.iter().map(|p| &p.zone));
    let several = all_zones.collect::<BTreeSet<_>>().len() >= 3;
    let all = stay().count() + 1;
    let majority = all / 2 + 1;
    let fits = |prospect: &&Prospect| {
        let crowd = zones.get(&prospect.zone.as_ref()).copied().unwrap_or(0);
        !several || majority == 1 || crowd + 1 < majority
    };
    let comes = prospects.iter().filter(fits).max_by_key(rank)?;
    let mut voters: Vec<_> =
        now.list().iter().filter(|voter| Some(voter.host) != goes).cloned().collect();
    voters.push(comes.voter.clone());
    voters.sort();
    // Those who live must be able to agree afterwards as well.
    let live = stay().filter(|seat| seat.is_live).count() + 1;
    if live < voters.len() / 2 + 1 {
        return None;
    }
    let seats = u8::try_from(now.seats()).unwrap_or(u8::MAX);
    let generation = now.generation().saturating_add(1);
    Some(VoterList { base: None, seats, parent: now.id(), voters, generation })
}
