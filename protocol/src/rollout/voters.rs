//! How the voters change: planned by the leader, signed by those who vote, in force when a majority
//! has signed.
//!
//! From the entry with the plan on, no voter gives receipts as one of the old list. So when the last
//! signature that was needed is applied, a majority of the old voters has stopped to vouch for slots
//! for good, and what the new ones decide cannot be undone by hosts that have not heard of them.

use std::collections::BTreeSet;

use super::{
    kept::Kept,
    ledger::{Judged, Ledger},
    quotas::{Lasts, Sizes},
    refusal::Refusal,
};
use crate::{
    ids::HostId,
    limits::VOTER_LISTS_MAX,
    sabotage::{Defect, planted},
    trust::{Base, Counted, Document, Electorate, Signed, Verified, Voter, VoterList},
};

/// What is left of the chain when voters have replaced each other as often as they may.
pub(super) const VOTER_LISTS_FOR_OPERATORS: usize = 64;
/// More than any lost majority can have agreed on.
const INDICES_PER_LOSS: u64 = 1 << 32;

impl Ledger {
    /// All lists of voters, the newest of which is in force.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// The list that will be in force when a majority of the voters has signed it.
    pub fn next_voters(&self) -> Option<&Signed<VoterList>> {
        self.state.next_voters.as_ref()
    }

    /// How often the voters can change by themselves yet. All lists stay for good: a host that was away
    /// believes each by the one before, and certificates by the voters of their time.
    pub fn voter_changes_left(&self) -> usize {
        let all = VOTER_LISTS_MAX - VOTER_LISTS_FOR_OPERATORS;
        all.saturating_sub(self.state.voter_lists.len())
    }

    /// False for a host whose labels say `voter=never`.
    pub fn may_vote(&self, host: HostId) -> bool {
        let member = self.state.members.get(&host);
        let label = member.and_then(|known| known.member.labels.get("voter"));
        label.is_none_or(|value| value.as_str() != "never")
    }

    /// True if a host is about to vote.
    pub(super) fn comes_next(&self, host: HostId) -> bool {
        let planned = self.next_voters().and_then(|planned| planned.claim().ok());
        planned.is_some_and(|list| list.voters.iter().any(|voter| voter.host == host))
            && !self.electorate.newest().is_voter(host)
    }

    /// One voter at a time, and never fewer of them.
    pub(super) fn judge_next_voters(&self, list: &VoterList) -> Result<Judged, Refusal> {
        let refuse = |why: bool, rule| if why { Err(Refusal::VoterChange(rule)) } else { Ok(()) };
        let now = self.electorate.newest();
        refuse(self.state.next_voters.is_some(), "another change is under way")?;
        refuse(list.check().is_err(), "the list is malformed")?;
        refuse(self.voter_changes_left() == 0, "there were too many already")?;
        let follows = list.base.is_none()
            && list.parent == now.id()
            && list.generation == now.generation().saturating_add(1)
            && usize::from(list.seats) == now.seats();
        refuse(!follows, "the list does not follow the one in force")?;
        let (mut stay, mut added) = (0, Vec::new());
        for voter in &list.voters {
            match now.list().contains(voter) {
                true => stay += 1,
                false => added.push(voter),
            }
        }
        refuse(
            added.len() != 1 || stay + 1 < now.list().len(),
            "one voter comes, at most one goes",
        )?;
        let is_member = |host: HostId, name| self.name_of(host) == Some(name);
        let all_are = added.iter().all(|voter| is_member(voter.host, &voter.name));
        refuse(!all_are, "who comes is no member of the fleet")?;
        let is_fit = |host: HostId| {
            let busy = self.state.slots.contains_key(&host)
                || self.is_uncounted(host)
                || self.is_drained(host);
            self.is_healthy(host) && self.may_vote(host) && !busy
        };
        refuse(!added.iter().all(|voter| is_fit(voter.host)), "who comes has other worries")?;
        let goes = now.hosts().find(|host| list.voters.iter().all(|voter| voter.host != *host));
        let is_needed = |host: HostId| {
            self.state.members.contains_key(&host) && self.is_healthy(host) && self.may_vote(host)
        };
        refuse(goes.is_some_and(is_needed), "who goes is well")?;
        let unsigned = Signed::new(list, self.trust.fleet(), &[]);
        let list = unsigned.map_err(|_| Refusal::VoterChange("the list is malformed"))?;
        Ok(Judged::NextVoters(list))
    }

    pub(super) fn judge_vouch(&self, signed: &Signed<VoterList>) -> Result<Judged, Refusal> {
        let fleet = self.trust.fleet();
        let id = signed.id(fleet);
        if self.electorate.knows(id) {
            return Ok(Judged::Nothing);
        }
        let planned = self.state.next_voters.as_ref().filter(|planned| planned.id(fleet) == id);
        let planned = planned.ok_or(Refusal::VoterChange("nobody has planned this change"))?;
        let vouched = self.electorate.vouched(&self.trust, signed);
        let vouched = vouched.map_err(Refusal::untrusted("list of voters"))?;
        let before = self.electorate.vouched(&self.trust, planned);
        let has_signed = |key| before.as_ref().is_ok_and(|before| before.signers().contains(key));
        match vouched.signers().iter().all(has_signed) {
            true => Ok(Judged::Nothing),
            false => Ok(Judged::Vouch(vouched)),
        }
    }

    fn recovery_base(&self) -> Base {
        Base { index: self.state.applied, state: self.state_hash() }
    }

    /// The list by which operators would let the fleet go on with this very ledger and these voters. If they
    /// say nothing of seats it is to grow to what it was.
    pub fn recovery(
        &self,
        hosts: &[HostId],
        seats: Option<u8>,
    ) -> Result<Signed<VoterList>, Refusal> {
        let voter = |host: &HostId| {
            let name = self.name_of(*host).ok_or_else(|| Refusal::UnknownHost(host.short()))?;
            Ok(Voter { host: *host, name: name.clone() })
        };
        let mut voters: Vec<_> = hosts.iter().map(voter).collect::<Result<_, Refusal>>()?;
        voters.sort();
        voters.dedup();
        let now = self.electorate.newest();
        let seats = seats.unwrap_or_else(|| u8::try_from(now.seats()).unwrap_or(u8::MAX));
        let generation = VoterList::generation_after_loss(now.generation());
        let base = Some(self.recovery_base());
        let list = VoterList { base, seats, parent: now.id(), voters, generation };
        list.check().map_err(|invalid| Refusal::untrusted("list of voters")(invalid.into()))?;
        let unsigned = Signed::new(&list, self.trust.fleet(), &[]);
        unsigned.map_err(|_| Refusal::VoterChange("the list is malformed"))
    }

    /// Goes on with this ledger by the word of operators. Slots that others had granted after it are not
    /// known here: until a host says that it holds none of them, it counts as down. So does one that was
    /// written off: it may have come back since, and hold one. Indices leap, so that none of theirs is ever
    /// given again.
    pub fn recover(&mut self, signed: &Signed<VoterList>) -> Result<(), Refusal> {
        let list = self.trust.recovery(signed).map_err(Refusal::untrusted("list of voters"))?;
        let (expected, here) = (list.content().base.clone(), self.recovery_base());
        if expected.as_ref() != Some(&here) {
            let expected = expected.map_or(0, |base| base.index);
            return Err(Refusal::OtherLedger { expected, here: here.index });
        }
        self.electorate.extend(&self.trust, signed)?;
        self.state.voter_lists.push(signed.clone());
        self.state.next_voters = None;
        if !planted(Defect::CensusDropped) {
            self.state.uncounted =
                self.state.members.keys().copied().collect::<BTreeSet<_>>().into();
            self.state.unsure = self.state.uncounted.clone();
            self.state.waived = Kept::default();
            self.state.written_off = Kept::default();
            self.sizes = Sizes::of(&self.state).into();
            let all: Vec<_> = self.state.members.keys().copied().collect();
            all.into_iter().for_each(|host| self.note_who_serves(host));
            let running = self.state.groups.values().filter_map(|group| {
                let deployment = self.deployment(group.running?)?;
                Some((deployment.id, self.beside(group, deployment)))
            });
            for (id, beside) in running.collect::<Vec<_>>() {
                if let Some(deployment) = self.deployment_mut(id) {
                    deployment.beside = beside;
                }
            }
        }
        if !planted(Defect::IndicesDoNotLeap) {
            self.state.applied += INDICES_PER_LOSS;
        }
        Ok(())
    }

    /// True if a host may hold a slot which was lost with the voters who granted it.
    pub fn is_uncounted(&self, host: HostId) -> bool {
        self.state.uncounted.contains(&host)
    }

    pub(super) fn judge_counted(&self, signed: &Signed<Counted>) -> Result<Judged, Refusal> {
        let counted = signed.verify_host(self.trust.fleet());
        let counted = counted.map_err(Refusal::untrusted("statement about slots"))?;
        let counted = counted.content();
        // A statement from before the voters were lost says nothing.
        let counts = counted.generation >= self.electorate.recovered_at();
        match counts && self.is_uncounted(counted.host) {
            true => Ok(Judged::Counted(counted.clone())),
            false => Ok(Judged::Nothing),
        }
    }

    /// A host counts as what it is again, and runs what it says.
    pub(super) fn recount(&mut self, counted: Counted) {
        let Counted { host, mut runs, broken, .. } = counted;
        self.count_out(host);
        self.state.uncounted.remove(&host);
        self.state.unsure.remove(&host);
        self.state.waived.remove(&host);
        let own: Vec<_> = self.groups_of(host).map(|group| group.group.name.clone()).collect();
        for name in own {
            let Some(group) = self.state.groups.get_mut(&name) else { continue };
            let Some(release) = runs.remove(&name) else {
                group.current.remove(&host);
                continue;
            };
            // What it was brought to is lost with the voters: nobody takes it back without an order.
            if group.current.insert(host, release) != Some(release) {
                group.left.insert(host);
            }
            self.state.broken.remove(&(name, host));
        }
        // The voters may have lost the group, too; it may be handed in again.
        self.state.broken.extend(broken.into_iter().map(|name| (name, host)));
        self.count_in(host);
        self.note_who_serves(host);
    }

    /// False while a slot from before the voters were lost may have been given back since then, and its
    /// room to others: until enough hosts of each group have said what they hold.
    pub(super) fn has_room_in_census(&self, host: HostId) -> bool {
        if self.state.uncounted.is_empty() {
            return true;
        }
        self.groups_of(host).all(|group| {
            let others = self.hosts_of(&group.group.filter).filter(|other| *other != host);
            let (silent, others): (Vec<_>, Vec<_>) =
                others.partition(|other| self.is_uncounted(*other));
            let holders = others.into_iter().filter(|other| self.state.slots.contains_key(other));
            let down: Vec<_> = silent.iter().copied().chain(holders).collect();
            let zone = self.zone_of(host);
            let here = down.iter().filter(|other| self.zone_of(**other) == zone).count();
            let quota = self.zone_quota(group, zone, Lasts::Within);
            let in_zone = quota.is_none_or(|quota| here < quota);
            silent.is_empty() || down.len() < self.quota(group) && in_zone
        })
    }

    /// Adds signatures. With those of a majority the list is in force.
    pub(super) fn vouch(&mut self, vouched: &Verified<VoterList>) {
        let Some(mut planned) = self.state.next_voters.take() else { return };
        planned.absorb(vouched);
        match self.electorate.extend(&self.trust, &planned) {
            Ok(true) => self.state.voter_lists.push(planned),
            _ => self.state.next_voters = Some(planned),
        }
    }
}
