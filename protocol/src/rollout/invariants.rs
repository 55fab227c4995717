//! What must hold of every ledger, after every entry.

use std::collections::BTreeSet;

use super::{
    deployment::{DeploymentStatus, TargetStatus},
    ledger::Ledger,
    quotas::Sizes,
};
use crate::limits::DEPLOYMENTS_HELD_MAX;

impl Ledger {
    /// Panics if a promise of the ledger is broken.
    pub fn check_invariants(&self) {
        #[cfg(feature = "simulation")]
        if !super::sharing::is_to_be_checked(self) {
            return;
        }
        assert_eq!(*self.sizes, Sizes::of(&self.state), "the hosts of groups are counted right");
        self.check_slots();
        self.check_turns();
        self.check_left();
        for host in &self.state.removed {
            assert!(!self.state.members.contains_key(host), "a removed key never comes back");
        }
        for (host, write_off) in &self.state.written_off {
            assert!(self.state.members.contains_key(host), "only members are written off");
            assert!(self.state.unhealthy.contains_key(host), "who is heard of is not written off");
            assert!(!self.state.slots.contains_key(host), "who is written off holds no slot");
            let token = write_off.slot.map_or(0, |(token, _)| token);
            assert!(token <= self.state.applied, "a token is an index of the past");
        }
        for host in self.state.drained.keys() {
            assert!(self.is_member(*host), "only members are drained");
            assert!(self.drain_sequence(*host) > 0, "somebody has said so");
            assert!(!self.state.slots.contains_key(host), "who is drained holds no slot");
        }
        for host in &*self.state.waived {
            assert!(self.is_uncounted(*host), "who has said what it holds is not waived");
        }
    }

    fn check_slots(&self) {
        let mut tokens = BTreeSet::new();
        for (host, slot) in &self.state.slots {
            assert!(tokens.insert(slot.token), "a token is granted once");
            assert!(slot.token <= self.state.applied, "a token is an index of the past");
            let target = self
                .state
                .deployments
                .get(&slot.deployment)
                .and_then(|deployment| deployment.targets.get(host));
            assert!(
                target.is_some_and(|t| t.status == TargetStatus::InProgress { token: slot.token }),
                "a slot belongs to a host that is in progress"
            );
        }
        for deployment in self.state.deployments.values() {
            let group = &self.state.groups[&deployment.group];
            let is_running = group.running == Some(deployment.id);
            if is_running {
                assert_eq!(deployment.beside, self.beside(group, deployment), "others are counted");
            }
            for (host, target) in &deployment.targets {
                let serves = || !self.has_nothing_of(group, *host);
                let is_idle = !target.status.is_over() && !target.status.is_busy();
                let is_known = !is_running || !is_idle || target.serves == serves();
                assert!(is_known, "what works on hosts of a deployment is known");
                if let TargetStatus::InProgress { token } = target.status {
                    let held = self.state.slots.get(host).map(|slot| slot.token);
                    assert_eq!(held, Some(token), "a host in progress holds its slot");
                    let in_turn = target.stage <= deployment.stage || !target.serves;
                    assert!(in_turn, "no stage begins before its turn");
                }
            }
        }
    }

    /// What is kept of deployments that are over, for hosts that hold slots of them, is bounded.
    fn check_left(&self) {
        for name in self.state.groups.keys() {
            assert!(
                self.left_held(name).len() <= DEPLOYMENTS_HELD_MAX,
                "few are left with holders"
            );
        }
        for deployment in self.state.deployments.values().filter(|d| d.status.is_over()) {
            let waits = |status: &TargetStatus| !status.is_over() && !status.is_busy();
            assert_eq!(deployment.count(waits), 0, "nobody waits for what is over");
        }
    }

    /// One deployment of a group at a time; those that wait are neither lost nor overtaken.
    fn check_turns(&self) {
        for (name, group) in &self.state.groups {
            let of_group = self.state.deployments.values().filter(|d| d.group == *name);
            for deployment in of_group {
                let (running, queued) = match &deployment.status {
                    DeploymentStatus::Queued => (false, true),
                    status => (!status.is_over(), false),
                };
                assert_eq!(running, group.running == Some(deployment.id), "one at a time");
                assert_eq!(queued, group.queue.contains(&deployment.id), "none is lost");
                let stages = deployment.stages.len().max(1);
                let stage = usize::try_from(deployment.stage).unwrap_or(usize::MAX);
                assert!(stage < stages, "a stage is one of the plan");
            }
            let turn = |id| self.state.deployments.get(id).map(|deployment| deployment.index);
            assert!(group.queue.iter().all(|id| turn(id).is_some()), "none is forgotten");
            assert!(group.queue.is_sorted_by_key(turn), "none is overtaken by an older one");
            assert!(
                group.running.is_some() || group.queue.is_empty() || group.frozen.is_some(),
                "nothing waits where nothing runs"
            );
        }
    }
}
