//! Who gets in: the judgement that the mesh asks for before it hands a connection up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use groundswell_protocol::{
    ids::{Digest, HostId},
    trust::{MemberCert, Trust},
    wire::{Hello, PROTOCOL, Welcome},
};
use tokio::sync::mpsc;

use crate::{
    clock::Clock,
    mesh::{Gatekeeper, Verdict},
};

/// Judges certificates by the trust in force and by the newest roster.
pub(super) struct Gate {
    trust: Arc<Trust>,
    clock: Clock,
    roster: RwLock<Roster>,
    applicants: mpsc::Sender<MemberCert>,
}

/// What the engine tells the gate.
pub(super) struct Roster {
    /// This host's certificate.
    pub(super) cert: MemberCert,
    /// Certificates that the ledger holds.
    pub(super) admitted: BTreeSet<Digest>,
    /// Certificates that the voters refused, and why.
    pub(super) refused: BTreeMap<Digest, String>,
    /// What other hosts said when they turned this one away.
    pub(super) turned_away: Option<String>,
}

impl Gate {
    pub(super) fn new(
        trust: Arc<Trust>,
        clock: Clock,
        cert: MemberCert,
        applicants: mpsc::Sender<MemberCert>,
    ) -> Self {
        let (admitted, refused) = (BTreeSet::new(), BTreeMap::new());
        let roster = RwLock::new(Roster { cert, admitted, refused, turned_away: None });
        Self { trust, clock, roster, applicants }
    }

    /// Changes the roster.
    pub(super) fn update(&self, change: impl FnOnce(&mut Roster)) {
        // A panic elsewhere cannot leave the roster half changed: it is only ever replaced whole.
        change(&mut self.roster.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reads the roster.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Roster) -> T) -> T {
        look(&self.roster.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gatekeeper for Gate {
    fn my_cert(&self) -> MemberCert {
        self.read(|roster| roster.cert.clone())
    }

    fn judge(&self, peer: HostId, hello: &Hello) -> Verdict {
        if hello.protocol != PROTOCOL {
            return Verdict::Refuse(format!(
                "speaks protocol {}; this host speaks {PROTOCOL}: update the older of the two",
                hello.protocol
            ));
        }
        let now = self.clock.wall();
        let member = match hello.cert.verify_signatures(&self.trust) {
            Ok(member) => member,
            Err(error) => return Verdict::Refuse(error.to_string()),
        };
        if member.content().host != peer {
            return Verdict::Refuse("the certificate is another host's".into());
        }
        let id = member.id();
        // A member whose certificate has expired still hears stops and tells how it is.
        if self.read(|roster| roster.admitted.contains(&id)) {
            return Verdict::Admit(Arc::new(member));
        }
        if let Err(error) = hello.cert.verify_uncounted(&self.trust, now) {
            return Verdict::Refuse(error.to_string());
        }
        // Before a ledger is here a whole certificate is enough, or nobody would bring one; and the
        // first voters need no ledger. After that it is the ledger that says who belongs.
        let young = self.read(|roster| roster.admitted.is_empty());
        let voter = self.trust.genesis().is_voter(peer);
        if (young || voter) && hello.cert.verify(&self.trust, now).is_ok() {
            return Verdict::Admit(Arc::new(member));
        }
        if let Some(reason) = self.read(|roster| roster.refused.get(&id).cloned()) {
            return Verdict::Refuse(reason);
        }
        // A full queue means that many are before this one; it will try again.
        drop(self.applicants.try_send(hello.cert.clone()));
        Verdict::Pending
    }

    fn outcome_at(&self, peer: HostId, welcome: &Welcome) {
        let said = match welcome {
            Welcome::Admitted => None,
            Welcome::Pending => Some("waits to be counted by the voters".to_owned()),
            Welcome::Refused(reason) => {
                tracing::warn!(peer = peer.short(), %reason, "turned away; see `swell status`");
                Some(reason.clone())
            }
        };
        self.update(|roster| roster.turned_away = said);
    }
}
