//! What hosts have signed goes other ways: a member says again what it has heard, to whom it was not
//! said, and another brings what was lost with the daemon that said it.

use groundswell_protocol::{
    fleet::{Accusation, Record},
    limits::ACCUSATIONS_MAX,
    rollout::Entry,
    time::UnixSeconds,
    trust::{Outcome, SecretKey, Signed},
    wire::Message,
};

use crate::{
    coverage::Situation,
    host::{Doom, Host},
    plan::{Border, Micros, SECOND},
    world::{Event, World},
};

impl World {
    pub(crate) fn learn(&mut self, message: &Message) {
        let worth = matches!(
            message,
            Message::Submit { .. }
                | Message::Records(_)
                | Message::Stop(_)
                | Message::Receipt(_)
                | Message::Consensus(_)
        );
        let late = matches!(message, Message::Submit { .. });
        let room = if late { 400 } else { 100 };
        if worth && self.memory.len() < room && self.dice.permille(300) {
            self.memory.push((message.clone(), late));
        }
    }

    pub(crate) fn parrot(&mut self) {
        let Some(parrot) = self.plan.parrot.filter(|_| !self.healed) else { return };
        let at = self.now + self.dice.between(50_000, 800_000);
        self.queue.plan(at, Event::Parrot);
        if self.memory.is_empty() || self.hosts[parrot].node.is_none() {
            return;
        }
        // Submissions matter most: half of what it says again is one.
        let submissions: Vec<_> =
            (0..self.memory.len()).filter(|index| self.memory[*index].1).collect();
        let index = match submissions.is_empty() || self.dice.permille(500) {
            true => self.dice.index(self.memory.len()),
            false => *self.dice.pick(&submissions),
        };
        let message = self.memory[index].0.clone();
        if let Message::Submit(entry) = &message {
            match **entry {
                Entry::Done(_) => self.coverage.met(Situation::ReplayedDone),
                Entry::Order(_) => self.coverage.met(Situation::ReplayedOrder),
                _ => {}
            }
        }
        let to = match self.dice.permille(500) {
            true => self.dice.index(self.plan.voters),
            false => self.dice.index(self.hosts.len()),
        };
        if to != parrot {
            self.post(parrot, to, message);
        }
    }

    /// Whoever has stolen a host's key says in its name, again and again, that it hears nobody. The host
    /// itself may go on as well: then two speak under one name.
    pub(crate) fn impostor(&mut self, host: usize, until: Micros) {
        if self.healed || self.now >= until {
            return;
        }
        let at = self.now + self.dice.between(200_000, 3 * SECOND);
        self.queue.plan(at, Event::Impostor { host, until });
        let Host { id, seed, node: Some(node), forged, .. } = &mut self.hosts[host] else {
            return;
        };
        *forged += 1;
        let accuse = |record: &Record| Accusation {
            host: record.host,
            epoch: record.epoch,
            sequence: record.sequence,
        };
        let mut accused: Vec<_> =
            node.view().iter().filter(|record| record.host != *id).map(accuse).collect();
        accused.sort();
        accused.truncate(ACCUSATIONS_MAX);
        let record = Record {
            host: *id,
            // Far above the last one, and above the host, which goes on from there: no two say the same.
            epoch: *forged * FORGED_EPOCHS_APART,
            groups: Vec::new(),
            accused,
            version: "forged".into(),
            unsteady: false,
            doubled: false,
            leaving: false,
            sequence: 1,
            addresses: vec![format!("host {host}")],
            signed_at: UnixSeconds(0),
        };
        let key = SecretKey::from_seed(seed);
        let signed = Signed::new(&record, self.trust.fleet(), &[&key]).expect("a record is signed");
        let to = self.dice.index(self.hosts.len());
        if to != host {
            self.post(host, to, Message::Records(vec![signed]));
        }
    }

    /// True if the word that a host will not use its slot is on its way for long, and the daemon that
    /// has said it is started again meanwhile, and remembers nothing of it.
    pub(crate) fn takes_another_way(&mut self, host: usize, message: &Message) -> bool {
        let Message::Submit(entry) = message else { return false };
        let Entry::Done(done) = &**entry else { return false };
        let done = done.verify_host(self.trust.fleet());
        let declines =
            done.is_ok_and(|done| matches!(done.content().outcome, Outcome::Declined { .. }));
        if !declines || self.healed || !self.dice.permille(CARRIED_PERMILLE) {
            return false;
        }
        let (at, down_for) = (self.dice.between(2, 10), self.dice.between(200_000, SECOND));
        match self.dice.permille(500) {
            true => self.hosts[host].word = Some(entry.clone()),
            false => self.queue.plan(self.now + at * SECOND, Event::Carry(entry.clone())),
        }
        self.hosts[host].doomed = Some(Doom { border: Border::AfterSend, skip: 0, down_for });
        self.coverage.met(Situation::DeclinedLate);
        true
    }

    /// The worst moment for the word that a host will not use its slot: it has just begun.
    pub(crate) fn bring_word(&mut self, host: usize) {
        if let Some(entry) = self.hosts[host].word.take() {
            self.queue.plan(self.now, Event::Carry(entry));
        }
    }

    /// Any member may hand in what another one has signed.
    pub(crate) fn carry(&mut self, entry: Entry) {
        let (from, to) = (self.dice.index(self.hosts.len()), self.dice.index(self.plan.voters));
        if from != to && self.hosts[from].node.is_some() {
            self.post(from, to, Message::Submit(Box::new(entry)));
        }
    }
}

/// More than the starts of any daemon.
const FORGED_EPOCHS_APART: u64 = 1 << 20;
/// Of a thousand slots that are given back unused.
const CARRIED_PERMILLE: u64 = 500;
