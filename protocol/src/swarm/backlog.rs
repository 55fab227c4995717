//! How much of what peers have said may wait until it is looked at.

use std::collections::BTreeMap;

use crate::{ids::HostId, limits::SWARM_INBOX_BYTES_MAX};

/// Bytes that wait, by who said them.
///
/// Where there is room anybody may take it. Where there is none, whoever has said more than its part
/// is not heard, and everybody else is: one that floods costs nobody else a link.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: BTreeMap<HostId, usize>,
    bytes: usize,
}

impl Backlog {
    /// A peer says something. False if that is more than may wait.
    pub fn add(&mut self, peer: HostId, bytes: usize) -> bool {
        let of_peer = self.waiting.get(&peer).copied().unwrap_or_default();
        let others = self.waiting.len() - usize::from(of_peer > 0);
        let part = SWARM_INBOX_BYTES_MAX / (others + 1);
        if self.bytes + bytes > SWARM_INBOX_BYTES_MAX && of_peer + bytes > part {
            return false;
        }
        self.waiting.insert(peer, of_peer + bytes);
        self.bytes += bytes;
        true
    }

    /// Something that a peer has said is looked at.
    pub fn remove(&mut self, peer: HostId, bytes: usize) {
        let Some(of_peer) = self.waiting.get_mut(&peer) else { return };
        let bytes = bytes.min(*of_peer);
        *of_peer -= bytes;
        self.bytes -= bytes;
        if *of_peer == 0 {
            self.waiting.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOODS: HostId = HostId([1; 32]);
    const TALKS: HostId = HostId([2; 32]);

    #[test]
    fn it_is_filled_to_its_limit_and_not_one_byte_past_it() {
        let mut backlog = Backlog::default();
        assert!(backlog.add(FLOODS, SWARM_INBOX_BYTES_MAX));
        assert!(!backlog.add(FLOODS, 1));
        backlog.remove(FLOODS, 1);
        assert!(backlog.add(FLOODS, 1));
    }

    #[test]
    fn where_one_floods_all_others_are_heard() {
        let mut backlog = Backlog::default();
        assert!(backlog.add(FLOODS, SWARM_INBOX_BYTES_MAX));
        for peer in 2..100 {
            assert!(backlog.add(HostId([peer; 32]), 64 << 10), "peer {peer}");
            assert!(!backlog.add(FLOODS, 1));
        }
        assert!(!backlog.add(TALKS, SWARM_INBOX_BYTES_MAX / 99));
        backlog.remove(FLOODS, SWARM_INBOX_BYTES_MAX);
        assert!(backlog.add(TALKS, 1 << 20), "there is room for anybody");
    }

    #[test]
    fn however_many_flood_it_ends() {
        let mut backlog = Backlog::default();
        for _ in 0..1000 {
            for peer in 0..=255 {
                backlog.add(HostId([peer; 32]), 32 << 10);
            }
        }
        assert!(backlog.bytes < 7 * SWARM_INBOX_BYTES_MAX, "{} bytes", backlog.bytes);
        assert_eq!(backlog.bytes, backlog.waiting.values().sum());
    }

    #[test]
    fn all_that_was_looked_at_is_forgotten() {
        let mut backlog = Backlog::default();
        assert!(backlog.add(TALKS, 10) && backlog.add(TALKS, 20));
        backlog.remove(TALKS, 10);
        backlog.remove(TALKS, 20);
        backlog.remove(TALKS, 20);
        assert_eq!((backlog.bytes, backlog.waiting.len()), (0, 0));
    }
}
