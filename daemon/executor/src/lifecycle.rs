//! The lifecycle of one activation, forward and, if it fails, back.
//!
//! Forward: ApplicationStop of the revision that is there, then the new one's events. Back: its files are put
//! back, and as many of its events run as it takes for the host to end where it began.
//! Each step is in the journal before it is taken; after a crash it is taken again.
//!
//! Who decided on the deployment, and where its journal is, is for the caller to know: orders of a fleet
//! and slots in [`activation`](crate::activation), a person on this host alone in [`local`](crate::local).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use groundswell_protocol::{
    execute::{LifecycleEvent, Source},
    ids::GroupName,
    limits::MANIFEST_BYTES_MAX,
    revision::{FileExistsBehavior, Manifest, Script},
    trust::fit_text,
};

use crate::{
    config::Config,
    deployment::{Deployment, DeploymentName, Event},
    give_up,
    hooks::{self, Bundle, Context, HookFailed},
    install::{self, Belongings, Plan, Unfit},
    journal::{End, Failure, Installed, Standing, Step},
    kept,
    layout::{self, Marker},
    logs::{self, ScriptLog},
    regular,
    unit::Units,
};

const UNKNOWN: u8 = 5;
/// How often Install begins anew where others put files in its way meanwhile.
const LOOKS_MAX: u32 = 3;
/// Else a revision with a mistake in this event could be replaced by none.
const IGNORE_STOP: &str = "; this is the revision before: to go on without its ApplicationStop, deploy with \
    --ignore-application-stop-failures";

/// Nobody knows any more what it would run.
const IGNORE_LOST: &str = "; this is the revision before, and its directory is not what it was: to go on without \
    what it runs, deploy with --ignore-application-stop-failures";

/// A deployment at work.
pub(crate) struct Work<'a> {
    config: &'a Config,
    units: Option<&'a Arc<Units>>,
    deployment: Deployment,
    log: ScriptLog,
    /// What the group had when it began, to go back to.
    before: Standing,
    /// What the group has now. Written with the next step.
    now: Standing,
}

impl<'a> Work<'a> {
    /// Begins, or goes on where the last process has ended: what it ran then is ended first.
    pub(crate) fn new(
        config: &'a Config,
        units: Option<&'a Arc<Units>>,
        deployment: Deployment,
        before: Standing,
        now: Standing,
    ) -> Self {
        let places = config.script_log(&deployment.group, deployment.name());
        // Without room for it deployments go on, and the log only grows.
        drop(logs::rotate(&places.all));
        let log = ScriptLog::open(places)
            .unwrap_or_else(|error| give_up(&format!("the script log: {error}")));
        // Where systemd did not end it with the last process, what it ran then may still be at work.
        let record = config.hook_record(&deployment.group, deployment.name());
        if let Err(error) = hooks::end_left_over(&record, &log) {
            give_up(&format!("the record of the last script: {error}"));
        }
        Self { config, units, deployment, log, before, now }
    }

    /// Takes one step after the other to the end. Each is handed to `note`, with what the group has by
    /// then, before it is taken; it must be durable when `note` returns.
    pub(crate) fn run(mut self, mut step: Step, mut note: impl FnMut(&Standing, &Step)) {
        while !step.has_ended() {
            step = self.take(&step);
            note(&self.now, &step);
        }
    }

    /// Takes the step that the journal names, and says which one is next.
    fn take(&mut self, step: &Step) -> Step {
        match step {
            Step::Check => check(self),
            Step::Forward(event) => forward(self, event),
            Step::Back(event, failure) => back(self, event, failure),
            Step::Ended(end) => Step::Ended(end.clone()),
        }
    }

    /// Names a deployment's directory for scripts that look for it, or none. This process itself never
    /// looks there, so that what it cannot write stops nothing.
    fn mark(&self, of: Marker, deployment: Option<DeploymentName>) {
        let group = &self.deployment.group;
        let path = self.config.marker(group, of);
        let text = deployment.map(|name| self.config.deployment_dir(group, name));
        let text = text.map(|dir| dir.display().to_string());
        if fs::read_to_string(&path).ok() == text {
            return;
        }
        let beside = path.with_file_name(format!("{group}.new"));
        let done = match text {
            None => fs::remove_file(&path),
            Some(text) => path
                .parent()
                .map_or(Ok(()), layout::make_dir)
                .and_then(|()| fs::write(&beside, text))
                .and_then(|()| fs::rename(&beside, &path)),
        };
        if let Err(error) = done {
            self.log.line(&format!("{}: {error}", path.display()));
        }
    }

    fn dir(&self) -> PathBuf {
        self.config.deployment_dir(&self.deployment.group, self.deployment.name())
    }

    fn archive(&self) -> PathBuf {
        self.config.archive(&self.deployment.group, self.deployment.name())
    }
}

/// A failed event.
struct EventFailed {
    code: u8,
    script: String,
    message: String,
}

impl EventFailed {
    fn other(message: impl Into<String>) -> Self {
        Self { code: UNKNOWN, script: String::new(), message: message.into() }
    }
}

/// Looks for what Install needs before anything is disturbed: whoever has to be told that something is
/// missing still has what ran. What scripts that run before Install may mend is asked again in Install alone.
fn check(work: &mut Work<'_>) -> Step {
    let checked = take_back(work)
        .and_then(|()| check_install(work))
        .and_then(|()| keep(work))
        .and_then(|is_kept| if is_kept { check_room(work) } else { Ok(()) });
    let Err(problem) = checked else {
        let first = work.deployment.first(&work.before);
        return first.map_or(Step::Ended(End::Succeeded), Step::Forward);
    };
    let install = Event::Known(LifecycleEvent::Install);
    work.log.begin(&install.to_string());
    let restored = work.now.current.is_some();
    Step::Ended(End::Failed(failure(work, &install, EventFailed::other(problem), restored)))
}

/// Takes back what an earlier deployment has left half installed.
fn take_back(work: &mut Work<'_>) -> Result<(), String> {
    let Some(half_installed) = work.now.half_installed else { return Ok(()) };
    abandon(work.config, &work.deployment.group, half_installed, true).map_err(|problem| {
        let dir = work.config.deployment_dir(&work.deployment.group, half_installed);
        let dir = dir.display();
        format!(
            "{half_installed} has left files half installed: {problem}; mend that and deploy again, or \
             remove {dir} to go on with the files as they are"
        )
    })?;
    work.now.half_installed = None;
    Ok(())
}

fn check_install(work: &Work<'_>) -> Result<(), String> {
    // What was left half installed is taken back first, in Install.
    if !work.deployment.installs_files() || install::can_undo(&work.dir()) {
        return Ok(());
    }
    let _alone = install::alone();
    let unfit = match plan(work) {
        Ok(plan) => return plan.check_room(&work.dir()),
        Err(unfit) => unfit,
    };
    match work.deployment.before_install().find(|event| may_mend(work, event, &unfit)) {
        Some(event) => {
            work.log.line(&format!("{unfit}; this is left to {event}"));
            Ok(())
        }
        None => Err(unfit.to_string()),
    }
}

/// What was kept in another mount has taken room that Install needs, too.
fn check_room(work: &Work<'_>) -> Result<(), String> {
    let _alone = install::alone();
    // What else is wrong with it was told or left to scripts.
    plan(work).map_or(Ok(()), |plan| plan.check_room(&work.dir()))
}

/// Keeps what is there, if scripts run before Install saves it. False if none do.
fn keep(work: &Work<'_>) -> Result<bool, String> {
    let mut before = work.deployment.before_install();
    if !work.deployment.goes_back
        || !work.deployment.installs_files()
        || !before.any(|it| runs(work, it))
    {
        return Ok(false);
    }
    let _alone = install::alone();
    let failed = |error: io::Error| format!("what is there cannot be kept: {error}");
    let (root, archive) = (&work.config.destination_root, work.archive());
    let belongings = belongings_before(work).map_err(failed)?;
    // What cannot be told now is told by Install.
    let places = install::targets(&work.deployment.manifest, root, &archive, &belongings);
    let archived = work.before.installed.as_ref().and_then(|before| {
        let archive = work.config.archive(&work.deployment.group, before.deployment);
        let archive = fs::canonicalize(archive).ok()?;
        let manifest = manifest_of(work, before).ok()?;
        install::targets(&manifest, root, &archive, &Belongings::default()).ok()
    });
    let places = places.unwrap_or_default().into_keys();
    kept::keep(&work.dir(), &belongings, places, &archived.unwrap_or_default())
        .map(|()| true)
        .map_err(failed)
}

/// True if an event has scripts.
fn runs(work: &Work<'_>, event: &Event) -> bool {
    let source = work.deployment.source(event);
    if source == Source::Current {
        return !work.deployment.scripts(event).is_empty();
    }
    let manifest = work.before.at(source).map(|before| manifest_of(work, before));
    let Event::Known(event) = event else { return false };
    // What cannot be read runs nothing.
    manifest.is_some_and(|it| it.is_ok_and(|it| !it.spec.scripts(*event).is_empty()))
}

/// True if an event before Install has scripts that may mend what is wrong. Those of the revision before may
/// take away what is in the way, as AWS's agent lets them; of users and permissions they know nothing.
fn may_mend(work: &Work<'_>, event: &Event, unfit: &Unfit) -> bool {
    let may_know = work.deployment.source(event) == Source::Current;
    (may_know || matches!(unfit, Unfit::InTheWay(_))) && runs(work, event)
}

/// Notes what has failed in an event.
fn failure(work: &Work<'_>, event: &Event, failed: EventFailed, restored: bool) -> Failure {
    let tail = work.log.tail();
    work.log.line(&failed.message);
    Failure {
        log: tail,
        code: failed.code,
        event: event.clone(),
        script: failed.script,
        message: fit_text(failed.message),
        restored,
    }
}

fn forward(work: &mut Work<'_>, event: &Event) -> Step {
    work.log.begin(&event.to_string());
    let source = work.deployment.source(event);
    if source == Source::Current {
        work.mark(Marker::MostRecent, Some(work.deployment.name()));
        work.now.most_recent = Some(work.deployment.installs.clone());
    }
    let done = match event {
        Event::Known(LifecycleEvent::Install) => install_new(work),
        event if source != Source::Current => run_before(work, event, source),
        event => {
            let (scripts, deadline) =
                (work.deployment.scripts(event), work.deployment.event_deadline);
            run_scripts(work, scripts, &work.archive(), event, deadline)
        }
    };
    match done {
        Ok(()) => match work.deployment.after(event) {
            Some(next) => Step::Forward(next),
            None => {
                if work.deployment.installs_files() {
                    work.now.current = work.now.installed.clone();
                }
                Step::Ended(End::Succeeded)
            }
        },
        Err(failed) => {
            let failure = failure(work, event, failed, false);
            match work.deployment.way_back(event, None) {
                Some(first) => Step::Back(first, Box::new(End::Failed(failure))),
                None => Step::Ended(End::Failed(leave(work, failure))),
            }
        }
    }
}

/// Leaves a failed deployment as it is. Files of which only some may be in place are not left.
fn leave(work: &mut Work<'_>, mut failure: Failure) -> Failure {
    if !work.deployment.installs_files() {
        // What ran runs still.
        failure.restored = work.now.current.is_some();
        return failure;
    }
    work.now.current = None;
    if work.now.installed != work.before.installed {
        return failure;
    }
    match restore_files(work) {
        Ok(()) => failure,
        Err(failed) => with_restored(failure, false, Some(&failed.message)),
    }
}

/// One event of the way back. Without a healthy revision before, only the files go back.
fn back(work: &mut Work<'_>, event: &Event, end: &End) -> Step {
    let End::Failed(failure) = end else { return Step::Ended(end.clone()) };
    work.log.begin(&format!("{event} (restoring)"));
    let done = match event {
        Event::Known(LifecycleEvent::ApplicationStop) => {
            if work.deployment.has_started_by(&failure.event) {
                stop_failed(work, event);
            }
            Ok(())
        }
        Event::Known(LifecycleEvent::Install) => restore_files(work),
        event => match &work.before.current {
            // The way back has the time that its scripts give themselves: a deadline that is right for
            // something new must not keep a host from being put back.
            Some(before) => run_scripts_of(work, before, event, None),
            None => Ok(()),
        },
    };
    let next = work.deployment.way_back(&failure.event, Some(event));
    let restored = work.before.current.is_some();
    let failure = failure.clone();
    match (done, next) {
        (Ok(()), Some(next)) => Step::Back(next, Box::new(End::Failed(failure))),
        (Ok(()), None) => {
            work.now.current = work.before.current.clone();
            Step::Ended(End::Failed(with_restored(failure, restored, None)))
        }
        (Err(failed), _) => {
            work.log.line(&failed.message);
            let why = format!("{event}: {}", failed.message);
            Step::Ended(End::Failed(leave(work, with_restored(failure, false, Some(&why)))))
        }
    }
}

fn with_restored(mut failure: Failure, restored: bool, why_not: Option<&str>) -> Failure {
    failure.restored = restored;
    if let Some(why) = why_not {
        let message = failure.message;
        failure.message =
            fit_text(format!("{message}; the revision before could not be put back: {why}"));
    }
    failure
}

/// An event of what is there. A first deployment has nothing to stop.
fn run_before(work: &Work<'_>, event: &Event, source: Source) -> Result<(), EventFailed> {
    let Some(before) = work.before.at(source) else { return Ok(()) };
    let done = run_scripts_of(work, before, event, work.deployment.event_deadline);
    let Err(mut failed) = done else { return Ok(()) };
    let hint = match event {
        Event::Known(LifecycleEvent::ApplicationStop) => IGNORE_STOP,
        _ if manifest_of(work, before).is_err() => IGNORE_LOST,
        _ => return Err(failed),
    };
    if work.deployment.ignore_application_stop_failures {
        work.log.line(&format!("{}; ignored, as was asked for", failed.message));
        return Ok(());
    }
    failed.message.push_str(hint);
    Err(failed)
}

/// Stops what has failed, as well as it can be stopped.
fn stop_failed(work: &Work<'_>, event: &Event) {
    let scripts = work.deployment.scripts(event);
    if let Err(failed) = run_scripts(work, scripts, &work.archive(), event, None) {
        work.log.line(&failed.message);
    }
}

fn install_new(work: &mut Work<'_>) -> Result<(), EventFailed> {
    let io = |error: io::Error| EventFailed::other(error.to_string());
    let dir = work.dir();
    let _alone = install::alone();
    // After a crash in the middle: from the old tree again.
    install::undo(&dir).map_err(io)?;
    kept::refresh(&dir).map_err(io)?;
    let mut looks_left = LOOKS_MAX;
    loop {
        let plan = plan(work).map_err(|unfit| EventFailed::other(unfit.to_string()))?;
        // Scripts may have filled the disk since it was asked for.
        plan.check_room(&dir).map_err(EventFailed::other)?;
        match plan.carry_out(&dir) {
            // Somebody was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && looks_left > 0 => {
                work.log.line(&format!("{error}; it has just appeared, and is looked at again"));
                install::undo(&dir).map_err(io)?;
                looks_left -= 1;
            }
            done => break done.map_err(io)?,
        }
    }
    work.now.installed = Some(work.deployment.installs.clone());
    work.mark(Marker::LastSuccessful, Some(work.deployment.name()));
    Ok(())
}

fn plan(work: &Work<'_>) -> Result<Plan, Unfit> {
    let Deployment { manifest, file_exists_behavior, .. } = &work.deployment;
    let behavior = manifest
        .spec
        .file_exists_behavior
        .or(*file_exists_behavior)
        .unwrap_or(FileExistsBehavior::Disallow);
    let before = belongings_before(work).map_err(|error| error.to_string())?;
    let root = &work.config.destination_root;
    install::plan(manifest, root, &work.archive(), &before, behavior)
}

/// What the revision before put in place.
fn belongings_before(work: &Work<'_>) -> io::Result<Belongings> {
    let Some(before) = &work.before.installed else { return Ok(Belongings::default()) };
    let dir = work.config.deployment_dir(&work.deployment.group, before.deployment);
    let belongings = Belongings::read(&dir)?;
    if belongings.is_none() {
        let dir = dir.display();
        work.log.line(&format!("{dir} was cleared: the files that it put in place are nobody's"));
    }
    Ok(belongings.unwrap_or_default())
}

fn restore_files(work: &mut Work<'_>) -> Result<(), EventFailed> {
    let _alone = install::alone();
    work.now.installed = work.before.installed.clone();
    // Should it fail now, the next deployment tries again.
    work.now.half_installed = Some(work.deployment.name());
    put_back(&work.dir()).map_err(|error| EventFailed::other(error.to_string()))?;
    work.now.half_installed = None;
    let before = work.before.installed.as_ref().map(|before| before.deployment);
    work.mark(Marker::LastSuccessful, before);
    Ok(())
}

/// Takes back what an interrupted deployment has done to the files, and starts nothing: the host is
/// without a working revision until the next deployment. Where nothing of it `has_run` they are as they were, or
/// as people have made them since.
pub(crate) fn abandon(
    config: &Config,
    group: &GroupName,
    deployment: DeploymentName,
    has_run: bool,
) -> Result<(), String> {
    // A script may still be at work on the files that go.
    let log = ScriptLog::open(config.script_log(group, deployment))
        .and_then(|log| {
            hooks::end_left_over(&config.hook_record(group, deployment), &log).map(|()| log)
        })
        .map_err(|error| format!("the script that was left running cannot be ended: {error}"))?;
    let _alone = install::alone();
    let dir = config.deployment_dir(group, deployment);
    let done = match (install::can_undo(&dir), has_run) {
        (true, _) => put_back(&dir),
        (false, true) => put_back_with_care(&dir, &log),
        (false, false) => forget(&dir),
    };
    done.map_err(|error| format!("the old files cannot be put back: {error}"))
}

/// The same where no file of the deployment is in place: what has changed since is not Install's.
fn put_back_with_care(dir: &Path, log: &ScriptLog) -> io::Result<()> {
    for (path, aside) in kept::set_aside(dir)? {
        let (path, aside) = (path.display(), aside.display());
        log.line(&format!(
            "{path} was changed since this began and is put back; a copy is {aside}"
        ));
    }
    put_back(dir)
}

/// Takes back what Install has done, then whatever scripts have done before it.
fn put_back(dir: &Path) -> io::Result<()> {
    install::undo(dir)?;
    kept::put_back(dir)
}

/// Drops what would be needed to go back.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    install::forget(dir)?;
    kept::forget(dir)
}

/// The manifest of a revision that was installed before.
fn manifest_of(work: &Work<'_>, before: &Installed) -> Result<Manifest, EventFailed> {
    let path = work.config.own_manifest(&work.deployment.group, before.deployment);
    let manifest = regular::read(&path, MANIFEST_BYTES_MAX)
        .map_err(|error| error.to_string())
        .and_then(|bytes| {
            let same = Manifest::id_of(&bytes) == before.manifest;
            same.then_some(bytes).ok_or_else(|| "it is another manifest".into())
        })
        .and_then(|bytes| Manifest::from_bytes(&bytes).map_err(|error| error.to_string()));
    manifest.map_err(|error| {
        let (label, path) = (&before.label, path.display());
        EventFailed::other(format!("the manifest of {label} at {path}: {error}"))
    })
}

/// Runs an event of a revision that was installed before, from where it was laid out then.
fn run_scripts_of(
    work: &Work<'_>,
    before: &Installed,
    event: &Event,
    deadline: Option<Duration>,
) -> Result<(), EventFailed> {
    // No other deployment knows what its own events were.
    let Event::Known(known) = event else { return Ok(()) };
    let manifest = manifest_of(work, before)?;
    let archive = work.config.archive(&work.deployment.group, before.deployment);
    run_scripts(work, manifest.spec.scripts(*known), &archive, event, deadline)
}

fn run_scripts(
    work: &Work<'_>,
    scripts: &[Script],
    archive: &Path,
    event: &Event,
    deadline: Option<Duration>,
) -> Result<(), EventFailed> {
    let began = Instant::now();
    let deployment = &work.deployment;
    let Installed { label, manifest, .. } = &deployment.installs;
    let bundle = Bundle { version: label.clone(), etag: *manifest };
    let context = Context {
        application: deployment.application.clone(),
        group: deployment.group.clone(),
        group_name: deployment.group_name.clone(),
        deployment: deployment.name(),
        bundle: (!deployment.name().is_local()).then_some(bundle),
        record: work.config.hook_record(&deployment.group, deployment.name()),
        units: work.units.cloned(),
    };
    for script in scripts {
        let mut script = script.clone();
        if let Some(deadline) = deadline {
            let left = deadline.saturating_sub(began.elapsed()).as_millis().div_ceil(1000);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            if left == 0 {
                return Err(EventFailed {
                    code: hooks::TIMED_OUT,
                    message: format!(
                        "script {} was not started: the {} seconds that {event} may take are over",
                        script.location,
                        deadline.as_secs()
                    ),
                    script: script.location,
                });
            }
            script.timeout_seconds = script.timeout_seconds.min(left);
        }
        hooks::run(archive, event, &script, &context, &work.log).map_err(
            |HookFailed { code, message }| EventFailed {
                code,
                script: script.location.clone(),
                message,
            },
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use groundswell_protocol::ids::{DeploymentId, Digest};

    use super::*;

    #[test]
    fn what_people_have_replaced_stays_where_nothing_has_run_and_is_set_aside_else() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| fs::canonicalize(scratch.path()).unwrap().join(name);
        let config = Config { root_dir: at("root"), state_dir: at("state"), ..Config::default() };
        let group = GroupName::new("web").unwrap();
        let deployment = DeploymentId::of(Digest::ZERO, false).into();
        let dir = config.deployment_dir(&group, deployment);
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir(at("state")).unwrap();
        for (has_run, expected) in [(false, "theirs"), (true, "ours")] {
            fs::write(at("file"), "ours").unwrap();
            let places = [at("file")].into_iter();
            kept::keep(&dir, &Belongings::default(), places, &BTreeMap::new()).unwrap();
            fs::write(at("new"), "theirs").unwrap();
            fs::rename(at("new"), at("file")).unwrap();
            abandon(&config, &group, deployment, has_run).unwrap();
            assert_eq!(fs::read_to_string(at("file")).unwrap(), expected);
            assert!(!kept::is_needed(&dir));
            let log = fs::read_to_string(config.script_log(&group, deployment).own).unwrap();
            assert_eq!(log.contains("file was changed since this began"), has_run, "{log}");
            let aside = fs::read_to_string(dir.join("replaced/0"));
            assert_eq!(aside.ok().as_deref(), has_run.then_some("theirs"));
        }
    }
}
