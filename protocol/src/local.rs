//! What `swell local` and the executor say to each other: a deployment of this host alone.
//!
//! This is no request to an executor that serves a fleet. It is read by a process that the person who
//! deploys has started, which has that person's rights and no others; so it may name paths, and nobody
//! has to sign it.

use serde::{Deserialize, Serialize};

use crate::{
    execute::Lifecycle,
    ids::{Digest, GroupName},
    revision::{FileExistsBehavior, Script},
};

/// What is to be done, as one CBOR value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDeployment {
    /// Where revisions are laid out and logged, and what is remembered of them.
    pub root: String,
    /// The settings of the executor that deploys here for a fleet, if this host is in one.
    pub executor: String,
    /// Where the revision's manifest and frames are, by their hashes. It is removed when the revision is
    /// laid out.
    pub store: String,
    /// The manifest's id.
    pub manifest: Digest,
    /// The id of the group: deployments of one group follow each other.
    pub group: GroupName,
    /// What scripts are told that the group is called.
    pub group_name: String,
    /// What scripts are told that the application is called.
    pub application: String,
    /// Of which revision events are that come before the new one is there.
    pub lifecycle: Lifecycle,
    /// The events, in the order in which they run, each once. Without Install among them the revision is
    /// not laid out, and the events are of what is there.
    pub events: Vec<String>,
    /// The scripts of events that CodeDeploy does not know. No manifest can have them.
    pub custom: Vec<CustomEvent>,
    /// What to do with files in the way; the appspec's own setting wins.
    pub file_exists_behavior: FileExistsBehavior,
    /// Go on if the previous revision's ApplicationStop fails.
    pub ignore_application_stop_failures: bool,
    /// Whether a failure leads back to the revision before.
    pub goes_back: bool,
    /// How many deployments of the group stay on this host, this one included.
    pub revisions_kept: u32,
}

/// An event that only one deployment has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomEvent {
    /// Its name.
    pub name: String,
    /// In the order in which they run.
    pub scripts: Vec<Script>,
}

/// What became of it so far: CBOR values, each in a frame like those of [`Request`](crate::execute::Request).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalNews {
    /// Another deployment is at work, of this host alone or of its fleet; this one waits for its end.
    Waiting {
        /// Which one.
        holder: String,
    },
    /// The last deployment of the group was interrupted, and its files were taken back.
    TakenBack {
        /// What it was called.
        deployment: String,
    },
    /// The revision is laid out, and its lifecycle begins.
    Begun {
        /// What the deployment is called.
        deployment: String,
        /// Where it is.
        dir: String,
        /// What its scripts print.
        log: String,
    },
    /// An event begins.
    Event {
        /// Its name.
        name: String,
        /// True while the revision before is being put back.
        restoring: bool,
    },
    /// Nothing more comes.
    Ended(LocalEnd),
}

/// How a deployment of this host alone has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalEnd {
    /// The revision runs.
    Succeeded,
    /// An event failed.
    Failed {
        /// The last lines of the event's log.
        log: String,
        /// AWS's error code.
        code: u8,
        /// The event.
        event: String,
        /// The script, or empty where no script was to blame.
        script: String,
        /// What happened, for people.
        message: String,
        /// True if the previous revision runs again.
        restored: bool,
    },
    /// Nothing was begun.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}
