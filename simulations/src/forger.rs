//! A member with a good certificate makes up what is not for it to say: slots and time that has passed, which
//! only the leader grants and measures; lists of voters, orders and removals under its own key; records and
//! receipts in the name of others; versions that nobody has; bytes that mean nothing.

use groundswell_protocol::{
    fleet::{Record, Version},
    ids::{Digest, HostId, ShortId},
    rollout::{Entry, Grant},
    time::UnixSeconds,
    trust::{
        Action, Document, Order, Receipt, Removal, SecretKey, Signed, Subject, Voter, VoterList,
    },
    wire::{Message, RecordVersion},
};

use crate::{
    coverage::Situation,
    plan::{Forger, Micros, SECOND},
    world::{Event, World},
};

impl World {
    /// It says something that it made up, to one of the others.
    pub(crate) fn forge(&mut self) {
        let Some(Forger { host: forger, insists }) = self.plan.forger else { return };
        if self.healed && !insists {
            return;
        }
        let pause = if insists { INSISTS_WITHIN } else { SECOND };
        self.queue.plan(self.now + self.dice.between(pause / 4, 2 * pause), Event::Forge);
        if self.node(forger).is_none() {
            return;
        }
        if insists {
            let to = (forger + 1) % self.hosts.len();
            if let Some(message) = self.made_up_version(forger) {
                self.coverage.met(Situation::OfferedWhatNobodyHas);
                self.post(forger, to, message);
            }
            return;
        }
        let made_up = match self.dice.index(8) {
            0 => self.made_up_grant(forger),
            1 => self.made_up_time(forger),
            2 => self.made_up_silence(forger),
            3 => self.made_up_voters(forger),
            4 => self.made_up_order(forger),
            5 => self.made_up_record(forger),
            6 => self.made_up_version(forger),
            _ => self.noise(forger),
        };
        let Some(message) = made_up else { return };
        let to = match self.dice.permille(500) {
            true => self.dice.index(self.plan.voters),
            false => self.dice.index(self.hosts.len()),
        };
        if to != forger {
            self.coverage.met(Situation::Forged);
            self.trace.say(self.now, || format!("host {forger} makes something up for {to}"));
            self.post(forger, to, message);
        }
    }

    /// A host asks a voter that makes things up to vouch for a slot: it gets the word of all of them.
    pub(crate) fn forge_receipts(&mut self, forger: usize, to: usize, message: &Message) {
        let Message::WantReceipt { token, nonce } = *message else { return };
        let makes_up = self.plan.forger.is_some_and(|of| of.host == forger && !of.insists);
        if self.healed || !makes_up || self.dice.permille(500) {
            return;
        }
        let (me, host) = (self.hosts[forger].id, self.hosts[to].id);
        let Some(ledger) = self.node(forger).map(|node| node.ledger()) else { return };
        let Some(slot) = ledger.slot_of(host) else { return };
        let (order, release) = (slot.order, slot.release);
        let voters = ledger.electorate().newest();
        let (generation, hosts) = (voters.generation(), voters.hosts().collect::<Vec<_>>());
        for voter in hosts.into_iter().filter(|voter| *voter != me) {
            let subject = Subject::Slot { host, nonce, order, release };
            let entry = Digest([7; 32]);
            let receipt = Receipt { entry, index: token, voter, subject, generation };
            self.coverage.met(Situation::ReceiptsForged);
            let message = Message::Receipt(self.under_own_key(forger, &receipt));
            self.post(forger, to, message);
        }
    }

    fn under_own_key<T: Document>(&self, forger: usize, content: &T) -> Signed<T> {
        let key = SecretKey::from_seed(&self.hosts[forger].seed);
        Signed::new(content, self.trust.fleet(), &[&key]).expect("a key in memory signs")
    }

    fn somebody(&mut self) -> HostId {
        let somebody = self.dice.index(self.hosts.len());
        self.hosts[somebody].id
    }

    /// A slot that may be granted, or one for somebody that waits for none.
    fn made_up_grant(&mut self, forger: usize) -> Option<Message> {
        let host = self.somebody();
        let ledger = self.node(forger)?.ledger();
        let mut next = ledger.next_grants();
        let running = ledger.deployments().into_iter().find(|known| !known.status.is_over());
        let other = running.map(|d| Grant { host, order: d.order, release: d.release });
        Some(Message::Submit(Box::new(Entry::Grant(next.pop().or(other)?))))
    }

    /// A bake, a deadline or a hold-off that is not over.
    fn made_up_time(&mut self, forger: usize) -> Option<Message> {
        let waits = self.node(forger)?.ledger().waits();
        if waits.is_empty() {
            return None;
        }
        let (passed, _) = *self.dice.pick(&waits);
        Some(Message::Submit(Box::new(Entry::Passed(passed))))
    }

    /// Somebody is silent who is not.
    fn made_up_silence(&mut self, forger: usize) -> Option<Message> {
        let host = self.somebody();
        let version = self.node(forger)?.view().get(host).map(Record::version)?;
        Some(Message::Submit(Box::new(Entry::Silent { host, version })))
    }

    /// It is the only voter from now on. Where it is that already, its word is as good as any.
    fn made_up_voters(&mut self, forger: usize) -> Option<Message> {
        let me = self.hosts[forger].id;
        let ledger = self.node(forger)?.ledger();
        let (name, now) = (ledger.member(me)?.name.clone(), ledger.electorate().newest());
        if now.is_voter(me) && now.majority() == 1 {
            return None;
        }
        let voters = vec![Voter { host: me, name }];
        let generation = now.generation() + 1;
        let list = VoterList { base: None, seats: 1, parent: now.id(), voters, generation };
        let signed = self.under_own_key(forger, &list);
        Some(match self.dice.index(3) {
            0 => Message::VoterLists(vec![signed]),
            1 => Message::Submit(Box::new(Entry::Vouch(signed))),
            _ => Message::Submit(Box::new(Entry::NextVoters(list))),
        })
    }

    /// It stops what runs, or removes somebody.
    fn made_up_order(&mut self, forger: usize) -> Option<Message> {
        let host = self.somebody();
        let ledger = self.node(forger)?.ledger();
        if self.dice.clone().permille(300) {
            let name = ledger.member(host)?.name.clone();
            let issued_at = UnixSeconds(0);
            let removal = Removal { host, name, reason: String::new(), issued_at };
            return Some(Message::Submit(Box::new(Entry::Remove(
                self.under_own_key(forger, &removal),
            ))));
        }
        let running = ledger.deployments().into_iter().find(|known| !known.status.is_over())?;
        let (sequence, parent) = ledger.head(&running.group);
        let order = Order {
            group: running.group.clone(),
            action: Action::Stop { order: running.order, rollback: false },
            parent,
            reason: String::new(),
            sequence: sequence + 1,
            issued_at: UnixSeconds(0),
            not_after: None,
        };
        let signed = self.under_own_key(forger, &order);
        Some(match self.dice.permille(500) {
            true => Message::Stop(signed),
            false => Message::Submit(Box::new(Entry::Order(signed))),
        })
    }

    /// What somebody else says of itself.
    fn made_up_record(&mut self, forger: usize) -> Option<Message> {
        let host = self.somebody();
        let known = self.node(forger)?.view().get(host)?.clone();
        let record =
            Record { sequence: known.sequence + 1, groups: Vec::new(), leaving: true, ..known };
        (host != self.hosts[forger].id)
            .then(|| Message::Records(vec![self.under_own_key(forger, &record)]))
    }

    /// It has records of everybody that are newer than all others.
    fn made_up_version(&mut self, forger: usize) -> Option<Message> {
        let node = self.node(forger)?;
        let far = |version: Version| version.epoch + self.plan.seed % 1000 + 1;
        let offers = node.view().iter().map(|record| {
            RecordVersion(ShortId::of(record.host), far(record.version()), record.sequence)
        });
        Some(Message::Offer(offers.collect()))
    }

    /// Bytes in the place of what voters say to each other. From a voter itself they could mean anything: what
    /// it says means nothing.
    fn noise(&mut self, forger: usize) -> Option<Message> {
        let is_voter = self.truth.ledger.electorate().newest().is_voter(self.hosts[forger].id);
        let heard = self.memory.iter().find_map(|(message, _)| match message {
            Message::Consensus(bytes) => Some(bytes.clone()),
            _ => None,
        });
        let bytes = match heard.filter(|bytes| bytes.len() > 1 && self.dice.permille(700)) {
            Some(mut bytes) => {
                let cut = self.dice.index(bytes.len() - 1) + 1;
                bytes.truncate(cut);
                if !is_voter {
                    bytes[cut - 1] ^= 1 << self.dice.index(8);
                }
                bytes
            }
            None => {
                (0..self.dice.index(300)).map(|_| self.dice.number().to_be_bytes()[0]).collect()
            }
        };
        Some(Message::Consensus(bytes))
    }
}

/// An offer of what nobody has comes before the last one was given up.
const INSISTS_WITHIN: Micros = SECOND / 10;
