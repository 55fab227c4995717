//! What an entry may do: signatures, membership, slots. Orders have a file of their own.

use super::{
    deployment::{DeploymentStatus, Hold, TargetStatus},
    entry::{Entry, Grant, Passed},
    kept::Kept,
    ledger::{Believed, Judged, Ledger, Membership, Slot},
    quotas::Lasts,
    refusal::Refusal,
};
use crate::{
    fleet::{Record, Version},
    ids::{DeploymentId, HostId},
    limits::{GROUPS_BYTES_MAX, GROUPS_MAX, GROUPS_PER_HOST_MAX, HOSTS_MAX},
    sabotage::{Defect, planted},
    time::UnixSeconds,
    trust::{Done, Drain, Group, MemberCert, Removal, Signed, Want},
};

impl Ledger {
    pub(super) fn judge(
        &self,
        at: UnixSeconds,
        entry: &Entry,
        believed: Option<&Believed>,
    ) -> Result<Judged, Refusal> {
        match entry {
            Entry::Admit(cert) => self.judge_admit(at, cert),
            Entry::Remove(removal) => self.judge_remove(removal),
            Entry::Drain(drain) => self.judge_drain(at, drain),
            Entry::Group(group) => self.judge_group(group),
            Entry::Release(release) => self.judge_release(release),
            Entry::Order(order) => self.judge_order(at, order),
            Entry::Want(want) => self.judge_want(want, believed),
            Entry::Grant(grant) => self.judge_grant(grant),
            Entry::Done(done) => self.judge_done(done, believed),
            Entry::Silent { host, version } => self.judge_silent(*host, *version),
            Entry::Heard(record) => self.judge_heard(record),
            Entry::Passed(passed) => Ok(self.judge_passed(*passed)),
            Entry::NextVoters(list) => self.judge_next_voters(list),
            Entry::Vouch(list) => self.judge_vouch(list),
            Entry::Counted(counted) => self.judge_counted(counted),
        }
    }

    fn judge_silent(&self, host: HostId, version: Version) -> Result<Judged, Refusal> {
        if !self.is_member(host) {
            return Err(Refusal::UnknownHost(host.short()));
        }
        match self.silent_since(host) {
            Some(known) if version <= known => Ok(Judged::Nothing),
            _ => Ok(Judged::Silent { host, version }),
        }
    }

    /// Nobody's word but the host's own shows that it is there: a leader that was just started knows of
    /// nobody who is silent.
    fn judge_heard(&self, signed: &Signed<Record>) -> Result<Judged, Refusal> {
        let record = signed.verify_host(self.trust.fleet());
        let record = record.map_err(Refusal::untrusted("record"))?;
        let (host, version) = (record.content().host, record.content().version());
        let Some(silent) = self.silent_since(host).filter(|_| !planted(Defect::UnhealthyForever))
        else {
            return Ok(Judged::Nothing);
        };
        if version <= silent && !planted(Defect::WellWithoutAWord) {
            return Err(Refusal::NotHeard(host.short()));
        }
        Ok(Judged::Heard(host))
    }

    fn judge_admit(&self, at: UnixSeconds, cert: &MemberCert) -> Result<Judged, Refusal> {
        // Receipts follow from this entry. In it they would be bytes that nobody looks at.
        if !cert.receipts.is_empty() {
            return Err(Refusal::WithReceipts);
        }
        let member = cert.verify_uncounted(&self.trust, at)?;
        let content = member.content();
        if self.state.removed.contains(&content.host) && !planted(Defect::RemovedReturns) {
            return Err(Refusal::Removed { name: content.name.clone() });
        }
        let known = self.state.members.get(&content.host);
        if known.is_some_and(|known| known.id == member.id()) {
            return Ok(Judged::Nothing);
        }
        // Whoever has seen an older one of its certificates could give the host its old labels back.
        if let Some(known) = known.filter(|known| known.member.incarnation >= content.incarnation) {
            let (name, incarnation) = (content.name.clone(), known.member.incarnation);
            return Err(Refusal::NotNewer { name, incarnation });
        }
        if known.is_none() && self.state.members.len() >= HOSTS_MAX {
            return Err(Refusal::FleetFull);
        }
        let groups = self.state.groups.values();
        let groups = groups.filter(|group| group.group.filter.matches(&content.labels)).count();
        if groups > GROUPS_PER_HOST_MAX {
            return Err(Refusal::TooManyGroups { host: content.name.clone() });
        }
        let same_name = |other: &&Kept<Membership>| {
            other.member.name == content.name && other.member.host != content.host
        };
        if let Some(other) = self.state.members.values().find(same_name)
            && other.member.incarnation >= content.incarnation
        {
            return Err(Refusal::NameTaken { name: content.name.clone() });
        }
        let mut counted = None;
        if let Some(signed) = &cert.token {
            let token = signed
                .verify(self.trust.fleet(), self.trust.root().roles.enrolment.key_set())
                .map_err(Refusal::untrusted("join token"))?;
            if token.content().not_after < at {
                return Err(Refusal::TokenExpired { until: token.content().not_after });
            }
            if let Some(uses) = token.content().uses {
                let used = self.state.token_uses.get(&token.id());
                let others = used
                    .map_or(0, |used| used.iter().filter(|host| **host != content.host).count());
                if others >= usize::try_from(uses.get()).unwrap_or(usize::MAX) {
                    return Err(Refusal::TokenUsedUp { uses: uses.get() });
                }
                counted = Some(token.id());
            }
        }
        Ok(Judged::Admit { cert: Box::new(cert.clone()), member, token: counted })
    }

    fn judge_remove(&self, signed: &Signed<Removal>) -> Result<Judged, Refusal> {
        let removal = self.trust.removal(signed).map_err(Refusal::untrusted("removal"))?;
        let Removal { host, name, .. } = removal.content();
        if self.state.removed.contains(host) {
            return Ok(Judged::Nothing);
        }
        if !self.is_member(*host) {
            return Err(Refusal::UnknownHost(host.short()));
        }
        // Until another host votes in its place, those that are left must be able to agree.
        let voters = self.electorate.newest();
        let lives =
            |voter: &HostId| voter != host && self.is_member(*voter) && self.is_healthy(*voter);
        let too_few = voters.hosts().filter(lives).count() < voters.majority();
        if (voters.is_voter(*host) && too_few) || self.comes_next(*host) {
            return Err(Refusal::IsVoter { name: name.clone() });
        }
        Ok(Judged::Remove { host: *host })
    }

    /// What somebody does to a host by hand disturbs it as a release does, and under the same quotas.
    fn judge_drain(&self, at: UnixSeconds, signed: &Signed<Drain>) -> Result<Judged, Refusal> {
        let drain = self.trust.drain(signed).map_err(Refusal::untrusted("drain"))?;
        let Drain { host, ref name, drained, sequence, issued_at, not_after, .. } =
            *drain.content();
        if !self.is_member(host) {
            return Err(Refusal::UnknownHost(host.short()));
        }
        let last = self.drain_sequence(host);
        if sequence == last && drained == self.is_drained(host) {
            return Ok(Judged::Nothing);
        }
        if sequence != last + 1 && !planted(Defect::DrainReplayed) {
            let (name, expected) = (name.clone(), last + 1);
            return Err(Refusal::DrainOutOfOrder { name, expected, got: sequence });
        }
        if drained == self.is_drained(host) {
            return Err(Refusal::NothingToDrain { name: name.clone(), drained });
        }
        if !drained {
            return Ok(Judged::Drain(drain));
        }
        if let Some(slot) = self.state.slots.get(&host) {
            return Err(Refusal::HoldsSlot(slot.token));
        }
        if self.is_uncounted(host) {
            return Err(Refusal::Uncounted(host.short()));
        }
        if let Some(until) = not_after.filter(|until| *until < at) {
            return Err(Refusal::OrderExpired { issued: issued_at, until, at });
        }
        if !planted(Defect::DrainedUnasked) {
            self.check_quotas(host, Lasts::Beyond)?;
        }
        Ok(Judged::Drain(drain))
    }

    fn judge_group(&self, signed: &Signed<Group>) -> Result<Judged, Refusal> {
        let group = self.trust.group(signed).map_err(Refusal::untrusted("deployment group"))?;
        let content = group.content();
        let known = self.state.groups.get(&content.name);
        if known.is_some_and(|known| known.group == *content) {
            return Ok(Judged::Nothing);
        }
        let expected = known.map_or(1, |known| known.group.version + 1);
        if content.version != expected {
            let (group, got) = (content.name.clone(), content.version);
            return Err(Refusal::GroupVersion { group, expected, got });
        }
        if known.is_none() && self.state.groups.len() >= GROUPS_MAX {
            return Err(Refusal::ManyGroups);
        }
        let more = signed.size().saturating_sub(known.map_or(0, |known| known.signed.size()));
        let bytes: usize = self.state.groups.values().map(|group| group.signed.size()).sum();
        if more > 0 && bytes + more > GROUPS_BYTES_MAX {
            return Err(Refusal::GroupsTakeMuch);
        }
        if let Some(known) = known {
            if known.group.application != content.application {
                return Err(Refusal::OtherApplication(content.name.clone()));
            }
            // A host that left the group in the middle would hold a slot in a group that it is not in.
            if let Some(running) = known.running.filter(|_| known.group.filter != content.filter) {
                return Err(Refusal::DeploymentRunning(running));
            }
            let mut held = self.left_held(&content.name).into_iter();
            let moves = known.group.filter != content.filter && !planted(Defect::HeldGroupMoves);
            if let Some(deployment) = held.next().filter(|_| moves) {
                return Err(self.held_still(deployment));
            }
        }
        let in_many_others = |host: &HostId| {
            let others = self.groups_of(*host).filter(|other| other.group.name != content.name);
            others.count() >= GROUPS_PER_HOST_MAX
        };
        if let Some(host) = self.hosts_of(&content.filter).find(in_many_others) {
            let host = self.state.members[&host].member.name.clone();
            return Err(Refusal::TooManyGroups { host });
        }
        Ok(Judged::Group(group))
    }

    /// What is said where a group cannot change while a host that is away holds a slot of it.
    fn held_still(&self, deployment: DeploymentId) -> Refusal {
        let held = self.state.slots.iter().filter(|(_, slot)| slot.deployment == deployment);
        let holders = held.map(|(host, _)| self.name_of(*host).cloned());
        Refusal::HeldStill { deployment, holders: holders.flatten().collect() }
    }

    fn judge_want(
        &self,
        signed: &Signed<Want>,
        believed: Option<&Believed>,
    ) -> Result<Judged, Refusal> {
        let fleet = self.trust.fleet();
        let want = match believed {
            Some(Believed::Want(known)) if known.is_of(signed, fleet) => known.clone(),
            _ => signed.verify_host(fleet).map_err(Refusal::untrusted("slot request"))?,
        };
        let Want { host, order, release } = *want.content();
        if !self.is_member(host) {
            return Err(Refusal::UnknownHost(host.short()));
        }
        let deployment = self.running(order, release).ok_or(Refusal::NoPart)?;
        let target = deployment.targets.get(&host).ok_or(Refusal::NoPart)?;
        match target.status {
            TargetStatus::Pending => Ok(Judged::Want { want, deployment: deployment.id }),
            _ => Ok(Judged::Nothing),
        }
    }

    pub(super) fn judge_grant(&self, grant: &Grant) -> Result<Judged, Refusal> {
        if !self.is_member(grant.host) {
            return Err(Refusal::UnknownHost(grant.host.short()));
        }
        let deployment = self.running(grant.order, grant.release).ok_or(Refusal::NoPart)?;
        let target = deployment.targets.get(&grant.host).ok_or(Refusal::NoPart)?;
        if let Some(slot) = self.state.slots.get(&grant.host)
            && !planted(Defect::SecondSlot)
        {
            return Err(Refusal::HoldsSlot(slot.token));
        }
        if target.status != TargetStatus::Waiting {
            return Err(Refusal::NoPart);
        }
        if self.is_uncounted(grant.host) {
            return Err(Refusal::Uncounted(grant.host.short()));
        }
        if self.is_drained(grant.host) && !planted(Defect::DrainedIsGranted) {
            return Err(Refusal::Drained(grant.host.short()));
        }
        let group = self.state.groups.get(&deployment.group).ok_or(Refusal::NoPart)?;
        let is_frozen = group.frozen.is_some() && !planted(Defect::FrozenIsGranted);
        let has_turn = deployment.has_turn(target, || {
            let (is_blocked, quota) = (|| self.is_blocked(group), || self.quota(group));
            self.is_awaited_by_all(group, grant.host, is_blocked, quota)
        });
        let may_go = deployment.is_granting() && has_turn;
        if is_frozen || !may_go {
            return Err(Refusal::NotItsTurn(deployment.id));
        }
        if deployment.capacity(target) == 0 {
            let quota = deployment.quota();
            let group = deployment.group.clone();
            return Err(Refusal::QuotaFull { group, down: quota, quota });
        }
        if !planted(Defect::QuotaNotChecked) {
            self.check_quotas(grant.host, Lasts::Within)?;
        }
        Ok(Judged::Grant { grant: grant.clone(), deployment: deployment.id })
    }

    fn judge_done(
        &self,
        signed: &Signed<Done>,
        believed: Option<&Believed>,
    ) -> Result<Judged, Refusal> {
        let fleet = self.trust.fleet();
        let done = match believed {
            Some(Believed::Done(known)) if known.is_of(signed, fleet) => known.clone(),
            _ => signed.verify_host(fleet).map_err(Refusal::untrusted("slot return"))?,
        };
        let Done { host, token, .. } = done.content();
        // An old token, or one given back already, is old news and changes nothing.
        let is_it = |slot: &Slot| slot.token == *token || planted(Defect::OldDoneFrees);
        if !self.state.slots.get(host).is_some_and(is_it) {
            return Ok(Judged::Nothing);
        }
        Ok(Judged::Done(done))
    }

    /// A wait that is not the present one is old news. How long it took the leader has measured, by its
    /// own clock that only counts up; here it only matters that it is waited for.
    fn judge_passed(&self, passed: Passed) -> Judged {
        let running =
            |id| self.deployment(id).filter(|known| known.status == DeploymentStatus::InProgress);
        let due = match passed {
            Passed::Bake { deployment, stage } => running(deployment)
                .is_some_and(|d| matches!(d.hold, Some(Hold::Bake { .. })) && d.stage == stage),
            Passed::Deadline { deployment } => {
                running(deployment).is_some_and(|d| d.deadline().is_some() && !d.overdue)
            }
            Passed::Waiver { host } => self.state.waived.contains(&host),
            Passed::HoldOff { host, token } => {
                let held = self.state.slots.get(&host);
                held.is_some_and(|slot| {
                    let is_released = slot.released.is_some();
                    slot.token == token && (is_released || planted(Defect::SlotFreedOnATimer))
                })
            }
        };
        if due { Judged::Passed(passed) } else { Judged::Nothing }
    }
}
