//! What hosts have signed goes other ways: a member says again what it has heard, to whom it was not
//! said, and another brings what was lost with the daemon that said it.

use groundswell_protocol::{rollout::Entry, trust::Outcome, wire::Message};

use crate::{
    coverage::Situation,
    host::Doom,
    plan::{Border, SECOND},
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
        self.queue.plan(self.now + at * SECOND, Event::Carry(entry.clone()));
        self.hosts[host].doomed = Some(Doom { border: Border::AfterSend, skip: 0, down_for });
        self.coverage.met(Situation::DeclinedLate);
        true
    }

    /// Any member may hand in what another one has signed.
    pub(crate) fn carry(&mut self, entry: Entry) {
        let (from, to) = (self.dice.index(self.hosts.len()), self.dice.index(self.plan.voters));
        if from != to && self.hosts[from].node.is_some() {
            self.post(from, to, Message::Submit(Box::new(entry)));
        }
    }
}

/// Of a thousand slots that are given back unused.
const CARRIED_PERMILLE: u64 = 200;
