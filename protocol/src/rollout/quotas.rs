//! How many hosts are down, and how many may be: the rule that everything is for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    configuration::DeploymentConfiguration,
    deployment::Deployment,
    ledger::{GroupState, Ledger, Slot, State},
    refusal::Refusal,
};
use crate::{
    ids::{Digest, GroupName, HostId, Labels, ZoneName},
    sabotage::{Defect, planted},
};

/// How many hosts each group has. It follows from the rest of the ledger, and is kept because it is asked
/// for with every slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes(BTreeMap<GroupName, Size>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Size {
    hosts: usize,
    /// The same by zone.
    zones: BTreeMap<Option<ZoneName>, usize>,
}

/// How long a host is down for what is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// No longer than the deployment that runs.
    Within,
    /// Longer, maybe.
    Beyond,
}

impl Sizes {
    /// Counts everybody.
    pub(super) fn of(state: &State) -> Self {
        let sizes =
            state.groups.values().map(|group| (group.group.name.clone(), Size::of(state, group)));
        Self(sizes.collect())
    }
}

impl Size {
    fn of(state: &State, group: &GroupState) -> Self {
        let mut size = Self::default();
        for known in state.members.values() {
            if state.counts_in(group, known.member.host) {
                size.come(known.member.zone.as_ref());
            }
        }
        size
    }

    fn come(&mut self, zone: Option<&ZoneName>) {
        self.hosts += 1;
        *self.zones.entry(zone.cloned()).or_default() += 1;
    }

    fn go(&mut self, zone: Option<&ZoneName>) {
        self.hosts -= 1;
        let zone = zone.cloned();
        let left = self.zones.get(&zone).map_or(0, |here| here - 1);
        match left {
            0 => drop(self.zones.remove(&zone)),
            left => drop(self.zones.insert(zone, left)),
        }
    }
}

impl State {
    /// True for a host that is one of those of which a group may have so many down: a member that the group
    /// selects, that nobody has written off and that is not bare.
    fn counts_in(&self, group: &GroupState, host: HostId) -> bool {
        let known = self.members.get(&host);
        known.is_some_and(|known| group.group.filter.matches(&known.member.labels))
            && !self.written_off.contains_key(&host)
            && !self.is_bare_in(group, host)
    }

    /// True if nothing of a group has ever run on a host, nor is on its way there, and the group has
    /// something that is good. Such a host serves nobody: it is neither healthy, so that others may be down in
    /// its stead, nor can it go down. As long as the group has nothing, all of its hosts are taken for
    /// healthy, or a first deployment would go to all of them at once.
    fn is_bare_in(&self, group: &GroupState, host: HostId) -> bool {
        group.last_good.is_some()
            && !group.current.contains_key(&host)
            && !self.is_broken_in(&group.group.name, host)
            && !self.unsure.contains(&host)
            && !self.is_at_work_for(group, host)
            && !planted(Defect::BareCountsAsHealthy)
    }

    /// True if a host holds a slot of a group.
    fn is_at_work_for(&self, group: &GroupState, host: HostId) -> bool {
        let own = self.slots.get(&host).and_then(|slot| self.deployments.get(&slot.deployment));
        own.is_some_and(|own| own.group == group.group.name)
    }

    fn is_broken_in(&self, group: &GroupName, host: HostId) -> bool {
        !self.broken.is_empty() && self.broken.contains(&(group.clone(), host))
    }
}

impl Ledger {
    /// A host has come, or is counted again.
    pub(super) fn count_in(&mut self, host: HostId) {
        self.count(host, true);
    }

    /// A host is about to go, or to be counted no more. If it was not counted nothing changes.
    pub(super) fn count_out(&mut self, host: HostId) {
        self.count(host, false);
    }

    fn count(&mut self, host: HostId, comes: bool) {
        let state = &self.state;
        let zone = state.members.get(&host).and_then(|known| known.member.zone.as_ref());
        let mut running = Vec::new();
        for group in state.groups.values() {
            if state.counts_in(group, host)
                && let Some(size) = self.sizes.0.get_mut(&group.group.name)
            {
                if comes {
                    size.come(zone)
                } else {
                    size.go(zone)
                }
                let serves = !state.is_broken_in(&group.group.name, host);
                running.extend(group.running.filter(|_| serves));
            }
        }
        for id in running {
            if let Some(deployment) = self.deployment_mut(id)
                && !deployment.targets.contains_key(&host)
            {
                let beside = deployment.beside;
                deployment.beside = if comes { beside + 1 } else { beside.saturating_sub(1) };
            }
        }
    }

    /// How many hosts of a group serve and are no targets of a deployment.
    pub(super) fn beside(&self, group: &GroupState, deployment: &Deployment) -> usize {
        let others = self.hosts_of(&group.group.filter);
        let others = others.filter(|host| !deployment.targets.contains_key(host));
        others.filter(|host| !self.has_nothing_of(group, *host)).count()
    }

    /// A group has other hosts, or others of them count.
    pub(super) fn count_anew(&mut self, group: &GroupName) {
        let Some(known) = self.state.groups.get(group) else { return };
        let size = Size::of(&self.state, known);
        self.sizes.0.insert(group.clone(), size);
    }

    /// With `host` down, no group of it has more hosts down than its configuration allows, and no zone
    /// of a group either where the configuration has a floor for zones. A group of which nothing works on
    /// the host is not asked: the host is down there for certain, and a slot is the only way out, so two
    /// such hosts under a quota of one must not wait for each other. A host that is merely unreachable may
    /// be serving, and is not taken for down here.
    pub(super) fn check_quotas(&self, host: HostId, lasts: Lasts) -> Result<(), Refusal> {
        self.check_voters(host)?;
        let asked = if planted(Defect::OneGroupAsked) { 1 } else { usize::MAX };
        for group in self.groups_of(host).take(asked) {
            if self.has_nothing_of(group, host) {
                continue;
            }
            let down = self.down(group);
            let others = down.iter().filter(|down| **down != host).count();
            if !self.has_room(group, others, lasts) {
                let (group, quota) = (group.group.name.clone(), self.quota_of(group, lasts));
                return Err(Refusal::QuotaFull { group, down: others, quota });
            }
            self.check_zone(group, host, &down, lasts)?;
        }
        Ok(())
    }

    /// True if one more host may be down beside so many others.
    fn has_room(&self, group: &GroupState, others: usize, lasts: Lasts) -> bool {
        others < self.quota_of(group, lasts) + usize::from(planted(Defect::QuotaOffByOne))
    }

    /// True if no other host of a group may be down.
    pub(super) fn is_full(&self, group: &GroupState) -> bool {
        let is_asked = !planted(Defect::QuotaNotChecked) && !planted(Defect::OneGroupAsked);
        is_asked && !self.has_room(group, self.down(group).len(), Lasts::Within)
    }

    /// The same, and it stays so whoever gives a slot back.
    pub(super) fn is_blocked(&self, group: &GroupState) -> bool {
        let down = self.down(group);
        let without_slot = down.iter().filter(|host| !self.state.slots.contains_key(*host));
        !self.has_room(group, without_slot.count(), Lasts::Within)
    }

    fn check_zone(
        &self,
        group: &GroupState,
        host: HostId,
        down: &BTreeSet<HostId>,
        lasts: Lasts,
    ) -> Result<(), Refusal> {
        let zone = self.zone_of(host);
        let Some(quota) = self.zone_quota(group, zone, lasts) else { return Ok(()) };
        let here = |other: &&HostId| **other != host && self.zone_of(**other) == zone;
        let others = down.iter().filter(here).count();
        if others + 1 > quota && !planted(Defect::ZoneNotAsked) {
            let group = group.group.name.clone();
            let zone = self.zone_name(host);
            return Err(Refusal::ZoneFull { group, zone, down: others, quota });
        }
        Ok(())
    }

    /// With `host` down, a majority of the voters is left as it is, whatever its groups allow: what a
    /// release does to its hosts, be it that they never come back, must not keep the fleet from deciding
    /// what happens next. Of one voter or two there is no majority to spare, and one of them may be down.
    pub(super) fn check_voters(&self, host: HostId) -> Result<(), Refusal> {
        let voters = self.electorate.newest();
        if !voters.is_voter(host) || planted(Defect::VotersNotSpared) {
            return Ok(());
        }
        let is_down = |voter: &HostId| {
            let known = self.state.members.contains_key(voter) && !self.is_uncounted(*voter);
            !known || self.state.slots.contains_key(voter) || self.is_away(*voter)
        };
        let down: Vec<_> = voters.hosts().filter(|voter| *voter != host).filter(is_down).collect();
        let (all, quota) = (voters.list().len(), voters.to_spare());
        if down.len() + 1 > quota {
            return Err(Refusal::VotersNeeded { down, all, quota });
        }
        Ok(())
    }

    /// How many hosts of a group in one zone may be down; none where no configuration says.
    pub(super) fn zone_quota(
        &self,
        group: &GroupState,
        zone: Option<&ZoneName>,
        lasts: Lasts,
    ) -> Option<usize> {
        let here = self.size_of_zone(group, zone);
        let floors = self.configurations(group, lasts).filter_map(|one| one.zones.as_ref());
        floors.map(|zones| zones.minimum_healthy.quota(here)).min()
    }

    /// How many hosts a group has in one zone, without those that are bare.
    pub(super) fn size_of_zone(&self, group: &GroupState, zone: Option<&ZoneName>) -> usize {
        let size = self.sizes.0.get(&group.group.name);
        size.and_then(|size| size.zones.get(&zone.cloned())).copied().unwrap_or(0)
    }

    /// True if the floor of its zone is as high as the zone, so that the host never gets a slot.
    pub(super) fn is_shut(
        &self,
        group: &GroupState,
        configuration: &DeploymentConfiguration,
        host: HostId,
    ) -> bool {
        let here = self.size_of_zone(group, self.zone_of(host));
        let quota = configuration.zones.as_ref().map(|zones| zones.minimum_healthy.quota(here));
        quota == Some(0) && !self.has_nothing_of(group, host)
    }

    /// Members that a filter selects and that nobody has written off.
    pub(super) fn hosts_of(&self, filter: &Labels) -> impl Iterator<Item = HostId> {
        let members = self.state.members.values();
        members
            .filter(|known| filter.matches(&known.member.labels))
            .map(|known| known.member.host)
            .filter(|host| !self.state.written_off.contains_key(host))
    }

    /// How long a host must have been well until it counts so in all of its groups.
    pub fn minimum_healthy_of(&self, host: HostId) -> Duration {
        let groups = self.groups_of(host).map(|group| group.group.minimum_healthy_seconds);
        Duration::from_secs(groups.max().unwrap_or(0).into())
    }

    pub(super) fn groups_of(&self, host: HostId) -> impl Iterator<Item = &GroupState> {
        let labels = self.state.members.get(&host).map(|known| &known.member.labels);
        self.state
            .groups
            .values()
            .map(|group| &**group)
            .filter(move |group| labels.is_some_and(|labels| group.group.filter.matches(labels)))
    }

    pub(super) fn zone_of(&self, host: HostId) -> Option<&ZoneName> {
        self.state.members.get(&host)?.member.zone.as_ref()
    }

    /// What people call the zone of a host.
    pub(super) fn zone_name(&self, host: HostId) -> String {
        self.zone_of(host).map_or_else(|| "none".into(), ToString::to_string)
    }

    /// Hosts of a group that are down: they hold a slot, whatever for, or are not well. All others, which
    /// are nearly all, are not looked at.
    pub(super) fn down(&self, group: &GroupState) -> BTreeSet<HostId> {
        let State { slots, unhealthy, drained, broken, uncounted, .. } = &*self.state;
        let name = &group.group.name;
        let broken = broken.iter().filter(|(of, _)| of == name).map(|(_, host)| host);
        let kept = unhealthy.keys().chain(drained.keys());
        let maybe = slots.keys().chain(kept).chain(broken).chain(&**uncounted);
        let is_down = |host: &HostId| self.is_holder(name, *host) || !self.is_well_in(name, *host);
        maybe.filter(|host| self.state.counts_in(group, **host) && is_down(host)).copied().collect()
    }

    /// True if a slot of the group is held for another release than this one.
    pub(super) fn holds_other(&self, group: &GroupState, release: Digest) -> bool {
        let mut others = self.state.slots.values().filter(|slot| slot.grant.release != release);
        others.any(|slot| self.is_of(slot, &group.group.name))
    }

    /// True if a slot is held for a deployment of the group.
    pub(super) fn is_of(&self, slot: &Slot, group: &GroupName) -> bool {
        self.deployment(slot.deployment).is_some_and(|own| own.group == *group)
    }

    fn is_holder(&self, group: &GroupName, host: HostId) -> bool {
        let Some(slot) = self.state.slots.get(&host) else { return false };
        let own = self.deployment(slot.deployment);
        let is_left = own.is_some_and(|own| own.status.is_over());
        (!planted(Defect::HolderCountsAsHealthy) || own.is_some_and(|own| own.group == *group))
            && (!planted(Defect::LeftHolderForgotten) || !is_left)
    }

    pub(super) fn is_well_in(&self, group: &GroupName, host: HostId) -> bool {
        let is_dead = self.state.unhealthy.contains_key(&host);
        let is_broken = self.is_broken_in(group, host);
        (!is_dead || planted(Defect::DeadCountsAsHealthy))
            && (!is_broken || planted(Defect::BrokenCountsAsHealthy))
            && (!self.is_drained(host) || planted(Defect::DrainedCountsAsHealthy))
            && (!self.is_uncounted(host) || planted(Defect::CensusIgnored))
    }

    /// True if the group's last deployment left the host without a working revision.
    pub fn is_broken_in(&self, group: &GroupName, host: HostId) -> bool {
        self.state.is_broken_in(group, host)
    }

    /// True if nothing of a group has ever run on a host, though the group has something that is good.
    pub(super) fn is_bare_in(&self, group: &GroupState, host: HostId) -> bool {
        self.state.is_bare_in(group, host)
    }

    /// True if nothing of a group works on a host: it is bare, or was left broken.
    pub(super) fn has_nothing_of(&self, group: &GroupState, host: HostId) -> bool {
        self.is_broken_in(&group.group.name, host) || self.is_bare_in(group, host)
    }

    /// Something works on a host of which nothing did, or the other way round.
    pub(super) fn note_who_serves(&mut self, host: HostId) {
        let groups = self.groups_of(host);
        let served =
            groups.filter_map(|group| Some((group.running?, !self.has_nothing_of(group, host))));
        for (running, serves) in served.collect::<Vec<_>>() {
            if let Some(target) = self.target_mut(running, host) {
                target.serves = serves;
            }
        }
    }

    /// How many hosts of a group may be down.
    pub(super) fn quota(&self, group: &GroupState) -> usize {
        self.quota_of(group, Lasts::Within)
    }

    fn quota_of(&self, group: &GroupState, lasts: Lasts) -> usize {
        let hosts = self.size(group);
        let quotas = self.configurations(group, lasts);
        quotas.map(|one| one.minimum_healthy.quota(hosts)).min().unwrap_or(0)
    }

    /// How many hosts a group has, without those that are bare.
    pub(super) fn size(&self, group: &GroupState) -> usize {
        self.sizes.0.get(&group.group.name).map_or(0, |size| size.hosts)
    }

    /// What says how many hosts of a group may be down: the running deployment's configuration, if any, and
    /// beside it what the group was given meanwhile. Whoever lowers the quota of a group means its hosts of
    /// today; to raise it takes a new order. What is down beyond the deployment is bounded by both.
    fn configurations<'a>(
        &'a self,
        group: &'a GroupState,
        lasts: Lasts,
    ) -> impl Iterator<Item = &'a DeploymentConfiguration> {
        let running: Option<&Deployment> = group.running.and_then(|id| self.deployment(id));
        let running = running.filter(|_| !planted(Defect::QuotaOfTheGroup));
        let lasts = lasts == Lasts::Beyond && !planted(Defect::DrainedForTheDeployment);
        let is_newer = running.is_none_or(|deployment| {
            deployment.group_document != group.signed && !planted(Defect::LoweredWithoutEffect)
        }) || lasts;
        let own = is_newer.then_some(&group.group.configuration);
        running.map(|deployment| &deployment.configuration).into_iter().chain(own)
    }
}
