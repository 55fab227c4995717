//! Carrying out what was judged good. Nothing here says no.

use std::collections::BTreeSet;

use super::{
    deployment::{Deployment, DeploymentStatus, TargetStatus},
    entry::{Grant, Passed},
    kept::Kept,
    ledger::{GroupState, Judged, Ledger, Membership, Ordered, Slot, WriteOff},
};
use crate::{
    execute::Stopped,
    ids::{DeploymentId, Digest, GroupName, HostId},
    sabotage::{Defect, planted},
    time::UnixSeconds,
    trust::{Done, Drain, Group, Member, MemberCert, Order, Outcome, Verified},
};

impl Ledger {
    pub(super) fn carry_out(&mut self, at: UnixSeconds, index: u64, hash: Digest, judged: Judged) {
        match judged {
            Judged::Nothing => {}
            Judged::Admit { cert, member, token } => {
                self.admit(at, index, hash, *cert, &member, token);
            }
            Judged::Remove { host } => {
                self.remove(at, host);
                self.state.removed.insert(host);
            }
            Judged::Drain(drain) => {
                let Drain { host, drained, sequence, .. } = *drain.content();
                self.state.drains.insert(host, sequence);
                if drained {
                    self.state.drained.insert(host, at);
                } else {
                    // Whatever was done to it: the leader says that it is well, after it has looked so for a while.
                    self.state.drained.remove(&host);
                    self.state.unhealthy.entry(host).or_default();
                }
            }
            Judged::Group(group) => self.set_group(&group),
            Judged::Release(release) => self.keep_release(&release),
            Judged::Order { order, effect } => {
                self.chain(&order);
                self.follow(at, index, &order.content().group, effect);
                self.forget_orders(&order.content().group);
                self.forget_reports(&order.content().group);
            }
            Judged::StopOutOfTurn { deployment, rollback } => {
                let group = self.deployment(deployment).map(|stopped| stopped.group.clone());
                self.note_stop(deployment, rollback);
                self.stop(at, deployment, rollback);
                group.into_iter().for_each(|group| self.forget_reports(&group));
            }
            Judged::Want { want, deployment } => {
                if let Some(target) = self.target_mut(deployment, want.content().host) {
                    target.status = TargetStatus::Waiting;
                }
            }
            Judged::Grant { grant, deployment } => self.grant(index, hash, at, grant, deployment),
            Judged::Done(done) => {
                let Done { host, outcome, .. } = done.content();
                self.count_out(*host);
                self.free(at, *host, outcome.clone());
                self.count_in(*host);
                self.note_who_serves(*host);
            }
            Judged::Heard(host) => {
                self.state.unhealthy.remove(&host);
                self.state.waived.remove(&host);
                if let Some(slot) = self.state.slots.get_mut(&host) {
                    slot.released = None;
                }
                if self.state.written_off.remove(&host).is_some() {
                    self.count_in(host);
                }
            }
            Judged::Silent { host, version } => {
                self.state.unhealthy.insert(host, version);
                if planted(Defect::SlotFreedByHealth) {
                    self.state.slots.remove(&host);
                }
            }
            Judged::Passed(passed) => self.pass(at, passed),
            Judged::NextVoters(list) => self.state.next_voters = Some(list),
            Judged::Vouch(vouched) => self.vouch(&vouched),
            Judged::Counted(counted) => self.recount(counted),
        }
    }

    fn admit(
        &mut self,
        at: UnixSeconds,
        index: u64,
        entry: Digest,
        cert: MemberCert,
        member: &Verified<Member>,
        token: Option<Digest>,
    ) {
        let content = member.content().clone();
        let host = content.host;
        // A name that comes back with another key and a higher incarnation is the same machine,
        // installed anew: the old key is out.
        let members = self.state.members.values();
        let same_name = members.filter(|known| known.member.name == content.name);
        let replaced = same_name.map(|known| known.member.host).find(|other| *other != host);
        if let Some(replaced) = replaced {
            self.remove(at, replaced);
            self.state.removed.insert(replaced);
        }
        if let Some(token) = token {
            self.state.token_uses.entry(token).or_default().insert(host);
        }
        if self.electorate.was_recovered() && !self.state.members.contains_key(&host) {
            // It may have been a member before, in what was lost.
            self.state.uncounted.insert(host);
            self.state.unsure.insert(host);
        }
        let membership = Membership { cert, member: content, id: member.id(), index, entry };
        self.count_out(host);
        self.state.members.insert(host, membership.into());
        self.count_in(host);
        self.leave_groups(at, host);
    }

    /// A host with new labels has no part any more in the deployments of groups that it has left. What it
    /// holds a slot for it ends.
    fn leave_groups(&mut self, at: UnixSeconds, host: HostId) {
        let stays: BTreeSet<_> =
            self.groups_of(host).map(|group| group.group.name.clone()).collect();
        let has_left = |deployment: &Deployment| !stays.contains(&deployment.group);
        self.takes_no_part(at, host, TargetStatus::Removed, has_left);
    }

    /// A host has no turn any more in what is not over.
    fn takes_no_part(
        &mut self,
        at: UnixSeconds,
        host: HostId,
        status: TargetStatus,
        is_meant: impl Fn(&Deployment) -> bool,
    ) {
        let unfinished = self.state.deployments.values_mut().filter(|d| !d.status.is_over());
        let meant = unfinished.filter(|deployment| is_meant(deployment));
        for target in meant.filter_map(|deployment| deployment.targets.get_mut(&host)) {
            if matches!(target.status, TargetStatus::Pending | TargetStatus::Waiting) {
                target.status = status.clone();
                target.ended_at = Some(at);
            }
        }
    }

    /// Takes a host out of the fleet. Its slot is free, since nothing of it is in a group any more.
    fn remove(&mut self, at: UnixSeconds, host: HostId) {
        self.count_out(host);
        self.state.members.remove(&host);
        self.state.slots.remove(&host);
        self.state.unhealthy.remove(&host);
        self.state.drained.remove(&host);
        self.state.drains.remove(&host);
        self.state.written_off.remove(&host);
        self.state.uncounted.remove(&host);
        self.state.unsure.remove(&host);
        self.state.waived.remove(&host);
        self.state.broken.retain(|(_, broken)| *broken != host);
        for group in self.state.groups.values_mut() {
            group.current.remove(&host);
            group.met.remove(&host);
            group.left.remove(&host);
            group.late.remove(&host);
        }
        // A deployment may be over, and wait for nobody, while the host has a part in it.
        let has_part = |deployment: &Deployment| {
            deployment.targets.get(&host).is_some_and(|target| !target.status.is_over())
        };
        let its = self.state.deployments.values_mut().filter(|deployment| has_part(deployment));
        for target in its.filter_map(|deployment| deployment.targets.get_mut(&host)) {
            target.status = TargetStatus::Removed;
            target.ended_at = Some(at);
        }
    }

    fn set_group(&mut self, group: &Verified<Group>) {
        let content = group.content().clone();
        let signed = group.signed().clone();
        let name = content.name.clone();
        match self.state.groups.get_mut(&content.name) {
            Some(known) => (known.group, known.signed) = (content, signed),
            None => {
                let fresh = GroupState {
                    group: content.clone(),
                    signed,
                    orders: Vec::new(),
                    sequence: 0,
                    head: Digest::ZERO,
                    running: None,
                    queue: Vec::new(),
                    last_good: None,
                    frozen: None,
                    current: Kept::default(),
                    met: Kept::default(),
                    left: Kept::default(),
                    late: Kept::default(),
                    stopped_out_of_turn: Vec::new(),
                };
                self.state.groups.insert(content.name, fresh.into());
            }
        }
        self.count_anew(&name);
    }

    fn chain(&mut self, order: &Verified<Order>) {
        if let Some(group) = self.state.groups.get_mut(&order.content().group) {
            group.orders.push(order.signed().clone());
            group.sequence = order.content().sequence;
            group.head = order.id();
        }
    }

    fn follow(&mut self, at: UnixSeconds, index: u64, group: &GroupName, effect: Ordered) {
        match effect {
            Ordered::Deploy { mut deployment, instead } => {
                deployment.index = index;
                self.enqueue(at, *deployment, instead);
            }
            Ordered::Stop { deployment, rollback } => {
                if let Some(id) = deployment {
                    self.stop(at, id, rollback);
                }
            }
            Ordered::Pause { deployment } => {
                if let Some(deployment) = self.deployment_mut(deployment)
                    && !planted(Defect::PauseWithoutEffect)
                {
                    deployment.paused = true;
                }
            }
            Ordered::Resume { deployment } => {
                if let Some(deployment) = self.deployment_mut(deployment) {
                    // What was paused goes on where it was. What waits between two stages, or for a
                    // canary that nobody hears of, takes the next one.
                    if !std::mem::take(&mut deployment.paused) {
                        deployment.hold = None;
                        deployment.stage += 1;
                    }
                }
            }
            Ordered::ReleaseSlot { host } => {
                if let Some(slot) = self.state.slots.get_mut(&host) {
                    slot.released = Some(at);
                }
            }
            Ordered::Waive { host } => {
                self.state.waived.insert(host);
            }
            Ordered::Freeze => {
                if let Some(group) = self.state.groups.get_mut(group) {
                    group.frozen = Some(at);
                }
            }
            Ordered::Unfreeze => {
                if let Some(group) = self.state.groups.get_mut(group) {
                    group.frozen = None;
                }
            }
        }
    }

    /// Puts a deployment where it gets its turn. It may be at once: the ledger settles next.
    fn enqueue(&mut self, at: UnixSeconds, deployment: Deployment, instead: bool) {
        let Some(group) = self.state.groups.get_mut(&deployment.group) else { return };
        group.left.clear();
        group.stopped_out_of_turn.clear();
        let (running, id) = (group.running, deployment.id);
        let overtaken = if instead { std::mem::take(&mut group.queue) } else { Vec::new() };
        group.queue.push(id);
        self.state.deployments.insert(id, deployment.into());
        for other in running.filter(|_| instead).into_iter().chain(overtaken) {
            self.stop(at, other, false);
        }
        // Hosts that catch up never keep an operator waiting.
        if let Some(running) = running.and_then(|id| self.deployment_mut(id))
            && running.creator == super::Creator::CatchUp
            && running.status == DeploymentStatus::InProgress
        {
            running.status = DeploymentStatus::Stopping;
        }
    }

    /// Hosts that obey a stop do not catch up by the order that it names. The stop has no place in the
    /// chain, where whoever lets hosts catch up looks for it.
    fn note_stop(&mut self, id: DeploymentId, rollback: bool) {
        let named = self.deployment(id).map(|stopped| (stopped.group.clone(), stopped.order));
        let Some((group, order)) = named else { return };
        if let Some(group) = self.state.groups.get_mut(&group) {
            group.stopped_out_of_turn.push(Stopped { order, rollback });
        }
    }

    /// Lets nothing more begin. One that waits for its turn is over with that.
    fn stop(&mut self, at: UnixSeconds, id: DeploymentId, rollback: bool) {
        let Some(deployment) = self.deployment_mut(id) else { return };
        deployment.rolls_back_when_stopped = rollback;
        if deployment.status != DeploymentStatus::Queued {
            if !planted(Defect::StopWithoutEffect) {
                deployment.status = DeploymentStatus::Stopping;
            }
            return;
        }
        deployment.status = DeploymentStatus::Stopped;
        deployment.ended_at = Some(at);
        let name = deployment.group.clone();
        self.skip_rest(id);
        if let Some(group) = self.state.groups.get_mut(&name) {
            group.queue.retain(|queued| *queued != id);
        }
    }

    /// Says of every host that had no turn that it will have none. Who holds a slot keeps it.
    pub(super) fn skip_rest(&mut self, id: DeploymentId) {
        let Some(deployment) = self.deployment_mut(id) else { return };
        let idle = |status: &TargetStatus| !status.is_over() && !status.is_busy();
        for target in deployment.targets.values_mut().filter(|target| idle(&target.status)) {
            let reason = "the deployment ended first".into();
            target.status = TargetStatus::Skipped { reason };
        }
    }

    pub(super) fn grant(
        &mut self,
        token: u64,
        entry: Digest,
        since: UnixSeconds,
        grant: Grant,
        deployment: DeploymentId,
    ) {
        let host = grant.host;
        if let Some(target) = self.target_mut(deployment, host) {
            target.status = TargetStatus::InProgress { token };
            target.started_at = Some(since);
        }
        let slot = Slot { token, entry, grant, deployment, since, released: None };
        self.count_out(host);
        self.state.slots.insert(host, slot);
        self.count_in(host);
    }

    fn free(&mut self, at: UnixSeconds, host: HostId, outcome: Outcome) {
        let Some(slot) = self.state.slots.remove(&host) else { return };
        let Some(deployment) = self.deployment(slot.deployment) else { return };
        let (name, catching_up) = (deployment.group.clone(), deployment.is_catch_up());
        let is_late = deployment.status.is_over();
        let Some(group) = self.state.groups.get_mut(&name) else { return };
        if catching_up && outcome != Outcome::Succeeded {
            group.left.insert(host);
        }
        // Whoever ends something late may be alone with it.
        let is_good = group.running.is_none() && group.last_good == Some(slot.grant.release);
        if !is_late {
            group.late.remove(&host);
        } else if outcome == Outcome::Succeeded && !is_good {
            group.late.insert(host);
        }
        let status = match outcome {
            Outcome::Succeeded => {
                group.current.insert(host, slot.grant.release);
                self.state.broken.remove(&(name, host));
                TargetStatus::Succeeded
            }
            Outcome::Failed { log, code, event, script, message, restored } => {
                if !restored {
                    group.current.remove(&host);
                    self.state.broken.insert((name, host));
                }
                TargetStatus::Failed { event, script, code, message, log, restored }
            }
            Outcome::Declined { .. } if planted(Defect::DeclinedIsSuccess) => {
                TargetStatus::Succeeded
            }
            Outcome::Declined { reason } => TargetStatus::Skipped { reason },
        };
        if let Some(target) = self.target_mut(slot.deployment, host) {
            target.status = status;
            target.ended_at = Some(at);
        }
    }

    fn pass(&mut self, at: UnixSeconds, passed: Passed) {
        match passed {
            Passed::Bake { deployment, .. } => {
                if let Some(deployment) = self.deployment_mut(deployment) {
                    deployment.hold = None;
                    deployment.stage += 1;
                }
            }
            Passed::Deadline { deployment } => {
                if let Some(deployment) = self.deployment_mut(deployment) {
                    deployment.overdue = true;
                }
            }
            Passed::HoldOff { host, .. } => self.write_off(at, host),
            Passed::Waiver { host } => self.waive(at, host),
        }
    }

    /// Takes the slot from a host that an operator wrote off. Until it is heard of it counts neither
    /// among the hosts of its groups nor among those that are down: the operator has said that it is
    /// not there. When it returns nobody knows what it runs, so it counts as down until it is mended.
    fn write_off(&mut self, at: UnixSeconds, host: HostId) {
        let Some(slot) = self.state.slots.get(&host) else { return };
        let Slot { token, deployment, .. } = *slot;
        if let Some(target) = self.target_mut(deployment, host) {
            target.status = TargetStatus::WrittenOff;
            target.ended_at = Some(at);
        }
        self.takes_no_part(at, host, TargetStatus::WrittenOff, |_| true);
        self.count_out(host);
        self.state.slots.remove(&host);
        let slot = Some((token, deployment));
        self.state.written_off.insert(host, WriteOff { slot, at });
        self.state.unhealthy.entry(host).or_default();
        let Some(name) = self.deployment(deployment).map(|d| d.group.clone()) else { return };
        if let Some(group) = self.state.groups.get_mut(&name) {
            group.current.remove(&host);
            group.late.remove(&host);
        }
        self.state.broken.insert((name, host));
        self.note_who_serves(host);
    }

    /// Writes off a host that has not said whether it holds a slot which was lost. When it is heard of it
    /// counts as down again, until it has said so.
    fn waive(&mut self, at: UnixSeconds, host: HostId) {
        self.takes_no_part(at, host, TargetStatus::WrittenOff, |_| true);
        self.count_out(host);
        self.state.waived.remove(&host);
        if planted(Defect::WaivedStaysCounted) {
            self.state.uncounted.remove(&host);
        }
        self.state.written_off.insert(host, WriteOff { slot: None, at });
    }
}
