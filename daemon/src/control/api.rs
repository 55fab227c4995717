//! What is said on the control socket, and what `--json` prints. Fields are added, never changed;
//! a change of meaning is a new `version`.

use serde::{Deserialize, Serialize};

/// The version of these shapes.
pub const VERSION: u32 = 1;

/// The whole fleet, as this host knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fleet {
    /// [`VERSION`].
    pub version: u32,
    /// The fleet's id.
    pub id: String,
    /// The fleet's name.
    pub name: String,
    /// How many root keys must sign.
    pub root_threshold: u8,
    /// How many root keys there are.
    pub root_keys: usize,
    /// The name of this host.
    pub me: String,
    /// True once the ledger knows this host.
    pub joined: bool,
    /// What another host said when it turned this one away, while nobody lets it in.
    pub turned_away: Option<String>,
    /// True if this host's executor answers.
    pub executor: bool,
    /// The name of the consensus leader, if one is known.
    pub leader: Option<String>,
    /// The last entry of the ledger that was applied here.
    pub applied: u64,
    /// Sorted by name.
    pub hosts: Vec<Host>,
    /// Sorted by name.
    pub groups: Vec<Group>,
    /// Sorted by application, then label.
    pub releases: Vec<Release>,
    /// The slots that are held, by token.
    pub slots: Vec<Slot>,
    /// Hosts that an operator wrote off and that were not heard of since.
    #[serde(default)]
    pub written_off: Vec<WriteOff>,
    /// Sorted by key.
    pub voters: Vec<Voter>,
    /// Whom this host waits for, if it is a voter that may have forgotten something.
    #[serde(default)]
    pub doubt: Option<Doubt>,
    /// The last entry of a log that this voter was told of after its machine was started, and does not
    /// have: it votes only for who has as much.
    #[serde(default)]
    pub lacks: Option<u64>,
    /// How often the voters can change by themselves yet; null from an older daemon.
    #[serde(default)]
    pub voter_changes_left: Option<usize>,
    /// The generation of voters with which operators let the fleet go on when a majority was lost.
    #[serde(default)]
    pub recovered_at: Option<u64>,
    /// Deployments that run, newest first, and the last one that ended.
    pub deployments: Vec<Summary>,
    /// Where this host looks for the fleet while it is connected to nobody.
    #[serde(default)]
    pub seeds: Vec<Seed>,
}

/// A place where this host looks for the fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seed {
    /// Its address, or its name, as `/dns/NAME/tcp/PORT`.
    pub address: String,
    /// Seconds since it was tried; none if there was no need yet.
    pub tried_seconds_ago: Option<u64>,
    /// True if a member of the fleet answered at the last attempt.
    pub answered: bool,
    /// What went wrong at the last attempt.
    pub error: Option<String>,
}

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Its key.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels, as `key=value` joined by commas.
    pub labels: String,
    /// Its zone.
    pub zone: Option<String>,
    /// `reachable`, `suspect`, `unreachable` or `unknown`.
    pub standing: String,
    /// Seconds since anything was heard of it.
    pub heard_seconds_ago: Option<u64>,
    /// False if it counts as down.
    pub healthy: bool,
    /// True if its daemon was told to stop, and nothing newer is known of it.
    #[serde(default)]
    pub stopped: bool,
    /// True if a second machine speaks with its key.
    #[serde(default)]
    pub doubled: bool,
    /// False until it has said that it holds no slot which was lost with the voters who granted it.
    #[serde(default = "yes")]
    pub counted: bool,
    /// Since when operators keep it for themselves, in seconds since 1970.
    #[serde(default)]
    pub drained: Option<u64>,
    /// The number of the last word that drained it or gave it back; 0 where there was none.
    #[serde(default)]
    pub drain_sequence: u64,
    /// True if this host has a link to it.
    pub connected: bool,
    /// The version of its daemon.
    pub version: Option<String>,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// What it does in each of its groups.
    pub groups: Vec<HostGroup>,
}

/// A host in a group, by its own record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostGroup {
    /// The group.
    pub group: String,
    /// `idle`, `staging`, `waiting`, `running`, `restoring`, `watching` or `failed`; `no executor` while
    /// its daemon cannot reach `swell-exec`, `unknown` before anything was heard of it.
    pub state: String,
    /// The lifecycle event, while one runs.
    pub event: Option<String>,
    /// Hundredths of the revision that are here, while it is fetched.
    pub percent: Option<u8>,
    /// The label of the release that runs.
    pub release: Option<String>,
    /// The slot that it holds.
    pub slot: Option<u64>,
    /// Seconds for which this host has seen it so.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// What it runs, beside the group's last good release: `last good`, `older`, `newer` or `none`.
    /// Null while it does not say.
    #[serde(default)]
    pub runs: Option<String>,
}

/// One deployment group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its application.
    pub application: String,
    /// Which hosts it selects; empty for all.
    pub filter: String,
    /// The version of its settings.
    pub version: u64,
    /// Its deployment configuration.
    pub configuration: String,
    /// Names of its hosts.
    pub hosts: Vec<String>,
    /// Names of those that are down.
    pub down: Vec<String>,
    /// How many may be down at once.
    pub quota: usize,
    /// The label of the last release that succeeded.
    pub last_good: Option<String>,
    /// The id of that release.
    pub last_good_release: Option<String>,
    /// The id of the release that `swell rollback` brings it to.
    #[serde(default)]
    pub way_back: Option<String>,
    /// The sequence of its newest order.
    pub sequence: u64,
    /// The id of its newest order.
    pub head: String,
    /// The deployment that runs.
    pub running: Option<String>,
    /// Deployments that wait for their turn.
    #[serde(default)]
    pub queue: Vec<String>,
    /// Since when operators let nothing begin in it, in seconds since 1970.
    #[serde(default)]
    pub frozen: Option<u64>,
    /// Names of hosts that were away, or are new, and that nothing brings where the others are before the
    /// next order.
    #[serde(default)]
    pub wait_for_order: Vec<String>,
    /// Hosts that were away are brought to the last good release when they return.
    #[serde(default)]
    pub catch_up: bool,
    /// New hosts are brought to the last good release.
    #[serde(default)]
    pub deploy_to_new_hosts: bool,
    /// Orders for the group name the last good release as their fallback, unless told otherwise.
    #[serde(default = "yes")]
    pub automatic_rollback: bool,
    /// More failed hosts than this end a deployment.
    #[serde(default)]
    pub failure_budget: Option<u32>,
    /// Its settings in force, as the file that `swell group apply` takes.
    #[serde(default)]
    pub settings: Option<String>,
}

fn yes() -> bool {
    true
}

/// One release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    /// Its id.
    pub id: String,
    /// Its application.
    pub application: String,
    /// Its label.
    pub label: String,
    /// The id of the revision that may run.
    #[serde(default)]
    pub revision: String,
    /// Bytes of its files.
    pub content_bytes: u64,
    /// When it was signed, in seconds since 1970.
    pub created_at: u64,
}

/// A release, and what runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Released {
    /// The release.
    #[serde(flatten)]
    pub release: Release,
    /// Names of the hosts that run it.
    pub hosts: Vec<String>,
    /// Names of the groups whose last good release it is.
    pub last_good_of: Vec<String>,
}

/// A slot that is held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// The slot.
    pub token: u64,
    /// The holder's name.
    pub host: String,
    /// The deployment.
    pub deployment: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The group that the deployment is of.
    #[serde(default)]
    pub group: String,
    /// Seconds since anything was heard of the holder.
    #[serde(default)]
    pub silent_seconds: Option<u64>,
    /// When an operator ordered its release, in seconds since 1970: it is free after a hold-off.
    #[serde(default)]
    pub released: Option<u64>,
    /// True if the deployment is over, and has not waited for the holder.
    #[serde(default)]
    pub is_left: bool,
}

/// A host that was written off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteOff {
    /// Its name.
    pub host: String,
    /// The slot that it held; null if it may have held one that was lost with the voters.
    pub token: Option<u64>,
    /// The deployment.
    pub deployment: Option<String>,
    /// Since when it is written off, in seconds since 1970.
    pub since: u64,
}

/// A voter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Voter {
    /// Its name.
    pub name: String,
    /// True if it leads.
    pub leader: bool,
    /// Like a host's.
    pub standing: String,
}

/// A voter whose machine was started: its disk may have been put back to an older state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Doubt {
    /// The voters that have answered what it may have forgotten.
    pub heard: Vec<String>,
    /// How many have to.
    pub needed: usize,
}

/// The answer to somebody who says that the disk was not put back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskTrusted {
    /// True if this host votes from now on.
    pub was_in_doubt: bool,
}

/// A deployment in one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Its id.
    pub id: String,
    /// Its group.
    pub group: String,
    /// The label of its release.
    pub label: String,
    /// `operator`, `rollback` or `catch-up`.
    pub creator: String,
    /// `queued`, `in progress`, `paused`, `baking`, `stopping`, `succeeded`, `failed` or `stopped`.
    pub status: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// What it waits for.
    pub waiting: Option<String>,
    /// How many hosts are done.
    pub succeeded: usize,
    /// How many failed.
    pub failed: usize,
    /// How many are at work.
    pub in_progress: usize,
    /// How many there are.
    pub hosts: usize,
    /// When it began, in seconds since 1970.
    pub created_at: u64,
    /// When it ended.
    pub ended_at: Option<u64>,
    /// The stage whose hosts have their turn, such as `canary` or `zone a`.
    #[serde(default)]
    pub stage: Option<String>,
}

impl Summary {
    /// True if nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "stopped")
    }

    /// For whoever wants to steer a deployment that is over.
    pub fn how_it_ended(&self) -> String {
        let Self { id, group, label, status, .. } = self;
        let at = self.ended_at.map(groundswell_protocol::time::UnixSeconds);
        let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!(
            "{id} ({group} to {label}) has ended already: it {}{at}{reason}",
            match status.as_str() {
                "stopped" => "was stopped",
                other => other,
            }
        )
    }
}

/// A deployment with all that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The line about it.
    pub summary: Summary,
    /// Its application.
    pub application: String,
    /// The release's id.
    pub release: String,
    /// The revision's id.
    pub revision: Option<String>,
    /// The order's id.
    pub order: String,
    /// Its deployment configuration.
    pub configuration: String,
    /// How many hosts of the group may be down for it at once.
    #[serde(default)]
    pub batch: usize,
    /// The operator's reason.
    pub comment: String,
    /// The order that stopped it.
    #[serde(default)]
    pub stopped: Option<Stop>,
    /// The label of the release that it goes back to if it fails.
    pub fallback: Option<String>,
    /// The deployment that follows or precedes it under the same order.
    pub related: Option<String>,
    /// Its hosts, by name.
    pub targets: Vec<Target>,
}

/// An operator's order to stop a deployment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stop {
    /// The operator's reason; may be empty.
    pub reason: String,
    /// When it was signed, in seconds since 1970.
    pub at: u64,
}

/// One host of a deployment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub host: String,
    /// `pending`, `waiting`, `in progress`, `succeeded`, `failed`, `skipped`, `written off` or
    /// `removed`.
    pub status: String,
    /// What it does just now, by its own record, or what is known to keep it from doing anything.
    pub doing: Option<String>,
    /// Seconds for which this host has seen it so.
    #[serde(default)]
    pub doing_seconds: Option<u64>,
    /// True if it should have got on by now, or been heard of: somebody has to look after it.
    #[serde(default)]
    pub stalled: bool,
    /// Hundredths of the way, for a progress bar.
    pub percent: u8,
    /// When it got its slot, in seconds since 1970.
    pub started_at: Option<u64>,
    /// When it gave it back.
    pub ended_at: Option<u64>,
    /// Why it was skipped.
    pub reason: Option<String>,
    /// What failed.
    pub failure: Option<Failure>,
}

/// What failed on a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The lifecycle event.
    pub event: String,
    /// The script.
    pub script: String,
    /// AWS's error code.
    pub code: u8,
    /// What happened.
    pub message: String,
    /// The last lines of the log.
    pub log: String,
    /// True if the previous revision runs again.
    pub restored: bool,
}

/// The answer to a push.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pushed {
    /// The release's id.
    pub release: String,
    /// Its application.
    pub application: String,
    /// Its label.
    pub label: String,
    /// Bytes that were not here before.
    pub new_bytes: u64,
    /// Bytes of the whole revision as it travels.
    pub total_bytes: u64,
}

/// What is in a host's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The version of this shape.
    pub version: u32,
    /// Bytes of all that is here.
    pub bytes: u64,
    /// Bytes that it may have.
    pub bytes_max: u64,
    /// When all of it was read last, in seconds since 1970; null if it was not since the daemon started.
    pub scrubbed_at: Option<u64>,
    /// Damaged frames that were found since the daemon started.
    pub rotten: u64,
    /// The revisions, by name.
    pub revisions: Vec<StoredRevision>,
}

/// A revision in a host's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRevision {
    /// The revision's id.
    pub revision: String,
    /// The releases of it that the fleet knows, each as application and label.
    pub releases: Vec<String>,
    /// Bytes of its frames that are here.
    pub bytes: u64,
    /// Bytes of those that no other revision here has.
    pub bytes_own: u64,
    /// Bytes of those that others have too.
    pub bytes_shared: u64,
    /// How many frames it has.
    pub frames: usize,
    /// How many of them are not here.
    pub frames_lacking: usize,
    /// Bytes of those.
    pub bytes_lacking: u64,
    /// Why it stays, whatever room it takes: `in flight`, `current`, `previous` or `being imported`; null
    /// if it makes way for others.
    pub kept: Option<String>,
}

/// What a scrub came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Frames that were read.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Those that were damaged, manifests included. They are removed, and come from other hosts again.
    pub rotten: usize,
}

/// With which voters a fleet would go on that has lost too many.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecoveryAsked {
    /// The ids of the hosts that should vote.
    pub voters: Vec<String>,
    /// How many voters there should be; missing ones are found among the other hosts. As many as before, if it
    /// is left out.
    #[serde(default)]
    pub seats: Option<u8>,
}

/// The answer to something that went into the ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Its place.
    pub index: u64,
}

/// What `swell group apply` came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// Its place in the ledger; the newest entry if nothing was to do.
    pub index: u64,
    /// The group.
    pub group: String,
    /// The version of its settings now.
    pub version: u64,
    /// False if the settings were what they are already.
    pub changed: bool,
}

/// What `swell identity` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The host's key.
    pub key: String,
}

/// What `swell join` came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The host's name.
    pub host: String,
    /// Its key.
    pub key: String,
    /// The fleet's id.
    pub fleet: String,
}

/// What `swell deploy` and its like begin with `--no-wait`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ordered {
    /// The deployment's id.
    pub deployment: String,
}

/// What `swell logs` prints of a log: a line, or a piece of one that is longer than 64 KiB.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// The deployment's id.
    pub deployment: String,
    /// The host's name.
    pub host: String,
    /// The lifecycle event; none before the first.
    pub event: Option<String>,
    /// What was written, with its time and its mark, such as `[stderr]`, before it.
    pub text: String,
    /// The same bytes, as hexadecimal digits, where they are no UTF-8 and `text` shows only most of them.
    pub bytes: Option<String>,
    /// False if the line goes on in the next one of this host, or was not ended.
    pub ends: bool,
}

/// A change of one host, while a deployment is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The deployment's id.
    pub deployment: String,
    /// The host's name.
    pub host: String,
    /// What it does now: as `doing` of a [`Target`], or its `status`.
    pub state: String,
}

/// What became of a deployment of one host alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Local {
    /// What it is called.
    pub deployment: String,
    /// Where the revision is laid out.
    pub dir: String,
    /// What its scripts have printed.
    pub log: String,
    /// Why it failed; none if it succeeded.
    pub failure: Option<LocalFailure>,
}

/// An event that failed on one host alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalFailure {
    /// AWS's error code.
    pub code: u8,
    /// The event.
    pub event: String,
    /// The script, or empty where no script was to blame.
    pub script: String,
    /// What happened.
    pub message: String,
    /// The end of the event's log.
    pub tail: String,
    /// True if the revision before runs again.
    pub restored: bool,
}

/// The answer to anything that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Why, and what to do.
    pub error: String,
}

#[cfg(test)]
mod tests {
    const SOURCE: &str = include_str!("api.rs");
    const DOCUMENT: &str = include_str!("../../../packaging/json.md");

    /// The rows of the document's table for a type.
    fn documented(name: &str) -> Vec<String> {
        let section = DOCUMENT.split(&format!("\n### {name}\n")).nth(1).unwrap_or_default();
        let section = section.split("\n### ").next().unwrap_or_default();
        let rows =
            section.lines().filter(|line| line.starts_with("| `") || line.starts_with("| all"));
        rows.map(|row| row.split(" | ").take(2).collect::<Vec<_>>().join(" | ")).collect()
    }

    /// A type of Rust as the document says it.
    fn words(of: &str) -> String {
        let inside = |outer: &str| of.strip_prefix(outer).and_then(|rest| rest.strip_suffix('>'));
        if let Some(inner) = inside("Option<") {
            return format!("{} or null", words(inner));
        }
        if let Some(inner) = inside("Vec<") {
            return format!("list of {}", words(inner));
        }
        match of {
            "String" => "text".into(),
            "bool" => "true or false".into(),
            "u8" | "u32" | "u64" | "usize" => "number".into(),
            other => other.into(),
        }
    }

    #[test]
    fn the_shapes_are_those_of_the_document() {
        let source = SOURCE.split("#[cfg(test)]").next().unwrap();
        let types: Vec<_> = source.split("\npub struct ").skip(1).collect();
        assert!(types.len() > 20, "{} types", types.len());
        // These never leave the command as JSON.
        let inner =
            |text: &str| ["Refused ", "RecoveryAsked "].iter().any(|of| text.starts_with(of));
        for text in types.iter().filter(|text| !inner(text)) {
            let (name, body) = text.split_once(" {\n").unwrap();
            let body = body.split("\n}").next().unwrap();
            let flat = body.contains("#[serde(flatten)]");
            let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
            let fields = fields.map(|field| field.trim_end_matches(',').split_once(": ").unwrap());
            let rows: Vec<_> = fields
                .enumerate()
                .map(|(number, (field, of))| match number {
                    0 if flat => format!("| all of {of} | "),
                    _ => format!("| `{field}` | {}", words(of)),
                })
                .collect();
            let known: Vec<_> = documented(name);
            assert_eq!(rows, known, "{name}: bring packaging/json.md up to date");
        }
    }
}
