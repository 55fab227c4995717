//! With whom a host shares what it holds, and with whom it could instead.
//!
//! The first peers to come are its neighbours. What others say is kept, so that one of them takes the
//! place of a neighbour that goes or is of no use, and so is what is said before a link is known to be up.

use std::collections::{BTreeMap, BTreeSet};

use super::holdings::Holdings;
use crate::{
    ids::{Digest, HostId},
    limits::{
        HOLDINGS_BYTES_PER_PEER_MAX, HOLDINGS_BYTES_PER_SPARE_MAX, SWARM_PEERS_MAX,
        SWARM_SPARES_MAX,
    },
    wire::Holding,
};

/// All peers of a host.
#[derive(Debug, Default)]
pub(super) struct Links {
    neighbours: BTreeMap<HostId, Neighbour>,
    /// Whoever came first is first.
    others: Vec<Other>,
    /// Links beyond these: they are told what all are told, and wait for a place among the others.
    rest: BTreeSet<HostId>,
}

#[derive(Debug)]
struct Neighbour {
    /// What it said of revisions that are not open here.
    said: Holdings,
    /// It neither gave nor asked for anything since it was last looked at.
    idle: bool,
}

#[derive(Debug)]
struct Other {
    peer: HostId,
    said: Holdings,
    /// The link is up; where it is not, the peer was heard before that.
    linked: bool,
}

impl Links {
    /// A link is up. True if that is new, for one that is to be told what is here.
    pub(super) fn up(&mut self, peer: HostId) -> bool {
        if self.neighbours.contains_key(&peer) {
            return false;
        }
        if let Some(other) = self.others.iter_mut().find(|other| other.peer == peer) {
            return !std::mem::replace(&mut other.linked, true);
        }
        self.add(peer, true).is_some() || self.rest.insert(peer)
    }

    /// The last link to a peer is gone. True if it was a neighbour.
    pub(super) fn gone(&mut self, peer: HostId) -> bool {
        self.others.retain(|other| other.peer != peer);
        self.rest.remove(&peer);
        self.listen();
        self.neighbours.remove(&peer).is_some()
    }

    /// Gives a free place to the first who waits for one.
    pub(super) fn admit(&mut self) -> Option<HostId> {
        if self.neighbours.len() >= SWARM_PEERS_MAX {
            return None;
        }
        let place = self.others.iter().position(|other| other.linked)?;
        let Other { peer, said, .. } = self.others.remove(place);
        let said = said.within(HOLDINGS_BYTES_PER_PEER_MAX);
        self.neighbours.insert(peer, Neighbour { said, idle: false });
        self.listen();
        Some(peer)
    }

    /// True if a neighbour has said things that are not known any more.
    pub(super) fn take_forgotten(&mut self, peer: HostId) -> bool {
        let neighbour = self.neighbours.get_mut(&peer);
        neighbour.is_some_and(|neighbour| neighbour.said.take_overflowed())
    }

    /// A neighbour becomes one of those that wait, as the last.
    pub(super) fn demote(&mut self, peer: HostId) {
        let Some(Neighbour { said, .. }) = self.neighbours.remove(&peer) else { return };
        if self.others.len() >= SWARM_SPARES_MAX
            && let Some(last) = self.others.pop()
            && last.linked
        {
            self.rest.insert(last.peer);
        }
        let said = said.within(HOLDINGS_BYTES_PER_SPARE_MAX);
        self.others.push(Other { peer, said, linked: true });
    }

    /// True if a place is waited for.
    pub(super) fn has_spares(&self) -> bool {
        self.others.iter().any(|other| other.linked)
    }

    /// The neighbours that were of no use since this was asked last, at most as many as wait.
    pub(super) fn idle(&mut self) -> Vec<HostId> {
        let most = self.others.iter().filter(|other| other.linked).count();
        let idle = self.neighbours.iter_mut().filter_map(|(peer, neighbour)| {
            std::mem::replace(&mut neighbour.idle, true).then_some(*peer)
        });
        // All of them are looked at.
        let mut idle: Vec<_> = idle.collect();
        idle.truncate(most);
        idle
    }

    /// A peer gave something or asked for something.
    pub(super) fn used(&mut self, peer: HostId) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.idle = false;
        }
    }

    pub(super) fn is_neighbour(&self, peer: HostId) -> bool {
        self.neighbours.contains_key(&peer)
    }

    pub(super) fn neighbours(&self) -> impl Iterator<Item = HostId> {
        self.neighbours.keys().copied()
    }

    /// Everybody who can be told something.
    pub(super) fn all(&self) -> impl Iterator<Item = HostId> {
        let others = self.others.iter().filter(|other| other.linked);
        self.neighbours().chain(others.map(|other| other.peer)).chain(self.rest.iter().copied())
    }

    /// Where what a peer says is kept; a peer that is new waits for its link.
    pub(super) fn said(&mut self, peer: HostId) -> Option<&mut Holdings> {
        if self.neighbours.contains_key(&peer) {
            return self.neighbours.get_mut(&peer).map(|neighbour| &mut neighbour.said);
        }
        let known = self.others.iter().position(|other| other.peer == peer);
        let place = known.or_else(|| self.add(peer, false))?;
        Some(&mut self.others[place].said)
    }

    /// What a neighbour said of a revision that is opened.
    pub(super) fn take(&mut self, peer: HostId, manifest: Digest) -> Option<Holding> {
        self.neighbours.get_mut(&peer)?.said.take(manifest)
    }

    /// Linked peers that have said something of a revision that is not open here.
    pub(super) fn holders(&self, manifest: Digest) -> impl Iterator<Item = HostId> {
        let neighbours = self.neighbours.iter().map(|(peer, neighbour)| (*peer, &neighbour.said));
        let others = self.others.iter().filter(|other| other.linked);
        let all = neighbours.chain(others.map(|other| (other.peer, &other.said)));
        all.filter(move |(_, said)| said.has(manifest)).map(|(peer, _)| peer)
    }

    /// Where all places are taken, whoever was heard first without a link loses its own.
    fn add(&mut self, peer: HostId, linked: bool) -> Option<usize> {
        if self.others.len() >= SWARM_SPARES_MAX {
            let early = self.others.iter().position(|other| !other.linked)?;
            self.others.remove(early);
        }
        let unheard = self.rest.remove(&peer);
        let said = if unheard { Holdings::unheard } else { Holdings::within_bytes };
        let said = said(HOLDINGS_BYTES_PER_SPARE_MAX);
        self.others.push(Other { peer, said, linked: linked || unheard });
        Some(self.others.len() - 1)
    }

    /// Gives places among the others to those who have none.
    fn listen(&mut self) {
        while self.others.len() < SWARM_SPARES_MAX
            && let Some(peer) = self.rest.first().copied()
        {
            self.add(peer, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> HostId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        HostId(id)
    }

    #[test]
    fn whoever_is_of_no_use_makes_way_for_whoever_waits_longest() {
        let mut links = Links::default();
        for number in 0..SWARM_PEERS_MAX + 2 {
            assert!(links.up(host(number)));
            assert_eq!(links.admit(), (number < SWARM_PEERS_MAX).then(|| host(number)));
        }
        assert!(!links.up(host(0)) && !links.up(host(SWARM_PEERS_MAX)));
        assert_eq!(links.idle(), [], "they have only come");
        (3..SWARM_PEERS_MAX).for_each(|number| links.used(host(number)));
        assert_eq!(links.idle(), [host(0), host(1)], "no more than wait");
        links.demote(host(0));
        assert_eq!(links.admit(), Some(host(SWARM_PEERS_MAX)));
        assert!(links.gone(host(1)) && !links.gone(host(1)));
        assert_eq!(links.admit(), Some(host(SWARM_PEERS_MAX + 1)));
        links.gone(host(5));
        assert_eq!(links.admit(), Some(host(0)));
        assert!(!links.has_spares());
    }

    #[test]
    fn those_who_talk_without_a_link_take_the_place_of_nobody_who_has_one() {
        let mut links = Links::default();
        for number in 0..SWARM_SPARES_MAX {
            assert!(links.said(host(number)).is_some());
        }
        assert!(links.said(host(1000)).is_some(), "the first of them makes way");
        assert_eq!(links.others.len(), SWARM_SPARES_MAX);
        (0..SWARM_PEERS_MAX + SWARM_SPARES_MAX).for_each(|number| {
            links.up(host(number));
            links.admit();
        });
        assert!(links.said(host(2000)).is_none());
        assert_eq!(links.all().count(), SWARM_PEERS_MAX + SWARM_SPARES_MAX);
    }

    #[test]
    fn links_beyond_all_places_are_told_what_others_are_told_and_wait_for_one() {
        let mut links = Links::default();
        let places = SWARM_PEERS_MAX + SWARM_SPARES_MAX;
        for number in 0..places + 2 {
            assert!(links.up(host(number)));
            links.admit();
        }
        assert!(!links.up(host(places)) && links.said(host(places)).is_none());
        assert_eq!(links.all().count(), places + 2);
        links.gone(host(places - 1));
        assert_eq!(links.others.last().map(|other| other.peer), Some(host(places)));
        links.demote(host(0));
        assert_eq!(links.all().count(), places + 1, "whoever has a link hears");
        for number in 1..places {
            links.gone(host(number));
            links.admit();
        }
        assert!(links.take_forgotten(host(places)), "it was not listened to");
        assert!(!links.take_forgotten(host(places)) && !links.take_forgotten(host(0)));
    }
}
