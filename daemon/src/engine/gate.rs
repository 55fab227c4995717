//! Who gets in: the judgement that the mesh asks for before it hands a connection up.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use groundswell_protocol::{
    ids::{Digest, HostId},
    limits::VOTER_LISTS_PER_MESSAGE_MAX,
    trust::{Electorate, MemberCert, Trust},
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
    /// Who votes, as far as this host knows.
    pub(super) electorate: Electorate,
    /// The hosts that the ledger counts, and by which certificate.
    pub(super) admitted: BTreeMap<HostId, Digest>,
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
        let (admitted, refused) = (BTreeMap::new(), BTreeMap::new());
        let electorate = Electorate::of(&trust);
        let roster = Roster { cert, electorate, admitted, refused, turned_away: None };
        let roster = RwLock::new(roster);
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

    /// The voters are to count a certificate. A full queue means that many are before this one; it will
    /// try again.
    fn applies(&self, hello: &Hello) {
        drop(self.applicants.try_send(hello.cert.clone()));
    }
}

impl Gatekeeper for Gate {
    fn hello(&self, epoch: u64) -> Hello {
        let first = self.trust.genesis().generation;
        self.read(|roster| {
            let lists = roster.electorate.after(first).iter().take(VOTER_LISTS_PER_MESSAGE_MAX);
            let voter_lists = lists.cloned().collect();
            Hello { cert: roster.cert.clone(), epoch, protocol: PROTOCOL, voter_lists }
        })
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
        let refused = self.read(|roster| roster.refused.get(&id).cloned());
        // A member whose certificate has expired still hears stops and tells how it is. One with an old
        // certificate hears of the one that counts, and a newer one is for the voters to see.
        if let Some(counted) = self.read(|roster| roster.admitted.get(&peer).copied()) {
            if counted != id && refused.is_none() {
                self.applies(hello);
            }
            return Verdict::Admit(Arc::new(member));
        }
        if let Err(error) = hello.cert.verify_uncounted(&self.trust, now) {
            return Verdict::Refuse(error.to_string());
        }
        // Before a ledger is here a whole certificate is enough, or nobody would bring one; and voters
        // need no ledger, since the lists vouch for their keys: this host may have been away for long.
        // After that it is the ledger that says who belongs.
        let young = self.read(|roster| roster.admitted.is_empty());
        let mut electorate = self.read(|roster| roster.electorate.clone());
        electorate.extend_by(&self.trust, &hello.voter_lists);
        let voter = self.trust.genesis().names(peer) || electorate.newest().is_voter(peer);
        if (young || voter) && hello.cert.verify(&self.trust, &electorate, now).is_ok() {
            return Verdict::Admit(Arc::new(member));
        }
        if let Some(reason) = refused {
            return Verdict::Refuse(reason);
        }
        self.applies(hello);
        Verdict::Pending
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

#[cfg(test)]
mod tests {
    use groundswell_protocol::{
        ids::{FleetName, HostName, Labels},
        time::UnixSeconds,
        trust::{
            Genesis, Member, Role, Roles, Root, SecretKey, Signed, Signer, Token, TrustBundle,
            Voter, VoterList,
        },
    };

    use super::*;

    fn key(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    fn host(number: u8) -> HostId {
        key(number).public_key().into()
    }

    /// A gate of host 10, which is the only voter, and what it hands on to the voters.
    fn gate() -> (Gate, mpsc::Receiver<MemberCert>, Arc<Trust>) {
        let role =
            |n| Role { keys: vec![key(n).public_key()], threshold: std::num::NonZeroU8::MIN };
        let root = Root {
            name: FleetName::new("test").unwrap(),
            roles: Roles { root: role(1), release: role(2), operator: role(3), enrolment: role(4) },
            version: 1,
            review_by: UnixSeconds(u64::MAX),
        };
        let voters = vec![Voter { host: host(10), name: HostName::new("v").unwrap() }];
        let genesis = Genesis { voters, generation: 0 };
        let (fleet, bundle) = TrustBundle::found(&root, &genesis, &[&key(1)]).unwrap();
        let trust = Arc::new(Trust::new(bundle, Some(fleet)).unwrap());
        let (applicants_in, applicants) = mpsc::channel(1);
        let mine = cert(&trust, 10, u64::MAX);
        (Gate::new(trust.clone(), Clock::start(), mine, applicants_in), applicants, trust)
    }

    /// A certificate by a token that anybody may use any number of times.
    fn cert(trust: &Trust, number: u8, not_after: u64) -> MemberCert {
        let token = Token {
            key: key(20).public_key(),
            uses: None,
            zone: None,
            labels: Labels::default(),
            not_after: UnixSeconds(u64::MAX),
            name_pattern: "*".into(),
            member_seconds: 0,
        };
        let member = Member {
            host: host(number),
            name: HostName::new(format!("h{number}")).unwrap(),
            zone: None,
            labels: Labels::default(),
            not_after: UnixSeconds(not_after),
            incarnation: 0,
        };
        MemberCert {
            token: Some(Signed::new(&token, trust.fleet(), &[&key(4)]).unwrap()),
            member: Signed::new(&member, trust.fleet(), &[&key(20)]).unwrap(),
            receipts: Vec::new(),
        }
    }

    fn judge(gate: &Gate, number: u8, cert: &MemberCert) -> &'static str {
        let (cert, voter_lists) = (cert.clone(), Vec::new());
        let hello = Hello { cert, epoch: 1, protocol: PROTOCOL, voter_lists };
        match gate.judge(host(number), &hello) {
            Verdict::Admit(_) => "admit",
            Verdict::Pending => "pending",
            Verdict::Refuse(_) => "refuse",
        }
    }

    #[test]
    fn before_a_ledger_is_here_a_good_certificate_is_enough() {
        let (gate, _applicants, trust) = gate();
        let good = cert(&trust, 30, u64::MAX);
        assert_eq!(judge(&gate, 30, &good), "admit");
        assert_eq!(judge(&gate, 31, &good), "refuse", "it is another host's");
        assert_eq!(judge(&gate, 30, &cert(&trust, 30, 1)), "refuse", "its time is over");
    }

    #[test]
    fn who_votes_now_is_let_in_by_a_host_that_was_away() {
        let (gate, _applicants, trust) = gate();
        gate.update(|roster| roster.admitted.extend([(host(9), Digest([9; 32]))]));
        let newcomer = cert(&trust, 30, u64::MAX);
        assert_eq!(judge(&gate, 30, &newcomer), "pending", "this ledger knows nothing of it");
        let name = |name| HostName::new(name).unwrap();
        let mut voters = vec![
            Voter { host: host(10), name: name("v") },
            Voter { host: host(30), name: name("h30") },
        ];
        voters.sort();
        let parent = trust.genesis_id();
        let list = VoterList { base: None, seats: 3, parent, voters, generation: 1 };
        let with = |by| {
            let lists = vec![Signed::new(&list, trust.fleet(), &[&key(by)]).unwrap()];
            let (cert, epoch) = (newcomer.clone(), 1);
            let hello = Hello { cert, epoch, protocol: PROTOCOL, voter_lists: lists };
            matches!(gate.judge(host(30), &hello), Verdict::Admit(_))
        };
        assert!(!with(30), "it does not say so itself");
        assert!(with(10));
    }

    #[test]
    fn once_there_is_a_ledger_it_says_who_belongs() {
        let (gate, mut applicants, trust) = gate();
        let (member, stranger) = (cert(&trust, 30, 1), cert(&trust, 31, u64::MAX));
        let id = member.member.id(trust.fleet());
        gate.update(|roster| roster.admitted.extend([(host(30), id)]));
        assert_eq!(judge(&gate, 30, &member), "admit", "expired, and a member all the same");
        assert!(applicants.try_recv().is_err(), "it counts already");
        let another = cert(&trust, 30, 2);
        assert_eq!(judge(&gate, 30, &another), "admit", "the host is a member by another one");
        assert_eq!(applicants.try_recv().unwrap(), another, "it may be newer");
        let id = another.member.id(trust.fleet());
        gate.update(|roster| roster.refused.extend([(id, "not newer".into())]));
        assert_eq!(judge(&gate, 30, &another), "admit", "the key is in the fleet");
        assert!(applicants.try_recv().is_err(), "the voters have seen it");
        assert_eq!(judge(&gate, 31, &stranger), "pending");
        assert_eq!(applicants.try_recv().unwrap(), stranger, "the voters are asked");
        let id = stranger.member.id(trust.fleet());
        gate.update(|roster| roster.refused.extend([(id, "used up".into())]));
        assert_eq!(judge(&gate, 31, &stranger), "refuse");
        assert_eq!(judge(&gate, 10, &cert(&trust, 10, u64::MAX)), "admit", "a first voter");
    }
}
