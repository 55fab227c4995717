//! Whom to ask for what one peer gives whole: the one that failed least, after a rest.

use std::{collections::BTreeMap, time::Duration};

use crate::{ids::HostId, limits::FETCH_REST_MAX, time::Mono};

/// Peers that failed to give something, and when each may be asked again.
#[derive(Debug, Default)]
pub struct Turns {
    failed: BTreeMap<HostId, (u32, Mono)>,
}

impl Turns {
    /// The peer to ask now, out of those that could give it. None if all of them rest.
    pub fn next(&self, now: Mono, holders: impl Iterator<Item = HostId>) -> Option<HostId> {
        let record = |peer: &HostId| self.failed.get(peer).copied().unwrap_or_default();
        holders.filter(|peer| record(peer).1 <= now).min_by_key(|peer| record(peer).0)
    }

    /// A peer did not give it. It rests for a second, and twice as long each time.
    pub fn failed(&mut self, now: Mono, peer: HostId) {
        let (times, until) = self.failed.entry(peer).or_default();
        let rest = Duration::from_secs(1 << (*times).min(10)).min(FETCH_REST_MAX);
        (*times, *until) = (times.saturating_add(1), now + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_never_gives_it_keeps_nobody_from_asking_others() {
        let peers = [1, 2, 3].map(|number| HostId([number; 32]));
        let mut turns = Turns::default();
        let now = Mono(0);
        for peer in peers {
            assert_eq!(turns.next(now, peers.into_iter()), Some(peer));
            turns.failed(now, peer);
        }
        assert_eq!(turns.next(now, peers.into_iter()), None, "no peer is asked in a hot loop");
        let later = now + Duration::from_secs(1);
        turns.failed(later, peers[0]);
        assert_eq!(turns.next(later, peers.into_iter()), Some(peers[1]));
    }

    #[test]
    fn rests_are_bounded() {
        let peer = HostId([1; 32]);
        let mut turns = Turns::default();
        for _ in 0..100 {
            turns.failed(Mono(0), peer);
        }
        assert_eq!(turns.next(Mono(0) + FETCH_REST_MAX, [peer].into_iter()), Some(peer));
    }
}
