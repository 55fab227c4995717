//! Running one script: its environment, its user, its time, its output.
//!
//! On a machine that runs systemd each script is a unit of its own, which [`unit`](crate::unit)
//! starts; elsewhere it is a process group of this process. What becomes of it is the same in both:
//! [`script`](crate::script) runs it to its end.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Instant,
};

use groundswell_protocol::{
    ids::{Digest, GroupName, ReleaseLabel},
    limits::HOOK_KILL_GRACE,
    revision::Script,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User, geteuid},
};

use crate::{
    deployment::{DeploymentName, Event},
    logs::ScriptLog,
    script::{Ended, Leader, Members, POLL_EVERY, Task, forget},
    unit::Units,
};

/// What scripts learn from their environment, by AWS's names, and how they are started.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) application: String,
    pub(crate) group: GroupName,
    pub(crate) group_name: String,
    pub(crate) deployment: DeploymentName,
    /// What is deployed, if a fleet has released it.
    pub(crate) bundle: Option<Bundle>,
    /// Where the script is on record while it runs, for a process that takes over.
    pub(crate) record: PathBuf,
    /// None on a machine without systemd.
    pub(crate) units: Option<Arc<Units>>,
}

/// A released revision, by what AWS's agent tells of one that comes from a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    /// Its release's label.
    pub(crate) version: ReleaseLabel,
    /// The same for the same content.
    pub(crate) etag: Digest,
}

/// Why a script failed, by AWS's codes.
#[derive(Debug)]
pub(crate) struct HookFailed {
    pub(crate) code: u8,
    pub(crate) message: String,
}

const MISSING: u8 = 1;
const NOT_EXECUTABLE: u8 = 2;
pub(crate) const TIMED_OUT: u8 = 3;
const FAILED: u8 = 4;

/// Runs a script of the revision in `archive` to its end.
pub(crate) fn run(
    archive: &Path,
    event: &Event,
    script: &Script,
    context: &Context,
    log: &ScriptLog,
) -> Result<(), HookFailed> {
    log.line(&format!("Script - {}", script.location));
    let failed = |code, message| Err(HookFailed { code, message });
    let path = archive.join(&script.location);
    check(&path, log)?;
    let environment = environment(event, script, context);
    let task = Task::new(words(&path, script), environment, script.timeout_seconds);
    let ended = match &context.units {
        Some(units) => {
            let what = format!("{event} of {}: {}", context.group, script.location);
            units.run(task, &what, &context.record, log)
        }
        None => task.start(&context.record).map(|child| {
            let ended = task.wait(child, Members::of_group, log);
            // A record of what has ended says nothing.
            fs::remove_file(&context.record).ok();
            ended
        }),
    };
    let location = &script.location;
    let user = script.runas.as_ref().map(|user| format!(" (run as user {user})"));
    let user = user.unwrap_or_default();
    match ended {
        Ok(Ended::Exit(0)) => Ok(()),
        Ok(Ended::Exit(code)) => {
            failed(FAILED, format!("script {location}{user} failed with exit code {code}"))
        }
        Ok(Ended::Signal(signal)) => {
            failed(FAILED, format!("script {location}{user} was ended by signal {signal}"))
        }
        Ok(Ended::TimedOut) => {
            let seconds = script.timeout_seconds;
            failed(TIMED_OUT, format!("script {location} timed out after {seconds} seconds"))
        }
        Ok(Ended::Lost(reason)) => {
            failed(FAILED, format!("script {location}{user} was lost: {reason}"))
        }
        Err(error) => failed(FAILED, format!("script {location} could not be started: {error}")),
    }
}

/// Finds out what would keep the script from running, so that it can be told, and makes it executable.
fn check(path: &Path, log: &ScriptLog) -> Result<(), HookFailed> {
    let shown = path.display();
    let failed = |code, message| Err(HookFailed { code, message });
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return failed(MISSING, format!("script {shown}: {error}")),
    };
    if !metadata.is_file() {
        let kind = metadata.file_type();
        let what = match kind.is_dir() {
            true => "a directory",
            false if kind.is_fifo() => "a pipe",
            false => "no regular file",
        };
        return failed(FAILED, format!("script {shown} cannot be run: it is {what} (EACCES)"));
    }
    let mode = metadata.permissions().mode();
    if mode & 0o111 == 0 {
        log.line("the script is not executable; it is made so");
        let executable = fs::Permissions::from_mode(mode | 0o111);
        if let Err(error) = fs::set_permissions(path, executable) {
            return failed(NOT_EXECUTABLE, format!("script {shown} is not executable: {error}"));
        }
    }
    match missing_interpreter(path) {
        Ok(None) => Ok(()),
        Ok(Some(interpreter)) => {
            let hint = match interpreter.as_bytes().last() {
                Some(b'\r') => "; its lines end as on Windows",
                _ => "",
            };
            let interpreter = interpreter.to_string_lossy().escape_debug().to_string();
            failed(
                FAILED,
                format!("script {shown} cannot be run: there is no {interpreter} (ENOENT){hint}"),
            )
        }
        Err(error) => failed(FAILED, format!("script {shown} cannot be read: {error}")),
    }
}

/// The program that the first line names, if it names one that is not there.
fn missing_interpreter(path: &Path) -> io::Result<Option<OsString>> {
    let mut start = Vec::new();
    File::open(path)?.take(FIRST_LINE_BYTES).read_to_end(&mut start)?;
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(rest) = line.strip_prefix(b"#!") else { return Ok(None) };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let name = rest.split(blank).find(|word| !word.is_empty());
    let name = name.map(OsStr::from_bytes).filter(|name| fs::metadata(name).is_err());
    Ok(name.map(OsStr::to_owned))
}

/// The command line. No shell reads it: a name with a space is a name with a space.
///
/// `runuser` is AWS's `su` without a login session of its own, in which the script would leave its
/// control group. A user without a shell will do.
fn words(path: &Path, script: &Script) -> Vec<OsString> {
    let me = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    // Only root may become somebody, and only root needs to become itself: for the environment.
    let other = (script.runas.as_ref())
        .filter(|user| script.sudo || geteuid().is_root() || Some(*user) != me.as_ref());
    let mut words = Vec::<OsString>::new();
    if script.sudo {
        words.extend(["sudo", "--"].map(Into::into));
    }
    if let Some(user) = other {
        words.extend(["runuser", "-u", user, "--"].map(Into::into));
    }
    words.push(path.into());
    words
}

/// All that this process has, and what AWS's agent sets. What tells of this service stays here.
fn environment(event: &Event, script: &Script, context: &Context) -> Vec<(OsString, OsString)> {
    let mut set: Vec<(OsString, OsString)> = [
        ("LIFECYCLE_EVENT", event.to_string()),
        ("DEPLOYMENT_ID", context.deployment.to_string()),
        ("APPLICATION_NAME", context.application.clone()),
        ("DEPLOYMENT_GROUP_NAME", context.group_name.clone()),
        ("DEPLOYMENT_GROUP_ID", context.group.to_string()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into();
    if let Some(Bundle { version, etag }) = &context.bundle {
        set.push(("BUNDLE_VERSION".into(), version.to_string().into()));
        set.push(("BUNDLE_ETAG".into(), etag.to_string().into()));
    }
    // `runuser -u` sets the others.
    let user = script.runas.as_ref().and_then(|user| User::from_name(user).ok().flatten());
    set.extend(user.map(|user| ("SHELL".into(), user.shell.into())));
    let inherited = std::env::vars_os().filter(|(name, _)| {
        OF_THIS_SERVICE.iter().all(|own| *name != **own) && set.iter().all(|(set, _)| set != name)
    });
    let mut all: Vec<_> = inherited.collect();
    all.extend(set);
    all
}

/// Ends the script that is on record, with all that belongs to it, if it still runs.
pub(crate) fn end_left_over(record: &Path, log: &ScriptLog) -> io::Result<()> {
    let text = match fs::read_to_string(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if Units::are_named_by(&text) {
        log.line("a script that the last swell-exec has left running is ended");
        Units::end(&text)?;
    } else if let Some(group) = Leader::of_record(&text).and_then(|leader| leader.group()) {
        log.line("a script that the last swell-exec has left running is ended");
        end_group(group, &text);
    }
    // A unit forgets its script itself when that has ended.
    forget(record)
}

fn end_group(group: Pid, record: &str) {
    killpg(group, Signal::SIGTERM).ok();
    let until = Instant::now() + HOOK_KILL_GRACE;
    while Leader::of_record(record).is_some() && Instant::now() < until {
        thread::sleep(POLL_EVERY);
    }
    killpg(group, Signal::SIGKILL).ok();
    // To begin again beside it would be worse than to wait.
    while Leader::of_record(record).is_some() {
        thread::sleep(POLL_EVERY);
    }
}

/// What systemd tells this service about itself, and how the unit keeps its memory small. A script, and
/// what it starts, are not this service.
const OF_THIS_SERVICE: [&str; 13] = [
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "SYSTEMD_EXEC_PID",
];
/// The kernel reads no more of the line that names an interpreter.
const FIRST_LINE_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
        time::Duration,
    };

    use groundswell_protocol::{
        execute::LifecycleEvent,
        ids::{DeploymentId, Digest},
    };

    use super::*;
    use crate::{logs::Places, script::GATE, shown::shown_by_root};

    /// The plain runner, and on a machine that runs systemd, where this variable names a `swell-exec`
    /// that PID 1 can start, the one with units: every case must be the same in both.
    const KEEPER: &str = "GROUNDSWELL_TEST_KEEPER";

    fn runners(dir: &Path) -> Vec<Option<Arc<Units>>> {
        let program = std::env::var_os(KEEPER).map(PathBuf::from);
        let units = program.map(|program| {
            assert!(Units::are_possible());
            Some(Arc::new(Units::new(program, dir.join("sockets")).unwrap()))
        });
        [None].into_iter().chain(units).collect()
    }

    struct Tried {
        result: Result<(), HookFailed>,
        log: String,
        /// The log file, byte for byte.
        file: Vec<u8>,
        took: Duration,
    }

    impl Tried {
        fn failed(&self) -> &HookFailed {
            self.result.as_ref().unwrap_err()
        }
    }

    fn places(dir: &Path) -> Places {
        let deployment = DeploymentId::of(Digest::ZERO, false).into();
        Places { own: dir.join("scripts.log"), all: dir.join("all.log"), deployment }
    }

    fn script(timeout_seconds: u32) -> Script {
        Script { sudo: false, runas: None, location: "a script.sh".into(), timeout_seconds }
    }

    /// Runs a script with every runner.
    fn try_each(text: &[u8], mode: u32, script: &Script) -> Vec<Tried> {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join(&script.location);
        let mut tried = Vec::new();
        for units in runners(dir.path()) {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let log = ScriptLog::open(places(dir.path())).unwrap();
            let context = Context { record: dir.path().join("hook"), ..context(units) };
            let begun = Instant::now();
            let result =
                run(dir.path(), &LifecycleEvent::AfterInstall.into(), script, &context, &log);
            assert!(!context.record.exists(), "what has ended is not on record");
            let (log, took) = (log.tail(), begun.elapsed());
            let file = fs::read(dir.path().join("scripts.log")).unwrap();
            fs::remove_file(dir.path().join("scripts.log")).unwrap();
            tried.push(Tried { result, log, file, took });
        }
        tried
    }

    #[test]
    fn a_script_sees_its_deployment_and_is_logged() {
        let text = "#!/bin/sh\necho $LIFECYCLE_EVENT $APPLICATION_NAME $DEPLOYMENT_GROUP_NAME\n\
            echo $DEPLOYMENT_ID $DEPLOYMENT_GROUP_ID; pwd; echo oops >&2; umask\n";
        for tried in try_each(text.as_bytes(), 0o644, &script(10)) {
            let Tried { result, log, .. } = tried;
            result.unwrap();
            assert!(log.starts_with("Script - a script.sh\n"), "{log}");
            assert!(log.contains("[stdout]AfterInstall shop web\n"), "{log}");
            assert!(log.contains("[stdout]d-"), "{log}");
            // The two pipes are read by a thread each: what comes from one keeps its order, and no more.
            assert!(log.contains("[stdout]/\n") && log.contains("[stdout]0022\n"), "{log}");
            assert!(log.contains("[stderr]oops\n"), "{log}");
        }
    }

    #[test]
    fn a_script_has_the_environment_of_this_process_and_nothing_of_its_service() {
        let tried = try_each(b"#!/bin/sh\nenv | sort\ncat\n", 0o755, &script(10));
        let mut expected: Vec<String> = std::env::vars()
            .filter(|(name, value)| !OF_THIS_SERVICE.contains(&&**name) && !value.contains('\n'))
            .map(|(name, _)| name)
            .chain(AWS.map(Into::into))
            // What the shell adds.
            .chain(["PWD", "OLDPWD", "SHLVL", "_"].map(Into::into))
            .collect();
        expected.sort();
        for Tried { result, file, .. } in tried {
            result.unwrap();
            let text = String::from_utf8_lossy(&file);
            let names: Vec<&str> = (text.lines())
                .filter_map(|line| line.get(20..)?.strip_prefix("[stdout]")?.split_once('='))
                .map(|(name, _)| name)
                .collect();
            for name in &names {
                assert!(expected.iter().any(|known| known == name), "{name} is set");
            }
            for name in AWS {
                assert!(names.contains(&name), "{name} is not set: {text}");
            }
            for name in OF_THIS_SERVICE {
                assert!(!names.contains(&name), "{name} is handed on");
            }
        }
    }

    const AWS: [&str; 5] = [
        "APPLICATION_NAME",
        "DEPLOYMENT_GROUP_ID",
        "DEPLOYMENT_GROUP_NAME",
        "DEPLOYMENT_ID",
        "LIFECYCLE_EVENT",
    ];

    #[test]
    fn what_the_environment_says_of_a_deployment_is_overridden() {
        let mut set = environment(&LifecycleEvent::AfterInstall.into(), &script(1), &context(None));
        assert!(set.iter().any(|(name, _)| name == "PATH"));
        set.sort();
        let before = set.len();
        set.dedup_by(|one, other| one.0 == other.0);
        assert_eq!(set.len(), before, "a name is set twice");
    }

    #[test]
    fn users_and_sudo_have_four_forms() {
        let words = |sudo, runas: Option<&str>| {
            let runas = runas.map(Into::into);
            let script = Script { sudo, runas, ..script(1) };
            let words = words(Path::new("/a b"), &script);
            words.join(OsStr::new(" ")).into_string().unwrap()
        };
        assert_eq!(words(false, None), "/a b");
        assert_eq!(words(true, None), "sudo -- /a b");
        assert_eq!(words(false, Some("bob")), "runuser -u bob -- /a b");
        assert_eq!(words(true, Some("bob")), "sudo -- runuser -u bob -- /a b");
    }

    #[test]
    fn a_script_runs_as_the_user_that_it_names() {
        if !shown_by_root() {
            return;
        }
        let text = b"#!/bin/sh\nid -un; id -Gn; echo $USER $LOGNAME $SHELL $HOME; pwd; echo $DEPLOYMENT_ID\n";
        let script = Script { runas: Some("nobody".into()), ..script(10) };
        for Tried { result, log, .. } in try_each(text, 0o755, &script) {
            result.unwrap();
            assert!(
                log.contains("[stdout]nobody\n[stdout]nogroup\n[stdout]nobody nobody /"),
                "{log}"
            );
            assert!(log.contains("[stdout]/\n[stdout]d-"), "{log}");
        }
        for tried in try_each(b"#!/bin/sh\nexit 1\n", 0o755, &script) {
            let message = &tried.failed().message;
            assert!(message.ends_with("(run as user nobody) failed with exit code 1"), "{message}");
        }
        let nobody = Script { runas: Some("no-such-user".into()), ..script };
        for tried in try_each(text, 0o755, &nobody) {
            assert_eq!(tried.failed().code, FAILED);
            assert!(tried.failed().message.ends_with("exit code 1"), "{:?}", tried.failed());
            assert!(tried.log.contains("[stderr]runuser: user no-such-user"), "{}", tried.log);
        }
    }

    #[test]
    fn failures_have_the_agents_codes() {
        for (text, code, said) in [
            ("#!/bin/sh\nexit 42\n", FAILED, "failed with exit code 42"),
            ("#!/bin/sh\nkill -9 $$\n", FAILED, "signal 9"),
            ("#!/no/such/interpreter -x\n", FAILED, "there is no /no/such/interpreter (ENOENT)"),
            (
                "#!/bin/sh\r\nexit 0\r\n",
                FAILED,
                "there is no /bin/sh\\r (ENOENT); its lines end as",
            ),
        ] {
            for tried in try_each(text.as_bytes(), 0o755, &script(10)) {
                assert_eq!(tried.failed().code, code, "{text}");
                assert!(tried.failed().message.contains(said), "{:?}", tried.failed());
            }
        }
    }

    #[test]
    fn a_script_that_cannot_be_run_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(places(dir.path())).unwrap();
        let path = dir.path().join("a script.sh");
        let run = || {
            let event = &LifecycleEvent::AfterInstall.into();
            run(dir.path(), event, &script(10), &context(None), &log).unwrap_err()
        };
        let missing = run();
        assert_eq!(missing.code, MISSING);
        assert!(missing.message.contains(&path.display().to_string()), "{missing:?}");
        fs::create_dir(&path).unwrap();
        let directory = run();
        assert_eq!(directory.code, FAILED);
        assert!(directory.message.contains("EACCES"), "{directory:?}");
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(run().message.contains("it is a pipe"));
    }

    #[test]
    fn a_script_without_a_first_line_is_run_by_the_shell() {
        for Tried { result, log, .. } in try_each(b"echo hello\n", 0o755, &script(10)) {
            result.unwrap();
            assert!(log.contains("[stdout]hello"), "{log}");
        }
    }

    #[test]
    fn whatever_a_script_prints_is_in_its_log() {
        // What is no UTF-8; a line longer than any piece of it; a last line without an end.
        let long = "x".repeat(100_000);
        let text = format!(
            "#!/bin/sh\nprintf '\\377\\033[1m\\r\\n'\nprintf '{long}\\n'\nprintf end\nexit 1\n"
        );
        for Tried { result, log, file, .. } in try_each(text.as_bytes(), 0o755, &script(10)) {
            assert_eq!(result.unwrap_err().code, FAILED);
            let lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
            assert!(lines[1].ends_with(b"[stdout]\xff\x1b[1m\r"), "{:?}", lines[1]);
            assert_eq!(&lines[2][20..], format!("[stdout]{long}").as_bytes());
            assert!(lines[3].ends_with(b"[stdout]end"));
            assert!(log.ends_with("xxx\n[stdout]end\n") || log == "[stdout]end\n", "{log}");
        }
    }

    #[test]
    fn time_ends_the_whole_group() {
        let text = "#!/bin/sh\nsleep 60 & echo $!\nsleep 60 & echo $!\nwait\n";
        for Tried { result, log, took, .. } in try_each(text.as_bytes(), 0o755, &script(1)) {
            let failed = result.unwrap_err();
            assert_eq!(failed.code, TIMED_OUT);
            assert!(failed.message.ends_with("timed out after 1 seconds"), "{failed:?}");
            assert!(took < Duration::from_secs(10));
            assert!(log.contains("has not ended within 1 s"), "{log}");
            assert_eq!(gone(&log), 2);
        }
    }

    #[test]
    fn what_does_not_end_when_it_is_asked_to_is_ended_after_its_grace() {
        let text = "#!/bin/sh\ntrap '' TERM\n(while :; do sleep 60; done) & echo $!\n\
            while :; do sleep 60; done\n";
        for Tried { result, log, took, .. } in try_each(text.as_bytes(), 0o755, &script(1)) {
            assert_eq!(result.unwrap_err().code, TIMED_OUT);
            assert!(took > HOOK_KILL_GRACE && took < HOOK_KILL_GRACE * 3, "{took:?}");
            assert_eq!(gone(&log), 1);
        }
    }

    /// Checks that the processes whose numbers a script printed are gone.
    fn gone(log: &str) -> usize {
        let pids = log.lines().filter_map(|line| line.strip_prefix("[stdout]")?.parse().ok());
        pids.inspect(|pid: &u32| {
            let until = Instant::now() + Duration::from_secs(10);
            while Leader::of(*pid).is_some() {
                assert!(Instant::now() < until, "{pid} is still there");
                thread::sleep(POLL_EVERY);
            }
        })
        .count()
    }

    #[test]
    fn what_a_script_leaves_running_neither_holds_it_nor_changes_its_end() {
        for code in [0, 7] {
            // One that keeps the outputs open, and one that has neither.
            let text = format!(
                "#!/bin/sh\nsleep 20 & echo $!\nsleep 20 >/dev/null 2>&1 & echo $!\nexit {code}\n"
            );
            for Tried { result, log, took, .. } in try_each(text.as_bytes(), 0o755, &script(60)) {
                assert_eq!(result.is_ok(), code == 0, "{result:?}");
                assert!(took < Duration::from_secs(10));
                let pids: Vec<u32> = (log.lines())
                    .filter_map(|line| line.strip_prefix("[stdout]")?.parse().ok())
                    .collect();
                assert_eq!(pids.len(), 2);
                for pid in pids {
                    assert!(Leader::of(pid).is_some(), "{pid} was ended");
                    nix::sys::signal::kill(
                        Leader::of(pid).unwrap().group().unwrap(),
                        Signal::SIGKILL,
                    )
                    .unwrap();
                }
            }
        }
    }

    #[test]
    fn the_beginning_of_a_line_is_in_the_log_before_its_end_and_is_one_line_with_it() {
        let text = "#!/bin/sh\nprintf 'Go on? '\n\
            for i in $(seq 200); do\n  \
            grep -q 'stdout.Go on? $' \"${0%/*}/scripts.log\" && echo yes && exit\n  \
            sleep 0.05\ndone\nexit 1\n";
        for Tried { result, file, .. } in try_each(text.as_bytes(), 0o755, &script(60)) {
            assert!(result.is_ok(), "{result:?}");
            let text = String::from_utf8(file).unwrap();
            assert!(text.ends_with(" [stdout]Go on? yes\n"), "{text}");
        }
    }

    fn context(units: Option<Arc<Units>>) -> Context {
        Context {
            application: "shop".into(),
            group: GroupName::new("web").unwrap(),
            group_name: "web".into(),
            deployment: DeploymentId::of(Digest::ZERO, false).into(),
            bundle: None,
            record: "/nonexistent/hook".into(),
            units,
        }
    }

    fn task(words: &[&str]) -> Task {
        let words = words.iter().map(Into::into).collect();
        Task::new(words, std::env::vars_os().collect(), 60)
    }

    /// A script that runs on, as after the death of the process that started it.
    fn left_over(dir: &Path, text: &str) -> (Child, PathBuf) {
        let record = dir.join("hook");
        (task(&["/bin/sh", "-c", text]).start(&record).unwrap(), record)
    }

    #[test]
    fn a_script_that_was_left_running_is_ended_with_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(places(dir.path())).unwrap();
        let (mut child, record) = left_over(dir.path(), "sleep 60 & echo $!; wait");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let descendant: u32 = line.trim().parse().unwrap();
        assert!(Leader::of(descendant).is_some());
        end_left_over(&record, &log).unwrap();
        assert!(Leader::of(child.id()).is_none());
        let until = Instant::now() + Duration::from_secs(10);
        while Leader::of(descendant).is_some() {
            assert!(Instant::now() < until, "the group is still there");
            thread::sleep(POLL_EVERY);
        }
        child.wait().unwrap();
        assert!(!record.exists());
        end_left_over(&record, &log).unwrap();
    }

    #[test]
    fn another_process_with_the_number_on_record_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let log = ScriptLog::open(places(dir.path())).unwrap();
        let (mut child, record) = left_over(dir.path(), "sleep 60");
        let leader = Leader::of(child.id()).unwrap().to_string();
        let leader: Vec<&str> = leader.split(' ').collect();
        for other in [
            format!("{} 1 {}", leader[0], leader[2]),
            format!("{} {} another", leader[0], leader[1]),
        ] {
            fs::write(&record, other).unwrap();
            end_left_over(&record, &log).unwrap();
            assert!(Leader::of(child.id()).is_some());
        }
        fs::write(&record, "").unwrap();
        end_left_over(&record, &log).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_script_whose_executor_dies_before_it_is_on_record_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GATE, "test", "/usr/bin/touch"]).arg(&mark).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdin.take());
        assert!(!child.wait().unwrap().success());
        assert!(!mark.exists());
    }
}
