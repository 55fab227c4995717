//! The ledger: the replicated state of the fleet.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Digest, HostId},
    time::UnixSeconds,
    trust::{Done, Group, MemberCert, Order, Release, Signed, Want},
};

/// One entry of the ledger, with the evidence by which each host judges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A host belongs to the fleet.
    Admit(Box<MemberCert>),
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
    /// A host became healthy or unhealthy, by the fleet's records. Proposed by the leader alone.
    Health {
        /// The host.
        host: HostId,
        /// True if it counts as healthy from now on.
        healthy: bool,
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
