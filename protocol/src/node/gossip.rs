//! Records in and out: this host's own, and those of all others on their way through it.

use std::time::Duration;

use super::{Node, Output};
use crate::{
    consensus::Write,
    fleet::{
        Accusation, Ears, GroupStatus, Held, HostState, Inserted, Number, Record, RecordRefused,
        Say, Spread, Stall, Standing, Statement, TreeNode, Verdicts, Version, progress_after,
    },
    ids::HostId,
    limits::RECORD_REFRESH_EVERY,
    sabotage::{Defect, planted},
    time::Mono,
    trust::Signed,
    wire::{Message, RecordBucket, RecordVersion, TreeHash},
};

/// Everything about records that is not a record.
pub(super) struct Gossip {
    pub(super) spread: Spread,
    pub(super) ears: Ears,
    pub(super) verdicts: Verdicts,
    next_listening_at: Mono,
    next_refutation_at: Mono,
    /// When the own record is signed again though nothing has changed.
    next_refresh_at: Mono,
    /// When the own record is signed again for mere progress.
    next_progress_at: Mono,
    /// From when on the first own record is awaited.
    started_at: Mono,
    /// Another record of this host came under the number of the last one.
    is_forked: bool,
}

impl Gossip {
    pub(super) fn new(now: Mono, seed: u64) -> Self {
        Self {
            spread: Spread::new(now, seed),
            ears: Ears::new(now),
            verdicts: Verdicts::new(),
            next_listening_at: now,
            next_refutation_at: now,
            next_refresh_at: now,
            next_progress_at: now,
            started_at: now,
            is_forked: false,
        }
    }
}

impl Node {
    /// Time passes for records and for those who listen. True if verdicts were looked at.
    pub(super) fn tend_gossip(&mut self) -> bool {
        let listens = self.now >= self.gossip.next_listening_at;
        if listens {
            self.gossip.next_listening_at = self.now + LISTEN_EVERY;
            self.gossip.ears.tick(self.now, &self.view.roster, self.view.me());
            self.gossip.verdicts.tick(self.now, &self.view.roster, &self.view.records);
            self.tend_overlay();
        }
        let mut letters = Vec::new();
        let view = &mut self.view;
        self.gossip.spread.tick(self.now, &view.roster, &mut view.records, &mut letters);
        self.post(letters);
        listens
    }

    /// Brings the roster up to what the ledger says.
    pub(super) fn sync_roster(&mut self) {
        let roster = &mut self.view.roster;
        let ledger = &self.ledger;
        for host in std::mem::take(&mut self.newcomers) {
            if let Some(member) = ledger.member(host) {
                roster.seat(member.host, member.zone);
            }
        }
        // Whoever went is found by looking at everybody, which takes a while in a large fleet.
        let is_full = roster.members() == ledger.member_count();
        if !std::mem::take(&mut self.is_roster_stale) && is_full {
            return self.note_roster();
        }
        let gone: Vec<_> = roster
            .iter()
            .map(|number| roster.host(number))
            .filter(|host| !ledger.is_member(*host))
            .collect();
        gone.into_iter().for_each(|host| roster.unseat(host));
        for member in ledger.members() {
            roster.seat(member.host, member.zone);
        }
        self.forget_removed();
        self.note_roster();
    }

    /// Of removed hosts nothing is kept: whoever came later would never take it, and two that compare would
    /// find that they differ for ever.
    fn forget_removed(&mut self) {
        let (ledger, voters) = (&self.ledger, self.electorate.newest());
        let is_needed = |host| host == self.me || voters.is_voter(host);
        let is_out = |host: HostId| ledger.is_removed(host) && !is_needed(host);
        let view = &mut self.view;
        let out: Vec<_> =
            view.iter().map(|record| record.host).filter(|host| is_out(*host)).collect();
        for number in out.iter().filter_map(|host| view.roster.number(*host)) {
            view.records.forget(&view.roster, number);
        }
        // Of some only the address was left, from before a restart.
        let out: Vec<_> = self.links.known().filter(|host| is_out(*host)).collect();
        out.iter().for_each(|host| self.links.forget(*host));
        self.out.extend(out.into_iter().map(|host| Output::Known(host, Vec::new())));
    }

    fn note_roster(&mut self) {
        self.gossip.verdicts.roster_changed();
        // Records that were refused for want of a roster are here at the next comparison.
        self.gossip.spread.compare_soon(self.now);
    }

    /// Takes in records and passes on those that are new.
    pub(super) fn records(&mut self, from: HostId, records: &[Signed<Record>]) {
        let mut letters = Vec::new();
        for record in records {
            let (ledger, voters) = (&self.ledger, self.electorate.newest());
            let is_member =
                |host: HostId| ledger.is_member(host) || voters.is_voter(host) || host == from;
            match self.view.verify(self.now, record, is_member) {
                Ok((number, held)) => {
                    let here = self.view.records.get(number);
                    let is_fork = here.is_some_and(|here| here.is_fork_of(&held));
                    self.gossip.is_forked |= is_fork && number == self.view.me();
                    self.put_record(number, held, Some(from));
                }
                // The ledger here may be behind; a later comparison brings the record again.
                Err(RecordRefused::NoMember(_)) => {}
                Err(error) => {
                    let peer = self.name_of(from);
                    self.out.push(Output::Note(format!("record from {peer} refused: {error}")));
                }
            }
        }
        self.gossip.spread.pass_on(&self.view.records, &mut letters);
        if let Some(from) = self.view.roster.number(from) {
            self.gossip.spread.ask_more(self.now, from, &mut letters);
        }
        self.post(letters);
    }

    /// Keeps a record that was verified, if it is new, and lets everybody here know. It is urgent if it
    /// tells what others wait for: one of the first accusations of a host, the answer to one, or a
    /// failure. Everybody judges that for himself.
    fn put_record(&mut self, number: Number, held: Held, from: Option<HostId>) -> Inserted {
        let from = from.and_then(|from| self.view.roster.number(from));
        let view = &mut self.view;
        // What is urgent comes by many links, and matters once.
        if view.records.judge(number, held.version()) != Inserted::New {
            let (roster, records) = (&view.roster, &mut view.records);
            return self.gossip.spread.put(self.now, roster, records, number, held, from, false);
        }
        let record = held.record();
        let before = self.view.records.get(number).map(Held::record);
        let restarted = before.is_none_or(|before| before.epoch != record.epoch);
        let moved = before.is_none_or(|before| before.addresses != record.addresses);
        let accused = self.accused_in(record);
        let leaves = record.leaving;
        let urgent = self.gossip.verdicts.is_awaited(&self.view.records, number, &accused)
            || failures(record) > before.map_or(0, failures)
            || leaves && before.is_none_or(|before| !before.leaving);
        let view = &mut self.view;
        let (roster, records) = (&view.roster, &mut view.records);
        let inserted =
            self.gossip.spread.put(self.now, roster, records, number, held.clone(), from, urgent);
        self.gossip.ears.hear_of(self.now, number, restarted, leaves);
        self.gossip.verdicts.record(number, accused, leaves && !planted(Defect::LastWordUnheard));
        if moved {
            self.learn_addresses(held.record());
        }
        inserted
    }

    /// Whom a record accuses, of those that are known here.
    fn accused_in(&self, record: &Record) -> Vec<(Number, Version)> {
        let accused = record.accused.iter().filter_map(|accusation| {
            let Accusation { host, epoch, sequence } = *accusation;
            Some((self.view.roster.number(host)?, Version { epoch, sequence }))
        });
        accused.collect()
    }

    /// Signs a new record if anything that it says has changed, and spreads it. Progress alone waits until
    /// the fleet can bear to hear of it.
    pub(super) fn publish_record(&mut self) {
        let me = self.view.me();
        if self.record.is_none() && self.is_finding_out() || !self.is_above_own_record() {
            return;
        }
        let accused = self.accused();
        let is_muted = self.is_muted();
        let unsteady = self.fitness.is_unsteady(self.now, is_muted);
        let doubled = self.fitness.is_doubled(self.now);
        let gossip = &self.gossip;
        // Who counts as unhealthy is well again by a new word of its own alone.
        let last = self.record.as_ref().map(Record::version);
        let is_unheard =
            self.ledger.silent_since(self.me).is_some_and(|silent| last <= Some(silent));
        let refute = self.now >= gossip.next_refutation_at
            && !self.is_leaving
            && (is_unheard || gossip.verdicts.is_accused(&self.view.records, me));
        // Version and addresses are those that the daemon was started with.
        let tells_progress = self.now >= gossip.next_progress_at;
        let says_more = |(status, last): (&GroupStatus, &GroupStatus)| {
            status != last && (tells_progress || !status.is_further_than(last))
        };
        let is_said = |last: &Record| {
            let mut both = self.rollouts.statuses().zip(&last.groups);
            last.accused == accused
                && (last.unsteady, last.doubled) == (unsteady, doubled)
                && last.leaving == self.is_leaving
                && last.groups.len() == self.rollouts.statuses().count()
                && !both.any(says_more)
        };
        let fresh = self.now < gossip.next_refresh_at;
        if self.record.as_ref().is_some_and(is_said) && !refute && fresh {
            return;
        }
        if refute {
            self.gossip.next_refutation_at = self.now + REFUTE_EVERY;
        }
        let record = Record {
            host: self.me,
            epoch: self.epoch,
            groups: self.rollouts.statuses().cloned().collect(),
            accused,
            version: self.version.clone(),
            sequence: self.record.as_ref().map_or(0, |last| last.sequence) + 1,
            unsteady,
            doubled,
            leaving: self.is_leaving,
            addresses: self.addresses.clone(),
            signed_at: self.wall,
        };
        self.gossip.next_refresh_at = self.now + refresh_after(self.me, record.sequence);
        self.gossip.next_progress_at = self.now + progress_after(self.view.roster.members());
        let Some(signed) = self.sign(&record) else { return };
        let host = self.me;
        let mut letters = Vec::new();
        match self.view.verify(self.now, &signed, |other| other == host) {
            Ok((number, held)) => {
                self.put_record(number, held, None);
                self.gossip.spread.pass_on(&self.view.records, &mut letters);
                self.record = Some(record);
            }
            Err(error) => self.out.push(Output::Note(format!("own record refused: {error}"))),
        }
        self.post(letters);
    }

    /// True for the moment that it takes a host that was started to know what it runs.
    fn is_finding_out(&self) -> bool {
        let awaited = match (self.rollouts.has_executor(), self.is_catching_up()) {
            (true, false) => return false,
            (true, true) => LOG_AWAITED_MAX,
            (false, _) => EXECUTOR_AWAITED_MAX,
        };
        self.now.since(self.gossip.started_at) < awaited
    }

    /// Where a record of this host is about that is newer than its last one, its disk was put back, and
    /// it has forgotten. It goes on above. Two hosts with one key do so in turn, and not too often.
    fn is_above_own_record(&mut self) -> bool {
        let Some(known) = self.newest_of_own() else { return true };
        if self.is_heard() && !self.gossip.is_forked || planted(Defect::OwnRecordNotMet) {
            return true;
        }
        if self.now < self.gossip.next_refutation_at {
            return false;
        }
        self.gossip.next_refutation_at = self.now + REFUTE_EVERY;
        self.epoch = known.epoch.max(self.epoch).saturating_add(1);
        self.record = None;
        self.gossip.is_forked = false;
        self.fitness.met_itself(self.now);
        let write = Write { epoch: Some(self.epoch), ..Write::default() };
        self.out.push(Output::Persist(write));
        let note = match self.fitness.is_doubled(self.now) {
            true => "a second machine speaks with this host's key: see `swell hosts`",
            false => "a record of this host is newer than what it remembers: its disk was put back",
        };
        self.out.push(Output::Note(note.into()));
        true
    }

    /// What this host was asked to write down became durable after so long.
    pub fn wrote(&mut self, took: Duration) {
        self.fitness.wrote(took);
    }

    /// True if nothing newer is known of this host than what it says itself.
    pub fn is_heard(&self) -> bool {
        let sequence = self.record.as_ref().map_or(0, |record| record.sequence);
        self.newest_of_own() <= Some(Version { epoch: self.epoch, sequence })
    }

    /// The newest record of this host that anybody tells of: the ledger may name one that is nowhere any more.
    fn newest_of_own(&self) -> Option<Version> {
        let known = self.view.records.version(self.view.me());
        known.max(self.ledger.silent_since(self.me))
    }

    /// The silent hosts, as the own record names them. One of which nothing was ever heard cannot be
    /// accused: there is nothing that it could refute. Of one that has said that it goes all know it.
    fn accused(&self) -> Vec<Accusation> {
        let view = &self.view;
        let silent = self.gossip.ears.accused(&view.roster).iter();
        let silent = silent.filter(|number| {
            let record = view.records.get(**number).map(Held::record);
            record.is_none_or(|record| !record.leaving)
        });
        let mut accused: Vec<_> = silent
            .filter_map(|number| {
                let Version { epoch, sequence } = view.records.version(*number)?;
                Some(Accusation { host: view.roster.host(*number), epoch, sequence })
            })
            .collect();
        accused.sort();
        accused.truncate(crate::limits::ACCUSATIONS_MAX);
        accused
    }

    /// True if a host's last word is that its daemon stops.
    pub fn has_left(&self, host: HostId) -> bool {
        self.view.get(host).is_some_and(|record| record.leaving)
    }

    /// The daemon is about to stop: the others are told, and somebody else leads.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
        self.hand_over_at_once();
        self.publish_record();
    }

    /// True while this host accuses nobody, since the fault is likely its own ([`Ears::is_muted`]).
    pub fn is_muted(&self) -> bool {
        self.gossip.ears.is_muted(&self.view.roster)
    }

    /// Takes in what a peer says about records.
    pub(super) fn hear_say(&mut self, from: HostId, said: Say<Held>) {
        let Some(from) = self.view.roster.number(from) else { return };
        let mut letters = Vec::new();
        let view = &mut self.view;
        let (roster, records) = (&view.roster, &mut view.records);
        self.gossip.spread.hear(self.now, roster, records, from, said, &mut letters);
        self.post(letters);
    }

    /// Reads what a peer says about records. Hosts that are not known here are left out.
    pub(super) fn read_say(&self, message: &Message) -> Option<Say<Held>> {
        let roster = &self.view.roster;
        let read = |list: &[RecordVersion]| -> Vec<_> {
            let versions = list.iter().filter_map(|RecordVersion(short, epoch, sequence)| {
                let version = Version { epoch: *epoch, sequence: *sequence };
                Some((roster.by_short(*short)?, version))
            });
            versions.collect()
        };
        Some(match message {
            Message::Offer(versions) => Say::Offer(read(versions)),
            Message::WantRecords(hosts) => {
                Say::Ask(hosts.iter().filter_map(|short| roster.by_short(*short)).collect())
            }
            Message::RecordTree(nodes) => {
                let nodes = nodes
                    .iter()
                    .map(|TreeHash(place, hash)| TreeNode { place: *place, hash: *hash });
                Say::Nodes(nodes.collect())
            }
            Message::RecordBuckets(buckets) => {
                let buckets =
                    buckets.iter().map(|RecordBucket(bucket, list)| (*bucket, read(list)));
                Say::Buckets(buckets.collect())
            }
            _ => return None,
        })
    }

    /// Sends what the state machine says, in the words of the wire.
    pub(super) fn post(&mut self, letters: Vec<(Number, Say<Held>)>) {
        for (to, said) in letters {
            let roster = &self.view.roster;
            let write = |list: Vec<(Number, Version)>| -> Vec<_> {
                let versions = list.into_iter().map(|(number, version)| {
                    RecordVersion(roster.short(number), version.epoch, version.sequence)
                });
                versions.collect()
            };
            let message = match said {
                Say::Offer(versions) => Message::Offer(write(versions)),
                Say::Ask(hosts) => {
                    Message::WantRecords(hosts.into_iter().map(|host| roster.short(host)).collect())
                }
                Say::Give(records) => Message::Records(
                    records.into_iter().map(|(_, held)| held.signed().clone()).collect(),
                ),
                Say::Nodes(nodes) => Message::RecordTree(
                    nodes.into_iter().map(|node| TreeHash(node.place, node.hash)).collect(),
                ),
                Say::Buckets(buckets) => Message::RecordBuckets(
                    buckets
                        .into_iter()
                        .map(|(bucket, list)| RecordBucket(bucket, write(list)))
                        .collect(),
                ),
            };
            let to = self.view.roster.host(to);
            self.send(to, message);
        }
    }

    /// How a host stands, by everybody's records.
    pub fn standing(&self, host: HostId) -> Standing {
        if host == self.me {
            return Standing::Reachable;
        }
        match self.view.roster.number(host) {
            Some(number) if self.view.records.get(number).is_some() => {
                self.gossip.verdicts.standing(self.now, number)
            }
            _ => Standing::Unknown,
        }
    }

    /// Why somebody has to look after a host that is waited for, and has said the same for so long.
    pub fn stall(&self, host: HostId, same_for: Duration) -> Option<Stall> {
        let silent_for = self.heard_ago(host).filter(|_| host != self.me).unwrap_or_default();
        Stall::of(self.view.roster.members(), silent_for, same_for)
    }

    /// How long ago anything was heard of another host. Of a neighbour that is known here; of others their
    /// neighbours know it, and whom none of them finds silent is heard just now, however old its record is.
    pub fn heard_ago(&self, host: HostId) -> Option<Duration> {
        let record = self.view.heard(host)?;
        let number = self.view.roster.number(host)?;
        let heard =
            self.gossip.ears.last_heard(number).unwrap_or_else(|| match self.standing(host) {
                Standing::Suspect { since } | Standing::Unreachable { since } => since,
                // Whoever is cut off hears nobody say that anybody is silent.
                _ if self.is_muted() => record,
                Standing::Reachable | Standing::Unknown => self.now,
            });
        Some(self.now.since(heard.max(record)))
    }
}

/// When a host signs its record again at the latest: differently each time and on each host, so that
/// those of a fleet that was started at once spread out.
fn refresh_after(host: HostId, sequence: u64) -> Duration {
    let number = sequence.to_be_bytes();
    let draw = crate::ids::Digest::of(crate::ids::HashDomain::Records, &[&host.0, &number]).0[0];
    RECORD_REFRESH_EVERY / 2 + RECORD_REFRESH_EVERY * u32::from(draw) / u32::from(u8::MAX)
}

/// How many groups a host has failed in, as it says.
fn failures(record: &Record) -> usize {
    record.groups.iter().filter(|group| group.state == HostState::Failed).count()
}

/// A host that was started says in one record that it is back and what it runs, if its executor answers
/// within this, and if a voter has applied its log again within the next.
const EXECUTOR_AWAITED_MAX: Duration = Duration::from_secs(1);
/// Where nobody leads it takes an election, which may be split once.
const LOG_AWAITED_MAX: Duration = Duration::from_secs(4);
/// A member that accuses whatever it hears makes others answer this often, and no oftener.
const REFUTE_EVERY: Duration = Duration::from_secs(1);
const LISTEN_EVERY: Duration = Duration::from_millis(250);
