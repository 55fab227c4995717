//! Who votes next: one that is gone is replaced, an empty seat is filled, one at a time.
//!
//! The rules are here and the leader's clock is not: it says for how long each host was as it is. The
//! choice is no matter of taste: the zone with the fewest voters first, then a hash of fleet and host,
//! so every leader that sees the same hosts makes the same one. The leader never replaces itself: one that
//! dies is replaced by the next, and one that may not vote any more lets another voter lead.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    ids::{Digest, FleetId, HashDomain, HostId, ZoneName},
    sabotage::{Defect, planted},
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
    let stays = |host| host == leader && !planted(Defect::LeaderReplacesItself);
    let may_go = seats.iter().filter(|seat| seat.must_go && !stays(seat.host));
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
    // Where there are three zones, none of them decides alone. Whoever goes and is no member any more
    // stood in a zone that nobody knows, which is no zone beside the others.
    let known = seats.iter().filter(|seat| Some(seat.host) != goes || seat.zone.is_some());
    let all_zones = known.map(|seat| &seat.zone).chain(prospects.iter().map(|p| &p.zone));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::HostName;

    fn voter(number: u8) -> Voter {
        Voter { host: HostId([number; 32]), name: HostName::new(format!("h{number}")).unwrap() }
    }

    fn seat(number: u8, zone: &str) -> Seat {
        let zone = ZoneName::new(zone).ok();
        Seat { host: HostId([number; 32]), zone, is_live: true, must_go: false }
    }

    fn dead(number: u8, zone: &str) -> Seat {
        Seat { is_live: false, must_go: true, ..seat(number, zone) }
    }

    fn prospect(number: u8, zone: &str) -> Prospect {
        Prospect { voter: voter(number), zone: ZoneName::new(zone).ok() }
    }

    /// Who votes next, where the first of the seats leads.
    fn next(seats: &[Seat], prospects: &[Prospect]) -> Option<Vec<u8>> {
        let now = Voters::first(seats.iter().map(|seat| voter(seat.host.0[0])).collect());
        let list = next_list(FleetId([1; 32]), &now, seats[0].host, seats, prospects)?;
        assert_eq!((list.parent, list.generation), (now.id(), 1));
        Some(list.voters.iter().map(|voter| voter.host.0[0]).collect())
    }

    #[test]
    fn who_is_gone_is_replaced_and_nobody_else() {
        let spare = [prospect(9, "a")];
        assert_eq!(next(&[seat(1, "a"), seat(2, "a"), seat(3, "a")], &spare), None);
        assert_eq!(next(&[seat(1, "a"), seat(2, "a"), dead(3, "a")], &spare), Some(vec![1, 2, 9]));
        assert_eq!(next(&[seat(1, "a"), seat(2, "a"), dead(3, "a")], &[]), None);
        let leader = Seat { must_go: true, ..seat(1, "a") };
        assert_eq!(next(&[leader, seat(2, "a"), seat(3, "a")], &spare), None, "never itself");
    }

    #[test]
    fn the_dead_go_before_those_who_only_may_not_vote() {
        let unfit = Seat { must_go: true, ..seat(2, "a") };
        let seats = [seat(1, "a"), unfit, seat(3, "a"), seat(4, "a"), dead(5, "a")];
        assert_eq!(next(&seats, &[prospect(9, "a")]), Some(vec![1, 2, 3, 4, 9]));
    }

    #[test]
    fn those_who_live_must_be_able_to_agree_afterwards() {
        let (one, two) = (dead(4, "a"), dead(5, "a"));
        let seats = [seat(1, "a"), seat(2, "a"), dead(3, "a"), one.clone(), two.clone()];
        assert_eq!(next(&seats, &[prospect(9, "a")]), Some(vec![1, 2, 4, 5, 9]));
        let seats = [seat(1, "a"), dead(2, "a"), dead(3, "a"), one, two];
        assert_eq!(next(&seats, &[prospect(9, "a")]), None);
    }

    #[test]
    fn the_emptiest_zone_is_served_and_none_of_three_decides_alone() {
        let seats = [seat(1, "a"), seat(2, "b"), dead(3, "c")];
        let both = [prospect(8, "a"), prospect(9, "c")];
        assert_eq!(next(&seats, &both), Some(vec![1, 2, 9]));
        assert_eq!(next(&seats, &both[..1]), None, "zone a would decide alone");
        let seats = [seat(1, "a"), seat(2, "b"), dead(3, "b")];
        assert_eq!(next(&seats, &both[..1]), Some(vec![1, 2, 8]), "of two zones one must");
        let nobody = Seat { zone: None, ..dead(3, "a") };
        let seats = [seat(1, "a"), seat(2, "b"), nobody];
        assert_eq!(next(&seats, &both[..1]), Some(vec![1, 2, 8]), "these are two zones, not three");
    }
}
