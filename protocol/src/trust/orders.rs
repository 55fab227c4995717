//! What operators sign: groups, the orders that move them, and the removal of a host.

use serde::{Deserialize, Serialize};

use super::documents::{Document, Invalid, check_text};
use crate::{
    ids::{ApplicationName, Digest, GroupName, HostId, HostName, Labels},
    limits::{DOCUMENT_BYTES_MAX, MINIMUM_HEALTHY_SECONDS_MAX},
    revision::FileExistsBehavior,
    rollout::DeploymentConfiguration,
    time::UnixSeconds,
};

/// A deployment group: which hosts, and how carefully. Signed by the operator role; the highest
/// version counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name, unique in the fleet.
    pub name: GroupName,
    /// Labels that a host must have to be in the group; empty selects every host.
    pub filter: Labels,
    /// One more than the version it replaces; the first is 1.
    pub version: u64,
    /// Hosts that were away during a deployment are brought to its release when they return.
    pub catch_up: bool,
    /// The application that runs there.
    pub application: ApplicationName,
    /// How many hosts may be down at once, and in which order they go.
    pub configuration: DeploymentConfiguration,
    /// A deployment fails as soon as more hosts than this have failed. None lets as many fail as the
    /// minimum of healthy hosts allows.
    pub failure_budget: Option<u32>,
    /// Whoever signs a deploy order for the group names the last good release as its fallback, unless
    /// told otherwise. The order is what counts: a host goes back only to what was signed for it.
    pub automatic_rollback: bool,
    /// Hosts that come into the group are brought to the release of its last success.
    pub deploy_to_new_hosts: bool,
    /// Seconds that a host must have been healthy before its slot passes on.
    pub minimum_healthy_seconds: u32,
}

impl Document for Group {
    const CONTEXT: &'static str = "group/1";
    const NAME: &'static str = "deployment group";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        Invalid::unless(self.version > 0, || "a group's first version is 1".into())?;
        Invalid::unless(self.minimum_healthy_seconds <= MINIMUM_HEALTHY_SECONDS_MAX, || {
            let (max, got) = (MINIMUM_HEALTHY_SECONDS_MAX, self.minimum_healthy_seconds);
            format!("minimum_healthy_seconds is at most {max}, not {got}")
        })?;
        self.configuration.check()
    }
}

/// An instruction for one group. Signed by the operator role; the orders of a group form a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The group that it is for.
    pub group: GroupName,
    /// What to do.
    pub action: Action,
    /// The id of the group's previous order; zero for the first.
    pub parent: Digest,
    /// Why, in the operator's words.
    pub reason: String,
    /// One more than the previous order's; the first is 1.
    pub sequence: u64,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// After this time nobody may begin to follow it.
    pub not_after: Option<UnixSeconds>,
}

/// What an order asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Bring the group to a release.
    Deploy(Deploy),
    /// Bring the group back to a release, on every host that runs another one. A deployment that runs
    /// or waits is stopped for it. There is no rollback of a rollback, and time does not end the way
    /// back.
    Rollback(Deploy),
    /// Begin nothing more for the deployment that an order started. A host in the middle of its
    /// lifecycle ends it.
    Stop {
        /// The id of the deploy order.
        order: Digest,
        /// Then bring the hosts that took the release back to the fallback that the order names.
        rollback: bool,
    },
    /// Give no more slots for the deployment that an order started, until it is resumed.
    Pause {
        /// The id of the deploy order.
        order: Digest,
    },
    /// Go on with a deployment that is paused, that waits after its canary, or that bakes.
    Resume {
        /// The id of the deploy order.
        order: Digest,
    },
    /// Write off a host that holds a slot and is not heard of. The slot is free after a hold-off, and
    /// the host acts on it no more.
    ///
    /// This is an order of the group, and not a document of its own: the slot belongs to a deployment
    /// of the group, and a host can follow no later order of the group without having read this one
    /// in the chain before it, or having given up what it had begun where the fleet keeps this one no
    /// more. So it cannot act on the slot when it returns.
    ReleaseSlot {
        /// The holder.
        host: HostId,
        /// The slot. A later one of the same host is not meant.
        token: u64,
    },
    /// Write off a host that is not heard of and has not said, since the voters were lost, that it holds no
    /// slot which was lost with them. It counts as down no more after a hold-off, until it is heard of.
    Waive {
        /// The host.
        host: HostId,
        /// The generation of voters with which the fleet went on. After another loss the host may hold
        /// another slot.
        generation: u64,
    },
    /// Begin nothing in the group, whoever orders it, until it is unfrozen.
    Freeze,
    /// End that.
    Unfreeze,
}

/// The terms of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// Wait for the turn if a deployment of the group runs already, instead of being refused.
    pub queue: bool,
    /// The id of the release to run.
    pub release: Digest,
    /// The id of the release to go back to, on the hosts that took the new one, if the deployment
    /// fails. None leaves them as they are.
    pub fallback: Option<Digest>,
    /// Replaces the group's own configuration for this deployment.
    pub configuration: Option<DeploymentConfiguration>,
    /// The version of the group that the operator had in mind; an older or newer one refuses.
    pub group_version: u64,
    /// Leave hosts alone that run the release already.
    pub only_outdated: bool,
    /// What to do with files in the way; the appspec's own setting wins.
    pub file_exists_behavior: Option<FileExistsBehavior>,
    /// Go on if the previous revision's ApplicationStop fails.
    pub ignore_application_stop_failures: bool,
}

impl Document for Order {
    const CONTEXT: &'static str = "order/1";
    const NAME: &'static str = "order";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        check_text("reason", &self.reason)?;
        Invalid::unless(self.sequence > 0, || "a group's first order has sequence 1".into())?;
        Invalid::unless((self.sequence == 1) == (self.parent == Digest::ZERO), || {
            "the first order, and no other, has no parent".into()
        })?;
        match &self.action {
            Action::Deploy(deploy) => deploy.check(),
            Action::Rollback(deploy) => {
                Invalid::unless(deploy.fallback.is_none() && !deploy.queue, || {
                    "a rollback has no fallback of its own and waits for nothing".into()
                })?;
                deploy.check()
            }
            _ => Ok(()),
        }
    }
}

impl Deploy {
    /// The plain terms: this release on every host, under the group's own configuration, now.
    pub fn plain(release: Digest, group_version: u64) -> Self {
        Self {
            queue: false,
            release,
            fallback: None,
            configuration: None,
            group_version,
            only_outdated: false,
            file_exists_behavior: None,
            ignore_application_stop_failures: false,
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        self.configuration.as_ref().map_or(Ok(()), DeploymentConfiguration::check)
    }
}

/// "This key belongs to the fleet no more, for good." Signed by the operator role.
///
/// A document of its own, and not an order: a host may be in many groups or in none, and no group's
/// chain has to be at some place for it. It cannot be replayed to any effect, since it names a key
/// and the set of removed keys only grows. A machine that comes back makes a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The host's key.
    pub host: HostId,
    /// Its name, for people. The name is free again.
    pub name: HostName,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it was signed.
    pub issued_at: UnixSeconds,
}

/// Keeps a host for people to work on, or gives it back: until then it counts as down, and gets no slot.
///
/// A document of its own as a removal is, and not an order: of a group that has every host its chain would grow
/// with each one that is patched. What is old is told by its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The host's key.
    pub host: HostId,
    /// Its name, for people.
    pub name: HostName,
    /// False where it is given back.
    pub drained: bool,
    /// One more than the last one's of this host; the first is 1.
    pub sequence: u64,
    /// Why, in the operator's words.
    pub reason: String,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// After this time the host is not drained by it any more. To give it back time does not matter.
    pub not_after: Option<UnixSeconds>,
}

impl Document for Drain {
    const CONTEXT: &'static str = "drain/1";
    const NAME: &'static str = "drain";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        check_text("reason", &self.reason)?;
        Invalid::unless(self.sequence > 0, || "a host's first drain has sequence 1".into())
    }
}

impl Document for Removal {
    const CONTEXT: &'static str = "removal/1";
    const NAME: &'static str = "removal";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        check_text("reason", &self.reason)
    }
}
