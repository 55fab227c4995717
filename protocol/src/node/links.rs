//! Who is connected to whom: every member to every member, found through records and seeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Node, Output};
use crate::{ids::HostId, limits::HEARTBEAT_EVERY, time::Mono, wire::Message};

/// Links that are up, and attempts to bring up others.
#[derive(Debug)]
pub(super) struct Links {
    me: HostId,
    up: BTreeSet<HostId>,
    seeds: Vec<Attempt>,
    known: BTreeMap<HostId, Attempt>,
    next_heartbeat_at: Mono,
    turn: u64,
}

/// Addresses to dial, and when.
#[derive(Debug)]
struct Attempt {
    addresses: Vec<String>,
    next_at: Mono,
    backoff: Duration,
    turn: usize,
}

impl Attempt {
    fn new(addresses: Vec<String>) -> Self {
        Self { addresses, next_at: Mono::default(), backoff: BACKOFF_MIN, turn: 0 }
    }

    /// The address to dial now, if it is time; each time another one.
    fn due(&mut self, now: Mono) -> Option<String> {
        if now < self.next_at || self.addresses.is_empty() {
            return None;
        }
        self.next_at = now + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.turn = (self.turn + 1) % self.addresses.len();
        Some(self.addresses[self.turn].clone())
    }

    fn rest(&mut self) {
        self.backoff = BACKOFF_MIN;
        self.next_at = Mono::default();
    }
}

impl Links {
    pub(super) fn new(
        me: HostId,
        seeds: Vec<String>,
        known: BTreeMap<HostId, Vec<String>>,
        seed: u64,
    ) -> Self {
        let known = known.into_iter().map(|(host, list)| (host, Attempt::new(list))).collect();
        let seeds = seeds.into_iter().map(|address| Attempt::new(vec![address])).collect();
        let (up, next_heartbeat_at) = (BTreeSet::new(), Mono::default());
        Self { me, up, seeds, known, next_heartbeat_at, turn: seed % 1024 }
    }

    pub(super) fn up(&self) -> impl Iterator<Item = HostId> {
        self.up.iter().copied()
    }

    pub(super) fn is_up(&self, peer: HostId) -> bool {
        self.up.contains(&peer)
    }

    /// One of the links, another one each time.
    pub(super) fn any(&mut self) -> Option<HostId> {
        let count = u64::try_from(self.up.len()).ok().filter(|count| *count > 0)?;
        self.turn = self.turn.wrapping_add(1);
        self.up.iter().nth(usize::try_from(self.turn % count).ok()?).copied()
    }
}

impl Node {
    pub(super) fn link_up(&mut self, peer: HostId) {
        self.links.up.insert(peer);
        if let Some(attempt) = self.links.known.get_mut(&peer) {
            attempt.rest();
        }
        self.detector.hear(self.now, peer);
        self.send(peer, Message::Digest(self.view.versions()));
        self.ask_ledger_of(peer);
    }

    pub(super) fn link_down(&mut self, peer: HostId) {
        self.links.up.remove(&peer);
        self.feed.followers.remove(&peer);
        self.detector.link_down(self.now, peer);
        self.snapshot_link_down(peer);
        if let Some(attempt) = self.links.known.get_mut(&peer) {
            attempt.rest();
        }
    }

    /// Heartbeats, and attempts to reach members that are not connected.
    pub(super) fn tend_links(&mut self) {
        if self.now >= self.links.next_heartbeat_at {
            self.links.next_heartbeat_at = self.now + HEARTBEAT_EVERY;
            for peer in self.links.up().collect::<Vec<_>>() {
                self.send(peer, Message::Heartbeat);
            }
        }
        let now = self.now;
        let links = &mut self.links;
        let mut dials = Vec::new();
        for (host, attempt) in &mut links.known {
            let dialable = *host != links.me
                && !links.up.contains(host)
                && (self.ledger.is_member(*host) || self.trust.genesis().is_voter(*host));
            // Of two hosts that see each other for the first time one begins, so that their
            // connections do not cross; the other one follows if nothing came of it.
            if dialable && attempt.next_at == Mono::default() && *host < links.me {
                attempt.next_at = now + POLITE_WAIT;
            }
            if dialable && let Some(address) = attempt.due(now) {
                dials.push(address);
            }
        }
        // Without any link the seeds are all there is. While a voter was never heard of they are
        // tried as well: two parts of a young fleet that do not know each other find together so.
        let lonely = links.up.is_empty();
        let unheard = |voter: &crate::trust::Voter| {
            voter.host != links.me && !links.known.contains_key(&voter.host)
        };
        let incomplete = self.trust.genesis().voters.iter().any(unheard);
        for seed in &mut links.seeds {
            if lonely && seed.backoff > SEED_LONELY {
                seed.backoff = SEED_LONELY;
                seed.next_at = seed.next_at.min(now + SEED_LONELY);
            }
            if (lonely || incomplete)
                && let Some(address) = seed.due(now)
            {
                dials.push(address);
            }
        }
        self.out.extend(dials.into_iter().map(Output::Dial));
    }

    /// Remembers where members say that they are.
    pub(super) fn learn_addresses(&mut self) {
        for record in self.view.iter() {
            if record.host == self.me {
                continue;
            }
            let known = self.links.known.get(&record.host);
            if known.is_none_or(|known| known.addresses != record.addresses) {
                let addresses = record.addresses.clone();
                self.out.push(Output::Known(record.host, addresses.clone()));
                self.links.known.insert(record.host, Attempt::new(addresses));
            }
        }
    }
}

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
const SEED_LONELY: Duration = Duration::from_millis(500);
const POLITE_WAIT: Duration = Duration::from_millis(1500);
