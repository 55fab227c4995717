//! What the ledger is made of.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::{self, DecodeError},
    fleet::{Record, Version},
    ids::{DeploymentId, Digest, HashDomain, HostId},
    limits::ENTRY_BYTES_MAX,
    time::UnixSeconds,
    trust::{
        Counted, Done, Drain, Group, MemberCert, Order, Release, Removal, Signed, VoterList, Want,
    },
};

/// One entry of the ledger, with the evidence by which each host judges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A host belongs to the fleet.
    Admit(Box<MemberCert>),
    /// A host belongs to the fleet no more.
    Remove(Signed<Removal>),
    /// A host is drained or given back.
    Drain(Signed<Drain>),
    /// A group is set up or changed.
    Group(Signed<Group>),
    /// A release may run.
    Release(Signed<Release>),
    /// A group is told what to do.
    Order(Signed<Order>),
    /// A host asks for a slot.
    Want(Signed<Want>),
    /// A host gets a slot; the entry's index is the token. Proposed by the leader alone.
    Grant(Grant),
    /// A host gives its slot back.
    Done(Signed<Done>),
    /// A host is unreachable, by the fleet's records, and counts as unhealthy. Proposed by the leader alone.
    Silent {
        /// The host.
        host: HostId,
        /// Its newest record that the leader knew then; the least of all where it knew none.
        version: Version,
    },
    /// A host that counts as unhealthy is well: a record of its own that is newer than the one by which it
    /// was called silent. Proposed by the leader alone.
    Heard(Box<Signed<Record>>),
    /// Time has passed that was waited for. Proposed by the leader alone.
    Passed(Passed),
    /// Who should vote next. Proposed by the leader alone.
    NextVoters(VoterList),
    /// A voter signs the list that should be next.
    Vouch(Signed<VoterList>),
    /// A host says that it holds no slot which was lost with the voters who granted it.
    Counted(Signed<Counted>),
}

impl Entry {
    /// True if it is for the leader to say, and for nobody else.
    pub fn is_the_leaders(&self) -> bool {
        matches!(
            self,
            Self::Grant(_)
                | Self::Silent { .. }
                | Self::Heard(_)
                | Self::Passed(_)
                | Self::NextVoters(_)
        )
    }

    /// Names it where it is handed in, so that its answer finds back.
    pub fn submission_id(&self) -> Digest {
        Digest::of(HashDomain::Entry, &[b"submission", &cbor::encode(self)])
    }
}

/// Time that was waited for, by the leader's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Passed {
    /// A deployment has baked after a stage.
    Bake {
        /// The deployment.
        deployment: DeploymentId,
        /// The stage.
        stage: u32,
    },
    /// A deployment has taken longer than it may.
    Deadline {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// The hold-off is over after which a host is written off that has not said what it holds.
    Waiver {
        /// The host.
        host: HostId,
    },
    /// The hold-off is over after which a slot is free that an operator ordered to be released.
    HoldOff {
        /// The holder.
        host: HostId,
        /// The slot.
        token: u64,
    },
}

/// The right to be disrupted, for one host and one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The host.
    pub host: HostId,
    /// The deploy order.
    pub order: Digest,
    /// The release to run.
    pub release: Digest,
}

/// An entry with the leader's wall clock, which labels it for people and bounds validity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// When the leader proposed it.
    pub at: UnixSeconds,
    /// The entry.
    pub entry: Entry,
}

impl Stamped {
    /// The bytes that are agreed on, stored and hashed.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads an entry.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::decode(bytes, ENTRY_BYTES_MAX)
    }

    /// The hash of an entry's bytes, which receipts name.
    pub fn hash(bytes: &[u8]) -> Digest {
        Digest::of(HashDomain::Entry, &[bytes])
    }
}
