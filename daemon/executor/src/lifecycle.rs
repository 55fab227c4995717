//! The lifecycle of one activation, forward and, if it fails, back.
//!
//! Forward: ApplicationStop of the revision that is there, then the new one's events. Back: the
//! revision that was there is deployed again, its files first, so that the host ends where it began.
//! Each step is in the journal before it is taken; after a crash it is taken again.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use groundswell_protocol::{
    execute::LifecycleEvent,
    limits::MANIFEST_BYTES_MAX,
    revision::{AppSpec, FileExistsBehavior, Manifest},
    trust::{Outcome, fit_text},
};

use crate::{
    activation::Work,
    hooks::{self, Context, HookFailed},
    install::{self, Belongings},
    journal::{Installed, Step},
    logs::ScriptLog,
    regular,
};

const UNKNOWN: u8 = 5;

/// A failed event.
pub(crate) struct EventFailed {
    code: u8,
    script: String,
    message: String,
}

impl EventFailed {
    fn other(message: impl Into<String>) -> Self {
        Self { code: UNKNOWN, script: String::new(), message: message.into() }
    }
}

/// Takes the step that the journal names, and says which one is next.
pub(crate) fn take(work: &mut Work, step: &Step) -> Step {
    match step {
        Step::Forward(event) => forward(work, *event),
        Step::Back(event, failure) => back(work, *event, failure),
        Step::Ended(outcome) => Step::Ended(outcome.clone()),
    }
}

fn forward(work: &mut Work, event: LifecycleEvent) -> Step {
    let log = work.log.clone();
    log.begin(&event.to_string());
    let done = match event {
        LifecycleEvent::ApplicationStop => stop_before(work, &log),
        LifecycleEvent::Install => install_new(work),
        event => {
            let spec = &work.judged.manifest.spec;
            run_scripts(work, spec, work.archive(), event, &log, event_deadline(work))
        }
    };
    match done {
        Ok(()) => match next_forward(&work.judged.manifest.spec, event) {
            Some(next) => Step::Forward(next),
            None => {
                work.succeeded();
                Step::Ended(Outcome::Succeeded)
            }
        },
        Err(failed) => {
            let tail = log.tail();
            log.line(&failed.message);
            let outcome = Outcome::Failed {
                log: tail,
                code: failed.code,
                event,
                script: failed.script,
                message: fit_text(failed.message),
                restored: false,
            };
            Step::Back(LifecycleEvent::ApplicationStop, Box::new(outcome))
        }
    }
}

/// One event of the way back. Without a healthy revision before, only the files go back.
fn back(work: &mut Work, event: LifecycleEvent, failure: &Outcome) -> Step {
    let log = work.log.clone();
    log.begin(&format!("{event} (restoring)"));
    let done = match event {
        LifecycleEvent::ApplicationStop => {
            if let Outcome::Failed { event: failed, .. } = failure
                && *failed >= LifecycleEvent::ApplicationStart
            {
                stop_failed(work, &log);
            }
            Ok(())
        }
        LifecycleEvent::Install => restore_files(work),
        event => match work.before_current() {
            // The way back has the time that its scripts give themselves: a deadline that is right for
            // something new must not keep a host from being put back.
            Some(before) => run_scripts_of(work, &before, event, &log, None),
            None => Ok(()),
        },
    };
    match (done, after(event)) {
        (Ok(()), Some(next)) => Step::Back(next, Box::new(failure.clone())),
        (Ok(()), None) => {
            let restored = work.before_current().is_some();
            work.restored(restored);
            Step::Ended(with_restored(failure, restored, None))
        }
        (Err(failed), _) => {
            log.line(&failed.message);
            work.restored(false);
            let why = format!("{event}: {}", failed.message);
            Step::Ended(with_restored(failure, false, Some(&why)))
        }
    }
}

fn with_restored(failure: &Outcome, was_restored: bool, why_not: Option<&str>) -> Outcome {
    let mut outcome = failure.clone();
    if let Outcome::Failed { restored, message, .. } = &mut outcome {
        *restored = was_restored;
        if let Some(why) = why_not {
            *message =
                fit_text(format!("{message}; the revision before could not be put back: {why}"));
        }
    }
    outcome
}

/// The event that follows and has something to do: one without scripts is not worth a journal entry.
fn next_forward(spec: &AppSpec, event: LifecycleEvent) -> Option<LifecycleEvent> {
    let mut next = after(event)?;
    while next.is_scriptable() && spec.scripts(next).is_empty() {
        next = after(next)?;
    }
    Some(next)
}

/// The event that follows in an in-place deployment.
fn after(event: LifecycleEvent) -> Option<LifecycleEvent> {
    LifecycleEvent::IN_PLACE.into_iter().find(|next| *next > event)
}

/// ApplicationStop of what is there. A first deployment has nothing to stop.
fn stop_before(work: &Work, log: &ScriptLog) -> Result<(), EventFailed> {
    let Some(before) = work.before_installed() else { return Ok(()) };
    let deadline = event_deadline(work);
    let done = run_scripts_of(work, &before, LifecycleEvent::ApplicationStop, log, deadline);
    match done {
        Err(failed) if work.judged.deploy.ignore_application_stop_failures => {
            log.line(&format!("{}; ignored, as the order says", failed.message));
            Ok(())
        }
        other => other,
    }
}

/// Stops what has failed, as well as it can be stopped.
fn stop_failed(work: &Work, log: &ScriptLog) {
    let (spec, archive) = (&work.judged.manifest.spec, work.archive());
    let event = LifecycleEvent::ApplicationStop;
    if let Err(failed) = run_scripts(work, spec, archive, event, log, None) {
        log.line(&failed.message);
    }
}

fn install_new(work: &mut Work) -> Result<(), EventFailed> {
    let io = |error: io::Error| EventFailed::other(error.to_string());
    let dir = work.dir();
    let _alone = install::alone();
    // After a crash in the middle: from the old tree again.
    install::undo(&dir).map_err(io)?;
    let judged = &work.judged;
    let behavior = judged
        .manifest
        .spec
        .file_exists_behavior
        .or(judged.deploy.file_exists_behavior)
        .unwrap_or(FileExistsBehavior::Disallow);
    let before = belongings_before(work).map_err(io)?;
    let root = &work.config().destination_root;
    let plan = install::plan(&judged.manifest, root, &work.archive(), &before, behavior)
        .map_err(EventFailed::other)?;
    plan.carry_out(&dir).map_err(io)?;
    let release = judged.release.content();
    work.installed(Some(Installed {
        release: judged.release.id(),
        label: release.label.clone(),
        manifest: release.manifest,
        deployment: judged.deployment,
    }));
    Ok(())
}

/// What the revision before put in place.
fn belongings_before(work: &Work) -> io::Result<Belongings> {
    let Some(before) = work.before_installed() else { return Ok(Belongings::default()) };
    let dir = work.config().deployment_dir(&work.group(), before.deployment);
    let belongings = Belongings::read(&dir)?;
    if belongings.is_none() {
        let dir = dir.display();
        work.log.line(&format!("{dir} was cleared: the files that it put in place are nobody's"));
    }
    Ok(belongings.unwrap_or_default())
}

fn restore_files(work: &mut Work) -> Result<(), EventFailed> {
    let _alone = install::alone();
    install::undo(&work.dir()).map_err(|error| EventFailed::other(error.to_string()))?;
    let before = work.before_installed();
    work.installed(before);
    Ok(())
}

/// Runs an event of a revision that was installed before, from where it was laid out then.
fn run_scripts_of(
    work: &Work,
    before: &Installed,
    event: LifecycleEvent,
    log: &ScriptLog,
    deadline: Option<Duration>,
) -> Result<(), EventFailed> {
    let path = work.config().own_manifest(&work.group(), before.deployment);
    let manifest = regular::read(&path, MANIFEST_BYTES_MAX)
        .map_err(|error| error.to_string())
        .and_then(|bytes| {
            let same = Manifest::id_of(&bytes) == before.manifest;
            same.then_some(bytes).ok_or_else(|| "it is another manifest".into())
        })
        .and_then(|bytes| Manifest::from_bytes(&bytes).map_err(|error| error.to_string()));
    let manifest = manifest.map_err(|error| {
        let (label, path) = (&before.label, path.display());
        EventFailed::other(format!("the manifest of {label} at {path}: {error}"))
    })?;
    let archive = work.config().archive(&work.group(), before.deployment);
    run_scripts(work, &manifest.spec, archive, event, log, deadline)
}

/// How long the scripts of one event may take together, if the configuration of the deployment says.
fn event_deadline(work: &Work) -> Option<Duration> {
    let of_group = &work.judged.group.content().configuration;
    let configuration = work.judged.deploy.configuration.as_ref().unwrap_or(of_group);
    configuration.event_deadline_seconds.map(|seconds| Duration::from_secs(seconds.into()))
}

fn run_scripts(
    work: &Work,
    spec: &AppSpec,
    archive: PathBuf,
    event: LifecycleEvent,
    log: &ScriptLog,
    deadline: Option<Duration>,
) -> Result<(), EventFailed> {
    let began = Instant::now();
    let context = Context {
        application: work.judged.release.content().application.clone(),
        group: work.group(),
        deployment: work.judged.deployment,
        record: work.hook_record(),
        units: work.units(),
    };
    for script in spec.scripts(event) {
        let mut script = script.clone();
        if let Some(deadline) = deadline {
            let left = deadline.saturating_sub(began.elapsed()).as_millis().div_ceil(1000);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            script.timeout_seconds = script.timeout_seconds.min(left);
        }
        hooks::run(&archive, event, &script, &context, log).map_err(
            |HookFailed { code, message }| EventFailed {
                code,
                script: script.location.clone(),
                message,
            },
        )?;
    }
    Ok(())
}
