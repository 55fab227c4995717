//! The ledger's rules, read once more and kept as simple as can be.
//!
//! What an entry does is worked out here from the entry alone, and what the ledger made of it is held
//! against that. The ledger's own state is looked at for two things only: to be compared, and for whom
//! a canary that goes by number was drawn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use groundswell_protocol::{
    fleet::Record,
    ids::{DeploymentId, Digest, GroupName, HostId, Labels, ZoneName},
    limits::{DEPLOYMENTS_HELD_MAX, RELEASE_HOLD_OFF},
    rollout::{
        CanaryHosts, Creator, Deployment, DeploymentConfiguration, DeploymentStatus, Entry, Ledger,
        MinimumHealthy, Passed, TargetStatus,
    },
    time::UnixSeconds,
    trust::{Action, Counted, Deploy, Done, Drain, Group, Order, Outcome, Trust},
};

use crate::{
    plan::{Micros, SECOND},
    truth::{Checked, Violation, unless},
};

/// The rules.
#[derive(Default)]
pub(crate) struct Rules {
    members: BTreeMap<HostId, Known>,
    names: BTreeMap<String, HostId>,
    removed: BTreeSet<HostId>,
    /// Hosts that were in the fleet once and are not now.
    left: BTreeSet<HostId>,
    groups: BTreeMap<GroupName, GroupRules>,
    /// Who holds which slot.
    pub(crate) slots: BTreeMap<HostId, u64>,
    /// Slots that an operator released: when that was so in true time, and by which entry.
    released: BTreeMap<u64, (Micros, u64)>,
    written_off: BTreeSet<HostId>,
    /// Hosts that an operator has waived, and since when in true time.
    waived: BTreeMap<HostId, Micros>,
    /// Hosts that were called silent, by which of their records: epoch and sequence.
    unhealthy: BTreeMap<HostId, (u64, u64)>,
    broken: BTreeSet<(GroupName, HostId)>,
    /// Hosts that operators keep for themselves.
    drained: BTreeSet<HostId>,
    /// The last word about that.
    drains: BTreeMap<HostId, u64>,
    /// Who may hold a slot that was lost with the voters who granted it.
    uncounted: BTreeSet<HostId>,
    /// Those, and whoever was: what had run there may have been lost as well.
    unsure: BTreeSet<HostId>,
    /// The generation with which operators went on after the voters were lost; 0 if they never did.
    recovered_at: u64,
    /// Every slot that was ever granted.
    pub(crate) grants: BTreeMap<u64, Granted>,
    /// The hosts of each bound at the last grant.
    bounded: BTreeMap<Bound, Arc<BTreeSet<HostId>>>,
    last_token: u64,
    deployments: BTreeMap<DeploymentId, Tally>,
    /// By the last entry a host is heard of again that was written off and has not said what it holds.
    pub(crate) waived_is_back: bool,
    /// The last entry gave a slot back whose deployment was over.
    pub(crate) is_late: bool,
    /// With the last entry somebody who came late set out for where the others are.
    pub(crate) late_brought: bool,
    /// What a stop keeps from beginning, though it has not begun: with true, even the way back.
    stopped: BTreeMap<Digest, bool>,
}

struct Known {
    labels: Labels,
    zone: Option<ZoneName>,
}

struct GroupRules {
    group: Group,
    sequence: u64,
    head: Digest,
    running: Option<DeploymentId>,
    queue: Vec<DeploymentId>,
    /// The newest order to deploy or to go back.
    newest: Option<Digest>,
    last_good: Option<Digest>,
    /// Operators let nothing begin in it.
    frozen: bool,
    current: BTreeMap<HostId, Digest>,
    /// Who took the release of what was over, unless all others were to have it then.
    late: BTreeSet<HostId>,
}

/// A deployment as it was counted from orders and returns of slots.
struct Tally {
    order: Digest,
    release: Digest,
    fallback: Option<Digest>,
    group: GroupName,
    group_version: u64,
    not_after: Option<UnixSeconds>,
    configuration: DeploymentConfiguration,
    budget: Option<u32>,
    reach: Reach,
    by_operator: bool,
    catches_up: bool,
    began: Option<Micros>,
    stages: Vec<StageRules>,
    stage_of: BTreeMap<HostId, usize>,
    stage: usize,
    /// Since when, in true time, it waits between two stages.
    held: Option<Micros>,
    paused: bool,
    stopped: bool,
    goes_back_when_stopped: bool,
    overdue: bool,
    /// Its hosts, without those that are nobody's any more.
    targets: BTreeSet<HostId>,
    /// How many others of the group have something that works.
    beside: usize,
    busy: BTreeSet<HostId>,
    failed: BTreeSet<HostId>,
    /// Hosts that were given up while they were at work. The release may have killed them.
    lost: BTreeSet<HostId>,
    succeeded: BTreeSet<HostId>,
    declined: BTreeSet<HostId>,
    end: Option<DeploymentStatus>,
}

/// Whom a deployment is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    Outdated,
    Strayed,
    Some,
}

#[derive(Clone, Copy, Default)]
struct StageRules {
    is_canary: bool,
    pause: bool,
    bake_seconds: u32,
}

/// A group, or one of its zones by itself.
pub(crate) type Bound = (GroupName, Option<Option<ZoneName>>);

/// A slot when it was granted.
#[derive(Clone)]
pub(crate) struct Granted {
    pub(crate) host: HostId,
    pub(crate) release: Digest,
    pub(crate) deployment: DeploymentId,
    pub(crate) group: GroupName,
    /// The host's groups then, and its zone in each where zones count: how many may be down of whom.
    pub(crate) bounds: Vec<(Bound, usize, Arc<BTreeSet<HostId>>)>,
    /// Groups in which it was down for certain, so that nobody asked for room.
    pub(crate) excused: BTreeSet<GroupName>,
}

/// What is new, beside the entry itself.
pub(crate) struct Moment<'a> {
    pub(crate) trust: &'a Trust,
    /// The ledger after the entry.
    pub(crate) ledger: &'a Ledger,
    pub(crate) index: u64,
    /// The leader's stamp.
    pub(crate) at: UnixSeconds,
    /// True time.
    pub(crate) now: Micros,
}

impl Tally {
    fn is_over(&self, host: HostId) -> bool {
        let all = [&self.failed, &self.succeeded, &self.declined];
        all.iter().any(|some| some.contains(&host)) || !self.targets.contains(&host)
    }

    /// How many of its hosts must stay well, so that with the others enough of the group do. Where it is for
    /// part of the group, and all must stay well, the group's own quota is all that bounds it, and that is S1
    /// and S2.
    fn floor(&self) -> isize {
        let hosts = self.targets.len() + self.beside;
        let floor = minimum(self.configuration.minimum_healthy, hosts);
        let floor = if self.reach != Reach::All && floor >= hosts { 0 } else { floor };
        floor.cast_signed() - self.beside.cast_signed()
    }

    /// How many of its hosts must take the release.
    fn must_succeed(&self) -> usize {
        usize::try_from(self.floor()).unwrap_or(0).max(1)
    }

    /// How many of its hosts are down beside one that is taken: those at work, and where it serves itself
    /// those that do not, as far as the turn is theirs.
    fn down_beside(&self, host: HostId, unserved: &BTreeSet<HostId>) -> usize {
        let to_come = self.idle().filter(|other| self.stage_of[other] <= self.stage);
        let to_come = to_come.filter(|other| unserved.contains(other));
        self.busy.len() + if unserved.contains(&host) { 0 } else { to_come.count() }
    }

    fn canary_failed(&self) -> bool {
        let mut failed = self.failed.iter().chain(&self.lost);
        failed.any(|host| self.is_canary(self.stage_of[host]))
    }

    fn is_canary(&self, stage: usize) -> bool {
        self.stages.get(stage).is_some_and(|stage| stage.is_canary)
    }

    fn over_budget(&self) -> bool {
        let failed = self.failed.len() + self.lost.len();
        self.budget.is_some_and(|budget| failed as u64 > u64::from(budget))
    }

    /// True if it is over, and whoever took its release is sent back.
    fn was_undone(&self) -> bool {
        let goes_back = match &self.end {
            Some(DeploymentStatus::Failed { .. }) => self.began.is_some(),
            Some(DeploymentStatus::Stopped) => self.goes_back_when_stopped,
            _ => false,
        };
        self.by_operator && self.fallback.is_some() && goes_back
    }

    /// Hosts whose part is not over and that hold no slot.
    fn idle(&self) -> impl Iterator<Item = HostId> {
        let rest = self.targets.iter().filter(|host| !self.is_over(**host));
        rest.filter(|host| !self.busy.contains(*host)).copied()
    }

    /// True if it succeeds whatever comes of hosts that are away.
    fn is_won(&self, away: &BTreeSet<HostId>) -> bool {
        let enough = self.succeeded.len() >= self.must_succeed();
        let ends = self.overdue || self.canary_failed() || self.over_budget() || self.stopped;
        // The release may have killed them all.
        let dead = self.failed.len() + self.lost.len() + self.busy.len();
        let too_many = self.budget.is_some_and(|budget| dead as u64 > u64::from(budget));
        let canary = self.busy.iter().any(|host| self.is_canary(self.stage_of[host]));
        let waits = self.idle().next().is_some() && (self.paused || self.held.is_some());
        let gone = self.idle().chain(self.busy.iter().copied()).all(|host| away.contains(&host));
        enough && !ends && !too_many && !canary && !waits && gone
    }

    /// True if all that are left are away, and hold no slot.
    fn is_deserted(&self, away: &BTreeSet<HostId>) -> bool {
        let mut idle = self.idle().peekable();
        self.busy.is_empty() && idle.peek().is_some() && idle.all(|host| away.contains(&host))
    }

    /// True if it fails whatever comes of those that hold slots.
    fn is_lost(&self) -> bool {
        let ends = self.overdue || self.canary_failed() || self.over_budget();
        let left = self.targets.len().saturating_sub(self.failed.len());
        let too_few = match self.idle().next() {
            Some(_) => left.cast_signed() <= self.floor(),
            None => self.succeeded.len() + self.busy.len() < self.must_succeed(),
        };
        !self.stopped && (ends || too_few)
    }

    fn leave(&mut self, host: HostId) {
        if self.busy.remove(&host) {
            self.lost.insert(host);
        }
        if self.end.is_none() && !self.is_over(host) {
            self.targets.remove(&host);
        }
    }
}

impl Rules {
    /// Reads an entry that has changed the ledger.
    pub(crate) fn apply(&mut self, moment: &Moment<'_>, entry: &Entry) -> Checked {
        let Moment { trust, now, .. } = *moment;
        self.count_beside();
        (self.is_late, self.late_brought, self.waived_is_back) = (false, false, false);
        match entry {
            Entry::Admit(cert) => {
                let Ok(member) = cert.verify_signatures(trust) else {
                    return unless(false, "S9", || "a forged certificate was taken".into());
                };
                let member = member.content();
                unless(!self.removed.contains(&member.host), "R7", || {
                    format!("{} was removed and is admitted again", member.host.short())
                })?;
                if let Some(old) = self.names.insert(member.name.to_string(), member.host)
                    && old != member.host
                {
                    self.forget(old);
                }
                let (labels, zone) = (member.labels.clone(), member.zone.clone());
                let host = member.host;
                if self.recovered_at > 0 && !self.members.contains_key(&host) {
                    self.uncounted.insert(host);
                    self.unsure.insert(host);
                }
                // Who has left a group has no part in what it deploys, once nothing is under way there.
                for tally in self.deployments.values_mut() {
                    let stays = self.groups[&tally.group].group.filter.matches(&labels);
                    if !stays && !tally.busy.contains(&host) {
                        tally.leave(host);
                    }
                }
                self.members.insert(host, Known { labels, zone });
                self.left.remove(&host);
            }
            Entry::Remove(removal) => {
                let removal = trust.removal(removal).map_err(|e| forged(&e))?;
                let host = removal.content().host;
                self.forget(host);
                self.removed.insert(host);
                let voters = moment.ledger.electorate().newest();
                let gone = voters.hosts().filter(|voter| self.left.contains(voter)).count();
                let (is_voter, all) = (voters.is_voter(host), voters.list().len());
                unless(!is_voter || (all - gone) * 2 > all, "R7", || {
                    format!("of {all} voters {gone} are gone")
                })?;
            }
            Entry::Drain(drain) => {
                let drain = trust.drain(drain).map_err(|e| forged(&e))?;
                self.drain(moment.index, drain.content())?;
            }
            Entry::Group(group) => {
                let group = trust.group(group).map_err(|e| forged(&e))?.content().clone();
                let held = self.slots.values().any(|token| self.grants[token].group == group.name);
                match self.groups.get_mut(&group.name) {
                    Some(known) => {
                        let busy = known.running.is_some() || held;
                        let moves = known.group.filter != group.filter && busy;
                        known.group = group;
                        unless(!moves, "R2", || "hosts change while they deploy".into())?;
                    }
                    None => {
                        let fresh = GroupRules {
                            group: group.clone(),
                            sequence: 0,
                            head: Digest::ZERO,
                            running: None,
                            queue: Vec::new(),
                            newest: None,
                            last_good: None,
                            frozen: false,
                            current: BTreeMap::new(),
                            late: BTreeSet::new(),
                        };
                        self.groups.insert(group.name, fresh);
                    }
                }
            }
            Entry::Release(_) | Entry::Want(_) => {}
            // Who votes says nothing about who may be down.
            Entry::NextVoters(_) | Entry::Vouch(_) => {}
            Entry::Counted(counted) => {
                let counted = counted.verify_host(trust.fleet()).map_err(|e| forged(&e))?;
                let Counted { host, runs, broken, generation } = counted.content();
                for name in self.groups_of(*host) {
                    let group = self.groups.get_mut(&name).expect("it is in it");
                    group.current.remove(host);
                    group.current.extend(runs.get(&name).map(|release| (*host, *release)));
                    if runs.contains_key(&name) {
                        self.broken.remove(&(name, *host));
                    }
                }
                self.broken.extend(broken.iter().map(|name| (name.clone(), *host)));
                self.unsure.remove(host);
                self.waived.remove(host);
                self.waived_is_back = self.written_off.contains(host) && self.is_uncounted(*host);
                let asked = self.uncounted.remove(host) && *generation >= self.recovered_at;
                unless(asked, "S8", || {
                    format!("{} is counted, by a word of generation {generation}", host.short())
                })?;
            }
            Entry::Order(order) => {
                let order = trust.order(order).map_err(|e| forged(&e))?;
                self.order(moment, order.id(), order.content())?;
            }
            Entry::Grant(grant) => {
                self.grant(moment, grant.host, grant.order, grant.release)?;
            }
            Entry::Done(done) => {
                let done = done.verify_host(trust.fleet()).map_err(|e| forged(&e))?;
                let Done { host, token, outcome } = done.content();
                unless(self.slots.get(host) == Some(token), "S7", || {
                    format!("a return of slot {token} changed the ledger, and it is not held")
                })?;
                self.done(*host, *token, outcome);
            }
            Entry::Heard(record) => {
                let record = record.verify_host(trust.fleet()).map_err(|e| forged(&e))?;
                let Record { host, epoch, sequence, .. } = record.content();
                let silent = self.unhealthy.remove(host).unwrap_or_default();
                unless((*epoch, *sequence) > silent, "S2", || {
                    format!("{} is called well, and has said nothing new", host.short())
                })?;
                self.waived_is_back |= self.written_off.remove(host) && self.is_uncounted(*host);
                self.waived.remove(host);
                if let Some(token) = self.slots.get(host) {
                    self.released.remove(token);
                }
            }
            Entry::Silent { host, version } => {
                self.unhealthy.insert(*host, (version.epoch, version.sequence));
            }
            Entry::Passed(passed) => self.pass(*passed, now)?,
        }
        Ok(())
    }

    /// What an operator keeps is down as under a slot, and no old word counts twice.
    fn drain(&mut self, index: u64, drain: &Drain) -> Checked {
        let Drain { host, drained, sequence, .. } = *drain;
        let last = self.drains.insert(host, sequence).unwrap_or(0);
        unless(sequence == last + 1 && self.is_member(host), "S9", || {
            format!("{} is drained by word {sequence}, after {last}", host.short())
        })?;
        let before = self.drained.contains(&host);
        if drained {
            let idle = !self.slots.contains_key(&host) && !self.uncounted.contains(&host);
            unless(idle, "S4", || format!("{} is drained, and holds a slot", host.short()))?;
            self.bounds(index, host, true)?;
            self.drained.insert(host);
        } else {
            self.drained.remove(&host);
            self.unhealthy.entry(host).or_default();
        }
        unless(before != drained, "S9", || format!("{} was so before", host.short()))
    }

    /// A host is in the fleet no more.
    fn forget(&mut self, host: HostId) {
        self.members.remove(&host);
        self.left.insert(host);
        self.slots.remove(&host);
        self.unhealthy.remove(&host);
        self.drained.remove(&host);
        self.drains.remove(&host);
        self.written_off.remove(&host);
        self.uncounted.remove(&host);
        self.unsure.remove(&host);
        self.waived.remove(&host);
        self.broken.retain(|(_, broken)| *broken != host);
        for group in self.groups.values_mut() {
            group.current.remove(&host);
            group.late.remove(&host);
        }
        self.deployments.values_mut().for_each(|tally| tally.leave(host));
    }

    fn order(&mut self, moment: &Moment<'_>, id: Digest, order: &Order) -> Checked {
        let name = &order.group;
        let Some(group) = self.groups.get(name) else {
            return unless(false, "S9", || "an order for no group was taken".into());
        };
        let follows = order.sequence == group.sequence + 1 && order.parent == group.head;
        let unfinished = |order: &Digest| {
            let mut all = group.running.iter().chain(&group.queue);
            all.find(|id| self.deployments[id].order == *order).copied()
        };
        if let Action::Stop { order, rollback } = &order.action
            && !follows
        {
            let stopped = unfinished(order);
            *self.stopped.entry(*order).or_default() |= !*rollback;
            if let Some(tally) = stopped.and_then(|id| self.deployments.get_mut(&id)) {
                (tally.stopped, tally.goes_back_when_stopped) = (true, *rollback);
            }
            return unless(stopped.is_some(), "S9", || "a stop of nothing that runs".into());
        }
        unless(follows, "S9", || {
            format!("order {} of {name} came after {}", order.sequence, group.sequence)
        })?;
        let named = match &order.action {
            Action::Stop { order, .. } | Action::Pause { order } | Action::Resume { order } => {
                unfinished(order)
            }
            _ => None,
        };
        let (running, queue) = (group.running, group.queue.clone());
        let group = self.groups.get_mut(name).expect("it was there");
        (group.sequence, group.head) = (order.sequence, id);
        let starts = matches!(order.action, Action::Deploy(_) | Action::Rollback(_));
        unless(!starts || !group.frozen, "R5", || format!("{name} is frozen and takes an order"))?;
        match &order.action {
            Action::Stop { order, rollback } => self.stop(named, *order, *rollback),
            Action::Deploy(deploy) => {
                unless(queue.is_empty() || deploy.queue, "R2", || {
                    format!("{name} deploys before what waits for its turn")
                })?;
                if let Some(tally) = running.and_then(|id| self.deployments.get_mut(&id)) {
                    // Hosts that catch up make way; nothing else does.
                    tally.stopped |= tally.catches_up;
                    unless(tally.catches_up || deploy.queue, "R2", || {
                        format!("{name} deploys twice at once")
                    })?;
                }
                let reach = if deploy.only_outdated { Reach::Outdated } else { Reach::All };
                self.enqueue(id, order, deploy, reach);
                let deployment = DeploymentId::of(id, false);
                unless(self.has_stages(&self.deployments[&deployment]), "R4", || {
                    format!("{deployment} is taken, and nobody is its canary, or in a wave of it")
                })?;
                self.can_be_done(deployment)?;
            }
            Action::Rollback(deploy) => {
                for other in running.into_iter().chain(queue) {
                    let order = self.deployments[&other].order;
                    self.stop(Some(other), order, false);
                }
                self.enqueue(id, order, deploy, Reach::Strayed);
                self.can_be_done(DeploymentId::of(id, false))?;
            }
            Action::Pause { .. } => {
                let tally = named.and_then(|id| self.deployments.get_mut(&id));
                let Some(tally) = tally.filter(|tally| !tally.paused) else {
                    return unless(false, "R5", || "a pause of nothing was taken".into());
                };
                tally.paused = true;
            }
            Action::Resume { .. } => {
                let away = self.away();
                let Some(tally) = named.and_then(|id| self.deployments.get_mut(&id)) else {
                    return unless(false, "R5", || "nothing was resumed".into());
                };
                if !std::mem::take(&mut tally.paused) {
                    // A canary goes before all others. Who does not wait between two stages may pass over
                    // one that will not speak, since none of its hosts is at work or in reach.
                    let may_speak = tally.stage_of.iter().any(|(host, stage)| {
                        let in_reach = tally.busy.contains(host) || !away.contains(host);
                        *stage == tally.stage && !tally.is_over(*host) && in_reach
                    });
                    let silent = tally.is_canary(tally.stage) && !may_speak;
                    let waits = tally.held.take().is_some() || silent;
                    tally.stage += 1;
                    return unless(waits, "R4", || "a stage was passed over".into());
                }
            }
            Action::ReleaseSlot { host, token } => {
                unless(self.slots.get(host) == Some(token), "S9", || {
                    format!("slot {token} is released and not held")
                })?;
                unless(self.unhealthy.contains_key(host), "R7", || {
                    format!("slot {token} is released, and {} is heard of", host.short())
                })?;
                self.released.insert(*token, (moment.now, moment.index));
            }
            Action::Freeze | Action::Unfreeze => {
                let freezes = order.action == Action::Freeze;
                let before = std::mem::replace(&mut group.frozen, freezes);
                unless(before != freezes, "S9", || format!("{name} was frozen, or was not"))?;
            }
            Action::Waive { host, generation } => {
                let is_meant = self.uncounted.contains(host) && *generation == self.recovered_at;
                let is_gone = self.unhealthy.contains_key(host) && self.matches(name, *host);
                self.waived.insert(*host, moment.now);
                unless(is_meant && is_gone, "S8", || {
                    format!("{} is waived, by an order for generation {generation}", host.short())
                })?;
            }
        }
        Ok(())
    }

    fn stop(&mut self, named: Option<DeploymentId>, order: Digest, rollback: bool) {
        *self.stopped.entry(order).or_default() |= !rollback;
        if let Some(tally) = named.and_then(|id| self.deployments.get_mut(&id)) {
            tally.stopped = true;
            tally.goes_back_when_stopped = rollback;
        }
    }

    fn enqueue(&mut self, id: Digest, order: &Order, deploy: &Deploy, reach: Reach) {
        let group = self.groups.get_mut(&order.group).expect("the caller looked");
        let configuration = deploy.configuration.clone();
        let tally = Tally {
            order: id,
            release: deploy.release,
            fallback: deploy.fallback,
            group: order.group.clone(),
            group_version: deploy.group_version,
            not_after: order.not_after.filter(|_| reach != Reach::Strayed),
            configuration: configuration.unwrap_or_else(|| group.group.configuration.clone()),
            budget: group.group.failure_budget,
            by_operator: reach != Reach::Strayed,
            ..Tally::new(reach)
        };
        group.newest = Some(id);
        let id = DeploymentId::of(id, false);
        group.queue.push(id);
        self.deployments.insert(id, tally);
    }

    fn pass(&mut self, passed: Passed, now: Micros) -> Checked {
        match passed {
            Passed::Bake { deployment, .. } => {
                let Some(tally) = self.deployments.get_mut(&deployment) else { return Ok(()) };
                let seconds = tally.stages.get(tally.stage).map_or(0, |stage| stage.bake_seconds);
                let since = tally.held.take();
                let over = has_passed(since, now, u64::from(seconds) * SECOND);
                let looked_at = tally.stages.get(tally.stage).is_some_and(|stage| stage.pause);
                tally.stage += 1;
                unless(over && !looked_at, "R4", || format!("{deployment} has not baked"))
            }
            Passed::Deadline { deployment } => {
                let Some(tally) = self.deployments.get_mut(&deployment) else { return Ok(()) };
                tally.overdue = true;
                let seconds = tally.configuration.deployment_deadline_seconds;
                let due = seconds.is_some_and(|seconds| {
                    has_passed(tally.began, now, u64::from(seconds) * SECOND)
                });
                unless(due, "R4", || format!("{deployment} has time left"))
            }
            Passed::Waiver { host } => {
                let since = self.waived.remove(&host);
                self.written_off.insert(host);
                self.deployments.values_mut().for_each(|tally| tally.leave(host));
                self.held_off(since, now, &host.short())
            }
            Passed::HoldOff { host, token } => {
                let since = self.released.remove(&token);
                self.slots.remove(&host);
                self.written_off.insert(host);
                self.unhealthy.entry(host).or_default();
                self.deployments.values_mut().for_each(|tally| tally.leave(host));
                if let Some(Granted { group, .. }) = self.grants.get(&token).cloned() {
                    if let Some(group) = self.groups.get_mut(&group) {
                        group.current.remove(&host);
                        group.late.remove(&host);
                    }
                    self.broken.insert((group, host));
                }
                self.held_off(since.map(|(since, _)| since), now, &format!("slot {token}"))
            }
        }
    }

    fn held_off(&self, since: Option<Micros>, now: Micros, what: &str) -> Checked {
        let least = u64::try_from(RELEASE_HOLD_OFF.as_micros()).unwrap_or(Micros::MAX);
        unless(has_passed(since, now, least), "R7", || {
            format!("{what} was free before its hold-off")
        })
    }

    fn grant(
        &mut self,
        moment: &Moment<'_>,
        host: HostId,
        order: Digest,
        release: Digest,
    ) -> Checked {
        let token = moment.index;
        unless(token > self.last_token, "S4", || format!("slot {token} is not a new one"))?;
        self.last_token = token;
        let held = self.slots.get(&host);
        unless(held.is_none(), "S4", || format!("{} holds a slot already", host.short()))?;
        unless(self.members.contains_key(&host), "R7", || {
            format!("slot {token} is for {}, who is nobody", host.short())
        })?;
        unless(!self.uncounted.contains(&host), "S8", || {
            format!("slot {token} is for {}, which has not said what it holds", host.short())
        })?;
        unless(!self.drained.contains(&host), "S4", || {
            format!("slot {token} is for {}, which operators keep", host.short())
        })?;
        let all = self.groups.values().filter_map(|group| group.running);
        let is_it = |id: &DeploymentId| {
            let tally = &self.deployments[id];
            tally.order == order && tally.release == release
        };
        let Some(deployment) = all.into_iter().find(is_it) else {
            return unless(false, "R2", || format!("slot {token} is for nothing that runs"));
        };
        let group = self.deployments[&deployment].group.clone();
        unless(!self.groups[&group].frozen, "R5", || {
            format!("slot {token} is granted in {group}, which is frozen")
        })?;
        let is_first_aid = self.is_first_aid(&group, host);
        let mut unserved = self.deployments[&deployment].targets.clone();
        unserved.retain(|target| self.is_unserved(&group, *target));
        let tally = self.deployments.get_mut(&deployment).expect("it was found");
        unless(!tally.stopped, "R2", || format!("slot {token} is granted after a stop"))?;
        unless(!tally.paused, "R5", || format!("slot {token} is granted in a pause"))?;
        unless(tally.held.is_none(), "R4", || format!("slot {token} is granted between stages"))?;
        let stage = tally.stage_of.get(&host).copied();
        unless(stage.is_some_and(|stage| stage <= tally.stage) || is_first_aid, "R4", || {
            format!("slot {token} is of stage {stage:?}, and the turn is that of {}", tally.stage)
        })?;
        unless(!tally.canary_failed(), "R4", || {
            format!("slot {token} is granted after a canary failed")
        })?;
        unless(!tally.overdue, "R4", || format!("slot {token} is granted after the deadline"))?;
        unless(!tally.over_budget(), "R1", || {
            format!("slot {token} is granted after {} hosts failed", tally.failed.len())
        })?;
        unless(tally.targets.contains(&host) && !tally.is_over(host), "R2", || {
            format!("slot {token} is for {}, whose part is over", host.short())
        })?;
        let well = tally.targets.len() - tally.failed.len();
        let down = tally.down_beside(host, &unserved);
        unless(well.cast_signed() > tally.floor() + down.cast_signed(), "R1", || {
            let failed = tally.failed.len();
            format!("slot {token}: {failed} hosts failed, {down} are down, and one more is taken")
        })?;
        tally.busy.insert(host);
        let (bounds, excused) = self.bounds(token, host, false)?;
        self.slots.insert(host, token);
        self.grants.insert(token, Granted { host, release, deployment, group, bounds, excused });
        Ok(())
    }

    /// True if nothing works on a host, and nobody on whom something does can have a slot whatever is given back.
    fn is_first_aid(&self, group: &GroupName, host: HostId) -> bool {
        let hosts = self.hosts_of(group);
        let idle =
            |other: &&HostId| self.is_down(group, **other) && !self.slots.contains_key(*other);
        let quotas = self.in_force(&self.groups[group], false).into_iter();
        let quota = quotas.map(|one| quota_of(one.minimum_healthy, &hosts)).min().unwrap_or(0);
        match self.broken.contains(&(group.clone(), host)) {
            true => hosts.iter().filter(idle).count() >= quota,
            false => self.is_bare(group, host) && quota == 0,
        }
    }

    /// How many may be down in the groups of a host that was just granted a slot.
    #[expect(clippy::type_complexity, reason = "two parts of a `Granted`")]
    fn bounds(
        &mut self,
        token: u64,
        host: HostId,
        lasts: bool,
    ) -> Result<(Vec<(Bound, usize, Arc<BTreeSet<HostId>>)>, BTreeSet<GroupName>), Violation> {
        let (mut bounds, mut excused) = (Vec::new(), BTreeSet::new());
        for (name, group) in &self.groups {
            if !self.matches(name, host) {
                continue;
            }
            let members = self.hosts_of(name);
            if self.is_unserved(name, host) {
                excused.insert(name.clone());
            }
            let in_force = self.in_force(group, lasts);
            let quotas = in_force.iter().map(|one| quota(one.minimum_healthy, members.len()));
            let quota = quotas.min().expect("there is always one");
            bounds.push(((name.clone(), None), quota, Arc::new(members.clone())));
            let zone = self.members[&host].zone.clone();
            let here = members.into_iter().filter(|other| self.members[other].zone == zone);
            let here: BTreeSet<_> = here.collect();
            let zones = in_force.iter().filter_map(|one| one.zones.as_ref());
            if let Some(quota) = zones.map(|zones| quota_of(zones.minimum_healthy, &here)).min() {
                bounds.push(((name.clone(), Some(zone)), quota, Arc::new(here)));
            }
        }
        // Groups stay as they are for long: what is kept of one grant is kept of the last one as well.
        for (bound, _, members) in &mut bounds {
            match self.bounded.get(bound).filter(|known| *known == members) {
                Some(known) => *members = known.clone(),
                None => drop(self.bounded.insert(bound.clone(), members.clone())),
            }
        }
        for ((name, zone), quota, members) in &bounds {
            // A host that was written off, and is not heard of yet, is counted with itself.
            let others = members.iter().filter(|other| **other != host);
            let down = others.filter(|other| self.is_down(name, **other)).count() + 1;
            unless(excused.contains(name) || down <= *quota, "S2", || {
                let of =
                    zone.as_ref().map_or_else(String::new, |zone| format!(" in zone {zone:?}"));
                format!("with slot {token}, {down} hosts of {name}{of} are down and {quota} may be")
            })?;
        }
        Ok((bounds, excused))
    }

    /// The configurations that bound a group now. A quota that is lowered stops new grants, whatever the
    /// deployment was ordered with; a higher one is for the next order. What outlasts the deployment is bounded by
    /// both.
    fn in_force<'a>(
        &'a self,
        group: &'a GroupRules,
        lasts: bool,
    ) -> Vec<&'a DeploymentConfiguration> {
        let Some(running) = group.running.map(|id| &self.deployments[&id]) else {
            return vec![&group.group.configuration];
        };
        let mut all = vec![&running.configuration];
        if running.group_version < group.group.version || lasts {
            all.push(&group.group.configuration);
        }
        all
    }

    fn matches(&self, group: &GroupName, host: HostId) -> bool {
        let filter = &self.groups[group].group.filter;
        self.members.get(&host).is_some_and(|known| filter.matches(&known.labels))
    }

    /// Those that count in a group.
    pub(crate) fn hosts_of(&self, group: &GroupName) -> BTreeSet<HostId> {
        let mut hosts = self.all_of(group);
        hosts.retain(|host| !self.is_bare(group, *host));
        hosts
    }

    /// Those, and others on which nothing of it ever ran.
    fn all_of(&self, group: &GroupName) -> BTreeSet<HostId> {
        let hosts = self.members.keys().filter(|host| self.matches(group, **host));
        hosts.filter(|host| !self.written_off.contains(host)).copied().collect()
    }

    /// True if nothing of a group ever ran on a host, while others have what is good. Until it has said
    /// what it holds nobody knows that.
    fn is_bare(&self, group: &GroupName, host: HostId) -> bool {
        let known = &self.groups[group];
        let never = !known.current.contains_key(&host)
            && !self.broken.contains(&(group.clone(), host))
            && !self.unsure.contains(&host)
            && !self.holds(group, host);
        known.last_good.is_some() && never
    }

    /// True if nothing of a group works on a host for certain.
    fn is_unserved(&self, group: &GroupName, host: HostId) -> bool {
        self.broken.contains(&(group.clone(), host)) || self.is_bare(group, host)
    }

    pub(crate) fn is_down(&self, group: &GroupName, host: HostId) -> bool {
        self.slots.contains_key(&host)
            || self.unhealthy.contains_key(&host)
            || self.drained.contains(&host)
            || self.uncounted.contains(&host)
            || self.broken.contains(&(group.clone(), host))
    }

    /// Hosts for which no deployment waits.
    fn away(&self) -> BTreeSet<HostId> {
        self.unhealthy.keys().chain(&self.drained).copied().collect()
    }

    /// True if a host is in the fleet and in reach, and holds no slot.
    pub(crate) fn is_left_alone(&self, host: HostId) -> bool {
        let is_down = self.slots.contains_key(&host)
            || self.unhealthy.contains_key(&host)
            || self.drained.contains(&host);
        self.is_member(host) && !is_down && !self.is_uncounted(host)
    }

    /// Operators have gone on with what is known here. Whoever is in the fleet may hold a slot that is
    /// not.
    pub(crate) fn recover(&mut self, generation: u64) {
        self.recovered_at = generation;
        self.uncounted = self.members.keys().copied().collect();
        self.unsure = self.uncounted.clone();
        self.written_off.clear();
        self.waived.clear();
    }

    /// True if a host has not said since that it holds no slot which was lost.
    pub(crate) fn is_uncounted(&self, host: HostId) -> bool {
        self.uncounted.contains(&host)
    }

    /// True if a host was in the fleet, and was removed or installed anew with another key.
    pub(crate) fn has_left(&self, host: HostId) -> bool {
        self.left.contains(&host)
    }

    /// The groups that a host is in.
    pub(crate) fn groups_of(&self, host: HostId) -> Vec<GroupName> {
        self.groups.keys().filter(|group| self.matches(group, host)).cloned().collect()
    }

    /// True if a host waits for a slot in a group that is full, of hosts that have not said what they
    /// hold among others.
    pub(crate) fn waits_for_census(&self, group: &GroupName) -> bool {
        let known = &self.groups[group];
        if known.running.is_none() {
            return false;
        }
        let hosts = self.hosts_of(group);
        let quotas = self
            .in_force(known, false)
            .into_iter()
            .map(|one| quota_of(one.minimum_healthy, &hosts));
        let quota = quotas.min().unwrap_or(0);
        let down = hosts.iter().filter(|host| self.is_down(group, **host)).count();
        let waits = hosts.iter().any(|host| !self.is_down(group, *host));
        waits && quota > 0 && down >= quota
    }

    /// How long a host is to be well before it gives a slot back.
    pub(crate) fn watch_of(&self, token: u64) -> Duration {
        let group = self.grants.get(&token).and_then(|granted| self.groups.get(&granted.group));
        let seconds = group.map_or(0, |group| group.group.minimum_healthy_seconds);
        Duration::from_secs(seconds.into())
    }

    /// True if an operator has released a slot, by an entry up to this one.
    pub(crate) fn is_released(&self, token: u64, applied: u64) -> bool {
        self.released.get(&token).is_some_and(|(_, index)| *index <= applied)
    }

    /// True if a host is in the fleet.
    pub(crate) fn is_member(&self, host: HostId) -> bool {
        self.members.contains_key(&host)
    }

    fn done(&mut self, host: HostId, token: u64, outcome: &Outcome) {
        self.slots.remove(&host);
        self.released.remove(&token);
        let Some(granted) = self.grants.get(&token) else { return };
        let entry = (granted.group.clone(), host);
        let group = self.groups.get_mut(&granted.group).expect("groups stay");
        let Some(tally) = self.deployments.get_mut(&granted.deployment) else { return };
        tally.busy.remove(&host);
        self.is_late = tally.end.is_some();
        let is_good = group.running.is_none() && group.last_good == Some(granted.release);
        match outcome {
            _ if !self.is_late => drop(group.late.remove(&host)),
            Outcome::Succeeded if !is_good => drop(group.late.insert(host)),
            _ => {}
        }
        match outcome {
            Outcome::Succeeded => {
                group.current.insert(host, granted.release);
                tally.succeeded.insert(host);
                self.broken.remove(&entry);
            }
            Outcome::Failed { restored, .. } => {
                tally.failed.insert(host);
                if !restored {
                    group.current.remove(&host);
                    self.broken.insert(entry);
                }
            }
            Outcome::Declined { .. } => {
                tally.declined.insert(host);
            }
        }
    }

    /// Compares with the ledger after an entry.
    pub(crate) fn sync(&mut self, moment: &Moment<'_>) -> Checked {
        let Moment { ledger, index, .. } = *moment;
        let slots: BTreeMap<_, _> = ledger.slots().map(|slot| (slot.host, slot.token)).collect();
        unless(slots == self.slots, "S5", || {
            format!("after entry {index} the slots are {slots:?}, not {:?}", self.slots)
        })?;
        let members = ledger.member_count();
        unless(members == self.members.len(), "R7", || {
            format!("after entry {index} the fleet has {members} hosts")
        })?;
        for host in self.members.keys() {
            let healthy = !self.unhealthy.contains_key(host);
            unless(ledger.is_healthy(*host) == healthy, "S2", || {
                format!("after entry {index} the health of {} is wrong", host.short())
            })?;
            unless(ledger.is_uncounted(*host) == self.is_uncounted(*host), "S8", || {
                format!("after entry {index} {} is counted, or is not", host.short())
            })?;
            unless(ledger.is_drained(*host) == self.drained.contains(host), "R7", || {
                format!("after entry {index} {} is drained, or is not", host.short())
            })?;
        }
        let written_off: BTreeSet<_> = ledger.written_off().map(|host| host.host).collect();
        unless(written_off == self.written_off, "R7", || {
            format!("after entry {index} the write-offs are {written_off:?}")
        })?;
        for (name, group) in &self.groups {
            unless(ledger.head(name).1 == group.head, "S9", || {
                format!("after entry {index} the head of {name} is another")
            })?;
        }
        // What ends makes room for what begins, which may be over at once: until nothing more follows.
        loop {
            self.count_beside();
            self.sync_stages(moment)?;
            self.sync_ends(moment)?;
            if !self.sync_turns(moment)? {
                return self.nothing_is_awaited_in_vain();
            }
        }
    }

    /// What runs is judged with the hosts of its group that it is not for.
    fn count_beside(&mut self) {
        for (name, id) in self
            .groups
            .iter()
            .filter_map(|(n, group)| Some((n.clone(), group.running?)))
            .collect::<Vec<_>>()
        {
            let targets: BTreeSet<_> = self.deployments[&id].stage_of.keys().copied().collect();
            let all = self.all_of(&name);
            let others = all.difference(&targets).filter(|host| !self.is_unserved(&name, **host));
            let beside = others.count();
            self.deployments.get_mut(&id).expect("it runs").beside = beside;
        }
    }

    /// A deployment does not wait for a host that holds a slot and is away where nothing hangs on it; and who
    /// comes too late is sent back like the others.
    fn nothing_is_awaited_in_vain(&self) -> Checked {
        let away = self.away();
        for (id, tally) in self.deployments.iter().filter(|(_, tally)| tally.began.is_some()) {
            let silent = tally.busy.iter().all(|host| self.unhealthy.contains_key(host));
            let clear = tally.stopped || tally.is_lost() || tally.is_won(&away);
            let deserted = tally.catches_up && tally.is_deserted(&away);
            let waits = tally.end.is_none() && ((silent && clear) || deserted);
            unless(!waits || self.left_held(&tally.group) >= DEPLOYMENTS_HELD_MAX, "R8", || {
                format!("{id} waits for hosts that are away, and nothing hangs on them")
            })?;
        }
        self.groups.keys().try_for_each(|name| self.nobody_is_left_late(name))
    }

    /// Where nothing runs nobody who can be brought is where it came late, and the others are not.
    fn nobody_is_left_late(&self, name: &GroupName) -> Checked {
        let group = &self.groups[name];
        let is_at_rest = group.running.is_none() && group.queue.is_empty() && !group.frozen;
        if group.late.is_empty() || !is_at_rest {
            return Ok(());
        }
        let Some((to, _)) = self.others_are_at(name) else { return Ok(()) };
        let own = &group.group.configuration;
        let away = self.away();
        let may_go = |host: &HostId| {
            let is_there = !away.contains(host) && !self.holds(name, *host);
            is_there && !self.never_goes(name, own, *host)
        };
        let hosts = self.hosts_of(name);
        let mut late = hosts.intersection(&group.late);
        let strayed = late.any(|host| may_go(host) && group.current.get(host) != Some(&to));
        // By an order that was for other hosts nobody goes.
        let same = self.newest(name).is_some_and(|it| it.group_version == group.group.version);
        let none_goes = quota_of(own.minimum_healthy, &hosts) == 0;
        unless(!same || none_goes || !strayed, "R3", || {
            format!("a host of {name} runs what it took late, and the others do not")
        })
    }

    /// True if a host holds a slot of a group.
    fn holds(&self, group: &GroupName, host: HostId) -> bool {
        self.slots.get(&host).is_some_and(|token| self.grants[token].group == *group)
    }

    /// What came of a group's newest order to deploy or to go back.
    fn newest(&self, group: &GroupName) -> Option<&Tally> {
        let newest = self.groups[group].newest?;
        self.deployments.get(&DeploymentId::of(newest, false))
    }

    /// The release that the newest order left a group at, if hosts follow it there; with true that is back.
    fn others_are_at(&self, group: &GroupName) -> Option<(Digest, bool)> {
        let newest = self.newest(group)?;
        let id = DeploymentId::of(newest.order, false);
        let acted = self.grants.values().any(|granted| granted.deployment == id);
        let failed = matches!(newest.end, Some(DeploymentStatus::Failed { .. }));
        let stopped = newest.end == Some(DeploymentStatus::Stopped);
        let undone = newest.by_operator && (failed || (stopped && newest.goes_back_when_stopped));
        let to = match newest.end {
            Some(DeploymentStatus::Succeeded) => Some((newest.release, false)),
            _ if undone => newest.fallback.map(|fallback| (fallback, true)),
            _ => None,
        };
        // Of one that never acted nobody was sent back; all others are at the last success then.
        let last_good = self.groups[group].last_good;
        let good = |to: &Digest, back: bool| !back || acted || last_good == Some(*to);
        let may = self.stopped.get(&newest.order);
        to.filter(|(to, back)| good(to, *back) && may.is_none_or(|full| !full && *back))
    }

    /// True if a release was tried in a group and was never good: nobody is sent back to it.
    fn has_failed(&self, group: &GroupName, release: Digest) -> bool {
        let of_group = self.deployments.values().filter(|tally| tally.group == *group);
        let mut tried = of_group.filter(|tally| tally.release == release).peekable();
        let was_good = self.groups[group].last_good == Some(release);
        tried.peek().is_some()
            && !was_good
            && tried.all(|tally| tally.end != Some(DeploymentStatus::Succeeded))
    }

    /// Deployments of a group that are over and of which slots are held.
    fn left_held(&self, group: &GroupName) -> usize {
        let left = self.deployments.values().filter(|tally| tally.end.is_some());
        left.filter(|tally| tally.group == *group && !tally.busy.is_empty()).count()
    }

    /// A stage begins when all before it are done, have been looked at and have baked.
    fn sync_stages(&mut self, moment: &Moment<'_>) -> Checked {
        let away = self.away();
        for (id, tally) in &mut self.deployments {
            let Some(deployment) = moment.ledger.deployment(*id) else { continue };
            if tally.began.is_none() || tally.end.is_some() {
                continue;
            }
            let now = usize::try_from(deployment.stage).unwrap_or(usize::MAX);
            unless(now >= tally.stage, "R4", || format!("{id} goes back to stage {now}"))?;
            for stage in tally.stage..now {
                let StageRules { is_canary, pause, bake_seconds } = tally.stages[stage];
                unless(!pause && bake_seconds == 0, "R4", || {
                    format!("stage {stage} of {id} was not waited for")
                })?;
                let begun = tally.stage_of.iter().filter(|(_, its)| **its <= stage);
                let open = begun.map(|(host, _)| host).find(|host| {
                    let is_away = away.contains(host) && !tally.busy.contains(host);
                    !tally.is_over(**host) && !is_away
                });
                unless(open.is_none(), "R4", || {
                    format!("stage {} of {id} begins before stage {stage} is done", stage + 1)
                })?;
                let spoke =
                    tally.succeeded.iter().any(|host| tally.stage_of.get(host) == Some(&stage));
                unless(!is_canary || spoke, "R4", || format!("the canary of {id} said nothing"))?;
            }
            tally.stage = now;
            match (deployment.hold.is_some(), tally.held) {
                (true, None) => tally.held = Some(moment.now),
                (false, Some(_)) => {
                    return unless(false, "R4", || format!("{id} does not wait any more"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn sync_ends(&mut self, moment: &Moment<'_>) -> Checked {
        // What ran makes room for what began after it and was over with that, and so does that, in turn.
        let mut all: Vec<_> = self.deployments.keys().copied().collect();
        let turn = |id: &DeploymentId| {
            let Tally { began, group, .. } = &self.deployments[id];
            let queue = &self.groups[group].queue;
            (began.is_none(), queue.iter().position(|queued| queued == id))
        };
        all.sort_by_cached_key(turn);
        for id in all {
            self.sync_end(moment, id)?;
        }
        Ok(())
    }

    fn sync_end(&mut self, moment: &Moment<'_>, id: DeploymentId) -> Checked {
        let Some(deployment) = moment.ledger.deployment(id) else { return Ok(()) };
        let waits = |tally: &&Tally| tally.began.is_none() && tally.end.is_none();
        let waiting = self.deployments.get(&id).filter(waits);
        let lacks_stage = waiting.is_some_and(|tally| !self.has_stages(tally));
        let Some(tally) = self.deployments.get_mut(&id) else { return Ok(()) };
        for (host, target) in &deployment.targets {
            let counts = target.status == TargetStatus::Succeeded;
            unless(!counts || tally.succeeded.contains(host), "R1", || {
                format!("{} counts as a success and did not say so", host.short())
            })?;
        }
        let is_over = deployment.status.is_over();
        unless(is_over || tally.end.is_none(), "R3", || {
            format!("deployment {id} was over and runs again")
        })?;
        if !is_over || tally.end.is_some() {
            return Ok(());
        }
        let group = self.groups.get_mut(&tally.group).expect("groups stay");
        if tally.began.is_none() {
            // It was over before it began: stopped, out of time, or for nobody.
            let expired = tally.not_after.is_some_and(|until| until < moment.at);
            let changed = tally.group_version != group.group.version;
            let may_not = expired || changed || lacks_stage;
            let good = match &deployment.status {
                DeploymentStatus::Stopped => tally.stopped,
                DeploymentStatus::Failed { .. } => may_not,
                _ => !may_not && deployment.targets.is_empty(),
            };
            if good {
                tally.end = Some(deployment.status.clone());
                group.queue.retain(|queued| *queued != id);
                return Ok(());
            }
            // Or it began and was over with that.
            let name = tally.group.clone();
            self.begin(moment, &name, id, deployment)?;
        }
        let away = self.away();
        let Some(tally) = self.deployments.get(&id) else { return Ok(()) };
        let (of, own) = (&tally.group, &tally.configuration);
        let hosts = self.hosts_of(of);
        let in_force = self.in_force(&self.groups[of], false);
        let is_zero = |one: &&DeploymentConfiguration| quota_of(one.minimum_healthy, &hosts) == 0;
        let none_goes = in_force.iter().chain([&own]).any(is_zero)
            && tally.idle().all(|host| !self.is_unserved(of, host));
        let shut = none_goes || tally.idle().any(|host| self.never_goes(of, own, host));
        let deserted = tally.catches_up && tally.is_deserted(&away);
        let Some(tally) = self.deployments.get_mut(&id) else { return Ok(()) };
        let group = self.groups.get_mut(&tally.group).expect("groups stay");
        tally.end = Some(deployment.status.clone());
        if group.running == Some(id) {
            group.running = None;
        }
        unless(tally.busy.iter().all(|host| self.unhealthy.contains_key(host)), "R1", || {
            format!("{id} is over while hosts are at work for it")
        })?;
        let good = match &deployment.status {
            DeploymentStatus::Succeeded if deserted => {
                tally.succeeded.len() >= tally.must_succeed()
            }
            DeploymentStatus::Succeeded => tally.is_won(&away),
            DeploymentStatus::Failed { .. } => tally.is_lost() || (shut && !tally.stopped),
            _ => tally.stopped || deserted,
        };
        unless(good, "R1", || {
            let (have, all) = (tally.succeeded.len(), tally.targets.len());
            format!("{id} ends as {:?} with {have} of {all}", deployment.status)
        })?;
        if deployment.status == DeploymentStatus::Succeeded {
            group.last_good = Some(tally.release);
            group.late.retain(|host| group.current.get(host) != Some(&tally.release));
        }
        Ok(())
    }

    /// Whose turn it is. True if something has begun.
    fn sync_turns(&mut self, moment: &Moment<'_>) -> Result<bool, Violation> {
        let mut begun = false;
        let names: Vec<_> = self.groups.keys().cloned().collect();
        // What nobody ordered may have begun, and be over with that.
        for deployment in moment.ledger.deployments() {
            if !self.deployments.contains_key(&deployment.id) && deployment.status.is_over() {
                self.begin(moment, &deployment.group, deployment.id, deployment)?;
                begun = true;
            }
        }
        for name in names {
            let running = moment.ledger.group(&name).and_then(|view| view.running);
            let fresh = running.filter(|id| self.groups[&name].running != Some(*id));
            let deployment = fresh.and_then(|id| moment.ledger.deployment(id));
            if let Some(deployment) = deployment {
                self.begin(moment, &name, deployment.id, deployment)?;
                begun = true;
            }
        }
        Ok(begun)
    }

    fn begin(
        &mut self,
        moment: &Moment<'_>,
        name: &GroupName,
        id: DeploymentId,
        deployment: &Deployment,
    ) -> Checked {
        let group = &self.groups[name];
        unless(group.running.is_none(), "R2", || format!("{name} deploys twice at once"))?;
        let goes_back = deployment.creator == Creator::Rollback && deployment.goes_back;
        unless(!group.frozen || goes_back, "R5", || format!("{id} begins in a frozen group"))?;
        let mut tally = match self.deployments.remove(&id) {
            Some(tally) => {
                unless(tally.end.is_none(), "R3", || format!("{id} runs again"))?;
                unless(group.queue.first() == Some(&id), "R6", || {
                    format!("{id} begins before its turn")
                })?;
                let fallback = tally.fallback.filter(|release| !self.has_failed(name, *release));
                Tally { fallback, ..tally }
            }
            None if deployment.creator == Creator::CatchUp => self.caught_up(name, deployment)?,
            None => self.undone(id, deployment)?,
        };
        let group = self.groups.get_mut(name).expect("it is there");
        group.queue.retain(|queued| *queued != id);
        group.running = Some(id);
        let wanted = self.targets(&tally);
        let targets: BTreeSet<_> = deployment.targets.keys().copied().collect();
        unless(wanted.is_none_or(|wanted| wanted == targets), "R6", || {
            format!("{id} is for other hosts than it must be")
        })?;
        tally.targets = targets;
        unless(self.has_stages(&tally), "R4", || {
            format!("{id} begins and has no canary, or nobody in a wave")
        })?;
        tally.began = Some(moment.now);
        tally.paused &= tally.by_operator;
        self.place(&mut tally, deployment)?;
        self.deployments.insert(id, tally);
        Ok(())
    }

    /// CodeDeploy's HEALTH_CONSTRAINTS_INVALID, for each zone by itself: what can never be done is not
    /// begun.
    fn can_be_done(&self, id: DeploymentId) -> Checked {
        let tally = &self.deployments[&id];
        let targets = self.targets(tally).unwrap_or_default();
        // Those on which nothing ran go first, and count then.
        let all = self.all_of(&tally.group);
        let shut = |host: &HostId| self.is_shut(&tally.group, &all, &tally.configuration, *host);
        unless(!targets.iter().any(shut), "R1", || {
            format!("{id} is taken, and of a zone of it none may be down")
        })
    }

    /// True if all hosts of a host's zone must stay well, which keeps it as it is. One that a release has
    /// broken is not well.
    fn never_goes(&self, group: &GroupName, own: &DeploymentConfiguration, host: HostId) -> bool {
        self.is_shut(group, &self.hosts_of(group), own, host)
    }

    /// The same, if these are the hosts that count.
    fn is_shut(
        &self,
        group: &GroupName,
        hosts: &BTreeSet<HostId>,
        own: &DeploymentConfiguration,
        host: HostId,
    ) -> bool {
        let Some(zones) = &own.zones else { return false };
        let zone = |host: &HostId| self.members.get(host).map(|known| &known.zone);
        let here = hosts.iter().filter(|other| zone(other) == zone(&host)).copied().collect();
        !self.is_unserved(group, host) && quota_of(zones.minimum_healthy, &here) == 0
    }

    /// False if a canary, or a wave, is asked for by labels that no host of the group has. No canary is a
    /// host that was written off.
    fn has_stages(&self, tally: &Tally) -> bool {
        if !tally.by_operator {
            return true;
        }
        let is_in = |host: &HostId, labels: &Labels| labels.matches(&self.members[host].labels);
        let own = &tally.configuration;
        let is_canary = match own.canary.as_ref().map(|canary| &canary.hosts) {
            Some(CanaryHosts::Labels(labels)) => {
                self.all_of(&tally.group).iter().any(|host| is_in(host, labels))
            }
            _ => true,
        };
        let mut members: Vec<_> = self.members.keys().collect();
        members.retain(|host| self.matches(&tally.group, **host));
        is_canary && own.waves.iter().all(|wave| members.iter().any(|host| is_in(host, wave)))
    }

    /// Whom a deployment must be for, where that follows from its order.
    fn targets(&self, tally: &Tally) -> Option<BTreeSet<HostId>> {
        let current = &self.groups[&tally.group].current;
        let mut hosts = self.all_of(&tally.group);
        hosts.retain(|host| {
            let broken = self.broken.contains(&(tally.group.clone(), *host));
            match tally.reach {
                Reach::All | Reach::Some => true,
                Reach::Outdated => broken || current.get(host) != Some(&tally.release),
                Reach::Strayed => broken || current.get(host).is_some_and(|c| *c != tally.release),
            }
        });
        (tally.reach != Reach::Some).then_some(hosts)
    }

    /// A deployment that nobody ordered brings hosts to what the others run.
    fn caught_up(&mut self, name: &GroupName, deployment: &Deployment) -> Result<Tally, Violation> {
        let group = &self.groups[name];
        let to = (deployment.release, deployment.goes_back);
        self.late_brought = self.others_are_at(name) == Some(to)
            && deployment.targets.keys().all(|host| group.late.contains(host));
        let late = group.group.catch_up || group.group.deploy_to_new_hosts;
        let newest = group.newest == Some(deployment.order);
        let good = group.last_good == Some(deployment.release);
        let stopped = self.stopped.get(&deployment.order);
        let may = stopped.is_none_or(|full| !full && deployment.goes_back);
        let may_come = self.late_brought || (late && good && may);
        unless(may_come && newest && group.queue.is_empty(), "R6", || {
            format!("{} catches up without leave", deployment.id)
        })?;
        let away = self.away();
        let behind = deployment.targets.keys().all(|host| {
            let broken = self.broken.contains(&(name.clone(), *host));
            let behind = group.current.get(host) != Some(&deployment.release);
            (broken || behind) && !away.contains(host) && !self.holds(name, *host)
        });
        unless(behind, "R6", || format!("{} is for hosts that need nothing", deployment.id))?;
        let mut configuration = group.group.configuration.clone();
        configuration.deployment_deadline_seconds = None;
        // Hosts follow the order by the group as it was then.
        let ordered = self.deployments.get(&DeploymentId::of(deployment.order, false));
        let Some(group_version) = ordered.map(|tally| tally.group_version) else {
            return Err(Violation {
                promise: "R6",
                what: format!("{} has no order", deployment.id),
            });
        };
        Ok(Tally {
            order: deployment.order,
            release: deployment.release,
            group: name.clone(),
            group_version,
            configuration,
            catches_up: true,
            ..Tally::new(Reach::Some)
        })
    }

    /// A deployment that undoes one that an operator ordered, on the hosts that took it.
    fn undone(&self, id: DeploymentId, deployment: &Deployment) -> Result<Tally, Violation> {
        let undone = self.deployments.get(&DeploymentId::of(deployment.order, false));
        let Some(undone) = undone.filter(|undone| undone.by_operator) else {
            return Err(Violation { promise: "R3", what: format!("{id} undoes nothing") });
        };
        let to = undone.fallback == Some(deployment.release);
        let took = deployment.targets.keys().all(|host| undone.succeeded.contains(host));
        unless(undone.was_undone() && to && took, "R3", || {
            format!("{id} goes back without reason")
        })?;
        Ok(Tally {
            order: undone.order,
            release: deployment.release,
            group: undone.group.clone(),
            group_version: undone.group_version,
            configuration: undone.configuration.clone(),
            budget: undone.budget,
            ..Tally::new(Reach::Some)
        })
    }

    /// In which order its hosts go.
    fn place(&self, tally: &mut Tally, deployment: &Deployment) -> Checked {
        // Who goes back or catches up has no canary to wait for: the release has run before.
        let staged = tally.by_operator;
        let own = &tally.configuration;
        let canary = own.canary.as_ref().filter(|_| staged);
        let drawn: BTreeSet<_> = deployment
            .targets
            .iter()
            .filter(|(_, target)| {
                let stage = usize::try_from(target.stage).unwrap_or(usize::MAX);
                deployment.stages.get(stage).is_some_and(|stage| stage.is_canary)
            })
            .map(|(host, _)| *host)
            .collect();
        let is_first = |host: &HostId, known: &Known| match canary.map(|canary| &canary.hosts) {
            None => false,
            Some(CanaryHosts::Labels(labels)) => labels.matches(&known.labels),
            Some(CanaryHosts::Count(_)) => drawn.contains(host),
        };
        if let Some(CanaryHosts::Count(count)) = canary.map(|canary| &canary.hosts) {
            let wanted = tally.targets.len().min(usize::try_from(*count).unwrap_or(usize::MAX));
            unless(drawn.len() == wanted, "R4", || {
                format!("{} hosts of {} are the canary", drawn.len(), deployment.id)
            })?;
        }
        let place = |host: &HostId| {
            let known = &self.members[host];
            let wave = match own.waves.iter().position(|wave| wave.matches(&known.labels)) {
                _ if is_first(host, known) => 0,
                Some(wave) if staged => wave + 1,
                _ => own.waves.len() + 1,
            };
            let zone = known.zone.clone().filter(|_| staged && own.zones.is_some());
            (wave, zone.is_none(), zone)
        };
        let places: BTreeSet<_> = tally.targets.iter().map(place).collect();
        let places: Vec<_> = places.into_iter().collect();
        let number = |host: &HostId| places.iter().position(|its| *its == place(host)).unwrap_or(0);
        tally.stage_of = tally.targets.iter().map(|host| (*host, number(host))).collect();
        for (at, (wave, ..)) in places.iter().enumerate() {
            let mut stage = StageRules { is_canary: *wave == 0, ..StageRules::default() };
            if let Some((next, ..)) = places.get(at + 1) {
                if let Some(zones) = own.zones.as_ref().filter(|_| staged) {
                    let first = places.iter().position(|(wave, ..)| *wave > 0) == Some(at);
                    stage.bake_seconds =
                        if first { zones.first_bake_seconds } else { zones.bake_seconds };
                }
                if let Some(canary) = canary.filter(|_| *wave == 0 && *next > 0) {
                    // A look or a wait, and never both.
                    stage.pause = canary.pause;
                    stage.bake_seconds = match canary.pause {
                        true => 0,
                        false => stage.bake_seconds.max(canary.bake_seconds),
                    };
                }
            }
            tally.stages.push(stage);
        }
        for (host, target) in &deployment.targets {
            let stage = usize::try_from(target.stage).unwrap_or(usize::MAX);
            unless(tally.stage_of[host] == stage, "R4", || {
                format!("{} goes in stage {stage} of {}", host.short(), deployment.id)
            })?;
        }
        Ok(())
    }
}

impl Tally {
    fn new(reach: Reach) -> Self {
        Self {
            order: Digest::ZERO,
            release: Digest::ZERO,
            fallback: None,
            group: GroupName::new("none").expect("a good name"),
            group_version: 0,
            not_after: None,
            configuration: MinimumHealthy::AllAtOnce.into(),
            budget: None,
            reach,
            by_operator: false,
            catches_up: false,
            began: None,
            stages: Vec::new(),
            stage_of: BTreeMap::new(),
            stage: 0,
            held: None,
            paused: false,
            stopped: false,
            goes_back_when_stopped: false,
            overdue: false,
            targets: BTreeSet::new(),
            beside: 0,
            busy: BTreeSet::new(),
            failed: BTreeSet::new(),
            lost: BTreeSet::new(),
            succeeded: BTreeSet::new(),
            declined: BTreeSet::new(),
            end: None,
        }
    }
}

fn quota(configuration: MinimumHealthy, hosts: usize) -> usize {
    hosts.saturating_sub(minimum(configuration, hosts))
}

fn quota_of(configuration: MinimumHealthy, hosts: &BTreeSet<HostId>) -> usize {
    quota(configuration, hosts.len())
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

/// True if so much time has passed by the leader's clock, which may run fast by a twentieth.
fn has_passed(since: Option<Micros>, now: Micros, least: Micros) -> bool {
    since.is_some_and(|since| now - since >= least * 95 / 100)
}
