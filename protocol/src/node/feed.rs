//! The ledger's ways in and out: submissions to the leader, entries to those who follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Node, NotTaken, Output};
use crate::{
    consensus::{self, HardState, LogEntry, Restored, Snapshot, WireError, Write},
    ids::{Digest, HostId},
    limits::{
        ENTRIES_PER_MESSAGE_MAX, ENTRY_BYTES_MAX, HOSTS_MAX, MESSAGE_BYTES_MAX, SNAPSHOT_BYTES_MAX,
        SNAPSHOT_EVERY_BYTES, SUBMISSIONS_MAX, TERM_MAX,
    },
    rollout::{Believed, Effect, Entry, Ledger, Read, Refusal, Stamped},
    sabotage::{Defect, planted},
    time::Mono,
    wire::{FedEntry, Message},
};

/// An entry of the log as it is kept on disk.
pub type LogRecord = LogEntry;

/// What is under way between this host and the ledger.
#[derive(Default)]
pub(super) struct Feed {
    snapshot_every_entries: u64,
    /// Applied entries since the snapshot, for those who follow.
    log: BTreeMap<u64, FedEntry>,
    pub(super) snapshot: Option<Snapshot>,
    /// Who gets entries as they are applied.
    pub(super) followers: BTreeMap<HostId, Follower>,
    /// Whom entries matter to at once that were not sent yet: who handed them in, who was granted a slot.
    awaited_by: BTreeSet<HostId>,
    /// The voter that feeds this host, if it follows.
    pub(super) source: Source,
    /// Bytes of `log`.
    log_bytes: usize,
    /// Counts what gives hope that what is handed in comes through: see [`super::repeats`].
    pub(super) hopes: u64,
    /// This host's own submissions that do not show in the ledger yet.
    pending: BTreeMap<Digest, Pending>,
    /// Submissions that were passed on, for the way back of a refusal.
    forwarded: BTreeMap<Digest, HostId>,
    /// The leader's own proposals that are not applied yet.
    pub(super) proposed: BTreeMap<Digest, Proposed>,
    /// Those of them that grant slots.
    pub(super) open_grants: BTreeSet<Digest>,
    /// Consensus was told something, and was not asked yet what is to be done about it.
    has_news: bool,
    /// Certificates that were handed in, by submission, for what comes back.
    applicants: BTreeMap<Digest, Digest>,
    /// Who leads, as a voter said it, on a host that follows.
    pub(super) heard_leader: Option<HostId>,
    /// Certificates that the voters refused, and why.
    /// Until when: what stood in the way may be gone by then.
    pub(super) refused_members: BTreeMap<Digest, (String, Mono)>,
}

/// What a host that follows was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Follower {
    /// How many entries it lacked when it asked.
    lacked: u64,
    asked_at: Mono,
    /// The last one that it is not fed any more: it was sent, or the host asks for it by itself.
    sent: u64,
    /// Another voter feeds it: from here it gets only what it waits for, and what it asks for.
    is_on_standby: bool,
    /// When it is sent what it does not wait for, at the earliest.
    next_at: Mono,
}

impl Follower {
    /// True if it lacked little when it asked, or is fed from here since then, and asks no more.
    pub(super) fn is_up_to_date(&self, now: Mono) -> bool {
        let is_fed = !self.is_on_standby && now.since(self.asked_at) >= CAUGHT_UP_AFTER;
        self.lacked <= LAG_ENTRIES_MAX || is_fed
    }
}

/// From where a host that follows has the ledger: one voter sends what comes, the others are asked now
/// and then whether there is more.
#[derive(Default)]
pub(super) struct Source {
    pub(super) voter: Option<HostId>,
    /// The last entry that it has sent, or was known to have nothing after.
    brought: u64,
    /// When it last sent anything.
    brought_at: Mono,
    /// The last entry that another voter had to bring, and which.
    missed: Option<(u64, HostId)>,
    /// Counts the times that another voter was asked.
    asked: usize,
}

/// A proposal of the leader.
pub(super) struct Proposed {
    at: Mono,
    /// Who handed it in.
    from: Option<HostId>,
    /// What was believed when it was judged.
    believed: Option<Believed>,
}

struct Pending {
    entry: Entry,
    next_at: Mono,
    /// Someone waits for the answer until then.
    answer_by: Option<Mono>,
}

impl Feed {
    pub(super) fn new(snapshot_every_entries: u64, snapshot: Option<Snapshot>) -> Self {
        Self { snapshot_every_entries, snapshot, ..Self::default() }
    }

    /// From now on there is this snapshot, and nothing after it yet.
    pub(super) fn begin_anew(&mut self, snapshot: Option<Snapshot>) {
        self.log.clear();
        self.log_bytes = 0;
        self.snapshot = snapshot;
    }

    /// The term of the last entry that was applied.
    fn last_term(&self) -> u64 {
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.term);
        self.log.last_key_value().map_or(snapshot, |(_, FedEntry(term, _))| *term)
    }

    pub(super) fn is_bounded(&self) -> bool {
        [self.pending.len(), self.forwarded.len(), self.applicants.len()]
            .into_iter()
            .all(|length| length <= SUBMISSIONS_MAX)
    }
}

impl Node {
    /// Sees to it that `entry` gets into the ledger. With `answer`, the outcome is reported.
    pub(super) fn submit(&mut self, mut entry: Entry, answer: bool) {
        if let Entry::Admit(cert) = &mut entry {
            // They follow from the entry, and differ from host to host.
            cert.receipts.clear();
        }
        let id = entry.submission_id();
        let answer_by = answer.then(|| self.now + ANSWER_WITHIN);
        if let Some(pending) = self.feed.pending.get_mut(&id) {
            pending.answer_by = pending.answer_by.max(answer_by);
            return;
        }
        if self.feed.pending.len() >= SUBMISSIONS_MAX {
            if answer {
                self.out.push(Output::Submitted(id, Err(NotTaken::Busy)));
            }
            return;
        }
        if let Entry::Admit(cert) = &entry {
            if self.feed.applicants.len() >= SUBMISSIONS_MAX {
                self.feed.applicants.clear();
            }
            self.feed.applicants.insert(id, cert.member.id(self.trust.fleet()));
        }
        self.feed.pending.insert(id, Pending { entry, next_at: self.now, answer_by });
        self.push_submission(id);
    }

    /// Sends on what waited; repeats what was not answered; gives up on what nobody waits for any more.
    pub(super) fn tend_feed(&mut self) {
        let now = self.now;
        self.feed_followers();
        let due = self.feed.pending.iter().filter(|(_, pending)| pending.next_at <= now);
        let due: Vec<_> = due.map(|(id, _)| *id).collect();
        for id in due {
            let late = self.feed.pending.get(&id).and_then(|pending| pending.answer_by);
            if late.is_some_and(|by| by <= now) {
                self.settle(id, Err(NotTaken::Unanswered));
            } else {
                self.push_submission(id);
            }
        }
        self.feed.proposed.retain(|_, proposed| now.since(proposed.at) < PROPOSAL_LOST_AFTER);
        let proposed = &self.feed.proposed;
        self.feed.open_grants.retain(|id| proposed.contains_key(id));
        let before = self.feed.refused_members.len();
        self.feed.refused_members.retain(|_, (_, until)| *until > now);
        if self.feed.refused_members.len() < before {
            self.out.push(Output::Roster);
        }
    }

    fn push_submission(&mut self, id: Digest) {
        let now = self.now;
        let Some(pending) = self.feed.pending.get_mut(&id) else { return };
        pending.next_at = now + RETRY_EVERY;
        let entry = pending.entry.clone();
        // What nobody waits for is tried once; whoever still wants it says so again.
        if pending.answer_by.is_none() {
            self.feed.pending.remove(&id);
        }
        if self.is_leading() {
            self.propose_checked(id, entry, None);
        } else if let Some(voter) = self.way_to_leader() {
            self.send(voter, Message::Submit(Box::new(entry)));
        }
    }

    fn way_to_leader(&mut self) -> Option<HostId> {
        let leader = self.leader().filter(|leader| self.links.is_up(*leader));
        leader.or_else(|| {
            let voters: Vec<_> = self.voters();
            let up: Vec<_> = voters.into_iter().filter(|voter| self.links.is_up(*voter)).collect();
            // Another voter each time: the first may be cut off from the leader.
            let turn = usize::try_from(self.now.0 / 1_000_000).unwrap_or(0);
            up.get(turn % up.len().max(1)).copied()
        })
    }

    /// A peer hands in an entry: the leader judges it, another voter passes it on once.
    pub(super) fn submitted_by(&mut self, from: HostId, entry: Entry) {
        // Computed here: under another's name it would stand in that one's way.
        let id = entry.submission_id();
        if self.is_leading() {
            self.propose_checked(id, entry, Some(from));
        } else if self.consensus.is_some()
            && !self.is_voter(from)
            && let Some(leader) = self.leader().filter(|leader| self.links.is_up(*leader))
        {
            if self.feed.forwarded.len() >= SUBMISSIONS_MAX {
                self.feed.forwarded.clear();
            }
            self.feed.forwarded.insert(id, from);
            self.send(leader, Message::Submit(Box::new(entry)));
        }
    }

    /// Proposes `entry` if it would be applied now, else says why not.
    pub(super) fn propose_checked(&mut self, id: Digest, entry: Entry, from: Option<HostId>) {
        if self.feed.proposed.contains_key(&id) {
            return;
        }
        // What only the leader may say is not taken from anybody else.
        if entry.is_the_leaders() && from.is_some() && !planted(Defect::AnybodyLeads) {
            return;
        }
        let believed = match self.ledger.check_and_keep(self.wall, &entry) {
            Ok((Effect::Change, believed)) => believed,
            Ok((Effect::None, _)) => {
                return self.answer_submission(id, from, Ok(self.ledger.applied_index()));
            }
            Err(refusal) => {
                self.note_refused(&entry, &refusal);
                return self.answer_submission(id, from, Err(refusal.to_string()));
            }
        };
        let bytes = Stamped { at: self.wall, entry }.to_bytes();
        if bytes.len() > ENTRY_BYTES_MAX {
            let got = bytes.len();
            let long = format!("what was handed in has {got} bytes; at most {ENTRY_BYTES_MAX} fit");
            return self.answer_submission(id, from, Err(long));
        }
        let Some(consensus) = &mut self.consensus else { return };
        if consensus.propose(bytes).is_ok() {
            self.feed.proposed.insert(id, Proposed { at: self.now, from, believed });
            self.feed.has_news = true;
        }
    }

    /// Sends off, writes down and applies what follows from what was proposed and from what came. In a
    /// fleet of one voter a proposal is applied at once.
    pub(super) fn agree(&mut self) {
        if std::mem::take(&mut self.feed.has_news)
            && let Some(consensus) = &mut self.consensus
        {
            let outputs = consensus.outputs();
            self.consensus_outputs(outputs);
        }
    }

    fn answer_submission(
        &mut self,
        id: Digest,
        from: Option<HostId>,
        outcome: Result<u64, String>,
    ) {
        match from {
            Some(peer) => self.send(peer, Message::Submitted { id, outcome }),
            None => self.settle(id, outcome.map_err(NotTaken::Refused)),
        }
    }

    /// A voter says what became of a submission that does not show in the ledger.
    pub(super) fn submission_answered(
        &mut self,
        from: HostId,
        id: Digest,
        outcome: Result<u64, String>,
    ) {
        if !self.is_voter(from) {
            return;
        }
        if let (Some(member), Err(reason)) = (self.feed.applicants.remove(&id), &outcome) {
            self.remember_refused(member, reason.clone());
        }
        if let Some(origin) = self.feed.forwarded.remove(&id) {
            self.send(origin, Message::Submitted { id, outcome: outcome.clone() });
        }
        self.settle(id, outcome.map_err(NotTaken::Refused));
    }

    /// Remembers a certificate that is good by itself and may not come in all the same. Of others
    /// anybody can make one that has the same id as a good one.
    fn note_refused(&mut self, entry: &Entry, refusal: &Refusal) {
        let Entry::Admit(cert) = entry else { return };
        if cert.verify_signatures(&self.trust).is_ok() && *refusal != Refusal::WithReceipts {
            self.remember_refused(cert.member.id(self.trust.fleet()), refusal.to_string());
        }
    }

    fn remember_refused(&mut self, member: Digest, reason: String) {
        if self.feed.refused_members.len() >= HOSTS_MAX {
            self.feed.refused_members.clear();
        }
        let until = self.now + REFUSED_FOR;
        self.feed.refused_members.insert(member, (reason, until));
        self.out.push(Output::Roster);
    }

    fn settle(&mut self, id: Digest, outcome: Result<u64, NotTaken>) {
        let pending = self.feed.pending.remove(&id);
        if pending.is_some_and(|pending| pending.answer_by.is_some()) {
            self.out.push(Output::Submitted(id, outcome));
        }
    }

    pub(super) fn consensus_message(&mut self, from: HostId, bytes: &[u8]) {
        // Whoever has not applied all of its log may have the plan in it.
        let ends = self.ledger.next_voters().is_some() || self.is_catching_up();
        let ends = ends || self.is_left_behind();
        let Some(consensus) = &mut self.consensus else { return };
        consensus.generation_ends(ends);
        match consensus.receive(from, bytes) {
            Ok(Some(outputs)) => {
                self.feed.has_news = true;
                self.consensus_outputs(outputs);
            }
            Ok(None) => {
                self.feed.has_news = true;
                self.agree();
                self.consensus_message(from, bytes);
            }
            // One of us has not heard who votes now.
            Err(WireError::OtherGeneration { .. }) => {
                let own = self.electorate.newest().generation();
                self.send(from, Message::VotersKnown(own));
            }
            Err(error) => {
                let peer = self.name_of(from);
                self.out.push(Output::Note(format!("consensus message from {peer}: {error}")));
            }
        }
    }

    pub(super) fn consensus_outputs(&mut self, outputs: Vec<consensus::Output>) {
        let generation = self.generation();
        for output in outputs {
            // The others still have to hear of what ended their generation; the rest is over.
            let is_over = self.generation() != generation;
            match output {
                consensus::Output::Send { to, message } => {
                    if self.links.is_up(to) {
                        self.send(to, Message::Consensus(message));
                    }
                }
                _ if is_over => {}
                consensus::Output::Persist(write) => {
                    let assured = write.assured;
                    self.out.push(Output::Persist(write));
                    assured.into_iter().for_each(|assured| self.is_assured(assured));
                }
                consensus::Output::Apply { entries } => self.apply_all(entries),
                consensus::Output::Pull { from, index, term } => {
                    self.pull_snapshot(from, index, term);
                }
                consensus::Output::Restore(snapshot) => self.restore(&snapshot),
                consensus::Output::Role { leader, term, leading } => {
                    self.role_changed(leader, term, leading);
                }
            }
        }
    }

    /// Applies what was agreed on, up to where a new generation of voters begins.
    fn apply_all(&mut self, entries: Vec<LogEntry>) {
        let generation = self.generation();
        for entry in entries {
            self.apply(entry);
            if self.generation() != generation {
                break;
            }
        }
        self.feed_followers();
        if self.generation() == generation {
            self.compact();
        } else {
            self.feed_all_followers();
            self.begin_generation();
        }
    }

    /// Applies one entry of the log. Entries come in order; an old one changes nothing.
    fn apply(&mut self, entry: LogEntry) {
        let LogEntry { index, term, data } = entry;
        if index <= self.ledger.applied_index() {
            return;
        }
        match Read::of(&data) {
            Some(read) => self.apply_read(index, &read),
            None => self.ledger.skip(index),
        }
        self.feed.log_bytes += data.len();
        self.feed.log.insert(index, FedEntry(term, data));
    }

    fn apply_read(&mut self, index: u64, read: &Read) {
        let Read { stamped, hash, id, admits } = read;
        // The leader has checked the signature when it proposed it.
        let proposed = self.feed.proposed.remove(id);
        let believed = proposed.as_ref().and_then(|proposed| proposed.believed.as_ref());
        let outcome = self.ledger.apply_believed(index, *hash, stamped, believed);
        self.feed.open_grants.remove(id);
        self.feed.awaited_by.extend(proposed.and_then(|proposed| proposed.from));
        self.feed.awaited_by.extend(self.feed.forwarded.remove(id));
        if let Err(refusal) = &outcome {
            self.note_refused(&stamped.entry, refusal);
        }
        self.newcomers.extend(admits);
        if let (Some(_), Entry::Grant(grant)) = (&self.consensus, &stamped.entry) {
            self.feed.awaited_by.insert(grant.host);
        }
        if matches!(stamped.entry, Entry::Admit(_) | Entry::Remove(_)) {
            self.out.push(Output::Roster);
        }
        let refused = |refusal: Refusal| NotTaken::Refused(refusal.to_string());
        self.settle(*id, outcome.map(|_| index).map_err(refused));
    }

    pub(super) fn restore(&mut self, snapshot: &Snapshot) {
        match Ledger::restore(self.trust.clone(), &snapshot.state) {
            Ok(ledger) if ledger.applied_index() >= self.ledger.applied_index() => {
                self.replace_ledger(ledger);
                self.feed.begin_anew(Some(snapshot.clone()));
            }
            Ok(_) => {}
            Err(error) => {
                self.out
                    .push(Output::Note(format!("a snapshot of the ledger is refused: {error}")));
            }
        }
    }

    /// Goes on with another ledger, whose members may be others.
    fn replace_ledger(&mut self, ledger: Ledger) {
        self.ledger = ledger;
        self.is_roster_stale = true;
        self.out.push(Output::Roster);
    }

    /// Replaces a long log by a snapshot, on disk and in memory.
    fn compact(&mut self) {
        let entries = u64::try_from(self.feed.log.len()).unwrap_or(u64::MAX);
        if entries < self.feed.snapshot_every_entries && self.feed.log_bytes < SNAPSHOT_EVERY_BYTES
        {
            return;
        }
        // Whoever is only a little behind would have to take all of the snapshot.
        self.feed_all_followers();
        let index = self.ledger.applied_index();
        let state = self.ledger.snapshot();
        if state.len() as u64 > SNAPSHOT_BYTES_MAX {
            self.out.push(Output::Note(format!(
                "the ledger takes {} MiB and a host that joins, or was away for long, takes {} at most: it will \
                 stay outside. Members with fewer labels and groups with shorter settings take less",
                state.len() >> 20,
                SNAPSHOT_BYTES_MAX >> 20
            )));
        }
        let snapshot = match &mut self.consensus {
            Some(consensus) => {
                let (snapshot, outputs) = consensus.compact(index, state);
                self.consensus_outputs(outputs);
                snapshot
            }
            None => {
                let snapshot = Snapshot { index, term: self.feed.last_term(), state };
                let write = Write { snapshot: Some(snapshot.clone()), ..Write::default() };
                self.out.push(Output::Persist(write));
                snapshot
            }
        };
        self.feed.begin_anew(Some(snapshot));
    }

    // --- following ---

    /// Asks a voter for what this host has not seen, if this host follows.
    pub(super) fn ask_ledger_of(&mut self, peer: HostId) {
        if self.follows() && self.is_fed_by(peer) {
            let first = self.ledger.applied_index() + 1;
            let follows = self.source() == Some(peer);
            self.send(peer, Message::WantLedger { first, follows });
        }
    }

    /// The voter that feeds this host. The first one that is there is kept for as long as it is. When
    /// voters were away the others feed more hosts, but none more than all that are connected to it.
    fn source(&mut self) -> Option<HostId> {
        let source = self.feed.source.voter;
        if source.is_none_or(|voter| !self.links.is_up(voter) || !self.is_fed_by(voter)) {
            let other = self.voters_in_order().into_iter().find(|voter| self.links.is_up(*voter));
            self.be_fed_by(other);
        }
        self.feed.source.voter
    }

    fn be_fed_by(&mut self, voter: Option<HostId>) {
        let Source { asked, .. } = self.feed.source;
        let (brought, brought_at) = (self.ledger.applied_index(), self.now);
        self.feed.source = Source { voter, brought, brought_at, missed: None, asked };
    }

    /// A link is gone. If it was the one by which the ledger came, another voter is asked for what follows.
    pub(super) fn source_link_down(&mut self, peer: HostId) {
        if self.feed.source.voter == Some(peer)
            && let Some(other) = self.source()
        {
            self.ask_ledger_of(other);
        }
    }

    /// Asks everybody who may know.
    pub(super) fn ask_ledger_of_all(&mut self) {
        for peer in self.feeders() {
            if self.links.is_up(peer) {
                self.ask_ledger_of(peer);
            }
        }
    }

    /// Asks one of the other voters, another one each time, and the one that feeds this host if it has
    /// said nothing since. A voter forgets its followers when it restarts or loses a connection, and where
    /// two connections overlapped this host has not noticed. One that another had to stand in for, and
    /// that has not brought the same since, makes way for it.
    pub(super) fn ask_ledger_again(&mut self) {
        if !self.follows() || planted(Defect::AskedOnce) {
            return;
        }
        let Some(voter) = self.source() else { return };
        if self.incoming.is_none() && self.change_source() {
            return self.ask_ledger_of_all();
        }
        if self.now.since(self.feed.source.brought_at) >= LEDGER_AGAIN_EVERY {
            self.ask_ledger_of(voter);
        }
        let others = self.feeders().into_iter();
        let others = others.filter(|peer| *peer != voter && self.links.is_up(*peer));
        let others: Vec<_> = others.collect();
        self.feed.source.asked = self.feed.source.asked.wrapping_add(1);
        if let Some(peer) = others.get(self.feed.source.asked % others.len().max(1)) {
            self.ask_ledger_of(*peer);
        }
    }

    /// Lets another voter feed this host if it knew more than the one that does, and that one has not
    /// brought it since.
    pub(super) fn change_source(&mut self) -> bool {
        let Source { brought, missed, .. } = self.feed.source;
        let better = missed.filter(|(index, voter)| *index > brought && self.links.is_up(*voter));
        better.inspect(|(_, voter)| self.be_fed_by(Some(*voter))).is_some()
    }

    pub(super) fn serve_ledger(&mut self, to: HostId, first: u64, follows: bool) {
        if !self.feeds() || planted(Defect::NobodyFed) {
            return;
        }
        if self.consensus.is_some() {
            let sent = self.ledger.applied_index();
            let follower = Follower {
                lacked: (sent + 1).saturating_sub(first),
                asked_at: self.now,
                sent,
                is_on_standby: !follows,
                next_at: self.now,
            };
            self.feed.followers.insert(to, follower);
        }
        self.send_entries(to, first);
    }

    /// Sends followers what was applied: at once to whoever handed something in or was granted a slot, and
    /// to the others if they were sent nothing for a while. Each message is a wait for the disk there, and
    /// costs more than an entry.
    fn feed_followers(&mut self) {
        let (now, applied) = (self.now, self.ledger.applied_index());
        let awaited_by = std::mem::take(&mut self.feed.awaited_by);
        self.feed_those(|host, follower| {
            let in_turn = !follower.is_on_standby && now >= follower.next_at;
            follower.sent < applied && (in_turn || awaited_by.contains(host))
        });
    }

    /// Sends all followers what waits for them.
    fn feed_all_followers(&mut self) {
        let applied = self.ledger.applied_index();
        self.feed_those(|_, follower| follower.sent < applied);
    }

    fn feed_those(&mut self, is_due: impl Fn(&HostId, &Follower) -> bool) {
        let due = self.feed.followers.iter().filter(|(host, follower)| is_due(host, follower));
        for host in due.map(|(host, _)| *host).collect::<Vec<_>>() {
            self.feed_one(host);
        }
    }

    /// Tells all followers who leads, with what waits for them.
    pub(super) fn tell_who_leads(&mut self) {
        for host in self.feed.followers.keys().copied().collect::<Vec<_>>() {
            self.feed_one(host);
        }
    }

    fn feed_one(&mut self, host: HostId) {
        let applied = self.ledger.applied_index();
        let Some(follower) = self.feed.followers.get_mut(&host) else { return };
        let mut next = follower.sent + 1;
        (follower.sent, follower.next_at) = (applied, self.now + FEED_EVERY);
        if !self.links.is_up(host) {
            return;
        }
        loop {
            let sent = self.send_entries(host, next);
            // A busy moment applies more than one message carries.
            if sent > applied || sent == next {
                return;
            }
            next = sent;
        }
    }

    /// Sends as many entries as one message carries, or word of the snapshot where they are no more. Says
    /// what comes next.
    fn send_entries(&mut self, to: HostId, first: u64) -> u64 {
        let applied = self.ledger.applied_index();
        if let Some(Snapshot { index, term, .. }) = self.feed.snapshot
            && index >= first
        {
            self.send(to, Message::HaveSnapshot { index, term });
            return applied + 1;
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (_, entry) in self.feed.log.range(first..).take(ENTRIES_PER_MESSAGE_MAX) {
            bytes += entry.1.len() + FED_ENTRY_OVERHEAD_BYTES;
            if bytes > MESSAGE_BYTES_MAX / 2 {
                break;
            }
            entries.push(entry.clone());
        }
        let leader = self.leader();
        let next = first + entries.len() as u64;
        self.send(to, Message::Ledger { first, entries, applied, leader });
        next
    }

    /// Takes in entries that a voter has applied.
    pub(super) fn follow(
        &mut self,
        from: HostId,
        first: u64,
        entries: Vec<FedEntry>,
        voter_applied: u64,
        leader: Option<HostId>,
    ) {
        if self.consensus.is_some() || !self.is_fed_by(from) {
            return;
        }
        if self.is_voter(from) && self.feed.heard_leader != leader {
            self.feed.heard_leader = leader;
            self.feed.hopes += 1;
        }
        // Past this no ledger is ever; a voter that says so would make this host deaf to the others.
        if voter_applied > LEDGER_INDEX_MAX {
            return;
        }
        if first > self.ledger.applied_index() + 1 && !planted(Defect::FollowsWithGaps) {
            self.ask_ledger_of(from);
            return;
        }
        let next = self.ledger.applied_index() + 1;
        if entries.iter().any(|FedEntry(term, _)| !(1..=TERM_MAX).contains(term)) {
            return;
        }
        let entries = (first..).zip(entries).skip_while(|(index, _)| *index < next);
        let entries: Vec<_> =
            entries.map(|(index, FedEntry(term, data))| LogEntry { index, term, data }).collect();
        let Some(last) = entries.last().map(|entry| entry.index) else {
            // One that was overtaken has it as well; one that is behind is credited with what it has.
            return self.note_source(from, voter_applied.min(next - 1), next);
        };
        self.apply_followed(entries, true);
        self.note_source(from, last.min(self.ledger.applied_index()), next);
        // Right after it has come, others have least of it to say again.
        if self.feed.source.voter == Some(from) && self.next_ledger_at <= self.now + FEED_EVERY {
            self.tend_ledger();
        }
        if self.ledger.applied_index() < voter_applied {
            self.ask_ledger_of(from);
        }
    }

    /// Notes which voter has brought the ledger up to `last`, where `next` was news.
    fn note_source(&mut self, from: HostId, last: u64, next: u64) {
        let (now, source) = (self.now, &mut self.feed.source);
        if source.voter == Some(from) {
            source.brought = source.brought.max(last);
            source.brought_at = now;
        } else if last >= next {
            source.missed = Some((last, from));
        }
    }

    /// Applies entries that were agreed on, up to where a new generation begins, and writes them down
    /// if they are `news`.
    pub(super) fn apply_followed(&mut self, mut entries: Vec<LogEntry>, news: bool) {
        let generation = self.generation();
        for place in 0..entries.len() {
            self.apply(entries[place].clone());
            if self.generation() != generation {
                entries.truncate(place + 1);
                break;
            }
        }
        if planted(Defect::FollowedNotWritten) {
            entries.retain(|entry| entry.index.is_multiple_of(2));
        }
        if news && !entries.is_empty() {
            self.out.push(Output::Persist(Write { entries, ..Write::default() }));
        }
        if self.generation() == generation {
            self.compact();
        } else {
            self.begin_generation();
        }
    }

    /// A voter has only a snapshot of what this host lacks.
    pub(super) fn follow_by_snapshot(&mut self, from: HostId, index: u64, term: u64) {
        let behind = self.ledger.applied_index() < index && index <= LEDGER_INDEX_MAX;
        let sane = (1..=TERM_MAX).contains(&term);
        if !self.follows() || !self.is_fed_by(from) || !behind || !sane {
            return;
        }
        // What the voter that feeds this host is about to bring need not come as a snapshot.
        match self.source() == Some(from) {
            true => self.pull_snapshot(from, index, term),
            false => self.feed.source.missed = Some((index, from)),
        }
    }

    /// Begins anew from a snapshot that was read as a ledger, and goes on from there. What a voter of
    /// an older generation has promised in it binds nobody any more.
    pub(super) fn follow_snapshot(&mut self, from: HostId, snapshot: Snapshot, ledger: Ledger) {
        let generation = ledger.electorate().newest().generation();
        let votes = self.consensus.is_some();
        if self.ledger.applied_index() >= snapshot.index
            || generation < self.generation()
            || votes && generation == self.generation()
        {
            return;
        }
        let begins = generation > self.generation();
        self.replace_ledger(ledger);
        let (term, commit) = (snapshot.term, snapshot.index);
        let hard_state = HardState { term, vote: 0, commit };
        let snapshot = Some(snapshot);
        self.take_up(Restored { hard_state, snapshot, ..Restored::default() }, false);
        if begins {
            self.tell_generation();
        }
        let applied = self.ledger.applied_index();
        self.note_source(from, applied, applied);
        self.ask_ledger_of(from);
    }
}

/// How far behind a host may be that begins to vote.
const LAG_ENTRIES_MAX: u64 = 250;
/// Who is fed and was far behind asks for the rest in this time, or has it.
const CAUGHT_UP_AFTER: Duration = Duration::from_secs(5);
/// What an entry costs in a message beside its data.
const FED_ENTRY_OVERHEAD_BYTES: usize = 20;
/// How often a follower is told of what it does not wait for.
const FEED_EVERY: Duration = Duration::from_millis(500);
/// How often it asks whether there is more.
pub(super) const LEDGER_AGAIN_EVERY: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A thousand entries a second for a million years.
const LEDGER_INDEX_MAX: u64 = 1 << 55;
const REFUSED_FOR: Duration = Duration::from_secs(60);
const RETRY_EVERY: Duration = Duration::from_millis(700);
const PROPOSAL_LOST_AFTER: Duration = Duration::from_secs(3);
