//! Who is next: slots that the leader may propose, and waits that are over.

use std::collections::BTreeSet;

use super::{
    deployment::{DeploymentStatus, Hold, TargetStatus},
    entry::{Grant, Passed},
    ledger::Ledger,
    refusal::Refusal,
    stages,
};
use crate::{
    ids::{DeploymentId, Digest, HostId},
    sabotage::{Defect, planted},
    time::UnixSeconds,
};

impl Ledger {
    /// Slots that may all be granted now, in the order in which they should be.
    pub fn next_grants(&self) -> Vec<Grant> {
        let mut waiting = self.waiting_hosts();
        // Stage by stage; then hosts that are down already, which cost nothing; then voters, of which
        // fewest go at a time, so that the others never wait for the last of them; then an order that is
        // the same on every leader and does not favour the same hosts each time.
        waiting.sort_by_cached_key(|(deployment, host, stage, _)| {
            let group = self.deployment(*deployment).map(|deployment| &deployment.group);
            let well = group.is_none_or(|group| self.is_well_in(group, *host));
            let votes = self.electorate.newest().is_voter(*host);
            (*stage, well, !votes, stages::draw(*deployment, *host))
        });
        let (mut grants, mut full) = (Vec::new(), BTreeSet::new());
        // Each is judged with those before it granted. Whether they are is for the log to say.
        let mut granted = self.clone();
        for (deployment, host, _, grant) in waiting {
            let group = self.deployment(deployment).map(|deployment| &deployment.group);
            // Grants only take room: where a group has none for one well host of it, it has none for
            // the next. In a large group most hosts wait, and each would be judged by all the others.
            let is_well = group.is_some_and(|group| self.is_well_in(group, host));
            if is_well && full.contains(&deployment) {
                continue;
            }
            match granted.judge_grant(&grant) {
                Ok(_) => {
                    let token = u64::MAX - u64::try_from(grants.len()).unwrap_or(0);
                    granted.grant(token, Digest::ZERO, UnixSeconds(0), grant.clone(), deployment);
                    grants.push(grant);
                }
                Err(Refusal::QuotaFull { group: refuses, .. })
                    if is_well && group == Some(&refuses) =>
                {
                    full.insert(deployment);
                }
                Err(_) => {}
            }
        }
        grants
    }

    /// Hosts that are ready and can be reached: a slot for one that is away would be held by nobody.
    fn waiting_hosts(&self) -> Vec<(DeploymentId, HostId, u32, Grant)> {
        let running = self.state.groups.values().filter_map(|group| group.running);
        let running = running.filter_map(|id| self.deployment(id));
        let mut waiting = Vec::new();
        for deployment in running.filter(|deployment| deployment.is_granting()) {
            // Most of the time a large group is full: its hosts need not be put in order for nothing.
            if deployment.capacity() == 0 {
                continue;
            }
            let full_of = self.full_of(&deployment.group);
            for (host, target) in &deployment.targets {
                if full_of.as_ref().is_some_and(|down| !down.contains(host)) {
                    continue;
                }
                let away = self.state.unhealthy.contains_key(host) || self.is_uncounted(*host);
                if target.status == TargetStatus::Waiting
                    && (target.stage <= deployment.stage || planted(Defect::StageNotAwaited))
                    && !away
                {
                    let (order, release) = (deployment.order, deployment.release);
                    let grant = Grant { host: *host, order, release };
                    waiting.push((deployment.id, *host, target.stage, grant));
                }
            }
        }
        waiting
    }

    /// Waits that are over at `now`, for the leader to propose. The hold-offs of released slots are
    /// not among them: see [`Ledger::hold_offs`].
    pub fn due(&self, now: UnixSeconds) -> Vec<Passed> {
        let running = self.state.deployments.values();
        let running = running.filter(|d| d.status == DeploymentStatus::InProgress);
        let mut due = Vec::new();
        for deployment in running {
            let (id, stage) = (deployment.id, deployment.stage);
            if matches!(deployment.hold, Some(Hold::Bake { until }) if until <= now) {
                due.push(Passed::Bake { deployment: id, stage });
            }
            let late = deployment.deadline().is_some_and(|deadline| deadline <= now);
            if late && !deployment.overdue {
                due.push(Passed::Deadline { deployment: id });
            }
        }
        due
    }

    /// What becomes of slots that an operator has ordered to be released and that are held still, and of hosts
    /// that one has waived, once the hold-off is over.
    pub fn hold_offs(&self) -> Vec<Passed> {
        let slots = self.state.slots.iter().filter(|(_, slot)| slot.released.is_some());
        let slots = slots.map(|(host, slot)| Passed::HoldOff { host: *host, token: slot.token });
        slots.chain(self.state.waived.iter().map(|host| Passed::Waiver { host: *host })).collect()
    }
}
