//! Who is next: slots that the leader may propose, and waits that are over.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    deployment::{DeploymentStatus, Hold, TargetStatus},
    entry::{Grant, Passed},
    ledger::{GroupState, Ledger, Slot},
    refusal::Refusal,
    stages,
};
use crate::{
    ids::{DeploymentId, Digest, HostId},
    limits::RELEASE_HOLD_OFF,
    sabotage::{Defect, planted},
    time::UnixSeconds,
};

/// A host that may be next.
struct Next {
    deployment: DeploymentId,
    stage: u32,
    /// Something of the group works on it.
    serves: bool,
    /// What works on it is the release.
    runs_it: bool,
    /// How many of its zone are at work for the deployment, or wait before it.
    turn: usize,
    grant: Grant,
}

impl Ledger {
    /// Slots that may all be granted now, in the order in which they should be.
    pub fn next_grants(&self) -> Vec<Grant> {
        let (mut grants, mut full, mut spent) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        // Each is judged with those before it granted. Whether they are is for the log to say.
        let mut granted = self.clone();
        for Next { deployment, serves, grant, .. } in self.in_order(self.waiting_hosts()) {
            // Grants only take room: where a group has none for one host that serves, it has none for
            // the next. In a large group most hosts wait, and each would be judged by all the others.
            if (serves && full.contains(&deployment)) || spent.contains(&deployment) {
                continue;
            }
            let group = self.deployment(deployment).map(|deployment| &deployment.group);
            match granted.judge_grant(&grant) {
                Ok(_) => {
                    let token = u64::MAX - u64::try_from(grants.len()).unwrap_or(0);
                    granted.grant(token, Digest::ZERO, UnixSeconds(0), grant.clone(), deployment);
                    grants.push(grant);
                }
                Err(Refusal::QuotaFull { group: refuses, .. }) if group == Some(&refuses) => {
                    // The quota is not asked for a host on which nothing works: there is no room at all.
                    let of = if serves { &mut full } else { &mut spent };
                    of.insert(deployment);
                }
                Err(_) => {}
            }
        }
        grants
    }

    /// Stage by stage; then hosts on which nothing works, which cost nothing; those that run the release
    /// already go last. Then voters, of which fewest go at a time, so that the others never wait for the
    /// last of them; zone in turn with zone, that none of them loses more hosts at a time than it must; and
    /// an order that is the same on every leader and does not favour the same hosts each time.
    fn in_order(&self, mut waiting: Vec<Next>) -> Vec<Next> {
        let class = |next: &Next| {
            let votes = self.electorate.newest().is_voter(next.grant.host);
            (next.stage, next.serves, next.runs_it, !votes)
        };
        waiting.sort_by_cached_key(|next| {
            (class(next), stages::draw(next.deployment, next.grant.host))
        });
        let mut at_work = BTreeMap::<_, usize>::new();
        for (host, slot) in &self.state.slots {
            *at_work.entry((slot.deployment, self.zone_of(*host))).or_default() += 1;
        }
        for next in &mut waiting {
            let turns =
                at_work.entry((next.deployment, self.zone_of(next.grant.host))).or_default();
            next.turn = *turns;
            *turns += 1;
        }
        waiting.sort_by_key(|next| (class(next), next.turn));
        waiting
    }

    /// Hosts that are ready and can be reached: a slot for one that is away would be held by nobody.
    fn waiting_hosts(&self) -> Vec<Next> {
        let running = self.state.groups.values().filter_map(|group| group.running);
        let running = running.filter_map(|id| self.deployment(id));
        let mut waiting = Vec::new();
        for deployment in running.filter(|deployment| deployment.is_granting()) {
            let Some(group) = self.state.groups.get(&deployment.group) else { continue };
            if group.frozen.is_some() && !planted(Defect::FrozenIsGranted) {
                continue;
            }
            // Most of the time a large group is full: its hosts need not be put in order for nothing.
            if deployment.room() == 0 {
                continue;
            }
            let is_full = self.is_full(group);
            let (is_blocked, quota) =
                (LazyCell::new(|| self.is_blocked(group)), LazyCell::new(|| self.quota(group)));
            for (host, target) in &deployment.targets {
                let kept = self.is_drained(*host) && !planted(Defect::DrainedIsGranted);
                let away = !self.is_healthy(*host) || self.is_uncounted(*host) || kept;
                if target.status != TargetStatus::Waiting || away {
                    continue;
                }
                let has_turn = deployment.has_turn(target, || {
                    self.is_awaited_by_all(group, *host, || *is_blocked, || *quota)
                });
                if (!is_full || !target.serves) && has_turn {
                    let (order, release) = (deployment.order, deployment.release);
                    let grant = Grant { host: *host, order, release };
                    let runs_it = group.current.get(host) == Some(&release);
                    let (stage, serves, turn) = (target.stage, target.serves, 0);
                    let deployment = deployment.id;
                    waiting.push(Next { deployment, stage, serves, runs_it, turn, grant });
                }
            }
        }
        waiting
    }

    /// True if nobody that serves can go before a host on which nothing works. For a broken one that is so where
    /// as many are down as may be and hold no slot; one that is bare is not among those, and has to come
    /// first only where none may be down without it.
    pub(super) fn is_awaited_by_all(
        &self,
        group: &GroupState,
        host: HostId,
        is_blocked: impl FnOnce() -> bool,
        quota: impl FnOnce() -> usize,
    ) -> bool {
        if self.is_broken_in(&group.group.name, host) { is_blocked() } else { quota() == 0 }
    }

    /// What the ledger waits for and how long each takes, from the entry with which it began on: bakes,
    /// deadlines, and hold-offs of slots that operators have released and of hosts that they have waived.
    pub fn waits(&self) -> Vec<(Passed, Duration)> {
        let mut waits = Vec::new();
        let mut wait = |passed, seconds: u32| {
            waits.push((passed, Duration::from_secs(seconds.into())));
        };
        let running = self.state.deployments.values();
        for deployment in running.filter(|d| d.status == DeploymentStatus::InProgress) {
            let (id, stage) = (deployment.id, deployment.stage);
            if let (Some(Hold::Bake { .. }), Some(baking)) =
                (deployment.hold, deployment.present_stage())
            {
                wait(Passed::Bake { deployment: id, stage }, baking.bake_seconds);
            }
            if let Some(seconds) = deployment.deadline().filter(|_| !deployment.overdue) {
                wait(Passed::Deadline { deployment: id }, seconds);
            }
        }
        let is_released =
            |slot: &Slot| slot.released.is_some() || planted(Defect::SlotFreedOnATimer);
        let slots = self.state.slots.iter().filter(|(_, slot)| is_released(slot));
        let slots = slots.map(|(host, slot)| Passed::HoldOff { host: *host, token: slot.token });
        let waived = self.state.waived.iter().map(|host| Passed::Waiver { host: *host });
        waits.extend(slots.chain(waived).map(|passed| (passed, RELEASE_HOLD_OFF)));
        waits
    }
}
