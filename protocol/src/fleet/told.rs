//! Which peers are told of changes, and what each of them may lack.

use super::{
    marks::MARKS_SLACK,
    records::{Records, Statement},
    roster::Number,
    spread::{Letter, Say},
};

/// The peers that are told of changes, and which records each of them may lack. A record that comes
/// touches one word, and not one place for each peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Each has its place, and with it a bit. Where there is no room for another one, it hears of what
    /// is new by comparing.
    peers: Vec<Option<Number>>,
    /// By host: who may lack its record.
    lacking: Vec<u64>,
    /// Marks in all of `lacking`.
    pub(super) count: usize,
    /// Which marks were set when, in this order. What is no longer marked is passed over.
    order: Vec<(Number, u64)>,
}

impl Told {
    pub(super) fn join(&mut self, peer: Number) {
        if self.bit(peer) != 0 {
            return;
        }
        match self.peers.iter().position(Option::is_none) {
            Some(place) => self.peers[place] = Some(peer),
            None if self.peers.len() < TOLD_MAX => self.peers.push(Some(peer)),
            None => {}
        }
    }

    pub(super) fn leave(&mut self, peer: Number) {
        let bit = self.bit(peer);
        if bit == 0 {
            return;
        }
        self.peers[bit.trailing_zeros() as usize] = None;
        for lacking in &mut self.lacking {
            self.count -= usize::from(*lacking & bit != 0);
            *lacking &= !bit;
        }
        self.order.iter_mut().for_each(|(_, peers)| *peers &= !bit);
    }

    /// A peer's bit; no bit if it is not told of changes.
    pub(super) fn bit(&self, peer: Number) -> u64 {
        self.peers.iter().position(|other| *other == Some(peer)).map_or(0, |place| 1 << place)
    }

    /// The bits of all but some.
    pub(super) fn but(&self, is_left_out: impl Fn(Number) -> bool) -> u64 {
        let is_in = |peer: &Option<Number>| peer.is_some_and(|peer| !is_left_out(peer));
        let bits = self.peers.iter().enumerate();
        bits.fold(0, |bits, (place, peer)| bits | u64::from(is_in(peer)) << place)
    }

    /// These peers may lack a host's record.
    pub(super) fn set(&mut self, host: Number, peers: u64) {
        if self.lacking.len() <= host.index() {
            self.lacking.resize(host.index() + 1, 0);
        }
        let lacking = &mut self.lacking[host.index()];
        let fresh = peers & !*lacking;
        if fresh == 0 {
            return;
        }
        *lacking |= fresh;
        self.count += fresh.count_ones() as usize;
        self.order.push((host, fresh));
        if self.order.len() > self.order_max() {
            self.compact();
        }
    }

    /// They have it.
    pub(super) fn clear(&mut self, host: Number, peers: u64) {
        if let Some(lacking) = self.lacking.get_mut(host.index()) {
            self.count -= (*lacking & peers).count_ones() as usize;
            *lacking &= !peers;
        }
    }

    /// Tells a peer of the newest changes, `most` at most. Returns of how many.
    pub(super) fn offer<S: Statement>(
        &mut self,
        peer: Number,
        most: usize,
        records: &Records<S>,
        out: &mut Vec<Letter<S>>,
    ) -> usize {
        let bit = self.bit(peer);
        let mut offer = Vec::new();
        for (host, peers) in self.order.iter_mut().rev().filter(|(_, peers)| *peers & bit != 0) {
            if offer.len() == most {
                break;
            }
            *peers &= !bit;
            let lacking = &mut self.lacking[host.index()];
            if *lacking & bit != 0 {
                *lacking &= !bit;
                self.count -= 1;
                offer.extend(records.version(*host).map(|version| (*host, version)));
            }
        }
        let offered = offer.len();
        if offered > 0 {
            out.push((peer, Say::Offer(offer)));
        }
        offered
    }

    /// Forgets the order of what was told.
    pub(super) fn tidy(&mut self) {
        self.order.retain(|(_, peers)| *peers != 0);
    }

    /// Forgets the order of what is no longer marked, and all but the last place of what is.
    fn compact(&mut self) {
        let mut open = self.lacking.clone();
        for (host, peers) in self.order.iter_mut().rev() {
            let open = &mut open[host.index()];
            *peers &= *open;
            *open &= !*peers;
        }
        self.tidy();
    }

    fn order_max(&self) -> usize {
        2 * self.count + self.lacking.len() + MARKS_SLACK
    }

    pub(super) fn is_bounded(&self, hosts: usize) -> bool {
        let order_max = 2 * TOLD_MAX * hosts + hosts + MARKS_SLACK;
        self.lacking.len() <= hosts && self.order.len() <= order_max
    }
}

/// Peers that are told of changes: neighbours and guests come to fifty at most.
const TOLD_MAX: usize = u64::BITS as usize;

#[cfg(test)]
mod tests {
    use super::{
        super::{
            records::tests::Note,
            roster::tests::{number, roster},
        },
        *,
    };

    #[test]
    fn peers_are_told_of_the_newest_first_and_of_each_once() {
        let (roster, mut told, mut records) = (roster(10, 1), Told::default(), Records::new());
        for host in roster.iter() {
            records.put(&roster, host, Note(1));
        }
        let offered = |told: &mut Told, peer: usize| -> Vec<usize> {
            let mut out = Vec::new();
            told.offer(number(peer), 10, &records, &mut out);
            let offers = out.into_iter().flat_map(|(_, said)| match said {
                Say::Offer(offer) => offer,
                other => panic!("{other:?}"),
            });
            offers.map(|(host, _)| host.index()).collect()
        };
        [7, 8, 7].into_iter().for_each(|peer| told.join(number(peer)));
        let (one, other) = (told.bit(number(7)), told.bit(number(8)));
        [3, 1, 2, 1].into_iter().for_each(|host| told.set(number(host), one | other));
        told.clear(number(2), one);
        assert_eq!(offered(&mut told, 7), [1, 3]);
        assert_eq!(offered(&mut told, 7), [0; 0]);
        told.set(number(3), one);
        assert_eq!(offered(&mut told, 8), [2, 1, 3]);
        told.set(number(5), other);
        told.leave(number(8));
        told.join(number(9));
        assert_eq!(told.bit(number(9)), other, "it has the other one's place");
        assert_eq!(offered(&mut told, 9), [0; 0], "and lacks nothing that the other one lacked");
        assert_eq!(offered(&mut told, 7), [3]);
        told.tidy();
        assert_eq!((told.count, told.order.len()), (0, 0));
        for turn in 0..10_000 {
            told.set(number(turn % 5), one);
            told.clear(number(turn % 5), one);
            assert!(told.is_bounded(roster.len()) && told.order.len() < 2 * MARKS_SLACK);
        }
    }

    #[test]
    fn one_peer_too_many_is_told_of_nothing() {
        let mut told = Told::default();
        (0..=TOLD_MAX).for_each(|peer| told.join(number(peer)));
        assert_ne!(told.bit(number(TOLD_MAX - 1)), 0);
        assert_eq!(told.bit(number(TOLD_MAX)), 0);
        told.leave(number(5));
        told.join(number(TOLD_MAX));
        assert_eq!(told.bit(number(TOLD_MAX)), 1 << 5);
    }
}
