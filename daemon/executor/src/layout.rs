//! Where things are: AWS's layout below the root directory, the journal below the state directory.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use groundswell_protocol::ids::{Digest, FleetId, GroupName};

use crate::{config::Config, deployment::DeploymentName, logs::Places};

/// Which of a group's deployments a marker names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Marker {
    LastSuccessful,
    MostRecent,
}

/// A deployment's directory has its revision under this name.
pub(crate) const ARCHIVE: &str = "deployment-archive";
/// And the manifest of that under this one.
pub(crate) const MANIFEST: &str = "manifest";

/// Makes a directory of this process's own, and those above, whatever the umask: who could write there could have root
/// read what they like.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

impl Config {
    /// The directory of one deployment.
    pub(crate) fn deployment_dir(&self, group: &GroupName, deployment: DeploymentName) -> PathBuf {
        self.root_dir.join(group.as_str()).join(deployment.to_string())
    }

    /// The revision of a deployment, unpacked.
    pub(crate) fn archive(&self, group: &GroupName, deployment: DeploymentName) -> PathBuf {
        self.deployment_dir(group, deployment).join(ARCHIVE)
    }

    /// The manifest of a deployment's revision: what was verified when it was laid out.
    pub(crate) fn own_manifest(&self, group: &GroupName, deployment: DeploymentName) -> PathBuf {
        self.deployment_dir(group, deployment).join(MANIFEST)
    }

    /// Where the script that runs is on record.
    pub(crate) fn hook_record(&self, group: &GroupName, deployment: DeploymentName) -> PathBuf {
        self.deployment_dir(group, deployment).join("hook")
    }

    /// The logs of a deployment's scripts.
    pub(crate) fn script_log(&self, group: &GroupName, deployment: DeploymentName) -> Places {
        let own = self.deployment_dir(group, deployment).join("logs/scripts.log");
        let all = self.all_logs_dir().join("groundswell-deployments.log");
        Places { own, all, deployment }
    }

    /// Where the scripts of all deployments are logged.
    pub(crate) fn all_logs_dir(&self) -> PathBuf {
        self.root_dir.join("deployment-logs")
    }

    /// Where scripts may look for the directory of a group's deployment: the one that came last, or the one
    /// whose files are in place. AWS's agent has the same files.
    pub(crate) fn marker(&self, group: &GroupName, of: Marker) -> PathBuf {
        let name = match of {
            Marker::MostRecent => "most_recent_install",
            Marker::LastSuccessful => "last_successful_install",
        };
        self.root_dir.join("deployment-instructions").join(format!("{group}_{name}"))
    }

    /// Where this process waits for the keepers of scripts.
    pub(crate) fn keepers_dir(&self) -> PathBuf {
        self.socket.with_file_name("scripts")
    }

    /// What is remembered of a group that no fleet knows.
    pub(crate) fn local_group_file(&self, group: &GroupName) -> PathBuf {
        self.journal_dir().join(format!("{group}.local"))
    }

    /// Taken by whoever deploys.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.state_dir.join("lock")
    }

    pub(crate) fn trust_file(&self) -> PathBuf {
        self.state_dir.join("fleet.trust")
    }

    /// The lists of voters that a fleet's first ones were followed by.
    pub(crate) fn voters_file(&self, fleet: FleetId) -> PathBuf {
        self.state_dir.join(format!("{fleet}.voters"))
    }

    pub(crate) fn host_file(&self) -> PathBuf {
        self.state_dir.join("host.id")
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    /// A manifest in the store of `swelld`.
    pub(crate) fn manifest_file(&self, manifest: &Digest) -> PathBuf {
        self.store_dir.join("manifests").join(manifest.to_string())
    }

    pub(crate) fn frame_file(&self, frame: &Digest) -> PathBuf {
        let name = frame.to_string();
        self.store_dir.join("frames").join(&name[..2]).join(name)
    }
}
