//! The root of trust: which keys hold which role, and the chain of documents that says so.

use std::{collections::BTreeSet, num::NonZeroU8};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    documents::{Document, Genesis, Invalid, Release},
    envelope::{Signed, Untrusted, Verified},
    keys::{KeySet, Signer, SignerError},
    orders::{Drain, Group, Order, Removal},
    voters::VoterList,
};
use crate::{
    cbor::{self, DecodeError},
    ids::{Digest, FleetId, FleetName, PublicKey},
    limits::{ENVELOPE_BYTES_MAX, ROLE_KEYS_MAX, ROOT_BYTES_MAX, ROOT_CHAIN_MAX},
    time::UnixSeconds,
};

/// Which keys may say what, at one point of the chain. Signed by the root role of its predecessor
/// and by its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The fleet's name, for people.
    pub name: FleetName,
    /// The keys.
    pub roles: Roles,
    /// Its place in the chain; the first is 1.
    pub version: u64,
    /// After this time people are asked to look at the keys again. Nothing stops working.
    pub review_by: UnixSeconds,
}

/// The keys of each role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Says who holds the roles.
    pub root: Role,
    /// Says what content may exist.
    pub release: Role,
    /// Says what a group does now.
    pub operator: Role,
    /// Says which hosts belong.
    pub enrolment: Role,
}

/// Keys, and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Sorted, each once.
    pub keys: Vec<PublicKey>,
    /// At least one and at most all of them.
    pub threshold: NonZeroU8,
}

impl Role {
    /// The keys as verification wants them.
    pub fn key_set(&self) -> KeySet<'_> {
        KeySet { keys: &self.keys, threshold: self.threshold }
    }

    fn check(&self, name: &str) -> Result<(), Invalid> {
        let distinct: BTreeSet<_> = self.keys.iter().collect();
        Invalid::unless((1..=ROLE_KEYS_MAX).contains(&self.keys.len()), || {
            format!("the {name} role has 1 to {ROLE_KEYS_MAX} keys, not {}", self.keys.len())
        })?;
        Invalid::unless(distinct.len() == self.keys.len(), || {
            format!("the {name} role lists a key twice")
        })?;
        Invalid::unless(self.keys.is_sorted(), || {
            format!("the keys of the {name} role are not sorted")
        })?;
        Invalid::unless(usize::from(self.threshold.get()) <= self.keys.len(), || {
            format!(
                "the {name} role needs {} signatures and has only {} keys",
                self.threshold,
                self.keys.len()
            )
        })?;
        Invalid::unless(self.keys.iter().all(PublicKey::is_strong), || {
            format!("a key of the {name} role is weak")
        })
    }
}

impl Document for Root {
    const CONTEXT: &'static str = "root/1";
    const NAME: &'static str = "root document";
    const BYTES_MAX: usize = ROOT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        let Roles { root, release, operator, enrolment } = &self.roles;
        root.check("root")?;
        release.check("release")?;
        operator.check("operator")?;
        enrolment.check("enrolment")
    }
}

/// The chain of root documents and the genesis: what a host is given once, by hand, and believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// All root documents, the first one first.
    pub roots: Vec<Signed<Root>>,
    /// The first voters.
    pub genesis: Signed<Genesis>,
}

impl TrustBundle {
    /// Founds a fleet: signs its first root document and its genesis with the root keys.
    pub fn found(
        root: &Root,
        genesis: &Genesis,
        signers: &[&dyn Signer],
    ) -> Result<(FleetId, Self), SignerError> {
        // The fleet's id is the hash of this payload, which signatures do not change.
        let fleet = Signed::new(root, FleetId([0; 32]), &[])?.fleet_of_payload();
        let roots = vec![Signed::new(root, fleet, signers)?];
        let genesis = Signed::new(genesis, fleet, signers)?;
        Ok((fleet, Self { roots, genesis }))
    }

    /// Reads a bundle. Nothing is believed yet.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RootRefused> {
        Ok(cbor::decode(bytes, ENVELOPE_BYTES_MAX)?)
    }

    /// The bytes to store and carry.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }
}

/// Why a chain of root documents was refused. The one in force stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RootRefused {
    /// The bytes are not a trust bundle.
    #[error("not a trust bundle: {0}")]
    Malformed(#[from] DecodeError),
    /// No document, or more than the limit.
    #[error("a root chain has 1 to {ROOT_CHAIN_MAX} documents, not {0}")]
    Length(usize),
    /// Versions do not count up by one.
    #[error("root document {expected} is missing: found version {got} in its place")]
    Gap {
        /// The version that had to come.
        expected: u64,
        /// The version that came.
        got: u64,
    },
    /// One of the documents is not signed as it must be.
    #[error("root document {version} {source}")]
    Untrusted {
        /// Which one.
        version: u64,
        /// What is wrong with it.
        source: Untrusted,
    },
    /// The genesis is not signed by the root role.
    #[error("the genesis document {0}")]
    Genesis(Untrusted),
    /// The chain belongs to another fleet than the one asked for.
    #[error("is for fleet {got}, not for fleet {expected}")]
    OtherFleet {
        /// The fleet that was meant.
        expected: FleetId,
        /// The fleet of the chain.
        got: FleetId,
    },
}

/// What a host believes: the keys in force and the first voters.
#[derive(Clone, Debug)]
pub struct Trust {
    fleet: FleetId,
    root: Verified<Root>,
    genesis: Verified<Genesis>,
    bundle: TrustBundle,
}

impl Trust {
    /// Walks the chain from its first document. The caller vouches for that first document, by
    /// having put the bundle there or by knowing the `expected` fleet id.
    pub fn new(bundle: TrustBundle, expected: Option<FleetId>) -> Result<Self, RootRefused> {
        let hops = bundle.roots.len();
        if hops > ROOT_CHAIN_MAX {
            return Err(RootRefused::Length(hops));
        }
        let first = bundle.roots.first().ok_or(RootRefused::Length(0))?;
        let fleet = first.fleet_of_payload();
        if let Some(expected) = expected.filter(|expected| *expected != fleet) {
            return Err(RootRefused::OtherFleet { expected, got: fleet });
        }
        let mut root: Option<Verified<Root>> = None;
        for (version, signed) in (1..).zip(&bundle.roots) {
            root = Some(next_root(fleet, root.as_ref(), signed, version)?);
        }
        let root = root.ok_or(RootRefused::Length(0))?;
        let root_role = root.content().roles.root.key_set();
        let genesis = bundle.genesis.verify(fleet, root_role).map_err(RootRefused::Genesis)?;
        Ok(Self { fleet, root, genesis, bundle })
    }

    /// The fleet's id.
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// The root document in force.
    pub fn root(&self) -> &Root {
        self.root.content()
    }

    /// The first voters.
    pub fn genesis(&self) -> &Genesis {
        self.genesis.content()
    }

    /// The id of the document that names the first voters.
    pub fn genesis_id(&self) -> Digest {
        self.genesis.id()
    }

    /// What to store and give to others.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Believes a release if the release role signed it.
    pub fn release(&self, release: &Signed<Release>) -> Result<Verified<Release>, Untrusted> {
        self.believe(release, &self.root().roles.release)
    }

    /// Believes an order if the operator role signed it.
    pub fn order(&self, order: &Signed<Order>) -> Result<Verified<Order>, Untrusted> {
        self.believe(order, &self.root().roles.operator)
    }

    /// Believes a list of voters that follows a lost majority if the operator role signed it.
    pub fn recovery(&self, list: &Signed<VoterList>) -> Result<Verified<VoterList>, Untrusted> {
        list.verify(self.fleet, self.root().roles.operator.key_set())
    }

    /// Believes the removal of a host if the operator role signed it.
    pub fn removal(&self, removal: &Signed<Removal>) -> Result<Verified<Removal>, Untrusted> {
        self.believe(removal, &self.root().roles.operator)
    }

    /// Believes that a host is drained, or given back, if the operator role signed it.
    pub fn drain(&self, drain: &Signed<Drain>) -> Result<Verified<Drain>, Untrusted> {
        self.believe(drain, &self.root().roles.operator)
    }

    /// Believes a group if the operator role signed it.
    pub fn group(&self, group: &Signed<Group>) -> Result<Verified<Group>, Untrusted> {
        self.believe(group, &self.root().roles.operator)
    }

    fn believe<T: Document + 'static>(
        &self,
        signed: &Signed<T>,
        role: &Role,
    ) -> Result<Verified<T>, Untrusted> {
        let check = || signed.verify(self.fleet, role.key_set());
        #[cfg(feature = "simulation")]
        return signed.remembered(check);
        #[cfg(not(feature = "simulation"))]
        check()
    }
}

/// Accepts `signed` as the document that follows `previous`: by the old keys and by its own.
fn next_root(
    fleet: FleetId,
    previous: Option<&Verified<Root>>,
    signed: &Signed<Root>,
    version: u64,
) -> Result<Verified<Root>, RootRefused> {
    let untrusted = |source| RootRefused::Untrusted { version, source };
    let claim = signed.claim().map_err(untrusted)?;
    if claim.version != version {
        return Err(RootRefused::Gap { expected: version, got: claim.version });
    }
    claim.check().map_err(|invalid| untrusted(invalid.into()))?;
    if let Some(previous) = previous {
        let old = previous.content().roles.root.key_set();
        signed.verify(fleet, old).map_err(untrusted)?;
    }
    signed.verify(fleet, claim.roles.root.key_set()).map_err(untrusted)
}
