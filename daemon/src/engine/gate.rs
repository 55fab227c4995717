//! Who gets in: what the engine tells the gate, and what the gate tells the mesh and the voters.

use std::sync::{Arc, PoisonError, RwLock};

use groundswell_protocol::{
    gate::{self, Verdict},
    ids::HostId,
    limits::VOTER_LISTS_PER_MESSAGE_MAX,
    trust::MemberCert,
    wire::{Hello, PROTOCOL, Welcome},
};
use tokio::sync::mpsc;

use crate::{clock::Clock, mesh::Gatekeeper};

/// Judges certificates by the newest that the engine knows.
pub(super) struct Gate {
    clock: Clock,
    roster: RwLock<Roster>,
    applicants: mpsc::Sender<MemberCert>,
}

/// What the engine tells the gate.
pub(super) struct Roster {
    /// This host's certificate.
    pub(super) cert: MemberCert,
    /// Who may connect. It is replaced as a whole.
    pub(super) gate: Arc<gate::Gate>,
    /// What other hosts said when they turned this one away.
    pub(super) turned_away: Option<String>,
}

impl Gate {
    pub(super) fn new(
        gate: gate::Gate,
        clock: Clock,
        cert: MemberCert,
        applicants: mpsc::Sender<MemberCert>,
    ) -> Self {
        let roster = RwLock::new(Roster { cert, gate: Arc::new(gate), turned_away: None });
        Self { clock, roster, applicants }
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
    fn hello(&self, epoch: u64) -> Hello {
        self.read(|roster| {
            let first = roster.gate.trust.genesis().generation;
            let lists = roster.gate.electorate.after(first).iter();
            let voter_lists = lists.take(VOTER_LISTS_PER_MESSAGE_MAX).cloned().collect();
            Hello { cert: roster.cert.clone(), epoch, protocol: PROTOCOL, voter_lists }
        })
    }

    fn judge(&self, peer: HostId, hello: &Hello) -> Verdict {
        // Signatures are checked without the lock: others come and go meanwhile.
        let gate = self.read(|roster| roster.gate.clone());
        let verdict = gate.judge(self.clock.wall(), peer, hello);
        if matches!(verdict, Verdict::AdmitAndApply | Verdict::Pending) {
            // A full queue means that many are before this one; it will try again.
            drop(self.applicants.try_send(hello.cert.clone()));
        }
        verdict
    }

    fn outcome_at(&self, peer: HostId, welcome: &Welcome) {
        let said = match welcome {
            Welcome::Admitted => None,
            Welcome::Pending => Some("waits to be counted by the voters".to_owned()),
            Welcome::Refused(reason) => {
                // It is tried again and again; once is enough to say so.
                if self.read(|roster| roster.turned_away.as_ref() != Some(reason)) {
                    tracing::warn!(peer = peer.short(), %reason, "turned away; see `swell status`");
                }
                Some(reason.clone())
            }
        };
        self.update(|roster| roster.turned_away = said);
    }
}
