//! How many hosts are down, and how many may be: the rule that everything is for.

use std::collections::BTreeSet;

use super::{
    deployment::Deployment,
    ledger::{GroupState, Ledger},
    refusal::Refusal,
};
use crate::{
    ids::{GroupName, HostId, Labels, ZoneName},
    sabotage::{Defect, planted},
};

impl Ledger {
    /// With `host` down, no group of it has more hosts down than its configuration allows, and no zone
    /// of a group either where the configuration has a floor for zones. A group for which the host has
    /// no working revision is not asked: the host is down there for certain, and a slot is the only way
    /// out, so two such hosts under a quota of one must not wait for each other. A host that is merely
    /// unreachable may be serving, and is not taken for down here.
    pub(super) fn check_quotas(&self, host: HostId) -> Result<(), Refusal> {
        self.check_voters(host)?;
        let asked = if planted(Defect::OneGroupAsked) { 1 } else { usize::MAX };
        for group in self.groups_of(host).take(asked) {
            if self.is_broken_in(&group.group.name, host) {
                continue;
            }
            let down = self.down(group);
            let others = down.iter().filter(|down| **down != host).count();
            let quota = self.quota(group);
            if others + 1 > quota + usize::from(planted(Defect::QuotaOffByOne)) {
                let group = group.group.name.clone();
                return Err(Refusal::QuotaFull { group, down: others, quota });
            }
            self.check_zone(group, host, &down)?;
        }
        Ok(())
    }

    fn check_zone(
        &self,
        group: &GroupState,
        host: HostId,
        down: &BTreeSet<HostId>,
    ) -> Result<(), Refusal> {
        let zone = self.zone_of(host);
        let Some(quota) = self.zone_quota(group, zone) else { return Ok(()) };
        let here = |other: &&HostId| **other != host && self.zone_of(**other) == zone;
        let others = down.iter().filter(here).count();
        if others + 1 > quota && !planted(Defect::ZoneNotAsked) {
            let group = group.group.name.clone();
            let zone = zone.map_or_else(|| "none".into(), ToString::to_string);
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
            !known || self.state.slots.contains_key(voter) || self.state.unhealthy.contains(voter)
        };
        let down: Vec<_> = voters.hosts().filter(|voter| *voter != host).filter(is_down).collect();
        let (all, quota) = (voters.list().len(), voters.to_spare());
        if down.len() + 1 > quota {
            return Err(Refusal::VotersNeeded { down, all, quota });
        }
        Ok(())
    }

    /// How many hosts of a group in one zone may be down; none where the configuration does not say.
    pub(super) fn zone_quota(&self, group: &GroupState, zone: Option<&ZoneName>) -> Option<usize> {
        let zones = self.configuration_of(group).zones.as_ref()?;
        let here = self.hosts_of(&group.group.filter).filter(|host| self.zone_of(*host) == zone);
        Some(zones.minimum_healthy.quota(here.count()))
    }

    /// Members that a filter selects and that nobody has written off.
    pub(super) fn hosts_of(&self, filter: &Labels) -> impl Iterator<Item = HostId> {
        let members = self.state.members.values();
        members
            .filter(|known| filter.matches(&known.member.labels))
            .map(|known| known.member.host)
            .filter(|host| !self.state.written_off.contains_key(host))
    }

    pub(super) fn groups_of(&self, host: HostId) -> impl Iterator<Item = &GroupState> {
        let labels = self.state.members.get(&host).map(|known| &known.member.labels);
        self.state
            .groups
            .values()
            .filter(move |group| labels.is_some_and(|labels| group.group.filter.matches(labels)))
    }

    pub(super) fn zone_of(&self, host: HostId) -> Option<&ZoneName> {
        self.state.members.get(&host)?.member.zone.as_ref()
    }

    /// Hosts of a group that are down: they hold a slot, whatever for, or are not well.
    pub(super) fn down(&self, group: &GroupState) -> BTreeSet<HostId> {
        self.hosts_of(&group.group.filter)
            .filter(|host| {
                self.is_holder(&group.group.name, *host)
                    || !self.is_well_in(&group.group.name, *host)
            })
            .collect()
    }

    fn is_holder(&self, group: &GroupName, host: HostId) -> bool {
        let Some(slot) = self.state.slots.get(&host) else { return false };
        !planted(Defect::HolderCountsAsHealthy)
            || self.deployment(slot.deployment).is_some_and(|own| own.group == *group)
    }

    pub(super) fn is_well_in(&self, group: &GroupName, host: HostId) -> bool {
        let is_dead = self.state.unhealthy.contains(&host);
        let is_broken = self.is_broken_in(group, host);
        (!is_dead || planted(Defect::DeadCountsAsHealthy))
            && (!is_broken || planted(Defect::BrokenCountsAsHealthy))
            && !self.is_uncounted(host)
    }

    /// True if the group's last deployment left the host without a working revision.
    pub fn is_broken_in(&self, group: &GroupName, host: HostId) -> bool {
        self.state.broken.iter().any(|(g, h)| (g, *h) == (group, host))
    }

    /// How many hosts of a group may be down: by the running deployment's configuration, if any.
    pub(super) fn quota(&self, group: &GroupState) -> usize {
        let minimum = self.configuration_of(group).minimum_healthy;
        minimum.quota(self.hosts_of(&group.group.filter).count())
    }

    fn configuration_of<'a>(&'a self, group: &'a GroupState) -> &'a super::DeploymentConfiguration {
        let running: Option<&Deployment> =
            group.running.and_then(|id| self.state.deployments.get(&id));
        let running = running.filter(|_| !planted(Defect::QuotaOfTheGroup));
        running.map_or(&group.group.configuration, |deployment| &deployment.configuration)
    }
}
