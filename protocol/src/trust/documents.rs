//! What can be signed. One context per kind and version; no two share one.
//!
//! Fields are declared by length, then alphabet, so that their CBOR is in the order of RFC 8949.
//! A change to any of these types is a new context with a new number, never an edit.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    execute::LifecycleEvent,
    ids::{ApplicationName, Digest, GroupName, HostId, HostName, LabelText, Nonce, ReleaseLabel},
    limits::{
        DOCUMENT_BYTES_MAX, GROUPS_PER_HOST_MAX, LABELS_MAX, LOG_TAIL_BYTES_MAX,
        MANIFEST_BYTES_MAX, REVISION_BYTES_MAX, SLOT_DOCUMENT_BYTES_MAX, TEXT_BYTES_MAX,
        VOTERS_MAX,
    },
    time::UnixSeconds,
};

/// A document that is well signed and well formed, and says something it must not say.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// Fails with a message unless `good`.
    pub fn unless(good: bool, message: impl FnOnce() -> String) -> Result<(), Self> {
        if good { Ok(()) } else { Err(Self(message())) }
    }
}

/// Something that can be signed.
pub trait Document: Serialize + DeserializeOwned {
    /// Kind and version, part of every signature.
    const CONTEXT: &'static str;
    /// The kind in words, for messages.
    const NAME: &'static str;
    /// The longest payload, in bytes.
    const BYTES_MAX: usize;

    /// Judges the content by itself. Runs before signing and again after verifying.
    fn check(&self) -> Result<(), Invalid>;
}

/// A document by which a host speaks for itself.
pub trait HostSigned: Document {
    /// The host that must have signed it.
    fn host(&self) -> HostId;
}

/// The first voters of a fleet. Signed by the root role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// One to seven hosts, sorted by id.
    pub voters: Vec<Voter>,
    /// The first generation of voters.
    pub generation: u64,
}

/// A host that takes part in consensus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Voter {
    /// Its key.
    pub host: HostId,
    /// Its name, for people.
    pub name: HostName,
}

impl Document for Genesis {
    const CONTEXT: &'static str = "genesis/1";
    const NAME: &'static str = "genesis document";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        check_voters(Self::NAME, &self.voters)
    }
}

impl Genesis {
    /// True if `host` is one of the first voters.
    pub fn names(&self, host: HostId) -> bool {
        self.voters.iter().any(|voter| voter.host == host)
    }
}

pub(super) fn check_voters(document: &str, voters: &[Voter]) -> Result<(), Invalid> {
    Invalid::unless((1..=VOTERS_MAX).contains(&voters.len()), || {
        format!("a {document} names 1 to {VOTERS_MAX} voters, not {}", voters.len())
    })?;
    Invalid::unless(voters.is_sorted_by(|a, b| a.host < b.host), || {
        format!("the voters of a {document} are sorted by key, each once")
    })?;
    Invalid::unless(voters.iter().all(|voter| voter.host.key().is_strong()), || {
        "a voter's key is weak".into()
    })
}

/// "This content may run as this application." Signed by the release role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// What people call it.
    pub label: ReleaseLabel,
    /// The manifest of the revision that this one was cut against, if any.
    pub parent: Option<Digest>,
    /// The hash of the manifest: the revision's id.
    pub manifest: Digest,
    /// When it was signed.
    pub created_at: UnixSeconds,
    /// The application that it belongs to.
    pub application: ApplicationName,
    /// The machine architecture it is for, as Rust names it (`x86_64`); none means any.
    pub architecture: Option<LabelText>,
    /// Values of the label `environment` under which it may run; empty means any.
    pub environments: Vec<LabelText>,
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
}

impl Document for Release {
    const CONTEXT: &'static str = "release/1";
    const NAME: &'static str = "release";
    const BYTES_MAX: usize = DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        Invalid::unless(self.content_bytes <= REVISION_BYTES_MAX, || {
            format!("a revision has at most {REVISION_BYTES_MAX} bytes, not {}", self.content_bytes)
        })?;
        Invalid::unless(self.manifest_bytes <= MANIFEST_BYTES_MAX as u64, || {
            format!(
                "a manifest has at most {MANIFEST_BYTES_MAX} bytes, not {}",
                self.manifest_bytes
            )
        })?;
        Invalid::unless(
            self.environments.len() <= LABELS_MAX && self.environments.is_sorted_by(|a, b| a < b),
            || format!("environments are sorted, each once, at most {LABELS_MAX}"),
        )
    }
}

/// "I hold the release and am ready: let me be disrupted." Signed by the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The host that asks.
    pub host: HostId,
    /// The deploy order that it follows.
    pub order: Digest,
    /// The release that it would run: the order's, or its fallback.
    pub release: Digest,
}

impl Document for Want {
    const CONTEXT: &'static str = "want/1";
    const NAME: &'static str = "slot request";
    const BYTES_MAX: usize = SLOT_DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

impl HostSigned for Want {
    fn host(&self) -> HostId {
        self.host
    }
}

/// "I am done with my slot, and this is what came of it." Signed by the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The host that held the slot.
    pub host: HostId,
    /// The slot: the index of the entry that granted it.
    pub token: u64,
    /// What happened.
    pub outcome: Outcome,
}

/// How a host's part in a deployment ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The release runs and the host was healthy for the time that the group asks.
    Succeeded,
    /// A lifecycle event failed.
    Failed {
        /// The last lines of the event's log.
        log: String,
        /// AWS's error code: 1 missing, 2 not executable, 3 timed out, 4 failed, 5 other, 6 outputs
        /// left open.
        code: u8,
        /// The event.
        event: LifecycleEvent,
        /// The script, or empty where no script was to blame.
        script: String,
        /// What happened, for people.
        message: String,
        /// True if the previous revision runs again and is healthy; false if the host is now in
        /// the failed state and counts as down.
        restored: bool,
    },
    /// Nothing was done: a stop arrived first, or the executor refused. The slot was not used.
    Declined {
        /// Why.
        reason: String,
    },
}

impl Document for Done {
    const CONTEXT: &'static str = "done/1";
    const NAME: &'static str = "slot return";
    const BYTES_MAX: usize = SLOT_DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        match &self.outcome {
            Outcome::Succeeded => Ok(()),
            Outcome::Declined { reason } => check_text("reason", reason),
            Outcome::Failed { script, message, log, .. } => {
                check_text("message", message)?;
                Invalid::unless(script.len() <= crate::limits::PATH_BYTES_MAX, || {
                    "the script's path is too long".into()
                })?;
                Invalid::unless(log.len() <= LOG_TAIL_BYTES_MAX, || {
                    format!("a log tail has at most {LOG_TAIL_BYTES_MAX} bytes")
                })
            }
        }
    }
}

impl HostSigned for Done {
    fn host(&self) -> HostId {
        self.host
    }
}

/// "I hold no slot but those of this generation's ledger." Signed by the host, after voters were lost
/// and with them, maybe, slots that they had granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The host.
    pub host: HostId,
    /// What runs on it, of each group of which something does: the ledger may have lost the word of it.
    pub runs: BTreeMap<GroupName, Digest>,
    /// The groups of which nothing runs on it any more, though that ledger has it that something does.
    pub broken: BTreeSet<GroupName>,
    /// The generation of voters whose receipts its executor heeds, and no older one's.
    pub generation: u64,
}

impl Document for Counted {
    const CONTEXT: &'static str = "counted/3";
    const NAME: &'static str = "statement about slots";
    const BYTES_MAX: usize = SLOT_DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        let most = self.broken.len().max(self.runs.len());
        Invalid::unless(most <= GROUPS_PER_HOST_MAX, || {
            format!("a host is in at most {GROUPS_PER_HOST_MAX} groups")
        })
    }
}

impl HostSigned for Counted {
    fn host(&self) -> HostId {
        self.host
    }
}

/// "I have applied this entry of the ledger." Signed by a voter; a majority of them is proof that
/// the fleet agreed, whatever a leader says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The hash of the entry.
    pub entry: Digest,
    /// The entry's index in the ledger; a slot's token.
    pub index: u64,
    /// The voter that signed.
    pub voter: HostId,
    /// What the entry gave.
    pub subject: Subject,
    /// The generation of voters in which it counts.
    pub generation: u64,
}

/// What a receipt vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A host may be disrupted to run a release.
    Slot {
        /// The holder.
        host: HostId,
        /// The holder's own number, so that an old receipt proves nothing.
        nonce: Nonce,
        /// The deploy order.
        order: Digest,
        /// The release to run.
        release: Digest,
    },
    /// A certificate made with a join token is one of those that the token allows.
    Admission {
        /// The id of the member document.
        member: Digest,
    },
}

impl Document for Receipt {
    const CONTEXT: &'static str = "receipt/1";
    const NAME: &'static str = "receipt";
    const BYTES_MAX: usize = SLOT_DOCUMENT_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

impl HostSigned for Receipt {
    fn host(&self) -> HostId {
        self.voter
    }
}

/// Cuts a text to what a document may carry.
pub fn fit_text(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

pub(super) fn check_text(what: &str, text: &str) -> Result<(), Invalid> {
    Invalid::unless(text.len() <= TEXT_BYTES_MAX, || {
        format!("the {what} has {} bytes; at most {TEXT_BYTES_MAX} are allowed", text.len())
    })
}
