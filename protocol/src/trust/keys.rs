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

/// A memory of signatures that were found good, for the simulator alone.
///
/// In one process a hundred virtual hosts check the same document, and the check is most of what they
/// do. What is remembered is a hash of key, signature and message, so that nothing is believed here
/// that was not checked before in full. It is off until [`remember`] is called, bounded, and each
/// thread's own.
#[cfg(feature = "simulation")]
pub mod memo {
    use std::{
        any::Any,
        cell::RefCell,
        collections::{BTreeMap, BTreeSet},
    };

    use super::{PublicKey, Signature};
    use crate::ids::{Digest, HashDomain};

    thread_local! {
        static GOOD: RefCell<Option<BTreeSet<Digest>>> = const { RefCell::new(None) };
        /// By the place of an envelope. What is kept keeps the envelope, so no other takes its place.
        static ENVELOPES: RefCell<BTreeMap<usize, Box<dyn Any>>> =
            const { RefCell::new(BTreeMap::new()) };
    }

    /// From now on this thread checks each signature once. What it remembered before is forgotten.
    pub fn remember() {
        GOOD.with_borrow_mut(|good| *good = Some(BTreeSet::new()));
        ENVELOPES.with_borrow_mut(BTreeMap::clear);
    }

    /// What the envelope at this place in memory was found to be, if it was found good before.
    pub(in crate::trust) fn of_envelope<V: Any, E>(
        place: usize,
        check: impl FnOnce() -> Result<V, E>,
        copy: impl Fn(&V) -> V,
    ) -> Result<V, E> {
        if GOOD.with_borrow(Option::is_none) {
            return check();
        }
        let known = ENVELOPES.with_borrow(|all| all.get(&place)?.downcast_ref().map(&copy));
        if let Some(known) = known {
            return Ok(known);
        }
        let fresh = check()?;
        ENVELOPES.with_borrow_mut(|all| {
            if all.len() >= ENVELOPES_MAX {
                all.clear();
            }
            all.insert(place, Box::new(copy(&fresh)));
        });
        Ok(fresh)
    }

    pub(super) fn verifies(
        key: &PublicKey,
        bytes: &[u8],
        signature: &Signature,
        check: impl Fn(&PublicKey, &[u8], &Signature) -> bool,
    ) -> bool {
        GOOD.with_borrow_mut(|good| {
            let Some(good) = good else { return check(key, bytes, signature) };
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
    const ENVELOPES_MAX: usize = 1 << 12;
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
