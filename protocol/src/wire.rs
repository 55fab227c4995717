//! What daemons say to each other once a connection is admitted.
//!
//! [`Message`]s go one way over the long-lived link of two neighbours, in order, and are lost when
//! the link breaks: whoever needs an answer asks again. [`Call`]s are asked and answered once; bulk
//! data goes that way. [`Hello`] is exchanged before either, inside the transport.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    fleet::{BUCKETS, NODES, NodeHash, Record},
    ids::{DeploymentId, Digest, HostId, Nonce, ShortId},
    limits::{
        FRAMES_PER_HAVE_MAX, HOLDINGS_PER_HAVE_MAX, RECORDS_PER_MESSAGE_MAX,
        VERSIONS_PER_MESSAGE_MAX, VOTER_LISTS_PER_MESSAGE_MAX,
    },
    rollout::Entry,
    trust::{MemberCert, Order, Receipt, Signed, VoterList},
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
    /// The lists of voters that have followed the first ones, for whoever does not know those that
    /// counted the sender in.
    #[serde(deserialize_with = "at_most::<_, _, VOTER_LISTS_PER_MESSAGE_MAX>")]
    pub voter_lists: Vec<Signed<VoterList>>,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// The connection is admitted.
    Admitted,
    /// The certificate is good and the ledger does not know it yet: it was now passed to the voters.
    /// Try again soon.
    Pending,
    /// The certificate is not good here. Trying again is of no use.
    Refused(String),
}

/// The protocol's version in [`Hello`].
pub const PROTOCOL: u32 = 10;

/// One message on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Nothing but a sign of life.
    Heartbeat,
    /// Records that are new to the sender, or that were asked for.
    Records(#[serde(with = "bare_records")] Vec<Signed<Record>>),
    /// Records that are here and that the receiver may lack: it asks for those that it wants.
    Offer(
        #[serde(deserialize_with = "at_most::<_, _, VERSIONS_PER_MESSAGE_MAX>")] Vec<RecordVersion>,
    ),
    /// Asks for the records of these hosts.
    WantRecords(
        #[serde(deserialize_with = "at_most::<_, _, VERSIONS_PER_MESSAGE_MAX>")] Vec<ShortId>,
    ),
    /// Nodes of the tree over all records, as they are at the sender: the receiver answers with what
    /// differs below them.
    RecordTree(#[serde(deserialize_with = "at_most::<_, _, NODES>")] Vec<TreeHash>),
    /// All versions that the sender has in some buckets: the receiver sends what is newer and asks
    /// for what it lacks.
    RecordBuckets(#[serde(deserialize_with = "at_most::<_, _, BUCKETS>")] Vec<RecordBucket>),
    /// True if the sender counts the receiver among its neighbours, and wants to hear of changes.
    Neighbour(bool),
    /// A frame of the consensus among voters, in the wrapper's own encoding.
    Consensus(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Evidence for the ledger. Voters pass it to the leader; others pass it to a voter.
    Submit(Box<Entry>),
    /// What became of a submission that does not show in the ledger, from a voter.
    Submitted {
        /// The submission.
        id: Digest,
        /// The ledger's index at which it was old news, or why it was refused.
        outcome: Result<u64, String>,
    },
    /// Committed entries of the ledger, from a voter to those who follow it.
    Ledger {
        /// The index of the first one.
        first: u64,
        /// Entries, without a gap.
        entries: Vec<FedEntry>,
        /// The last index that the voter has applied.
        applied: u64,
        /// Who leads, as the voter knows it.
        leader: Option<HostId>,
    },
    /// Asks a voter for the ledger from this index on.
    WantLedger {
        /// The first index that is missing.
        first: u64,
        /// The voter shall go on with what comes: else another one does, and this one is asked whether
        /// there is more.
        follows: bool,
    },
    /// The entries that were asked for are gone: there is a snapshot to begin with.
    HaveSnapshot {
        /// The last index that is in it.
        index: u64,
        /// The term of that entry.
        term: u64,
    },
    /// Asks a voter for a part of its snapshot at this index.
    WantSnapshot {
        /// Which one.
        index: u64,
        /// The first byte that is wanted.
        offset: u64,
    },
    /// A part of a snapshot.
    Snapshot(SnapshotPart),
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
    /// The newest generation of voters that the sender knows. Whoever knows a newer one answers with
    /// lists, whoever knows only an older one says so in turn.
    VotersKnown(u64),
    /// Lists of voters that follow the newest one which the receiver knows.
    VoterLists(
        #[serde(deserialize_with = "at_most::<_, _, VOTER_LISTS_PER_MESSAGE_MAX>")]
        Vec<Signed<VoterList>>,
    ),
    /// The revisions that the sender holds in full or in part, with one bit for each frame.
    Have(#[serde(deserialize_with = "at_most::<_, _, HOLDINGS_PER_HAVE_MAX>")] Vec<Holding>),
    /// Frames of a revision that the sender holds beside those that it told of before.
    HaveMore {
        /// The revision.
        manifest: Digest,
        /// Their indexes in its manifest.
        #[serde(deserialize_with = "at_most::<_, _, FRAMES_PER_HAVE_MAX>")]
        frames: Vec<u32>,
    },
    /// The sender waits no more for a frame that it asked for.
    Unwanted {
        /// The revision.
        manifest: Digest,
        /// The frame's index in its manifest.
        index: u32,
    },
}

/// An entry of the log: the term in which it was proposed, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FedEntry(pub u64, pub Bytes);

/// A part of a ledger's snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The last index that is in the snapshot.
    pub index: u64,
    /// The snapshot's length, in bytes.
    pub total: u64,
    /// Where this part begins.
    pub offset: u64,
    /// The part.
    pub bytes: Bytes,
}

/// How new a host's record is: the host, its epoch and its sequence. Fifteen bytes, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordVersion(pub ShortId, pub u64, pub u64);

/// A node of the tree over all records: its place and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeHash(pub u16, #[serde(with = "serde_bytes")] pub NodeHash);

/// A bucket and the versions in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBucket(
    pub u8,
    #[serde(deserialize_with = "at_most::<_, _, VERSIONS_PER_MESSAGE_MAX>")] pub Vec<RecordVersion>,
);

/// Reads a list of at most `MAX` elements.
fn at_most<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::<T>::deserialize(deserializer)?;
    if list.len() > MAX {
        return Err(de::Error::invalid_length(list.len(), &"a shorter list"));
    }
    Ok(list)
}

/// Records as they travel: of all that is said in a fleet they are the most.
mod bare_records {
    use serde::{Deserializer, Serializer, de::Error};

    use super::{RECORDS_PER_MESSAGE_MAX, Record, Signed, at_most};
    use crate::trust::Bare;

    pub(super) fn serialize<S: Serializer>(
        records: &[Signed<Record>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(records.iter().map(Signed::bare))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Signed<Record>>, D::Error> {
        let records = at_most::<D, Bare, RECORDS_PER_MESSAGE_MAX>(deserializer)?;
        records.into_iter().map(|bare| Signed::from_bare(bare).map_err(D::Error::custom)).collect()
    }
}

/// Which frames of a revision a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The revision.
    pub manifest: Digest,
    /// One bit for each frame of the manifest, the first in the lowest bit of the first byte. A bit that
    /// was set in an earlier statement stays set: statements may overtake each other. Without any bytes
    /// all that was said before is taken back: the host has the manifest, and gives frames only where it
    /// hears that they are lacking.
    #[serde(with = "serde_bytes")]
    pub frames: Vec<u8>,
}

impl Holding {
    /// How many frames it claims.
    pub fn claims(&self) -> usize {
        let bits = self.frames.iter().map(|byte| byte.count_ones());
        usize::try_from(bits.sum::<u32>()).unwrap_or(usize::MAX)
    }
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
    /// A frame's compressed bytes. The answer comes in its turn.
    Frame {
        /// The revision.
        manifest: Digest,
        /// The frame's index in its manifest.
        index: u32,
    },
    /// A part of what a deployment's scripts have written there.
    Log {
        /// The deployment.
        deployment: DeploymentId,
        /// The first byte that is wanted; the answer is as long as the limits allow, and empty where
        /// the log ends for now.
        offset: u64,
    },
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// What was asked for.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The peer does not have it.
    Absent,
    /// The peer has too much to do; ask another, or later.
    Busy,
    /// The peer may have it and cannot read it.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cbor,
        ids::{FleetId, HostName},
        limits::MESSAGE_BYTES_MAX,
        time::UnixSeconds,
        trust::{SecretKey, Signer, Voter},
    };

    fn reads(message: &Message) -> bool {
        let bytes = cbor::encode(message);
        assert!(bytes.len() <= MESSAGE_BYTES_MAX, "{} bytes", bytes.len());
        cbor::decode::<Message>(&bytes, MESSAGE_BYTES_MAX).is_ok()
    }

    #[test]
    fn lists_are_as_long_as_they_may_be_and_no_longer() {
        let short = ShortId([0xff; 8]);
        let version = RecordVersion(short, u64::MAX, u64::MAX);
        let hash = TreeHash(u16::MAX, [0xff; 16]);
        let host = |n: u8| HostId::from(SecretKey::from_seed(&[n; 32]).public_key());
        let name = HostName::new("v").unwrap();
        let list = VoterList {
            base: None,
            seats: 1,
            parent: Digest::ZERO,
            voters: vec![Voter { host: host(1), name }],
            generation: 1,
        };
        let voters = Signed::new(&list, FleetId([1; 32]), &[]).unwrap();
        let holding = Holding { manifest: Digest([0xff; 32]), frames: Vec::new() };
        for (past, expected) in [(0, true), (1, false)] {
            let versions = vec![version; VERSIONS_PER_MESSAGE_MAX + past];
            let buckets = vec![RecordBucket(0, Vec::new()); BUCKETS + past];
            let lists = [
                Message::Offer(versions.clone()),
                Message::RecordBuckets(vec![RecordBucket(0, versions)]),
                Message::WantRecords(vec![short; VERSIONS_PER_MESSAGE_MAX + past]),
                Message::RecordTree(vec![hash; NODES + past]),
                Message::RecordBuckets(buckets),
                Message::VoterLists(vec![voters.clone(); VOTER_LISTS_PER_MESSAGE_MAX + past]),
                Message::Have(vec![holding.clone(); HOLDINGS_PER_HAVE_MAX + past]),
                Message::HaveMore {
                    manifest: Digest::ZERO,
                    frames: vec![u32::MAX; FRAMES_PER_HAVE_MAX + past],
                },
            ];
            for message in lists {
                assert_eq!(reads(&message), expected);
            }
        }
    }

    #[test]
    fn a_record_travels_without_what_follows_from_it() {
        let (fleet, key) = (FleetId([3; 32]), SecretKey::from_seed(&[7; 32]));
        let record = Record {
            host: key.public_key().into(),
            epoch: 12,
            groups: Vec::new(),
            accused: Vec::new(),
            version: "0.1.0".into(),
            sequence: 3456,
            unsteady: false,
            doubled: false,
            leaving: false,
            addresses: vec!["/ip4/10.20.30.40/tcp/7411".into()],
            signed_at: UnixSeconds(1_795_471_805),
        };
        let signed = Signed::new(&record, fleet, &[&key]).unwrap();
        let encoded = |records| cbor::encode(&Message::Records(records));
        let read = |records| cbor::decode(&encoded(records), MESSAGE_BYTES_MAX);
        assert_eq!(read(vec![signed.clone()]), Ok(Message::Records(vec![signed.clone()])));
        assert!(signed.verify_host(fleet).is_ok());

        let takes = encoded(vec![signed.clone(); 2]).len() - encoded(vec![signed.clone()]).len();
        assert!(takes + 80 <= signed.to_bytes().len(), "{takes} bytes");
        assert!(signed.bare_bytes().abs_diff(takes) <= 2, "{takes} bytes");

        // What others have signed as well is nobody's concern, whichever comes first.
        for other in 8..16 {
            let mut signed = signed.clone();
            signed.add_signature(fleet, &SecretKey::from_seed(&[other; 32])).unwrap();
            let Ok(Message::Records(read)) = read(vec![signed.clone()]) else { panic!("it reads") };
            assert!(read[0].verify_host(fleet).is_ok());
        }
    }

    #[test]
    fn a_version_takes_fifteen_bytes() {
        let one = |count| {
            cbor::encode(&Message::Offer(vec![RecordVersion(ShortId([1; 8]), 3, 1000); count]))
                .len()
        };
        assert_eq!(one(2) - one(1), 14);
    }
}
