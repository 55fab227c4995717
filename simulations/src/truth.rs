//! What is really so, and the promises that are held against it after every event.
//!
//! The truth is kept by the simulator from what it sees itself: entries on disks, documents on the
//! wire, steps of executors. Where a rule of the ledger is judged, it is judged by a second reading of
//! the rule in this file, never by the code that is under test.
//!
//! | checked | what |
//! |---|---|
//! | S1 | hosts that are really disturbed, per group, against the quota when the last of them was granted |
//! | S2 | every grant against holders, unhealthy and broken hosts of every group of the host |
//! | S3 | a host begins only with a slot that is its own, held now, for that very release |
//! | S4 | tokens rise; a host holds one slot at most |
//! | S5, S7 | slots change by a grant, by the holder's return of that very token, by replacement, and by nothing else; a host whose slot is freed is not being disturbed |
//! | S6 | no voter vouches for two entries at one index |
//! | S9 | orders of a group form one chain |
//! | S11 | an entry that was applied is old news when it comes again |
//! | R1 to R3 | the failure budget; nothing begins after a stop; no rollback of a rollback |
//! | C1, C3 | one leader in a term of a generation, and it has all that is committed |
//! | C2, C4, C6 | what one host applied at an index all do; equal prefixes are equal states |
//! | C5 | what is committed is on the disks of a majority of those who vote then |
//! | C7 | term, vote and applied index never go back in a generation |
//! | C9 | voters change one at a time, and never become fewer |
//! | F1 | records never go back; one version of a record has one content |
//! | F3, F7 | queues and views are bounded; nothing panics |
//! | L1, L3 to L6, L9 | after everything is mended: one leader, equal ledgers, equal views, nobody called unreachable, deployments over, slots given back, and a last deployment that reaches all |
//!
//! Pending, since the protocol does not have the thing yet: S8 (census), S10 beyond what the executor
//! model does, S12 (spanning groups), C8, C10 and C11 (generations by order, lost disks), F2, F5,
//! F6 (unit-tested elsewhere), L2 (overlay), L7, L8.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use groundswell_protocol::{
    consensus::LogEntry,
    ids::{DeploymentId, Digest, GroupName, HostId, Labels},
    rollout::{Creator, DeploymentStatus, Entry, Ledger, MinimumHealthy, Stamped, TargetStatus},
    trust::{Action, Outcome, Receipt, Trust, Voters},
};

use crate::coverage::Situation;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its short name.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

type Checked = Result<(), Violation>;

fn unless(good: bool, promise: &'static str, what: impl FnOnce() -> String) -> Checked {
    if good { Ok(()) } else { Err(Violation { promise, what: what() }) }
}

/// The truth of a fleet.
pub struct Truth {
    trust: Arc<Trust>,
    /// The ledger as the first host applied it.
    pub ledger: Ledger,
    /// Its entries; empty where a leader marked its term.
    pub log: Vec<LogEntry>,
    /// For each entry of the log, generation and term of the newest leader when it was known to be
    /// committed.
    committed_in: Vec<(u64, u64)>,
    hashes: BTreeMap<u64, Digest>,
    /// A second reading of the ledger.
    rules: Rules,
    /// Who is being disturbed, and by which slot.
    disturbed: BTreeMap<HostId, u64>,
    /// Who was left without a working revision.
    broken: BTreeSet<(GroupName, HostId)>,
    /// What voters vouched for.
    receipts: BTreeMap<(u64, HostId), Digest>,
    /// The same, by slot and generation.
    vouched: BTreeSet<(u64, u64, HostId)>,
    /// By generation and term.
    leaders: BTreeMap<(u64, u64), HostId>,
    records: BTreeMap<(HostId, u64, u64), Digest>,
    met: Vec<Situation>,
}

/// The ledger's rules, read once more and kept as simple as can be.
#[derive(Default)]
struct Rules {
    members: BTreeMap<HostId, Labels>,
    names: BTreeMap<String, HostId>,
    groups: BTreeMap<GroupName, GroupRules>,
    slots: BTreeMap<HostId, u64>,
    unhealthy: BTreeSet<HostId>,
    broken: BTreeSet<(GroupName, HostId)>,
    grants: BTreeMap<u64, Granted>,
    stopped: BTreeSet<Digest>,
    last_token: u64,
    deployments: BTreeMap<DeploymentId, Tally>,
}

#[derive(Clone)]
struct GroupRules {
    filter: Labels,
    configuration: MinimumHealthy,
    sequence: u64,
    head: Digest,
    /// The order of the running deployment, and its configuration.
    running: Option<(Digest, MinimumHealthy)>,
}

/// A deployment as it was counted from returns of slots.
struct Tally {
    targets: BTreeSet<HostId>,
    configuration: MinimumHealthy,
    /// It brings back those hosts that took a release, which may be fewer than the floor.
    goes_back: bool,
    busy: BTreeSet<HostId>,
    failed: BTreeSet<HostId>,
    succeeded: BTreeSet<HostId>,
    is_over: bool,
}

impl Tally {
    /// How many of its hosts must stay well. Where a rollback is for no more hosts than that, the
    /// group's own quota is all that bounds it, and that is S1 and S2.
    fn floor(&self) -> usize {
        let hosts = self.targets.len();
        let floor = minimum(self.configuration, hosts);
        if self.goes_back && floor >= hosts { 0 } else { floor }
    }
}

/// A slot when it was granted.
#[derive(Clone)]
struct Granted {
    host: HostId,
    release: Digest,
    deployment: DeploymentId,
    group: GroupName,
    /// The host's groups then: their quotas and their hosts.
    groups: Vec<(GroupName, usize, BTreeSet<HostId>)>,
    /// Those of them in which it was down for certain, so that nobody asked for room.
    excused: BTreeSet<GroupName>,
}

impl Truth {
    /// Nothing has happened.
    pub fn new(trust: Arc<Trust>) -> Self {
        Self {
            ledger: Ledger::new(trust.clone()),
            trust,
            log: Vec::new(),
            committed_in: Vec::new(),
            hashes: BTreeMap::new(),
            rules: Rules::default(),
            disturbed: BTreeMap::new(),
            broken: BTreeSet::new(),
            receipts: BTreeMap::new(),
            vouched: BTreeSet::new(),
            leaders: BTreeMap::new(),
            records: BTreeMap::new(),
            met: Vec::new(),
        }
    }

    /// The last index that anybody has applied.
    pub fn applied(&self) -> u64 {
        self.log.len() as u64
    }

    /// The entry at an index, if it is committed.
    pub fn entry(&self, index: u64) -> Option<&LogEntry> {
        self.log.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// The state's name at an index, where it was taken.
    pub fn hash_at(&self, index: u64) -> Option<Digest> {
        self.hashes.get(&index).copied()
    }

    /// A host applied an entry. The first to do so makes it true.
    pub fn applied_by(
        &mut self,
        entry: &LogEntry,
        copies: impl FnOnce() -> (usize, usize),
    ) -> Checked {
        if let Some(known) = self.entry(entry.index) {
            return unless(known.data == entry.data, "C2", || {
                format!("two different entries were applied at index {}", entry.index)
            });
        }
        unless(entry.index == self.applied() + 1, "C2", || {
            format!("index {} is applied after {}", entry.index, self.applied())
        })?;
        let (have, need) = copies();
        unless(have >= need, "C5", || {
            format!("index {} is applied and on {have} of {need} voters' disks", entry.index)
        })?;
        self.log.push(entry.clone());
        self.committed_in.push(self.leaders.keys().next_back().copied().unwrap_or_default());
        self.commit(entry)?;
        self.hashes.insert(entry.index, self.ledger.state_hash());
        Ok(())
    }

    /// Carries an entry out, by the ledger and by the second reading, and compares.
    fn commit(&mut self, entry: &LogEntry) -> Checked {
        let Ok(stamped) = Stamped::from_bytes(&entry.data) else {
            self.ledger.skip(entry.index);
            return Ok(());
        };
        let grants_to = match &stamped.entry {
            Entry::Grant(grant) => self.ledger.slot_of(grant.host).map(|slot| slot.token),
            _ => None,
        };
        let hash = Stamped::hash(&entry.data);
        let before = self.ledger.electorate().newest().clone();
        let changed = self.ledger.apply(entry.index, hash, &stamped).unwrap_or(false);
        self.rules.apply(&self.trust, &self.ledger, entry.index, &stamped.entry, changed)?;
        self.rules.sync(&self.ledger, entry.index)?;
        self.voters_follow(&before)?;
        if changed {
            self.note(&stamped.entry);
        }
        if changed && grants_to.is_some() {
            return unless(false, "S4", || "a host with a slot got another one".into());
        }
        if changed {
            let again = self.ledger.check(stamped.at, &stamped.entry);
            let is_change = matches!(again, Ok(groundswell_protocol::rollout::Effect::Change));
            unless(!is_change, "S11", || {
                format!("entry {} would change the ledger a second time", entry.index)
            })?;
        }
        self.slots_are_theirs()
    }

    /// Voters change one at a time and never become fewer.
    fn voters_follow(&mut self, before: &Voters) -> Checked {
        let now = self.ledger.electorate().newest();
        if now == before {
            return Ok(());
        }
        let stay = now.hosts().filter(|host| before.is_voter(*host)).count();
        let (old, new) = (before.list().len(), now.list().len());
        let one_by_one = stay + 1 >= old && stay + 1 == new && new >= old;
        let counts_up = now.generation() == before.generation() + 1;
        self.met.push(Situation::VoterReplaced);
        unless(one_by_one && counts_up, "C9", || {
            format!("of {old} voters {stay} stay, and there are {new}")
        })
    }

    /// Notes what an entry that changed the ledger was an example of.
    fn note(&mut self, entry: &Entry) {
        let met = &mut self.met;
        match entry {
            Entry::Grant(grant) => {
                let token = self.rules.slots.get(&grant.host).copied().unwrap_or(0);
                let Some(granted) = self.rules.grants.get(&token) else { return };
                if granted.groups.len() > 1 {
                    met.push(Situation::TwoGroupsOneHost);
                }
                for (group, quota, members) in &granted.groups {
                    let down = members.iter().filter(|h| self.rules.is_down(group, **h)).count();
                    if down == *quota {
                        met.push(Situation::QuotaReached);
                    } else if down > *quota {
                        met.push(Situation::BrokenHostGranted);
                    }
                }
            }
            Entry::Done(done) => {
                let done = done.verify_host(self.trust.fleet());
                if let Ok(done) = done
                    && let Outcome::Declined { reason } = &done.content().outcome
                {
                    met.push(Situation::SlotDeclined);
                    if reason.contains("stopped") {
                        met.push(Situation::StopFreedSlotUnused);
                    }
                }
            }
            Entry::Health { healthy: false, .. } => met.push(Situation::UnreachableCalled),
            Entry::Health { healthy: true, .. } => met.push(Situation::UnreachableCleared),
            _ => {}
        }
        let mut running = 0;
        for deployment in self.ledger.deployments() {
            let is_rollback = deployment.creator == Creator::Rollback;
            match &deployment.status {
                DeploymentStatus::Succeeded if is_rollback => {
                    met.push(Situation::RollbackSucceeded);
                }
                DeploymentStatus::Failed { .. } => met.push(Situation::DeploymentFailed),
                DeploymentStatus::Stopped => met.push(Situation::DeploymentStopped),
                DeploymentStatus::InProgress | DeploymentStatus::Stopping => running += 1,
                DeploymentStatus::Succeeded | DeploymentStatus::Queued => {}
            }
            if is_rollback {
                met.push(Situation::RollbackRan);
            }
        }
        if running > 1 {
            met.push(Situation::TwoDeploymentsAtOnce);
        }
    }

    /// Whoever is disturbed holds the slot for it.
    fn slots_are_theirs(&self) -> Checked {
        for (host, token) in &self.disturbed {
            unless(self.rules.slots.get(host) == Some(token), "S5", || {
                format!("slot {token} of {} is free while the host is disturbed", host.short())
            })?;
        }
        Ok(())
    }

    /// An executor takes its first step, or goes on with one that was interrupted.
    pub fn disturbs(&mut self, host: HostId, token: u64, release: Digest) -> Checked {
        let granted = self.rules.grants.get(&token);
        let own = granted.is_some_and(|g| g.host == host && g.release == release);
        unless(own, "S3", || format!("{} acts on slot {token}, not its own", host.short()))?;
        let held = self.rules.slots.get(&host) == Some(&token);
        unless(held, "S3", || format!("{} acts on slot {token}, given back", host.short()))?;
        // What a voter vouched for to itself was on no wire.
        let is_vouched_in = |generation: u64| {
            let others =
                (token, generation, HostId([0; 32]))..=(token, generation, HostId([0xff; 32]));
            let voters = self.ledger.electorate().of_generation(generation);
            let others = self.vouched.range(others).map(|(_, _, voter)| *voter);
            voters.is_some_and(|voters| {
                let own = usize::from(voters.is_voter(host));
                let others = others.filter(|other| *other != host && voters.is_voter(*other));
                others.count() + own >= voters.majority()
            })
        };
        let newest = self.ledger.electorate().newest().generation();
        unless((0..=newest).any(is_vouched_in), "S3", || {
            format!("{} acts on slot {token} without a majority of voters", host.short())
        })?;
        self.disturbed.insert(host, token);
        let Some(granted) = granted.cloned() else { return Ok(()) };
        for (group, _, members) in &granted.groups {
            // It was down there before, for certain: nothing is lost.
            if !granted.excused.contains(group) {
                self.quota_holds(group, members)?;
            }
        }
        Ok(())
    }

    fn quota_holds(&self, group: &GroupName, members: &BTreeSet<HostId>) -> Checked {
        let is_down = |other: &&HostId| {
            self.disturbed.contains_key(other) || self.broken.contains(&(group.clone(), **other))
        };
        let down: Vec<_> = members.iter().filter(is_down).collect();
        // The last one that was granted was granted with all the others down.
        let tokens = down.iter().filter_map(|other| self.disturbed.get(other));
        let quota_of = |token: &u64| {
            let granted = self.rules.grants.get(token)?;
            let (_, quota, _) = granted.groups.iter().find(|(name, _, _)| name == group)?;
            (!granted.excused.contains(group)).then_some((*token, *quota))
        };
        let Some((_, quota)) = tokens.filter_map(quota_of).max() else { return Ok(()) };
        unless(down.len() <= quota, "S1", || {
            let names: Vec<_> = down.iter().map(|host| host.short()).collect();
            format!("{} hosts of {group} are down, {quota} may be: {names:?}", down.len())
        })
    }

    /// An executor has ended a lifecycle.
    pub fn rests(&mut self, host: HostId, group: &GroupName, works: bool) {
        self.disturbed.remove(&host);
        let entry = (group.clone(), host);
        if works {
            self.broken.remove(&entry);
        } else {
            self.broken.insert(entry);
        }
    }

    /// True if a host is being disturbed by this slot.
    pub fn is_disturbed_by(&self, host: HostId, token: u64) -> bool {
        self.disturbed.get(&host) == Some(&token)
    }

    /// What was met since this was asked last.
    pub fn met(&mut self) -> Vec<Situation> {
        std::mem::take(&mut self.met)
    }

    /// A voter sends a receipt for a slot.
    pub fn vouches(&mut self, receipt: &Receipt) -> Checked {
        let Receipt { voter, index, entry, generation, .. } = *receipt;
        self.vouched.insert((index, generation, voter));
        let before = self.receipts.insert((index, voter), entry);
        unless(before.is_none_or(|before| before == entry), "S6", || {
            format!("{} vouches for two entries at index {index}", voter.short())
        })?;
        let Some(true_entry) = self.entry(index) else {
            return unless(false, "S6", || format!("a receipt for index {index}, not committed"));
        };
        unless(Stamped::hash(&true_entry.data) == entry, "S6", || {
            format!("{} vouches for what is not at index {index}", voter.short())
        })
    }

    /// A host believes that it leads. True the first time.
    pub fn leads(
        &mut self,
        host: HostId,
        term: (u64, u64),
        has: impl Fn(&LogEntry) -> bool,
    ) -> Result<bool, Violation> {
        match self.leaders.insert(term, host) {
            Some(other) => unless(other == host, "C1", || {
                format!("{} and {} lead in term {term:?}", other.short(), host.short())
            })
            .map(|()| false),
            None => {
                // A leader has what was committed in terms before its own. Whoever stood still while it
                // was elected may begin to lead an old term late, and lacks what newer ones committed.
                let before = self.log.iter().zip(&self.committed_in).filter(|(_, at)| **at < term);
                let lacks = before.map(|(entry, _)| entry).rev().find(|entry| !has(entry));
                unless(lacks.is_none(), "C3", || {
                    let index = lacks.map_or(0, |entry| entry.index);
                    format!("{} leads in term {term:?} without entry {index}", host.short())
                })
                .map(|()| true)
            }
        }
    }

    /// A record was seen on the wire.
    pub fn says(&mut self, host: HostId, version: (u64, u64), id: Digest) -> Checked {
        let known = *self.records.entry((host, version.0, version.1)).or_insert(id);
        unless(known == id, "F1", || format!("{} says two things as {version:?}", host.short()))
    }
}

impl Rules {
    /// Reads an entry again. `changed` is what the ledger made of it.
    fn apply(
        &mut self,
        trust: &Trust,
        ledger: &Ledger,
        index: u64,
        entry: &Entry,
        changed: bool,
    ) -> Checked {
        if !changed {
            return Ok(());
        }
        match entry {
            Entry::Admit(cert) => {
                let Ok(member) = cert.verify_signatures(trust) else {
                    return unless(false, "S9", || "a forged certificate was taken".into());
                };
                let member = member.content();
                if let Some(old) = self.names.insert(member.name.to_string(), member.host)
                    && old != member.host
                {
                    self.members.remove(&old);
                    self.slots.remove(&old);
                    self.unhealthy.remove(&old);
                    self.broken.retain(|(_, host)| *host != old);
                }
                self.members.insert(member.host, member.labels.clone());
            }
            Entry::Group(group) => {
                let group = trust.group(group).map_err(|e| forged(&e))?.content().clone();
                let known = self.groups.get(&group.name);
                let fresh = GroupRules {
                    filter: group.filter,
                    configuration: group.configuration.minimum_healthy,
                    sequence: known.map_or(0, |known| known.sequence),
                    head: known.map_or(Digest::ZERO, |known| known.head),
                    running: known.and_then(|known| known.running),
                };
                self.groups.insert(group.name, fresh);
            }
            // Nobody here is removed, and nothing waits for time to pass.
            Entry::Release(_) | Entry::Want(_) | Entry::Remove(_) | Entry::Passed(_) => {}
            // Who votes says nothing about who may be down.
            Entry::NextVoters(_) | Entry::Vouch(_) | Entry::Counted(_) => {}
            Entry::Order(order) => {
                let order = trust.order(order).map_err(|e| forged(&e))?;
                self.order(ledger, order.id(), order.content())?;
            }
            Entry::Grant(grant) => {
                self.grant(ledger, index, grant.host, grant.order, grant.release)?;
            }
            Entry::Done(done) => {
                let done = done.verify_host(trust.fleet()).map_err(|e| forged(&e))?;
                let (host, token) = (done.content().host, done.content().token);
                unless(self.slots.get(&host) == Some(&token), "S7", || {
                    format!("a return of slot {token} changed the ledger, and it is not held")
                })?;
                self.done(host, token, &done.content().outcome);
            }
            Entry::Health { host, healthy: true } => {
                self.unhealthy.remove(host);
            }
            Entry::Health { host, healthy: false } => {
                self.unhealthy.insert(*host);
            }
        }
        Ok(())
    }

    fn order(
        &mut self,
        ledger: &Ledger,
        id: Digest,
        order: &groundswell_protocol::trust::Order,
    ) -> Checked {
        let Some(group) = self.groups.get_mut(&order.group) else {
            return unless(false, "S9", || "an order for no group was taken".into());
        };
        let follows = order.sequence == group.sequence + 1 && order.parent == group.head;
        if let Action::Stop { order, .. } = &order.action
            && !follows
        {
            let runs = group.running.is_some_and(|(running, _)| running == *order);
            self.stopped.insert(*order);
            return unless(runs, "S9", || "a stop of nothing that runs was taken".into());
        }
        unless(follows, "S9", || {
            format!("order {} of {} came after {}", order.sequence, order.group, group.sequence)
        })?;
        (group.sequence, group.head) = (order.sequence, id);
        match &order.action {
            Action::Stop { order, .. } => {
                self.stopped.insert(*order);
            }
            Action::Deploy(deploy) => {
                unless(group.running.is_none(), "R2", || {
                    format!("{} deploys twice at once", order.group)
                })?;
                let own = deploy.configuration.as_ref().map(|own| own.minimum_healthy);
                let configuration = own.unwrap_or(group.configuration);
                group.running = Some((id, configuration));
                self.count(ledger, DeploymentId::of(id, false));
            }
            _ => return unless(false, "S9", || "an order that nobody here gives was taken".into()),
        }
        Ok(())
    }

    fn count(&mut self, ledger: &Ledger, id: DeploymentId) {
        let Some(deployment) = ledger.deployment(id) else { return };
        let tally = Tally {
            targets: deployment.targets.keys().copied().collect(),
            configuration: deployment.configuration.minimum_healthy,
            goes_back: deployment.creator == Creator::Rollback,
            busy: BTreeSet::new(),
            failed: BTreeSet::new(),
            succeeded: BTreeSet::new(),
            is_over: false,
        };
        self.deployments.insert(id, tally);
    }

    fn grant(
        &mut self,
        ledger: &Ledger,
        token: u64,
        host: HostId,
        order: Digest,
        release: Digest,
    ) -> Checked {
        unless(token > self.last_token, "S4", || format!("slot {token} is not a new one"))?;
        self.last_token = token;
        let held = self.slots.get(&host);
        unless(held.is_none(), "S4", || format!("{} holds a slot already", host.short()))?;
        unless(!self.stopped.contains(&order), "R2", || {
            format!("slot {token} is granted after a stop")
        })?;
        let Some(slot) = ledger.slot_of(host) else {
            return unless(false, "S4", || format!("slot {token} was granted and is not there"));
        };
        let deployment = slot.deployment;
        let group = ledger.deployment(deployment).map(|deployment| deployment.group.clone());
        let Some(group) = group else {
            return unless(false, "R2", || "a slot for no deployment".into());
        };
        if !self.deployments.contains_key(&deployment) {
            self.count(ledger, deployment);
        }
        let Some(tally) = self.deployments.get_mut(&deployment) else { return Ok(()) };
        let left = tally.targets.len() - tally.failed.len() - tally.busy.len();
        unless(left > tally.floor(), "R1", || {
            let (failed, busy) = (tally.failed.len(), tally.busy.len());
            format!("slot {token}: {failed} hosts failed, {busy} are busy, and one more is taken")
        })?;
        tally.busy.insert(host);
        self.slots.insert(host, token);
        let names: Vec<_> = self.groups.keys().cloned().collect();
        let (mut groups, mut asked_not) = (Vec::new(), BTreeSet::new());
        for name in names {
            let members = self.hosts_of(&name);
            if !members.contains(&host) {
                continue;
            }
            let quota = self.quota(&name, members.len());
            let down = members.iter().filter(|other| self.is_down(&name, **other)).count();
            let excused = self.broken.contains(&(name.clone(), host));
            unless(excused || down <= quota, "S2", || {
                format!("with slot {token}, {down} hosts of {name} are down and {quota} may be")
            })?;
            if excused {
                asked_not.insert(name.clone());
            }
            groups.push((name, quota, members));
        }
        let excused = asked_not;
        let granted = Granted { host, release, deployment, group, groups, excused };
        self.grants.insert(token, granted);
        Ok(())
    }

    fn hosts_of(&self, group: &GroupName) -> BTreeSet<HostId> {
        let filter = &self.groups[group].filter;
        let matching = self.members.iter().filter(|(_, labels)| filter.matches(labels));
        matching.map(|(host, _)| *host).collect()
    }

    fn quota(&self, group: &GroupName, hosts: usize) -> usize {
        let group = &self.groups[group];
        let configuration = group.running.map_or(group.configuration, |(_, running)| running);
        hosts.saturating_sub(minimum(configuration, hosts))
    }

    fn is_down(&self, group: &GroupName, host: HostId) -> bool {
        self.slots.contains_key(&host)
            || self.unhealthy.contains(&host)
            || self.broken.contains(&(group.clone(), host))
    }

    fn done(&mut self, host: HostId, token: u64, outcome: &Outcome) {
        self.slots.remove(&host);
        let Some(granted) = self.grants.get(&token) else { return };
        let entry = (granted.group.clone(), host);
        let Some(tally) = self.deployments.get_mut(&granted.deployment) else { return };
        tally.busy.remove(&host);
        match outcome {
            Outcome::Succeeded => {
                tally.succeeded.insert(host);
                self.broken.remove(&entry);
            }
            Outcome::Failed { restored, .. } => {
                tally.failed.insert(host);
                if !restored {
                    self.broken.insert(entry);
                }
            }
            Outcome::Declined { .. } => {}
        }
    }

    /// Compares with the ledger after an entry.
    fn sync(&mut self, ledger: &Ledger, index: u64) -> Checked {
        let slots: BTreeMap<_, _> = ledger.slots().map(|slot| (slot.host, slot.token)).collect();
        unless(slots == self.slots, "S5", || {
            format!("after entry {index} the slots are {slots:?}, not {:?}", self.slots)
        })?;
        for host in self.members.keys() {
            let healthy = !self.unhealthy.contains(host);
            unless(ledger.is_healthy(*host) == healthy, "S2", || {
                format!("after entry {index} the health of {} is wrong", host.short())
            })?;
        }
        for group in self.groups.keys() {
            unless(ledger.head(group).1 == self.groups[group].head, "S9", || {
                format!("after entry {index} the head of {group} is another")
            })?;
        }
        self.sync_deployments(ledger)
    }

    fn sync_deployments(&mut self, ledger: &Ledger) -> Checked {
        for deployment in ledger.deployments() {
            if !self.deployments.contains_key(&deployment.id) {
                self.count(ledger, deployment.id);
            }
            let Some(tally) = self.deployments.get_mut(&deployment.id) else { continue };
            for (host, target) in &deployment.targets {
                let counts = target.status == TargetStatus::Succeeded;
                unless(!counts || tally.succeeded.contains(host), "R1", || {
                    format!("{} counts as a success and did not say so", host.short())
                })?;
            }
            let is_over = deployment.status.is_over();
            unless(is_over || !tally.is_over, "R3", || {
                format!("deployment {} was over and runs again", deployment.id)
            })?;
            if is_over && !tally.is_over {
                tally.is_over = true;
                let floor = tally.floor().max(1);
                let is_success = deployment.status == DeploymentStatus::Succeeded;
                let enough = tally.succeeded.len() >= floor;
                unless(!is_success || enough, "R1", || {
                    let (have, all) = (tally.succeeded.len(), tally.targets.len());
                    format!("{} counts as a success with {have} of {all}", deployment.id)
                })?;
                unless(tally.busy.is_empty(), "R1", || {
                    format!("{} is over while hosts are at work for it", deployment.id)
                })?;
            }
        }
        for (name, group) in &mut self.groups {
            let runs = ledger.group(name).is_some_and(|view| view.running.is_some());
            if !runs {
                group.running = None;
            }
        }
        Ok(())
    }
}

/// CodeDeploy's floor, read once more.
fn minimum(configuration: MinimumHealthy, hosts: usize) -> usize {
    match configuration {
        MinimumHealthy::AllAtOnce => 0,
        MinimumHealthy::HalfAtATime if hosts > 1 => hosts / 2 + hosts % 2,
        MinimumHealthy::OneAtATime if hosts > 1 => hosts - 1,
        MinimumHealthy::HalfAtATime | MinimumHealthy::OneAtATime => 0,
        MinimumHealthy::HostCount(count) => usize::try_from(count).unwrap_or(usize::MAX),
        MinimumHealthy::FleetPercent(percent) => {
            let (whole, rest) =
                (hosts * usize::from(percent) / 100, hosts * usize::from(percent) % 100);
            whole + usize::from(rest > 0)
        }
    }
}

fn forged(error: &dyn std::fmt::Display) -> Violation {
    Violation { promise: "S9", what: format!("a forgery was taken: {error}") }
}
