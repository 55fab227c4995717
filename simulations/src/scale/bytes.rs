//! How long messages are on the wire: as the real encoding writes them, and what carries them.

use groundswell_protocol::{
    cbor,
    fleet::{Accusation, GroupStatus, HostState, Record, Say},
    ids::{Digest, FleetId, GroupName, HostId, ReleaseLabel, ShortId},
    time::UnixSeconds,
    trust::{SecretKey, Signed, Signer},
    wire::{Message, RecordBucket, RecordVersion, TreeHash},
};

use super::host::Shared;

/// A frame's length, Yamux's header, Noise's length and tag, and a TCP segment over IPv4 with time
/// stamps: what every message is charged with, as if none ever shared a segment.
pub(super) const CARRIAGE: usize = 4 + 12 + 18 + 52;

/// Lengths that were measured once, on real messages.
#[derive(Clone, Debug)]
pub(super) struct Bytes {
    pub(super) heartbeat: usize,
    pub(super) neighbour: usize,
    pub(super) record: usize,
    pub(super) accusation: usize,
    list: usize,
    version: usize,
    short: usize,
    node: usize,
    bucket: usize,
}

impl Bytes {
    /// Encodes one of each.
    pub(super) fn measure() -> Self {
        let length = |message: &Message| cbor::encode(message).len();
        let version = RecordVersion(ShortId([9; 8]), 12, 3456);
        let offer = |count| length(&Message::Offer(vec![version; count]));
        let ask = |count| length(&Message::WantRecords(vec![ShortId([9; 8]); count]));
        let tree = |count| length(&Message::RecordTree(vec![TreeHash(200, [9; 16]); count]));
        let buckets =
            |count| length(&Message::RecordBuckets(vec![RecordBucket(200, Vec::new()); count]));
        let records = |accused, count| length(&Message::Records(vec![record(accused); count]));
        let record = |accused| records(accused, 2) - records(accused, 1);
        Self {
            heartbeat: CARRIAGE + length(&Message::Heartbeat),
            neighbour: CARRIAGE + length(&Message::Neighbour(true)),
            record: record(0),
            accusation: record(1) - record(0),
            list: CARRIAGE + offer(1) - (offer(2) - offer(1)) + 2,
            version: offer(2) - offer(1),
            short: ask(2) - ask(1),
            node: tree(2) - tree(1),
            bucket: buckets(2) - buckets(1) + 2,
        }
    }

    /// A message as it travels.
    pub(super) fn of(&self, said: &Say<Shared>) -> usize {
        let content = match said {
            Say::Offer(versions) => versions.len() * self.version,
            Say::Ask(hosts) => hosts.len() * self.short,
            Say::Give(records) => records.iter().map(|(_, record)| record.bytes).sum(),
            Say::Nodes(nodes) => nodes.len() * self.node,
            Say::Buckets(buckets) => {
                let versions: usize = buckets.iter().map(|(_, versions)| versions.len()).sum();
                buckets.len() * self.bucket + versions * self.version
            }
        };
        self.list + content
    }
}

/// A record as hosts in a rollout sign them: one group, two addresses.
fn record(accusations: u8) -> Signed<Record> {
    let key = SecretKey::from_seed(&[7; 32]);
    let accused = (0..accusations)
        .map(|n| Accusation { host: HostId([n; 32]), epoch: 12, sequence: 3456 })
        .collect();
    let group = GroupStatus {
        group: GroupName::new("web-frontend").expect("a name"),
        order: Some(Digest([1; 32])),
        state: HostState::Watching,
        token: Some(123_456),
        release: Some((Digest([2; 32]), ReleaseLabel::new("1.42.7").expect("a label"))),
    };
    let record = Record {
        host: key.public_key().into(),
        epoch: 12,
        groups: vec![group],
        accused,
        version: "0.1.0".into(),
        unsteady: false,
        doubled: false,
        leaving: false,
        sequence: 3456,
        addresses: vec!["/ip4/10.20.30.40/tcp/7411".into(), "/ip6/fd00::1:2/tcp/7411".into()],
        signed_at: UnixSeconds(1_795_471_805),
    };
    Signed::new(&record, FleetId([3; 32]), &[&key]).expect("a key in memory signs")
}
