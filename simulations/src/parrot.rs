//! A member that says again what it has heard, to whom it was not said.

use groundswell_protocol::{rollout::Entry, wire::Message};

use crate::{
    coverage::Situation,
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
}
