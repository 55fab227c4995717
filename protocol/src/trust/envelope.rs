//! The envelope: opaque bytes, the context in which they mean something, and signatures.
//!
//! What is signed is `magic, context, fleet, payload`, each part of varying length behind its
//! length. The payload travels unchanged: it is verified, then decoded, and never written again to
//! be verified or hashed.

use std::{collections::BTreeSet, fmt, marker::PhantomData, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::{
    documents::{Document, HostSigned, Invalid},
    keys::{KeySet, Signer, SignerError},
};
use crate::{
    cbor::{self, DecodeError},
    ids::{Digest, FleetId, HashDomain, PublicKey, Signature},
    limits::{ENVELOPE_BYTES_MAX, SIGNATURES_MAX},
};

const MAGIC: &[u8] = b"groundswell-signature/1\0";

/// Why a signed document was not believed. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Untrusted {
    /// The bytes are not an envelope or not the document they claim to be.
    #[error("{what}: {source}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with the bytes.
        source: DecodeError,
    },
    /// The envelope holds another kind of document than was asked for.
    #[error("is a signed '{got}' where a signed '{expected}' is needed")]
    OtherContext {
        /// What was needed.
        expected: &'static str,
        /// What the envelope says, escaped.
        got: String,
    },
    /// Too few of the right keys signed. Someone forged it, keys were rotated, or it was made for
    /// another fleet.
    #[error(
        "is signed by {have} of the {need} keys it needs \
         (made for another fleet, by a key without this role, or altered since)"
    )]
    Unauthorised {
        /// Right keys that signed.
        have: usize,
        /// How many must.
        need: usize,
    },
    /// A key of the right role, and a signature that is not its own: the document was altered, or it
    /// was made for another fleet.
    #[error("has a signature by {key} that does not fit (altered, or made for another fleet)")]
    BadSignature {
        /// The first digits of the key.
        key: String,
    },
    /// Signed well, and its content breaks a rule of its kind.
    #[error("{0}")]
    Invalid(#[from] Invalid),
}

/// An envelope as it is written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Envelope {
    context: String,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
    signatures: Vec<OneSignature>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OneSignature {
    /// A hint that saves trying all keys; it decides nothing.
    key: Digest,
    signature: Signature,
}

/// A signed document that nobody has verified yet. It can be carried and compared, not read.
pub struct Signed<T> {
    envelope: Arc<Envelope>,
    kind: PhantomData<fn() -> T>,
}

impl<T: Document> Signed<T> {
    /// Signs `content` for `fleet` with each of `signers`.
    pub fn new(content: &T, fleet: FleetId, signers: &[&dyn Signer]) -> Result<Self, SignerError> {
        let payload = cbor::encode(content);
        content.check().map_err(|invalid| SignerError(invalid.to_string()))?;
        if payload.len() > T::BYTES_MAX {
            return Err(SignerError(format!(
                "the {} would have {} bytes; at most {} are allowed",
                T::NAME,
                payload.len(),
                T::BYTES_MAX
            )));
        }
        let envelope = Envelope { context: T::CONTEXT.into(), payload, signatures: Vec::new() };
        let mut signed = Self { envelope: Arc::new(envelope), kind: PhantomData };
        for signer in signers {
            signed.add_signature(fleet, *signer)?;
        }
        Ok(signed)
    }

    /// Adds one more signature, for a role with a threshold above one.
    pub fn add_signature(
        &mut self,
        fleet: FleetId,
        signer: &dyn Signer,
    ) -> Result<(), SignerError> {
        let key = key_hint(&signer.public_key());
        let signature = signer.sign(&self.signed_bytes(fleet))?;
        let envelope = Arc::make_mut(&mut self.envelope);
        envelope.signatures.retain(|one| one.key != key);
        envelope.signatures.push(OneSignature { key, signature });
        envelope.signatures.sort_by_key(|one| one.key);
        Ok(())
    }

    /// The same document, signed by nobody.
    pub fn without_signatures(&self) -> Self {
        let mut envelope = (*self.envelope).clone();
        envelope.signatures.clear();
        Self { envelope: Arc::new(envelope), kind: PhantomData }
    }

    /// Takes over the signatures under another copy of the same document that were found good.
    /// Nothing is changed by another document.
    pub fn absorb(&mut self, other: &Verified<T>) {
        let theirs = &other.signed().envelope;
        if self.envelope.payload != theirs.payload {
            return;
        }
        let good: Vec<_> = other.signers().iter().map(key_hint).collect();
        let envelope = Arc::make_mut(&mut self.envelope);
        for one in theirs.signatures.iter().filter(|one| good.contains(&one.key)) {
            envelope.signatures.retain(|known| known.key != one.key);
            envelope.signatures.push(one.clone());
        }
        envelope.signatures.sort_by_key(|one| one.key);
    }

    /// Reads an envelope that says it holds a `T`. Nothing is believed yet.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Untrusted> {
        let envelope: Envelope = cbor::decode(bytes, ENVELOPE_BYTES_MAX)
            .map_err(|source| Untrusted::Malformed { what: "envelope", source })?;
        Self::from_envelope(envelope)
    }

    fn from_envelope(envelope: Envelope) -> Result<Self, Untrusted> {
        if envelope.context != T::CONTEXT {
            return Err(Untrusted::OtherContext {
                expected: T::CONTEXT,
                got: envelope.context.escape_debug().take(40).collect(),
            });
        }
        let too_long = |max, got| Untrusted::Malformed {
            what: T::NAME,
            source: DecodeError::TooLong { max, got },
        };
        if envelope.payload.len() > T::BYTES_MAX {
            return Err(too_long(T::BYTES_MAX, envelope.payload.len()));
        }
        if envelope.signatures.len() > SIGNATURES_MAX {
            return Err(Untrusted::Malformed {
                what: "envelope",
                source: DecodeError::Malformed(format!("more than {SIGNATURES_MAX} signatures")),
            });
        }
        Ok(Self { envelope: Arc::new(envelope), kind: PhantomData })
    }

    /// The bytes to store and send.
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(&*self.envelope)
    }

    /// The length of [`Signed::to_bytes`], within a few bytes.
    pub fn size(&self) -> usize {
        let Envelope { context, payload, signatures } = &*self.envelope;
        context.len() + payload.len() + signatures.len() * SIGNATURE_BYTES + 16
    }

    /// Names this document: a hash of its context, fleet and payload. Signatures do not change it.
    pub fn id(&self, fleet: FleetId) -> Digest {
        let context = T::CONTEXT.as_bytes();
        let length = u64::try_from(context.len()).unwrap_or(u64::MAX).to_be_bytes();
        let parts: [&[u8]; 4] = [&length, context, &fleet.0, &self.envelope.payload];
        Digest::of(HashDomain::Document, &parts)
    }

    /// Believes the document if enough of `authority` signed it for `fleet`.
    pub fn verify(&self, fleet: FleetId, authority: KeySet<'_>) -> Result<Verified<T>, Untrusted> {
        let signers = self.check_signatures(fleet, authority)?;
        let content = self.decode()?;
        self.accept(fleet, content, signers)
    }

    fn check_signatures(
        &self,
        fleet: FleetId,
        authority: KeySet<'_>,
    ) -> Result<Vec<PublicKey>, Untrusted> {
        let bytes = self.signed_bytes(fleet);
        let mut signers = BTreeSet::new();
        for one in &self.envelope.signatures {
            let Some(key) = authority.keys.iter().find(|key| key_hint(key) == one.key) else {
                continue;
            };
            if !key.verifies(&bytes, &one.signature) {
                return Err(Untrusted::BadSignature { key: key.short() });
            }
            signers.insert(*key);
        }
        let need = usize::from(authority.threshold.get());
        if signers.len() < need {
            return Err(Untrusted::Unauthorised { have: signers.len(), need });
        }
        Ok(signers.into_iter().collect())
    }

    fn accept(
        &self,
        fleet: FleetId,
        content: T,
        signers: Vec<PublicKey>,
    ) -> Result<Verified<T>, Untrusted> {
        content.check()?;
        let (id, signed) = (self.id(fleet), self.clone());
        Ok(Verified(Arc::new(Checked { content, id, signed, signers })))
    }

    fn decode(&self) -> Result<T, Untrusted> {
        cbor::decode(&self.envelope.payload, T::BYTES_MAX)
            .map_err(|source| Untrusted::Malformed { what: T::NAME, source })
    }

    /// Shows what the document claims, for traces and for nothing else: nobody vouches for it.
    pub fn unverified_claim(&self) -> Result<String, Untrusted>
    where
        T: fmt::Debug,
    {
        Ok(format!("{:#?}", self.decode()?))
    }

    /// Says what the document claims in words for people, and for nothing else: nobody vouches for it.
    pub fn unverified_words(&self, say: fn(&T) -> String) -> Result<String, Untrusted> {
        Ok(say(&self.decode()?))
    }

    /// The hash of the payload alone, by which the first root document names its fleet.
    pub(super) fn fleet_of_payload(&self) -> FleetId {
        FleetId(Digest::of(HashDomain::Fleet, &[&self.envelope.payload]).0)
    }

    /// Decodes without belief, so that the keys which the content names can be tried on it.
    pub(crate) fn claim(&self) -> Result<T, Untrusted> {
        self.decode()
    }

    fn signed_bytes(&self, fleet: FleetId) -> Vec<u8> {
        let (context, payload) = (self.envelope.context.as_bytes(), &self.envelope.payload);
        let mut bytes = Vec::with_capacity(MAGIC.len() + context.len() + payload.len() + 48);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&length_be(context));
        bytes.extend_from_slice(context);
        bytes.extend_from_slice(&fleet.0);
        bytes.extend_from_slice(&length_be(payload));
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// What a host has signed without what follows from it: the payload, and that host's signature.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bare(#[serde(with = "serde_bytes")] Vec<u8>, Signature);

impl<T: HostSigned> Signed<T> {
    /// The document without what follows from it. Signatures that are not the host's own are left out.
    pub(crate) fn bare(&self) -> Bare {
        let Envelope { payload, signatures, .. } = &*self.envelope;
        let own = match &signatures[..] {
            [one] => Some(one),
            several => self.decode().ok().and_then(|content| {
                let key = key_hint(&content.host().key());
                several.iter().find(|one| one.key == key)
            }),
        };
        Bare(payload.clone(), own.map_or(Signature([0; 64]), |one| one.signature))
    }

    /// Puts a document together again. Nothing is believed yet.
    pub(crate) fn from_bare(Bare(payload, signature): Bare) -> Result<Self, Untrusted> {
        let signatures = Vec::new();
        let mut signed =
            Self::from_envelope(Envelope { context: T::CONTEXT.into(), payload, signatures })?;
        let key = key_hint(&signed.decode()?.host().key());
        Arc::make_mut(&mut signed.envelope).signatures.push(OneSignature { key, signature });
        Ok(signed)
    }

    /// How long the document is without what follows from it.
    pub(crate) fn bare_bytes(&self) -> usize {
        self.envelope.payload.len() + BARE_OVERHEAD_BYTES
    }

    /// Believes a host's statement about itself: signed by the very key that it names.
    ///
    /// The caller still asks whether that host is a member.
    #[cfg(not(feature = "simulation"))]
    pub fn verify_host(&self, fleet: FleetId) -> Result<Verified<T>, Untrusted> {
        self.verify_host_anew(fleet)
    }

    fn verify_host_anew(&self, fleet: FleetId) -> Result<Verified<T>, Untrusted> {
        let content = self.decode()?;
        let key = content.host().key();
        let signers = self.check_signatures(fleet, KeySet::one(&key))?;
        self.accept(fleet, content, signers)
    }
}

#[cfg(feature = "simulation")]
impl<T: HostSigned + 'static> Signed<T> {
    /// Believes a host's statement about itself. In the simulator the same envelope comes to many
    /// hosts of one thread; what it was found to be is remembered.
    pub fn verify_host(&self, fleet: FleetId) -> Result<Verified<T>, Untrusted> {
        self.remembered(|| self.verify_host_anew(fleet))
    }
}

#[cfg(feature = "simulation")]
impl<T: Document + 'static> Signed<T> {
    /// What the envelope was found to be. Each kind of document is believed on one authority here, which
    /// stays the same in a run.
    pub(super) fn remembered(
        &self,
        check: impl FnOnce() -> Result<Verified<T>, Untrusted>,
    ) -> Result<Verified<T>, Untrusted> {
        let place = Arc::as_ptr(&self.envelope) as usize;
        super::keys::memo::of_envelope(place, check, Verified::clone)
    }
}

/// A list's head, those of two strings of bytes, and a signature.
const BARE_OVERHEAD_BYTES: usize = 1 + 3 + 2 + 64;

fn length_be(bytes: &[u8]) -> [u8; 8] {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes()
}

fn key_hint(key: &PublicKey) -> Digest {
    Digest::of(HashDomain::Key, &[&key.0])
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { envelope: self.envelope.clone(), kind: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.envelope == other.envelope
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let envelope = &self.envelope;
        write!(f, "Signed({}, {} bytes)", envelope.context.escape_debug(), envelope.payload.len())
    }
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.envelope.serialize(serializer)
    }
}

impl<'de, T: Document> Deserialize<'de> for Signed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_envelope(Envelope::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A document whose signatures were checked. Only verification makes one. A copy is the same one.
#[derive(Debug)]
pub struct Verified<T>(Arc<Checked<T>>);

#[derive(Debug)]
struct Checked<T> {
    content: T,
    id: Digest,
    signed: Signed<T>,
    signers: Vec<PublicKey>,
}

impl<T> Clone for Verified<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Verified<T> {
    /// What the document says.
    pub fn content(&self) -> &T {
        &self.0.content
    }

    /// Names the document; see [`Signed::id`].
    pub fn id(&self) -> Digest {
        self.0.id
    }

    /// The signed form, to store and pass on.
    pub fn signed(&self) -> &Signed<T> {
        &self.0.signed
    }

    /// True if this is what came of verifying `signed` for `fleet`: the same document under the same
    /// signatures.
    pub fn is_of(&self, signed: &Signed<T>, fleet: FleetId) -> bool
    where
        T: Document,
    {
        self.0.signed == *signed && self.0.id == signed.id(fleet)
    }

    /// The keys that vouched for it.
    pub fn signers(&self) -> &[PublicKey] {
        &self.0.signers
    }
}

impl<T> PartialEq for Verified<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl<T> Eq for Verified<T> {}

/// A signature with the hint which key it is of, as it is encoded.
const SIGNATURE_BYTES: usize = 32 + 64 + 8;
