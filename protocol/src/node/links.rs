//! Who is connected to whom: neighbours on the rings, voters, and whoever comes.
//!
//! [`crate::fleet::Overlay`] says which links to keep; here are the addresses to dial for them, and
//! the needs that only a whole host knows. Voters are all connected to each other. A host that is
//! none follows [`VOTERS_FOLLOWED`] of them, chosen by hash so that the hosts of a fleet spread
//! evenly; one of them feeds it. Entries are not passed on along the rings: a follower believes them
//! because a voter says them, and would have to ask a majority about each one that came by anybody else. A host that
//! needs the voters' receipts is connected to all of them for as long as it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Node, Output};
use crate::{
    fleet::{Needs, Number, Overlay, Record, Turn},
    ids::{Digest, HashDomain, HostId},
    limits::{DIAL_BACKOFF_MAX, DIAL_BACKOFF_MIN, HEARTBEAT_EVERY, VOTERS_FOLLOWED},
    time::Mono,
    wire::Message,
};

/// Links that are up, and addresses for others.
pub(super) struct Links {
    up: BTreeSet<HostId>,
    pub(super) overlay: Overlay,
    seeds: Vec<Seed>,
    next_seed: usize,
    known: BTreeMap<HostId, Addresses>,
    /// When something was last sent to each peer.
    spoke: BTreeMap<HostId, Mono>,
    /// When a heartbeat is due at the earliest.
    next_beat_at: Mono,
    /// The other voters of a generation, in the order in which this host follows them; with those before them
    /// for as long as it is left behind.
    voters: Option<((u64, bool), Vec<HostId>)>,
}

/// Where a host may be reached.
struct Addresses {
    all: Vec<String>,
    turn: usize,
}

/// A place to look for others, and when.
struct Seed {
    address: String,
    next_at: Mono,
    backoff: Duration,
}

impl Addresses {
    fn new(all: Vec<String>) -> Self {
        Self { all, turn: 0 }
    }

    /// The address to dial now; each time another one.
    fn next(&mut self) -> Option<String> {
        self.turn = (self.turn + 1) % self.all.len().max(1);
        self.all.get(self.turn).cloned()
    }
}

impl Links {
    pub(super) fn new(
        now: Mono,
        seeds: Vec<String>,
        known: BTreeMap<HostId, Vec<String>>,
        seed: u64,
    ) -> Self {
        let known = known.into_iter().map(|(host, list)| (host, Addresses::new(list))).collect();
        let seed_of = |address| Seed { address, next_at: now, backoff: DIAL_BACKOFF_MIN };
        let seeds = seeds.into_iter().map(seed_of).collect();
        let (up, overlay) = (BTreeSet::new(), Overlay::new(now, seed));
        Self {
            up,
            overlay,
            seeds,
            next_seed: 0,
            known,
            spoke: BTreeMap::new(),
            next_beat_at: now,
            voters: None,
        }
    }

    pub(super) fn up(&self) -> impl Iterator<Item = HostId> {
        self.up.iter().copied()
    }

    pub(super) fn is_up(&self, peer: HostId) -> bool {
        self.up.contains(&peer)
    }

    /// The hosts of which it is known where they are.
    pub(super) fn known(&self) -> impl Iterator<Item = HostId> {
        self.known.keys().copied()
    }

    /// Nobody looks for a host any more.
    pub(super) fn forget(&mut self, host: HostId) {
        self.known.remove(&host);
    }

    /// Something is sent to a peer: whatever it is, it is a sign of life.
    pub(super) fn speak(&mut self, now: Mono, peer: HostId) {
        if self.up.contains(&peer) {
            self.spoke.insert(peer, now);
        }
    }
}

impl Node {
    pub(super) fn link_up(&mut self, peer: HostId) {
        // Without a number there is no room for it, nor for what it could tell.
        let Some(number) = self.view.roster.know(peer) else { return };
        self.links.up.insert(peer);
        self.links.overlay.link_up(number);
        self.gossip.ears.hear(self.now, number);
        let mut letters = Vec::new();
        let view = &mut self.view;
        self.gossip.spread.link_up(self.now, number, &view.roster, &mut view.records, &mut letters);
        self.post(letters);
        self.tend_overlay();
        self.greet_with_voters(peer);
        self.feed.hopes += u64::from(self.is_voter(peer));
        self.ask_ledger_of(peer);
    }

    pub(super) fn link_down(&mut self, peer: HostId) {
        self.links.up.remove(&peer);
        self.links.spoke.remove(&peer);
        self.feed.followers.remove(&peer);
        if let Some(number) = self.view.roster.number(peer) {
            self.links.overlay.link_down(number);
            self.gossip.ears.link_down(self.now, number);
            self.gossip.spread.link_down(number);
        }
        self.snapshot_link_down(peer);
        self.source_link_down(peer);
    }

    pub(super) fn told_neighbour(&mut self, from: HostId, is_neighbour: bool) {
        if let Some(from) = self.view.roster.number(from) {
            self.links.overlay.told(from, is_neighbour);
            self.tend_overlay();
        }
    }

    /// Heartbeats to whoever listens and heard nothing else, and seeds where there is nobody else.
    pub(super) fn tend_links(&mut self) {
        if self.now >= self.links.next_beat_at {
            self.links.next_beat_at = self.now + HEARTBEAT_EVERY;
            for number in self.links.overlay.gossips().collect::<Vec<_>>() {
                let peer = self.view.roster.host(number);
                let due = self.links.spoke.get(&peer).map(|at| *at + HEARTBEAT_EVERY);
                match due.filter(|due| *due > self.now) {
                    Some(due) => self.links.next_beat_at = self.links.next_beat_at.min(due),
                    None => self.send(peer, Message::Heartbeat),
                }
            }
        }
        self.tend_seeds();
    }

    /// Keeps the links that are needed, and gives up the others.
    pub(super) fn tend_overlay(&mut self) {
        let me = self.view.me();
        let neighbours: Vec<_> = self.gossip.ears.watched().collect();
        let others = self.wanted_voters();
        let number = |host: &HostId| self.view.roster.number(*host);
        let mut guests: Vec<_> = self.feed.followers.keys().filter_map(number).collect();
        guests.sort_unstable();
        let needs = Needs { neighbours: &neighbours, others: &others, guests: &guests };
        let mut turns = Vec::new();
        self.links.overlay.tick(self.now, &self.view.roster, me, needs, &mut turns);
        for turn in turns {
            self.take_turn(turn);
        }
    }

    fn take_turn(&mut self, turn: Turn) {
        let roster = &self.view.roster;
        match turn {
            Turn::Dial(number) => {
                let known = self.links.known.get_mut(&roster.host(number));
                self.out.extend(known.and_then(Addresses::next).map(Output::Dial));
            }
            Turn::DialSeed => {
                self.links.next_seed = (self.links.next_seed + 1) % self.links.seeds.len().max(1);
                let seed = self.links.seeds.get(self.links.next_seed);
                self.out.extend(seed.map(|seed| Output::Dial(seed.address.clone())));
            }
            Turn::Close(number) => self.out.push(Output::Close(roster.host(number))),
            Turn::Tell(number, is_neighbour) => {
                let peer = roster.host(number);
                self.send(peer, Message::Neighbour(is_neighbour));
            }
            Turn::Gossip(number, gossips) => {
                self.links.next_beat_at = self.now;
                self.gossip.spread.set_gossips(number, gossips);
            }
        }
    }

    /// The voters to be connected to, sorted.
    pub(super) fn wanted_voters(&mut self) -> Vec<Number> {
        let is_behind = self.is_left_behind();
        let begins = is_behind && self.is_voter(self.me);
        let all = self.consensus.is_some() || self.needs_receipts() || begins;
        let which = (self.electorate.newest().generation(), is_behind);
        if self.links.voters.as_ref().is_none_or(|(known, _)| *known != which) {
            self.links.voters = Some((which, self.voters_in_order()));
        }
        let voters = self.links.voters.iter().flat_map(|(_, voters)| voters);
        let (mut wanted, mut counted) = (Vec::new(), 0);
        for voter in voters {
            if !all && counted >= VOTERS_FOLLOWED {
                break;
            }
            let Some(number) = self.view.roster.know(*voter) else { continue };
            wanted.push(number);
            // One that does not answer is tried on, and the next one as well.
            counted += usize::from(!self.links.overlay.is_failing(number));
        }
        wanted.sort_unstable();
        wanted
    }

    /// The other voters, in an order of this host's own.
    pub(super) fn voters_in_order(&self) -> Vec<HostId> {
        let me = self.me;
        let mut voters: Vec<_> = self.feeders().into_iter().filter(|voter| *voter != me).collect();
        voters.sort_by_cached_key(|voter| {
            Digest::of(HashDomain::Ring, &[b"voter", &voter.0, &me.0]).0
        });
        voters
    }

    /// True while this host has to ask a majority of the voters for something.
    fn needs_receipts(&self) -> bool {
        !self.cert_is_whole || self.ledger.slot_of(self.me).is_some()
    }

    /// Without any link the seeds are all there is. While a voter was never heard of they are tried
    /// as well: two parts of a young fleet that do not know each other find together so.
    fn tend_seeds(&mut self) {
        let lonely = self.links.up.is_empty();
        let unheard = |voter: &crate::trust::Voter| {
            voter.host != self.me && !self.links.known.contains_key(&voter.host)
        };
        let incomplete = self.electorate.newest().list().iter().any(unheard);
        let now = self.now;
        for seed in &mut self.links.seeds {
            if lonely && seed.backoff > DIAL_BACKOFF_MIN {
                seed.backoff = DIAL_BACKOFF_MIN;
                seed.next_at = seed.next_at.min(now + DIAL_BACKOFF_MIN);
            }
            if (lonely || incomplete) && now >= seed.next_at {
                seed.next_at = now + seed.backoff;
                seed.backoff = (seed.backoff * 2).min(DIAL_BACKOFF_MAX);
                self.out.push(Output::Dial(seed.address.clone()));
            }
        }
    }

    /// Remembers where a member says that it is.
    pub(super) fn learn_addresses(&mut self, record: &Record) {
        let known = self.links.known.get(&record.host);
        if record.host == self.me || known.is_some_and(|known| known.all == record.addresses) {
            return;
        }
        let addresses = record.addresses.clone();
        self.out.push(Output::Known(record.host, addresses.clone()));
        self.links.known.insert(record.host, Addresses::new(addresses));
        if let Some(number) = self.view.roster.number(record.host) {
            self.links.overlay.try_anew(number);
        }
    }
}
