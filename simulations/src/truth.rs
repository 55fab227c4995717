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
//! | V1 | a grant to a voter leaves a majority of the voters without a slot, and in reach |
//! | V2 | a leader plans no list of voters that it is not in |
//! | S3 | a host begins only with a slot that is its own, held now, for that very release, and that it has not used up |
//! | S4 | tokens rise; a host holds one slot at most |
//! | S5, S7 | slots change by a grant, by the holder's return of that very token, by replacement, and by nothing else; a host whose slot is freed is not being disturbed |
//! | S6 | no voter vouches for two entries at one index |
//! | S8 | after voters were lost, hosts that have not said what they hold count as down and get no slot; whoever is counted is not disturbed under a lost slot, and its executor heeds the lost voters no more; only who is away is waived, after that very loss |
//! | S9 | orders of a group form one chain |
//! | S10 | a host keeps its slot until what runs on it, new or old again, has run for its group's minimum healthy time |
//! | S11 | an entry that was applied is old news when it comes again |
//! | R1 to R3 | the failure budget; nothing begins after a stop; no rollback of a rollback |
//! | R4, R5 | stages in their order, looked at and baked; no canary fails unnoticed; nothing begins in a pause |
//! | R6 | deployments begin in their turn, for the hosts that they must be for; hosts catch up only with leave |
//! | R7 | a removed key stays out; a released slot is free after its hold-off, and nobody vouches for it |
//! | R8 | a deployment does not wait for a holder that is away where nothing hangs on it |
//! | C1, C3 | one leader in a term of a generation, and it has all that is committed |
//! | C2, C4, C6 | what one host applied at an index all do; equal prefixes are equal states |
//! | C5 | what is committed is on the disks of a majority of those who vote then |
//! | C7 | term, vote, commit and applied index never go back in a generation; a start goes on from the commit index on disk |
//! | C8 | snapshot, applied, committed and last index stand in this order on a voter, and its log has no gap |
//! | C9 | voters change one at a time, and never become fewer, but by the word of operators |
//! | C10 | what operators begin is newer than all that the lost voters come to |
//! | C11 | a voter whose disk was put back takes no part before others have told it what it may have forgotten |
//! | F1 | records never go back; one version of a record has one content |
//! | F3, F7 | queues and views are bounded; nothing panics |
//! | L3, L6 | after everything is mended: a leader within ten elections once a majority of the voters is connected, whenever it is; a host that loses power then is unreachable for all others and unhealthy in 20 s, and well again within 40 s of its return |
//! | L1, L3 to L7, L9 | after everything is mended: one leader, equal ledgers, equal views, nobody called unreachable, no voter that is gone, deployments over, slots given back, and a last deployment that reaches all |
//!
//! Pending: C10 for frames (unit-tested), S12 (the protocol has no spanning groups). L2 is
//! in L1 and L9. F2, F5 and F6 have unit tests.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU8,
    sync::Arc,
};

use groundswell_protocol::{
    consensus::LogEntry,
    fleet::Record,
    ids::{Digest, GroupName, HostId},
    rollout::{Creator, DeploymentStatus, Entry, Hold, Ledger, Passed, Stamped, TargetStatus},
    trust::{Action, Done, Electorate, KeySet, Outcome, Receipt, Signed, Trust, Verified, Voters},
};

use crate::{
    coverage::Situation,
    plan::Micros,
    recovering::{Leap, Line},
    rules::{Bound, Moment, Rules},
};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its short name.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn unless(good: bool, promise: &'static str, what: impl FnOnce() -> String) -> Checked {
    if good { Ok(()) } else { Err(Violation { promise, what: what() }) }
}

/// The truth of a fleet.
pub struct Truth {
    pub(crate) trust: Arc<Trust>,
    /// The ledger as the first host applied it.
    pub ledger: Ledger,
    /// Its entries; empty where a leader marked its term.
    pub log: Vec<LogEntry>,
    /// For each entry of the log, generation and term of the newest leader when it was known to be
    /// committed.
    pub(crate) committed_in: Vec<(u64, u64)>,
    /// And the true time.
    pub(crate) committed_at: Vec<Micros>,
    /// Where indices leap, if operators have let the fleet go on without voters that were lost.
    pub(crate) leap: Leap,
    /// The newest states, by index.
    pub(crate) states: BTreeMap<u64, Ledger>,
    /// A second reading of the ledger.
    pub(crate) rules: Rules,
    /// Who is being disturbed, and by which slot.
    pub(crate) disturbed: BTreeMap<HostId, u64>,
    /// Slots under which a lifecycle has ended, and when.
    used: BTreeMap<(HostId, u64), Micros>,
    /// Who was left without a working revision, and by which slot.
    pub(crate) broken: BTreeMap<(GroupName, HostId), u64>,
    /// Who was written off in the middle: an operator has said that it is not there.
    lost: BTreeSet<HostId>,
    /// What voters vouched for.
    receipts: BTreeMap<(u64, HostId), Digest>,
    /// The same, by slot and generation.
    vouched: BTreeSet<(u64, u64, HostId)>,
    /// Where the end of each generation was planned.
    pub(crate) planned: BTreeMap<u64, u64>,
    /// By generation and term.
    pub(crate) leaders: BTreeMap<(u64, u64), HostId>,
    /// What the voters that were lost have agreed on, and may go on to agree on.
    pub(crate) abandoned: Option<Box<Line>>,
    /// True while that is looked at, and what the fleet goes on with stands in its place.
    pub(crate) turned: bool,
    /// What was said under each version of a record: the id of the document.
    records: HashMap<(HostId, u64, u64), Digest>,
    /// Hosts that have forgotten what they said up to an epoch.
    forgetful: BTreeMap<HostId, u64>,
    pub(crate) met: Vec<Situation>,
    /// True time.
    pub now: Micros,
}

impl Truth {
    /// Nothing has happened.
    pub fn new(trust: Arc<Trust>) -> Self {
        Self {
            ledger: Ledger::new(trust.clone()),
            trust,
            log: Vec::new(),
            committed_in: Vec::new(),
            committed_at: Vec::new(),
            leap: Leap::default(),
            states: BTreeMap::new(),
            rules: Rules::default(),
            disturbed: BTreeMap::new(),
            used: BTreeMap::new(),
            broken: BTreeMap::new(),
            lost: BTreeSet::new(),
            receipts: BTreeMap::new(),
            vouched: BTreeSet::new(),
            planned: BTreeMap::new(),
            leaders: BTreeMap::new(),
            abandoned: None,
            turned: false,
            records: HashMap::new(),
            forgetful: BTreeMap::new(),
            met: Vec::new(),
            now: 0,
        }
    }

    /// The last index that anybody has applied.
    pub fn applied(&self) -> u64 {
        self.leap.index(self.log.len())
    }

    /// The entry at an index, if it is committed.
    pub fn entry(&self, index: u64) -> Option<&LogEntry> {
        self.log.get(self.leap.place(index)?)
    }

    /// The true ledger at an index, if that was not long ago.
    pub fn ledger_at(&self, index: u64) -> Option<&Ledger> {
        self.states.get(&index)
    }

    /// A host applied an entry. The first to do so makes it true.
    ///
    /// `copies` says on how many voters' disks the first one found it, and how many it takes.
    pub fn applied_by(&mut self, entry: &LogEntry, copies: (usize, usize)) -> Checked {
        if let Some(known) = self.entry(entry.index) {
            return unless(known.data == entry.data, "C2", || {
                format!("two different entries were applied at index {}", entry.index)
            });
        }
        unless(entry.index == self.applied() + 1, "C2", || {
            format!("index {} is applied after {}", entry.index, self.applied())
        })?;
        let (have, need) = copies;
        unless(have >= need, "C5", || {
            format!("index {} is applied and on {have} of {need} voters' disks", entry.index)
        })?;
        self.log.push(entry.clone());
        self.committed_in.push(self.leaders.keys().next_back().copied().unwrap_or_default());
        self.committed_at.push(self.now);
        self.commit(entry)?;
        self.states.insert(entry.index, self.ledger.clone());
        if self.states.len() > STATES_MAX {
            self.states.pop_first();
        }
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
        let moment = Moment {
            trust: &self.trust,
            ledger: &self.ledger,
            index: entry.index,
            at: stamped.at,
            now: self.now,
        };
        if changed {
            if let Entry::Done(done) = &stamped.entry {
                self.was_watched(done)?;
            }
            self.rules.apply(&moment, &stamped.entry)?;
        }
        self.rules.sync(&moment)?;
        if let Some(host) = changed.then(|| self.takes_down(&stamped.entry)).flatten() {
            self.voters_are_spared(&before, host)?;
        }
        self.voters_follow(&before)?;
        if changed && matches!(stamped.entry, Entry::NextVoters(_)) {
            self.planned.insert(before.generation(), entry.index);
        }
        self.part_with(&stamped.entry);
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

    /// A host gives its slot back when something has run on it for as long as its group says, by its own
    /// clock, which may run fast by a twentieth.
    fn was_watched(&self, done: &Signed<Done>) -> Checked {
        let Ok(done) = done.verify_host(self.trust.fleet()) else { return Ok(()) };
        let Done { host, token, outcome } = done.content();
        let works = match outcome {
            Outcome::Succeeded => true,
            Outcome::Failed { restored, .. } => *restored,
            Outcome::Declined { .. } => false,
        };
        let Some(since) = self.used.get(&(*host, *token)).filter(|_| works) else { return Ok(()) };
        let least = self.rules.watch_of(*token).as_micros() * 95 / 100;
        unless(u128::from(self.now - since) >= least, "S10", || {
            format!("{} gives slot {token} back and was not watched", host.short())
        })
    }

    /// Voters change one at a time and never become fewer.
    fn voters_follow(&mut self, before: &Voters) -> Checked {
        let now = self.ledger.electorate().newest();
        if now == before {
            return Ok(());
        }
        let stay = now.hosts().filter(|host| before.is_voter(*host)).count();
        let (old, new) = (before.list().len(), now.list().len());
        let keys: Vec<_> = before.hosts().map(|host| host.key()).collect();
        let threshold = u8::try_from(old / 2 + 1).ok().and_then(NonZeroU8::new);
        let signed = self.ledger.electorate().after(before.generation()).first();
        let is_signed = signed.zip(threshold).is_some_and(|(list, threshold)| {
            list.verify(self.trust.fleet(), KeySet { keys: &keys, threshold }).is_ok()
        });
        unless(is_signed, "C9", || "a list of voters is in force without a majority".into())?;
        let one_by_one = stay + 1 >= old && stay + 1 == new && new >= old;
        let counts_up = now.generation() == before.generation() + 1;
        self.met.push(Situation::VoterReplaced);
        let first = Electorate::of(&self.trust);
        if now.hosts().filter(|host| !first.newest().is_voter(*host)).count() >= 2 {
            self.met.push(Situation::TwoVotersReplaced);
        }
        unless(one_by_one && counts_up, "C9", || {
            format!("of {old} voters {stay} stay, and there are {new}")
        })
    }

    /// The host that is taken down by an entry.
    fn takes_down(&self, entry: &Entry) -> Option<HostId> {
        match entry {
            Entry::Grant(grant) => Some(grant.host),
            Entry::Drain(drain) => {
                let drain = self.trust.drain(drain).ok()?;
                drain.content().drained.then_some(drain.content().host)
            }
            _ => None,
        }
    }

    /// A rollout, and whoever drains hosts, leaves most voters alone.
    fn voters_are_spared(&mut self, voters: &Voters, host: HostId) -> Checked {
        if !voters.list().iter().any(|voter| voter.host == host) {
            return Ok(());
        }
        let all = voters.list().len();
        let down = voters.hosts().filter(|voter| !self.rules.is_left_alone(*voter)).count();
        let most = (all - (all / 2 + 1)).max(1);
        if down == most {
            self.met.push(Situation::VoterQuotaReached);
        }
        unless(down <= most, "V1", || {
            format!("with {} {down} of {all} voters are down", host.short())
        })
    }

    /// Notes what an entry that changed the ledger was an example of.
    fn note(&mut self, entry: &Entry) {
        let met = &mut self.met;
        match entry {
            Entry::Grant(grant) => {
                if self.turned {
                    met.push(Situation::GrantLost);
                }
                let token = self.rules.slots.get(&grant.host).copied().unwrap_or(0);
                let Some(granted) = self.rules.grants.get(&token) else { return };
                if granted.bounds.iter().filter(|((_, zone), ..)| zone.is_none()).count() > 1 {
                    met.push(Situation::TwoGroupsOneHost);
                }
                for ((group, zone), quota, members) in &granted.bounds {
                    let down = members.iter().filter(|h| self.rules.is_down(group, **h)).count();
                    if zone.is_some() && down == *quota {
                        met.push(Situation::ZoneQuotaReached);
                    }
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
            Entry::Order(order) => met.extend(self.trust.order(order).ok().and_then(|order| {
                Some(match order.content().action {
                    Action::Rollback(_) => Situation::RollbackOrdered,
                    Action::Stop { rollback: true, .. } => Situation::StoppedWithRollback,
                    Action::Freeze => Situation::GroupFrozen,
                    Action::Pause { .. } => Situation::DeploymentPaused,
                    Action::Resume { .. } => Situation::DeploymentResumed,
                    Action::ReleaseSlot { .. } => Situation::SlotReleased,
                    _ => return None,
                })
            })),
            Entry::Remove(removal) => {
                met.push(Situation::HostRemoved);
                let removal = self.trust.removal(removal);
                if removal.is_ok_and(|removal| self.trust.genesis().names(removal.content().host)) {
                    met.push(Situation::FirstVoterRemoved);
                }
            }
            Entry::Drain(_) => met.push(Situation::HostDrained),
            Entry::Counted(counted) => {
                let counted = counted.verify_host(self.trust.fleet());
                let host = counted.ok().map(|counted| counted.content().host);
                let groups = host.map_or_else(Vec::new, |host| self.rules.groups_of(host));
                if groups.iter().any(|group| self.rules.waits_for_census(group)) {
                    met.push(Situation::CensusWaited);
                }
            }
            Entry::Passed(Passed::Waiver { .. }) => met.push(Situation::HostWaived),
            Entry::Passed(Passed::HoldOff { .. }) => met.push(Situation::WrittenOff),
            Entry::Silent { .. } => met.push(Situation::UnreachableCalled),
            Entry::Heard(_) => met.push(Situation::UnreachableCleared),
            _ => {}
        }
        if self.rules.waived_is_back {
            met.push(Situation::WaivedCameBack);
        }
        if self.rules.is_late {
            met.push(Situation::LeftHolderCameBack);
        }
        if self.rules.late_brought {
            met.push(Situation::LateHostBrought);
        }
        let mut running = 0;
        for deployment in self.ledger.deployments() {
            let is_held = deployment.count(|s| matches!(s, TargetStatus::InProgress { .. })) > 0;
            if is_held && deployment.status.is_over() {
                met.push(Situation::EndedWithoutHolder);
                let group = self.ledger.group(&deployment.group);
                if group.is_some_and(|group| group.running.is_some()) {
                    met.push(Situation::BeganWithLeftHolder);
                }
            }
            if deployment.creator == Creator::CatchUp {
                met.push(Situation::CaughtUp);
            }
            match deployment.hold {
                Some(Hold::Canary) => met.push(Situation::CanaryLookedAt),
                Some(Hold::Bake { .. }) => met.push(Situation::Baked),
                None => {}
            }
            if deployment.status == DeploymentStatus::Queued {
                met.push(Situation::DeploymentQueued);
            }
            if let DeploymentStatus::Failed { reason } = &deployment.status {
                for (word, situation) in [
                    ("CANARY_FAILED", Situation::CanaryFailed),
                    ("FAILURE_BUDGET", Situation::BudgetSpent),
                    ("DEADLINE", Situation::DeadlinePassed),
                ] {
                    if reason.starts_with(word) {
                        met.push(situation);
                    }
                }
            }
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
            unless(self.is_theirs(*host, *token)?, "S5", || {
                format!("slot {token} of {} is free while the host is disturbed", host.short())
            })?;
        }
        Ok(())
    }

    /// An executor takes its first step, or goes on with one that was interrupted.
    ///
    /// `is_late` is for a host that stood still between the check and the action for longer than the
    /// hold-off: the one hole that is known, and told to whoever releases a slot.
    pub fn disturbs(
        &mut self,
        host: HostId,
        token: u64,
        release: Digest,
        is_late: bool,
    ) -> Checked {
        if !self.may_begin(host, token, release, is_late)? {
            return Ok(());
        }
        let is_unused = !self.used.contains_key(&(host, token));
        unless(is_unused, "S3", || format!("{} begins again on slot {token}", host.short()))?;
        self.disturbed.insert(host, token);
        self.lost.remove(&host);
        self.on_both(|truth| truth.quotas_hold(host, token))
    }

    /// True if a host begins with a slot that is its own; false if it is nobody's host any more.
    pub(crate) fn begins(
        &self,
        host: HostId,
        token: u64,
        release: Digest,
        is_late: bool,
    ) -> Result<bool, Violation> {
        if !self.rules.is_member(host) || (is_late && self.rules.slots.get(&host) != Some(&token)) {
            return Ok(false);
        }
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
                (others.count() + own) * 2 > voters.list().len()
            })
        };
        unless(self.generations().any(is_vouched_in), "S3", || {
            format!("{} acts on slot {token} without a majority of voters", host.short())
        })?;
        Ok(true)
    }

    /// No group of a host that was just disturbed has more hosts down than it may.
    fn quotas_hold(&mut self, host: HostId, token: u64) -> Checked {
        let granted = self.rules.grants.get(&token).filter(|granted| granted.host == host);
        let Some(granted) = granted.cloned() else { return self.lost_slot_fits(host) };
        for (bound, _, members) in &granted.bounds {
            // It was down there before, for certain: nothing is lost.
            if !granted.excused.contains(&bound.0) {
                self.quota_holds(bound, members)?;
            }
        }
        Ok(())
    }

    pub(crate) fn quota_holds(&self, bound: &Bound, members: &BTreeSet<HostId>) -> Checked {
        let group = &bound.0;
        // The last one that was granted was granted with all the others down.
        let broken: BTreeMap<_, _> = self
            .broken
            .iter()
            .filter_map(|((of, host), token)| (of == group).then_some((*host, token)))
            .collect();
        let of_broken = |other: &HostId| broken.get(other).copied();
        let tokens = members
            .iter()
            .flat_map(|other| [self.disturbed.get(other), of_broken(other)].into_iter().flatten());
        let of = |token: &u64| {
            let granted = self.rules.grants.get(token)?;
            let (_, quota, members) = granted.bounds.iter().find(|(other, ..)| other == bound)?;
            (!granted.excused.contains(group)).then_some((*token, *quota, members))
        };
        let Some((last, quota, members)) = tokens.filter_map(of).max() else { return Ok(()) };
        // Whoever was granted a slot since, without this bound, is no part of the group any more, or the
        // deployment that runs now has no floor for zones.
        let is_excused = |token: &u64| {
            let granted = self.rules.grants.get(token);
            granted.is_some_and(|granted| granted.excused.contains(group))
        };
        let is_down = |other: &&HostId| {
            let counts = |token: &u64| *token <= last || is_excused(token);
            let down = self.disturbed.get(other).is_some_and(|token| *token <= last)
                || of_broken(other).is_some_and(|token| counts(token) && self.is_known(*token));
            down && !self.lost.contains(other)
        };
        let down: Vec<_> = members.iter().filter(is_down).collect();
        unless(down.len() <= quota, "S1", || {
            let names: Vec<_> = down.iter().map(|host| host.short()).collect();
            format!("{} hosts of {bound:?} are down, {quota} may be: {names:?}", down.len())
        })
    }

    /// Whoever is nobody's any more is not waited for: removed hosts, and those that were written off
    /// in the middle.
    fn part_with(&mut self, entry: &Entry) {
        if let Entry::Passed(Passed::HoldOff { host, token }) = entry
            && self.disturbed.get(host) == Some(token)
        {
            self.disturbed.remove(host);
            self.lost.insert(*host);
            self.met.push(Situation::WrittenOffAlive);
        }
        let hosts = self.disturbed.keys().chain(self.broken.keys().map(|(_, host)| host));
        let gone: BTreeSet<_> = hosts.filter(|host| !self.is_somebody(**host)).copied().collect();
        let before = self.disturbed.len();
        self.disturbed.retain(|host, _| !gone.contains(host));
        if self.disturbed.len() < before {
            self.met.push(Situation::RemovedHolder);
        }
        self.broken.retain(|(_, host), _| !gone.contains(host));
    }

    /// An executor has ended a lifecycle.
    pub fn rests(&mut self, host: HostId, group: &GroupName, works: bool) {
        let token = self.disturbed.remove(&host).unwrap_or(0);
        self.used.insert((host, token), self.now);
        if !self.is_somebody(host) {
            return;
        }
        let entry = (group.clone(), host);
        if works {
            self.broken.remove(&entry);
        } else {
            self.broken.insert(entry, token);
        }
    }

    /// A machine was put back to what it was: where it runs something it is not broken any more.
    pub(crate) fn runs_again(&mut self, host: HostId, runs: &BTreeMap<GroupName, Digest>) {
        self.broken.retain(|(group, broken), _| *broken != host || !runs.contains_key(group));
    }

    /// True if a host is being disturbed by this slot.
    pub fn is_disturbed_by(&self, host: HostId, token: u64) -> bool {
        self.disturbed.get(&host) == Some(&token)
    }

    /// What was met since this was asked last.
    pub fn met(&mut self) -> Vec<Situation> {
        std::mem::take(&mut self.met)
    }

    /// A voter that had applied so much gives a receipt for a slot.
    pub fn vouches(&mut self, receipt: &Receipt, applied: u64) -> Checked {
        let Receipt { voter, index, entry, generation, .. } = *receipt;
        self.vouched.insert((index, generation, voter));
        let ends = self.planned.get(&generation).is_some_and(|planned| *planned <= applied);
        unless(!ends, "S3", || {
            format!("{} vouches in generation {generation}, which ends", voter.short())
        })?;
        unless(!self.rules.is_released(index, applied), "R7", || {
            format!("{} vouches for slot {index}, which it knows to be released", voter.short())
        })?;
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

    /// A host has forgotten what it said, in this epoch and before.
    pub fn forgets(&mut self, host: HostId, epoch: u64) {
        self.forgetful.insert(host, epoch);
    }

    /// A record was seen on the wire.
    pub fn says(&mut self, record: &Verified<Record>) -> Checked {
        let Record { host, epoch, sequence, .. } = *record.content();
        let known = self.records.entry((host, epoch, sequence)).or_insert_with(|| record.id());
        // Until it has met a newer one, a host whose disk was put back may say what it has forgotten
        // otherwise.
        let may_repeat = self.forgetful.get(&host).is_some_and(|until| epoch <= *until);
        unless(*known == record.id() || may_repeat, "F1", || {
            format!("{} says two things as {:?}", host.short(), (epoch, sequence))
        })
    }
}

/// States that are remembered, for hosts that are behind.
const STATES_MAX: usize = 1024;
