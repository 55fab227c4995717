//! The ledger: the replicated state of the fleet.
//!
//! Entries are judged by [`Ledger::check`] and carried out by [`Ledger::apply`], which judges again
//! with the same code: on the leader before it proposes, and on every host when the entry is
//! committed. No clock is read; the leader's stamp bounds validity and labels events for people.
//!
//! The parts are files of their own: `judging` and `ordering` say what an entry may do, `applying`
//! does it, `settling` draws the consequences, `quotas` is the rule that everything is for, and
//! `choosing` suggests who is next. `voters` is about who decides all this.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    deployment::{Deployment, Target},
    entry::{Entry, Grant, Passed, Stamped},
    kept::Kept,
    quotas::Sizes,
    refusal::Refusal,
    releases::Released,
};
use crate::{
    cbor::{self, DecodeError},
    execute::Stopped,
    fleet::Version,
    ids::{DeploymentId, Digest, GroupName, HashDomain, HostId},
    sabotage::{Defect, planted},
    time::UnixSeconds,
    trust::{
        Counted, Done, Drain, Electorate, Group, Member, MemberCert, Order, Release, Signed, Trust,
        Verified, VoterList, Want,
    },
};

/// The replicated state. Every host that has applied the same entries has the same one. A copy costs
/// next to nothing.
#[derive(Clone)]
pub struct Ledger {
    pub(super) trust: Arc<Trust>,
    pub(super) state: Kept<State>,
    /// The lists of the state, as they were believed.
    pub(super) electorate: Kept<Electorate>,
    /// The hosts of the state, counted.
    pub(super) sizes: Kept<Sizes>,
}

/// All of it, in a form that can be written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) applied: u64,
    pub(super) members: Kept<BTreeMap<HostId, Kept<Membership>>>,
    /// Keys that were removed from the fleet. They never come back.
    pub(super) removed: Kept<BTreeSet<HostId>>,
    /// Hosts that a token which counts its uses has enrolled.
    pub(super) token_uses: Kept<BTreeMap<Digest, BTreeSet<HostId>>>,
    pub(super) groups: Kept<BTreeMap<GroupName, Kept<GroupState>>>,
    pub(super) releases: Kept<BTreeMap<Digest, Kept<Released>>>,
    pub(super) deployments: Kept<BTreeMap<DeploymentId, Kept<Deployment>>>,
    pub(super) slots: Kept<BTreeMap<HostId, Slot>>,
    /// Hosts that an operator wrote off while they held a slot, or may have, until they are heard of again.
    pub(super) written_off: Kept<BTreeMap<HostId, WriteOff>>,
    /// Hosts that the fleet's records call unreachable, with the newest record of each that was known then:
    /// only a newer one shows that it is heard of again.
    pub(super) unhealthy: Kept<BTreeMap<HostId, Version>>,
    /// Hosts that operators keep for themselves, and since when.
    pub(super) drained: Kept<BTreeMap<HostId, UnixSeconds>>,
    /// The number of the last word about that, of hosts of which there was one.
    pub(super) drains: Kept<BTreeMap<HostId, u64>>,
    /// Hosts that their group's last deployment left without a working revision.
    pub(super) broken: Kept<BTreeSet<(GroupName, HostId)>>,
    /// The lists of voters that have followed the genesis.
    pub(super) voter_lists: Kept<Vec<Signed<VoterList>>>,
    /// The next one, with the signatures that have come.
    pub(super) next_voters: Option<Signed<VoterList>>,
    /// Hosts that may hold a slot which was lost with the voters who granted it. They count as down.
    pub(super) uncounted: Kept<BTreeSet<HostId>>,
    /// Those that have not said what they run since voters were lost: the word of it may have been lost as
    /// well.
    pub(super) unsure: Kept<BTreeSet<HostId>>,
    /// Those of the uncounted that an operator has waived. They are written off after a hold-off.
    pub(super) waived: Kept<BTreeSet<HostId>>,
}

/// A host of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) cert: MemberCert,
    pub(super) member: Member,
    pub(super) id: Digest,
    pub(super) index: u64,
    pub(super) entry: Digest,
}

/// A deployment group and its orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupState {
    pub(super) group: Group,
    pub(super) signed: Signed<Group>,
    /// The newest ones, without a gap, up to the head.
    pub(super) orders: Vec<Signed<Order>>,
    pub(super) sequence: u64,
    pub(super) head: Digest,
    pub(super) running: Option<DeploymentId>,
    /// Deployments that wait until the running one is over, in the order of their orders.
    pub(super) queue: Vec<DeploymentId>,
    pub(super) last_good: Option<Digest>,
    /// Since when operators let nothing begin in it.
    pub(super) frozen: Option<UnixSeconds>,
    /// What hosts run, by what they said when they gave their slots back.
    pub(super) current: Kept<BTreeMap<HostId, Digest>>,
    /// Hosts that were there when a deployment began; others are new.
    pub(super) met: Kept<BTreeSet<HostId>>,
    /// Hosts that did not catch up when they had their chance. The next order gives them another.
    pub(super) left: Kept<BTreeSet<HostId>>,
    /// Hosts that took the release of a deployment which was over, unless it was then the group's last success.
    /// They come to where the others are.
    pub(super) late: Kept<BTreeSet<HostId>>,
    /// Stops since the newest order to deploy or to go back that have no place in the chain.
    pub(super) stopped_out_of_turn: Vec<Stopped>,
}

impl GroupState {
    /// What the orders take that are kept.
    pub(super) fn order_bytes(&self) -> usize {
        self.orders.iter().map(Signed::size).sum()
    }
}

/// A slot that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) token: u64,
    pub(super) entry: Digest,
    pub(super) grant: Grant,
    pub(super) deployment: DeploymentId,
    pub(super) since: UnixSeconds,
    /// When an operator's order to release it came. It frees the slot after a hold-off.
    pub(super) released: Option<UnixSeconds>,
}

/// A host that was written off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WriteOff {
    /// The slot that it held, and for which deployment; none where nobody knows whether it held one.
    pub(super) slot: Option<(u64, DeploymentId)>,
    pub(super) at: UnixSeconds,
}

/// What an entry would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is old news: nothing. Such an entry is not worth a place in the log.
    None,
    /// It changes the ledger.
    Change,
}

/// What a host has said in an entry and was believed. Whoever judges the same entry once more need not
/// check the same signature again.
#[derive(Clone, Debug)]
pub enum Believed {
    /// It asks for a slot.
    Want(Verified<Want>),
    /// It gives a slot back.
    Done(Verified<Done>),
}

/// What an entry came to, after it was judged and before it is carried out.
pub(super) enum Judged {
    Nothing,
    Admit { cert: Box<MemberCert>, member: Verified<Member>, token: Option<Digest> },
    Remove { host: HostId },
    Drain(Verified<Drain>),
    Group(Verified<Group>),
    Release(Verified<Release>),
    Order { order: Verified<Order>, effect: Ordered },
    StopOutOfTurn { deployment: DeploymentId, rollback: bool },
    Want { want: Verified<Want>, deployment: DeploymentId },
    Grant { grant: Grant, deployment: DeploymentId },
    Done(Verified<Done>),
    Silent { host: HostId, version: Version },
    Heard(HostId),
    Passed(Passed),
    NextVoters(Signed<VoterList>),
    Vouch(Verified<VoterList>),
    Counted(Counted),
}

/// What an order does, beside taking its place in the chain.
pub(super) enum Ordered {
    /// Its deployment waits for its turn, which may be at once. With `instead`, what runs and waits
    /// already is stopped for it.
    Deploy {
        deployment: Box<Deployment>,
        instead: bool,
    },
    /// There may be nothing left to stop.
    Stop {
        deployment: Option<DeploymentId>,
        rollback: bool,
    },
    Pause {
        deployment: DeploymentId,
    },
    Resume {
        deployment: DeploymentId,
    },
    ReleaseSlot {
        host: HostId,
    },
    Waive {
        host: HostId,
    },
    Freeze,
    Unfreeze,
}

impl Ledger {
    /// The empty ledger of a fleet.
    pub fn new(trust: Arc<Trust>) -> Self {
        let electorate = Electorate::of(&trust).into();
        Self { electorate, trust, state: Kept::default(), sizes: Kept::default() }
    }

    /// Reads a snapshot. It comes from this host's own disk or from a voter.
    pub fn restore(trust: Arc<Trust>, snapshot: &[u8]) -> Result<Self, DecodeError> {
        #[cfg(feature = "simulation")]
        return super::sharing::restore(trust, snapshot);
        #[cfg(not(feature = "simulation"))]
        Self::restore_anew(trust, snapshot)
    }

    pub(super) fn restore_anew(trust: Arc<Trust>, snapshot: &[u8]) -> Result<Self, DecodeError> {
        let mut state: State = cbor::decode(snapshot, usize::MAX)?;
        if planted(Defect::SnapshotWithoutSlots) {
            state.slots.clear();
        }
        let mut electorate = Electorate::of(&trust);
        for list in state.voter_lists.iter() {
            let believed = electorate.extend(&trust, list);
            believed.map_err(|error| DecodeError::Malformed(error.to_string()))?;
        }
        let sizes = Kept::from(Sizes::of(&state));
        Ok(Self { trust, state: state.into(), electorate: electorate.into(), sizes })
    }

    /// The whole state, for [`Ledger::restore`].
    pub fn snapshot(&self) -> Bytes {
        #[cfg(feature = "simulation")]
        return super::sharing::snapshot(self);
        #[cfg(not(feature = "simulation"))]
        self.snapshot_anew()
    }

    pub(super) fn snapshot_anew(&self) -> Bytes {
        cbor::encode(&self.state).into()
    }

    /// Names the state: hosts that agree on it agree on everything.
    pub fn state_hash(&self) -> Digest {
        Digest::of(HashDomain::Ledger, &[&self.snapshot()])
    }

    /// True if both are in the same state. That is quick where one was copied from the other, or both
    /// share most of it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.state == other.state
    }

    /// Whose signatures count.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The index of the last entry that was applied or passed over.
    pub fn applied_index(&self) -> u64 {
        self.state.applied
    }

    /// Passes over an index at which the log has nothing for the ledger.
    pub fn skip(&mut self, index: u64) {
        self.state.applied = self.state.applied.max(index);
    }

    /// What would come of `entry` if it were applied now.
    pub fn check(&self, at: UnixSeconds, entry: &Entry) -> Result<Effect, Refusal> {
        self.check_and_keep(at, entry).map(|(effect, _)| effect)
    }

    /// Likewise, and what was believed on the way, for [`Ledger::apply_believed`].
    pub fn check_and_keep(
        &self,
        at: UnixSeconds,
        entry: &Entry,
    ) -> Result<(Effect, Option<Believed>), Refusal> {
        Ok(match self.judge(at, entry, None)? {
            Judged::Nothing => (Effect::None, None),
            Judged::Want { want, .. } => (Effect::Change, Some(Believed::Want(want))),
            Judged::Done(done) => (Effect::Change, Some(Believed::Done(done))),
            _ => (Effect::Change, None),
        })
    }

    /// Applies the entry at `index`; `hash` is that of its bytes. A refused entry changes nothing
    /// but the index. True if the state has changed.
    pub fn apply(&mut self, index: u64, hash: Digest, stamped: &Stamped) -> Result<bool, Refusal> {
        self.apply_believed(index, hash, stamped, None)
    }

    /// Likewise, on a host that may have believed what the entry says before.
    pub fn apply_believed(
        &mut self,
        index: u64,
        hash: Digest,
        stamped: &Stamped,
        believed: Option<&Believed>,
    ) -> Result<bool, Refusal> {
        #[cfg(feature = "simulation")]
        return super::sharing::apply(self, index, hash, stamped, believed);
        #[cfg(not(feature = "simulation"))]
        self.apply_anew(index, hash, stamped, believed)
    }

    pub(super) fn apply_anew(
        &mut self,
        index: u64,
        hash: Digest,
        stamped: &Stamped,
        believed: Option<&Believed>,
    ) -> Result<bool, Refusal> {
        assert!(index > self.state.applied, "entries are applied in order, each once");
        self.state.applied = index;
        let at = stamped.at;
        let judged = self.judge(at, &stamped.entry, believed)?;
        if matches!(judged, Judged::Nothing) {
            return Ok(false);
        }
        let only = self.only_concerns(&judged);
        self.carry_out(at, index, hash, judged);
        match only {
            Some(deployment) => self.settle_one(at, deployment),
            None => self.settle(at),
        }
        Ok(true)
    }

    /// The deployment that something is about, if it is about nothing else.
    fn only_concerns(&self, judged: &Judged) -> Option<DeploymentId> {
        match judged {
            Judged::Want { deployment, .. } | Judged::Grant { deployment, .. } => Some(*deployment),
            Judged::Done(done) => Some(self.state.slots.get(&done.content().host)?.deployment),
            _ => None,
        }
    }

    pub(super) fn deployment_mut(&mut self, id: DeploymentId) -> Option<&mut Deployment> {
        self.state.deployments.get_mut(&id).map(|deployment| &mut **deployment)
    }

    pub(super) fn target_mut(&mut self, id: DeploymentId, host: HostId) -> Option<&mut Target> {
        self.deployment_mut(id)?.targets.get_mut(&host).map(|target| &mut **target)
    }

    /// The running deployment of an order and a release.
    pub(super) fn running(&self, order: Digest, release: Digest) -> Option<&Deployment> {
        self.state.groups.values().find_map(|group| {
            let running = self.state.deployments.get(&group.running?)?;
            (running.order == order && running.release == release).then_some(&**running)
        })
    }
}
