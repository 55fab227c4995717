//! What the network daemon may ask of the executor, and what it hears back.
//!
//! The requests are a closed set. None carries a command line or a path: the executor finds
//! manifests and frames in the store that its own configuration names, by their hashes, and
//! verifies every document again from its own trust state.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{DeploymentId, Digest, FleetId, GroupName, Malformed, Nonce, ReleaseLabel},
    sabotage::{Defect, planted},
    trust::{Group, MemberCert, Order, Outcome, Receipt, Release, Signed, Trust, VoterList},
};

/// A step of a deployment on one host, by CodeDeploy's names and in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are CodeDeploy's and mean what they mean there")]
pub enum LifecycleEvent {
    BeforeBlockTraffic,
    BlockTraffic,
    AfterBlockTraffic,
    ApplicationStop,
    DownloadBundle,
    BeforeInstall,
    Install,
    AfterInstall,
    ApplicationStart,
    ValidateService,
    BeforeAllowTraffic,
    AllowTraffic,
    AfterAllowTraffic,
}

impl LifecycleEvent {
    /// All events, in order.
    pub const ALL: [Self; 13] = [
        Self::BeforeBlockTraffic,
        Self::BlockTraffic,
        Self::AfterBlockTraffic,
        Self::ApplicationStop,
        Self::DownloadBundle,
        Self::BeforeInstall,
        Self::Install,
        Self::AfterInstall,
        Self::ApplicationStart,
        Self::ValidateService,
        Self::BeforeAllowTraffic,
        Self::AllowTraffic,
        Self::AfterAllowTraffic,
    ];

    /// The events of an in-place deployment without a load balancer that happen inside a slot.
    pub const IN_PLACE: [Self; 6] = [
        Self::ApplicationStop,
        Self::BeforeInstall,
        Self::Install,
        Self::AfterInstall,
        Self::ApplicationStart,
        Self::ValidateService,
    ];

    /// False for the four events that are done for the user and run no scripts.
    pub fn is_scriptable(self) -> bool {
        !matches!(
            self,
            Self::BlockTraffic | Self::DownloadBundle | Self::Install | Self::AllowTraffic
        )
    }
}

/// Which events a deployment has on a host, in their order, and of which revision each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    /// In place, without a load balancer.
    InPlace,
    /// In place, behind a load balancer.
    LoadBalancer,
    /// Blue/green, on a host that takes the traffic.
    Replacement,
    /// Blue/green, on a host that gives the traffic up.
    Original,
    /// Blue/green, rolled back: on a host that takes the traffic again.
    RollbackOriginal,
    /// Blue/green, rolled back: on a host that gives the traffic up again.
    RollbackReplacement,
}

/// A revision that an event runs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The one that is deployed.
    Current,
    /// The last one whose Install has ended, whatever became of it then.
    LastSuccessful,
    /// The last one that has arrived on the host.
    MostRecent,
}

impl Lifecycle {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::InPlace,
        Self::LoadBalancer,
        Self::Replacement,
        Self::Original,
        Self::RollbackOriginal,
        Self::RollbackReplacement,
    ];

    /// The events, in order.
    pub fn events(self) -> &'static [LifecycleEvent] {
        let all = &LifecycleEvent::ALL;
        match self {
            Self::LoadBalancer => all,
            Self::InPlace => &all[3..10],
            Self::Replacement => &all[3..],
            Self::Original | Self::RollbackReplacement => &all[..3],
            Self::RollbackOriginal => &all[10..],
        }
    }

    /// The revision that an event runs from, as long as the one that is deployed is not on the host yet.
    pub fn source(self, event: LifecycleEvent) -> Source {
        use LifecycleEvent::{
            AfterAllowTraffic, AfterBlockTraffic, ApplicationStop, BeforeAllowTraffic,
            BeforeBlockTraffic,
        };
        let rolls_back = matches!(self, Self::RollbackOriginal | Self::RollbackReplacement);
        match event {
            BeforeBlockTraffic | AfterBlockTraffic if rolls_back => Source::MostRecent,
            BeforeBlockTraffic | AfterBlockTraffic | ApplicationStop => Source::LastSuccessful,
            BeforeAllowTraffic | AfterAllowTraffic if rolls_back => Source::LastSuccessful,
            _ => Source::Current,
        }
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InPlace => "in-place",
            Self::LoadBalancer => "load-balancer",
            Self::Replacement => "replacement",
            Self::Original => "original",
            Self::RollbackOriginal => "rollback-original",
            Self::RollbackReplacement => "rollback-replacement",
        })
    }
}

impl FromStr for Lifecycle {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|one| one.to_string() == text).ok_or_else(|| Malformed {
            what: "lifecycle",
            text: text.escape_debug().take(80).collect(),
            rule: "one of in-place, load-balancer, replacement, original, rollback-original, \
                   rollback-replacement",
        })
    }
}

impl fmt::Display for LifecycleEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

impl FromStr for LifecycleEvent {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|event| format!("{event:?}") == text).ok_or_else(|| Malformed {
            what: "lifecycle event",
            text: text.escape_debug().take(80).collect(),
            rule: "one of CodeDeploy's lifecycle events",
        })
    }
}

/// A request to the executor, one CBOR value in a frame that starts with its length as a `u32` in
/// network byte order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Ask for the state, once its version is above `seen` or ten seconds have passed.
    Report {
        /// The version of the last report that was received; 0 asks for an answer at once.
        seen: u64,
    },
    /// Verify a release and lay it out on disk, beside what runs. Needs no slot.
    Stage(Box<Evidence>),
    /// Draw the number that receipts for a slot must carry. Each call makes older ones worthless.
    Prepare {
        /// The group.
        group: GroupName,
        /// The deploy order.
        order: Digest,
        /// The release to run.
        release: Digest,
    },
    /// Run the lifecycle, or go on with one that was interrupted.
    Activate {
        /// All that is needed to judge it.
        evidence: Box<Evidence>,
        /// The slot.
        token: u64,
        /// Receipts for the slot by a majority of voters, with the prepared nonce.
        receipts: Vec<Signed<Receipt>>,
    },
    /// Heed an order before its turn in the chain: begin nothing for the order that this signed stop
    /// names, or act no more on the slot that this signed order releases.
    Stop(Signed<Order>),
    /// Heed no older voters than those of the newest of these lists, which follow what is known.
    Learn(Vec<Signed<VoterList>>),
    /// Never begin anything under this slot, which is about to be given back unused. Refused where something
    /// was begun under it. The report shows it among the released ones.
    GiveUp {
        /// The group.
        group: GroupName,
        /// The slot.
        token: u64,
    },
    /// The slot was given back; its journal may be closed.
    Returned {
        /// The group.
        group: GroupName,
        /// The slot.
        token: u64,
    },
    /// Read what the scripts of a deployment have written.
    Log {
        /// The deployment.
        deployment: DeploymentId,
        /// The first byte that is wanted; the answer is as long as the limits allow.
        offset: u64,
    },
}

/// Everything by which the executor convinces itself that a release may run here now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// This host's certificate.
    pub cert: MemberCert,
    /// The group, in the version that the order names.
    pub group: Signed<Group>,
    /// The group's orders, without a gap, from the one after the last that the executor knows up
    /// to the newest. Where that one is kept no more, from the first that is.
    pub orders: Vec<Signed<Order>>,
    /// The deploy order to follow.
    pub order: Digest,
    /// The release to run: the order's, or its fallback.
    pub release: Signed<Release>,
    /// The lists of voters after the newest one that the executor knows.
    pub voter_lists: Vec<Signed<VoterList>>,
}

/// The executor's answer, framed like the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Report`.
    Report(Report),
    /// To `Prepare`.
    Prepared {
        /// The number that the receipts must carry.
        nonce: Nonce,
    },
    /// To `Log`: empty where the log ends for now; none if there is no such log here.
    Log(Option<Bytes>),
    /// The request was carried out, or is under way; the report tells more.
    Accepted,
    /// Nothing was done.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// The executor's whole state, as far as others need it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Counts changes since the executor started; a restart begins again at 1.
    pub version: u64,
    /// The fleet that it trusts; none before it was given a trust bundle.
    pub fleet: Option<FleetId>,
    /// The newest generation of voters that it knows.
    pub generation: u64,
    /// One entry for each group that it has ever acted for.
    pub groups: Vec<GroupReport>,
}

/// What the executor knows of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// The group.
    pub group: GroupName,
    /// Sequence of the last order that it accepted; 0 before the first.
    pub sequence: u64,
    /// Id of that order.
    pub head: Digest,
    /// What runs: the release's id and label. None if nothing was ever installed, or if the last
    /// attempt left the host in the failed state.
    pub current: Option<(Digest, ReleaseLabel)>,
    /// The releases that are laid out and ready to run.
    pub staged: Vec<Digest>,
    /// Deploy orders for which a stop has come: nothing will begin for them any more.
    pub stopped: Vec<Stopped>,
    /// Slots on which this host acts no more: an operator released them, or it gave them up unused.
    pub released: Vec<u64>,
    /// The last slot that was used and closed; 0 before the first. This host acts no more on it, nor on
    /// one before it.
    pub closed: u64,
    /// The activation that runs, was interrupted, or has ended and was not yet returned.
    pub activation: Option<ActivationReport>,
}

/// A stop that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// The deploy order that it names.
    pub order: Digest,
    /// The host may still go back to the fallback that the order names.
    pub rollback: bool,
}

impl GroupReport {
    /// True if nothing will begin for an order any more: with `goes_back`, not even the way to its
    /// fallback.
    pub fn is_stopped(&self, order: Digest, goes_back: bool) -> bool {
        self.stopped.iter().any(|stop| stop.covers(order, goes_back))
    }

    /// True if nothing will begin under a slot any more.
    pub fn is_done_with(&self, token: u64) -> bool {
        is_done_with(token, self.closed, &self.released)
    }
}

/// True if nothing may begin under a slot any more: it was released or given up, or it or a later one
/// was used and closed. That holds whoever vouches for it. A fleet that lost its voters may go on with a
/// ledger that does not know yet that the slot was given back, and others have had their turn since.
/// Tokens only grow, those of such a ledger included.
pub fn is_done_with(token: u64, closed: u64, released: &[u64]) -> bool {
    let forgets = planted(Defect::ClosedBeginsAgain) || planted(Defect::ActsBeforeItKnows);
    token <= closed && !forgets || released.contains(&token)
}

impl Stopped {
    /// True if it keeps a host from beginning for the order, or from going back under it.
    pub fn covers(&self, order: Digest, goes_back: bool) -> bool {
        self.order == order && !(self.rollback && goes_back)
    }
}

/// One use of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivationReport {
    /// The slot.
    pub token: u64,
    /// The deploy order.
    pub order: Digest,
    /// The release.
    pub release: Digest,
    /// How far it is.
    pub phase: Phase,
}

/// How far an activation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// A lifecycle event runs.
    Running {
        /// The event.
        event: LifecycleEvent,
        /// True while the previous revision is being put back.
        restoring: bool,
    },
    /// The executor was restarted in the middle; `Prepare` and `Activate` make it go on.
    Interrupted {
        /// The event that was running.
        event: LifecycleEvent,
    },
    /// It is over; `Returned` closes it.
    Ended(Outcome),
}

/// True if `orders`, the newest of a group, do not lead on from the order with this number and this id,
/// the last one that an executor has accepted: it was lost with the voters who had taken it.
pub fn was_lost(trust: &Trust, (sequence, head): (u64, Digest), orders: &[Signed<Order>]) -> bool {
    let verified: Vec<_> = orders.iter().filter_map(|order| trust.order(order).ok()).collect();
    let same = verified.iter().find(|order| order.content().sequence == sequence);
    let (Some(first), Some(last)) = (verified.first(), verified.last()) else { return false };
    let (first, last) = (first.content(), last.content().sequence);
    let forks = first.sequence == sequence.saturating_add(1) && first.parent != head;
    forks || last < sequence || same.is_some_and(|order| order.id() != head)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row as AWS's guide has it; an event of the revision before has one star, one of the last that
    /// arrived has two.
    const ORDERS: [(&str, &str); 6] = [
        (
            "in-place",
            "ApplicationStop* DownloadBundle BeforeInstall Install AfterInstall ApplicationStart \
             ValidateService",
        ),
        (
            "load-balancer",
            "BeforeBlockTraffic* BlockTraffic AfterBlockTraffic* ApplicationStop* DownloadBundle \
             BeforeInstall Install AfterInstall ApplicationStart ValidateService BeforeAllowTraffic \
             AllowTraffic AfterAllowTraffic",
        ),
        (
            "replacement",
            "ApplicationStop* DownloadBundle BeforeInstall Install AfterInstall ApplicationStart \
             ValidateService BeforeAllowTraffic AllowTraffic AfterAllowTraffic",
        ),
        ("original", "BeforeBlockTraffic* BlockTraffic AfterBlockTraffic*"),
        ("rollback-original", "BeforeAllowTraffic* AllowTraffic AfterAllowTraffic*"),
        ("rollback-replacement", "BeforeBlockTraffic** BlockTraffic AfterBlockTraffic**"),
    ];

    #[test]
    fn the_events_of_each_lifecycle_come_in_codedeploys_order_from_the_right_revision() {
        for ((name, expected), lifecycle) in ORDERS.into_iter().zip(Lifecycle::ALL) {
            assert_eq!(name.parse(), Ok(lifecycle));
            let events = lifecycle.events().iter().map(|event| {
                let stars = match lifecycle.source(*event) {
                    Source::Current => "",
                    Source::LastSuccessful => "*",
                    Source::MostRecent => "**",
                };
                format!("{event}{stars}")
            });
            assert_eq!(events.collect::<Vec<_>>().join(" "), expected, "{name}");
        }
        assert!("blue".parse::<Lifecycle>().is_err());
    }
}
