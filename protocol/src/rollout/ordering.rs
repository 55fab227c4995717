//! What an order may do: its place in the chain, and the rules of each action.

use std::collections::BTreeMap;

use super::{
    configuration::{CanaryHosts, DeploymentConfiguration},
    deployment::{Creator, Deployment, DeploymentStatus, Scope, Target},
    kept::Kept,
    ledger::{GroupState, Judged, Ledger, Ordered},
    refusal::Refusal,
    stages::{self, Candidate},
};
use crate::{
    execute::Stopped,
    ids::{DeploymentId, Digest, HostId, Labels, ReleaseLabel},
    limits::{ORDERS_BYTES_MAX, ORDERS_BYTES_PER_GROUP_MAX, QUEUED_DEPLOYMENTS_MAX},
    sabotage::{Defect, planted},
    time::UnixSeconds,
    trust::{Action, Deploy, Order, Signed, Verified},
};

impl Ledger {
    pub(super) fn judge_order(
        &self,
        at: UnixSeconds,
        signed: &Signed<Order>,
    ) -> Result<Judged, Refusal> {
        let order = self.trust.order(signed).map_err(Refusal::untrusted("order"))?;
        let content = order.content();
        let unknown = || Refusal::UnknownGroup(content.group.clone());
        let group = self.state.groups.get(&content.group).ok_or_else(unknown)?;
        if group.head == order.id() {
            return Ok(Judged::Nothing);
        }
        if let Some((deployment, rollback)) = self.stopped_out_of_turn(group, content) {
            return Ok(Judged::StopOutOfTurn { deployment, rollback });
        }
        let in_order = match content.sequence {
            sequence if sequence > group.sequence + 1 => planted(Defect::GapInOrders),
            sequence if sequence <= group.sequence => planted(Defect::OrderReplayed),
            _ => true,
        };
        if !in_order {
            let (name, expected) = (content.group.clone(), group.sequence + 1);
            return Err(Refusal::OutOfOrder { group: name, expected, got: content.sequence });
        }
        let follows = content.parent == group.head
            || planted(Defect::GapInOrders)
            || planted(Defect::OrderReplayed);
        if !follows {
            return Err(Refusal::WrongParent { head: group.head.short() });
        }
        let starts = matches!(content.action, Action::Deploy(_) | Action::Rollback(_));
        if let Some(since) = group.frozen.filter(|_| starts) {
            return Err(Refusal::Frozen { group: content.group.clone(), since });
        }
        // What begins and ends deployments, or holds something up, has room always: of those there are few, or
        // each waits for one that has not.
        let is_bounded = !matches!(
            content.action,
            Action::Resume { .. } | Action::Unfreeze | Action::Waive { .. }
        );
        let of_all = || self.state.groups.values().map(|group| group.order_bytes()).sum::<usize>();
        let is_full = || {
            group.order_bytes() + signed.size() > ORDERS_BYTES_PER_GROUP_MAX
                || of_all() + signed.size() > ORDERS_BYTES_MAX
        };
        if !is_bounded && is_full() {
            return Err(Refusal::ManyOrders(content.group.clone()));
        }
        let effect = self.judge_action(at, group, &order)?;
        Ok(Judged::Order { order, effect })
    }

    /// The deployment that a stop ends though the group's chain went on without it. Hosts obey a stop
    /// as soon as they hear of it, so one that was overtaken by another order must not leave the
    /// deployment waiting for them for ever. It gets no place in the chain.
    fn stopped_out_of_turn(
        &self,
        group: &GroupState,
        order: &Order,
    ) -> Option<(DeploymentId, bool)> {
        let follows = order.sequence == group.sequence + 1 && order.parent == group.head;
        let Action::Stop { order, rollback } = order.action else { return None };
        let deployment = self.unfinished(group, order).ok()?;
        // What hosts obey is taken, whoever started the deployment and wherever the way back leads.
        let is_obeyed = Stopped { order, rollback }.covers(order, deployment.goes_back);
        let stops = is_obeyed && deployment.status != DeploymentStatus::Stopping;
        (stops && !follows).then_some((deployment.id, rollback && deployment.has_way_back()))
    }

    /// Refuses a stop that asks for a way back which a deployment that is known here does not have. For
    /// whoever signed it, before anybody else hears of it: once hosts obey, it is too late to refuse.
    pub fn check_way_back(&self, order: &Order) -> Result<(), Refusal> {
        let Action::Stop { order: target, rollback: true } = order.action else { return Ok(()) };
        let Some(group) = self.state.groups.get(&order.group) else { return Ok(()) };
        match self.unfinished(group, target) {
            Ok(deployment) if !deployment.has_way_back() => Err(Refusal::NoFallback(deployment.id)),
            _ => Ok(()),
        }
    }

    fn judge_action(
        &self,
        at: UnixSeconds,
        group: &GroupState,
        order: &Verified<Order>,
    ) -> Result<Ordered, Refusal> {
        match &order.content().action {
            Action::Deploy(deploy) => self.judge_deploy(at, group, order, deploy),
            Action::Rollback(deploy) => self.judge_rollback(at, group, order, deploy),
            Action::Stop { order: target, rollback } => self.judge_stop(group, *target, *rollback),
            Action::Pause { order: target } => {
                let deployment = self.unfinished(group, *target)?;
                if deployment.paused || deployment.status == DeploymentStatus::Stopping {
                    return Err(Refusal::NothingToPause(deployment.id));
                }
                Ok(Ordered::Pause { deployment: deployment.id })
            }
            Action::Resume { order: target } => {
                let deployment = self.unfinished(group, *target)?;
                if !deployment.waits_for_operator(|host| self.is_away(host)) {
                    return Err(match deployment.canary_is_to_come() {
                        true => Refusal::CanaryToCome(deployment.id),
                        false => Refusal::NothingToResume(deployment.id),
                    });
                }
                Ok(Ordered::Resume { deployment: deployment.id })
            }
            Action::ReleaseSlot { host, token } => {
                let slot = self.state.slots.get(host).filter(|slot| slot.token == *token);
                let held_here = slot.filter(|slot| {
                    let deployment = self.state.deployments.get(&slot.deployment);
                    deployment.is_some_and(|deployment| deployment.group == group.group.name)
                });
                let slot = held_here.ok_or(Refusal::NoSuchSlot(*token))?;
                if slot.released.is_some() {
                    return Err(Refusal::ReleasedAlready(*token));
                }
                // It may be in the middle of it, and nothing takes that back.
                if self.is_healthy(*host) && !planted(Defect::LivingHolderReleased) {
                    return Err(Refusal::HolderHeardOf(self.shown(*host)));
                }
                Ok(Ordered::ReleaseSlot { host: *host })
            }
            Action::Waive { host, generation } => self.judge_waiver(group, *host, *generation),
            Action::Freeze => match group.frozen {
                Some(since) => Err(Refusal::Frozen { group: group.group.name.clone(), since }),
                None => Ok(Ordered::Freeze),
            },
            Action::Unfreeze => match group.frozen {
                Some(_) => Ok(Ordered::Unfreeze),
                None => Err(Refusal::NotFrozen(group.group.name.clone())),
            },
        }
    }

    /// What people call a host.
    fn shown(&self, host: HostId) -> String {
        self.name_of(host).map_or_else(|| host.short(), ToString::to_string)
    }

    /// An operator says of a host that it is not there, and not what it holds: whoever is heard of says that
    /// itself.
    fn judge_waiver(
        &self,
        group: &GroupState,
        host: HostId,
        generation: u64,
    ) -> Result<Ordered, Refusal> {
        let name = || self.shown(host);
        let recovered_at = self.electorate.recovered_at();
        if generation != recovered_at && !planted(Defect::AnyWaiverTaken) {
            return Err(Refusal::OtherRecovery { expected: recovered_at, got: generation });
        }
        let is_in = self.groups_of(host).any(|its| its.group.name == group.group.name);
        let is_waived =
            self.state.waived.contains(&host) || self.state.written_off.contains_key(&host);
        if !is_in || !self.is_uncounted(host) || is_waived {
            return Err(Refusal::NothingToWaive(name()));
        }
        if self.is_healthy(host) && !planted(Defect::LivingHostWaived) {
            return Err(Refusal::HeardOf(name()));
        }
        // Its voters vouch for a slot that is known: that is to be released.
        if self.state.slots.contains_key(&host) {
            return Err(Refusal::HoldsKnownSlot(name()));
        }
        Ok(Ordered::Waive { host })
    }

    fn judge_stop(
        &self,
        group: &GroupState,
        target: Digest,
        rollback: bool,
    ) -> Result<Ordered, Refusal> {
        let fleet = self.trust.fleet();
        if !group.orders.iter().any(|signed| signed.id(fleet) == target) {
            return Err(Refusal::NothingToStop(target.short()));
        }
        let deployment = self.unfinished(group, target).ok();
        if rollback {
            // Afterwards it is another order's matter: what runs then may be newer.
            let deployment = deployment.ok_or_else(|| Refusal::OverAlready(target.short()))?;
            // It is on its way back, which no host stops for this.
            if deployment.goes_back {
                return Err(Refusal::NoFallback(deployment.id));
            }
        }
        // Hosts obey a stop when they hear of it. Where the way back leads nowhere it is one still.
        let rollback = rollback && deployment.is_some_and(Deployment::has_way_back);
        Ok(Ordered::Stop { deployment: deployment.map(|deployment| deployment.id), rollback })
    }

    /// The deployment of an order that runs or waits for its turn.
    fn unfinished(&self, group: &GroupState, order: Digest) -> Result<&Deployment, Refusal> {
        let ids = group.running.iter().chain(&group.queue);
        ids.filter_map(|id| self.deployment(*id))
            .find(|deployment| deployment.order == order)
            .ok_or_else(|| Refusal::NotRunning(order.short()))
    }

    fn judge_deploy(
        &self,
        at: UnixSeconds,
        group: &GroupState,
        order: &Verified<Order>,
        deploy: &Deploy,
    ) -> Result<Ordered, Refusal> {
        if let Some(until) = order.content().not_after.filter(|until| *until < at) {
            return Err(Refusal::OrderExpired { issued: order.content().issued_at, until, at });
        }
        let running = group.running.and_then(|id| self.state.deployments.get(&id));
        // Hosts that catch up make way; nothing else does, nor what waits until they have.
        let blocking = running.filter(|running| !running.is_catch_up()).map(|running| running.id);
        let blocking = blocking.or_else(|| group.queue.first().copied());
        let waits = deploy.queue || planted(Defect::TwoDeploymentsOfAGroup);
        if let Some(first) = blocking.filter(|_| !waits) {
            return Err(Refusal::DeploymentRunning(first));
        }
        if group.queue.len() >= QUEUED_DEPLOYMENTS_MAX {
            return Err(Refusal::QueueFull { group: group.group.name.clone() });
        }
        let scope = if deploy.only_outdated { Scope::Outdated } else { Scope::All };
        let deployment = self.draft(at, group, order, deploy, scope)?;
        if deployment.targets.is_empty() {
            return Err(match scope {
                Scope::All => Refusal::NoHosts(group.group.name.clone()),
                _ => Refusal::NothingOutdated(group.group.name.clone()),
            });
        }
        Ok(Ordered::Deploy { deployment: Box::new(deployment), instead: false })
    }

    /// The way back. Time does not end it, and it waits for nothing.
    fn judge_rollback(
        &self,
        at: UnixSeconds,
        group: &GroupState,
        order: &Verified<Order>,
        deploy: &Deploy,
    ) -> Result<Ordered, Refusal> {
        let deployment = self.draft(at, group, order, deploy, Scope::Strayed)?;
        // What runs may bring hosts to another release before it has stopped, and so may a holder that was
        // away when it comes back.
        let may_stray = group.running.is_some() || self.holds_other(group, deploy.release);
        if deployment.targets.is_empty() && !may_stray {
            return Err(Refusal::NothingOutdated(group.group.name.clone()));
        }
        let (creator, not_after) = (Creator::Rollback, None);
        let mut deployment = Deployment { creator, not_after, ..deployment };
        deployment.configuration.deployment_deadline_seconds = None;
        Ok(Ordered::Deploy { deployment: Box::new(deployment), instead: true })
    }

    fn draft(
        &self,
        at: UnixSeconds,
        group: &GroupState,
        order: &Verified<Order>,
        deploy: &Deploy,
        scope: Scope,
    ) -> Result<Deployment, Refusal> {
        let name = &group.group.name;
        if deploy.group_version != group.group.version {
            let (expected, got) = (group.group.version, deploy.group_version);
            return Err(Refusal::GroupVersion { group: name.clone(), expected, got });
        }
        let label = self.release_of(group, deploy.release)?;
        if let Some(fallback) = deploy.fallback {
            self.release_of(group, fallback)?;
        }
        let configuration = deploy.configuration.as_ref().unwrap_or(&group.group.configuration);
        let hosts = self.hosts_of(&group.group.filter).count();
        let minimum = configuration.minimum_healthy.minimum(hosts);
        if hosts > 0 && minimum >= hosts {
            return Err(Refusal::NothingMayBeDown { minimum, hosts });
        }
        if scope != Scope::Strayed {
            self.check_stages(group, configuration)?;
        }
        let mut deployment = Deployment {
            id: DeploymentId::of(order.id(), false),
            order: order.id(),
            group: name.clone(),
            application: group.group.application.clone(),
            release: deploy.release,
            label,
            previous: group.last_good,
            creator: Creator::Operator,
            reason: order.content().reason.clone(),
            configuration: configuration.clone(),
            failure_budget: group.group.failure_budget,
            fallback: deploy.fallback,
            group_document: group.signed.clone(),
            not_after: order.content().not_after,
            goes_back: false,
            scope,
            status: DeploymentStatus::Queued,
            paused: false,
            rolls_back_when_stopped: false,
            overdue: false,
            hold: None,
            stage: 0,
            stages: Vec::new(),
            created_at: at,
            ended_at: None,
            index: 0,
            targets: Kept::default(),
            beside: 0,
        };
        self.choose_targets(group, &mut deployment);
        self.check_zones(group, &deployment)?;
        Ok(deployment)
    }

    /// Of every zone of a deployment one host may be down, once those of its stage and before on which nothing
    /// ever ran have taken the release: in a stage they go first.
    fn check_zones(&self, group: &GroupState, deployment: &Deployment) -> Result<(), Refusal> {
        let Some(zones) = &deployment.configuration.zones else { return Ok(()) };
        let mut bare = BTreeMap::<_, usize>::new();
        for (host, target) in &deployment.targets {
            if self.is_bare_in(group, *host) {
                *bare.entry((self.zone_of(*host), target.stage)).or_default() += 1;
            }
        }
        for (host, target) in &deployment.targets {
            let zone = self.zone_of(*host);
            let bare: usize = bare.range((zone, 0)..=(zone, target.stage)).map(|(_, n)| n).sum();
            let hosts = self.size_of_zone(group, zone) + bare;
            if zones.minimum_healthy.quota(hosts) == 0 && target.serves {
                let minimum = zones.minimum_healthy.minimum(hosts);
                return Err(Refusal::NoneOfZone { zone: self.zone_name(*host), minimum, hosts });
            }
        }
        Ok(())
    }

    /// A canary by labels that no host of the group has is none: everything would go at once. The hosts
    /// that a wave was meant for would go with the rest; one that is written off is the wave's still.
    pub(super) fn check_stages(
        &self,
        group: &GroupState,
        configuration: &DeploymentConfiguration,
    ) -> Result<(), Refusal> {
        let filter = &group.group.filter;
        let canary = configuration.canary.as_ref().map(|canary| &canary.hosts);
        if let Some(CanaryHosts::Labels(labels)) = canary
            && !self.hosts_of(filter).any(|host| self.has_labels(host, labels))
        {
            let (group, labels) = (group.group.name.clone(), labels.to_string());
            return Err(Refusal::NoCanary { group, labels });
        }
        let is_empty = |wave: &Labels| {
            let mut members = self.state.members.keys().copied();
            !members.any(|host| self.has_labels(host, filter) && self.has_labels(host, wave))
        };
        match configuration.waves.iter().position(is_empty) {
            Some(at) => {
                let (group, labels) =
                    (group.group.name.clone(), configuration.waves[at].to_string());
                Err(Refusal::NoWave { group, number: at + 1, labels })
            }
            None => Ok(()),
        }
    }

    fn has_labels(&self, host: HostId, wanted: &Labels) -> bool {
        let known = self.state.members.get(&host);
        known.is_some_and(|known| wanted.matches(&known.member.labels))
    }

    /// Fills in the hosts that a deployment is for now, and the stages in which they go.
    pub(super) fn choose_targets(&self, group: &GroupState, deployment: &mut Deployment) {
        let hosts = self.hosts_of(&group.group.filter).filter(|host| {
            let current = group.current.get(host);
            let broken = self.is_broken_in(&group.group.name, *host);
            match deployment.scope {
                Scope::All | Scope::Some => true,
                Scope::Outdated => broken || current != Some(&deployment.release),
                Scope::Strayed => {
                    broken || current.is_some_and(|current| *current != deployment.release)
                }
            }
        });
        let hosts: Vec<_> = hosts.collect();
        self.place(deployment, &hosts);
    }

    /// Makes `hosts` the targets of a deployment, each in its stage.
    pub(super) fn place(&self, deployment: &mut Deployment, hosts: &[HostId]) {
        let candidates: Vec<_> = hosts
            .iter()
            .filter_map(|host| {
                let known = self.state.members.get(host)?;
                Some(Candidate {
                    host: *host,
                    labels: &known.member.labels,
                    zone: known.member.zone.as_ref(),
                    away: self.is_away(*host),
                })
            })
            .collect();
        // Who goes back or catches up has no canary to wait for: the release has run before.
        let plain = DeploymentConfiguration::from(deployment.configuration.minimum_healthy);
        let new =
            matches!(deployment.creator, Creator::Operator) && deployment.scope != Scope::Strayed;
        let configuration = if new { &deployment.configuration } else { &plain };
        let (stages, numbers) = stages::plan(configuration, deployment.id, &candidates);
        deployment.stages = stages;
        let numbered = numbers.into_iter();
        let Some(group) = self.state.groups.get(&deployment.group) else { return };
        let target = |(host, stage)| {
            (host, Target::pending(stage, !self.has_nothing_of(group, host)).into())
        };
        let targets: BTreeMap<_, _> = numbered.map(target).collect();
        deployment.targets = targets.into();
        deployment.beside = self.beside(group, deployment);
    }

    /// The label of a release that the group may run.
    fn release_of(&self, group: &GroupState, id: Digest) -> Result<ReleaseLabel, Refusal> {
        let release = self.release(id).ok_or_else(|| Refusal::unknown_release(id))?;
        if release.application != group.group.application {
            return Err(Refusal::OtherApplication(group.group.name.clone()));
        }
        Ok(release.label)
    }
}
