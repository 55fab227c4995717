//! One deployment of this host alone, without a fleet: what `swell local` starts this program for.
//!
//! There is nothing to believe here. Whoever started the process could have done by hand all that it does;
//! no daemon can ask for it. What it remembers is below the root that it was told, in files of its own. Of
//! a fleet's executor on the same host it takes the lock, and nothing else; but the files that it installs go
//! where their appspec says, over whatever a fleet has there if they may replace what is in the way.
//!
//! A deployment that was interrupted is not gone on with: the next one of its group takes its files back
//! and begins anew, as the person who starts it can be asked.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    path::Path,
    process::{self, ExitCode},
};

use groundswell_protocol::{
    cbor,
    ids::{DeploymentId, Digest, GroupName, ReleaseLabel},
    limits::{LOCAL_DEPLOYMENT_BYTES_MAX, MANIFEST_BYTES_MAX},
    local::{LocalDeployment, LocalEnd, LocalNews},
    revision::Manifest,
};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{
    config::{self, Config},
    deployment::{Deployment, DeploymentName, Event},
    frame, give_up,
    journal::{self, End, Failure, Installed, Standing, Step},
    layout,
    lifecycle::{self, Work},
    lock, regular, stage,
    unit::Units,
};

/// The argument that asks for it.
pub(crate) const LOCAL: &str = "--local";

/// Reads what to do from the standard input, does it, and tells of it on the standard output.
pub(crate) fn run() -> ExitCode {
    match read(io::stdin()).and_then(deploy) {
        Ok(End::Succeeded) => ExitCode::SUCCESS,
        Ok(End::Failed(_)) => ExitCode::FAILURE,
        Err(reason) => {
            tell(&LocalNews::Ended(LocalEnd::Refused { reason }));
            ExitCode::FAILURE
        }
    }
}

fn read(input: impl Read) -> Result<LocalDeployment, String> {
    let limit = u64::try_from(LOCAL_DEPLOYMENT_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    input
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| format!("what to do cannot be read: {error}"))?;
    cbor::decode(&bytes, LOCAL_DEPLOYMENT_BYTES_MAX)
        .map_err(|error| format!("this is no deployment: {error}; `swell local` hands one over"))
}

/// Nobody may be listening any more: then it is in the log.
fn tell(news: &LocalNews) {
    let mut out = io::stdout();
    drop(frame::write(&mut out, &cbor::encode(news)).and_then(|()| out.flush()));
}

fn deploy(asked: LocalDeployment) -> Result<End, String> {
    let fleet = fleet_here(Path::new(&asked.executor))?;
    let config = settings(&asked, fleet.as_ref())?;
    // Else whoever looks for what was left behind takes it for that.
    let _store = held_dir(Path::new(&asked.store))?;
    let _alone = wait_for_others(&config, fleet.as_ref(), &asked.group)?;
    stage::clear(&config);
    let mut group = Group::read(&config, &asked.group)?;
    group.take_back(&config)?;
    if let Some(installed) = &group.standing.installed {
        // The process may have ended before it did so.
        drop(lifecycle::forget(&config.deployment_dir(&group.id, installed.deployment)));
    }
    let units = Units::of_this_machine(config.scripts, config.keepers_dir())
        .map_err(|error| format!("{}: {error}", config.keepers_dir().display()))?;
    let deployment = lay_out(&config, asked, &group)?;
    let (name, id) = (deployment.name(), deployment.group.clone());
    let before = group.standing.clone();
    group.begin(&config, &deployment)?;
    tell(&LocalNews::Begun {
        deployment: name.to_string(),
        dir: config.deployment_dir(&id, name).display().to_string(),
        log: config.script_log(&id, name).own.display().to_string(),
    });
    let work = Work::new(&config, units.as_ref(), deployment, before.clone(), before);
    let mut last = Step::Check;
    let note = |standing: &Standing, step: &Step| {
        group.note(&config, standing, step);
        tell_step(step);
        last = step.clone();
    };
    work.run(Step::Check, note);
    // As in a fleet, the end was told before what is not needed any more goes. Where the old files could not be
    // put back, their only copies stay.
    if group.standing.half_installed != Some(name) {
        // What cannot be removed now goes with the deployment's directory.
        drop(lifecycle::forget(&config.deployment_dir(&id, name)));
    }
    match last {
        Step::Ended(end) => Ok(end),
        _ => Err("the lifecycle has come to no end".into()),
    }
}

fn tell_step(step: &Step) {
    let event = |event: &Event, restoring| LocalNews::Event { name: event.to_string(), restoring };
    tell(&match step {
        Step::Check => return,
        Step::Forward(next) => event(next, false),
        Step::Back(next, _) => event(next, true),
        Step::Ended(End::Succeeded) => LocalNews::Ended(LocalEnd::Succeeded),
        Step::Ended(End::Failed(failure)) => {
            let Failure { log, code, event, script, message, restored } = failure.clone();
            let event = event.to_string();
            LocalNews::Ended(LocalEnd::Failed { log, code, event, script, message, restored })
        }
    });
}

/// Where everything is. Only the person who deploys can write there, or whom that person lets.
fn settings(asked: &LocalDeployment, fleet: Option<&Config>) -> Result<Config, String> {
    let (root, store) = (Path::new(&asked.root), Path::new(&asked.store));
    if !root.is_absolute() || !store.is_absolute() {
        return Err(format!("{} and {} must be absolute", root.display(), store.display()));
    }
    if RESERVED.contains(&asked.group.as_str()) {
        return Err(format!(
            "no group can have the id {}: it names another directory",
            asked.group
        ));
    }
    let config = Config {
        state_dir: root.join(RESERVED[0]),
        root_dir: root.to_owned(),
        store_dir: store.to_owned(),
        // Nobody asks at a socket; the keepers of scripts connect beside it.
        socket: "/run/swell-local/exec.sock".into(),
        ..Config::default()
    };
    let is_fleets = |fleet: &Config| {
        [&fleet.root_dir, &fleet.state_dir, &fleet.store_dir].into_iter().any(|place| {
            let [place, root] =
                [place, root].map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.into()));
            root.starts_with(&place) || place.starts_with(&root)
        })
    };
    let is_anothers = config.all_logs_dir().exists() && !config.lock_file().exists();
    if is_anothers || fleet.is_some_and(is_fleets) {
        return Err(format!(
            "{} is where deployments of a fleet are: name a directory of its own as root_dir",
            root.display()
        ));
    }
    layout::make_dir(&config.state_dir)
        .map_err(|error| format!("{}: {error}", config.state_dir.display()))?;
    Ok(config)
}

/// The settings of the executor that serves a fleet on this host.
fn fleet_here(settings: &Path) -> Result<Option<Config>, String> {
    if !settings.exists() {
        return Ok(None);
    }
    config::load(settings).map(Some)
}

fn held_dir(dir: &Path) -> Result<Flock<File>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", dir.display());
    let dir = File::open(dir).map_err(|error| failed(&error))?;
    Flock::lock(dir, FlockArg::LockShared).map_err(|(_, error)| failed(&error))
}

/// One deployment at a time, of whatever group and of the fleet's: they may need the same directories.
fn wait_for_others(
    config: &Config,
    fleet: Option<&Config>,
    group: &GroupName,
) -> Result<[Option<Flock<File>>; 2], String> {
    let who = format!("the deployment of group {group} by swell local, process {}", process::id());
    let take = |config: &Config| {
        lock::take_alone(&config.lock_file(), &who, |holder| tell(&LocalNews::Waiting { holder }))
    };
    let failed = |config: &Config, error| format!("{}: {error}", config.lock_file().display());
    let own = take(config).map_err(|error| failed(config, error))?;
    let fleets = fleet.map(|fleet| match take(fleet) {
        Ok(lock) => Ok(Some(lock)),
        // Who may not go there can do nothing to what the fleet deploys; or its executor never ran.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => {
            Ok(None)
        }
        Err(error) => Err(failed(fleet, error)),
    });
    Ok([Some(own), fleets.transpose()?.flatten()])
}

/// Lays the revision out, and gives what is to be done with it.
fn lay_out(config: &Config, asked: LocalDeployment, group: &Group) -> Result<Deployment, String> {
    let mut number = [0; 32];
    getrandom::fill(&mut number).map_err(|e| format!("the system has no randomness: {e}"))?;
    let name = DeploymentName::local(DeploymentId::of(Digest(number), false));
    let path = config.manifest_file(&asked.manifest);
    let manifest = regular::read(&path, MANIFEST_BYTES_MAX)
        .map_err(|error| error.to_string())
        .and_then(|bytes| {
            let same = Manifest::id_of(&bytes) == asked.manifest;
            same.then_some(bytes).ok_or_else(|| "it is another manifest".into())
        })
        .and_then(|bytes| Manifest::from_bytes(&bytes).map_err(|error| error.to_string()))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let standing = group.standing.named().map(|installed| installed.deployment);
    let needed = standing.map(|name| config.deployment_dir(&asked.group, name)).collect();
    let kept = usize::try_from(asked.revisions_kept).unwrap_or(usize::MAX);
    // Before this one needs the room that may be theirs.
    stage::clear_old(config, &asked.group, &needed, kept.saturating_sub(1));
    let installs = asked.events.iter().any(|event| event == INSTALL);
    let laid_out = match installs {
        true => stage::lay_out(config, &manifest, &asked.group, name),
        false => Ok(()),
    };
    // It may be as large as the revision, and what it is good for is over.
    drop(fs::remove_dir_all(&config.store_dir));
    laid_out?;
    let label = ReleaseLabel::new(name.to_string()).map_err(|error| error.to_string())?;
    Ok(Deployment {
        group: asked.group,
        group_name: asked.group_name,
        application: asked.application,
        manifest,
        // Nobody has released it: the revision stands for itself.
        installs: Installed {
            release: asked.manifest,
            label,
            manifest: asked.manifest,
            deployment: name,
        },
        lifecycle: asked.lifecycle,
        events: asked.events.into_iter().map(Event::from).collect(),
        custom: asked.custom.into_iter().map(|event| (event.name, event.scripts)).collect(),
        file_exists_behavior: Some(asked.file_exists_behavior),
        ignore_application_stop_failures: asked.ignore_application_stop_failures,
        event_deadline: None,
        goes_back: asked.goes_back,
    })
}

/// What is remembered of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Group {
    id: GroupName,
    standing: Standing,
    /// The deployment that is at work, or was interrupted.
    begun: Option<Begun>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Begun {
    deployment: DeploymentName,
    before: Standing,
    /// Whether it is only of events, as that of the original hosts is which others replace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    changes_no_files: bool,
    /// Whether it has come beyond its checks.
    #[serde(default = "yes")]
    has_run: bool,
}

/// What a process of before has not noted.
fn yes() -> bool {
    true
}

impl Group {
    fn read(config: &Config, id: &GroupName) -> Result<Self, String> {
        let path = config.local_group_file(id);
        match journal::read_sealed::<Self>(&path) {
            Ok(group) if group.id == *id => Ok(group),
            Ok(group) => Err(format!("{} is of group {}", path.display(), group.id)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Self { id: id.clone(), standing: Standing::default(), begun: None })
            }
            Err(error) => Err(format!(
                "{error}; without that file the group begins anew, and what it has put in place is \
                 nobody's"
            )),
        }
    }

    fn write(&self, config: &Config) -> io::Result<()> {
        journal::write_sealed(&config.local_group_file(&self.id), self)
    }

    /// Takes back what an interrupted deployment has done.
    fn take_back(&mut self, config: &Config) -> Result<(), String> {
        let Some(begun) = self.begun.take() else { return Ok(()) };
        let Begun { deployment, before, changes_no_files, has_run } = begun;
        lifecycle::abandon(config, &self.id, deployment, has_run)?;
        // What ran runs still where only traffic was led away from it.
        let current = before.current.clone().filter(|_| changes_no_files);
        self.standing = Standing { current, ..before };
        self.write(config).map_err(|error| error.to_string())?;
        tell(&LocalNews::TakenBack { deployment: deployment.to_string() });
        Ok(())
    }

    fn begin(&mut self, config: &Config, deployment: &Deployment) -> Result<(), String> {
        self.begun = Some(Begun {
            deployment: deployment.name(),
            before: self.standing.clone(),
            changes_no_files: !deployment.installs_files(),
            has_run: false,
        });
        self.write(config).map_err(|error| error.to_string())
    }

    /// Writes down, durably, what the group has and whether its deployment has ended.
    fn note(&mut self, config: &Config, standing: &Standing, step: &Step) {
        self.standing = standing.clone();
        match &mut self.begun {
            _ if step.has_ended() => self.begun = None,
            Some(begun) => begun.has_run = *step != Step::Check,
            None => {}
        }
        if let Err(error) = self.write(config) {
            give_up(&format!("the journal cannot be written: {error}"));
        }
    }
}

const INSTALL: &str = "Install";

/// Directories below the root that are no group's.
const RESERVED: [&str; 2] = ["deployment-instructions", "deployment-logs"];

#[cfg(test)]
mod tests {
    use groundswell_protocol::{execute::Lifecycle, revision::FileExistsBehavior};

    use super::*;

    fn asked() -> Vec<u8> {
        cbor::encode(&LocalDeployment {
            root: "/srv/root".into(),
            executor: "/none".into(),
            store: "/srv/store".into(),
            manifest: Digest::ZERO,
            group: GroupName::new("web").unwrap(),
            group_name: "Web".into(),
            application: "shop".into(),
            lifecycle: Lifecycle::InPlace,
            events: Vec::new(),
            custom: Vec::new(),
            file_exists_behavior: FileExistsBehavior::Disallow,
            ignore_application_stop_failures: false,
            goes_back: true,
            revisions_kept: 2,
        })
    }

    #[test]
    fn c214_what_is_missing_of_a_deployment_is_named() {
        let good = asked();
        assert!(read(&good[..]).is_ok());
        for name in ["group", "group_name", "application", "manifest"] {
            // Its key, as text of this length.
            let key = [&[0x60 + u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
            let at = good.windows(key.len()).position(|window| window == key).unwrap();
            let mut bad = good.clone();
            bad[at + key.len() - 1] ^= 1;
            let refused = read(&bad[..]).unwrap_err();
            assert!(refused.contains(&format!("missing field `{name}`")), "{refused}");
        }
    }

    #[test]
    fn c216_what_is_not_known_of_a_deployment_is_refused() {
        let mut more = asked();
        // One more entry of the map.
        more[0] += 1;
        more.extend([0x61, b'x', 0]);
        assert!(read(&more[..]).unwrap_err().contains("this is no deployment"));
        more.truncate(more.len() - 3);
        more[0] -= 1;
        assert!(read(&more[..]).is_ok());
    }
}
