//! What a new host is handed: the fleet's trust, where to begin, and how it becomes a member.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    documents::Invalid,
    envelope::Signed,
    keys::{SecretKey, Signer, SignerError},
    member::{Member, MemberCert, Token},
    root::TrustBundle,
};
use crate::{
    cbor::{self, DecodeError},
    ids::{FleetId, HostId, HostName},
    limits::ENVELOPE_BYTES_MAX,
    time::UnixSeconds,
};

/// The text form starts with this.
const PREFIX: &str = "swell-join-1:";

/// What `swell join` takes. It holds a secret if it is a token: whoever has it can join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Addresses of hosts to begin with.
    pub seeds: Vec<String>,
    /// What the host will believe.
    pub bundle: TrustBundle,
    /// How it becomes a member.
    pub enrolment: Enrolment,
}

/// How a host becomes a member.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enrolment {
    /// It signs its own certificate with the token's key, within the token's limits.
    Token {
        /// The seed of the token's key.
        seed: [u8; 32],
        /// The token.
        token: Signed<Token>,
    },
    /// Its fingerprint was approved: this is its certificate.
    Approved(MemberCert),
}

/// Why text is no invitation, or not one for this host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvitationRefused {
    /// It is something else.
    #[error("this is no join token: it does not start with '{PREFIX}'")]
    OtherText,
    /// It was cut or altered.
    #[error("the join token is damaged ({0}): copy it again, whole")]
    Damaged(String),
    /// A certificate cannot be made with it.
    #[error("the join token cannot be used: {0}")]
    Unusable(String),
}

impl From<DecodeError> for InvitationRefused {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl Invitation {
    /// The text to carry to the host.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&cbor::encode(self)))
    }

    /// Reads the text; space around it does not matter.
    pub fn from_text(text: &str) -> Result<Self, InvitationRefused> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(InvitationRefused::OtherText)?;
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|error| InvitationRefused::Damaged(error.to_string()))?;
        Ok(cbor::decode(&bytes, ENVELOPE_BYTES_MAX)?)
    }

    /// Makes the certificate of `host`. Without a `name` the token must leave no choice.
    pub fn certificate(
        &self,
        fleet: FleetId,
        host: HostId,
        name: Option<HostName>,
    ) -> Result<MemberCert, InvitationRefused> {
        let unusable = InvitationRefused::Unusable;
        let (seed, token) = match &self.enrolment {
            Enrolment::Token { seed, token } => (seed, token),
            Enrolment::Approved(cert) => return Ok(cert.clone()),
        };
        let claim = token.claim().map_err(|error| unusable(error.to_string()))?;
        let name = match name {
            Some(name) => name,
            None => HostName::new(claim.name_pattern.clone())
                .map_err(|_| unusable("it leaves the name open: say which with --name".into()))?,
        };
        let allowed = Invalid::unless(claim.allows_name(&name), || {
            format!("it is for names like '{}', not {name}", claim.name_pattern.escape_debug())
        });
        allowed.map_err(|invalid| unusable(invalid.to_string()))?;
        let member = Member {
            host,
            name,
            zone: claim.zone,
            labels: claim.labels,
            not_after: UnixSeconds(claim.not_after.0.saturating_add(claim.member_seconds)),
            incarnation: 0,
        };
        let key = SecretKey::from_seed(seed);
        let member = Signed::new(&member, fleet, &[&key])
            .map_err(|error: SignerError| unusable(error.to_string()))?;
        Ok(MemberCert { token: Some(token.clone()), member, receipts: Vec::new() })
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.enrolment {
            Enrolment::Token { token, .. } => format!("by {token:?}"),
            Enrolment::Approved(_) => "for an approved host".into(),
        };
        write!(f, "Invitation({kind}, seeds {:?})", self.seeds)
    }
}

/// A throw-away key from fresh random bytes, with the public half that goes into its token.
pub fn token_key(seed: &[u8; 32]) -> crate::ids::PublicKey {
    SecretKey::from_seed(seed).public_key()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::{
        ids::{FleetName, Labels},
        trust::{Genesis, MemberRefused, Role, Roles, Root, Trust, Voter},
    };

    fn fleet() -> (Trust, SecretKey) {
        let key = SecretKey::from_seed(&[1; 32]);
        let role = || Role { keys: vec![key.public_key()], threshold: NonZeroU8::MIN };
        let root = Root {
            name: FleetName::new("test").unwrap(),
            roles: Roles { root: role(), release: role(), operator: role(), enrolment: role() },
            version: 1,
            review_by: UnixSeconds(0),
        };
        let voter = Voter {
            host: SecretKey::from_seed(&[2; 32]).public_key().into(),
            name: HostName::new("a").unwrap(),
        };
        let genesis = Genesis { voters: vec![voter], generation: 0 };
        let (_, bundle) = TrustBundle::found(&root, &genesis, &[&key]).unwrap();
        (Trust::new(bundle, None).unwrap(), key)
    }

    fn invitation(trust: &Trust, key: &SecretKey, pattern: &str) -> Invitation {
        let seed = [7; 32];
        let token = Token {
            key: token_key(&seed),
            uses: None,
            zone: None,
            labels: "role=web".parse::<Labels>().unwrap(),
            not_after: UnixSeconds(100),
            name_pattern: pattern.into(),
            member_seconds: 50,
        };
        let token = Signed::new(&token, trust.fleet(), &[key]).unwrap();
        let enrolment = Enrolment::Token { seed, token };
        Invitation {
            seeds: vec!["/ip4/1.2.3.4/tcp/1".into()],
            bundle: trust.bundle().clone(),
            enrolment,
        }
    }

    #[test]
    fn a_token_makes_a_certificate_that_is_believed() {
        let (trust, key) = fleet();
        let text = invitation(&trust, &key, "web-*").to_text();
        let read = Invitation::from_text(&format!(" {text}\n")).unwrap();
        let host = HostId::from(SecretKey::from_seed(&[9; 32]).public_key());
        let name = |text: &str| Some(HostName::new(text).unwrap());
        let cert = read.certificate(trust.fleet(), host, name("web-1")).unwrap();
        let member =
            cert.verify(&trust, &crate::trust::Electorate::of(&trust), UnixSeconds(120)).unwrap();
        assert_eq!(member.content().labels.to_string(), "role=web");
        assert!(matches!(
            cert.verify(&trust, &crate::trust::Electorate::of(&trust), UnixSeconds(151)),
            Err(MemberRefused::Expired { .. })
        ));
        assert!(read.certificate(trust.fleet(), host, name("db-1")).is_err());
        assert!(read.certificate(trust.fleet(), host, None).is_err());
    }

    #[test]
    fn damage_is_told_from_other_text() {
        let (trust, key) = fleet();
        let text = invitation(&trust, &key, "a").to_text();
        assert_eq!(Invitation::from_text("hello"), Err(InvitationRefused::OtherText));
        let cut = Invitation::from_text(&text[..text.len() - 4]);
        assert!(matches!(cut, Err(InvitationRefused::Damaged(_))), "{cut:?}");
    }

    #[test]
    fn the_secret_is_not_shown() {
        let (trust, key) = fleet();
        let shown = format!("{:?}", invitation(&trust, &key, "a"));
        assert!(!shown.contains("7, 7") && !shown.contains("0707"), "{shown}");
    }
}
