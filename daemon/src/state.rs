//! The daemon's durable state: how often it started, the consensus state, the ledger's log.
//!
//! One file of [`frames`]: the state as it was when the file was begun, then every step since. A
//! snapshot begins a new file. [`State::persist`] returns when the bytes are on disk; a failure to get
//! them there is not survived, since the kernel may have dropped what it could not write.
//!
//! It is a log of its own and not a database because voters wait for it: a step costs one write and
//! one wait for the disk, however many entries are in it.

mod frames;

use std::path::{Path, PathBuf};

use groundswell_protocol::{
    cbor,
    consensus::{Restored, Write},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::frames::{Frames, ReadError};

/// Why the state could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is gone on a host that has run before.
    #[error(
        "the state is gone: what this host has promised as a voter, and how often it started, is \
         forgotten"
    )]
    Forgotten,
    /// It is not what was written.
    #[error("the state is damaged: {what}: {reason}")]
    Damaged {
        /// The file, or the value in it.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The open file.
pub struct State {
    frames: Frames,
    epoch: u64,
}

/// What the file remembers.
pub struct Remembered {
    /// Counts the daemon's starts; this one is counted and on disk.
    pub epoch: u64,
    /// For the consensus of a voter; on a host that follows, the entries are those it followed.
    pub restored: Restored,
}

/// One frame.
#[derive(Serialize, Deserialize)]
struct Step {
    /// The daemon's starts so far, where it has started once more.
    epoch: Option<u64>,
    writes: Vec<Write>,
}

impl State {
    /// Opens the file and counts this start; makes the file if this is the `first` one. To begin anew at
    /// any other time would be to vote twice.
    pub fn start(path: &Path, first: bool) -> Result<(Self, Remembered), StateError> {
        let mut remembered = Remembered { epoch: 0, restored: Restored::default() };
        let frames = match Frames::open(path, |body| remembered.see(body)) {
            Ok(frames) => Some(frames),
            Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(read_error(path, error)),
        };
        if remembered.epoch == 0 && !first {
            return Err(StateError::Forgotten);
        }
        remembered.epoch += 1;
        let epoch = remembered.epoch;
        let body = cbor::encode(&Step { epoch: Some(epoch), writes: Vec::new() });
        let io = |source| StateError::Io { path: path.into(), source };
        let frames = match frames {
            Some(mut frames) => frames.write(&body).map(|()| frames).map_err(io)?,
            None => Frames::create(path, &body).map_err(io)?,
        };
        Ok((Self { frames, epoch }, remembered))
    }

    /// Makes steps of the consensus durable, as [`Restored::write`] says: all of them or, if there is no
    /// snapshot among them, perhaps none.
    pub fn persist(&mut self, writes: Vec<Write>) -> Result<(), StateError> {
        self.epoch =
            writes.iter().filter_map(|write| write.epoch).next_back().unwrap_or(self.epoch);
        if writes.iter().any(|write| write.snapshot.is_some()) {
            return self.begin_anew(writes);
        }
        let body = cbor::encode(&Step { epoch: None, writes });
        let path = self.frames.path().to_path_buf();
        self.frames.write(&body).map_err(|source| StateError::Io { path, source })
    }

    /// Puts a file in place of this one that begins with what all steps come to.
    fn begin_anew(&mut self, writes: Vec<Write>) -> Result<(), StateError> {
        let path = self.frames.path().to_path_buf();
        let mut remembered = Remembered { epoch: 0, restored: Restored::default() };
        let read = self.frames.read_again(|body| remembered.see(body));
        read.map_err(|error| read_error(&path, error))?;
        let Remembered { mut restored, .. } = remembered;
        for write in writes {
            restored.write(write);
        }
        let Restored { hard_state, snapshot, entries, assured } = restored;
        let (hard_state, epoch) = (Some(hard_state), None);
        let write = Write { hard_state, snapshot, anew: true, entries, assured, epoch };
        let body = cbor::encode(&Step { epoch: Some(self.epoch), writes: vec![write] });
        self.frames =
            Frames::create(&path, &body).map_err(|source| StateError::Io { path, source })?;
        Ok(())
    }
}

impl Remembered {
    /// Takes in what a frame says.
    fn see(&mut self, body: &[u8]) -> Result<(), String> {
        // Its checksum is good: this host wrote it, and it is as long as it is.
        let step: Step = cbor::decode(body, usize::MAX).map_err(|error| error.to_string())?;
        self.epoch = step.epoch.unwrap_or(self.epoch);
        for write in step.writes {
            self.epoch = write.epoch.unwrap_or(self.epoch);
            self.restored.write(write);
        }
        Ok(())
    }
}

fn read_error(path: &Path, error: ReadError) -> StateError {
    match error {
        ReadError::Io(source) => StateError::Io { path: path.into(), source },
        ReadError::Damaged(reason) => {
            StateError::Damaged { what: path.display().to_string(), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use groundswell_protocol::consensus::{Assured, HardState, LogEntry, Snapshot};

    use super::*;

    fn write(entries: &[LogEntry], snapshot: Option<&Snapshot>, anew: bool) -> Vec<Write> {
        let (entries, snapshot) = (entries.to_vec(), snapshot.cloned());
        vec![Write { snapshot, anew, entries, ..Write::default() }]
    }

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index, term, data: vec![u8::try_from(index).unwrap()].into() }
    }

    #[test]
    fn what_was_persisted_is_read_back_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut state, remembered) = State::start(&path, true).unwrap();
        assert_eq!(remembered.epoch, 1);
        state.persist(write(&[entry(1, 1), entry(2, 1), entry(3, 1)], None, false)).unwrap();
        // A new leader replaces the tail.
        state.persist(write(&[entry(2, 2)], None, false)).unwrap();
        let hard_state = HardState { term: 2, vote: 3, commit: 1 };
        let voted = Write { hard_state: Some(hard_state.clone()), ..Write::default() };
        state.persist(vec![voted, write(&[entry(3, 2)], None, false).remove(0)]).unwrap();
        drop(state);

        let (_, remembered) = State::start(&path, false).unwrap();
        assert_eq!(remembered.epoch, 2);
        assert_eq!(remembered.restored.entries, [entry(1, 1), entry(2, 2), entry(3, 2)]);
        assert_eq!(remembered.restored.hard_state, hard_state);
    }

    #[test]
    fn a_state_that_is_gone_is_not_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for _ in 0..2 {
            assert!(matches!(State::start(&path, false), Err(StateError::Forgotten)));
            assert!(!path.exists());
        }
        drop(State::start(&path, true).unwrap());
        // One that is empty is as bad.
        std::fs::write(&path, "").unwrap();
        assert!(matches!(State::start(&path, false), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn starts_are_counted_from_what_was_met_and_the_disk_stays_assured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut state, _) = State::start(&path, true).unwrap();
        let assured = Some(Assured { term: 7, ..Assured::knows_all(3) });
        state.persist(vec![Write { assured, epoch: Some(9), ..Write::default() }]).unwrap();
        drop(state);
        let (mut state, remembered) = State::start(&path, false).unwrap();
        assert_eq!((remembered.epoch, remembered.restored.assured), (10, assured));
        state.persist(vec![Write { epoch: Some(20), ..Write::default() }]).unwrap();
        // A file that begins with a snapshot has both as well.
        let snapshot = Snapshot { index: 2, term: 1, state: vec![7].into() };
        state.persist(write(&[], Some(&snapshot), false)).unwrap();
        drop(state);
        let (_, remembered) = State::start(&path, false).unwrap();
        assert_eq!((remembered.epoch, remembered.restored.assured), (21, assured));
    }

    #[test]
    fn a_snapshot_replaces_the_log_up_to_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut state, _) = State::start(&path, true).unwrap();
        let hard_state = HardState { term: 1, vote: 1, commit: 2 };
        let voted = Write { hard_state: Some(hard_state.clone()), ..Write::default() };
        state.persist(vec![voted]).unwrap();
        state.persist(write(&[entry(1, 1), entry(2, 1), entry(3, 1)], None, false)).unwrap();
        let before = std::fs::metadata(&path).unwrap().len();
        let snapshot = Snapshot { index: 2, term: 1, state: vec![7; 1000].into() };
        state.persist(write(&[], Some(&snapshot), false)).unwrap();
        state.persist(write(&[entry(4, 1)], None, false)).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() <= before + 2000);
        drop(state);
        let (mut state, remembered) = State::start(&path, false).unwrap();
        assert_eq!((remembered.epoch, remembered.restored.hard_state), (2, hard_state));
        assert_eq!(remembered.restored.snapshot, Some(snapshot.clone()));
        assert_eq!(remembered.restored.entries, [entry(3, 1), entry(4, 1)]);
        // One that came from elsewhere leaves nothing.
        state.persist(write(&[], Some(&snapshot), true)).unwrap();
        drop(state);
        assert_eq!(State::start(&path, false).unwrap().1.restored.entries, []);
    }
}
