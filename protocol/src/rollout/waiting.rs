//! Why nothing moves, for people who look.

use std::fmt;

use super::{
    deployment::{DeploymentStatus, Hold, TargetStatus},
    ledger::Ledger,
    refusal::Refusal,
};
use crate::{
    ids::{DeploymentId, HostName},
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
    /// As many hosts are down as may be.
    Quota {
        /// How many may be.
        quota: usize,
        /// Those that hold a slot.
        holders: Vec<HostName>,
        /// Those that are down without one.
        unhealthy: Vec<HostName>,
    },
    /// Hosts that vote wait for other voters, of which a majority is left as it is.
    Voters {
        /// Those that hold a slot or are not well.
        down: Vec<HostName>,
        /// How many voters there are.
        all: usize,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("moving"),
            Self::Queued { behind: Some(behind) } => write!(f, "waits for {behind} to be over"),
            Self::Queued { behind: None } => f.write_str("waits for its turn"),
            Self::Paused => f.write_str("paused: go on with `swell resume`"),
            Self::Canary => f.write_str(
                "the canary runs it: go on with `swell resume`, or back with `swell stop --rollback`",
            ),
            Self::Baking { after, until } => write!(f, "bakes after {after} until {until}"),
            Self::Staging { hosts: 1 } => f.write_str("1 host is fetching the revision"),
            Self::Staging { hosts } => write!(f, "{hosts} hosts are fetching the revision"),
            Self::Quota { quota, holders, unhealthy } => {
                let held = holders.len();
                write!(f, "{held} of {quota} slots held")?;
                if held > 0 {
                    write!(f, " by {}", join(holders))?;
                }
                if !unhealthy.is_empty() {
                    write!(f, "; not healthy: {}", join(unhealthy))?;
                }
                Ok(())
            }
            Self::Voters { down, all } => {
                let down = join(down);
                write!(f, "the rest votes and waits for {down}: most of the {all} voters stay up")
            }
        }
    }
}

fn join(names: &[HostName]) -> String {
    names.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ")
}

impl Ledger {
    /// Why a deployment does not move right now.
    pub fn why_waiting(&self, id: DeploymentId) -> Waiting {
        let Some(deployment) = self.deployment(id) else { return Waiting::No };
        let Some(group) = self.state.groups.get(&deployment.group) else { return Waiting::No };
        if deployment.status.is_over() {
            return Waiting::No;
        }
        if deployment.status == DeploymentStatus::Queued {
            return Waiting::Queued { behind: group.running };
        }
        if deployment.paused {
            return Waiting::Paused;
        }
        match deployment.hold {
            Some(Hold::Canary) => return Waiting::Canary,
            Some(Hold::Bake { until }) => {
                let after = deployment.present_stage().map(|stage| stage.name.clone());
                return Waiting::Baking { after: after.unwrap_or_default(), until };
            }
            None if !self.next_grants().is_empty() => return Waiting::No,
            None => {}
        }
        let staging = deployment.count(|status| *status == TargetStatus::Pending);
        let (mut holders, mut unhealthy) = (Vec::new(), Vec::new());
        for host in self.down(group) {
            let Some(name) = self.name_of(host) else { continue };
            let held = self.state.slots.contains_key(&host);
            if held { holders.push(name.clone()) } else { unhealthy.push(name.clone()) }
        }
        if holders.is_empty() && unhealthy.is_empty() && staging > 0 {
            return Waiting::Staging { hosts: staging };
        }
        let (quota, down) = (self.quota(group), holders.len() + unhealthy.len());
        let ready = deployment.targets.iter().filter(|(_, t)| t.status == TargetStatus::Waiting);
        match ready.map(|(host, _)| self.check_voters(*host)).find(Result::is_err) {
            Some(Err(Refusal::VotersNeeded { down: voters, all, .. })) if down < quota => {
                let list = self.electorate().newest().list().iter();
                let down = list.filter(|voter| voters.contains(&voter.host));
                let down = down.map(|voter| voter.name.clone()).collect();
                Waiting::Voters { down, all }
            }
            _ => Waiting::Quota { quota, holders, unhealthy },
        }
    }
}
