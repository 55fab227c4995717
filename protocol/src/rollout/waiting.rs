//! Why nothing moves, for people who look.

use std::fmt;

use super::{
    deployment::{Deployment, DeploymentStatus, Hold, Target, TargetStatus},
    entry::Grant,
    kept::Kept,
    ledger::{GroupState, Ledger},
    refusal::Refusal,
};
use crate::{
    ids::{DeploymentId, GroupName, HostId, HostName},
    time::UnixSeconds,
};

/// Why a deployment does not move right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It is over, or something can be granted.
    No,
    /// It was not given its turn yet.
    Queued {
        /// The deployment that runs.
        behind: Option<DeploymentId>,
    },
    /// An operator has paused it.
    Paused,
    /// Operators have frozen its group.
    Frozen {
        /// Which.
        group: GroupName,
        /// Since when.
        since: UnixSeconds,
    },
    /// An operator is to look at the canary.
    Canary,
    /// It bakes after a stage.
    Baking {
        /// The stage.
        after: String,
        /// Until when.
        until: UnixSeconds,
    },
    /// Hosts are still fetching.
    Staging {
        /// How many.
        hosts: usize,
    },
    /// It takes no more hosts, and is over when those at work are done.
    Ending {
        /// Why.
        reason: String,
        /// Those at work.
        holders: Vec<HostName>,
    },
    /// As many hosts are down as may be.
    Quota(Full),
    /// Hosts that vote wait for other voters, of which a majority is left as it is.
    Voters {
        /// Those that hold a slot or are not well.
        down: Vec<HostName>,
        /// How many voters there are.
        all: usize,
    },
}

/// Why a group or a zone of it takes no more hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Full {
    /// Whose hosts, where it is another group that hosts of the deployment are in as well.
    pub group: Option<GroupName>,
    /// In which zone, where that alone is full.
    pub zone: Option<String>,
    /// How many may be down.
    pub quota: usize,
    /// Those that hold a slot.
    pub holders: Vec<HostName>,
    /// Those of them that hold one of a deployment that is over, and has not waited for them.
    pub left: Vec<HostName>,
    /// Those that operators have drained.
    pub drained: Vec<HostName>,
    /// Those that are down for other reasons.
    pub unhealthy: Vec<HostName>,
    /// Those that have not said what they hold since the voters were lost.
    pub uncounted: Vec<HostName>,
    /// How many more are still fetching.
    pub staging: usize,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("moving"),
            Self::Queued { behind: Some(behind) } => write!(f, "waits for {behind} to be over"),
            Self::Queued { behind: None } => f.write_str("waits for its turn"),
            Self::Paused => f.write_str("paused: go on with `swell resume`"),
            Self::Frozen { group, since } => {
                write!(f, "frozen since {since}: go on with `swell group unfreeze {group}`")
            }
            Self::Canary => f.write_str(
                "the canary runs it: go on with `swell resume`, or back with `swell stop --rollback`",
            ),
            Self::Baking { after, until } => write!(f, "bakes after {after} until {until}"),
            Self::Staging { hosts } => f.write_str(&fetching(*hosts)),
            Self::Ending { reason, holders } => {
                write!(f, "{reason}; over when it has ended on {}", join(holders))
            }
            Self::Quota(full) => full.fmt(f),
            Self::Voters { down, all } => {
                let down = join(down);
                write!(f, "the rest votes and waits for {down}: most of the {all} voters stay up")
            }
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(group) = &self.group {
            write!(f, "group {group}: ")?;
        }
        if let Some(zone) = &self.zone {
            write!(f, "zone {zone}: ")?;
        }
        match (self.quota, self.holders.len()) {
            (0, 0) => f.write_str("no host may be down: lower the minimum of the group")?,
            (quota, 0) => write!(f, "0 of {quota} slots held")?,
            (quota, held) => write!(f, "{held} of {quota} slots held by {}", join(&self.holders))?,
        }
        for name in self.left.iter().take(LEFT_SHOWN) {
            write!(f, "; {name} holds one of a deployment that is over: if it is gone for good, ")?;
            write!(f, "`swell slots release {name}` or `swell hosts remove {name}`")?;
        }
        if !self.drained.is_empty() {
            write!(f, "; drained: {} (`swell hosts undrain`)", join(&self.drained))?;
        }
        if !self.unhealthy.is_empty() {
            let names = join(&self.unhealthy);
            write!(f, "; not healthy: {names} (`swell hosts remove` what is gone for good)")?;
        }
        if !self.uncounted.is_empty() {
            let names = join(&self.uncounted);
            write!(
                f,
                "; not counted since voters were lost: {names} (`swell slots waive` what is gone)"
            )?;
        }
        match self.staging {
            0 => Ok(()),
            hosts => write!(f, "; {}", fetching(hosts)),
        }
    }
}

fn fetching(hosts: usize) -> String {
    match hosts {
        1 => "1 host is fetching the revision".into(),
        hosts => format!("{hosts} hosts are fetching the revision"),
    }
}

pub(super) fn join(names: &[HostName]) -> String {
    names.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ")
}

/// The others are in the table of slots.
const LEFT_SHOWN: usize = 3;

impl Ledger {
    /// Why a deployment does not move right now.
    pub fn why_waiting(&self, id: DeploymentId) -> Waiting {
        let Some(deployment) = self.deployment(id) else { return Waiting::No };
        let Some(group) = self.state.groups.get(&deployment.group) else { return Waiting::No };
        if deployment.status.is_over() {
            return Waiting::No;
        }
        if deployment.status != DeploymentStatus::Stopping
            && let Some(since) = group.frozen
        {
            return Waiting::Frozen { group: group.group.name.clone(), since };
        }
        if deployment.status == DeploymentStatus::Queued {
            return Waiting::Queued { behind: group.running };
        }
        let names = |host: &HostId| self.name_of(*host).cloned();
        let busy = deployment.targets.iter().filter(|(_, target)| target.status.is_busy());
        let holders = busy.filter_map(|(host, _)| names(host)).collect();
        if deployment.status == DeploymentStatus::Stopping {
            return Waiting::Ending { reason: "it was stopped".into(), holders };
        }
        if let Some(reason) = deployment.why_ending() {
            return Waiting::Ending { reason, holders };
        }
        if deployment.paused {
            return Waiting::Paused;
        }
        match deployment.hold {
            Some(Hold::Canary) => Waiting::Canary,
            Some(Hold::Bake { until }) => {
                let after = deployment.present_stage().map(|stage| stage.name.clone());
                Waiting::Baking { after: after.unwrap_or_default(), until }
            }
            None => self.why_no_grant(group, deployment),
        }
    }

    /// Why no host of a deployment gets a slot that might have one.
    fn why_no_grant(&self, group: &GroupState, deployment: &Deployment) -> Waiting {
        let is_its =
            |grant: &Grant| (grant.order, grant.release) == (deployment.order, deployment.release);
        if self.next_grants().iter().any(is_its) {
            return Waiting::No;
        }
        let mut full = match self.first_refusal(deployment) {
            Some(Refusal::VotersNeeded { down: voters, all, .. }) => {
                let list = self.electorate().newest().list().iter();
                let down = list.filter(|voter| voters.contains(&voter.host));
                return Waiting::Voters {
                    down: down.map(|voter| voter.name.clone()).collect(),
                    all,
                };
            }
            Some(Refusal::QuotaFull { group, quota, .. }) => self.full(&group, None, quota),
            Some(Refusal::ZoneFull { group, zone, quota, .. }) => {
                self.full(&group, Some(zone), quota)
            }
            _ => self.full(&group.group.name, None, self.quota(group)),
        };
        // A host that is away and has never served keeps those that do from going, as one that is broken does.
        for (host, target) in &deployment.targets {
            let is_to_come = !target.status.is_over() && target.stage <= deployment.stage;
            if is_to_come && self.is_away(*host) && self.is_bare_in(group, *host) {
                self.note_down(&mut full, *host);
            }
        }
        let fetches = |(host, target): &(&HostId, &Kept<Target>)| {
            target.status == TargetStatus::Pending && !self.is_away(**host)
        };
        let staging = deployment.targets.iter().filter(fetches).count();
        let nobody =
            full.holders.is_empty() && full.unhealthy.is_empty() && full.drained.is_empty();
        if nobody && full.uncounted.is_empty() && staging > 0 {
            return Waiting::Staging { hosts: staging };
        }
        let other = full.group.filter(|of| *of != group.group.name);
        Waiting::Quota(Full { group: other, staging, ..full })
    }

    /// What keeps the first host from a slot that is ready for one. One that holds a slot of another group
    /// says nothing of the rest.
    fn first_refusal(&self, deployment: &Deployment) -> Option<Refusal> {
        let (order, release) = (deployment.order, deployment.release);
        let ready = deployment.targets.iter().filter(|(host, target)| {
            let is_away = self.is_away(**host);
            target.status == TargetStatus::Waiting && target.stage <= deployment.stage && !is_away
        });
        let grant = |host: &HostId| Grant { host: *host, order, release };
        let mut refused = ready.filter_map(|(host, _)| self.judge_grant(&grant(host)).err());
        refused.find(|refusal| !matches!(refusal, Refusal::HoldsSlot(_)))
    }

    /// Who is down in a group, or in a zone of it.
    fn full(&self, name: &GroupName, zone: Option<String>, quota: usize) -> Full {
        let mut full =
            Full { group: Some(name.clone()), zone: zone.clone(), quota, ..Full::default() };
        let Some(group) = self.state.groups.get(name) else { return full };
        let is_there =
            |host: &HostId| zone.as_ref().is_none_or(|zone| self.zone_name(*host) == *zone);
        for host in self.down(group).into_iter().filter(is_there) {
            self.note_down(&mut full, host);
        }
        full
    }

    fn note_down(&self, full: &mut Full, host: HostId) {
        let name = self.name_of(host).cloned();
        if self.slot_of(host).is_some_and(|slot| slot.is_left) {
            full.left.extend(name.clone());
        }
        let list = match self.state.slots.contains_key(&host) {
            true => &mut full.holders,
            false if self.is_uncounted(host) => &mut full.uncounted,
            false if self.is_drained(host) => &mut full.drained,
            false => &mut full.unhealthy,
        };
        list.extend(name);
    }
}
