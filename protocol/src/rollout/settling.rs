//! What follows from an entry that was carried out: stages that are done, deployments that are over,
//! rollbacks, and whose turn it is next.

use std::collections::BTreeSet;

use super::{
    deployment::{Creator, Deployment, DeploymentStatus, Hold, Scope, TargetStatus},
    kept::Kept,
    ledger::{GroupState, Ledger},
    refusal::Refusal,
};
use crate::{
    ids::{DeploymentId, Digest, GroupName, HostId},
    limits::{
        DEPLOYMENTS_HELD_MAX, DEPLOYMENTS_KEPT_PER_GROUP, ORDERS_KEPT_PER_GROUP, REPORTS_BYTES_MAX,
    },
    sabotage::{Defect, planted},
    time::UnixSeconds,
    trust::{Action, Group, Verified},
};

impl Ledger {
    /// Draws the consequences until nothing more follows. What begins may be over at once.
    pub(super) fn settle(&mut self, at: UnixSeconds) {
        let mut touched = BTreeSet::new();
        loop {
            self.advance(at);
            let unfinished = self.state.deployments.values();
            let ended: Vec<_> = unfinished.filter_map(|d| Some((d.id, self.verdict(d)?))).collect();
            for (id, verdict) in ended {
                touched.extend(self.deployment(id).map(|deployment| deployment.group.clone()));
                self.end(at, id, verdict);
            }
            let idle = self.state.groups.values().filter(|group| group.running.is_none());
            let idle: Vec<_> = idle.map(|group| group.group.name.clone()).collect();
            let begun = idle.iter().filter(|group| self.begin_next(at, group)).count();
            if begun == 0 {
                break;
            }
        }
        for group in touched {
            self.forget_reports(&group);
            self.forget_orders(&group);
        }
    }

    /// Draws the consequences of what one host has done or was given in a deployment. Nothing else can
    /// follow from that before the deployment is over, and there is much of it on a busy day.
    pub(super) fn settle_one(&mut self, at: UnixSeconds, id: DeploymentId) {
        let away = |host| self.is_away(host);
        let deployment = self.deployment(id);
        // Of one that is over there may be hosts to bring where the others are.
        let moves = deployment
            .is_none_or(|d| d.status.is_over() || (d.is_granting() && d.stage_is_done(away)));
        if moves || deployment.is_none_or(|d| self.verdict(d).is_some()) {
            self.settle(at);
        }
    }

    fn verdict(&self, deployment: &Deployment) -> Option<DeploymentStatus> {
        let group = self.state.groups.get(&deployment.group);
        let away = |host| self.is_away(host);
        // One on which nothing works may go, and make room for others.
        let mut rest = deployment.targets.values().filter(|target| !target.status.is_over());
        let none_goes =
            group.is_some_and(|group| self.quota(group) == 0) && rest.all(|target| target.serves);
        let own = &deployment.configuration;
        let shut = |host| none_goes || group.is_some_and(|group| self.is_shut(group, own, host));
        let verdict = deployment.verdict(away, shut)?;
        let is_held = deployment.count(TargetStatus::is_busy) > 0;
        (!is_held || self.may_be_left(&deployment.group)).then_some(verdict)
    }

    /// True if a deployment of a group may be over while hosts that are away hold slots of it. What is kept
    /// for their return is bounded.
    fn may_be_left(&self, group: &GroupName) -> bool {
        self.left_held(group).len() < DEPLOYMENTS_HELD_MAX && !planted(Defect::DeadHolderAwaited)
    }

    /// Deployments of a group that are over and of which slots are held still.
    pub(super) fn left_held(&self, group: &GroupName) -> BTreeSet<DeploymentId> {
        let held = self.state.slots.values().filter_map(|slot| self.deployment(slot.deployment));
        let left = held.filter(|d| d.group == *group && d.status.is_over());
        left.map(|deployment| deployment.id).collect()
    }

    /// Lets the next stage begin where the present one is done and nothing is waited for.
    fn advance(&mut self, at: UnixSeconds) {
        let (unhealthy, drained) = (self.state.unhealthy.clone(), self.state.drained.clone());
        let away = |host| unhealthy.contains_key(&host) || drained.contains_key(&host);
        let is_done = |d: &Deployment| d.is_granting() && d.stage_is_done(away);
        let done = self.state.deployments.values().filter(|deployment| is_done(deployment));
        for id in done.map(|deployment| deployment.id).collect::<Vec<_>>() {
            let Some(deployment) = self.deployment_mut(id) else { continue };
            while is_done(deployment) {
                let Some(stage) = deployment.present_stage() else { break };
                let bake = UnixSeconds(at.0.saturating_add(stage.bake_seconds.into()));
                match (stage.pause, stage.bake_seconds) {
                    _ if planted(Defect::HoldSkipped) => deployment.stage += 1,
                    (true, _) => deployment.hold = Some(Hold::Canary),
                    (false, 0) => deployment.stage += 1,
                    (false, _) => deployment.hold = Some(Hold::Bake { until: bake }),
                }
            }
        }
    }

    fn end(&mut self, at: UnixSeconds, id: DeploymentId, verdict: DeploymentStatus) {
        let Some(deployment) = self.deployment_mut(id) else { return };
        deployment.status = verdict.clone();
        deployment.ended_at = Some(at);
        let deployment = deployment.clone();
        self.skip_rest(id);
        let Some(group) = self.state.groups.get_mut(&deployment.group) else { return };
        group.running = None;
        if verdict == DeploymentStatus::Succeeded {
            group.last_good = Some(deployment.release);
            let current = group.current.clone();
            group.late.retain(|host| current.get(host) != Some(&deployment.release));
            // From its first success on, hosts without one do not count.
            self.count_anew(&deployment.group);
        }
        let failed = matches!(verdict, DeploymentStatus::Failed { .. });
        let again = planted(Defect::RollbackOfRollback) && failed;
        if deployment.is_undone() || again {
            let took = deployment.targets.iter();
            let took = took.filter(|(_, t)| t.status == TargetStatus::Succeeded || again);
            let took: Vec<_> = took.map(|(host, _)| *host).collect();
            self.roll_back(at, &deployment, &took);
        }
    }

    /// Brings hosts that took a release back to its order's fallback. There is no rollback of a
    /// rollback.
    fn roll_back(&mut self, at: UnixSeconds, undone: &Deployment, took: &[HostId]) {
        let Some(fallback) = undone.fallback else { return };
        let Some(release) = self.release(fallback) else { return };
        let took: Vec<_> = took.iter().copied().filter(|host| self.is_member(*host)).collect();
        if took.is_empty() {
            return;
        }
        let why = match undone.status {
            DeploymentStatus::Stopped => "was stopped",
            _ => "failed",
        };
        // It undoes a deployment under the configuration that the operator gave that one.
        let mut rollback = Deployment {
            id: DeploymentId::of(undone.order, true),
            release: fallback,
            label: release.label,
            creator: Creator::Rollback,
            reason: format!("deployment {} {why}", undone.id),
            fallback: undone.fallback.filter(|_| planted(Defect::RollbackOfRollback)),
            goes_back: true,
            scope: Scope::Some,
            ..undone.clone()
        };
        // Time does not end the way back.
        rollback.configuration.deployment_deadline_seconds = None;
        self.place(&mut rollback, &took);
        self.begin(at, rollback);
    }

    /// The deployment of a group's newest order to deploy or to go back.
    pub(super) fn newest_ordered(&self, group: &GroupName) -> Option<&Deployment> {
        let of_group = self.state.deployments.values().map(|deployment| &**deployment);
        let ordered =
            of_group.filter(|d| d.group == *group && d.id == DeploymentId::of(d.order, false));
        ordered.max_by_key(|deployment| deployment.index)
    }

    /// Begins what waits in a group where nothing runs; true if something began or was refused.
    fn begin_next(&mut self, at: UnixSeconds, name: &GroupName) -> bool {
        let Some(group) = self.state.groups.get_mut(name) else { return false };
        if group.running.is_some() {
            return true;
        }
        if group.frozen.is_some() && !planted(Defect::FrozenBegins) {
            return false;
        }
        if group.queue.is_empty() {
            return self.catch_up(at, name);
        }
        let next = if planted(Defect::QueueOvertaken) { group.queue.len() - 1 } else { 0 };
        let id = group.queue.remove(next);
        let Some(mut deployment) = self.deployment(id).cloned() else { return true };
        let Some(group) = self.state.groups.get(name) else { return true };
        let has_stages = match deployment.scope {
            Scope::Strayed => Ok(()),
            _ => self.check_stages(group, &deployment.configuration),
        };
        let has_stages = has_stages.map_err(|refusal| match refusal {
            Refusal::NoWave { .. } => format!("NO_WAVE: {refusal}"),
            refusal => format!("NO_CANARY: {refusal}"),
        });
        if let Err(reason) = may_begin(at, group, &deployment).and(has_stages) {
            if let Some(deployment) = self.deployment_mut(id) {
                deployment.status = DeploymentStatus::Failed { reason };
                deployment.ended_at = Some(at);
            }
            self.skip_rest(id);
            return true;
        }
        // The release to go back to may have been on its way when the order was signed. If it has failed
        // meanwhile nobody is sent there.
        let has_failed = |release: Digest| {
            let mut of_group = self.state.deployments.values().filter(|d| d.group == *name);
            let ran = |d: &Deployment| d.release == release && d.id != id;
            let (mut good, mut bad) = (group.last_good == Some(release), false);
            of_group.by_ref().filter(|d| ran(d)).for_each(|d| match d.status {
                DeploymentStatus::Succeeded => good = true,
                _ => bad = true,
            });
            bad && !good
        };
        deployment.fallback = deployment.fallback.filter(|release| !has_failed(*release));
        deployment.previous = group.last_good;
        self.choose_targets(group, &mut deployment);
        if deployment.targets.is_empty() {
            deployment.status = DeploymentStatus::Succeeded;
            deployment.ended_at = Some(at);
            self.state.deployments.insert(id, deployment.into());
            return true;
        }
        self.begin(at, deployment);
        true
    }

    /// Brings hosts to what the others run.
    fn catch_up(&mut self, at: UnixSeconds, name: &GroupName) -> bool {
        let Some(group) = self.state.groups.get(name) else { return false };
        // Executors judge by the group as the order names it.
        let fits = |(catch_up, mut hosts): (CatchUp, Vec<HostId>)| {
            let filter = &catch_up.group.content().filter;
            hosts.retain(|host| {
                let known = self.state.members.get(host);
                known.is_some_and(|known| filter.matches(&known.member.labels))
            });
            (!hosts.is_empty()).then_some((catch_up, hosts))
        };
        let late = self.late(group).and_then(fits);
        let Some((catch_up, hosts)) = late.or_else(|| self.behind(group).and_then(fits)) else {
            return false;
        };
        let Some(release) = self.release(catch_up.release) else { return false };
        let index = self.state.applied;
        let mut deployment = Deployment {
            id: DeploymentId::catch_up(catch_up.order, index),
            order: catch_up.order,
            group: name.clone(),
            application: group.group.application.clone(),
            release: catch_up.release,
            label: release.label,
            previous: group.last_good,
            creator: Creator::CatchUp,
            reason: "hosts that were away or are new".into(),
            configuration: group.group.configuration.clone(),
            failure_budget: None,
            fallback: None,
            group_document: catch_up.group.signed().clone(),
            not_after: None,
            goes_back: catch_up.goes_back,
            scope: Scope::Some,
            status: DeploymentStatus::Queued,
            paused: false,
            rolls_back_when_stopped: false,
            overdue: false,
            hold: None,
            stage: 0,
            stages: Vec::new(),
            created_at: at,
            ended_at: None,
            index,
            targets: Kept::default(),
            beside: 0,
        };
        deployment.configuration.deployment_deadline_seconds = None;
        self.place(&mut deployment, &hosts);
        self.begin(at, deployment);
        true
    }

    /// Hosts that were away, or that are new, if the group says that they come to the release of its last
    /// success and its newest order allows it.
    fn behind(&self, group: &GroupState) -> Option<(CatchUp, Vec<HostId>)> {
        let mut hosts = self.hosts_behind(group);
        hosts.retain(|host| !group.left.contains(host));
        // Signatures are looked at last: this is asked after every entry, and mostly for nothing.
        if hosts.is_empty() { None } else { Some((self.newest_allowed(group)?, hosts)) }
    }

    fn hosts_behind(&self, group: &GroupState) -> Vec<HostId> {
        let Group { catch_up, deploy_to_new_hosts, name, .. } = &group.group;
        let Some(release) = group.last_good.filter(|_| *catch_up || *deploy_to_new_hosts) else {
            return Vec::new();
        };
        let is_behind = |host: &HostId| {
            let is_met = group.met.contains(host);
            let behind =
                group.current.get(host) != Some(&release) || self.is_broken_in(name, *host);
            behind && if is_met { *catch_up } else { *deploy_to_new_hosts }
        };
        self.hosts_to_bring(group).filter(is_behind).collect()
    }

    /// Hosts that were away, or are new, and that nothing brings where the others are before the next order:
    /// the newest one does not lead there, or they failed when they had their chance.
    pub fn hosts_that_wait(&self, group: &GroupName) -> Vec<HostId> {
        let group = self.state.groups.get(group).filter(|group| group.running.is_none());
        let Some(group) = group else { return Vec::new() };
        let mut hosts = self.hosts_behind(group);
        if !hosts.is_empty() && self.newest_allowed(group).is_some() {
            hosts.retain(|host| group.left.contains(host));
        }
        hosts
    }

    /// Hosts that came late to a release on which the others are not, and the way to those: by the newest
    /// order, which is the only one that hosts still follow. Where it has none the next one brings them.
    fn late(&self, group: &GroupState) -> Option<(CatchUp, Vec<HostId>)> {
        if group.late.is_empty() {
            return None;
        }
        let newest = self.newest_ordered(&group.group.name)?;
        let (order, goes_back) = (newest.order, newest.is_undone());
        let release = newest.leads_to(group.last_good)?;
        let strayed =
            |host: &HostId| group.late.contains(host) && group.current.get(host) != Some(&release);
        let hosts: Vec<_> = self.hosts_to_bring(group).filter(strayed).collect();
        let out_of_turn = || group.stopped_out_of_turn.iter().any(|s| s.covers(order, goes_back));
        let is_stopped =
            || out_of_turn() || self.stop_of(&group.group.name, order, goes_back).is_some();
        if hosts.is_empty() || is_stopped() {
            return None;
        }
        let group = self.trust.group(&newest.group_document).ok()?;
        Some((CatchUp { order, release, goes_back, group }, hosts))
    }

    /// Hosts of a group that can be reached and may get a slot, and hold none of it: whoever does ends that
    /// first.
    fn hosts_to_bring(&self, group: &GroupState) -> impl Iterator<Item = HostId> {
        let holds = |host: &HostId| {
            self.state.slots.get(host).is_some_and(|slot| self.is_of(slot, &group.group.name))
        };
        let none_goes = self.quota(group) == 0;
        self.hosts_of(&group.group.filter).filter(move |host| {
            let shut = self.is_shut(group, &group.group.configuration, *host)
                || (none_goes && !self.has_nothing_of(group, *host));
            !self.is_away(*host) && !shut && !holds(host)
        })
    }

    /// The order by which hosts of a group may come to the release of its last success: the newest
    /// one, which is the only one that they still follow, if it names that release.
    fn newest_allowed(&self, group: &GroupState) -> Option<CatchUp> {
        let release = group.last_good?;
        let out_of_turn = group.stopped_out_of_turn.iter();
        let mut stopped: Vec<_> = out_of_turn.map(|stop| (stop.order, stop.rollback)).collect();
        for signed in group.orders.iter().rev() {
            // They were verified when they were applied.
            let order = self.trust.order(signed).ok()?;
            match &order.content().action {
                Action::Stop { order, rollback } => stopped.push((*order, *rollback)),
                Action::Deploy(deploy) | Action::Rollback(deploy) => {
                    let stops = stopped.iter().filter(|(stopped, _)| *stopped == order.id());
                    let stops: Vec<_> = stops.map(|(_, rollback)| *rollback).collect();
                    let forward = deploy.release == release && stops.is_empty();
                    let back = deploy.fallback == Some(release) && stops.iter().all(|back| *back);
                    let (order, goes_back) = (order.id(), !forward);
                    let group = self.group_of_order(group, order, deploy.group_version)?;
                    let late = group.content().catch_up || group.content().deploy_to_new_hosts;
                    let catch_up = CatchUp { order, release, goes_back, group };
                    return (late && (forward || back)).then_some(catch_up);
                }
                _ => {}
            }
        }
        None
    }

    /// A group as an order names it, which it may not be any more.
    fn group_of_order(
        &self,
        group: &GroupState,
        order: Digest,
        version: u64,
    ) -> Option<Verified<Group>> {
        let mut began = self.state.deployments.values().filter(|known| known.order == order);
        let document = match group.group.version == version {
            true => &group.signed,
            false => &began.next()?.group_document,
        };
        self.trust.group(document).ok()
    }

    /// From here on the deployment is the one of its group.
    fn begin(&mut self, at: UnixSeconds, mut deployment: Deployment) {
        deployment.status = DeploymentStatus::InProgress;
        deployment.created_at = at;
        deployment.ended_at = None;
        (deployment.hold, deployment.stage, deployment.overdue) = (None, 0, false);
        let (id, name) = (deployment.id, deployment.group.clone());
        if deployment.creator == Creator::Rollback {
            deployment.paused = false;
        }
        let met: Vec<HostId> = match self.state.groups.get(&name) {
            Some(group) => self.hosts_of(&group.group.filter).collect(),
            None => Vec::new(),
        };
        if let Some(group) = self.state.groups.get_mut(&name) {
            group.running = Some(id);
            group.met.extend(met);
        }
        self.state.deployments.insert(id, deployment.into());
    }

    /// Keeps the newest reports of a group, and of all groups together as much as a snapshot has room for.
    pub(super) fn forget_reports(&mut self, group: &GroupName) {
        let needed = self.needed_reports();
        let over = self.state.deployments.values().filter(|deployment| deployment.status.is_over());
        let mut over: Vec<_> =
            over.map(|d| (d.index, d.id, d.group == *group, d.report_bytes())).collect();
        over.sort_unstable();
        let mut bytes: usize = over.iter().map(|(.., bytes)| bytes).sum();
        let mut of_group = over.iter().filter(|(_, _, is_its, _)| *is_its).count();
        for (_, id, is_its, size) in over {
            let excess = is_its && of_group > DEPLOYMENTS_KEPT_PER_GROUP;
            if (excess || bytes > REPORTS_BYTES_MAX) && !needed.contains(&id) {
                self.state.deployments.remove(&id);
                bytes -= size;
                of_group -= usize::from(is_its);
            }
        }
    }

    /// Reports that stay: in which hosts have a part, and of each group the newest one, that of its newest
    /// order, and its last success.
    fn needed_reports(&self) -> BTreeSet<DeploymentId> {
        let mut needed = BTreeSet::new();
        for name in self.state.groups.keys() {
            let over = self.state.deployments.values().filter(|d| d.group == *name);
            let over = over.filter(|d| d.status.is_over());
            let newest = over.clone().max_by_key(|d| (d.index, d.creator as u8));
            let good = over.filter(|d| d.status == DeploymentStatus::Succeeded);
            let good = good.max_by_key(|d| (d.index, d.creator as u8));
            needed.extend(newest.into_iter().chain(good).map(|deployment| deployment.id));
            needed.extend(self.newest_ordered(name).map(|newest| newest.id));
            needed.extend(self.left_held(name));
        }
        needed
    }

    /// Keeps the orders that hosts may have to follow, what came after them, and a few before. For an order
    /// before those nobody gets a slot any more; who has begun, and was away until now, has the order itself.
    pub(super) fn forget_orders(&mut self, group: &GroupName) {
        let unfinished = self.state.deployments.values();
        let unfinished = unfinished.filter(|d| d.group == *group && !d.status.is_over());
        // By the newest one hosts may come late to what the others run.
        let needed = unfinished.map(|deployment| &**deployment).chain(self.newest_ordered(group));
        let needed: BTreeSet<_> = needed.map(|deployment| deployment.order).collect();
        let fleet = self.trust.fleet();
        let Some(group) = self.state.groups.get_mut(group) else { return };
        let oldest = group.orders.iter().position(|order| needed.contains(&order.id(fleet)));
        let oldest = oldest.unwrap_or(group.orders.len());
        let excess = oldest.saturating_sub(ORDERS_KEPT_PER_GROUP);
        group.orders.drain(..excess);
    }
}

/// By what order, and to which release, hosts catch up.
struct CatchUp {
    order: Digest,
    release: Digest,
    goes_back: bool,
    /// As the order names it.
    group: Verified<Group>,
}

/// What was good when it was ordered may not be good any more when its turn comes. It is not lost: it
/// has failed, and says why.
fn may_begin(at: UnixSeconds, group: &GroupState, queued: &Deployment) -> Result<(), String> {
    if queued.group_document != group.signed {
        return Err("GROUP_CHANGED: the group was changed while it waited: order it anew".into());
    }
    match queued.not_after {
        Some(until) if until < at => {
            Err(format!("ORDER_EXPIRED: the order was good until {until}: sign a new one"))
        }
        _ => Ok(()),
    }
}
