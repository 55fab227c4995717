//! What daemons say to each other once a connection is admitted.
//!
//! [`Message`]s go one way over the long-lived link of two neighbours, in order, and are lost when
//! the link breaks: whoever needs an answer asks again. [`Call`]s are asked and answered once; bulk
//! data goes that way. [`Hello`] is exchanged before either, inside the transport.

use serde::{Deserialize, Serialize};

use crate::{
    fleet::Record,
    ids::{Digest, HostId, Nonce},
    rollout::Entry,
    trust::{MemberCert, Order, Receipt, Signed},
};

/// What both sides of a new connection say before anything else is believed or heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's certificate.
    pub cert: MemberCert,
    /// Counts the sender's starts, so that a restarted peer replaces its old connection.
    pub epoch: u64,
    /// The protocol's version; both sides must have the same.
    pub protocol: u32,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// The connection is admitted.
    Admitted,
    /// The certificate is good but for the count of its token, which was now passed to the voters.
    /// Try again soon; receipts that are already there are enclosed.
    Pending(Vec<Signed<Receipt>>),
    /// The certificate is not good here. Trying again is of no use.
    Refused(String),
}

/// The protocol's version in [`Hello`].
pub const PROTOCOL: u32 = 1;

/// One message on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Nothing but a sign of life.
    Heartbeat,
    /// Records that are new to the sender, or that were asked for.
    Records(Vec<Signed<Record>>),
    /// The order of each record that the sender has: the receiver sends what is newer and asks for
    /// what it lacks.
    Digest(Vec<RecordVersion>),
    /// Asks for the records of these hosts.
    WantRecords(Vec<HostId>),
    /// A frame of the consensus among voters, in the wrapper's own encoding.
    Consensus(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Evidence for the ledger. Voters pass it to the leader; others pass it to a voter.
    Submit {
        /// Names the submission, for the answer.
        id: Digest,
        /// What is to be added.
        entry: Box<Entry>,
    },
    /// The answer to a submission that was refused. One that was accepted shows in the ledger.
    SubmitRefused {
        /// The submission.
        id: Digest,
        /// Why.
        reason: String,
    },
    /// Committed entries of the ledger, from a voter to those who follow it.
    Ledger {
        /// The index of the first one.
        first: u64,
        /// Encoded entries, without a gap.
        entries: Vec<serde_bytes::ByteBuf>,
        /// The last index that the voter has applied.
        applied: u64,
        /// Who leads, as the voter knows it.
        leader: Option<HostId>,
    },
    /// Asks a voter for the ledger from this index on.
    WantLedger {
        /// The first index that is missing.
        first: u64,
    },
    /// The ledger's state up to an index, for one who is too far behind.
    LedgerSnapshot {
        /// The index that it stands for.
        index: u64,
        /// The encoded state.
        #[serde(with = "serde_bytes")]
        state: Vec<u8>,
    },
    /// Asks a voter to vouch for a slot that the sender holds.
    WantReceipt {
        /// The slot.
        token: u64,
        /// The number to put in.
        nonce: Nonce,
    },
    /// Asks a voter to vouch that this certificate was counted.
    WantAdmission {
        /// The id of the member document.
        member: Digest,
    },
    /// The answer to either.
    Receipt(Signed<Receipt>),
    /// A stop, passed on at once to every neighbour, with or without consensus.
    Stop(Signed<Order>),
    /// The revisions that the sender holds in full or in part, with one bit for each frame.
    Have(Vec<Holding>),
}

/// How new a host's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordVersion {
    /// The host.
    pub host: HostId,
    /// Its epoch.
    pub epoch: u64,
    /// Its sequence.
    pub sequence: u64,
}

/// Which frames of a revision a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The revision.
    pub manifest: Digest,
    /// One bit for each frame of the manifest, the first in the lowest bit of the first byte.
    #[serde(with = "serde_bytes")]
    pub frames: Vec<u8>,
}

/// A question to one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// A part of a manifest's bytes.
    Manifest {
        /// Which one.
        manifest: Digest,
        /// The first byte that is wanted; the answer is as long as the limits allow.
        offset: u64,
    },
    /// A frame's compressed bytes.
    Frame {
        /// Which one.
        frame: Digest,
    },
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// What was asked for.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The peer does not have it.
    Absent,
    /// The peer has too much to do; ask another.
    Busy,
}
