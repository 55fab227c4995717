//! Names and numbers with one meaning each. No bare string or integer crosses a module border.

use std::{cmp::Ordering, fmt, str::FromStr, sync::OnceLock};

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Text that is not what it should be. The message says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} '{text}' is not valid: {rule}")]
pub struct Malformed {
    /// What the text was meant to be.
    pub what: &'static str,
    /// The text, cut to a length that fits an error message.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl Malformed {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.escape_debug().take(80).collect(), rule }
    }
}

/// Defines a newtype over `[u8; N]` that is a byte string in CBOR and lower-case hex for people.
macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $size:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; $size]);

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let head = |id: &Self| id.0.first_chunk().map(|head| u64::from_be_bytes(*head));
                // These are hashes and keys: as a rule the first bytes differ, and maps are full of them.
                head(self).cmp(&head(other)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The first eight hex digits, for logs and tables.
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| {
                        const RULE: &str = concat!(stringify!($size), " bytes in lower-case hex");
                        Malformed::new($what, text, RULE)
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    let bytes = serde_bytes::ByteArray::<$size>::deserialize(deserializer)?;
                    Ok(Self(bytes.into_array()))
                }
            }
        }
    };
}

byte_id!(
    /// A BLAKE3 hash of something.
    Digest, 32, "digest"
);
byte_id!(
    /// An Ed25519 public key.
    PublicKey, 32, "public key"
);
byte_id!(
    /// An Ed25519 signature.
    Signature, 64, "signature"
);
byte_id!(
    /// Names a host: its Ed25519 public key.
    HostId, 32, "host id"
);
byte_id!(
    /// The first bytes of a host id, for lists of many hosts. To find a key for a given one takes
    /// 2^64 tries.
    ShortId, 8, "short host id"
);
byte_id!(
    /// Names a fleet: the hash of its first root document. Part of every signature.
    FleetId, 32, "fleet id"
);
byte_id!(
    /// A number used once, drawn by the process that wants a fresh answer.
    Nonce, 16, "nonce"
);

/// What a hash was computed over. Two domains never share a hash, so a chunk can never be taken for
/// a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashDomain {
    /// The payload of a signed document, with its context and fleet.
    Document,
    /// The payload of a fleet's first root document.
    Fleet,
    /// A revision's manifest.
    Manifest,
    /// An entry of the ledger.
    Entry,
    /// The state of the ledger.
    Ledger,
    /// A public key, in the envelope.
    Key,
    /// Where a host sits on the overlay's rings, and in which bucket of a comparison.
    Ring,
    /// What two views of the fleet compare.
    Records,
}

impl HashDomain {
    /// What the context is hashed to, once: most of what is hashed is as short as the context.
    fn key(self) -> &'static ContextKey {
        static KEYS: [OnceLock<ContextKey>; HashDomain::Records as usize + 1] =
            [const { OnceLock::new() }; HashDomain::Records as usize + 1];
        KEYS[self as usize].get_or_init(|| hash_derive_key_context(self.context()))
    }

    fn context(self) -> &'static str {
        match self {
            Self::Document => "groundswell 2026-11-23 signed document",
            Self::Fleet => "groundswell 2026-11-23 fleet id",
            Self::Manifest => "groundswell 2026-11-23 manifest",
            Self::Entry => "groundswell 2026-11-23 ledger entry",
            Self::Ledger => "groundswell 2026-11-23 ledger state",
            Self::Key => "groundswell 2026-11-23 public key",
            Self::Ring => "groundswell 2026-11-24 ring",
            Self::Records => "groundswell 2026-11-24 records",
        }
    }
}

impl Digest {
    /// Hashes `parts` in `domain`. The parts are joined as they are: callers with parts of varying
    /// length put the lengths in.
    pub fn of(domain: HashDomain, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_from_context_key(domain.key());
        for part in parts {
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Plain BLAKE3 of content: files, chunks and frames.
    pub fn of_content(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The parent of the first link of a chain.
    pub const ZERO: Self = Self([0; 32]);
}

impl HostId {
    /// The key that this id is.
    pub fn key(self) -> PublicKey {
        PublicKey(self.0)
    }
}

impl ShortId {
    /// The short name of a host.
    pub fn of(host: HostId) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = host.0;
        Self([a, b, c, d, e, f, g, h])
    }
}

impl From<PublicKey> for HostId {
    fn from(key: PublicKey) -> Self {
        Self(key.0)
    }
}

/// Defines a name: 1 to 100 characters of CodeDeploy's alphabet, checked wherever one is made.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and keeps it.
            pub fn new(text: impl Into<String>) -> Result<Self, Malformed> {
                let text = text.into();
                if is_name(&text) {
                    Ok(Self(text))
                } else {
                    Err(Malformed::new($what, &text, NAME_RULE))
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

const NAME_RULE: &str = "1 to 100 characters out of letters, digits and + = , . @ _ -, \
    the first of them no dot";

fn is_name(text: &str) -> bool {
    // Names become names of files and directories: none is hidden, none is the one above.
    (1..=crate::limits::NAME_BYTES_MAX).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
}

name!(
    /// A fleet's name, for people.
    FleetName, "fleet name"
);
name!(
    /// The name under which revisions are released.
    ApplicationName, "application name"
);
name!(
    /// A deployment group's name.
    GroupName, "deployment group name"
);
name!(
    /// What people call a deployment configuration of their own.
    ConfigurationName, "deployment configuration name"
);
name!(
    /// A host's name, from its membership certificate.
    HostName, "host name"
);
name!(
    /// A zone's name: hosts that fail together.
    ZoneName, "zone name"
);
name!(
    /// A release's human label, such as `1.4.2`.
    ReleaseLabel, "release label"
);
name!(
    /// The key or the value of a host's label.
    LabelText, "label"
);

/// A host's labels, or a filter over them: pairs sorted by key, no key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Labels(Vec<(LabelText, LabelText)>);

impl Labels {
    /// Sorts `pairs`; refuses two of one key and more than the limit.
    pub fn new(mut pairs: Vec<(LabelText, LabelText)>) -> Result<Self, Malformed> {
        pairs.sort();
        if pairs.len() > crate::limits::LABELS_MAX {
            return Err(Malformed::new("label set", "", "at most 32 labels"));
        }
        match pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(Malformed::new("label", pair[0].0.as_str(), "each key only once")),
            None => Ok(Self(pairs)),
        }
    }

    /// True if each pair of `self` is among `labels`. An empty filter matches every host.
    pub fn matches(&self, labels: &Self) -> bool {
        self.0.iter().all(|pair| labels.0.binary_search(pair).is_ok())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&LabelText> {
        self.0.iter().find(|(k, _)| k.as_str() == key).map(|(_, value)| value)
    }

    /// The pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = &(LabelText, LabelText)> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Order is not judged here: the strict decoder compares with the sorted form.
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl FromStr for Labels {
    type Err = Malformed;

    /// Reads `role=web,tier=front`.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let pairs = text.split(',').filter(|part| !part.is_empty()).map(|part| {
            let Some((key, value)) = part.split_once('=') else {
                return Err(Malformed::new("label", part, "KEY=VALUE, several joined by commas"));
            };
            Ok((LabelText::new(key)?, LabelText::new(value)?))
        });
        Self::new(pairs.collect::<Result<_, _>>()?)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Names a deployment: `d-` and nine letters or digits, computed from the order that started it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentId([u8; 9]);

impl DeploymentId {
    /// The id of the deployment that `order` starts, or of the rollback that follows it.
    pub fn of(order: Digest, rollback: bool) -> Self {
        Self::drawn(&[b"deployment", &order.0, &[u8::from(rollback)]])
    }

    /// The id of the deployment that begins at an index of the ledger, so that hosts catch up with
    /// what `order` brought the others.
    pub fn catch_up(order: Digest, index: u64) -> Self {
        Self::drawn(&[b"catch up", &order.0, &index.to_be_bytes()])
    }

    fn drawn(parts: &[&[u8]]) -> Self {
        const ALPHABET: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let hash = Digest::of(HashDomain::Entry, parts);
        let mut id = [0; 9];
        for (slot, byte) in id.iter_mut().zip(hash.0) {
            *slot = ALPHABET[usize::from(byte) % ALPHABET.len()];
        }
        Self(id)
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("d-{}", String::from_utf8_lossy(&self.0)))
    }
}

impl fmt::Debug for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for DeploymentId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.strip_prefix("d-")
            .filter(|id| id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()))
            .and_then(|id| id.as_bytes().try_into().ok())
            .map(Self)
            .ok_or_else(|| {
                Malformed::new("deployment id", text, "d- and nine capital letters or digits")
            })
    }
}

impl Serialize for DeploymentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeploymentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_limit_and_one_past_it() {
        assert!(HostName::new("a".repeat(100)).is_ok());
        assert!(HostName::new("a".repeat(101)).is_err());
        assert!(HostName::new("").is_err());
        assert!(HostName::new("a b").is_err());
        assert!(GroupName::new("..").is_err() && GroupName::new(".new-x").is_err());
        assert!(ReleaseLabel::new("1..2").is_ok());
        assert!(HostName::new("a\x1b[2J").unwrap_err().to_string().contains("\\u{1b}"));
    }

    #[test]
    fn labels_filter_by_every_pair() {
        let host: Labels = "role=web,tier=front".parse().unwrap();
        assert!("role=web".parse::<Labels>().unwrap().matches(&host));
        assert!("".parse::<Labels>().unwrap().matches(&host));
        assert!(!"role=db".parse::<Labels>().unwrap().matches(&host));
        assert!("role=a,role=b".parse::<Labels>().is_err());
    }

    #[test]
    fn hashes_of_different_domains_differ() {
        let manifest = Digest::of(HashDomain::Manifest, &[b"x"]);
        assert_ne!(manifest, Digest::of(HashDomain::Document, &[b"x"]));
        assert_ne!(manifest, Digest::of_content(b"x"));
    }

    #[test]
    fn a_deployment_id_reads_back() {
        let id = DeploymentId::of(Digest::ZERO, false);
        assert_eq!(id.to_string().parse::<DeploymentId>().unwrap(), id);
        assert_ne!(id, DeploymentId::of(Digest::ZERO, true));
        assert!("d-abc".parse::<DeploymentId>().is_err());
    }
}
