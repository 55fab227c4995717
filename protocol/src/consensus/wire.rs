//! Frames between voters: our own mirror of the library's messages, and what is checked in them.

use bytes::Bytes;
use raft::{CAMPAIGN_TRANSFER, RawNode, Storage, eraftpb, eraftpb::MessageType};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    LogEntry, Snapshot,
    doubt::{LogEnd, Word},
    log::Log,
};
use crate::{
    cbor::{self, DecodeError},
    limits::{ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX, TERM_LEAP_MAX},
};

/// Why a frame was not taken in. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The sender has no part in consensus.
    #[error("from a host that is no voter")]
    NotAVoter,
    /// Not a frame.
    #[error("not a consensus frame: {0}")]
    Malformed(#[from] DecodeError),
    /// From before an operator recovered the fleet, or after.
    #[error("of generation {got}; this host is in generation {expected}")]
    OtherGeneration {
        /// This host's.
        expected: u64,
        /// The frame's.
        got: u64,
    },
    /// Numbers that no correct voter sends.
    #[error("impossible: {0}")]
    Impossible(&'static str),
}

/// The kinds of message that voters send each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    Snapshot,
    Heartbeat,
    HeartbeatResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    /// An append of nothing that only tells what is committed: who can follow need not answer.
    Committed,
    /// The leader asks a voter to lead in its place.
    TakeOver,
    /// A request for a vote by the word of the leader: nobody holds back for that leader's sake.
    RequestVoteAtOnce,
}

/// A message of the library is sent as the first of its kinds, unless it is known to be the other one.
const KINDS: [(Kind, MessageType); 12] = [
    (Kind::Append, MessageType::MsgAppend),
    (Kind::AppendResponse, MessageType::MsgAppendResponse),
    (Kind::RequestVote, MessageType::MsgRequestVote),
    (Kind::RequestVoteResponse, MessageType::MsgRequestVoteResponse),
    (Kind::Snapshot, MessageType::MsgSnapshot),
    (Kind::Heartbeat, MessageType::MsgHeartbeat),
    (Kind::HeartbeatResponse, MessageType::MsgHeartbeatResponse),
    (Kind::RequestPreVote, MessageType::MsgRequestPreVote),
    (Kind::RequestPreVoteResponse, MessageType::MsgRequestPreVoteResponse),
    (Kind::Committed, MessageType::MsgAppend),
    (Kind::TakeOver, MessageType::MsgTimeoutNow),
    (Kind::RequestVoteAtOnce, MessageType::MsgRequestVote),
];

/// What one voter sends to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Packet {
    /// A message of the library.
    Frame(Frame),
    /// Something about what one of them may have forgotten.
    Word(Word),
}

/// Each in its generation.
#[derive(Serialize, Deserialize)]
struct Envelope(u64, Packet);

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Frame {
    kind: Kind,
    /// Who says it to whom, by their places among the voters. What a leader says to one voter is of what
    /// that one has: said again to another, or by another, it would commit what nobody agreed on.
    from: u64,
    to: u64,
    term: u64,
    log_term: u64,
    index: u64,
    entries: Vec<LogEntry>,
    commit: u64,
    commit_term: u64,
    /// Its state is empty: the receiver pulls it.
    snapshot: Option<Snapshot>,
    request_snapshot: u64,
    reject: bool,
    reject_hint: u64,
}

/// With `only_tells`, as [`Kind::Committed`].
pub(super) fn encode(mut message: eraftpb::Message, only_tells: bool, generation: u64) -> Vec<u8> {
    let kind = KINDS.iter().find(|(_, kind)| *kind == message.msg_type);
    // The wrapper forwards nothing, so no other kind is made.
    let (kind, _) = kind.expect("the library sends the kinds of the table only");
    let kind = match kind {
        _ if only_tells => &Kind::Committed,
        Kind::RequestVote if message.context == CAMPAIGN_TRANSFER => &Kind::RequestVoteAtOnce,
        kind => kind,
    };
    let snapshot = message.snapshot.take().map(|snapshot| Snapshot {
        index: snapshot.get_metadata().index,
        term: snapshot.get_metadata().term,
        state: Bytes::new(),
    });
    let frame = Frame {
        kind: *kind,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(from_entry).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
    };
    cbor::encode(&Envelope(generation, Packet::Frame(frame)))
}

pub(super) fn encode_word(word: Word, generation: u64) -> Vec<u8> {
    cbor::encode(&Envelope(generation, Packet::Word(word)))
}

impl Frame {
    /// Where the log of a candidate ends that asks for a vote.
    pub(super) fn candidate(&self) -> Option<LogEnd> {
        let asks =
            matches!(self.kind, Kind::RequestVote | Kind::RequestVoteAtOnce | Kind::RequestPreVote);
        asks.then_some(LogEnd { term: self.log_term, index: self.index })
    }

    /// The term of the leader, if it only tells what is committed.
    pub(super) fn tells_commit(&self) -> Option<u64> {
        (self.kind == Kind::Committed).then_some(self.term)
    }

    /// True if its receiver is to lead.
    pub(super) fn calls_to_lead(&self) -> bool {
        self.kind == Kind::TakeOver
    }

    /// True for the answer to a sign of life.
    pub(super) fn shows_life(&self) -> bool {
        self.kind == Kind::HeartbeatResponse
    }

    /// Index and term of the snapshot that it tells of.
    pub(super) fn snapshot(&self) -> Option<(u64, u64)> {
        self.snapshot.as_ref().map(|snapshot| (snapshot.index, snapshot.term))
    }

    /// Puts in what was pulled.
    pub(super) fn with_state(mut self, state: Bytes) -> Self {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.state = state;
        }
        self
    }
}

pub(super) fn decode(bytes: &[u8], generation: u64) -> Result<Packet, WireError> {
    let Envelope(got, packet) = cbor::decode(bytes, MESSAGE_BYTES_MAX)?;
    if got != generation {
        return Err(WireError::OtherGeneration { expected: generation, got });
    }
    Ok(packet)
}

/// What a correct voter says of itself.
pub(super) fn check_word(word: Word, node: &RawNode<Log>) -> Result<(), WireError> {
    let (Word::Ask { term, .. } | Word::Know { term, .. }) = word;
    // What follows from it must be in reach of the others as well.
    check_term(term.saturating_add(TERM_LEAP_MAX / 2), node)?;
    if let Word::Know { end, .. } = word {
        let horizon = node.raft.raft_log.last_index().saturating_add(INDEX_LEAP_MAX);
        check(end.term <= term && end.index <= horizon, "a log of the future")?;
    }
    Ok(())
}

fn check_term(term: u64, node: &RawNode<Log>) -> Result<(), WireError> {
    check(term <= node.raft.term.saturating_add(TERM_LEAP_MAX), "a term far in the future")
}

/// Turns a frame into a message of the library, unless it holds numbers on which the library would
/// panic: it trusts its peers, this wrapper does not.
pub(super) fn admit(
    frame: Frame,
    from: u64,
    node: &RawNode<Log>,
) -> Result<eraftpb::Message, WireError> {
    let raft = &node.raft;
    let (committed, last) = (raft.raft_log.committed, raft.raft_log.last_index());
    check((frame.from, frame.to) == (from, raft.id), "said by another voter, or to another")?;
    check_term(frame.term, node)?;
    check(frame.term > 0, "term zero")?;
    let horizon = last.saturating_add(INDEX_LEAP_MAX);
    check(frame.index <= horizon && frame.commit <= horizon, "an index far in the future")?;
    check(frame.reject_hint <= horizon, "a hint far in the future")?;
    check(frame.entries.is_empty() || frame.kind == Kind::Append, "entries out of place")?;
    check(frame.snapshot.is_some() == (frame.kind == Kind::Snapshot), "a snapshot out of place")?;
    // The library gives entries that it does not have the term zero, and would take that for the same.
    let follows = frame.index <= last || frame.log_term > 0;
    check(follows || !matches!(frame.kind, Kind::Append | Kind::Committed), "after no entry")?;
    match frame.kind {
        Kind::Append => {
            let in_a_row = (frame.index + 1..)
                .zip(&frame.entries)
                .all(|(index, entry)| entry.index == index && entry.term <= frame.term);
            check(in_a_row, "entries with gaps")?;
            let sizes = frame.entries.iter().all(|entry| entry.data.len() <= ENTRY_BYTES_MAX);
            check(sizes, "an entry that is too long")?;
            // The library knows entries that are not written yet. It says zero of those that are gone.
            let known = |index| raft.raft_log.term(index).ok().filter(|term| *term > 0);
            let keeps = |entry: &&LogEntry| {
                entry.index > committed || known(entry.index).is_none_or(|term| term == entry.term)
            };
            check(frame.entries.iter().all(|entry| keeps(&entry)), "overwrites what is committed")?;
        }
        Kind::Heartbeat => {
            let leading_elsewhere = frame.term >= raft.term;
            check(!leading_elsewhere || frame.commit <= last, "commits what was never sent")?;
        }
        Kind::AppendResponse | Kind::HeartbeatResponse => {
            check(frame.index <= last, "acknowledges what was never sent")?;
        }
        Kind::Snapshot => {
            let index = frame.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
            check(index > 0, "an empty snapshot")?;
            check(index <= horizon, "a snapshot far in the future")?;
            let sane = frame.snapshot.as_ref().is_some_and(|s| s.term <= frame.term);
            check(sane, "a snapshot of the future")?;
        }
        Kind::Committed
        | Kind::TakeOver
        | Kind::RequestVote
        | Kind::RequestVoteAtOnce
        | Kind::RequestVoteResponse
        | Kind::RequestPreVote
        | Kind::RequestPreVoteResponse => {}
    }
    check(frame.request_snapshot <= last, "asks for a snapshot of the future")?;
    Ok(to_message(frame, from, node))
}

fn check(good: bool, what: &'static str) -> Result<(), WireError> {
    if good { Ok(()) } else { Err(WireError::Impossible(what)) }
}

fn to_message(frame: Frame, from: u64, node: &RawNode<Log>) -> eraftpb::Message {
    let kind = KINDS.iter().find(|(kind, _)| *kind == frame.kind);
    let (_, msg_type) = kind.expect("the table has every kind");
    let mut message = eraftpb::Message {
        msg_type: *msg_type,
        to: node.raft.id,
        from,
        term: frame.term,
        log_term: frame.log_term,
        index: frame.index,
        commit: frame.commit,
        commit_term: frame.commit_term,
        request_snapshot: frame.request_snapshot,
        reject: frame.reject,
        reject_hint: frame.reject_hint,
        ..Default::default()
    };
    if frame.kind == Kind::RequestVoteAtOnce {
        message.context = CAMPAIGN_TRANSFER.into();
    }
    let entries: Vec<_> = frame.entries.into_iter().map(to_entry).collect();
    message.set_entries(entries.into());
    if let Some(snapshot) = frame.snapshot {
        let state = node.store().initial_state().map(|state| state.conf_state);
        message.set_snapshot(to_snapshot(snapshot, state.unwrap_or_default()));
    }
    message
}

pub(super) fn to_snapshot(snapshot: Snapshot, conf_state: eraftpb::ConfState) -> eraftpb::Snapshot {
    let mut library = eraftpb::Snapshot::default();
    library.set_data(snapshot.state);
    let metadata = library.mut_metadata();
    metadata.index = snapshot.index;
    metadata.term = snapshot.term;
    metadata.set_conf_state(conf_state);
    library
}

pub(super) fn from_entry(entry: eraftpb::Entry) -> LogEntry {
    LogEntry { index: entry.index, term: entry.term, data: entry.data }
}

pub(super) fn to_entry(entry: LogEntry) -> eraftpb::Entry {
    let LogEntry { index, term, data } = entry;
    eraftpb::Entry { index, term, data, ..Default::default() }
}

/// No correct voter has this many more entries than we have.
const INDEX_LEAP_MAX: u64 = 1 << 32;

/// A frame of any numbers, as a voter that was taken over could send it.
#[cfg(test)]
#[expect(clippy::too_many_arguments, reason = "one for each number of a frame")]
pub(super) fn hostile(
    (from, to): (u64, u64),
    kind: usize,
    term: u64,
    log_term: u64,
    index: u64,
    commit: u64,
    entries: Vec<(u64, u64)>,
    reject: bool,
    reject_hint: u64,
    request_snapshot: u64,
    snapshot: Option<(u64, u64)>,
) -> Vec<u8> {
    let entry = |(index, term)| LogEntry { index, term, data: vec![1].into() };
    let frame = Frame {
        kind: KINDS[kind].0,
        from,
        to,
        term,
        log_term,
        index,
        entries: entries.into_iter().map(entry).collect(),
        commit,
        commit_term: log_term,
        snapshot: snapshot.map(|(index, term)| Snapshot { index, term, state: Bytes::new() }),
        request_snapshot,
        reject,
        reject_hint,
    };
    cbor::encode(&Envelope(0, Packet::Frame(frame)))
}
