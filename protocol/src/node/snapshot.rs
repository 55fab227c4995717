//! Snapshots of the ledger on their way from a voter: asked for part by part, believed as a whole.
//!
//! A host that is too far behind is told which snapshot there is and pulls it, so that one part is
//! under way at a time and nothing grows but the one buffer. What has come is read as a ledger
//! before anything is replaced by it.

use std::time::Duration;

use super::{Node, Output};
use crate::{
    consensus::{Consensus, Snapshot},
    ids::HostId,
    limits::{SNAPSHOT_BYTES_MAX, SNAPSHOT_PART_BYTES},
    rollout::Ledger,
    sabotage::{Defect, planted},
    time::Mono,
    wire::{Message, SnapshotPart},
};

/// A snapshot that is coming in.
pub(super) struct Incoming {
    from: HostId,
    index: u64,
    term: u64,
    state: Vec<u8>,
    /// When the last part came.
    last_at: Mono,
    /// When the next part is asked for again.
    next_at: Mono,
}

impl Node {
    /// Begins to pull the snapshot at `index` from a voter. One that is coming in goes on: every
    /// voter offers its own with each entry, and none would ever arrive.
    pub(super) fn pull_snapshot(&mut self, from: HostId, index: u64, term: u64) {
        let under_way = self.incoming.as_ref();
        if under_way.is_some_and(|incoming| self.now.since(incoming.last_at) < PULL_LOST_AFTER) {
            return;
        }
        let last_at = self.now;
        self.incoming =
            Some(Incoming { from, index, term, state: Vec::new(), last_at, next_at: last_at });
        self.ask_for_part();
    }

    /// Looks after voters that were told of a snapshot: the library waits for each of them until it
    /// hears of it, and one to whom the word was lost never asks.
    fn tend_outgoing(&mut self) {
        let waiting = self.consensus.as_ref().map(Consensus::snapshots_under_way);
        let waiting = waiting.unwrap_or_default();
        self.outgoing.retain(|voter, _| waiting.contains(voter));
        for voter in waiting {
            let last_at = *self.outgoing.entry(voter).or_insert(self.now);
            if self.now.since(last_at) >= PULL_LOST_AFTER && !planted(Defect::SnapshotToldOnce) {
                self.outgoing.remove(&voter);
                self.snapshot_lost(voter);
            }
        }
    }

    fn snapshot_lost(&mut self, voter: HostId) {
        if let Some(consensus) = &mut self.consensus {
            let outputs = consensus.snapshot_lost(voter);
            self.consensus_outputs(outputs);
        }
    }

    /// Asks again for a part that did not come.
    pub(super) fn tend_snapshot(&mut self) {
        self.tend_outgoing();
        let Some(incoming) = &self.incoming else { return };
        if self.now.since(incoming.last_at) >= PULL_LOST_AFTER {
            self.give_up_snapshot();
        } else if incoming.next_at <= self.now {
            self.ask_for_part();
        }
    }

    /// A follower asks the voters anew, and takes it from another if there is one that has it; to a voter
    /// the leader tells it again.
    fn give_up_snapshot(&mut self) {
        self.incoming = None;
        self.change_source();
        self.ask_ledger_of_all();
    }

    fn ask_for_part(&mut self) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.next_at = self.now + PART_AGAIN_AFTER;
        let (from, index) = (incoming.from, incoming.index);
        let offset = u64::try_from(incoming.state.len()).unwrap_or(u64::MAX);
        self.send(from, Message::WantSnapshot { index, offset });
    }

    /// Gives a part of the snapshot at `index`. One that is gone is told again from the start.
    pub(super) fn serve_snapshot(&mut self, to: HostId, index: u64, offset: u64) {
        let Some(snapshot) = self.feed.snapshot.as_ref().filter(|s| s.index == index) else {
            return self.snapshot_gone(to);
        };
        self.outgoing.entry(to).and_modify(|at| *at = self.now);
        let total = snapshot.state.len();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(total);
        let until = from.saturating_add(SNAPSHOT_PART_BYTES).min(total);
        let bytes = snapshot.state.slice(from..until);
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        self.send(to, Message::Snapshot(SnapshotPart { index, total, offset, bytes }));
    }

    fn snapshot_gone(&mut self, to: HostId) {
        if self.consensus.is_some() && self.is_voter(to) {
            // The library waits for this snapshot to arrive, and must not.
            self.snapshot_lost(to);
        } else if let Some(snapshot) = &self.feed.snapshot {
            let (index, term) = (snapshot.index, snapshot.term);
            self.send(to, Message::HaveSnapshot { index, term });
        }
    }

    pub(super) fn snapshot_part(&mut self, from: HostId, part: SnapshotPart) {
        let SnapshotPart { index, total, offset, bytes } = part;
        let Some(incoming) = &mut self.incoming else { return };
        let here = u64::try_from(incoming.state.len()).unwrap_or(u64::MAX);
        if (incoming.from, incoming.index, here) != (from, index, offset) {
            return;
        }
        let length = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        // Parts are whole but for the last: whoever sends less of each only takes time.
        let stuck = bytes.len() < SNAPSHOT_PART_BYTES && length < total;
        if total > SNAPSHOT_BYTES_MAX || length > total || stuck {
            self.incoming = None;
            self.change_source();
            let peer = self.name_of(from);
            self.out.push(Output::Note(format!("{peer} sends a snapshot that cannot be")));
            return;
        }
        incoming.state.extend_from_slice(&bytes);
        incoming.last_at = self.now;
        if length < total {
            return self.ask_for_part();
        }
        let Some(Incoming { term, state, .. }) = self.incoming.take() else { return };
        self.snapshot_came(from, Snapshot { index, term, state: state.into() });
    }

    /// A whole snapshot is here. Nothing is replaced by one that is no ledger at that index.
    fn snapshot_came(&mut self, from: HostId, snapshot: Snapshot) {
        let ledger = Ledger::restore(self.trust.clone(), &snapshot.state).ok();
        let ledger = ledger.filter(|ledger| ledger.applied_index() == snapshot.index);
        let Some(ledger) = ledger else {
            let peer = self.name_of(from);
            self.out.push(Output::Note(format!("{peer} sent a snapshot that is no ledger")));
            self.change_source();
            return;
        };
        let generation = ledger.electorate().newest().generation();
        match &mut self.consensus {
            // Of the others in its generation a voter hears in one way, of newer ones in the other.
            Some(consensus) if consensus.generation() == generation => {
                let outputs = consensus.snapshot_came(from, snapshot.index, snapshot.state);
                self.consensus_outputs(outputs);
            }
            _ => self.follow_snapshot(from, snapshot, ledger),
        }
    }

    /// The link to a peer is gone, and with it what was under way on it.
    pub(super) fn snapshot_link_down(&mut self, peer: HostId) {
        if self.incoming.as_ref().is_some_and(|incoming| incoming.from == peer) {
            self.give_up_snapshot();
        }
        self.snapshot_lost(peer);
    }
}

const PART_AGAIN_AFTER: Duration = Duration::from_secs(3);
const PULL_LOST_AFTER: Duration = Duration::from_secs(10);
