//! The newest record of every host, as far as it has come here.

use std::collections::BTreeMap;

use thiserror::Error;

use super::record::Record;
use crate::{
    ids::{FleetId, HostId},
    limits::HOSTS_MAX,
    time::Mono,
    trust::{Signed, Untrusted, Verified},
    wire::RecordVersion,
};

/// What became of a record that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It replaced an older one, or is the first of its host: pass it on.
    New,
    /// It is the one that was here.
    Same,
    /// A newer one was here.
    Old,
}

/// Why a record was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordRefused {
    /// It is not signed by the host that it names, or breaks a rule.
    #[error("the record {0}")]
    Untrusted(#[from] Untrusted),
    /// The host that it names is nobody here.
    #[error("host {0} is no member of the fleet")]
    NoMember(String),
    /// There is no room for another host.
    #[error("records of {HOSTS_MAX} hosts are here, the most that this version is built for")]
    Full,
}

/// The newest record of every host.
#[derive(Debug)]
pub struct View {
    me: HostId,
    fleet: FleetId,
    records: BTreeMap<HostId, Held>,
}

#[derive(Debug)]
struct Held {
    record: Verified<Record>,
    /// When it came, by this host's clock.
    came_at: Mono,
}

impl View {
    /// An empty view of `fleet`, on the host `me`.
    pub fn new(me: HostId, fleet: FleetId) -> Self {
        Self { me, fleet, records: BTreeMap::new() }
    }

    /// Verifies a record and keeps it if it is the newest of its host.
    pub fn insert(
        &mut self,
        now: Mono,
        signed: &Signed<Record>,
        is_member: impl Fn(HostId) -> bool,
    ) -> Result<Inserted, RecordRefused> {
        let record = signed.verify_host(self.fleet)?;
        let host = record.content().host;
        if !is_member(host) {
            return Err(RecordRefused::NoMember(host.short()));
        }
        let version = version_of(record.content());
        match self.get(host).map(version_of) {
            Some(held) if held == version => return Ok(Inserted::Same),
            Some(held) if held > version => return Ok(Inserted::Old),
            None if self.records.len() >= HOSTS_MAX => return Err(RecordRefused::Full),
            _ => {}
        }
        self.records.insert(host, Held { record, came_at: now });
        Ok(Inserted::New)
    }

    /// How new each record is.
    pub fn versions(&self) -> Vec<RecordVersion> {
        let versions = self.iter().map(|record| RecordVersion {
            host: record.host,
            epoch: record.epoch,
            sequence: record.sequence,
        });
        versions.collect()
    }

    /// Compares with what a peer has: the hosts of which the newer record is here, and those of
    /// which it is there.
    pub fn compare(&self, theirs: &[RecordVersion]) -> (Vec<HostId>, Vec<HostId>) {
        let theirs: BTreeMap<_, _> =
            theirs.iter().take(HOSTS_MAX).map(|v| (v.host, (v.epoch, v.sequence))).collect();
        let newer_here = self.iter().filter(|record| {
            theirs.get(&record.host).is_none_or(|there| *there < version_of(record))
        });
        let newer_there = theirs.iter().filter(|(host, there)| {
            **host != self.me && self.get(**host).is_none_or(|record| version_of(record) < **there)
        });
        (newer_here.map(|record| record.host).collect(), newer_there.map(|(h, _)| *h).collect())
    }

    /// A host's newest record.
    pub fn get(&self, host: HostId) -> Option<&Record> {
        self.records.get(&host).map(|held| held.record.content())
    }

    /// The same in its signed form, to pass on.
    pub fn signed(&self, host: HostId) -> Option<&Signed<Record>> {
        self.records.get(&host).map(|held| held.record.signed())
    }

    /// When a host's newest record came.
    pub fn heard(&self, host: HostId) -> Option<Mono> {
        self.records.get(&host).map(|held| held.came_at)
    }

    /// All newest records, sorted by host.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values().map(|held| held.record.content())
    }
}

/// What decides which of two records of a host is newer.
pub(super) fn version_of(record: &Record) -> (u64, u64) {
    (record.epoch, record.sequence)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        fleet::Accusation,
        ids::Digest,
        time::UnixSeconds,
        trust::{SecretKey, Signer},
    };

    pub(in crate::fleet) const FLEET: FleetId = FleetId([1; 32]);

    pub(in crate::fleet) fn host(number: u8) -> HostId {
        SecretKey::from_seed(&[number; 32]).public_key().into()
    }

    pub(in crate::fleet) fn record(
        number: u8,
        version: (u64, u64),
        accused: &[Accusation],
    ) -> Signed<Record> {
        let mut accused = accused.to_vec();
        accused.sort();
        let record = Record {
            host: host(number),
            epoch: version.0,
            groups: Vec::new(),
            accused,
            version: "test".into(),
            sequence: version.1,
            addresses: Vec::new(),
            signed_at: UnixSeconds(0),
        };
        Signed::new(&record, FLEET, &[&SecretKey::from_seed(&[number; 32])]).unwrap()
    }

    fn view() -> View {
        View::new(host(1), FLEET)
    }

    #[test]
    fn the_newest_by_epoch_then_sequence_is_kept() {
        let mut view = view();
        let mut insert = |version| view.insert(Mono(1), &record(2, version, &[]), |_| true);
        assert_eq!(insert((1, 5)), Ok(Inserted::New));
        assert_eq!(insert((1, 4)), Ok(Inserted::Old));
        assert_eq!(insert((1, 5)), Ok(Inserted::Same));
        assert_eq!(insert((2, 1)), Ok(Inserted::New));
        assert_eq!(insert((1, 9)), Ok(Inserted::Old));
        assert_eq!(version_of(view.get(host(2)).unwrap()), (2, 1));
    }

    #[test]
    fn strangers_and_forgeries_are_refused() {
        let mut view = view();
        let signed = record(2, (1, 1), &[]);
        assert!(matches!(
            view.insert(Mono(0), &signed, |_| false),
            Err(RecordRefused::NoMember(_))
        ));
        // Host 3 signs what host 2 says.
        let content =
            Record { host: host(2), ..signed.verify_host(FLEET).unwrap().content().clone() };
        let forged = Signed::new(&content, FLEET, &[&SecretKey::from_seed(&[3; 32])]).unwrap();
        let refused = view.insert(Mono(0), &forged, |_| true);
        assert!(matches!(refused, Err(RecordRefused::Untrusted(_))), "{refused:?}");
        let elsewhere = Signed::new(&content, FleetId([2; 32]), &[&SecretKey::from_seed(&[2; 32])]);
        assert!(view.insert(Mono(0), &elsewhere.unwrap(), |_| true).is_err());
        assert_eq!(view.iter().count(), 0);
    }

    #[test]
    fn two_views_find_out_what_either_lacks() {
        let (mut here, mut there) = (view(), View::new(host(9), FLEET));
        for (number, a, b) in [(2, Some(1), Some(2)), (3, Some(2), Some(1)), (4, Some(1), None)] {
            for (view, sequence) in [(&mut here, a), (&mut there, b)] {
                let Some(sequence) = sequence else { continue };
                view.insert(Mono(0), &record(number, (1, sequence), &[]), |_| true).unwrap();
            }
        }
        let (newer_here, newer_there) = here.compare(&there.versions());
        let mut expected = vec![host(3), host(4)];
        expected.sort();
        assert_eq!(newer_here, expected);
        assert_eq!(newer_there, [host(2)]);
        let nobody = RecordVersion { host: HostId(Digest::ZERO.0), epoch: 1, sequence: 1 };
        assert_eq!(here.compare(&[nobody]).1, [nobody.host]);
    }
}
