//! What happens on links: messages that arrive, streams that come and go, and the gate that lets peers in.

use groundswell_protocol::{
    fleet::Record,
    gate::{Gate, Verdict},
    ids::HostId,
    node::Input,
    trust::Signed,
    wire::{Hello, Message, PROTOCOL},
};

use crate::{
    coverage::Situation,
    plan::SECOND,
    telling::{describe, kind_of},
    world::{Event, World},
};

impl World {
    pub(crate) fn arrive(&mut self, stream: usize, towards: usize, message: Box<Message>) {
        let ends = self.network.streams[stream].ends;
        let (from, to) = (ends[1 - towards], ends[towards]);
        if !self.network.hears(stream, towards) {
            return;
        }
        if self.network.is_cut(from, to) {
            self.network.hold(stream, towards, *message);
            return;
        }
        if self.plan.parrot == Some(to) {
            self.learn(&message);
        }
        self.forge_receipts(to, from, &message);
        let said = match &*message {
            Message::Records(records) => self.about(records),
            _ => Vec::new(),
        };
        self.trace.mix(&[1, from as u64, to as u64, kind_of(&message)]);
        self.trace.weigh(to, &message);
        if self.trace.is_spoken() && !matches!(*message, Message::Heartbeat) {
            self.trace.say(self.now, || format!("{from} -> {to}: {}", describe(&message)));
        }
        self.note_told(from, to, &message);
        let id = self.hosts[from].id;
        self.feed(to, Input::Message(id, *message));
        self.judge_view(to, &said);
    }

    /// Whom records are about. Those that do not hold are about nobody.
    fn about(&self, records: &[Signed<Record>]) -> Vec<HostId> {
        let fleet = self.trust.fleet();
        let records = records.iter().filter_map(|record| record.verify_host(fleet).ok());
        records.map(|record| record.content().host).collect()
    }

    pub(crate) fn open(&mut self, stream: usize, side: usize) {
        let ends = self.network.streams[stream].ends;
        let (host, peer) = (ends[side], ends[1 - side]);
        if self.hosts[host].node.is_none() || !self.network.open(stream, side) {
            return;
        }
        match self.network.open_at(host, peer) {
            1 => {
                self.trace.mix(&[2, host as u64, peer as u64]);
                self.trace.say(self.now, || format!("host {host}: link to {peer} is up"));
                if self.seeds().all(|seed| !self.hosts[seed].powered) {
                    self.coverage.met(Situation::StartedWithoutSeeds);
                }
                self.feed(host, Input::LinkUp(self.hosts[peer].id));
            }
            _ => self.coverage.met(Situation::SecondConnection),
        }
    }

    pub(crate) fn close(&mut self, stream: usize, side: usize) {
        let ends = self.network.streams[stream].ends;
        let (host, peer) = (ends[side], ends[1 - side]);
        if self.network.close(stream, side)
            && self.hosts[host].node.is_some()
            && self.network.open_at(host, peer) == 0
        {
            self.trace.mix(&[3, host as u64, peer as u64]);
            self.trace.say(self.now, || format!("host {host}: link to {peer} is down"));
            self.feed(host, Input::LinkDown(self.hosts[peer].id));
        }
    }

    /// Both ends lose a stream, each at its own time.
    pub(crate) fn break_stream(&mut self, stream: usize) {
        for side in 0..2 {
            let at = self.now + self.dice.between(0, 2 * SECOND);
            self.queue.plan(at, Event::Close { stream, side });
        }
    }

    /// A host parts with one that was removed. What is only not needed stays open here: links are what
    /// faults are about.
    pub(crate) fn part(&mut self, host: usize, peer: usize) {
        let id = self.hosts[peer].id;
        if self.node(host).is_some_and(|node| node.ledger().is_removed(id)) {
            for stream in self.network.streams_of(host, peer).to_vec() {
                self.break_stream(stream);
            }
        }
    }

    pub(crate) fn fray(&mut self, stream: usize) {
        let [one, other] = self.network.streams[stream].ends;
        let still = |host: usize| self.hosts[host].paused.is_some();
        if self.network.is_troubled(one, other) || still(one) || still(other) {
            self.break_stream(stream);
        }
    }

    pub(crate) fn knock(&mut self, from: usize, life: u32, to: usize) {
        let up = |host: usize| self.hosts[host].node.is_some() && self.hosts[host].paused.is_none();
        let comes = self.hosts[from].life == life && up(from) && up(to);
        if !comes || self.network.is_troubled(from, to) || from == to {
            return;
        }
        let again = self.dice.permille(self.plan.second_connection_permille);
        if self.network.is_connected(from, to) && !again {
            return;
        }
        if !self.admits(to, from) || !self.admits(from, to) {
            return;
        }
        let stream = self.network.connect(from, to);
        for side in 0..2 {
            let at = self.now + self.delay.draw(&mut self.dice);
            self.queue.plan(at, Event::Open { stream, side });
        }
    }

    /// What the gate of a host says of a peer. One whose certificate the voters are to see is handed on.
    pub(crate) fn admits(&mut self, host: usize, peer: usize) -> bool {
        let (id, wall) = (self.hosts[peer].id, self.hosts[host].wall(self.now));
        let (Some(own), Some(theirs)) = (self.node(host), self.node(peer)) else { return false };
        let Some(cert) = self.hosts[peer].disk.cert.clone() else { return false };
        let ledger = own.ledger();
        // Of the others it matters only whether there are any.
        let known = ledger.members().next().into_iter().chain(ledger.member(id));
        let gate = Gate {
            trust: self.trust.clone(),
            electorate: own.electorate().clone(),
            admitted: known.map(|member| (member.host, member.id)).collect(),
            refused: own.refused_members(),
            removed: Some(id).filter(|id| ledger.is_removed(*id)).into_iter().collect(),
        };
        let voter_lists = theirs.electorate().after(0).to_vec();
        let hello = Hello {
            cert: cert.clone(),
            epoch: self.hosts[peer].disk.epoch,
            protocol: PROTOCOL,
            voter_lists,
        };
        let verdict = gate.judge(wall, id, &hello);
        if matches!(verdict, Verdict::AdmitAndApply | Verdict::Pending) {
            self.feed(host, Input::Applicant(cert));
        }
        matches!(verdict, Verdict::Admit | Verdict::AdmitAndApply)
    }
}
