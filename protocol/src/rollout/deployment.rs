//! One run of a deploy order over the hosts of a group.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::configuration::DeploymentConfiguration;
use crate::{
    execute::LifecycleEvent,
    ids::{ApplicationName, DeploymentId, Digest, GroupName, HostId, ReleaseLabel},
    time::UnixSeconds,
    trust::{Group, Signed},
};

/// A deployment and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its name.
    pub id: DeploymentId,
    /// The deploy order that started it, or that the deployment followed which this one undoes.
    pub order: Digest,
    /// The group.
    pub group: GroupName,
    /// The application.
    pub application: ApplicationName,
    /// The release that hosts are brought to.
    pub release: Digest,
    /// What people call it.
    pub label: ReleaseLabel,
    /// The group's last good release when it began.
    pub previous: Option<Digest>,
    /// Who started it.
    pub creator: Creator,
    /// The operator's reason.
    pub reason: String,
    /// The configuration in force.
    pub configuration: DeploymentConfiguration,
    /// The release to go back to on failure.
    pub fallback: Option<Digest>,
    /// The group as the order named it.
    pub group_document: Signed<Group>,
    /// How far it is.
    pub status: DeploymentStatus,
    /// When it began.
    pub created_at: UnixSeconds,
    /// When it ended.
    pub ended_at: Option<UnixSeconds>,
    /// The index of the entry that started it; later ones have higher numbers.
    pub index: u64,
    /// Its hosts.
    pub targets: BTreeMap<HostId, Target>,
}

/// Who started a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Creator {
    /// An operator's order.
    Operator,
    /// The failure of the deployment of the same order.
    Rollback,
}

/// How far a deployment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeploymentStatus {
    /// Hosts are being brought to the release.
    InProgress,
    /// A stop was ordered; hosts in the middle of their lifecycle end it.
    Stopping,
    /// Enough hosts run the release.
    Succeeded,
    /// Too many hosts failed.
    Failed {
        /// Why, by CodeDeploy's name of the error and in words.
        reason: String,
    },
    /// It was stopped.
    Stopped,
}

impl DeploymentStatus {
    /// True if nothing more will happen.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::InProgress | Self::Stopping)
    }
}

/// One host of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// How far the host is.
    pub status: TargetStatus,
    /// When it got its slot.
    pub started_at: Option<UnixSeconds>,
    /// When it gave it back.
    pub ended_at: Option<UnixSeconds>,
}

/// How far a host is in a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetStatus {
    /// Not ready yet.
    Pending,
    /// Ready; waits for a slot.
    Waiting,
    /// Holds a slot.
    InProgress {
        /// The slot.
        token: u64,
    },
    /// Runs the release.
    Succeeded,
    /// A lifecycle event failed.
    Failed {
        /// The event.
        event: LifecycleEvent,
        /// The script, or empty.
        script: String,
        /// AWS's error code.
        code: u8,
        /// What happened.
        message: String,
        /// The last lines of the log.
        log: String,
        /// True if the previous revision runs again.
        restored: bool,
    },
    /// Left alone: the deployment ended first, or the host declined.
    Skipped {
        /// Why.
        reason: String,
    },
}

impl TargetStatus {
    /// True if the host's part is over.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. } | Self::Skipped { .. })
    }
}

impl Deployment {
    /// How many hosts must stay healthy.
    pub fn minimum(&self) -> usize {
        self.configuration.minimum_healthy.minimum(self.targets.len())
    }

    /// Hosts whose status is `wanted`.
    pub fn count(&self, wanted: impl Fn(&TargetStatus) -> bool) -> usize {
        self.targets.values().filter(|target| wanted(&target.status)).count()
    }

    /// How many more hosts may be taken before too few are left that have not failed: CodeDeploy's
    /// rule that healthy hosts which nobody works on never fall below the minimum.
    pub fn capacity(&self) -> usize {
        let failed = self.count(|status| matches!(status, TargetStatus::Failed { .. }));
        let busy = self.count(|status| matches!(status, TargetStatus::InProgress { .. }));
        self.targets.len().saturating_sub(failed + busy).saturating_sub(self.minimum())
    }

    /// What the targets amount to, if it is over.
    pub fn verdict(&self) -> Option<DeploymentStatus> {
        let busy = self.count(|status| matches!(status, TargetStatus::InProgress { .. }));
        if busy > 0 || self.status.is_over() {
            return None;
        }
        if self.status == DeploymentStatus::Stopping {
            return Some(DeploymentStatus::Stopped);
        }
        let remaining = self.count(|status| !status.is_over());
        let failed = self.count(|status| matches!(status, TargetStatus::Failed { .. }));
        if remaining > 0 {
            return (self.capacity() == 0).then(|| DeploymentStatus::Failed {
                reason: format!(
                    "HEALTH_CONSTRAINTS: {failed} of {} hosts failed and {} must stay healthy",
                    self.targets.len(),
                    self.minimum()
                ),
            });
        }
        // A host that declined is as little on the release as one that failed.
        let succeeded = self.count(|status| *status == TargetStatus::Succeeded);
        if succeeded >= self.minimum().max(1) {
            return Some(DeploymentStatus::Succeeded);
        }
        let reason = format!(
            "HEALTH_CONSTRAINTS: {succeeded} of {} hosts took the release, {failed} failed",
            self.targets.len()
        );
        Some(DeploymentStatus::Failed { reason })
    }
}
