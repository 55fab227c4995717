//! One run of an order over the hosts of a group.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{configuration::DeploymentConfiguration, kept::Kept, stages::Stage};
use crate::{
    execute::LifecycleEvent,
    ids::{ApplicationName, DeploymentId, Digest, GroupName, HostId, ReleaseLabel},
    sabotage::{Defect, planted},
    time::UnixSeconds,
    trust::{Group, Signed},
};

/// A deployment and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its name.
    pub id: DeploymentId,
    /// The order that started it, or that the deployment followed which this one undoes or completes.
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
    /// More failed hosts than this end it. None leaves that to the floor.
    pub failure_budget: Option<u32>,
    /// The release to go back to on failure.
    pub fallback: Option<Digest>,
    /// The group as the order named it.
    pub group_document: Signed<Group>,
    /// After this time it does not begin any more.
    pub not_after: Option<UnixSeconds>,
    /// The release is the fallback of the order.
    pub goes_back: bool,
    /// Whom it is for.
    pub scope: Scope,
    /// How far it is.
    pub status: DeploymentStatus,
    /// An operator has paused it.
    pub paused: bool,
    /// Hosts that took the release are brought back when it has stopped.
    pub rolls_back_when_stopped: bool,
    /// Its deadline has passed.
    pub overdue: bool,
    /// What it waits for between two stages.
    pub hold: Option<Hold>,
    /// The stage whose hosts have their turn.
    pub stage: u32,
    /// All stages.
    pub stages: Vec<Stage>,
    /// When it was ordered, and once it has begun, when it began.
    pub created_at: UnixSeconds,
    /// When it ended.
    pub ended_at: Option<UnixSeconds>,
    /// The index of the entry that started it; later ones have higher numbers.
    pub index: u64,
    /// Its hosts.
    pub targets: Kept<BTreeMap<HostId, Kept<Target>>>,
    /// On how many other hosts of the group something works.
    pub beside: usize,
}

/// Who started a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Creator {
    /// An operator's order.
    Operator,
    /// An operator's order to roll back, or the failure of the deployment of the same order.
    Rollback,
    /// The return of hosts that were away, or the arrival of new ones.
    CatchUp,
}

/// Whom a deployment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Every host of the group.
    All,
    /// Hosts that do not run the release.
    Outdated,
    /// Hosts that run another release, or have none that works.
    Strayed,
    /// Those that were found when it began.
    Some,
}

/// How far a deployment is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeploymentStatus {
    /// Waits until the deployments of the group before it are over.
    Queued,
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
    /// True if nothing more begins. Hosts that are away may hold slots of it still.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Queued | Self::InProgress | Self::Stopping)
    }
}

/// What a deployment waits for between two stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// An operator looks at the canary and lets the deployment go on.
    Canary,
    /// Time, by the stamps of entries that the leader proposes.
    Bake {
        /// When it is over.
        until: UnixSeconds,
    },
}

/// One host of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// How far the host is.
    pub status: TargetStatus,
    /// The stage in which it has its turn.
    pub stage: u32,
    /// True if something of the group works on it, as far as its part is not over.
    pub serves: bool,
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
    /// Holds a slot. The deployment may be over without it.
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
    /// An operator wrote the host off.
    WrittenOff,
    /// The host belongs to the fleet no more.
    Removed,
}

impl TargetStatus {
    /// True if the host's part is over.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Pending | Self::Waiting | Self::InProgress { .. })
    }

    pub(super) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::InProgress { .. })
    }
}

impl Target {
    /// About as many bytes as it is written down in.
    fn report_bytes(&self) -> usize {
        let texts = match &self.status {
            TargetStatus::Failed { script, message, log, .. } => {
                script.len() + message.len() + log.len()
            }
            TargetStatus::Skipped { reason } => reason.len(),
            _ => 0,
        };
        TARGET_BYTES + texts
    }

    /// True if the host failed, or was given up while it was at work: it may be the release that did it.
    fn is_casualty(&self) -> bool {
        let was_at_work = self.started_at.is_some();
        match self.status {
            TargetStatus::Failed { .. } => true,
            TargetStatus::WrittenOff | TargetStatus::Removed => was_at_work,
            _ => false,
        }
    }

    pub(super) fn pending(stage: u32, serves: bool) -> Self {
        Self { status: TargetStatus::Pending, stage, serves, started_at: None, ended_at: None }
    }

    /// True if it has not had its turn, or is at work. A host that is away is not waited for.
    fn is_awaited(&self, is_away: bool) -> bool {
        !self.status.is_over() && (self.status.is_busy() || !is_away)
    }
}

impl Deployment {
    /// How many hosts it is about: those that were written off or removed are nobody's any more.
    pub fn size(&self) -> usize {
        self.count(|status| !matches!(status, TargetStatus::WrittenOff | TargetStatus::Removed))
    }

    /// How many hosts of the group may be down for it. CodeDeploy counts those that it is not for as well.
    pub fn quota(&self) -> usize {
        (self.size() + self.beside).saturating_sub(self.minimum())
    }

    /// How many hosts of the group must stay healthy. Where all must, whoever catches up or goes back may yet be
    /// one that is down already; then the group's quota alone decides.
    fn minimum(&self) -> usize {
        let hosts = self.size() + self.beside;
        let minimum = self.configuration.minimum_healthy.minimum(hosts);
        if self.scope != Scope::All && minimum >= hosts { 0 } else { minimum }
    }

    /// True if it is the turn of hosts alone that may never be down. A zone is smaller than it was when
    /// some of its hosts have left the fleet, and its floor may be as high as the zone then.
    fn is_at_shut_zones(
        &self,
        is_away: impl Fn(HostId) -> bool,
        is_shut: impl Fn(HostId) -> bool,
    ) -> bool {
        let is_next = |host: HostId, target: &Target| {
            target.stage <= self.stage && !target.status.is_over() && !is_away(host)
        };
        let next = self.targets.iter().filter(|(host, target)| is_next(**host, target));
        let mut next = next.map(|(host, _)| is_shut(*host)).peekable();
        next.peek().is_some() && next.all(|is_shut| is_shut)
    }

    /// Hosts whose status is `wanted`.
    pub fn count(&self, wanted: impl Fn(&TargetStatus) -> bool) -> usize {
        self.targets.values().filter(|target| wanted(&target.status)).count()
    }

    /// How many more hosts like this one may be taken before too few are left that are well: CodeDeploy's
    /// rule that healthy hosts which nobody works on never fall below the minimum. A host of which nothing
    /// works is not healthy, and to take it costs nothing; but no more go at once than of a healthy group.
    pub(super) fn capacity(&self, target: &Target) -> usize {
        if !target.serves || planted(Defect::BareCountsAsHealthy) {
            return self.room();
        }
        let is_down = |other: &&Kept<Target>| {
            let is_to_come = !other.status.is_over() && other.stage <= self.stage;
            other.status.is_busy() || (is_to_come && !other.serves)
        };
        self.spare().saturating_sub(self.targets.values().filter(is_down).count())
    }

    /// The same for hosts of which nothing works.
    pub(super) fn room(&self) -> usize {
        self.spare().saturating_sub(self.count(TargetStatus::is_busy))
    }

    /// How many hosts may be down, or fail, before too few are left.
    fn spare(&self) -> usize {
        let mut failed = self.count(TargetStatus::is_failed);
        if planted(Defect::FailureNotCounted) {
            failed = 0;
        }
        self.quota().saturating_sub(failed)
    }

    /// About as many bytes as it is written down in: its hosts, and the group as it was.
    pub(super) fn report_bytes(&self) -> usize {
        let targets: usize = self.targets.values().map(|target| target.report_bytes()).sum();
        targets + self.group_document.size()
    }

    /// True if it only brings hosts to what the others run already.
    pub fn is_catch_up(&self) -> bool {
        self.creator == Creator::CatchUp
    }

    /// True if a stop can send the hosts that took the release back.
    pub(super) fn has_way_back(&self) -> bool {
        self.creator == Creator::Operator && self.fallback.is_some()
    }

    /// Seconds after which it fails if it is not over.
    pub(super) fn deadline(&self) -> Option<u32> {
        self.configuration.deployment_deadline_seconds
    }

    /// The stage whose hosts have their turn.
    pub fn present_stage(&self) -> Option<&Stage> {
        self.stages.get(usize::try_from(self.stage).ok()?)
    }

    /// True if it is the turn of a target's stage. One on which nothing works may go before its turn.
    pub(super) fn has_turn(&self, target: &Target, is_awaited: impl FnOnce() -> bool) -> bool {
        target.stage <= self.stage
            || planted(Defect::StageNotAwaited)
            || (!target.serves && is_awaited())
    }

    /// True if the next stage may follow: there is one, and nobody is left in those up to here who can
    /// be reached. A canary of which nothing is heard says nothing.
    pub(super) fn stage_is_done(&self, is_away: impl Fn(HostId) -> bool) -> bool {
        let mut begun = self.targets.iter().filter(|(_, target)| target.stage <= self.stage);
        let done = begun.all(|(host, target)| !target.is_awaited(is_away(*host)));
        let canary = self.present_stage().is_some_and(|stage| stage.is_canary);
        let spoken = || self.present().any(|(_, t)| t.status == TargetStatus::Succeeded);
        !self.is_in_last_stage() && done && (!canary || spoken())
    }

    /// True if an operator can let it go on: it is paused, it waits between two stages, or its canary
    /// keeps silent. One that has not had its turn may speak yet.
    pub(super) fn waits_for_operator(&self, is_away: impl Fn(HostId) -> bool) -> bool {
        let running = self.status == DeploymentStatus::InProgress;
        let silent = self.canary_is_to_come() && {
            let mut present = self.present();
            present.all(|(host, target)| !target.is_awaited(is_away(*host)))
        };
        self.paused || (running && (self.hold.is_some() || silent))
    }

    /// True if the others wait for what the canary comes to.
    pub(super) fn canary_is_to_come(&self) -> bool {
        let canary = self.present_stage().is_some_and(|stage| stage.is_canary);
        canary && self.hold.is_none() && !self.is_in_last_stage()
    }

    fn is_in_last_stage(&self) -> bool {
        usize::try_from(self.stage).unwrap_or(usize::MAX) + 1 >= self.stages.len()
    }

    /// The hosts that have their turn.
    fn present(&self) -> impl Iterator<Item = (&HostId, &Kept<Target>)> {
        self.targets.iter().filter(|(_, target)| target.stage == self.stage)
    }

    /// True if hosts of the present stage may get slots.
    pub fn is_granting(&self) -> bool {
        let goes_on = self.status == DeploymentStatus::InProgress
            || (self.status == DeploymentStatus::Stopping && planted(Defect::GrantWhileStopping));
        goes_on
            && (!self.paused || planted(Defect::GrantWhilePaused))
            && self.hold.is_none()
            && self.why_ending().is_none()
    }

    /// Why no more hosts are taken, though some may be left and the floor would allow it.
    pub fn why_ending(&self) -> Option<String> {
        self.why_ending_if(Target::is_casualty)
    }

    /// The same if these were the casualties.
    fn why_ending_if(&self, is_casualty: impl Fn(&Target) -> bool) -> Option<String> {
        if self.overdue {
            let seconds = self.configuration.deployment_deadline_seconds.unwrap_or(0);
            return Some(format!("DEADLINE: it was not done within {seconds} seconds"));
        }
        let casualties = || self.targets.values().filter(|target| is_casualty(target));
        let in_canary = |target: &Kept<Target>| {
            let stage = self.stages.get(usize::try_from(target.stage).unwrap_or(usize::MAX));
            stage.is_some_and(|stage| stage.is_canary)
        };
        if casualties().any(in_canary) && !planted(Defect::CanaryIgnored) {
            return Some(
                "CANARY_FAILED: a host of the canary failed, the others were spared".into(),
            );
        }
        let budget = self.failure_budget.filter(|_| !planted(Defect::BudgetIgnored))?;
        let failed = casualties().count();
        (failed > usize::try_from(budget).unwrap_or(usize::MAX)).then(|| {
            format!("FAILURE_BUDGET: {failed} hosts failed, where the group allows {budget}")
        })
    }

    /// What the targets amount to, if it is over. `is_away` tells hosts that cannot be reached, `is_shut`
    /// those of zones of which none may be down. A host that is away and holds a slot keeps it, and is
    /// waited for only if the outcome hangs on what it comes to.
    pub fn verdict(
        &self,
        is_away: impl Fn(HostId) -> bool,
        is_shut: impl Fn(HostId) -> bool,
    ) -> Option<DeploymentStatus> {
        let queued = self.status == DeploymentStatus::Queued;
        let at_work =
            |(host, target): (&HostId, &Kept<Target>)| target.status.is_busy() && !is_away(*host);
        if self.status.is_over() || queued || self.targets.iter().any(at_work) {
            return None;
        }
        if self.status == DeploymentStatus::Stopping {
            return Some(DeploymentStatus::Stopped);
        }
        if let Some(reason) = self.why_ending() {
            return Some(DeploymentStatus::Failed { reason });
        }
        if self.is_catch_up() && self.is_deserted(&is_away) {
            let enough = self.has_enough();
            return Some(if enough {
                DeploymentStatus::Succeeded
            } else {
                DeploymentStatus::Stopped
            });
        }
        if self.targets.values().any(|target| !target.status.is_over()) {
            return self.verdict_without_the_rest(is_away, is_shut);
        }
        Some(if self.has_enough() { DeploymentStatus::Succeeded } else { self.too_few("") })
    }

    /// True if nobody is left but hosts that are away and hold no slot. Those that catch up are found again when
    /// they are back; until then they must not keep others from it.
    fn is_deserted(&self, is_away: impl Fn(HostId) -> bool) -> bool {
        let rest = self.targets.iter().filter(|(_, target)| !target.status.is_over());
        let mut rest = rest.peekable();
        rest.peek().is_some()
            && rest.all(|(host, target)| !target.status.is_busy() && is_away(*host))
    }

    /// The verdict where hosts are left that had no turn, or that hold slots and are away, if it is the same
    /// whatever comes of them.
    fn verdict_without_the_rest(
        &self,
        is_away: impl Fn(HostId) -> bool,
        is_shut: impl Fn(HostId) -> bool,
    ) -> Option<DeploymentStatus> {
        let rest = || self.targets.iter().filter(|(_, target)| !target.status.is_over());
        let all_hold = rest().all(|(_, target)| target.status.is_busy());
        // A deployment does not wait for hosts that are away if it succeeds without them; they
        // catch up. If it does not, they may be what it takes, so it is not failed for them.
        let waits = (self.paused || self.hold.is_some()) && !all_hold;
        let all_away = rest().all(|(host, _)| is_away(*host));
        if self.has_enough() && !waits && all_away && !self.hangs_on_holders() {
            return Some(DeploymentStatus::Succeeded);
        }
        if all_hold {
            let silent = self.count(TargetStatus::is_busy);
            return (self.succeeded() + silent < self.floor())
                .then(|| self.too_few(&format!(", {silent} hold slots and are silent")));
        }
        let none_left = self.spare() == 0;
        (none_left || self.is_at_shut_zones(is_away, is_shut)).then(|| {
            let (hosts, minimum) = (self.size() + self.beside, self.minimum());
            let failed = self.count(TargetStatus::is_failed);
            let why = match none_left {
                true => format!("{failed} of {hosts} hosts failed and {minimum} must stay healthy"),
                false => "all hosts that are left, or of their zones, must stay healthy".into(),
            };
            DeploymentStatus::Failed { reason: format!("HEALTH_CONSTRAINTS: {why}") }
        })
    }

    /// True if it would end for the failures of those that hold slots: the release may have killed them.
    fn hangs_on_holders(&self) -> bool {
        let may_be_lost = |target: &Target| target.is_casualty() || target.status.is_busy();
        self.why_ending_if(may_be_lost).is_some()
    }

    /// A host that declined is as little on the release as one that failed.
    fn succeeded(&self) -> usize {
        self.count(|status| *status == TargetStatus::Succeeded)
    }

    fn has_enough(&self) -> bool {
        self.succeeded() >= self.floor()
    }

    /// How many hosts must take the release, so that enough are healthy. Nobody's success is none.
    fn floor(&self) -> usize {
        if planted(Defect::OneSuccessIsEnough) {
            return 1;
        }
        self.minimum().saturating_sub(self.beside).max(1)
    }

    fn too_few(&self, and: &str) -> DeploymentStatus {
        let (hosts, succeeded) = (self.size(), self.succeeded());
        let failed = self.count(TargetStatus::is_failed);
        let reason = format!(
            "HEALTH_CONSTRAINTS: {succeeded} of {hosts} hosts took the release, {failed} failed{and}"
        );
        DeploymentStatus::Failed { reason }
    }

    /// Where it has left the group, if it is known: it is the newest one that was ordered.
    pub(super) fn leads_to(&self, last_good: Option<Digest>) -> Option<Digest> {
        if self.status == DeploymentStatus::Succeeded {
            return Some(self.release);
        }
        // Before anybody had a slot of it nobody was sent back, and what ran was the last that was good.
        let has_acted = self.targets.values().any(|target| target.started_at.is_some());
        let fallback = self.fallback.filter(|_| self.is_undone())?;
        (has_acted || last_good == Some(fallback)).then_some(fallback)
    }

    /// True if hosts that took the release are sent back, now that it is over.
    pub(super) fn is_undone(&self) -> bool {
        self.has_way_back()
            && match self.status {
                DeploymentStatus::Failed { .. } => true,
                DeploymentStatus::Stopped => self.rolls_back_when_stopped,
                _ => false,
            }
    }
}

/// The key of a host, two times, a name and numbers.
const TARGET_BYTES: usize = 80;
