//! What must survive a crash: one file for each group, replaced whole before a step is taken.
//!
//! Every file here and every list beside a revision is sealed: a checksum, then the value. What was
//! damaged is found when it is read, and what could not be read again is not written.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use groundswell_protocol::{
    cbor,
    execute::{LifecycleEvent, Source, Stopped, is_done_with},
    ids::{Digest, GroupName, ReleaseLabel},
    trust::{Order, Outcome, Signed},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    deployment::{DeploymentName, Event},
    layout::make_dir,
    regular,
};

/// What the executor remembers of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupState {
    pub(crate) group: GroupName,
    /// The newest order that was accepted, and its id; 0 before the first.
    pub(crate) sequence: u64,
    pub(crate) head: Digest,
    /// The orders that may be followed, oldest first: the newest one that waits for no other, and those
    /// after it that wait for their turn. To begin with one gives up those before it.
    pub(crate) deploys: Vec<Signed<Order>>,
    /// Orders that were stopped.
    pub(crate) stopped: Vec<Stopped>,
    /// Slots that an operator released while this host may have held them, or that it gave up unused.
    pub(crate) released: Vec<u64>,
    /// The last slot that was used and closed; 0 before the first.
    #[serde(default)]
    pub(crate) closed: u64,
    /// What runs and is healthy.
    pub(crate) current: Option<Installed>,
    /// Whose files are in place; differs from `current` after a failure.
    pub(crate) installed: Option<Installed>,
    /// The deployment of which only some files may be in place, over those of `installed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) half_installed: Option<DeploymentName>,
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
    /// Where it is laid out, and with it the list of what it put in place.
    pub(crate) deployment: DeploymentName,
}

/// What a group has on this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// What runs and is healthy.
    pub(crate) current: Option<Installed>,
    /// Whose files are in place; differs from `current` after a failure.
    pub(crate) installed: Option<Installed>,
    /// The deployment of which only some files may be in place, over those of `installed`. The next one takes
    /// them back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) half_installed: Option<DeploymentName>,
    /// What came last, whether or not it was installed. Fleets have no event of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) most_recent: Option<Installed>,
}

impl Standing {
    /// The older revision that an event runs from.
    pub(crate) fn at(&self, source: Source) -> Option<&Installed> {
        match source {
            Source::Current => None,
            Source::LastSuccessful => self.installed.as_ref(),
            Source::MostRecent => self.most_recent.as_ref(),
        }
    }

    /// Everything that is named, whose directories stay.
    pub(crate) fn named(&self) -> impl Iterator<Item = &Installed> {
        [&self.current, &self.installed, &self.most_recent].into_iter().flatten()
    }
}

/// A slot in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Activation {
    pub(crate) token: u64,
    pub(crate) order: Digest,
    /// The order itself: the group may have a newer one before this has ended.
    pub(crate) deploy: Signed<Order>,
    pub(crate) release: Digest,
    pub(crate) deployment: DeploymentName,
    /// The group's state when it began, to go back to.
    pub(crate) before_current: Option<Installed>,
    pub(crate) before_installed: Option<Installed>,
    pub(crate) step: Step,
}

impl Activation {
    /// What the group had when it began.
    pub(crate) fn before(&self) -> Standing {
        Standing {
            current: self.before_current.clone(),
            installed: self.before_installed.clone(),
            half_installed: None,
            most_recent: None,
        }
    }
}

/// How far an activation is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// What the revision needs of this host is looked for, and nothing is disturbed yet.
    Check,
    /// This event of the new revision runs.
    Forward(Event),
    /// This event of the restoration runs; the failure that led to it.
    Back(Event, Box<End>),
    /// Over.
    Ended(End),
}

impl Step {
    /// The event that it is part of, or the end. What is looked for before the first event is part of that.
    pub(crate) fn event(&self) -> Result<Event, &End> {
        match self {
            Self::Check => Ok(LifecycleEvent::ApplicationStop.into()),
            Self::Forward(event) | Self::Back(event, _) => Ok(event.clone()),
            Self::Ended(end) => Err(end),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// How a deployment has ended on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum End {
    Succeeded,
    Failed(Failure),
}

/// A failed event and what became of the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The end of what the event's scripts printed.
    pub(crate) log: String,
    /// By AWS's codes.
    pub(crate) code: u8,
    pub(crate) event: Event,
    /// The script that has failed; empty if it was none.
    pub(crate) script: String,
    pub(crate) message: String,
    /// Whether the revision before runs again.
    pub(crate) restored: bool,
}

impl End {
    /// The same, as a fleet hears of it.
    pub(crate) fn outcome(&self) -> Outcome {
        let Self::Failed(failure) = self else { return Outcome::Succeeded };
        let Failure { log, code, event, script, message, restored } = failure.clone();
        Outcome::Failed { log, code, event: event.of_fleet(), script, message, restored }
    }
}

impl GroupState {
    pub(crate) fn new(group: GroupName) -> Self {
        Self {
            group,
            sequence: 0,
            head: Digest::ZERO,
            deploys: Vec::new(),
            stopped: Vec::new(),
            released: Vec::new(),
            closed: 0,
            current: None,
            installed: None,
            half_installed: None,
            staged: Vec::new(),
            activation: None,
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        Standing {
            current: self.current.clone(),
            installed: self.installed.clone(),
            half_installed: self.half_installed,
            most_recent: None,
        }
    }

    /// Closes what was done under a slot. Nothing begins under it again.
    pub(crate) fn close(&mut self, token: u64) {
        self.activation = None;
        self.closed = self.closed.max(token);
        self.released.retain(|released| *released > token);
    }

    /// True if nothing may begin under a slot any more.
    pub(crate) fn is_done_with(&self, token: u64) -> bool {
        is_done_with(token, self.closed, &self.released)
    }

    /// Notes that a slot is not to be acted on.
    pub(crate) fn release(&mut self, token: u64) {
        if !self.is_done_with(token) {
            self.released.push(token);
            let surplus = self.released.len().saturating_sub(RELEASED_KEPT);
            self.released.drain(..surplus);
        }
    }

    /// Ends an activation whose slot an operator released and that no thread works on. Nobody vouches
    /// for the slot any more, so it can neither go on nor back: the host is left as it is, which the
    /// fleet counts as down, until a deployment with a slot of its own mends it.
    pub(crate) fn end_released(&mut self) {
        let released = &self.released;
        let held = self.activation.as_mut().filter(|held| released.contains(&held.token));
        let Some(Activation { step, deployment, before_installed, .. }) = held else { return };
        let Ok(event) = step.event() else { return };
        let installed = self.installed.as_ref().map(|installed| installed.deployment);
        let is_whole = matches!(step, Step::Forward(_)) && installed == Some(*deployment);
        if *step != Step::Check && !is_whole {
            self.half_installed = Some(*deployment);
            self.installed.clone_from(before_installed);
        }
        *step = Step::Ended(End::Failed(Failure {
            log: String::new(),
            // As AWS's agent tells of what was under way when it ended.
            code: 7,
            event,
            script: String::new(),
            message: "an operator released the slot while the host was away".into(),
            restored: false,
        }));
        self.current = None;
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        write_sealed(&dir.join(format!("{}.{STATE}", self.group)), self)
    }
}

/// Reads all groups. A damaged file is an error: guessing what a host was doing is worse.
pub(crate) fn read(dir: &Path) -> io::Result<BTreeMap<GroupName, GroupState>> {
    make_dir(dir)?;
    let mut groups = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // A group's name may have any ending; what follows it is ours.
        match path.extension().and_then(OsStr::to_str) {
            Some(STATE) => {}
            Some(NEW) => {
                fs::remove_file(&path)?;
                continue;
            }
            _ => continue,
        }
        let state: GroupState = read_sealed(&path)?;
        if path.file_stem().and_then(OsStr::to_str) != Some(state.group.as_str()) {
            return Err(damaged(&path, &format!("it is of group {}", state.group)));
        }
        groups.insert(state.group.clone(), state);
    }
    Ok(groups)
}

/// Writes a value with its checksum, durably. A value that is too long to be read again is refused.
pub(crate) fn write_sealed<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &seal(value, JOURNAL_BYTES_MAX)?)
}

/// Reads what [`write_sealed`] wrote. The error names the file.
pub(crate) fn read_sealed<T: Serialize + DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = regular::read(path, JOURNAL_BYTES_MAX)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    open(&bytes).map_err(|reason| damaged(path, &reason))
}

fn seal<T: Serialize>(value: &T, bytes_max: usize) -> io::Result<Vec<u8>> {
    let body = cbor::encode(value);
    let bytes = [&checksum(&body)[..], &body].concat();
    if bytes.len() > bytes_max {
        return Err(io::Error::other(format!(
            "what must be noted has {} bytes, and at most {bytes_max} can be: the revision has too \
             many files or too long paths",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn open<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (sum, body) = bytes.split_first_chunk::<32>().ok_or("it is too short")?;
    if *sum != checksum(body) {
        return Err("its checksum is wrong".into());
    }
    cbor::decode(body, JOURNAL_BYTES_MAX).map_err(|error| error.to_string())
}

fn checksum(body: &[u8]) -> [u8; 32] {
    blake3::derive_key("groundswell 2026 executor journal", body)
}

fn damaged(path: &Path, reason: &str) -> io::Error {
    let message = format!("{} is damaged ({reason})", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Writes a value with its checksum. To make it durable is for the caller, who has more of that.
pub(crate) fn write_sealed_for_now<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace_for_now(path, &seal(value, JOURNAL_BYTES_MAX)?)
}

/// Replaces a file whole, durably. Only this process's user may read it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (file, beside) = write_beside(path, bytes)?;
    durable(path, file.sync_all());
    fs::rename(&beside, path)?;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    durable(path, File::open(dir).and_then(|dir| dir.sync_all()));
    Ok(())
}

/// The same, and to make it durable is for the caller.
pub(crate) fn replace_for_now(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (_, beside) = write_beside(path, bytes)?;
    fs::rename(&beside, path)
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    make_dir(dir)?;
    let beside = dir.join(format!("{}.{NEW}", name.to_string_lossy()));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    Ok((file, beside))
}

/// Ends the process where something was not made durable. The system may have dropped what it could not
/// write and say the next time that all is well: only what is read again after a new start can be relied on.
pub(crate) fn durable(path: &Path, synced: io::Result<()>) {
    if let Err(error) = synced {
        crate::give_up(&format!("{} cannot be made durable: {error}", path.display()));
    }
}

/// The ending of a group's file, and of one that is being written.
const STATE: &str = "state";
const NEW: &str = "new";

/// A sealed file. The longest are the lists of a revision's files: 200,000 paths of 1300 bytes.
const JOURNAL_BYTES_MAX: usize = 256 << 20;
/// Tokens only grow, and a host holds one at a time: older ones are of no interest.
const RELEASED_KEPT: usize = 16;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn group(name: &str) -> GroupState {
        GroupState { sequence: 7, ..GroupState::new(GroupName::new(name).unwrap()) }
    }

    #[test]
    fn groups_of_any_name_survive_a_restart_and_half_written_files_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["web", "web.state", "web.state.new", "web.new", "new"];
        for name in names {
            group(name).write(dir.path()).unwrap();
        }
        fs::write(dir.path().join("web.state.new"), "half").unwrap();
        let read = read(dir.path()).unwrap();
        assert_eq!(read.len(), names.len());
        for name in names {
            assert_eq!(read[&GroupName::new(name).unwrap()], group(name));
        }
        assert!(!dir.path().join("web.state.new").exists());
        let mode = fs::metadata(dir.path().join("web.state")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_change_of_any_byte_is_found_and_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        group("web").write(dir.path()).unwrap();
        let path = dir.path().join("web.state");
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            fs::write(&path, bad).unwrap();
            let error = read(dir.path()).unwrap_err().to_string();
            assert!(error.contains("web.state is damaged"), "{index}: {error}");
        }
        fs::write(&path, &good[..20]).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("web.state is damaged"));
        fs::rename(&path, dir.path().join("db.state")).unwrap();
        fs::write(dir.path().join("db.state"), &good).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("it is of group web"));
    }

    #[test]
    fn an_end_is_written_as_the_fleet_hears_of_it() {
        let failure = Failure {
            log: "[stdout]x\n".into(),
            code: 4,
            event: LifecycleEvent::AfterInstall.into(),
            script: "run".into(),
            message: "no".into(),
            restored: true,
        };
        for end in [End::Succeeded, End::Failed(failure)] {
            assert_eq!(cbor::encode(&end), cbor::encode(&end.outcome()));
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let value = vec![1_u8; 20];
        let bytes = seal(&value, 1000).unwrap().len();
        assert_eq!(open::<Vec<u8>>(&seal(&value, bytes).unwrap()).unwrap(), value);
        let error = seal(&value, bytes - 1).unwrap_err().to_string();
        assert!(error.contains("too many files or too long paths"), "{error}");
    }
}
