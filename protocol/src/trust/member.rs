//! Membership: the certificate by which a host belongs to the fleet, and the token that makes one.
//!
//! A certificate is signed by the enrolment role, or by a token: a throw-away key that enrolment
//! signed with limits. What a token may not allow, such as other labels, its certificates do not
//! have. How often a token is used only the voters can count, so a token's certificate is complete
//! with the receipts of a majority of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    documents::{Document, Invalid, Receipt, Subject, check_text},
    envelope::{Signed, Untrusted, Verified},
    keys::KeySet,
    root::Trust,
    voters::Electorate,
};
use crate::{
    ids::{HostId, HostName, Labels, PublicKey, ZoneName},
    limits::{DOCUMENT_BYTES_MAX, VOTERS_MAX},
    time::UnixSeconds,
};

/// "This key may enrol hosts, within these limits." Signed by the enrolment role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The throw-away key.
    pub key: PublicKey,
    /// How many hosts it may enrol; none means any number.
    pub uses: Option<NonZeroU32>,
    /// The zone of the hosts.
    pub zone: Option<ZoneName>,
    /// The labels of the hosts.
    pub labels: Labels,
    /// After this time it enrols nobody.
    pub not_after: UnixSeconds,
    /// Which names it may give: text in which `*` stands for any run of characters.
    pub name_pattern: String,
    /// How long its certificates are good for, in seconds.
    pub member_seconds: u64,
}

impl Document for Token {
    const CONTEXT: &'static str = "token/1";
    const NAME: &'static str = "join token";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        check_text("name pattern", &self.name_pattern)?;
        Invalid::unless(self.key.is_strong(), || "the token's key is weak".into())
    }
}

impl Token {
    /// True if `name` fits the token's pattern.
    pub fn allows_name(&self, name: &HostName) -> bool {
        glob(self.name_pattern.as_bytes(), name.as_str().as_bytes())
    }
}

/// Matches `*` as any run of characters, in time proportional to both lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            (p, t) = (star + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// "This key is this host." Signed by the enrolment role or by a token's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The host's key.
    pub host: HostId,
    /// Its name, unique in the fleet.
    pub name: HostName,
    /// Its zone.
    pub zone: Option<ZoneName>,
    /// Its labels. A host cannot give itself any.
    pub labels: Labels,
    /// After this time it receives no new release.
    pub not_after: UnixSeconds,
    /// One more each time the same name, or the same key, is enrolled again.
    pub incarnation: u64,
}

impl Document for Member {
    const CONTEXT: &'static str = "member/1";
    const NAME: &'static str = "membership certificate";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        Invalid::unless(self.host.key().is_strong(), || "the host's key is weak".into())
    }
}

/// A certificate with all that is needed to believe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCert {
    /// The token that made it; none if enrolment signed it directly.
    pub token: Option<Signed<Token>>,
    /// The certificate.
    pub member: Signed<Member>,
    /// Voters' receipts, for a token that counts its uses.
    pub receipts: Vec<Signed<Receipt>>,
}

/// Why a certificate is not good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MemberRefused {
    /// The certificate or its token is not signed as it must be.
    #[error("the {what} {source}")]
    Untrusted {
        /// Token or certificate.
        what: &'static str,
        /// What is wrong with it.
        source: Untrusted,
    },
    /// The certificate says more than its token allows.
    #[error("the certificate's {0} is not what its token allows")]
    BeyondToken(&'static str),
    /// Too old.
    #[error("the {what} was good until {until}")]
    Expired {
        /// Token or certificate.
        what: &'static str,
        /// The end of its time.
        until: UnixSeconds,
    },
    /// Its token counts uses, and no majority of voters has counted this one yet.
    #[error("waits for the voters to count this use of its token ({have} of {need} receipts)")]
    NotCounted {
        /// Valid receipts.
        have: usize,
        /// How many make a majority.
        need: usize,
    },
}

impl MemberCert {
    /// Believes the certificate as far as signatures and the token's limits go, whatever the time: a
    /// token that counts its uses is not asked whether this one was counted.
    pub fn verify_signatures(&self, trust: &Trust) -> Result<Verified<Member>, MemberRefused> {
        let untrusted = |what| move |source| MemberRefused::Untrusted { what, source };
        let enrolment = trust.root().roles.enrolment.key_set();
        let Some(token) = &self.token else {
            return self
                .member
                .verify(trust.fleet(), enrolment)
                .map_err(untrusted("membership certificate"));
        };
        let token = token.verify(trust.fleet(), enrolment).map_err(untrusted("join token"))?;
        let token = token.content();
        let member = self
            .member
            .verify(trust.fleet(), KeySet::one(&token.key))
            .map_err(untrusted("membership certificate"))?;
        let content = member.content();
        let latest = UnixSeconds(token.not_after.0.saturating_add(token.member_seconds));
        let within = [
            ("name", token.allows_name(&content.name)),
            ("labels", token.labels == content.labels),
            ("zone", token.zone == content.zone),
            ("end of validity", content.not_after <= latest),
            // To take a name over from another key is for enrolment itself to allow.
            ("incarnation", content.incarnation == 0),
        ];
        if let Some((what, _)) = within.iter().find(|(_, good)| !good) {
            return Err(MemberRefused::BeyondToken(what));
        }
        Ok(member)
    }

    /// The same, while the certificate's time is not over. Voters judge by this when they count it.
    pub fn verify_uncounted(
        &self,
        trust: &Trust,
        now: UnixSeconds,
    ) -> Result<Verified<Member>, MemberRefused> {
        in_time(self.verify_signatures(trust)?, now)
    }

    /// Believes the certificate whole, receipts included, while its time is not over.
    pub fn verify(
        &self,
        trust: &Trust,
        electorate: &Electorate,
        now: UnixSeconds,
    ) -> Result<Verified<Member>, MemberRefused> {
        in_time(self.verify_though_expired(trust, electorate)?, now)
    }

    /// Believes the certificate whole, whatever the time: a host whose certificate has expired may
    /// still end what it has begun and go back to what it ran. First voters need no receipts, since
    /// genesis names their keys.
    pub fn verify_though_expired(
        &self,
        trust: &Trust,
        electorate: &Electorate,
    ) -> Result<Verified<Member>, MemberRefused> {
        let member = self.verify_signatures(trust)?;
        if !self.is_counted() || trust.genesis().names(member.content().host) {
            return Ok(member);
        }
        self.check_counted(&member, trust, electorate)?;
        Ok(member)
    }

    /// True if the token of this certificate counts its uses.
    pub fn is_counted(&self) -> bool {
        self.token
            .as_ref()
            .is_some_and(|token| token.claim().is_ok_and(|token| token.uses.is_some()))
    }

    /// A majority of the voters of one generation must agree that this use was counted, in one entry
    /// of the ledger. That it was stays true when others vote.
    fn check_counted(
        &self,
        member: &Verified<Member>,
        trust: &Trust,
        electorate: &Electorate,
    ) -> Result<(), MemberRefused> {
        let subject = Subject::Admission { member: member.id() };
        let mut by_entry: BTreeMap<_, BTreeSet<HostId>> = BTreeMap::new();
        for receipt in self.receipts.iter().take(VOTERS_MAX) {
            let Ok(receipt) = receipt.verify_host(trust.fleet()) else { continue };
            let Receipt { entry, index, voter, generation, .. } = *receipt.content();
            let voters = electorate.of_generation(generation);
            if receipt.content().subject == subject && voters.is_some_and(|v| v.is_voter(voter)) {
                by_entry.entry((generation, index, entry)).or_default().insert(voter);
            }
        }
        let is_enough = |((generation, ..), voters): (&(u64, u64, _), &BTreeSet<HostId>)| {
            let all = electorate.of_generation(*generation);
            all.is_some_and(|all| voters.len() >= all.majority())
        };
        if by_entry.iter().any(is_enough) {
            return Ok(());
        }
        let have = by_entry.values().map(BTreeSet::len).max().unwrap_or(0);
        Err(MemberRefused::NotCounted { have, need: electorate.newest().majority() })
    }
}

fn in_time(member: Verified<Member>, now: UnixSeconds) -> Result<Verified<Member>, MemberRefused> {
    let until = member.content().not_after;
    if until < now {
        return Err(MemberRefused::Expired { what: "membership certificate", until });
    }
    Ok(member)
}
