//! The log in memory, as the library wants to read it.

use bytes::Bytes;
use raft::{GetEntriesContext, RaftState, Storage, StorageError, eraftpb};

use super::{HardState, LogEntry, Restored, Snapshot, wire};

/// Entries after the snapshot, all of them persisted.
pub(super) struct Log {
    pub(super) hard_state: HardState,
    voters: Vec<u64>,
    snapshot: Option<Snapshot>,
    entries: Vec<eraftpb::Entry>,
}

impl Log {
    pub(super) fn new(restored: Restored, voters: Vec<u64>) -> Self {
        let Restored { hard_state, snapshot, entries, .. } = restored;
        let mut log = Self { hard_state, voters, snapshot, entries: Vec::new() };
        let first = log.first();
        let entries: Vec<_> = entries.into_iter().filter(|entry| entry.index >= first).collect();
        log.append(&entries);
        // A commit index past the log would be a lie of the disk; the leader tells the right one.
        log.hard_state.commit = log.hard_state.commit.clamp(first - 1, log.last());
        log
    }

    fn first(&self) -> u64 {
        self.snapshot.as_ref().map_or(1, |snapshot| snapshot.index + 1)
    }

    fn last(&self) -> u64 {
        self.first() - 1 + self.entries.len() as u64
    }

    /// Adds entries; the first one replaces everything from its index on.
    pub(super) fn append(&mut self, entries: &[LogEntry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index >= self.first() && first.index <= self.last() + 1,
            "the library appends without gaps"
        );
        let keep = usize::try_from(first.index - self.first()).unwrap_or(usize::MAX);
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned().map(wire::to_entry));
    }

    /// Replaces everything by a snapshot from the leader.
    pub(super) fn install(&mut self, snapshot: &Snapshot) {
        self.entries.clear();
        self.hard_state.commit = self.hard_state.commit.max(snapshot.index);
        self.snapshot = Some(snapshot.clone());
    }

    /// Replaces the entries up to `index` by the state there.
    pub(super) fn compact(&mut self, index: u64, state: Bytes) -> Snapshot {
        let index = index.min(self.last());
        let term = self.term(index).unwrap_or(0);
        let gone = usize::try_from((index + 1).saturating_sub(self.first())).unwrap_or(0);
        self.entries.drain(..gone.min(self.entries.len()));
        let snapshot = Snapshot { index, term, state };
        self.snapshot = Some(snapshot.clone());
        snapshot
    }

    fn conf_state(&self) -> eraftpb::ConfState {
        eraftpb::ConfState { voters: self.voters.clone(), ..Default::default() }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let HardState { term, vote, commit } = self.hard_state.clone();
        let hard_state = eraftpb::HardState { term, vote, commit, ..Default::default() };
        Ok(RaftState::new(hard_state, self.conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low < self.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let at = |index| usize::try_from(index - self.first()).unwrap_or(usize::MAX);
        let mut size = 0;
        let fits = |entry: &&eraftpb::Entry| {
            let first = size == 0;
            size += entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES;
            first || size <= max_size
        };
        Ok(self.entries[at(low)..at(high)].iter().take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if let Some(snapshot) = self.snapshot.as_ref().filter(|s| s.index == index) {
            return Ok(snapshot.term);
        }
        if index == 0 {
            return Ok(0);
        }
        if index < self.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let place = usize::try_from(index - self.first()).unwrap_or(usize::MAX);
        let entry = self.entries.get(place);
        entry.map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        let snapshot = self.snapshot.as_ref().filter(|snapshot| snapshot.index >= request_index);
        let unavailable = raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        let snapshot = snapshot.ok_or(unavailable)?;
        Ok(wire::to_snapshot(snapshot.clone(), self.conf_state()))
    }
}

/// What an entry costs in a frame beside its data.
const ENTRY_OVERHEAD_BYTES: u64 = 32;
