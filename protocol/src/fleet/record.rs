//! A host's own statement about itself, replicated to every host.

use serde::{Deserialize, Serialize};

use super::records::Version;
use crate::{
    execute::LifecycleEvent,
    ids::{Digest, GroupName, HostId, ReleaseLabel},
    limits::{
        ACCUSATIONS_MAX, ADDRESSES_MAX, GROUPS_PER_HOST_MAX, NAME_BYTES_MAX, RECORD_BYTES_MAX,
    },
    time::UnixSeconds,
    trust::{Document, HostSigned, Invalid},
};

/// A host's statement about itself. The highest `(epoch, sequence)` counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The host.
    pub host: HostId,
    /// Counts the daemon's starts; kept on disk.
    pub epoch: u64,
    /// One element for each group that the host is in or acts for. None while its daemon cannot reach its
    /// executor: a host that is in a group and says nothing of it can do nothing there.
    pub groups: Vec<GroupStatus>,
    /// Hosts that this one finds silent, sorted by host.
    pub accused: Vec<Accusation>,
    /// Again and again it has met newer records of its own, or others under the same number: a second machine
    /// speaks with its key, as a copy of its disk does. Left out if false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubled: bool,
    /// Its daemon was told to stop, and says so with its last word: until it is started again nobody need find
    /// out that it is silent. Left out if false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// The daemon's version.
    pub version: String,
    /// Counts the host's records since its start.
    pub sequence: u64,
    /// It hears few, or wrongly, or has a slow disk: it is no good voter just now. Left out if false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsteady: bool,
    /// Where other daemons reach it, as libp2p multiaddresses.
    pub addresses: Vec<String>,
    /// The host's wall clock when it signed; a label for people.
    pub signed_at: UnixSeconds,
}

impl Record {
    /// What decides whether it is newer than another record of its host.
    pub fn version(&self) -> Version {
        Version { epoch: self.epoch, sequence: self.sequence }
    }
}

/// "I hear nothing from this host."
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Accusation {
    /// The silent host.
    pub host: HostId,
    /// The epoch of its last record; a newer record clears the accusation.
    pub epoch: u64,
    /// The sequence of its last record.
    pub sequence: u64,
}

/// One group, as its host sees itself in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupName,
    /// The deploy order that the host follows or last followed.
    pub order: Option<Digest>,
    /// What it is doing.
    pub state: HostState,
    /// The slot that it holds.
    pub token: Option<u64>,
    /// The release that runs: its id and label.
    pub release: Option<(Digest, ReleaseLabel)>,
}

impl GroupStatus {
    /// True if all that has changed since an earlier status is how far the host has got. Only people look
    /// at that; whoever calls a host stalled by it allows for how rarely a large fleet is told.
    pub fn is_further_than(&self, earlier: &Self) -> bool {
        let same_kind = match (self.state, earlier.state) {
            (
                HostState::Running { restoring, .. },
                HostState::Running { restoring: before, .. },
            ) => restoring == before,
            (now, before) => std::mem::discriminant(&now) == std::mem::discriminant(&before),
        };
        same_kind && Self { state: earlier.state, ..self.clone() } == *earlier
    }
}

/// What a host is doing in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostState {
    /// Nothing; the release that it names runs, or none was ever installed.
    Idle,
    /// Fetching a revision.
    Staging {
        /// Hundredths of its bytes that are here.
        percent: u8,
    },
    /// Ready; waits for a slot.
    Waiting,
    /// In a lifecycle event.
    Running {
        /// The event.
        event: LifecycleEvent,
        /// True while the previous revision is being put back.
        restoring: bool,
    },
    /// A revision runs, the new one or the old one again; the host is watched before the slot is given back.
    Watching,
    /// The last attempt failed and nothing could be put back.
    Failed,
}

impl Document for Record {
    const CONTEXT: &'static str = "record/1";
    const NAME: &'static str = "host record";
    const BYTES_MAX: usize = RECORD_BYTES_MAX;

    fn check(&self) -> Result<(), Invalid> {
        Invalid::unless(self.addresses.len() <= ADDRESSES_MAX, || {
            format!("a host has at most {ADDRESSES_MAX} addresses")
        })?;
        Invalid::unless(self.groups.len() <= GROUPS_PER_HOST_MAX, || {
            format!("a host is in at most {GROUPS_PER_HOST_MAX} groups")
        })?;
        Invalid::unless(
            self.accused.len() <= ACCUSATIONS_MAX
                && self.accused.is_sorted_by(|a, b| a.host < b.host),
            || "accusations are sorted by host, each once".into(),
        )?;
        Invalid::unless(self.version.len() <= NAME_BYTES_MAX, || "the version is too long".into())
    }
}

impl HostSigned for Record {
    fn host(&self) -> HostId {
        self.host
    }
}
