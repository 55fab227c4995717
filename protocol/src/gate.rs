//! Who gets in: the judgement that is asked for before a connection is handed up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    ids::{Digest, HostId},
    time::UnixSeconds,
    trust::{Electorate, Trust},
    wire::{Hello, PROTOCOL},
};

/// Judges certificates by the trust in force and by what is known of the ledger.
pub struct Gate {
    /// What this host believes.
    pub trust: Arc<Trust>,
    /// Who votes, as far as this host knows.
    pub electorate: Electorate,
    /// The hosts that the ledger counts, and by which certificate.
    pub admitted: BTreeMap<HostId, Digest>,
    /// Certificates that the voters refused, and why.
    pub refused: BTreeMap<Digest, String>,
    /// Keys that belong to the fleet no more, as far as is known here: that of a first voter, which genesis names
    /// for ever, among them.
    pub removed: BTreeSet<HostId>,
}

/// A judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may connect.
    Admit,
    /// It may connect, and the voters are to see its certificate: it may be newer than the one that counts.
    AdmitAndApply,
    /// Not yet: the voters are to count it first, and the uses of its token.
    Pending,
    /// It may not.
    Refuse(String),
}

impl Gate {
    /// The gate of a host that knows no ledger yet.
    pub fn new(trust: Arc<Trust>) -> Self {
        let (admitted, refused, removed) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { electorate: Electorate::of(&trust), trust, admitted, refused, removed }
    }

    /// Judges a peer whose connection proves that it has the key `peer`.
    pub fn judge(&self, now: UnixSeconds, peer: HostId, hello: &Hello) -> Verdict {
        if hello.protocol != PROTOCOL {
            return Verdict::Refuse(format!(
                "speaks protocol {}; this host speaks {PROTOCOL}: update the older of the two",
                hello.protocol
            ));
        }
        let member = match hello.cert.verify_signatures(&self.trust) {
            Ok(member) => member,
            Err(error) => return Verdict::Refuse(error.to_string()),
        };
        if member.content().host != peer {
            return Verdict::Refuse("the certificate is another host's".into());
        }
        if self.removed.contains(&peer) {
            let name = &member.content().name;
            return Verdict::Refuse(format!("the key of {name} was removed from the fleet"));
        }
        let id = member.id();
        let refused = self.refused.get(&id);
        // A member whose certificate has expired still hears stops and tells how it is. One with an old
        // certificate hears of the one that counts, and a newer one is for the voters to see.
        if let Some(counted) = self.admitted.get(&peer) {
            let is_news = *counted != id && refused.is_none();
            return if is_news { Verdict::AdmitAndApply } else { Verdict::Admit };
        }
        if let Err(error) = hello.cert.verify_uncounted(&self.trust, now) {
            return Verdict::Refuse(error.to_string());
        }
        // Before a ledger is here a whole certificate is enough, or nobody would bring one; and voters
        // need no ledger, since the lists vouch for their keys: this host may have been away for long.
        // After that it is the ledger that says who belongs.
        let young = self.admitted.is_empty();
        let mut electorate = self.electorate.clone();
        electorate.extend_by(&self.trust, &hello.voter_lists);
        let voter = self.trust.genesis().names(peer) || electorate.newest().is_voter(peer);
        if (young || voter) && hello.cert.verify(&self.trust, &electorate, now).is_ok() {
            return Verdict::Admit;
        }
        refused.map_or(Verdict::Pending, |reason| Verdict::Refuse(reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{FleetName, HostName, Labels},
        trust::{
            Genesis, Member, MemberCert, Role, Roles, Root, SecretKey, Signed, Signer, Token,
            TrustBundle, Voter, VoterList,
        },
    };

    fn key(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    fn host(number: u8) -> HostId {
        key(number).public_key().into()
    }

    /// The gate of a fleet of which host 10 is the only voter.
    fn gate() -> Gate {
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
        Gate::new(Arc::new(Trust::new(bundle, Some(fleet)).unwrap()))
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
        match gate.judge(NOW, host(number), &hello) {
            Verdict::Admit => "admit",
            Verdict::AdmitAndApply => "admit and apply",
            Verdict::Pending => "pending",
            Verdict::Refuse(_) => "refuse",
        }
    }

    #[test]
    fn before_a_ledger_is_here_a_good_certificate_is_enough() {
        let gate = gate();
        let trust = gate.trust.clone();
        let good = cert(&trust, 30, u64::MAX);
        assert_eq!(judge(&gate, 30, &good), "admit");
        assert_eq!(judge(&gate, 31, &good), "refuse", "it is another host's");
        assert_eq!(judge(&gate, 30, &cert(&trust, 30, 1)), "refuse", "its time is over");
    }

    #[test]
    fn who_votes_now_is_let_in_by_a_host_that_was_away() {
        let mut gate = gate();
        let trust = gate.trust.clone();
        gate.admitted.insert(host(9), Digest([9; 32]));
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
            gate.judge(NOW, host(30), &hello) == Verdict::Admit
        };
        assert!(!with(30), "it does not say so itself");
        assert!(with(10));
    }

    #[test]
    fn who_was_removed_stays_out_though_genesis_names_it() {
        let mut gate = gate();
        let first = cert(&gate.trust, 10, u64::MAX);
        gate.admitted.insert(host(30), Digest([30; 32]));
        assert_eq!(judge(&gate, 10, &first), "admit", "lists may vouch for it");
        gate.removed.insert(host(10));
        assert_eq!(judge(&gate, 10, &first), "refuse");
    }

    #[test]
    fn once_there_is_a_ledger_it_says_who_belongs() {
        let mut gate = gate();
        let trust = gate.trust.clone();
        let (member, stranger) = (cert(&trust, 30, 1), cert(&trust, 31, u64::MAX));
        gate.admitted.insert(host(30), member.member.id(trust.fleet()));
        assert_eq!(judge(&gate, 30, &member), "admit", "expired, and a member all the same");
        let another = cert(&trust, 30, 2);
        assert_eq!(judge(&gate, 30, &another), "admit and apply", "it may be newer");
        gate.refused.insert(another.member.id(trust.fleet()), "not newer".into());
        assert_eq!(judge(&gate, 30, &another), "admit", "the voters have seen it");
        assert_eq!(judge(&gate, 31, &stranger), "pending", "the voters are asked");
        gate.refused.insert(stranger.member.id(trust.fleet()), "used up".into());
        assert_eq!(judge(&gate, 31, &stranger), "refuse");
        assert_eq!(judge(&gate, 10, &cert(&trust, 10, u64::MAX)), "admit", "a first voter");
    }

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
}
