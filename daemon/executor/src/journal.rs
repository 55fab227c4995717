//! What must survive a crash: one file for each group, replaced whole before a step is taken.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    cbor,
    execute::LifecycleEvent,
    ids::{DeploymentId, Digest, GroupName, ReleaseLabel},
    trust::{Order, Outcome, Signed},
};
use serde::{Deserialize, Serialize};

/// What the executor remembers of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupState {
    pub(crate) group: GroupName,
    /// The newest order that was accepted, and its id; 0 before the first.
    pub(crate) sequence: u64,
    pub(crate) head: Digest,
    /// The newest deploy order, which is the only one that may be followed.
    pub(crate) deploy: Option<Signed<Order>>,
    /// Orders that were stopped.
    pub(crate) stopped: Vec<Digest>,
    /// What runs and is healthy.
    pub(crate) current: Option<Installed>,
    /// Whose files are in place; differs from `current` after a failure.
    pub(crate) installed: Option<Installed>,
    /// Laid out and not yet activated.
    pub(crate) staged: Vec<Digest>,
    pub(crate) activation: Option<Activation>,
}

/// A revision whose files were installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Installed {
    pub(crate) release: Digest,
    pub(crate) label: ReleaseLabel,
    pub(crate) manifest: Digest,
    pub(crate) deployment: DeploymentId,
    /// Files and links that belong to it, sorted.
    pub(crate) files: Vec<PathBuf>,
    /// Directories that it made, parents first.
    pub(crate) directories: Vec<PathBuf>,
}

/// A slot in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Activation {
    pub(crate) token: u64,
    pub(crate) order: Digest,
    pub(crate) release: Digest,
    pub(crate) deployment: DeploymentId,
    /// The group's state when it began, to go back to.
    pub(crate) before_current: Option<Installed>,
    pub(crate) before_installed: Option<Installed>,
    pub(crate) step: Step,
}

/// How far an activation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// This event of the new revision runs.
    Forward(LifecycleEvent),
    /// This event of the restoration runs; the failure that led to it.
    Back(LifecycleEvent, Box<Outcome>),
    /// Over.
    Ended(Outcome),
}

impl GroupState {
    pub(crate) fn new(group: GroupName) -> Self {
        Self {
            group,
            sequence: 0,
            head: Digest::ZERO,
            deploy: None,
            stopped: Vec::new(),
            current: None,
            installed: None,
            staged: Vec::new(),
            activation: None,
        }
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        replace(&dir.join(self.group.as_str()), &cbor::encode(self))
    }
}

/// Reads all groups. A damaged file is an error: guessing what a host was doing is worse.
pub(crate) fn read(dir: &Path) -> io::Result<BTreeMap<GroupName, GroupState>> {
    fs::create_dir_all(dir)?;
    let mut groups = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(".new-")) {
            fs::remove_file(&path)?;
            continue;
        }
        let bytes = fs::read(&path)?;
        let state: GroupState = cbor::decode(&bytes, JOURNAL_BYTES_MAX).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        })?;
        groups.insert(state.group.clone(), state);
    }
    Ok(groups)
}

/// Replaces a file whole, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(dir)?;
    let beside = dir.join(format!(".new-{}", name.to_string_lossy()));
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(dir)?.sync_all()
}

/// The largest revision has 200,000 paths.
pub(crate) const JOURNAL_BYTES_MAX: usize = 256 << 20;
