//! The newest record of every host, as far as it has come here, with the signatures to pass on.

use thiserror::Error;

use super::{
    record::Record,
    records::{Records, Statement, Version},
    roster::{Number, Roster},
};
use crate::{
    ids::{FleetId, HostId},
    limits::HOSTS_MAX,
    time::Mono,
    trust::{Signed, Untrusted, Verified},
};

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

/// A verified record as it is kept.
#[derive(Clone, Debug)]
pub struct Held {
    record: Verified<Record>,
    /// When it came, by this host's clock.
    came_at: Mono,
}

impl Held {
    /// True of another record under the same number: no host that has its key for itself signs two.
    pub fn is_fork_of(&self, other: &Self) -> bool {
        self.version() == other.version() && self.record.id() != other.record.id()
    }

    /// What it says.
    pub fn record(&self) -> &Record {
        self.record.content()
    }

    /// The same in its signed form, to pass on.
    pub fn signed(&self) -> &Signed<Record> {
        self.record.signed()
    }
}

impl Statement for Held {
    fn version(&self) -> Version {
        self.record().version()
    }

    fn bytes(&self) -> usize {
        self.signed().bare_bytes()
    }
}

/// The roster and the newest record of every host.
#[derive(Debug)]
pub struct View {
    me: Number,
    fleet: FleetId,
    /// Who is in the fleet.
    pub roster: Roster,
    /// What they say.
    pub records: Records<Held>,
}

impl View {
    /// An empty view of `fleet`, on the host `me`.
    pub fn new(me: HostId, fleet: FleetId) -> Self {
        let mut roster = Roster::new();
        // An empty roster has room for the first one.
        let me = roster.know(me).unwrap_or_else(|| unreachable!("an empty roster is not full"));
        Self { me, fleet, roster, records: Records::new() }
    }

    /// This host.
    pub fn me(&self) -> Number {
        self.me
    }

    /// Verifies a record, for the one who keeps it.
    pub fn verify(
        &mut self,
        now: Mono,
        signed: &Signed<Record>,
        is_member: impl Fn(HostId) -> bool,
    ) -> Result<(Number, Held), RecordRefused> {
        let record = signed.verify_host(self.fleet)?;
        let host = record.content().host;
        if !is_member(host) {
            return Err(RecordRefused::NoMember(host.short()));
        }
        let number = self.roster.know(host).ok_or(RecordRefused::Full)?;
        if self.records.get(number).is_none() && self.records.len() >= HOSTS_MAX {
            return Err(RecordRefused::Full);
        }
        Ok((number, Held { record, came_at: now }))
    }

    fn held(&self, host: HostId) -> Option<&Held> {
        self.records.get(self.roster.number(host)?)
    }

    /// A host's newest record.
    pub fn get(&self, host: HostId) -> Option<&Record> {
        self.held(host).map(Held::record)
    }

    /// A host's newest record as it was verified.
    pub fn verified(&self, host: HostId) -> Option<&Verified<Record>> {
        self.held(host).map(|held| &held.record)
    }

    /// When a host's newest record came.
    pub fn heard(&self, host: HostId) -> Option<Mono> {
        self.held(host).map(|held| held.came_at)
    }

    /// All newest records.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().map(Held::record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fleet::{Accusation, Inserted},
        time::UnixSeconds,
        trust::{SecretKey, Signer},
    };

    const FLEET: FleetId = FleetId([1; 32]);

    fn host(number: u8) -> HostId {
        SecretKey::from_seed(&[number; 32]).public_key().into()
    }

    fn record(number: u8, version: (u64, u64), accused: &[Accusation]) -> Signed<Record> {
        let mut accused = accused.to_vec();
        accused.sort();
        let record = Record {
            host: host(number),
            epoch: version.0,
            groups: Vec::new(),
            accused,
            version: "test".into(),
            unsteady: false,
            doubled: false,
            leaving: false,
            sequence: version.1,
            addresses: Vec::new(),
            signed_at: UnixSeconds(0),
        };
        Signed::new(&record, FLEET, &[&SecretKey::from_seed(&[number; 32])]).unwrap()
    }

    fn view() -> View {
        View::new(host(1), FLEET)
    }

    fn insert(view: &mut View, signed: &Signed<Record>) -> Result<Inserted, RecordRefused> {
        let (number, held) = view.verify(Mono(0), signed, |_| true)?;
        Ok(view.records.put(&view.roster, number, held))
    }

    #[test]
    fn the_newest_by_epoch_then_sequence_is_kept() {
        let mut view = view();
        let mut put = |version| insert(&mut view, &record(2, version, &[]));
        assert_eq!(put((1, 5)), Ok(Inserted::New));
        assert_eq!(put((1, 4)), Ok(Inserted::Old));
        assert_eq!(put((1, 5)), Ok(Inserted::Same));
        assert_eq!(put((2, 1)), Ok(Inserted::New));
        assert_eq!(put((1, 9)), Ok(Inserted::Old));
        let newest = view.get(host(2)).unwrap().version();
        assert_eq!(newest, Version { epoch: 2, sequence: 1 });
        assert_eq!(view.records.len(), 1);
    }

    #[test]
    fn strangers_and_forgeries_are_refused() {
        let mut view = view();
        let signed = record(2, (1, 1), &[]);
        assert!(matches!(
            view.verify(Mono(0), &signed, |_| false),
            Err(RecordRefused::NoMember(_))
        ));
        // Host 3 signs what host 2 says.
        let content =
            Record { host: host(2), ..signed.verify_host(FLEET).unwrap().content().clone() };
        let forged = Signed::new(&content, FLEET, &[&SecretKey::from_seed(&[3; 32])]).unwrap();
        let refused = view.verify(Mono(0), &forged, |_| true);
        assert!(matches!(refused, Err(RecordRefused::Untrusted(_))), "{refused:?}");
        let elsewhere = Signed::new(&content, FleetId([2; 32]), &[&SecretKey::from_seed(&[2; 32])]);
        assert!(view.verify(Mono(0), &elsewhere.unwrap(), |_| true).is_err());
        assert_eq!(view.iter().count(), 0);
        assert_eq!(view.roster.len(), 1, "nobody is kept in mind for it");
    }
}
