//! `swell local`: a deployment on this host alone, with the options of AWS's `codedeploy-local`.
//!
//! This makes a revision of what it is given, by the rules of a release, and hands it to a `swell-exec`
//! of its own, which runs it through the lifecycle that a fleet's deployments go through.

mod agent;
mod bundle;
mod events;

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use clap::{ArgAction, Args, builder::NonEmptyStringValueParser as NonEmpty};
use groundswell_protocol::{
    cbor,
    execute::Lifecycle,
    ids::GroupName,
    limits::LOCAL_NEWS_BYTES_MAX,
    local::{LocalDeployment, LocalEnd, LocalNews},
    revision::FileExistsBehavior,
};
use groundswell_signer::inspect;
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;
use tokio::sync::oneshot;

use self::{agent::Settings, bundle::Kind, events::Events};
use super::{Ended, Failed, Output, plain_lines};
use crate::control::api;

/// Run a deployment on this host alone, without a fleet, as AWS's codedeploy-local does.
///
/// The revision goes through the lifecycle of a fleet's deployment, and nothing has to be signed: run it
/// as whoever may do what its scripts and files need, which mostly is root. What it keeps is below
/// /opt/groundswell-local and never touches what a fleet deploys here. A deployment that fails is taken
/// back; one that was interrupted is taken back by the next one of its group.
#[derive(Args)]
#[command(disable_version_flag = true, version)]
pub(super) struct LocalArguments {
    /// A directory, an archive or a .swell file.
    #[arg(short = 'l', long, value_name = "PATH", default_value = ".")]
    bundle_location: PathBuf,
    /// What the bundle is. Without it a directory, or a .swell file if it is one.
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// What to do with files in the way: DISALLOW, OVERWRITE or RETAIN. The appspec's own setting wins.
    #[arg(short = 'b', long, default_value = "DISALLOW", value_parser = inspect::file_exists_behavior)]
    file_exists_behavior: FileExistsBehavior,
    /// The id of the group. Deployments of one group follow each other: the next one stops and replaces
    /// what the last one has installed.
    #[arg(short = 'g', long, value_name = "ID", default_value = "default-local-deployment-group")]
    deployment_group: GroupName,
    /// What scripts are told that the group is called.
    #[arg(short = 'd', long, value_name = "NAME", default_value = "LocalFleet", value_parser = NonEmpty::new())]
    deployment_group_name: String,
    /// What scripts are told that the application is called. Without it the bundle's location, or what a
    /// .swell file says.
    #[arg(short = 'a', long, value_name = "NAME", value_parser = NonEmpty::new())]
    application_name: Option<String>,
    /// The events to run, in this order, joined by commas. DownloadBundle and Install come first if they
    /// are not named. Events that CodeDeploy does not know run if the appspec has scripts for them.
    #[arg(short = 'e', long, value_name = "EVENT,...")]
    events: Option<String>,
    /// Run the events of one kind of deployment: in-place, load-balancer (what is run without this), and for
    /// blue/green replacement, original, rollback-original, rollback-replacement. What has no Install
    /// installs nothing, and runs what is there.
    #[arg(long, value_name = "KIND", default_value = "load-balancer", conflicts_with = "events")]
    lifecycle: Lifecycle,
    /// A settings file of AWS's agent, for its `root_dir` and `max_revisions`.
    #[arg(short = 'c', long, value_name = "FILE")]
    agent_configuration_file: Option<PathBuf>,
    /// The settings of the executor that deploys here for a fleet: its deployments are waited for, and its
    /// places are left alone. There need not be one.
    #[arg(long, value_name = "FILE", default_value = "/etc/groundswell/swell-exec.toml")]
    executor_configuration_file: PathBuf,
    /// The appspec file in the bundle. Without it appspec.yml, or appspec.yaml.
    #[arg(short = 'A', long, value_name = "NAME")]
    appspec_filename: Option<String>,
    /// Leave a deployment that fails as it is, as AWS's agent does: the next one stops and replaces it.
    #[arg(long)]
    leave_failed: bool,
    /// Go on if the ApplicationStop of the revision before fails.
    #[arg(long)]
    ignore_application_stop_failures: bool,
    /// Print version.
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

pub(super) async fn run(arguments: LocalArguments, out: Output) -> Result<Ended, Failed> {
    let settings = Settings::load(arguments.agent_configuration_file.as_deref())?;
    let events = match &arguments.events {
        Some(list) => Events::parse(list)?,
        None => Events::of(arguments.lifecycle),
    };
    let incoming = Incoming::new(&settings.root)?;
    let store = incoming.dir.path().to_owned();
    let (done_in, done) = oneshot::channel();
    thread::spawn(move || done_in.send(deploy(&arguments, settings, events, &store, out)));
    tokio::select! {
        done = done => done.map_err(|_| Failed::new("this is a defect of swell local"))?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("swell: interrupted: what has begun goes on, and the next deployment waits for it");
            // An executor that has begun reads there. What nobody reads any more goes with the next run.
            drop(incoming.dir.keep());
            Ok(Ended::Interrupted)
        }
    }
}

/// Where the revision is put for the executor, which removes it.
struct Incoming {
    dir: TempDir,
    /// Held by whoever still needs it.
    _lock: Flock<File>,
}

impl Incoming {
    fn new(root: &Path) -> Result<Self, Failed> {
        let make = || -> io::Result<Self> {
            let all = root.join(INCOMING);
            // Whatever the umask: who could write here could change what is about to be deployed.
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&all)?;
            // Nobody sweeps what was made and is not held yet.
            let _one = lock(&all, FlockArg::LockExclusive)?;
            sweep(&all)?;
            let dir = tempfile::tempdir_in(&all)?;
            let lock = lock(dir.path(), FlockArg::LockShared)?;
            Ok(Self { dir, _lock: lock })
        };
        make().map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run it as root, or name a root_dir of your own in the file of \
                     --agent-configuration-file"
                }
                _ => "check that there is room, and that no file is in the way",
            };
            Failed::with_hint(format!("{}: {error}", root.display()), hint)
        })
    }
}

/// Removes what was left by a process that was ended.
fn sweep(all: &Path) -> io::Result<()> {
    for entry in fs::read_dir(all)? {
        let path = entry?.path();
        let removed = lock(&path, FlockArg::LockExclusiveNonblock)
            .and_then(|_held| fs::remove_dir_all(&path));
        match removed {
            // Somebody needs it still, or has removed it just now.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotFound) => {}
            other => other?,
        }
    }
    Ok(())
}

fn lock(dir: &Path, kind: FlockArg) -> io::Result<Flock<File>> {
    Flock::lock(File::open(dir)?, kind).map_err(|(_, error)| error.into())
}

/// No group can have the id of the first directory, so nothing else is ever in the second.
const INCOMING: &str = "deployment-instructions/incoming";

fn deploy(
    arguments: &LocalArguments,
    settings: Settings,
    events: Events,
    store: &Path,
    out: Output,
) -> Result<Ended, Failed> {
    let location = &arguments.bundle_location;
    let appspec = arguments.appspec_filename.as_deref();
    let made = bundle::make(location, arguments.kind, appspec, &events.custom, store)?;
    for warning in &made.warnings {
        eprintln!("swell: warning: {}", super::short(warning));
    }
    if let Some(event) = events.custom.iter().find(|event| !made.has(event)) {
        let text = format!("the appspec has no scripts for {event}, which is no lifecycle event");
        return Err(Failed::with_hint(text, "correct --events, or add it to the hooks"));
    }
    let application = arguments.application_name.clone().or(made.application);
    let asked = LocalDeployment {
        root: text(&settings.root)?,
        executor: text(&arguments.executor_configuration_file)?,
        store: text(store)?,
        manifest: made.manifest,
        group: arguments.deployment_group.clone(),
        group_name: no_nul("--deployment-group-name", arguments.deployment_group_name.clone())?,
        application: match application {
            Some(name) => no_nul("--application-name", name)?,
            // A dot is no name of anything.
            None if location == Path::new(".") => text(&env::current_dir()?)?,
            None => text(location)?,
        },
        lifecycle: arguments.lifecycle,
        events: events.all,
        custom: made.custom,
        file_exists_behavior: arguments.file_exists_behavior,
        ignore_application_stop_failures: arguments.ignore_application_stop_failures,
        goes_back: !arguments.leave_failed,
        revisions_kept: settings.revisions_kept,
    };
    follow(start(&asked)?, out)
}

/// The environment has no place for it.
fn no_nul(option: &str, text: String) -> Result<String, Failed> {
    match text.contains('\0') {
        true => Err(Failed::new(format!("{option} has a zero byte"))),
        false => Ok(text),
    }
}

fn text(path: &Path) -> Result<String, Failed> {
    let text = path.to_str().map(ToOwned::to_owned);
    text.ok_or_else(|| Failed::new(format!("{} is not UTF-8", path.display())))
}

/// Starts the executor that is installed beside this program. It is not in this process group: whoever
/// interrupts this program leaves no deployment half done.
fn start(asked: &LocalDeployment) -> Result<Child, Failed> {
    let program = env::current_exe()?.with_file_name("swell-exec");
    let failed = |error: io::Error| {
        let hint = "install the whole package, all programs in one directory";
        Failed::with_hint(format!("{}: {error}", program.display()), hint)
    };
    let mut command = Command::new(&program);
    command.arg("--local").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take();
    stdin.map_or(Ok(()), |mut stdin| stdin.write_all(&cbor::encode(asked))).map_err(failed)?;
    Ok(child)
}

/// Tells of the deployment until its end.
fn follow(mut child: Child, out: Output) -> Result<Ended, Failed> {
    let mut stdout = child.stdout.take().ok_or_else(|| Failed::new("no output"))?;
    let mut begun = None;
    let end = loop {
        match next(&mut stdout)? {
            LocalNews::Waiting { holder } => {
                eprintln!("swell: waiting for {} to end", super::short(&holder));
            }
            LocalNews::TakenBack { deployment } => {
                eprintln!("swell: {deployment} was interrupted; its files were taken back");
            }
            LocalNews::Begun { deployment, dir, log } => {
                if !out.json {
                    out.line(format!("{deployment} in {dir}"))?;
                }
                begun = Some((deployment, dir, log));
            }
            LocalNews::Event { name, restoring } if !out.json => {
                out.line(if restoring { format!("{name} (restoring)") } else { name })?;
            }
            LocalNews::Event { .. } => {}
            LocalNews::Ended(end) => break end,
        }
    };
    drop(child.wait());
    if let LocalEnd::Refused { reason } = end {
        return Err(Failed::new(reason));
    }
    let (deployment, dir, log) = begun.ok_or_else(|| Failed::new("it has ended unbegun"))?;
    let failure = match end {
        LocalEnd::Failed { log: tail, code, event, script, message, restored } => {
            Some(api::LocalFailure { code, event, script, message, tail, restored })
        }
        _ => None,
    };
    show(&api::Local { deployment, dir, log, failure }, out)
}

fn show(local: &api::Local, out: Output) -> Result<Ended, Failed> {
    let api::Local { deployment, log, failure, .. } = local;
    let ended = if failure.is_some() { Ended::Badly } else { Ended::Well };
    if out.json {
        out.json(local)?;
        return Ok(ended);
    }
    let Some(failure) = failure else {
        out.line(format!("see {log} for what its scripts have printed\n{deployment} succeeded"))?;
        return Ok(ended);
    };
    for line in plain_lines(&failure.tail).lines() {
        eprintln!("{line}");
    }
    let after = if failure.restored { "; the revision before runs again" } else { "" };
    let text = format!("{deployment} failed in {}: {}{after}", failure.event, failure.message);
    Err(Failed::with_hint(text, format!("see {log} for what its scripts have printed")))
}

/// What the executor says next.
fn next(from: &mut impl Read) -> Result<LocalNews, Failed> {
    let mut length = [0; 4];
    let read = from.read_exact(&mut length).and_then(|()| {
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(LOCAL_NEWS_BYTES_MAX + 1)];
        from.read_exact(&mut bytes)?;
        cbor::decode(&bytes, LOCAL_NEWS_BYTES_MAX).map_err(io::Error::other)
    });
    read.map_err(|error| {
        let hint = "the next deployment of the group takes back what this one has done";
        Failed::with_hint(format!("swell-exec has ended before the deployment: {error}"), hint)
    })
}
