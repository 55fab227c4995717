//! What hosts and people read off the ledger.

use super::{
    deployment::{Creator, Deployment, DeploymentStatus, TargetStatus},
    ledger::{GroupState, Ledger, Membership, Slot},
};
use crate::{
    execute::Evidence,
    fleet::Version,
    ids::{
        ApplicationName, DeploymentId, Digest, GroupName, HostId, HostName, Labels, Nonce, ZoneName,
    },
    sabotage::{Defect, planted},
    time::UnixSeconds,
    trust::{Action, Group, MemberCert, Order, Signed, Subject},
};

/// A member, for tables.
#[derive(Clone, Copy, Debug)]
pub struct HostView<'a> {
    /// Its key.
    pub host: HostId,
    /// The id of its certificate.
    pub id: Digest,
    /// Its name.
    pub name: &'a HostName,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its zone.
    pub zone: Option<&'a ZoneName>,
}

/// A group, for tables.
#[derive(Clone, Debug)]
pub struct GroupView<'a> {
    /// The group as its operators signed it.
    pub group: &'a Group,
    /// Its hosts.
    pub hosts: Vec<HostId>,
    /// Those that are down.
    pub down: Vec<HostId>,
    /// How many may be.
    pub quota: usize,
    /// The release of its last success.
    pub last_good: Option<Digest>,
    /// Since when operators let nothing begin in it.
    pub frozen: Option<UnixSeconds>,
    /// Sequence and id of its newest order.
    pub head: (u64, Digest),
    /// The deployment that runs.
    pub running: Option<DeploymentId>,
    /// Those that wait for their turn.
    pub queue: Vec<DeploymentId>,
}

/// A slot that is held, for tables.
#[derive(Clone, Debug)]
pub struct SlotView {
    /// The slot.
    pub token: u64,
    /// Who holds it.
    pub host: HostId,
    /// For which deployment.
    pub deployment: DeploymentId,
    /// By which order.
    pub order: Digest,
    /// To run which release.
    pub release: Digest,
    /// The release is the fallback of the order.
    pub goes_back: bool,
    /// The deployment is over, and has not waited for the holder.
    pub is_left: bool,
    /// Since when.
    pub since: UnixSeconds,
    /// When an operator's order came to release it; it is free after a hold-off.
    pub released: Option<UnixSeconds>,
}

/// A host that was written off, for tables.
#[derive(Clone, Debug)]
pub struct WriteOffView {
    /// The host.
    pub host: HostId,
    /// The slot that it held, and for which deployment; none if it may have held one that was lost.
    pub slot: Option<(u64, DeploymentId)>,
    /// Since when it is written off.
    pub since: UnixSeconds,
}

/// What one host has to do in one of its groups.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The group.
    pub group: GroupName,
    /// The application.
    pub application: ApplicationName,
    /// How long the host must be healthy before it gives a slot back.
    pub minimum_healthy_seconds: u32,
    /// The running deployment in which the host's part is not over.
    pub deployment: Option<Part>,
    /// The slot that the host holds for this group.
    pub slot: Option<SlotView>,
}

/// A host's part in a running deployment.
#[derive(Clone, Debug)]
pub struct Part {
    /// The deploy order.
    pub order: Digest,
    /// The release to run.
    pub release: Digest,
    /// The release is the fallback of the order.
    pub goes_back: bool,
    /// True once the host has asked for a slot.
    pub wanted: bool,
    /// True if nothing may begin any more.
    pub stopped: bool,
}

impl Ledger {
    /// The members, sorted by key.
    pub fn members(&self) -> impl Iterator<Item = HostView<'_>> {
        self.state.members.values().map(|known| host_view(known))
    }

    /// How many there are.
    pub fn member_count(&self) -> usize {
        self.state.members.len()
    }

    /// One of them.
    pub fn member(&self, host: HostId) -> Option<HostView<'_>> {
        self.state.members.get(&host).map(|known| host_view(known))
    }

    /// The certificate by which a host is counted, and its incarnation.
    pub fn certificate(&self, host: HostId) -> Option<(&MemberCert, u64)> {
        let known = self.state.members.get(&host)?;
        Some((&known.cert, known.member.incarnation))
    }

    /// True if a host is in a group, by its labels.
    pub fn is_in(&self, host: HostId, group: &GroupName) -> bool {
        self.groups_of(host).any(|own| own.group.name == *group)
    }

    /// True if `host` belongs to the fleet.
    pub fn is_member(&self, host: HostId) -> bool {
        self.state.members.contains_key(&host)
    }

    /// A member's name.
    pub fn name_of(&self, host: HostId) -> Option<&HostName> {
        self.state.members.get(&host).map(|known| &known.member.name)
    }

    /// The record of a host by which it was called silent, if it counts as unhealthy.
    pub fn silent_since(&self, host: HostId) -> Option<Version> {
        self.state.unhealthy.get(&host).copied()
    }

    /// False if the fleet's records call the host unhealthy.
    pub fn is_healthy(&self, host: HostId) -> bool {
        !self.state.unhealthy.contains_key(&host)
    }

    /// Since when operators keep a host for themselves, if they do.
    pub fn drained_since(&self, host: HostId) -> Option<UnixSeconds> {
        self.state.drained.get(&host).copied()
    }

    /// The number of the last word about that; 0 where there was none.
    pub fn drain_sequence(&self, host: HostId) -> u64 {
        self.state.drains.get(&host).copied().unwrap_or(0)
    }

    /// True if they do.
    pub fn is_drained(&self, host: HostId) -> bool {
        self.state.drained.contains_key(&host)
    }

    /// True if a host takes no part just now, so that no deployment waits for it: it is unhealthy, or operators
    /// keep it.
    pub(super) fn is_away(&self, host: HostId) -> bool {
        !self.is_healthy(host) || self.is_drained(host)
    }

    /// True if a host counts as down in none of its groups, as far as it holds no slot.
    pub fn is_well(&self, host: HostId) -> bool {
        !self.is_away(host) && !self.is_broken(host) && !self.is_uncounted(host)
    }

    /// True if a deployment left the host without a working revision of some group.
    pub fn is_broken(&self, host: HostId) -> bool {
        self.state.broken.iter().any(|(_, broken)| *broken == host)
    }

    /// The groups, sorted by name.
    pub fn groups(&self) -> impl Iterator<Item = GroupView<'_>> {
        self.state.groups.values().map(|group| self.group_view(group))
    }

    /// One group.
    pub fn group(&self, name: &GroupName) -> Option<GroupView<'_>> {
        self.state.groups.get(name).map(|group| self.group_view(group))
    }

    fn group_view<'a>(&'a self, group: &'a GroupState) -> GroupView<'a> {
        GroupView {
            group: &group.group,
            hosts: self.hosts_of(&group.group.filter).collect(),
            down: self.down(group).into_iter().collect(),
            quota: self.quota(group),
            last_good: group.last_good,
            frozen: group.frozen,
            head: (group.sequence, group.head),
            running: group.running,
            queue: group.queue.clone(),
        }
    }

    /// The release that people mean who want a group back to what was good: that of its last success, and
    /// where every host runs it and nothing is under way, the one that was good before it.
    pub fn way_back(&self, name: &GroupName) -> Option<Digest> {
        let group = self.state.groups.get(name)?;
        let good = group.last_good?;
        let has_strayed = |host: HostId| {
            let runs = group.current.get(&host);
            self.is_broken_in(name, host) || runs.is_some_and(|release| *release != good)
        };
        let is_under_way = group.running.is_some() || self.holds_other(group, good);
        if is_under_way || self.hosts_of(&group.group.filter).any(has_strayed) {
            return Some(good);
        }
        self.good_before(name, good)
    }

    /// The release of a group that was good before this one was.
    pub(super) fn good_before(&self, name: &GroupName, good: Digest) -> Option<Digest> {
        let forward = self.deployments().into_iter().filter(|deployment| {
            let by_operator = deployment.creator == Creator::Operator;
            let succeeded = deployment.status == DeploymentStatus::Succeeded;
            deployment.group == *name && by_operator && succeeded && deployment.release == good
        });
        forward.filter_map(|deployment| deployment.previous).find(|previous| *previous != good)
    }

    /// Sequence and id of a group's newest order; the next one names them.
    pub fn head(&self, group: &GroupName) -> (u64, Digest) {
        self.state.groups.get(group).map_or((0, Digest::ZERO), |g| (g.sequence, g.head))
    }

    /// True if the order was followed already and is kept. To hand it in again is a replay; one that is
    /// older yet has its place in the chain taken.
    pub fn knows_order(&self, order: &Signed<Order>) -> bool {
        let fleet = self.trust().fleet();
        let id = order.id(fleet);
        self.state.groups.values().any(|g| g.orders.iter().any(|known| known.id(fleet) == id))
    }

    /// The deployments, newest first.
    pub fn deployments(&self) -> Vec<&Deployment> {
        let mut all: Vec<_> = self.state.deployments.values().map(|one| &**one).collect();
        all.sort_by_key(|deployment| {
            std::cmp::Reverse((deployment.index, deployment.creator as u8))
        });
        all
    }

    /// The newest deployment of the order that a stop names, if all that it began is over: such a stop
    /// would take its place in the chain and change nothing.
    pub fn over_already(&self, stop: &Order) -> Option<&Deployment> {
        let Action::Stop { order, .. } = stop.action else { return None };
        let mut of_order = self.deployments().into_iter().filter(|known| known.order == order);
        let newest = of_order.next()?;
        (newest.status.is_over() && of_order.all(|known| known.status.is_over())).then_some(newest)
    }

    /// One deployment.
    pub fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        self.state.deployments.get(&id).map(|deployment| &**deployment)
    }

    /// The slots that are held.
    pub fn slots(&self) -> impl Iterator<Item = SlotView> {
        self.state.slots.iter().map(|(host, slot)| self.slot_view(*host, slot))
    }

    /// Hosts that an operator wrote off and that were not heard of since.
    pub fn written_off(&self) -> impl Iterator<Item = WriteOffView> {
        self.state.written_off.iter().map(|(host, write_off)| WriteOffView {
            host: *host,
            slot: write_off.slot,
            since: write_off.at,
        })
    }

    /// Keys that were removed from the fleet.
    pub fn removed(&self) -> impl Iterator<Item = HostId> {
        self.state.removed.iter().copied()
    }

    /// True if the key was removed from the fleet.
    pub fn is_removed(&self, host: HostId) -> bool {
        self.state.removed.contains(&host)
    }

    /// The slot that a host holds.
    pub fn slot_of(&self, host: HostId) -> Option<SlotView> {
        self.state.slots.get(&host).map(|slot| self.slot_view(host, slot))
    }

    /// What a host has to do: in the groups that it is in, and in those that it has left but whose
    /// deployment it still has a part in, or a slot of.
    pub fn assignments(&self, host: HostId) -> Vec<Assignment> {
        let is_in: Vec<_> = self.groups_of(host).map(|group| &group.group.name).collect();
        let has_part = |group: &GroupState| {
            let running = group.running.and_then(|id| self.deployment(id));
            running.is_some_and(|deployment| deployment.targets.contains_key(&host))
        };
        let slot = self.state.slots.get(&host);
        let held = slot.and_then(|slot| self.deployment(slot.deployment)).map(|d| &d.group);
        let is_its = |group: &GroupState| {
            let name = &group.group.name;
            is_in.contains(&name) || held == Some(name) || has_part(group)
        };
        let groups = self.state.groups.values();
        groups.filter(|group| is_its(group)).map(|group| self.assignment(host, group)).collect()
    }

    fn assignment(&self, host: HostId, group: &GroupState) -> Assignment {
        let running = group.running.and_then(|id| self.deployment(id));
        let part = running.and_then(|deployment| {
            let target = deployment.targets.get(&host)?;
            (!target.status.is_over()).then(|| Part {
                order: deployment.order,
                release: deployment.release,
                goes_back: deployment.goes_back,
                wanted: target.status != TargetStatus::Pending,
                stopped: deployment.status == DeploymentStatus::Stopping,
            })
        });
        let name = &group.group.name;
        let slot = self.state.slots.get(&host).filter(|slot| {
            self.deployment(slot.deployment).is_some_and(|deployment| deployment.group == *name)
        });
        Assignment {
            group: name.clone(),
            application: group.group.application.clone(),
            minimum_healthy_seconds: group.group.minimum_healthy_seconds,
            deployment: part,
            slot: slot.map(|slot| self.slot_view(host, slot)),
        }
    }

    /// The stop that keeps a host from beginning for an order: with `goes_back`, from going to its
    /// fallback.
    pub fn stop_of(
        &self,
        group: &GroupName,
        order: Digest,
        goes_back: bool,
    ) -> Option<&Signed<Order>> {
        self.find_order(group, |action| match action {
            Action::Stop { order: stopped, rollback } => {
                *stopped == order && !(*rollback && goes_back)
            }
            _ => false,
        })
    }

    /// The order by which an operator has released a slot.
    pub fn release_of_slot(&self, group: &GroupName, token: u64) -> Option<&Signed<Order>> {
        self.find_order(
            group,
            |action| matches!(action, Action::ReleaseSlot { token: t, .. } if *t == token),
        )
    }

    /// The newest order of a group whose action is `wanted`.
    fn find_order(
        &self,
        group: &GroupName,
        wanted: impl Fn(&Action) -> bool,
    ) -> Option<&Signed<Order>> {
        // They were verified when they were applied.
        let is_wanted = |order: &&Signed<Order>| {
            self.trust().order(order).is_ok_and(|order| wanted(&order.content().action))
        };
        self.state.groups.get(group)?.orders.iter().rev().find(is_wanted)
    }

    /// All that an executor needs to judge an order, from the order after `after` on, or from the first
    /// that is kept.
    pub fn evidence(
        &self,
        host: HostId,
        group: &GroupName,
        order: Digest,
        release: Digest,
        (after, head): (u64, Digest),
    ) -> Option<Evidence> {
        let state = self.state.groups.get(group)?;
        let deployment = self.state.deployments.values().find(|d| d.order == order)?;
        let dropped = state.sequence.saturating_sub(state.orders.len() as u64);
        let known = usize::try_from(after.saturating_sub(dropped)).ok()?;
        // What the executor follows may have been lost with the voters who took it.
        let last = known.checked_sub(1).map(|last| state.orders.get(last));
        let is_it = |order: &Signed<Order>| order.id(self.trust.fleet()) == head;
        let mut known = if last.is_none_or(|last| last.is_some_and(is_it)) { known } else { 0 };
        if !state.orders.iter().any(|known| known.id(self.trust.fleet()) == order) {
            // Who goes on with what it began has the order, and takes up the chain when it begins anew.
            known = state.orders.len();
        }
        Some(Evidence {
            cert: self.state.members.get(&host)?.cert.clone(),
            group: deployment.group_document.clone(),
            orders: state.orders.iter().skip(known).cloned().collect(),
            order,
            release: self.signed_release(release)?.clone(),
            voter_lists: Vec::new(),
        })
    }

    /// What a voter vouches for about a slot: the holder, the subject, and the entry's hash.
    pub fn receipt_subject(&self, token: u64, nonce: Nonce) -> Option<(HostId, Subject, Digest)> {
        // For a slot that is on its way to be free no voter vouches any more: what receipts there are
        // grow old during the hold-off.
        let vouched = |slot: &Slot| slot.released.is_none() || planted(Defect::ReleasedVouchedFor);
        let held = |slot: &Slot| slot.token == token && vouched(slot);
        let (host, slot) = self.state.slots.iter().find(|(_, slot)| held(slot))?;
        if !self.has_room_in_census(*host) {
            return None;
        }
        let (order, release) = (slot.grant.order, slot.grant.release);
        Some((*host, Subject::Slot { host: *host, nonce, order, release }, slot.entry))
    }

    /// The entry by which a certificate was admitted: its index and hash.
    pub fn admission(&self, member: Digest) -> Option<(u64, Digest)> {
        let known = self.state.members.values().find(|known| known.id == member)?;
        Some((known.index, known.entry))
    }

    fn slot_view(&self, host: HostId, slot: &Slot) -> SlotView {
        let deployment = self.deployment(slot.deployment);
        SlotView {
            token: slot.token,
            host,
            deployment: slot.deployment,
            order: slot.grant.order,
            release: slot.grant.release,
            goes_back: deployment.is_some_and(|d| d.goes_back),
            is_left: deployment.is_some_and(|d| d.status.is_over()),
            since: slot.since,
            released: slot.released,
        }
    }
}

fn host_view(known: &Membership) -> HostView<'_> {
    HostView {
        host: known.member.host,
        id: known.id,
        name: &known.member.name,
        labels: &known.member.labels,
        zone: known.member.zone.as_ref(),
    }
}
