//! How the voters change: planned by the leader, signed by those who vote, in force when a majority
//! has signed.
//!
//! From the entry with the plan on, no voter gives receipts as one of the old list. So when the last
//! signature that was needed is applied, a majority of the old voters has stopped to vouch for slots
//! for good, and what the new ones decide cannot be undone by hosts that have not heard of them.

use super::{
    ledger::{Judged, Ledger},
    refusal::Refusal,
};
use crate::{
    ids::HostId,
    trust::{Document, Electorate, Signed, Verified, VoterList},
};

impl Ledger {
    /// All lists of voters, the newest of which is in force.
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// The list that will be in force when a majority of the voters has signed it.
    pub fn next_voters(&self) -> Option<&Signed<VoterList>> {
        self.state.next_voters.as_ref()
    }

    /// One voter at a time, and never fewer of them.
    pub(super) fn judge_next_voters(&self, list: &VoterList) -> Result<Judged, Refusal> {
        let refuse = |why: bool, rule| if why { Err(Refusal::VoterChange(rule)) } else { Ok(()) };
        let now = self.electorate.newest();
        refuse(self.state.next_voters.is_some(), "another change is under way")?;
        refuse(list.check().is_err(), "the list is malformed")?;
        let follows = list.parent == now.id()
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
