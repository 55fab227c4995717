//! Ed25519 keys: one way to sign, one way to check.

use std::{fmt, num::NonZeroU8};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::ids::{PublicKey, Signature};

/// A signature could not be made: the agent refused, the key is locked.
#[derive(Clone, Debug, Error)]
#[error("cannot sign: {0}")]
pub struct SignerError(pub String);

/// Something that signs: a key in memory, a key file, an agent.
pub trait Signer {
    /// The public half.
    fn public_key(&self) -> PublicKey;

    /// Signs exactly `bytes`.
    fn sign(&self, bytes: &[u8]) -> Result<Signature, SignerError>;
}

/// An Ed25519 secret key in memory; wiped when it is dropped, never shown.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Makes the key of a seed. The public half is always derived, never taken from elsewhere.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for writing the key to its file. The caller wipes it.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
}

impl Signer for SecretKey {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, bytes: &[u8]) -> Result<Signature, SignerError> {
        #[cfg(feature = "simulation")]
        if let Some(stand_in) = memo::stand_in(&self.public_key(), bytes) {
            return Ok(stand_in);
        }
        Ok(Signature(self.0.sign(bytes).to_bytes()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public_key().short())
    }
}

impl PublicKey {
    /// True for a point on the curve that is not of small order. Others would sign for everyone.
    pub fn is_strong(&self) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| !key.is_weak())
    }

    /// Checks a signature over exactly `bytes`, by the strict rules on which all hosts agree.
    pub fn verifies(&self, bytes: &[u8], signature: &Signature) -> bool {
        #[cfg(feature = "simulation")]
        return memo::verifies(self, bytes, signature, Self::verifies_strictly);
        #[cfg(not(feature = "simulation"))]
        self.verifies_strictly(bytes, signature)
    }

    fn verifies_strictly(&self, bytes: &[u8], signature: &Signature) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

/// What was found of signatures, for the simulator alone.
///
/// In one process a thousand virtual hosts check the same document, and the check is most of what they
/// do. What is remembered is a hash of key, signature and message, so that nothing is believed here
/// that was not checked before in full. In most runs not even that is done: what a key signs is a hash of
/// key and message, which anybody could make, and nobody in a simulation forges. It is off until
/// [`remember`] is called, bounded, and each thread's own.
#[cfg(feature = "simulation")]
pub mod memo {
    use std::{any::Any, cell::RefCell, collections::BTreeSet};

    use super::{PublicKey, Signature};
    use crate::{
        ids::{Digest, HashDomain},
        places::Places,
    };

    /// What signatures are in a thread that remembers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Signatures {
        /// Those of the real keys.
        Real,
        /// Hashes that stand in for them.
        StandIns,
    }

    struct Memory {
        signatures: Signatures,
        good: BTreeSet<Digest>,
    }

    thread_local! {
        static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
        /// By the place of an envelope. What is kept keeps the envelope.
        static ENVELOPES: RefCell<Places<Box<dyn Any>>> = const { RefCell::new(Places::new()) };
    }

    /// From now on this thread checks each signature once. What it remembered before is forgotten.
    pub fn remember(signatures: Signatures) {
        MEMORY.set(Some(Memory { signatures, good: BTreeSet::new() }));
        ENVELOPES.with_borrow_mut(Places::clear);
    }

    /// What the envelope at this place in memory was found to be, if it was found good before.
    pub(in crate::trust) fn of_envelope<V: Any, E>(
        place: usize,
        check: impl FnOnce() -> Result<V, E>,
        copy: impl Fn(&V) -> V,
    ) -> Result<V, E> {
        if MEMORY.with_borrow(Option::is_none) {
            return check();
        }
        let known = ENVELOPES.with_borrow(|all| all.get(place)?.downcast_ref().map(&copy));
        if let Some(known) = known {
            return Ok(known);
        }
        let fresh = check()?;
        ENVELOPES.with_borrow_mut(|all| all.put(place, Box::new(copy(&fresh))));
        Ok(fresh)
    }

    /// What stands in for a signature, where one does.
    pub(super) fn stand_in(key: &PublicKey, bytes: &[u8]) -> Option<Signature> {
        let stands_in = |memory: &Memory| memory.signatures == Signatures::StandIns;
        MEMORY.with_borrow(|memory| memory.as_ref().is_some_and(stands_in)).then(|| {
            let Digest(half) = Digest::of(HashDomain::Key, &[&key.0, bytes]);
            let mut whole = [0; 64];
            whole[..32].copy_from_slice(&half);
            whole[32..].copy_from_slice(&half);
            Signature(whole)
        })
    }

    pub(super) fn verifies(
        key: &PublicKey,
        bytes: &[u8],
        signature: &Signature,
        check: impl Fn(&PublicKey, &[u8], &Signature) -> bool,
    ) -> bool {
        if let Some(stand_in) = stand_in(key, bytes) {
            return stand_in == *signature;
        }
        MEMORY.with_borrow_mut(|memory| {
            let Some(Memory { good, .. }) = memory else { return check(key, bytes, signature) };
            // Of fixed length, so that the parts cannot run into each other.
            let name = Digest::of(HashDomain::Key, &[&key.0, &signature.0, bytes]);
            if good.contains(&name) {
                return true;
            }
            let is_good = check(key, bytes, signature);
            if is_good {
                if good.len() >= REMEMBERED_MAX {
                    good.clear();
                }
                good.insert(name);
            }
            is_good
        })
    }

    const REMEMBERED_MAX: usize = 1 << 16;
}

/// Keys of which a number must have signed.
#[derive(Clone, Copy, Debug)]
pub struct KeySet<'a> {
    /// The keys, each once.
    pub keys: &'a [PublicKey],
    /// How many different ones must have signed.
    pub threshold: NonZeroU8,
}

impl<'a> KeySet<'a> {
    /// The set in which one key speaks for itself.
    pub fn one(key: &'a PublicKey) -> Self {
        Self { keys: std::slice::from_ref(key), threshold: NonZeroU8::MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_point_signs_for_nobody() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let key = PublicKey(identity);
        assert!(!key.is_strong());
        let mut forged = [0; 64];
        forged[0] = 1;
        assert!(!key.verifies(b"any message", &Signature(forged)));
    }

    #[test]
    fn a_signature_is_over_exactly_the_bytes() {
        let key = SecretKey::from_seed(&[7; 32]);
        let signature = key.sign(b"abc").unwrap();
        assert!(key.public_key().verifies(b"abc", &signature));
        assert!(!key.public_key().verifies(b"abd", &signature));
    }

    #[test]
    fn a_secret_key_does_not_show_itself() {
        let shown = format!("{:?}", SecretKey::from_seed(&[0x41; 32]));
        assert!(!shown.contains("4141") && !shown.contains("65, 65"));
    }
}
