//! Agreement among the voters: a narrow wrapper round the `raft` crate.
//!
//! Nothing of the library leaves this module. [`Consensus`] takes ticks, frames and proposals, and
//! answers with [`Output`]s, which the caller performs in order; each `Persist` is durable before the
//! next output is performed. Frames and disk records are our own types in our own encoding, so the
//! library's parser never sees a peer's bytes, and each number that the library would panic on is
//! checked before it gets there ([`wire`]).
//!
//! Elections are timed by a function of seed, host and term instead of the library's own draws: the
//! same inputs give the same outputs.

mod autopilot;
mod doubt;
mod log;
mod wire;

use std::collections::BTreeSet;

use bytes::Bytes;
use raft::{
    Config, GetEntriesContext, ProgressState, RawNode, SnapshotStatus, StateRole, Storage, eraftpb,
    eraftpb::MessageType,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    autopilot::{Prospect, Seat, VoterPolicy, next_list},
    doubt::{Assured, LogEnd},
    wire::WireError,
};
use self::{
    doubt::{Doubt, Heard, Word},
    log::Log,
    wire::{Frame, Packet},
};
use crate::{
    ids::{Digest, HashDomain, HostId},
    limits::{ENTRY_BYTES_MAX, MESSAGE_BYTES_MAX},
    sabotage::{Defect, planted},
    trust::Voters,
};

/// What a voter must not forget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The newest term that it knows.
    pub term: u64,
    /// The voter that it voted for in that term, by its place in the list of voters; 0 for none.
    pub vote: u64,
    /// An index up to which everything is committed.
    pub commit: u64,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its place.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// What was proposed; empty where a new leader marks its term.
    pub data: Bytes,
}

/// The applied state up to an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last index that is in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The state.
    pub state: Bytes,
}

/// What was persisted before a restart; the default is a first start.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The newest hard state.
    pub hard_state: HardState,
    /// The newest snapshot.
    pub snapshot: Option<Snapshot>,
    /// The entries after it, without a gap.
    pub entries: Vec<LogEntry>,
    /// What is known of the disk that all this was on.
    pub assured: Option<Assured>,
}

/// A step that is durable as a whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Replaces the hard state.
    pub hard_state: Option<HardState>,
    /// Replaces the log up to its index.
    pub snapshot: Option<Snapshot>,
    /// The snapshot came from elsewhere: nothing of the log is kept, not even what comes after it.
    /// Entries there would be ones that nobody agreed on, and would end in an older term.
    pub anew: bool,
    /// The first one replaces everything from its index on.
    pub entries: Vec<LogEntry>,
    /// Replaces what is known of the disk.
    pub assured: Option<Assured>,
    /// The host's records count their starts from here: it has met one of its own that it had forgotten.
    pub epoch: Option<u64>,
}

impl Restored {
    /// How each voter of a new generation begins: with the ledger at the entry that called them. Terms
    /// begin anew, since frames of other generations are not heard.
    pub fn called(index: u64, state: Bytes) -> Self {
        let snapshot = Snapshot { index, term: FIRST_TERM, state };
        let hard_state = HardState { term: FIRST_TERM, vote: 0, commit: index };
        Self { hard_state, snapshot: Some(snapshot), ..Self::default() }
    }

    /// What is there after a write.
    pub fn write(&mut self, write: Write) {
        let Write { hard_state, snapshot, anew, entries, assured, epoch: _ } = write;
        self.assured = assured.or(self.assured);
        self.hard_state = hard_state.unwrap_or_else(|| self.hard_state.clone());
        if let Some(snapshot) = snapshot {
            self.entries.retain(|entry| !anew && entry.index > snapshot.index);
            self.snapshot = Some(snapshot);
        }
        if let Some(first) = entries.first() {
            let kept = self.entries.partition_point(|entry| entry.index < first.index);
            self.entries.truncate(kept);
        }
        self.entries.extend(entries);
    }
}

/// Something to do, in order.
#[derive(Debug)]
pub enum Output {
    /// Make this durable before the next output.
    Persist(Write),
    /// Send this frame to another voter. It may be lost.
    Send {
        /// The voter.
        to: HostId,
        /// The frame.
        message: Vec<u8>,
    },
    /// These entries are committed; each comes once between two starts.
    Apply {
        /// In order, without a gap.
        entries: Vec<LogEntry>,
    },
    /// A snapshot is needed: bring its state and hand it to [`Consensus::snapshot_came`].
    Pull {
        /// The voter that has it.
        from: HostId,
        /// The last index that is in it.
        index: u64,
        /// The term of that entry.
        term: u64,
    },
    /// The applied state is replaced by this one.
    Restore(Snapshot),
    /// Who leads has changed.
    Role {
        /// The leader, if one is known.
        leader: Option<HostId>,
        /// The term.
        term: u64,
        /// True if it is this voter.
        leading: bool,
    },
}

/// A proposal came to a voter that does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this voter does not lead")]
pub struct NotLeader {
    /// Who does, if it is known.
    pub leader: Option<HostId>,
}

/// One voter's part in the agreement.
pub struct Consensus {
    node: RawNode<Log>,
    voters: Vec<HostId>,
    generation: u64,
    seed: u64,
    last_role: Option<(u64, u64, bool)>,
    /// The end of the log that was here at the start, as far as it still stands.
    restored_to: u64,
    /// The frame that waits for its snapshot to be pulled.
    awaiting: Option<(HostId, Frame)>,
    /// When this voter stands for leader of its own accord.
    stands_in_ticks: Option<u32>,
    /// Until enough others have answered, it takes no part.
    doubt: Option<Doubt>,
    /// What they have answered.
    assured: Assured,
    /// An entry of the term that is assured, or of a later one, was applied: all that was ever applied
    /// here is before it.
    knows_all: bool,
    /// The generation is about to end.
    ends: bool,
    /// Voters that are to answer the next append though there is nothing in it: by their last sign of life
    /// they have not acknowledged all that they were sent.
    asked: BTreeSet<u64>,
    /// The term for which the time to an election was drawn last, and the draw.
    drawn: Option<(u64, usize)>,
}

impl Consensus {
    /// Starts the voter `me` of a generation, on a machine that was started as `boot`. Panics if it is
    /// none: the caller asks the list first.
    pub fn new(me: HostId, list: &Voters, restored: Restored, seed: u64, boot: u64) -> Self {
        let voters: Vec<_> = list.hosts().collect();
        let id = id_of(&voters, me).expect("the caller starts consensus on voters only");
        let applied = restored.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let snapshot_term = restored.snapshot.as_ref().map_or(0, |snapshot| snapshot.term);
        let known = restored.assured.unwrap_or_default();
        let is_doubtful = known.boot != boot && !planted(Defect::DiskTrusted);
        // Until others have answered once more it stands for what it stood for before.
        let assured = Assured { boot, ..known };
        let config = Config {
            id,
            applied,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: (MESSAGE_BYTES_MAX / 2) as u64,
            max_inflight_msgs: 64,
            max_committed_size_per_ready: (MESSAGE_BYTES_MAX / 2) as u64,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let ids = (1..=voters.len() as u64).collect();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, Log::new(restored, ids), &logger)
            .expect("the configuration is constant and valid");
        let mut consensus = Self {
            node,
            voters,
            generation: list.generation(),
            seed,
            last_role: None,
            restored_to: 0,
            awaiting: None,
            stands_in_ticks: None,
            doubt: if is_doubtful { Doubt::among(list.list().len()) } else { None },
            knows_all: snapshot_term >= assured.term,
            assured,
            ends: false,
            asked: BTreeSet::new(),
            drawn: None,
        };
        consensus.restored_to = consensus.node.raft.raft_log.last_index();
        consensus.time_election();
        consensus
    }

    /// Stands for leader soon, without waiting for an election timeout: the last generation was led
    /// from here, and the others have heard of the new one in a moment.
    pub fn stand_soon(&mut self) {
        self.stands_in_ticks = Some(STANDS_AFTER_TICKS);
    }

    /// True while another voter is asked to lead: nothing is proposed meanwhile.
    pub fn is_handing_over(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Lets another voter lead as soon as it has the whole log. Nothing is proposed until then; if it does
    /// not take over in the time of an election, this one goes on.
    pub fn hand_over(&mut self, heir: HostId) -> Vec<Output> {
        if let Some(id) = id_of(&self.voters, heir).filter(|_| self.is_leading()) {
            self.node.transfer_leader(id);
        }
        self.outputs()
    }

    /// One tick has passed.
    pub fn tick(&mut self) -> Vec<Output> {
        if self.doubt.is_some() {
            return self.tick_in_doubt();
        }
        if self.is_short() {
            // It stands for leader only with the log that it stands for.
            let elapsed = &mut self.node.raft.election_elapsed;
            *elapsed = (*elapsed).min(ELECTION_TICKS_MAX - 3);
        }
        self.node.tick();
        self.stands_in_ticks = match self.stands_in_ticks {
            Some(0) => {
                // It is refused where it is of no use, as on a leader.
                if !self.is_short() {
                    drop(self.node.campaign());
                }
                None
            }
            waits => waits.map(|ticks| ticks - 1),
        };
        self.outputs()
    }

    /// Takes in a frame of another voter. A bad one changes nothing.
    ///
    /// What follows from it is mostly left to [`Consensus::outputs`], so that what comes together is
    /// answered together. There is no answer, and nothing was taken in, if that has to be asked first:
    /// what a voter says it knows is what it has carried out.
    pub fn receive(
        &mut self,
        from: HostId,
        bytes: &[u8],
    ) -> Result<Option<Vec<Output>>, WireError> {
        let sender = id_of(&self.voters, from).ok_or(WireError::NotAVoter)?;
        match wire::decode(bytes, self.generation)? {
            Packet::Word(_) if self.node.has_ready() => Ok(None),
            Packet::Word(word) => self.hear_word(sender, from, word).map(Some),
            Packet::Frame(frame) => self.hear_frame(sender, from, frame).map(Some),
        }
    }

    fn hear_frame(
        &mut self,
        sender: u64,
        from: HostId,
        frame: Frame,
    ) -> Result<Vec<Output>, WireError> {
        // It stands for leader only with the log that it stands for, and when its own leader calls.
        let may_be_called = !self.is_short() && self.node.raft.leader_id == sender;
        let is_called_in_vain = frame.calls_to_lead() && !may_be_called;
        if self.doubt.is_some() || self.is_asked_for_too_much(&frame) || is_called_in_vain {
            return Ok(Vec::new());
        }
        if let Some((index, term)) = frame.snapshot() {
            wire::admit(frame.clone(), sender, &self.node)?;
            self.awaiting = Some((from, frame));
            return Ok(vec![Output::Pull { from, index, term }]);
        }
        let (told, shows_life) = (frame.tells_commit(), frame.shows_life());
        let message = wire::admit(frame, sender, &self.node)?;
        if planted(Defect::VotesTwice) && message.msg_type == MessageType::MsgRequestVote {
            (self.node.raft.vote, self.node.raft.leader_id) = (0, 0);
        }
        let before = self.node.raft.msgs.len();
        // What the library refuses, such as a frame of an old term, is simply lost.
        drop(self.node.step(message));
        let raft = &mut self.node.raft;
        if told == Some(raft.term) && raft.leader_id == sender {
            // It was given this answer when the entries came. One that lacks them says so, and so does one
            // that has seen a newer leader.
            let answers = raft.msgs.split_off(before.min(raft.msgs.len()));
            raft.msgs.extend(answers.into_iter().filter(|answer| !is_acknowledgement(answer)));
        }
        if shows_life && raft.msgs.len() > before {
            self.asked.insert(sender);
        }
        self.time_election();
        Ok(Vec::new())
    }

    /// Asks those who have not answered yet what this voter may have promised.
    fn tick_in_doubt(&mut self) -> Vec<Output> {
        let mut out = self.outputs();
        let own = self.node.raft.id;
        let Some(doubt) = &mut self.doubt else { return out };
        if doubt.tick() {
            let word = Word::Ask { boot: self.assured.boot, term: doubt.term(self.node.raft.term) };
            let open = (1..).zip(&self.voters).filter(|(id, _)| *id != own && doubt.is_open(*id));
            let ask = |(_, to): (u64, &HostId)| {
                let message = wire::encode_word(word, self.generation);
                Output::Send { to: *to, message }
            };
            out.extend(open.map(ask));
        }
        out
    }

    /// Another voter may have forgotten something, or says what this one may have.
    fn hear_word(&mut self, id: u64, from: HostId, word: Word) -> Result<Vec<Output>, WireError> {
        wire::check_word(word, &self.node)?;
        match word {
            Word::Ask { boot, term } => {
                if term > self.node.raft.term {
                    self.node.raft.become_follower(term, 0);
                }
                // What is answered is written down first.
                let mut out = self.outputs();
                let (term, ends) = (self.node.raft.term, self.ends);
                let know = Word::Know { boot, term, end: self.stands_for(), ends };
                let message = wire::encode_word(know, self.generation);
                out.push(Output::Send { to: from, message });
                Ok(out)
            }
            Word::Know { boot, term, end, ends } => {
                let (own, is_ours) = (self.node.raft.term, boot == self.assured.boot);
                let doubt = self.doubt.as_mut().filter(|_| is_ours);
                match doubt.and_then(|doubt| doubt.hear(id, own, (term, end, ends))) {
                    Some(Heard::Enough { term, end, ends }) => {
                        let no_log = planted(Defect::StandsForNoLog);
                        let end =
                            if no_log { LogEnd::default() } else { end.max(self.stands_for()) };
                        Ok(self.assure(Assured { boot, term, end, ends }))
                    }
                    Some(Heard::Terms) => Ok(self.tick_in_doubt()),
                    None => Ok(Vec::new()),
                }
            }
        }
    }

    /// From now on this voter takes part, in a term in which it has promised nothing.
    fn assure(&mut self, assured: Assured) -> Vec<Output> {
        let term = assured.term;
        self.doubt = None;
        self.assured = assured;
        self.knows_all = term == 0;
        if term > self.node.raft.term {
            self.node.raft.become_follower(term, 0);
        }
        // In one step: a voter that dies here must not come back in a term in which it may have voted.
        let hard_state = (term > 0).then(|| self.hard_state());
        let write = Write { hard_state, assured: Some(self.assured), ..Write::default() };
        let mut out = vec![Output::Persist(write)];
        out.extend(self.outputs());
        out
    }

    /// Somebody who knows says that the disk of this machine was not put back at its last start: nothing
    /// was forgotten then. What was forgotten before, and others have told, still holds; said once more,
    /// of a log that nobody has any longer, it does not.
    pub fn trust_disk(&mut self) -> Vec<Output> {
        let Assured { boot, .. } = self.assured;
        self.assure(match self.doubt {
            Some(_) => self.assured,
            None => Assured::knows_all(boot),
        })
    }

    /// True if this voter takes no part, or not the whole part, because its disk may have been put back.
    pub fn is_held_back(&self) -> bool {
        self.doubt.is_some() || self.is_short()
    }

    /// Which others have answered what this voter may have promised, and how many have to; none once
    /// they have.
    pub fn in_doubt(&self) -> Option<(Vec<HostId>, usize)> {
        let (heard, needed) = self.doubt.as_ref()?.progress();
        Some((heard.filter_map(|id| host_of(&self.voters, id)).collect(), needed))
    }

    /// The generation of voters is about to end, or not.
    pub fn generation_ends(&mut self, ends: bool) {
        self.ends = ends;
    }

    /// Where the log ends.
    fn end(&self) -> LogEnd {
        let log = &self.node.raft.raft_log;
        LogEnd { term: log.last_term(), index: log.last_index() }
    }

    /// Where the log ends that this voter has, or stands for.
    fn stands_for(&self) -> LogEnd {
        self.end().max(self.assured.end)
    }

    /// The last entry of the log that this voter stands for, if its own is shorter.
    pub fn lacks(&self) -> Option<u64> {
        (self.doubt.is_none() && self.is_short()).then_some(self.assured.end.index)
    }

    /// The log is shorter than the one that this voter stands for.
    fn is_short(&self) -> bool {
        self.end() < self.assured.end
    }

    /// A candidate asks for a vote with less than this voter stands for.
    fn is_asked_for_too_much(&self, frame: &Frame) -> bool {
        frame.candidate().is_some_and(|end| end < self.assured.end)
    }

    /// The state that [`Output::Pull`] asked for. The caller has read it as what it should be.
    pub fn snapshot_came(&mut self, from: HostId, index: u64, state: Bytes) -> Vec<Output> {
        let awaited = self.awaiting.take().filter(|(sender, frame)| {
            *sender == from && frame.snapshot().is_some_and(|(at, _)| at == index)
        });
        let (Some((_, frame)), Some(sender)) = (awaited, id_of(&self.voters, from)) else {
            return Vec::new();
        };
        // Judged once more: the log may have grown past it meanwhile.
        if let Ok(message) = wire::admit(frame.with_state(state), sender, &self.node) {
            drop(self.node.step(message));
        }
        self.outputs()
    }

    /// The voters that were told of a snapshot and have not acknowledged it.
    pub fn snapshots_under_way(&self) -> Vec<HostId> {
        if !self.is_leading() {
            return Vec::new();
        }
        let peers = self.node.raft.prs().iter();
        let pending = peers.filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        pending.filter_map(|(id, _)| host_of(&self.voters, *id)).collect()
    }

    /// A snapshot on its way to `peer` is lost: it is behind, and is told anew from where it is.
    pub fn snapshot_lost(&mut self, peer: HostId) -> Vec<Output> {
        if let Some(id) = id_of(&self.voters, peer) {
            self.node.report_snapshot(id, SnapshotStatus::Failure);
        }
        self.outputs()
    }

    /// Proposes `data`. It is applied when a majority has it, or lost with this leader. What is longer
    /// than [`ENTRY_BYTES_MAX`] is never taken, since no other voter would take it.
    ///
    /// Nothing is sent or written before [`Consensus::outputs`] is asked: entries that are proposed
    /// together go in one frame to each voter, and wait for the disk once.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<(), NotLeader> {
        if data.len() > ENTRY_BYTES_MAX
            || !self.is_leading()
            || self.node.propose(Vec::new(), data).is_err()
        {
            return Err(NotLeader { leader: self.leader() });
        }
        Ok(())
    }

    /// Replaces the log up to the applied `index` by the state there.
    pub fn compact(&mut self, index: u64, state: Bytes) -> (Snapshot, Vec<Output>) {
        let snapshot = self.node.mut_store().compact(index, state);
        let write = Write { snapshot: Some(snapshot.clone()), ..Write::default() };
        (snapshot, vec![Output::Persist(write)])
    }

    /// The leader, if one is known.
    pub fn leader(&self) -> Option<HostId> {
        host_of(&self.voters, self.node.raft.leader_id)
    }

    /// True if this voter leads.
    pub fn is_leading(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The generation of voters that it is one of.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Term, vote and commit index, as they are in memory.
    pub fn hard_state(&self) -> HardState {
        let raft = &self.node.raft;
        HardState { term: raft.term, vote: raft.vote, commit: raft.raft_log.committed }
    }

    /// How far this voter must apply before it knows again all that it knew before its restart. How far
    /// it had applied is not written down; what it had applied is in the log that it came back with, or,
    /// if that is in doubt, before the first entry of the term that is assured.
    pub fn restored_to(&self) -> u64 {
        let is_sure = self.doubt.is_none() && self.knows_all;
        if is_sure { self.restored_to } else { u64::MAX }
    }

    /// The last index that is known to be committed.
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// What is to be done for what was proposed and for what came. Collects what the library wants done,
    /// in the order in which it must be done.
    pub fn outputs(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            // Entries go off before this voter waits for its own disk. Where it has none to write, others are
            // only told of what is committed: somebody waits to hear of it from here, and comes first.
            let messages = ready.take_messages();
            let (first, then) = match ready.entries().is_empty() {
                true => (Vec::new(), messages),
                false => (messages, Vec::new()),
            };
            self.send(first, &mut out);
            if planted(Defect::SentBeforeWritten) {
                self.send(ready.take_persisted_messages(), &mut out);
            }
            self.persist(&mut ready, &mut out);
            self.apply(ready.take_committed_entries(), &mut out);
            self.send(then, &mut out);
            self.send(ready.take_persisted_messages(), &mut out);
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.mut_store().hard_state.commit = commit;
            }
            self.send(light.take_messages(), &mut out);
            self.apply(light.take_committed_entries(), &mut out);
            self.node.advance_apply();
        }
        if planted(Defect::CommitsAhead) {
            let (store, next) = (self.node.store(), self.committed() + 1);
            let context = GetEntriesContext::empty(false);
            let end = store.last_index().map_or(next, |last| last + 1);
            let ahead = store.entries(next, end, None, context).unwrap_or_default();
            self.apply(ahead, &mut out);
        }
        self.asked.clear();
        self.time_election();
        self.note_role(&mut out);
        out
    }

    fn persist(&mut self, ready: &mut raft::Ready, out: &mut Vec<Output>) {
        let snapshot = (ready.snapshot().get_metadata().index > 0).then(|| {
            let metadata = ready.snapshot().get_metadata();
            let (index, term) = (metadata.index, metadata.term);
            Snapshot { index, term, state: ready.snapshot().data.clone() }
        });
        let entries: Vec<_> = ready.take_entries().into_iter().map(wire::from_entry).collect();
        let hard_state =
            ready.hs().map(|hs| HardState { term: hs.term, vote: hs.vote, commit: hs.commit });
        if let Some(first) = entries.first() {
            self.restored_to = self.restored_to.min(first.index - 1);
        }
        let store = self.node.mut_store();
        if let Some(snapshot) = &snapshot {
            store.install(snapshot);
        }
        store.append(&entries);
        let last = store.hard_state.clone();
        if let Some(hard_state) = &hard_state {
            store.hard_state = hard_state.clone();
        }
        // A commit index alone is not worth a write: the leader tells it again.
        let voted =
            hard_state.as_ref().is_some_and(|hs| (hs.term, hs.vote) != (last.term, last.vote));
        if voted || !entries.is_empty() || snapshot.is_some() {
            let mut kept = store.hard_state.clone();
            if planted(Defect::VoteNotWritten) {
                kept.vote = 0;
            }
            let mut entries = entries;
            if planted(Defect::EntriesNotWritten) && self.node.raft.state != StateRole::Leader {
                entries.clear();
            }
            let hard_state = Some(kept);
            let (snapshot, anew) = (snapshot.clone(), snapshot.is_some());
            let write = Write { hard_state, snapshot, anew, entries, ..Write::default() };
            out.push(Output::Persist(write));
        }
        if let Some(snapshot) = snapshot {
            self.knows_all |= snapshot.term >= self.assured.term;
            out.push(Output::Restore(snapshot));
        }
    }

    fn apply(&mut self, entries: Vec<eraftpb::Entry>, out: &mut Vec<Output>) {
        let Some(last) = entries.last() else { return };
        self.knows_all |= last.term >= self.assured.term;
        let entries = entries.into_iter().map(wire::from_entry).collect();
        out.push(Output::Apply { entries });
    }

    fn send(&self, messages: Vec<eraftpb::Message>, out: &mut Vec<Output>) {
        for message in joined(messages) {
            if let Some(to) = host_of(&self.voters, message.to) {
                let only_tells = self.only_tells(&message);
                let message = wire::encode(message, only_tells, self.generation);
                out.push(Output::Send { to, message });
            }
        }
    }

    /// True for an append with nothing in it that nobody waits for an answer to. Whether its receiver has
    /// what was sent before, it has said or is about to say.
    fn only_tells(&self, message: &eraftpb::Message) -> bool {
        let receiver = self.node.raft.prs().get(message.to);
        message.msg_type == MessageType::MsgAppend
            && message.entries.is_empty()
            && receiver.is_some_and(|receiver| receiver.state == ProgressState::Replicate)
            && !self.asked.contains(&message.to)
    }

    /// Replaces the library's draw, which differs from run to run, by one that does not. The library may
    /// have drawn anew in any step.
    fn time_election(&mut self) {
        let (id, term) = (self.node.raft.id, self.term());
        let draw = match self.drawn {
            Some((drawn, draw)) if drawn == term => draw,
            _ => {
                let parts = [&self.seed.to_be_bytes()[..], &id.to_be_bytes(), &term.to_be_bytes()];
                usize::from(Digest::of(HashDomain::Entry, &parts).0[0])
            }
        };
        self.drawn = Some((term, draw));
        let ticks = match self.is_short() {
            true => ELECTION_TICKS_MAX - 1,
            false => ELECTION_TICKS + draw % ELECTION_TICKS,
        };
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    fn note_role(&mut self, out: &mut Vec<Output>) {
        let role = (self.node.raft.leader_id, self.term(), self.is_leading());
        if self.last_role.replace(role) != Some(role) {
            let (leader, leading) = (self.leader(), self.is_leading());
            out.push(Output::Role { leader, term: self.term(), leading });
        }
    }
}

/// Puts messages to one voter together that say as much in one. The library makes an append for each
/// proposal, and another one for each step of the commit index.
fn joined(messages: Vec<eraftpb::Message>) -> Vec<eraftpb::Message> {
    let mut all: Vec<eraftpb::Message> = Vec::with_capacity(messages.len());
    for message in messages {
        let last = all.iter_mut().rfind(|earlier| earlier.to == message.to);
        match last {
            Some(earlier) if goes_on(earlier, &message) => {
                earlier.entries.extend(message.entries);
                earlier.commit = earlier.commit.max(message.commit);
            }
            Some(earlier) if is_acknowledgement(earlier) && is_acknowledgement(&message) => {
                if earlier.term == message.term && earlier.index <= message.index {
                    *earlier = message;
                } else {
                    all.push(message);
                }
            }
            _ => all.push(message),
        }
    }
    all
}

/// True for two appends of which the second begins where the first one ends.
fn goes_on(one: &eraftpb::Message, next: &eraftpb::Message) -> bool {
    let end = one.entries.last().map_or((one.index, one.log_term), |last| (last.index, last.term));
    let bytes = |message: &eraftpb::Message| -> usize {
        message.entries.iter().map(|entry| entry.data.len() + ENTRY_OVERHEAD_BYTES).sum()
    };
    one.msg_type == MessageType::MsgAppend
        && next.msg_type == MessageType::MsgAppend
        && one.term == next.term
        && end == (next.index, next.log_term)
        && bytes(one) + bytes(next) <= MESSAGE_BYTES_MAX / 2
}

/// True for the word that a voter has all of the log up to an index. A later one says it as well.
fn is_acknowledgement(message: &eraftpb::Message) -> bool {
    message.msg_type == MessageType::MsgAppendResponse && !message.reject
}

/// The library's number of a voter: its place in the list, from 1.
fn id_of(voters: &[HostId], host: HostId) -> Option<u64> {
    (1..).zip(voters).find(|(_, voter)| **voter == host).map(|(id, _)| id)
}

fn host_of(voters: &[HostId], id: u64) -> Option<HostId> {
    let place = usize::try_from(id).ok()?.checked_sub(1)?;
    voters.get(place).copied()
}

/// What an entry costs in a frame beside its data.
const ENTRY_OVERHEAD_BYTES: usize = 32;
/// The term of what a generation begins with.
const FIRST_TERM: u64 = 1;
const STANDS_AFTER_TICKS: u32 = 2;
const HEARTBEAT_TICKS: usize = 2;
const ELECTION_TICKS: usize = 10;
/// The library's: election timeouts are below it.
const ELECTION_TICKS_MAX: usize = 2 * ELECTION_TICKS;

#[cfg(test)]
mod tests;
