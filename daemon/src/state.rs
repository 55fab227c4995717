//! The daemon's durable state: how often it started, the consensus state, the ledger's log.
//!
//! One redb file. [`State::persist`] returns when the bytes are on disk; a failure to get them there
//! is not survived, since the kernel may have dropped what it could not write.

use std::path::Path;

use groundswell_protocol::{
    cbor,
    consensus::{Restored, Write},
    limits::{ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;

/// Why the state could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The database failed.
    #[error("the state database: {0}")]
    Database(#[from] Box<redb::Error>),
    /// It is gone, or empty, on a host that has run before.
    #[error(
        "the state database is gone: what this host has promised as a voter, and how often it \
         started, is forgotten"
    )]
    Forgotten,
    /// A value in it is not what was written.
    #[error("the state database is damaged: {what}: {reason}")]
    Damaged {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// The open database.
pub struct State {
    db: Database,
}

/// What the database remembers.
pub struct Remembered {
    /// Counts the daemon's starts; this one is counted and on disk.
    pub epoch: u64,
    /// For the consensus of a voter; on a host that follows, the entries are those it followed.
    pub restored: Restored,
}

impl State {
    /// Opens the database; makes it if this is the `first` start. To begin anew at any other time
    /// would be to vote twice.
    pub fn open(path: &Path, first: bool) -> Result<Self, StateError> {
        if !first && !path.exists() {
            return Err(StateError::Forgotten);
        }
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| Box::new(redb::Error::from(error)))?;
        Ok(Self { db })
    }

    /// Reads everything and counts this start.
    pub fn start(&self, first: bool) -> Result<Remembered, StateError> {
        let epoch = self.count_start(first)?.ok_or(StateError::Forgotten)?;
        let restored = self.read().map_err(Box::new)??;
        Ok(Remembered { epoch, restored })
    }

    /// None, and nothing written, if nothing is there that should be.
    fn count_start(&self, first: bool) -> Result<Option<u64>, StateError> {
        let run = || -> Result<Option<u64>, redb::Error> {
            let transaction = self.write()?;
            let epoch = {
                let mut meta = transaction.open_table(META)?;
                transaction.open_table(LOG)?;
                let last = meta.get(EPOCH)?.and_then(|v| v.value().try_into().ok());
                if last.is_none() && !first {
                    return Ok(None);
                }
                let epoch = last.map_or(1, |last| u64::from_be_bytes(last).saturating_add(1));
                meta.insert(EPOCH, epoch.to_be_bytes().as_slice())?;
                epoch
            };
            transaction.commit()?;
            Ok(Some(epoch))
        };
        Ok(run().map_err(Box::new)?)
    }

    fn read(&self) -> Result<Result<Restored, StateError>, redb::Error> {
        let transaction = self.db.begin_read()?;
        let meta = transaction.open_table(META)?;
        let mut restored = Restored::default();
        let damaged = |what| {
            move |error: cbor::DecodeError| StateError::Damaged { what, reason: error.to_string() }
        };
        if let Some(bytes) = meta.get(HARD_STATE)? {
            match cbor::decode(bytes.value(), ENTRY_BYTES_MAX).map_err(damaged("hard state")) {
                Ok(hard_state) => restored.hard_state = hard_state,
                Err(error) => return Ok(Err(error)),
            }
        }
        if let Some(bytes) = meta.get(SNAPSHOT)? {
            match cbor::decode(bytes.value(), usize::MAX).map_err(damaged("snapshot")) {
                Ok(snapshot) => restored.snapshot = Some(snapshot),
                Err(error) => return Ok(Err(error)),
            }
        }
        for row in transaction.open_table(LOG)?.iter()? {
            let (_, bytes) = row?;
            match cbor::decode(bytes.value(), MESSAGE_BYTES_MAX).map_err(damaged("log entry")) {
                Ok(entry) => restored.entries.push(entry),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(restored))
    }

    /// Makes a step of the consensus durable, as [`Restored::write`] says.
    pub fn persist(&self, write: &Write) -> Result<(), StateError> {
        let Write { hard_state, snapshot, anew, entries } = write;
        let run = || -> Result<(), redb::Error> {
            let transaction = self.write()?;
            {
                let mut meta = transaction.open_table(META)?;
                let mut log = transaction.open_table(LOG)?;
                if let Some(hard_state) = hard_state {
                    meta.insert(HARD_STATE, cbor::encode(hard_state).as_slice())?;
                }
                if let Some(snapshot) = snapshot {
                    meta.insert(SNAPSHOT, cbor::encode(snapshot).as_slice())?;
                    let gone = if *anew { ..=u64::MAX } else { ..=snapshot.index };
                    log.retain_in(gone, |_, _| false)?;
                }
                if let Some(first) = entries.first() {
                    log.retain_in(first.index.., |_, _| false)?;
                }
                for entry in entries {
                    log.insert(entry.index, cbor::encode(entry).as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        Ok(run().map_err(Box::new)?)
    }

    fn write(&self) -> Result<redb::WriteTransaction, redb::Error> {
        let mut transaction = self.db.begin_write()?;
        // Values come from peers: with two phases, no choice of theirs can make a torn commit look
        // whole.
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }
}

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const EPOCH: &str = "epoch";
const HARD_STATE: &str = "hard state";
const SNAPSHOT: &str = "snapshot";
/// The state is small and read once; the default cache of a gigabyte would be for nothing.
const CACHE_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use groundswell_protocol::consensus::{LogEntry, Snapshot};

    use super::*;

    fn write(entries: &[LogEntry], snapshot: Option<&Snapshot>, anew: bool) -> Write {
        let (entries, snapshot) = (entries.to_vec(), snapshot.cloned());
        Write { hard_state: None, snapshot, anew, entries }
    }

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index, term, data: vec![u8::try_from(index).unwrap()] }
    }

    #[test]
    fn what_was_persisted_is_read_back_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let state = State::open(&path, true).unwrap();
        assert_eq!(state.start(true).unwrap().epoch, 1);
        state.persist(&write(&[entry(1, 1), entry(2, 1), entry(3, 1)], None, false)).unwrap();
        // A new leader replaces the tail.
        state.persist(&write(&[entry(2, 2)], None, false)).unwrap();
        drop(state);

        let remembered = State::open(&path, false).unwrap().start(false).unwrap();
        assert_eq!(remembered.epoch, 2);
        assert_eq!(remembered.restored.entries, [entry(1, 1), entry(2, 2)]);
    }

    #[test]
    fn a_database_that_is_gone_is_not_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        assert!(matches!(State::open(&path, false), Err(StateError::Forgotten)));
        assert!(!path.exists());
        // One that opens empty is as bad.
        drop(State::open(&path, true).unwrap());
        for _ in 0..2 {
            let empty = State::open(&path, false).unwrap().start(false);
            assert!(matches!(empty, Err(StateError::Forgotten)));
        }
    }

    #[test]
    fn a_snapshot_replaces_the_log_up_to_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.redb"), true).unwrap();
        state.start(true).unwrap();
        state.persist(&write(&[entry(1, 1), entry(2, 1), entry(3, 1)], None, false)).unwrap();
        let snapshot = Snapshot { index: 2, term: 1, state: vec![7; 1000] };
        state.persist(&write(&[], Some(&snapshot), false)).unwrap();
        let restored = state.start(false).unwrap().restored;
        assert_eq!(restored.snapshot, Some(snapshot.clone()));
        assert_eq!(restored.entries, [entry(3, 1)]);
        // One that came from elsewhere leaves nothing.
        state.persist(&write(&[], Some(&snapshot), true)).unwrap();
        assert_eq!(state.start(false).unwrap().restored.entries, []);
    }
}
