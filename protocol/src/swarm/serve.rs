//! Who is given what next: revisions take turns, and in each its peers do.
//!
//! Few frames are on their way out at a time, so that each is there soon and can be passed on, rather
//! than many late. What a peer may wait for is bounded, and so is what it gets of a revision.

use std::collections::BTreeMap;

use super::rate::Rate;
use crate::{
    ids::{Digest, HostId},
    limits::{
        SERVE_PATIENCE, SERVED_COPIES_MAX, SERVES_MAX, SERVES_PER_PEER_MAX, SERVES_TO_PEER_MAX,
    },
    time::Mono,
};

/// A frame for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Give {
    /// Who asked for it.
    pub peer: HostId,
    /// The revision.
    pub manifest: Digest,
    /// The frame's index in the manifest.
    pub index: u32,
    /// The frame's name.
    pub frame: Digest,
}

/// The serving side of a host.
#[derive(Debug)]
pub(super) struct Serves {
    waiting: Vec<Waiting>,
    giving: Vec<(Give, Mono)>,
    /// When each revision, and each peer, last had its turn.
    revision_turns: BTreeMap<Digest, u64>,
    peer_turns: BTreeMap<HostId, u64>,
    turn: u64,
    looked_at: Mono,
    /// What each peer may still get of each revision. It outlives the connection.
    allowances: BTreeMap<(Digest, HostId), Rate>,
    up: Rate,
}

#[derive(Debug)]
struct Waiting {
    give: Give,
    bytes: u32,
}

impl Serves {
    pub(super) fn new(up: Rate) -> Self {
        Self {
            waiting: Vec::new(),
            giving: Vec::new(),
            revision_turns: BTreeMap::new(),
            peer_turns: BTreeMap::new(),
            turn: 0,
            looked_at: Mono::default(),
            allowances: BTreeMap::new(),
            up,
        }
    }

    /// A peer asks for a frame of `bytes`, out of a revision of `total` bytes. False if it asks for
    /// too much.
    pub(super) fn ask(&mut self, now: Mono, give: Give, bytes: u32, total: u64) -> bool {
        let of_peer = self.waiting.iter().map(|waiting| &waiting.give);
        let of_peer = of_peer.chain(self.giving.iter().map(|(give, _)| give));
        let of_peer = of_peer.filter(|other| other.peer == give.peer);
        let (mut count, mut again) = (0, false);
        for other in of_peer {
            count += 1;
            again |= *other == give;
        }
        if count >= SERVES_PER_PEER_MAX || again || !self.allows(now, &give, total) {
            return false;
        }
        self.waiting.push(Waiting { give, bytes });
        true
    }

    /// A peer does not wait for a frame any more. Returns what is not on its way yet.
    pub(super) fn cancel(&mut self, peer: HostId, manifest: Digest, index: u32) -> Option<Give> {
        let place = self.waiting.iter().position(|Waiting { give, .. }| {
            give.peer == peer && give.manifest == manifest && give.index == index
        })?;
        Some(self.waiting.remove(place).give)
    }

    /// What to give next, if anything may be.
    pub(super) fn next(&mut self, now: Mono) -> Option<Give> {
        self.looked_at = now;
        let busy = self.giving.iter().filter(|(_, since)| now < *since + SERVE_PATIENCE);
        let full = busy.count() >= SERVES_MAX || self.giving.len() >= 2 * SERVES_MAX;
        if !self.up.allows(now) || self.waiting.is_empty() || full {
            return None;
        }
        let turn = |waiting: &Waiting| {
            let revision = self.revision_turns.get(&waiting.give.manifest);
            let peer = self.peer_turns.get(&waiting.give.peer);
            (revision.copied().unwrap_or_default(), peer.copied().unwrap_or_default())
        };
        let open = |peer| self.giving.iter().filter(|(give, _)| give.peer == peer).count();
        let may = |(_, waiting): &(usize, &Waiting)| open(waiting.give.peer) < SERVES_TO_PEER_MAX;
        let first = self.waiting.iter().enumerate().filter(may);
        let (place, _) = first.min_by_key(|(place, waiting)| (turn(waiting), *place))?;
        let Waiting { give, bytes } = self.waiting.remove(place);
        self.turn += 1;
        self.revision_turns.insert(give.manifest, self.turn);
        self.peer_turns.insert(give.peer, self.turn);
        self.up.spend(bytes.into());
        if let Some(allowance) = self.allowances.get_mut(&(give.manifest, give.peer)) {
            allowance.spend(bytes.into());
        }
        self.giving.push((give, now));
        Some(give)
    }

    /// A frame is on the wire, or can not be given.
    pub(super) fn given(&mut self, peer: HostId, manifest: Digest, index: u32) {
        self.giving.retain(|(give, _)| {
            give.peer != peer || give.manifest != manifest || give.index != index
        });
    }

    /// The connection to a peer is gone.
    pub(super) fn peer_gone(&mut self, peer: HostId) {
        self.waiting.retain(|waiting| waiting.give.peer != peer);
        self.giving.retain(|(give, _)| give.peer != peer);
        self.peer_turns.remove(&peer);
    }

    /// A revision is given no more. Returns what peers wait for in vain.
    pub(super) fn close(&mut self, manifest: Digest) -> Vec<Give> {
        self.revision_turns.remove(&manifest);
        self.allowances.retain(|(of, _), _| *of != manifest);
        let of_it = |waiting: &mut Waiting| waiting.give.manifest == manifest;
        self.waiting.extract_if(.., of_it).map(|waiting| waiting.give).collect()
    }

    /// When to look again if nothing else happens.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        if self.waiting.is_empty() {
            return None;
        }
        let patience = self.giving.iter().map(|(_, since)| *since + SERVE_PATIENCE);
        let patience = patience.filter(|end| *end > self.looked_at).min();
        self.up.opens_at().into_iter().chain(patience).min()
    }

    /// The peers that wait for something, or are given something.
    pub(super) fn peers(&self) -> impl Iterator<Item = HostId> {
        let giving = self.giving.iter().map(|(give, _)| give.peer);
        self.waiting.iter().map(|waiting| waiting.give.peer).chain(giving)
    }

    /// Frames that peers wait for, and frames on their way.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.waiting.len(), self.giving.len())
    }

    fn allows(&mut self, now: Mono, give: &Give, total: u64) -> bool {
        let allowance = self.allowances.entry((give.manifest, give.peer)).or_insert_with(|| {
            Rate::hoarding(Some(total / 3600 + 1), total.saturating_mul(SERVED_COPIES_MAX).max(1))
        });
        allowance.allows(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(peer: u8, revision: u8, index: u32) -> Give {
        let manifest = Digest([revision; 32]);
        Give { peer: HostId([peer; 32]), manifest, index, frame: Digest::ZERO }
    }

    fn serves() -> Serves {
        Serves::new(Rate::new(None))
    }

    /// Gives what may be given, each on the wire at once.
    fn all(serves: &mut Serves) -> Vec<Give> {
        std::iter::from_fn(|| {
            let give = serves.next(Mono(0))?;
            serves.given(give.peer, give.manifest, give.index);
            Some(give)
        })
        .collect()
    }

    #[test]
    fn peers_take_turns_whoever_asks_for_more() {
        let mut serves = serves();
        for index in 0..6 {
            assert!(serves.ask(Mono(0), give(1, 1, index), 10, 1000));
        }
        (0..2).for_each(|index| assert!(serves.ask(Mono(0), give(2, 1, index), 10, 1000)));
        let order: Vec<_> = all(&mut serves).iter().map(|give| give.peer.0[0]).collect();
        assert_eq!(order, [1, 2, 1, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn revisions_take_turns_however_many_ask_for_one() {
        let mut serves = serves();
        for peer in 0..8 {
            assert!(serves.ask(Mono(0), give(peer, 1, 0), 10, 1000));
        }
        (0..4).for_each(|index| assert!(serves.ask(Mono(0), give(9, 2, index), 10, 1000)));
        let order: Vec<_> = all(&mut serves).iter().map(|give| give.manifest.0[0]).collect();
        assert_eq!(order, [1, 2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn what_a_peer_waits_for_is_bounded_and_nothing_waits_twice() {
        let mut serves = serves();
        assert!(serves.ask(Mono(0), give(1, 1, 0), 10, 1000));
        assert!(!serves.ask(Mono(0), give(1, 1, 0), 10, 1000));
        let most = u32::try_from(SERVES_PER_PEER_MAX).unwrap();
        (1..most).for_each(|index| assert!(serves.ask(Mono(0), give(1, 1, index), 10, 1000)));
        assert!(!serves.ask(Mono(0), give(1, 1, most), 10, 1000));
        assert!(serves.ask(Mono(0), give(2, 1, most), 10, 1000));
        serves.next(Mono(0)).unwrap();
        assert!(!serves.ask(Mono(0), give(1, 1, most), 10, 1000), "what is on its way counts");
    }

    #[test]
    fn a_peer_that_takes_nothing_in_keeps_others_waiting_only_for_a_while() {
        let mut serves = serves();
        for peer in 0..=u8::try_from(SERVES_MAX).unwrap() {
            assert!(serves.ask(Mono(0), give(peer, 1, 0), 10, 1000));
        }
        let given = std::iter::from_fn(|| serves.next(Mono(0))).count();
        assert_eq!(given, SERVES_MAX);
        let later = serves.next_deadline().unwrap();
        assert_eq!(later, Mono(0) + SERVE_PATIENCE);
        assert!(serves.next(later).is_some());
        (1..5).for_each(|index| assert!(serves.ask(later, give(0, 1, index), 10, 1000)));
        assert!(serves.next(later).is_some());
        assert_eq!(serves.next(later), None, "one that takes nothing in has its two frames");
        let mut later = later;
        for peer in 100..140 {
            assert!(serves.ask(later, give(peer, 1, 0), 10, 1000));
        }
        for _ in 0..10 {
            later = later + SERVE_PATIENCE;
            _ = std::iter::from_fn(|| serves.next(later)).count();
        }
        assert_eq!(serves.load().1, 2 * SERVES_MAX, "as many as may be stuck");
    }

    #[test]
    fn whoever_asks_for_everything_in_a_loop_gets_four_copies() {
        let mut serves = serves();
        let mut got = 0;
        for index in (0..10).cycle() {
            if !serves.ask(Mono(0), give(1, 1, index), 100, 1000) {
                break;
            }
            got += all(&mut serves).len();
            serves.peer_gone(HostId([1; 32]));
        }
        assert_eq!(got, 40);
        let hour = Mono(3600 * 1_000_000);
        assert!(serves.ask(hour, give(1, 1, 0), 100, 1000));
        assert!(serves.ask(Mono(0), give(2, 1, 0), 100, 1000), "others get theirs");
    }

    #[test]
    fn what_is_cancelled_is_not_given() {
        let mut serves = serves();
        assert!(serves.ask(Mono(0), give(1, 1, 0), 10, 1000));
        let one = give(1, 1, 0);
        assert_eq!(serves.cancel(one.peer, one.manifest, 0), Some(one));
        assert_eq!(serves.cancel(one.peer, one.manifest, 0), None);
        assert_eq!(serves.next(Mono(0)), None);
    }

    #[test]
    fn the_rate_up_is_kept() {
        let mut serves = Serves::new(Rate::new(Some(1000)));
        for index in 0..3 {
            assert!(serves.ask(Mono(0), give(1, 1, index), 500, 10_000));
        }
        assert_eq!(all(&mut serves).len(), 1);
        let at = serves.next_deadline().unwrap();
        assert!((300_000..500_000).contains(&at.0), "{at:?}");
        assert!(serves.next(Mono(at.0 - 2000)).is_none());
        assert!(serves.next(at).is_some());
    }
}
