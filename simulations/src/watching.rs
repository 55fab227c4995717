//! After every event: the promises are held against whoever has done something.

use std::panic::{AssertUnwindSafe, catch_unwind};

use groundswell_protocol::{
    consensus::{Consensus, LogEntry},
    ids::{FleetId, HostId},
    node::Node,
    rollout::Entry,
};

use crate::{
    coverage::Situation,
    host::Host,
    telling::committed_text,
    truth::Violation,
    world::{Event, World},
};

impl World {
    /// Holds the promises against a host that has just done something.
    pub(crate) fn judge(&mut self, host: usize) {
        if self.is_in_doubt(host) && !self.is_cleared(host) {
            return;
        }
        let left = self.is_left(host);
        if left {
            self.truth.turn();
        }
        self.judge_here(host);
        if left {
            self.truth.turn();
        }
    }

    /// The same, on the line that the host's ledger is of.
    fn judge_here(&mut self, host: usize) {
        self.judge_applied(host);
        let Some(node) = &self.hosts[host].node else { return };
        let Some(consensus) = node.consensus() else { return };
        let (leads, term) = (consensus.is_leading(), (consensus.generation(), consensus.term()));
        let hands_over = leads && consensus.is_handing_over();
        let target = &self.hosts[host];
        let begins_at = target.disk.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let (applied, committed) = (node.ledger().applied_index(), consensus.committed());
        // The log begins where the snapshot ends, and has every entry from there on.
        let (first, count) = (target.disk.log.keys().next(), target.disk.log.len() as u64);
        let last = target.disk.log.keys().next_back().copied().unwrap_or(begins_at);
        let is_whole =
            first.is_none_or(|first| *first == begins_at + 1) && last == begins_at + count;
        let stands = begins_at <= applied && applied <= committed && committed <= last;
        if !(stands && is_whole) {
            let what = format!("snapshot {begins_at}, applied {applied}, committed {committed}");
            let what = format!("{what}, log from {first:?} to {last} with {count} entries");
            self.fail("C8", format!("host {host}: {what}"));
            return;
        }
        // A voter that was started goes on with the commit index that it has written down.
        let (written, known) = (target.disk.hard_state.commit, target.committed);
        let before = if known.0 == term.0 { known.1.max(written) } else { written };
        if committed < before {
            self.fail("C7", format!("host {host} takes {committed} for committed after {before}"));
            return;
        }
        let is_assured = target.disk.assured.is_some_and(|assured| assured.boot == target.boots);
        if target.forgotten.is_some() && !is_assured && consensus.in_doubt().is_none() {
            self.fail("C11", format!("host {host} votes by a disk that was put back"));
            return;
        }
        // Whoever heard of a vote relies on it that the voter remembers.
        let (mind, disk) = (consensus.hard_state(), &self.hosts[host].disk.hard_state);
        if (mind.term, mind.vote) != (disk.term, disk.vote) {
            self.fail("C7", format!("host {host} has not written its term and vote"));
            return;
        }
        self.hosts[host].committed = (term.0, committed);
        if hands_over {
            self.hosts[host].hands_over_in = Some(term);
        }
        if leads && self.hosts[host].led != term {
            self.hosts[host].led = term;
            let disk = &self.hosts[host].disk;
            let has = |entry: &LogEntry| disk.has(entry.index, &entry.data);
            let led = self.truth.leads(self.hosts[host].id, term, has);
            if led == Ok(true) {
                self.trace.say(self.now, || format!("host {host} leads in term {term:?}"));
                self.note_new_leader(host, term);
            }
            self.hold(led.map(drop));
        }
    }

    fn note_new_leader(&mut self, host: usize, (generation, term): (u64, u64)) {
        let before = (generation, term.saturating_sub(1));
        if self.hosts.iter().any(|host| host.hands_over_in == Some(before)) {
            self.coverage.met(Situation::LeaderHandedOver);
        }
        if self.truth.ledger.next_voters().is_some() {
            self.coverage.met(Situation::LeaderChangedWithVotersPlanned);
        }
        let committed = self.truth.applied();
        let open = self.hosts.iter().flat_map(|host| host.disk.log.range(committed + 1..));
        let is_grant = |data: &[u8]| {
            groundswell_protocol::rollout::Stamped::from_bytes(data)
                .is_ok_and(|stamped| matches!(stamped.entry, Entry::Grant(_)))
        };
        if open.into_iter().any(|(_, entry)| is_grant(&entry.data)) {
            self.coverage.met(Situation::LeaderChangedWithGrantOpen);
        }
        let leads = |other: &Host| {
            other.node.as_ref().and_then(Node::consensus).is_some_and(Consensus::is_leading)
        };
        let others = (0..self.hosts.len()).filter(|other| *other != host);
        if others.into_iter().any(|other| leads(&self.hosts[other])) {
            self.coverage.met(Situation::MinorityLeaderBelieved);
        }
    }

    /// What a host has applied since it was last looked at is what everybody applies.
    fn judge_applied(&mut self, host: usize) {
        let Some(node) = &self.hosts[host].node else { return };
        let (applied, checked) = (node.ledger().applied_index(), self.hosts[host].checked);
        if applied == checked {
            return;
        }
        if applied < checked {
            self.fail("C7", format!("host {host} had applied {checked}, and now {applied}"));
            return;
        }
        let checked = self.compared_from(host);
        for entry in self.hosts[host].disk.between(checked + 1, applied) {
            let index = entry.index;
            let fresh = index > self.truth.applied();
            let copies = if fresh { self.copies(&entry) } else { (0, 0) };
            let checked = self.truth.applied_by(&entry, copies);
            if fresh {
                self.judge_counted(&entry.data);
                self.stop_at_grant(&entry.data);
                self.trace.say(self.now, || {
                    format!("committed {index}: {}", committed_text(&entry.data))
                });
            }
            self.hold(checked);
        }
        self.hosts[host].checked = applied;
        self.hosts[host].disk.pruned.clear();
        let Some(node) = &self.hosts[host].node else { return };
        let is_same = match self.truth.ledger_at(applied) {
            Some(ledger) => node.ledger().is_same(ledger),
            // Long ago, as far as anybody knows of it.
            None => applied < self.truth.applied(),
        };
        // Each host is looked at once in so many entries: never all of them at the same one.
        let round = |index: u64| (index + host as u64) / CHECKED_EVERY;
        if round(applied) != round(checked) {
            let sound = catch_unwind(AssertUnwindSafe(|| node.check_invariants()));
            if let Err(panic) = sound {
                self.panicked(host, &*panic);
            }
        }
        if !is_same {
            self.fail("C4", format!("host {host} has another state at index {applied}"));
        }
        for situation in self.truth.met() {
            self.coverage.met(situation);
        }
    }

    /// On how many voters' disks an entry is, and how many it takes.
    fn copies(&self, entry: &LogEntry) -> (usize, usize) {
        let LogEntry { index, data, .. } = entry;
        let voters = self.truth.ledger.electorate().newest();
        let hosts = voters.hosts().map(|voter| &self.hosts[self.by_id[&voter]]);
        // Whoever has forgotten an entry has had it.
        let has = |host: &&Host| {
            let disks = [Some(&host.disk), host.forgotten.as_deref()];
            disks.into_iter().flatten().any(|disk| disk.had(*index, data))
        };
        (hosts.filter(has).count(), voters.list().len() / 2 + 1)
    }

    /// People who wait for the worst moment to stop a deployment.
    pub(crate) fn stop_at_grant(&mut self, data: &[u8]) {
        if let Some(host) = holder_in(data, self.trust.fleet()) {
            self.slot_moved(self.by_id.get(&host).copied());
        }
        let Some(host) = granted_to(data).and_then(|host| self.by_id.get(&host)).copied() else {
            return;
        };
        self.queue.plan(self.now, Event::Holds { host, begun: false });
        for kind in self.people.grant_came() {
            let at = self.now + self.dice.between(0, 400_000);
            self.queue.plan(at, Event::Later(Box::new(kind)));
        }
    }

    /// Of whom was removed a host knows nothing any more. On another line of the ledger that host may be a
    /// member still, and be heard of anew.
    pub(crate) fn view_forgot(&mut self, host: usize, other: HostId) {
        let about = self.by_id[&other];
        if let Some(newest) = self.hosts[host].seen.get_mut(about) {
            *newest = (0, 0);
        }
    }

    /// A host's view after records of these hosts came.
    pub(crate) fn judge_view(&mut self, host: usize, about: &[HostId]) {
        let all = self.hosts.len();
        let Host { node: Some(node), seen, .. } = &mut self.hosts[host] else { return };
        seen.resize(all, (0, 0));
        let mut checked = Ok(());
        for verified in about.iter().filter_map(|about| node.view().verified(*about)) {
            let record = verified.content();
            let version = (record.epoch, record.sequence);
            let newest = &mut seen[self.by_id[&record.host]];
            if version < *newest {
                let what = format!("host {host} went back to {version:?} from {newest:?}");
                checked = Err(Violation { promise: "F1", what });
            }
            if version > *newest {
                *newest = version;
                checked = checked.and_then(|()| self.truth.says(verified));
            }
        }
        self.hold(checked);
    }

    /// All that a host knows, whether records came or not: nothing went back, and it is not more than
    /// there is.
    pub(crate) fn judge_whole_view(&mut self, host: usize) {
        let Some(node) = &self.hosts[host].node else { return };
        let known: Vec<_> = node.view().iter().map(|record| record.host).collect();
        if known.len() > self.hosts.len() {
            self.fail("F3", format!("host {host} knows more hosts than there are"));
        }
        self.judge_view(host, &known);
    }
}

/// The host to which an entry grants a slot.
fn granted_to(data: &[u8]) -> Option<HostId> {
    match groundswell_protocol::rollout::Stamped::from_bytes(data).ok()?.entry {
        Entry::Grant(grant) => Some(grant.host),
        _ => None,
    }
}

/// Who is granted a slot by an entry, or gives one back.
fn holder_in(data: &[u8], fleet: FleetId) -> Option<HostId> {
    match groundswell_protocol::rollout::Stamped::from_bytes(data).ok()?.entry {
        Entry::Grant(grant) => Some(grant.host),
        Entry::Done(done) => done.verify_host(fleet).ok().map(|done| done.content().host),
        _ => None,
    }
}

/// Entries in which every host is checked from within once.
const CHECKED_EVERY: u64 = 16;
